//! systemd, by its own programs: `systemd-run` and `systemctl`, with absolute paths, no environment and a deadline.
//!
//! No `--collect` (a collected failure reads as success), no `--wait`, no RemainAfterExit: a failed unit stays until it
//! is forgotten, so the launcher needs no state of its own. What fails is an error with the program, its verb and what it said.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::names::Run;
use crate::units::{AGENT_PREFIX, RUN_DESCRIPTION};
use crate::wire::{Activity, Outcome, UnitState};

/// systemd, to be asked until a point in time.
#[derive(Debug, Clone, Copy)]
pub struct Systemd(Instant);

impl Systemd {
    /// Everything that is asked is answered or given up within `patience`.
    pub fn within(patience: Duration) -> Self {
        Systemd(Instant::now() + patience)
    }

    fn ask<S: AsRef<str>>(&self, program: &str, arguments: &[S]) -> io::Result<String> {
        // A limit of 0 would be none.
        let left = self.0.saturating_duration_since(Instant::now());
        let limit = left.max(Duration::from_millis(10)).as_secs_f32().to_string();
        let (arguments, path) =
            (arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>(), format!("/usr/bin/{program}"));
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["--signal=KILL", &limit, &path]).args(&arguments);
        let output = command.env_clear().env("LC_ALL", "C").stdin(Stdio::null()).output()?;
        let verb = arguments.first().unwrap_or(&"");
        // What a unit that has ended well is to systemctl: not loaded (5). To stop it is no mistake.
        if output.status.success() || (output.status.code() == Some(5) && *verb == "stop") {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        let told = told.lines().next().unwrap_or("no reason given, or not in time");
        Err(io::Error::other(format!("{program} {verb}: {told} ({})", output.status)))
    }

    /// Starts a transient unit; returns when its program runs.
    ///
    /// # Errors
    /// When it does not come to run; [`Systemd::show`] then tells at which step.
    pub fn run(&self, arguments: &[String]) -> io::Result<()> {
        self.ask("systemd-run", arguments).map(drop)
    }

    /// Does to a unit what systemctl calls `verb`: `stop`, to its last process; `restart`, keeping its descriptor store;
    /// `reset-failed`, when it has failed. To stop one that is not there is no mistake.
    ///
    /// # Errors
    /// When it is not done in time.
    pub fn manage(&self, verb: &str, unit: &str) -> io::Result<()> {
        self.ask("systemctl", &[verb, "--no-ask-password", "--", unit]).map(drop)
    }

    /// What a unit does, or how it ended.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn show(&self, unit: &str) -> io::Result<UnitState> {
        let properties = "ActiveState,Result,ExecMainStatus,Description,User";
        self.ask("systemctl", &["show", "--property", properties, "--", unit]).map(|text| parse_show(&text))
    }

    /// How many agents are up or about to be.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn agents(&self) -> io::Result<u64> {
        let states = "--state=active,activating,deactivating,reloading";
        let pattern = format!("{AGENT_PREFIX}*.service");
        let list = ["list-units", "--plain", "--no-legend", "--full", states, "--", &pattern];
        Ok(self.ask("systemctl", &list)?.lines().count() as u64)
    }

    /// systemd's version, such as 252.
    ///
    /// # Errors
    /// When it does not say.
    pub fn version(&self) -> io::Result<u32> {
        let version = self.ask("systemctl", &["--version"])?;
        let number = version.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        number.ok_or_else(|| io::Error::other("systemctl --version: no version in its answer"))
    }
}

fn parse_show(text: &str) -> UnitState {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    UnitState {
        activity: match value("ActiveState") {
            "active" | "reloading" => Activity::Active,
            "activating" => Activity::Activating,
            "deactivating" => Activity::Deactivating,
            "failed" => Activity::Failed,
            _ => Activity::Inactive,
        },
        outcome: match value("Result") {
            "success" => Outcome::Success,
            "exit-code" => Outcome::ExitCode,
            "signal" | "core-dump" => Outcome::Signal,
            "timeout" | "watchdog" => Outcome::Timeout,
            "oom-kill" => Outcome::OutOfMemory,
            _ => Outcome::Other,
        },
        status: value("ExecMainStatus").parse().unwrap_or(0),
        run: value("Description").strip_prefix(RUN_DESCRIPTION).and_then(|run| Run::parse(run).ok()),
        uid: value("User").parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_state_of_a_unit_is_read_from_its_properties() {
        let text = "Result=signal\nExecMainStatus=9\nActiveState=failed\nUser=1879048193\n\
            Description=pi-gateway run 01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d\n";
        let state = parse_show(text);
        assert_eq!((state.activity, state.outcome, state.status), (Activity::Failed, Outcome::Signal, 9));
        assert_eq!(state.run.unwrap().as_str(), "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d");
        assert_eq!(state.uid, Some(1_879_048_193));
        let absent = parse_show("ActiveState=inactive\nResult=success\nDescription=x.service\nUser=\n");
        assert_eq!((absent.activity, absent.run, absent.uid), (Activity::Inactive, None, None));
    }
}
