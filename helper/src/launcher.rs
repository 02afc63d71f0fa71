//! The launcher: one socket, one peer, four requests.
//!
//! Sixteen threads take connections; each reads one request, answers it and closes. A frame that is no request is not
//! answered; a request that cannot be done is answered with the reason. Reading and doing have 10 s each. Starts wait for
//! each other, so that the limit of agents holds; stops and questions wait for nobody. Nothing is remembered but the
//! registry.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::files;
use crate::names::{Run, User};
use crate::settings::Settings;
use crate::systemd::Systemd;
use crate::uids::{self, Registry};
use crate::units;
use crate::wire::{self, Activity, Refusal, Reply, Request, Step, Unit};

/// Connections that are served at the same time; a further one waits in the socket's queue.
const THREADS: usize = 16;
/// Threads that may wait for a start at the same time; the others are left for stops and questions.
const WAITING: usize = THREADS / 2;
/// How long a peer may take for its request, and the launcher for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a start waits for the others; the rest of its time is its own, and the front tries again.
const TURN: Duration = Duration::from_secs(2);
/// How often a thread looks whether its turn has come.
const POLL: Duration = Duration::from_millis(10);
/// How often the watchdog is told; its period is 30 s.
const TICK: Duration = Duration::from_secs(10);

/// What the requests work with.
pub struct Launcher {
    /// The checked configuration.
    pub settings: Settings,
    /// systemd's version.
    pub version: u32,
    /// Who is which uid.
    pub registry: Registry,
    /// uid and gid of the front: the only peer.
    pub front: (u32, u32),
    /// Held while an agent is started, or what is kept of one is removed.
    pub starting: Mutex<()>,
    /// How many threads want to hold it.
    pub waiting: AtomicUsize,
}

/// A connection that ends at a point in time, however its bytes trickle in.
struct Ending<'a>(&'a UnixStream, Instant);

impl Read for Ending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        // A time-out of 0 would be none, and is refused.
        self.0.set_read_timeout(Some(left))?;
        self.0.read(buffer)
    }
}

impl Launcher {
    /// Serves for ever.
    ///
    /// # Errors
    /// When there are no threads, or systemd cannot be told that the launcher lives.
    pub fn serve(&self, listener: &UnixListener) -> io::Result<()> {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                std::thread::Builder::new().spawn_scoped(scope, || self.take_connections(listener))?;
            }
            loop {
                sd_notify::notify(&[NotifyState::Watchdog])?;
                std::thread::sleep(TICK);
            }
        })
    }

    fn take_connections(&self, listener: &UnixListener) {
        loop {
            // What stops one connection from being taken, such as a full table of files, stops the next as well.
            let taken = listener.accept().inspect_err(|_| std::thread::sleep(PATIENCE / 10));
            if let Err(error) = taken.and_then(|(stream, _)| self.converse(&stream)) {
                warn!(%error, "connection ended");
            }
        }
    }

    fn converse(&self, mut stream: &UnixStream) -> io::Result<()> {
        let peer = getsockopt(stream, PeerCredentials)?.uid();
        if peer != self.front.0 {
            return Err(io::Error::other(format!("uid {peer} is not the front")));
        }
        let request: Request = wire::read(Ending(stream, Instant::now() + PATIENCE))?;
        let reply = self.answer(&request, Systemd::within(PATIENCE)).unwrap_or_else(Reply::Refused);
        // Names, numbers and states only: requests and replies hold nothing else.
        info!(?request, ?reply, "request");
        // One small frame into an empty buffer: it does not wait for the peer.
        stream.write_all(&wire::encode(&reply)?)
    }

    fn answer(&self, request: &Request, systemd: Systemd) -> Result<Reply, Refusal> {
        let asking = failed(Step::AskSystemd);
        match request {
            Request::StartAgent(user, run) => self.start_agent(systemd, user, run).map(Reply::Started),
            Request::Stop(Unit::ModelRelay) => Err(Refusal::NotYours),
            Request::Stop(unit) => systemd.manage("stop", &units::name(unit)).map(|()| Reply::Stopped).map_err(asking),
            Request::Status(unit) => {
                systemd.show(&units::name(unit)).map(|(state, _)| Reply::State(state)).map_err(asking)
            }
            Request::Forget(user, run) => {
                let _turn = self.turn(TURN)?;
                forget(systemd, user, run).map(|()| Reply::Forgotten)
            }
        }
    }

    /// Waits until no start is under way, for a bounded time and with half of the threads at most.
    fn turn(&self, patience: Duration) -> Result<MutexGuard<'_, ()>, Refusal> {
        let until = Instant::now() + patience;
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.starting.try_lock();
        while turn.is_err() && waiting < WAITING && Instant::now() < until {
            std::thread::sleep(POLL);
            turn = self.starting.try_lock();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        turn.map_err(|_| Refusal::Failed(Step::WaitForTurn))
    }

    /// Starts an agent. The numbers are those of docs/protocol.md, "The order of a start".
    fn start_agent(&self, systemd: Systemd, user: &User, run: &Run) -> Result<u32, Refusal> {
        let _turn = self.turn(TURN)?;
        let (unit, asking) = (units::agent(user), failed(Step::AskSystemd));
        // 1. An agent that is up for this run is what was asked for; one for another run is in the way.
        let (state, _) = systemd.show(&unit).map_err(&asking)?;
        match state.activity {
            Activity::Active | Activity::Activating if state.run.as_ref() == Some(run) => {
                return state.uid.ok_or(Refusal::Failed(Step::AskSystemd));
            }
            Activity::Inactive => {}
            Activity::Failed => systemd.manage("reset-failed", &unit).map_err(&asking)?,
            _ => return Err(Refusal::Busy(state.run)),
        }
        // 2. The machine's limit.
        let limit = self.settings.number("MAX_CONCURRENT_RUNS");
        if systemd.agents().map_err(&asking)? >= limit {
            return Err(Refusal::Full(limit));
        }
        // 3. The user's uid, on disk before anything belongs to it.
        let uid = self.registry.assign(user).map_err(failed(Step::AssignUid))?;
        // 4. The uid's name, for systemd and inside the sandbox.
        let sandbox = Path::new(units::USERS_DIR).join(user.as_str());
        uids::publish(Path::new("/run/userdb"), &sandbox, uid).map_err(failed(Step::PublishName))?;
        // 5. Workspace and session.
        for parent in ["BASE_WORKDIR", "SESSION_DIR"].map(|name| Path::new(self.settings.get(name))) {
            files::user_directory(parent, user, uid).map_err(failed(Step::UserDirectories))?;
        }
        // 6. Input and output. The FIFO is held open, or systemd would wait for its writer.
        let fifo = files::make_run(&run_directory(run), uid, self.front).map_err(failed(Step::RunFiles))?;
        // 7. The unit. From here on enter and pi hold the FIFO themselves.
        let arguments = units::agent_arguments(&self.settings, self.version, user, uid, run);
        let started = systemd.run(&arguments);
        drop(fifo);
        let Err(told) = started else { return Ok(uid) };
        // 8. A start that failed leaves nothing but its reason in the log, and has time of its own for that.
        let systemd = Systemd::within(PATIENCE);
        let status = systemd.show(&unit).map_err(&asking)?.0.status;
        error!(unit, status, %told, "the agent could not be started");
        systemd.manage("stop", &unit).map_err(&asking)?;
        forget(systemd, user, run)?;
        Err(Refusal::StartFailed(status))
    }
}

fn run_directory(run: &Run) -> PathBuf {
    Path::new(units::RAW_DIR).join(run.as_str())
}

fn forget(systemd: Systemd, user: &User, run: &Run) -> Result<(), Refusal> {
    let (unit, asking) = (units::agent(user), failed(Step::AskSystemd));
    let (state, _) = systemd.show(&unit).map_err(&asking)?;
    // The user's next run may be up, or have ended, already: that is not forgotten, and this run's files are nobody's.
    match state.activity {
        _ if state.run.as_ref() != Some(run) => {}
        Activity::Inactive => {}
        Activity::Failed => systemd.manage("reset-failed", &unit).map_err(&asking)?,
        _ => return Err(Refusal::Busy(state.run)),
    }
    files::remove_run(&run_directory(run)).map_err(failed(Step::RunFiles))
}

fn failed(step: Step) -> impl Fn(std::io::Error) -> Refusal {
    move |error| {
        error!(%error, ?step, "a step failed");
        Refusal::Failed(step)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_start_waits_for_its_turn_within_its_deadline_and_leaves_threads_to_stops() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(&directory.path().join("uids")).unwrap();
        let (starting, waiting, settings) = Default::default();
        let launcher = Launcher { settings, version: 252, registry, front: (1, 1), starting, waiting };
        let late = |patience| launcher.turn(patience).err();
        assert_eq!(late(Duration::ZERO), None, "free");
        let held = launcher.turn(Duration::ZERO).unwrap();
        assert_eq!(late(Duration::from_millis(30)), Some(Refusal::Failed(Step::WaitForTurn)));
        launcher.waiting.store(WAITING, Ordering::SeqCst);
        assert_eq!(late(Duration::from_secs(3600)), Some(Refusal::Failed(Step::WaitForTurn)), "enough wait already");
        launcher.waiting.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| late(Duration::from_secs(3600)));
            drop(held);
            assert_eq!(next.join().unwrap(), None, "its turn comes");
        });
    }
}
