//! systemd, by its own programs: `systemd-run` and `systemctl`, with absolute paths, no environment and a deadline.
//!
//! No `--collect` (a collected failure reads as success), no `--wait`, no RemainAfterExit: a failed unit stays until it
//! is forgotten, so the launcher needs no state of its own. What fails is a sentence that the caller
//! logs or shows.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Output, Stdio};

use crate::names::Run;
use crate::wire::{Activity, Outcome, UnitState};

/// Ends a program that takes longer than 9 s; a request has 10.
const TIMEOUT: [&str; 3] = ["/usr/bin/timeout", "--kill-after=0.5", "9"];

fn ask(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Output, String> {
    let mut command = Command::new(TIMEOUT[0]);
    command.args(&TIMEOUT[1..]).arg(program).args(arguments).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    command.output().map_err(|error| format!("{program}: {error}"))
}

fn systemctl(arguments: &[&str]) -> Result<Output, String> {
    ask("/usr/bin/systemctl", arguments)
}

fn succeed(output: &Output, what: &str) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {} ({})", told.lines().next().unwrap_or("no reason given"), output.status))
}

/// Starts a transient unit; returns when its program runs.
///
/// # Errors
/// When it does not come to run; [`show`] then tells at which step.
pub fn run(arguments: &[String]) -> Result<(), String> {
    succeed(&ask("/usr/bin/systemd-run", arguments)?, "systemd-run")
}

/// Stops a unit to its last process; one that is not there is stopped.
///
/// # Errors
/// When it is not gone in time.
pub fn stop(unit: &str) -> Result<(), String> {
    let output = systemctl(&["--no-ask-password", "stop", "--", unit])?;
    // "not loaded" (5) is what a unit that has ended well is.
    if output.status.code() == Some(5) { Ok(()) } else { succeed(&output, "systemctl stop") }
}

/// Restarts a unit; its descriptor store is kept.
///
/// # Errors
/// When it does not come up again.
pub fn restart(unit: &str) -> Result<(), String> {
    succeed(&systemctl(&["--no-ask-password", "restart", "--", unit])?, "systemctl restart")
}

/// Forgets that a unit has failed.
pub fn reset_failed(unit: &str) -> Result<(), String> {
    // Fails for a unit that is not there, which is what is wanted.
    systemctl(&["--no-ask-password", "reset-failed", "--", unit]).map(drop)
}

/// What a unit does, and the second since the epoch in which its program was started.
///
/// # Errors
/// When systemd does not answer.
pub fn show(unit: &str) -> Result<(UnitState, u64), String> {
    let properties = "ActiveState,Result,ExecMainStatus,Description,User,ExecMainStartTimestamp";
    let output = systemctl(&["show", "--timestamp=unix", "--property", properties, "--", unit])?;
    succeed(&output, "systemctl show")?;
    Ok(parse_show(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_show(text: &str) -> (UnitState, u64) {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    let state = UnitState {
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
        run: value("Description").strip_prefix(crate::units::RUN_DESCRIPTION).and_then(|run| Run::parse(run).ok()),
        uid: value("User").parse().ok(),
    };
    let started = value("ExecMainStartTimestamp").trim_start_matches('@').parse().unwrap_or(0);
    (state, started)
}

/// How many agents have a cgroup: those that are up, or about to be or to end. On a hybrid machine the unified hierarchy
/// is a directory of its own.
pub fn agents() -> usize {
    let slices = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|root| format!("{root}/pi.slice/pi-gateway.slice"));
    let entries = slices.iter().filter_map(|slice| fs::read_dir(slice).ok()).flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(crate::units::AGENT_PREFIX)).count()
}

/// systemd's version, such as 252.
///
/// # Errors
/// When it does not say.
pub fn version() -> Result<u32, String> {
    let output = systemctl(&["--version"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    version.ok_or_else(|| "systemctl --version: no version in its answer".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_state_of_a_unit_is_read_from_its_properties() {
        let text = "Result=signal\nExecMainStatus=9\nActiveState=failed\nUser=1879048193\nExecMainStartTimestamp=@1795395423\n\
            Description=pi-gateway run 01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d\n";
        let (state, started) = parse_show(text);
        assert_eq!((state.activity, state.outcome, state.status), (Activity::Failed, Outcome::Signal, 9));
        assert_eq!(state.run.unwrap().as_str(), "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d");
        assert_eq!((state.uid, started), (Some(1_879_048_193), 1_795_395_423));
        let (absent, _) = parse_show("ActiveState=inactive\nResult=success\nDescription=x.service\nUser=\n");
        assert_eq!((absent.activity, absent.run, absent.uid), (Activity::Inactive, None, None));
    }
}
