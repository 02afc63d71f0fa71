//! What a run needs of the launcher: its sandbox started, asked about, and removed.
//!
//! The launcher may be restarting at any of these moments, so each is tried again for a bounded time.

use std::time::Duration;

use pi_gateway_helper::names::{Run as RunName, User};
use pi_gateway_helper::wire::{Activity, Refusal, Step, Unit, UnitState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Services;
use super::record::Verdict;
use super::verdict;
use super::wake::UnitCgroup;
use crate::launcher::LauncherError;

/// How long the start of a sandbox is tried: a restart of the launcher takes less.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long it is tried while others are started: as many as there may be runs, one after the other.
const TURN_PATIENCE: Duration = Duration::from_secs(90);
/// The first wait before another try; it doubles up to a second.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// How much of an agent's standard error goes into the log, in bytes.
const MAX_STDERR: usize = 2048;

/// The unit of a user's agent. The launcher makes the same name; a test compares.
pub fn unit_name(user: &User) -> String {
    format!("pi-gateway-agent-{}.service", user.as_str())
}

/// What `ensure` found or made.
pub enum Ensured {
    /// The sandbox is up; the uid in it.
    Started(u32),
    /// It was there before and is not any more.
    Gone,
}

fn name(run: Uuid) -> Result<RunName, Verdict> {
    RunName::parse(&run.to_string())
        .map_err(|error| Verdict::failed("internal", format!("the run's id is not a name: {error}")))
}

/// Makes sure that the run's sandbox is up. One that is `known` to have been started is never started again: what it
/// was asked may have been done. Between two tries a cancel ends it.
pub async fn ensure(
    services: &Services,
    user: &User,
    run: Uuid,
    known: bool,
    cancel: &mut watch::Receiver<bool>,
) -> Result<Ensured, Verdict> {
    let run = name(run)?;
    if known {
        let state = status(services, user).await;
        let ours = state.as_ref().filter(|state| state.run.as_ref() == Some(&run));
        let up = ours.filter(|state| matches!(state.activity, Activity::Active | Activity::Activating));
        return Ok(up.and_then(|state| state.uid).map_or(Ensured::Gone, Ensured::Started));
    }
    let (mut retry, mut turns) = (Retry::new(START_PATIENCE), Retry::new(TURN_PATIENCE));
    loop {
        let mut retry = &mut retry;
        let error = match services.launcher.start_agent(user, &run).await {
            Ok(uid) => return Ok(Ensured::Started(uid)),
            // What an earlier run left, whose end the front did not live to see.
            Err(LauncherError::Refused(Refusal::Busy(_))) => {
                let _ = services.launcher.stop(Unit::Agent(user.clone())).await;
                Verdict::failed("agent_busy", "the sandbox of an earlier run could not be stopped")
            }
            Err(error @ LauncherError::Refused(Refusal::Full(_))) => Verdict::failed("at_capacity", error.to_string()),
            // Many start at once, and nothing was done for this one.
            Err(error @ LauncherError::Refused(Refusal::Failed(Step::WaitForTurn))) => {
                retry = &mut turns;
                Verdict::failed("sandbox_failed", error.to_string())
            }
            Err(error @ LauncherError::Refused(_)) => {
                return Err(Verdict::failed("sandbox_failed", error.to_string()));
            }
            Err(error) => Verdict::failed("launcher_unavailable", error.to_string()),
        };
        tokio::select! {
            more = retry.wait() => if !more { return Err(error) },
            Ok(_) = cancel.wait_for(|cancelled| *cancelled) => return Err(Verdict::cancelled()),
        }
    }
}

async fn status(services: &Services, user: &User) -> Option<UnitState> {
    let mut retry = Retry::new(START_PATIENCE);
    loop {
        match services.launcher.status(Unit::Agent(user.clone())).await {
            Ok(state) => return Some(state),
            Err(error) if !retry.wait().await => {
                tracing::error!(user = user.as_str(), %error, "the state of the agent is unknown");
                return None;
            }
            Err(_) => {}
        }
    }
}

/// Why a sandbox without a process has ended; None when it has not even begun: systemd makes the cgroup before the first
/// process, and a launcher that was restarted in between calls that started. systemd needs some milliseconds after the
/// last process to know of the end.
pub async fn end_of(services: &Services, user: &User, run: Uuid, cgroup: &UnitCgroup) -> Option<Verdict> {
    let name = match name(run) {
        Ok(name) => name,
        Err(verdict) => return Some(verdict),
    };
    let mut retry = Retry::new(Duration::from_secs(5));
    loop {
        let Some(state) = status(services, user).await else {
            return Some(verdict::interrupted("the agent has ended and the launcher could not say why"));
        };
        if cgroup.is_populated() && state.run.as_ref() == Some(&name) {
            return None;
        }
        let over = matches!(state.activity, Activity::Failed | Activity::Inactive);
        if over && state.activity == Activity::Failed && state.run.as_ref().is_some_and(|other| *other != name) {
            return Some(verdict::interrupted("the agent's sandbox was replaced by another run's"));
        }
        if over || !retry.wait().await {
            return Some(verdict::of_unit(&state, &tell_operator(services, run)));
        }
    }
}

/// Puts the end of what the agent wrote to its standard error into the log: enter's reason for not starting it, or a
/// stack of pi's; gives it. It is the agent's text, so it goes nowhere else and chooses only among codes of its own run.
fn tell_operator(services: &Services, run: Uuid) -> String {
    use std::os::unix::fs::FileExt;
    let path = services.raw_dir(run).join("err");
    let mut tail = vec![0; MAX_STDERR];
    let read = std::fs::File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        file.read_at(&mut tail, length.saturating_sub(MAX_STDERR as u64))
    });
    tail.truncate(read.unwrap_or(0));
    let stderr = String::from_utf8_lossy(&tail).into_owned();
    if !stderr.is_empty() {
        tracing::warn!(%run, %stderr, "the agent ended before its run");
    }
    stderr
}

/// Stops the sandbox to its last process and removes what the launcher keeps of the run. Gives up when the finalization
/// time is over; the next start of this user's agent stops what is left.
pub async fn remove(services: &Services, user: &User, run: Uuid) {
    let Ok(name) = name(run) else { return };
    let mut retry = Retry::new(services.finalization_timeout);
    loop {
        let stopped = services.launcher.stop(Unit::Agent(user.clone())).await;
        let forgotten = match stopped {
            Ok(()) => services.launcher.forget(user, &name).await,
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(run = name.as_str(), %error, "the sandbox could not be removed yet");
                if !retry.wait().await {
                    tracing::error!(run = name.as_str(), %error, "the sandbox could not be removed");
                    return;
                }
            }
        }
    }
}

/// Waits that double from 20 ms to 1 s until a time is over.
struct Retry {
    until: Instant,
    next: Duration,
}

impl Retry {
    fn new(patience: Duration) -> Self {
        Retry { until: Instant::now() + patience, next: FIRST_RETRY }
    }

    /// Waits; false when the time is over.
    async fn wait(&mut self) -> bool {
        if Instant::now() + self.next >= self.until {
            return false;
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(1));
        true
    }
}
