//! One job of a git worker: started by the launcher, asked once, listened to, and stopped to its last process.
//!
//! The worker runs as the user, whose agent of a later run can stop or kill it: silence and an early end are ordinary.

use std::time::Duration;

use pi_gateway_helper::names::{Run, User};
use pi_gateway_helper::wire::{Refusal, Step, Unit};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::closer::{self, Handed};
use crate::launcher::{Launcher, LauncherError};
use crate::worker::git::message::{Failure, Job as Asked, Report};
use crate::worker::message::{decode, encode};
use crate::worker::packet;
use crate::workspace::door::Door;

/// How long the start of a worker may take, with all tries.
const START: Duration = Duration::from_secs(20);
/// How long a started worker may take to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// A job that is going on.
pub struct Job {
    user: User,
    launcher: Launcher,
    socket: AsyncFd<Handed>,
}

impl Job {
    /// Has a worker started and tells it what to do.
    ///
    /// # Errors
    /// When there is no worker in time.
    pub async fn begin(
        launcher: &Launcher,
        door: &Door,
        user: &User,
        asked: Asked,
        until: Instant,
    ) -> Result<Self, Failure> {
        let broken =
            |what: &dyn std::fmt::Display| Failure::new("git_unavailable", format_args!("the git worker: {what}"));
        let run = Run::parse(&uuid::Uuid::now_v7().to_string()).map_err(|error| broken(&error))?;
        let until = until.min(Instant::now() + START);
        let mut pause = Duration::from_millis(20);
        let uid = loop {
            match launcher.start_git(user, &run).await {
                Ok(uid) => break uid,
                // An older job's unit is about to end, or was left by an earlier front.
                Err(LauncherError::Refused(Refusal::Busy(_))) => {
                    let _ = launcher.stop(Unit::Git(user.clone())).await;
                }
                Err(LauncherError::Refused(Refusal::Failed(Step::WaitForTurn))) => {}
                Err(error @ LauncherError::Refused(_)) => return Err(broken(&error)),
                Err(error) if Instant::now() + pause >= until => return Err(broken(&error)),
                Err(_) => {}
            }
            if Instant::now() + pause >= until {
                return Err(broken(&"it could not be started in time"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        };
        let connected = timeout_at(Instant::now() + CONNECT, door.arrival_of(uid)).await;
        let socket = match connected.map(crate::relay::watch::watch_handed) {
            Ok(Ok(socket)) => socket,
            _ => {
                let _ = launcher.stop(Unit::Git(user.clone())).await;
                door.forget(uid);
                return Err(broken(&"it was started and does not connect; see `journalctl -u 'pi-gateway-git-*'`"));
            }
        };
        let job = Job { user: user.clone(), launcher: launcher.clone(), socket };
        let sent = encode(&asked).and_then(|packet| packet::send(job.socket.get_ref(), &packet, None));
        match sent {
            Ok(()) => Ok(job),
            Err(error) => {
                job.end().await;
                Err(broken(&error))
            }
        }
    }

    /// Waits for the next report.
    ///
    /// # Errors
    /// The worker's own failure, or that it has ended or is late.
    pub async fn report(&mut self, until: Instant) -> Result<Report, Failure> {
        let receive = async {
            loop {
                let mut ready = self.socket.readable().await?;
                if let Ok(packet) = ready.try_io(|socket| packet::receive(socket.get_ref())) {
                    return packet;
                }
            }
        };
        let packet = match timeout_at(until, receive).await {
            Err(_) => {
                return Err(Failure::new("git_timeout", "git did not end in time (WORKSPACE_FINALIZATION_TIMEOUT_MS)"));
            }
            Ok(Ok(Some((packet, surplus)))) => {
                closer::close(surplus.into_iter().collect(), ());
                packet
            }
            Ok(Ok(None) | Err(_)) => return Err(Failure::new("git_failed", "the git worker ended before its work")),
        };
        match decode(&packet) {
            Ok(Report::Failed(failure)) => Err(clean(failure)),
            Ok(report) => Ok(report),
            Err(error) => Err(Failure::new("git_failed", error)),
        }
    }

    /// Ends it, whatever it does.
    pub async fn end(self) {
        if let Err(error) = self.launcher.stop(Unit::Git(self.user.clone())).await {
            tracing::warn!(user = self.user.as_str(), %error, "the git worker could not be stopped");
        }
    }
}

/// A worker's words are the user's agent's at worst: a code is a word, a message a line.
pub fn clean(failure: Failure) -> Failure {
    let is_word = |code: &str| code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let code = if is_word(&failure.code) { failure.code.as_str() } else { "git_failed" };
    let message: String = failure.message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    Failure::new(code, message)
}

/// A report that is not one to the task.
pub fn unexpected(_report: &Report) -> Failure {
    Failure::new("git_failed", "the git worker reports something else than was asked for")
}
