//! A program of ours as a user, in a unit of its own with the properties of his worker: the sandbox in which his files are
//! touched anyway. It has no socket of the front's; it talks to the command by pipes, never to the terminal.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use pi_gateway_helper::files::user_directory;
use pi_gateway_helper::names::User;
use pi_gateway_helper::settings::Settings;
use pi_gateway_helper::systemd::Systemd;
use pi_gateway_helper::uids;
use pi_gateway_helper::units::{self, USERS_DIR};
use pi_gateway_helper::wire::Unit;

use super::Ground;
use crate::config::project;
use crate::config::variables::Reader;

/// The worker's program.
const WORKER: &str = "/usr/lib/pi-gateway/pi-gateway-worker";
/// What the worker alone needs: the front's socket.
const SOCKET: &str = "--property=BindReadOnlyPaths=/run/pi-gateway/worker:/run/worker";
/// The longest that one may take, whose user has nothing else under way.
const LIMIT: &str = "--property=RuntimeMaxSec=6h";
/// The same of one beside the user's agent, who can stop whatever runs as him.
const BRIEF: &str = "--property=RuntimeMaxSec=60s";
/// What is done beside the user's agent.
pub const MEASURE: &str = "measure";
/// How much of what one says beside its result is read, in bytes.
const MAX_TOLD: u64 = 64 << 10;
/// systemd answers within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directories of users' names, for systemd.
pub const USERDB: &str = "/run/userdb";

/// A user's sandbox.
pub struct Confined {
    argv: Vec<String>,
}

/// The arguments of systemd-run for one thing to do, made of those of the user's worker: another name, another program,
/// pipes, and no socket. A colon is in no user's name, so the unit is nobody's worker.
fn arguments(worker: Vec<String>, user: &User, what: &str) -> Vec<String> {
    // One that outlives a command that was killed is not in the way of the next.
    let own = format!("--unit=pi-gateway-worker-{}:{what}-{}.service", user.as_str(), std::process::id());
    let properties = worker.into_iter().take_while(|argument| argument != "--").filter(|argument| argument != SOCKET);
    let renamed = properties.map(|argument| match argument.split_once('=') {
        Some(("--unit", _)) => own.clone(),
        Some(("--description", _)) => format!("--description=pi-gateway users: {what}"),
        _ => argument,
    });
    let limit = if what == MEASURE { BRIEF } else { LIMIT };
    let more = ["--pipe", "--wait", "--collect", limit, "--", WORKER, what].map(str::to_owned);
    renamed.chain(more).collect()
}

impl Confined {
    /// The sandbox of a user; his directories are made if they are not there.
    ///
    /// # Errors
    /// When systemd does not answer or the disk refuses.
    pub fn open(ground: &Ground, user: &User, uid: u32) -> Result<Self, String> {
        for parent in ground.parents() {
            user_directory(parent, user, uid).map_err(|error| format!("{}: {error}", parent.display()))?;
        }
        let names = Path::new(USERS_DIR).join(user.as_str());
        uids::publish(Path::new(USERDB), &names, uid).map_err(|error| format!("{}: {error}", names.display()))?;
        let settings = Settings::new(&project::text(&ground.values, Reader::Launcher))?;
        let version = Systemd::within(PATIENCE).version().map_err(|error| error.to_string())?;
        Ok(Confined { argv: units::argv(&settings, version, user, uid, &Unit::Worker(user.clone()), None) })
    }

    /// Begins to do something.
    ///
    /// # Errors
    /// When systemd-run cannot be started.
    pub fn begin(&self, user: &User, what: &'static str) -> Result<Task, String> {
        let mut command = Command::new("/usr/bin/systemd-run");
        command.args(arguments(self.argv.clone(), user, what)).env_clear().env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("systemd-run: {error}"))?;
        let mut errors = child.stderr.take();
        let told = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(errors) = &mut errors {
                let _ = errors.by_ref().take(MAX_TOLD).read_to_end(&mut text);
                // What is beyond the limit is of no interest, and nobody shall wait for a full pipe.
                let _ = std::io::copy(errors, &mut std::io::sink());
            }
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok(Task { what, out: child.stdout.take(), child, told })
    }

    /// Does something; gives what it printed.
    ///
    /// # Errors
    /// What it said instead.
    pub fn run(&self, user: &User, what: &'static str) -> Result<String, String> {
        let mut task = self.begin(user, what)?;
        let mut text = String::new();
        if let Some(out) = task.out.take() {
            out.take(MAX_TOLD).read_to_string(&mut text).map_err(|error| format!("{what}: {error}"))?;
        }
        task.end()?;
        Ok(text)
    }
}

/// Something that is being done.
pub struct Task {
    what: &'static str,
    child: Child,
    /// What it prints.
    pub out: Option<ChildStdout>,
    told: std::thread::JoinHandle<String>,
}

impl Task {
    /// Waits for its end; gives what it said beside its result.
    ///
    /// # Errors
    /// That it failed, with what it said.
    pub fn end(mut self) -> Result<String, String> {
        drop(self.out.take());
        let status = self.child.wait().map_err(|error| format!("{}: {error}", self.what))?;
        let told = self.told.join().unwrap_or_default();
        if status.success() {
            return Ok(told);
        }
        let why = if told.is_empty() { "it said nothing; see `journalctl -b -u 'pi-gateway-worker-*'`" } else { &told };
        Err(format!("{} in the user's sandbox: {status}: {why}", self.what))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_the_workers_unit_but_for_name_program_and_socket() {
        let user = User::parse("alice").unwrap();
        let golden = include_str!("../../helper/tests/golden/worker-252.argv");
        let worker: Vec<String> = golden.lines().map(str::to_owned).collect();
        let made = arguments(worker.clone(), &user, "measure");
        let own = format!("--unit=pi-gateway-worker-alice:measure-{}.service", std::process::id());
        let changed: Vec<&String> = made.iter().filter(|argument| !worker.contains(argument)).collect();
        assert_eq!(
            changed,
            [
                own.as_str(),
                "--description=pi-gateway users: measure",
                "--pipe",
                "--wait",
                "--collect",
                BRIEF,
                "measure"
            ]
        );
        let left: Vec<&String> = worker.iter().filter(|argument| !made.contains(argument)).collect();
        assert_eq!(
            left,
            ["--unit=pi-gateway-worker-alice.service", "--description=pi-gateway worker", SOCKET, "files"]
        );
        assert!(made.ends_with(&["--".to_owned(), WORKER.to_owned(), "measure".to_owned()]));
    }
}
