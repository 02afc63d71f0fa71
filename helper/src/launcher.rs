//! The launcher: two peers, each with a socket and requests of its own.
//!
//! Sixteen threads take the connections of a socket; each reads one request, answers it and closes. A frame that is no request is not
//! answered; a request that cannot be done is answered with the reason. Reading and doing have 10 s each. Starts wait for
//! each other, so that the limit of agents holds; stops and questions wait for nobody. Nothing is remembered but the
//! registry.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::names::{Run, User};
use crate::settings::Settings;
use crate::systemd::Systemd;
use crate::uids::{self, Registry};
use crate::units;
use crate::wire::{self, Activity, Refusal, Reply, Request, Step, Unit, UnitState};
use crate::{codex, files};

/// Connections of one socket that are served at the same time; a further one waits in the socket's queue.
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
    /// uid and gid of the front: the peer of all requests but one.
    pub front: (u32, u32),
    /// uid of the model relay: the peer of that one.
    pub relay: u32,
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
    pub fn serve(&self, listeners: &[UnixListener]) -> io::Result<Infallible> {
        std::thread::scope(|scope| {
            for listener in listeners.iter().flat_map(|listener| [listener; THREADS]) {
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
        if peer != self.front.0 && peer != self.relay {
            return Err(io::Error::other(format!("uid {peer} is not a peer")));
        }
        let request: Request = wire::read(Ending(stream, Instant::now() + PATIENCE))?;
        // Each peer has requests of its own, whatever socket it came by.
        let own = matches!(request, Request::StoreCodexToken(..)) == (peer == self.relay);
        let told = if own { self.answer(stream, &request, Systemd::within(PATIENCE)) } else { Err(Refusal::NotYours) };
        let reply = told.unwrap_or_else(Reply::Refused);
        // Names, numbers, states and sizes only: that is all there is to see of requests and replies.
        info!(?request, ?reply, "request");
        // One small frame into an empty buffer: it does not wait for the peer.
        stream.write_all(&wire::encode(&reply)?)
    }

    fn answer(&self, peer: &UnixStream, request: &Request, systemd: Systemd) -> Result<Reply, Refusal> {
        let asking = failed(Step::AskSystemd);
        // Held until the answer is made; stops, questions and the credential need none.
        let waits = !matches!(request, Request::Stop(_) | Request::Status(_) | Request::StoreCodexToken(..));
        let _turn = waits.then(|| self.turn(peer, TURN)).transpose()?;
        match request {
            Request::StartAgent(user, run) => self.start(systemd, &Unit::Agent(user.clone()), user, Some(run)),
            Request::StartWorker(user) => self.start(systemd, &Unit::Worker(user.clone()), user, None),
            Request::StartGit(user, job) => self.start(systemd, &Unit::Git(user.clone()), user, Some(job)),
            Request::Stop(Unit::ModelRelay | Unit::GitRelay | Unit::EgressRelay) => Err(Refusal::NotYours),
            Request::Stop(unit) => systemd.manage("stop", &units::name(unit)).map(|()| Reply::Stopped).map_err(asking),
            Request::Status(unit) => systemd.show(&units::name(unit)).map(Reply::State).map_err(asking),
            Request::Forget(user, run) => forget(systemd, user, run).map(|()| Reply::Forgotten),
            Request::StoreCodexToken(known, new) => {
                let stored = codex::store(Path::new(self.settings.get("PI_GATEWAY_CODEX_AUTH_FILE")), known, new);
                stored.map(Reply::CodexToken).map_err(failed(Step::CodexFile))
            }
        }
    }

    /// Waits until no start is under way, for a bounded time and with half of the threads at most. There is none for a
    /// peer that has gone: its successor may have stopped already what would be started here.
    fn turn(&self, peer: &UnixStream, patience: Duration) -> Result<MutexGuard<'_, ()>, Refusal> {
        let until = Instant::now() + patience;
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.starting.try_lock();
        while turn.is_err() && waiting < WAITING && Instant::now() < until {
            std::thread::sleep(POLL);
            turn = self.starting.try_lock();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        turn.ok().filter(|_| !gone(peer)).ok_or(Refusal::Failed(Step::WaitForTurn))
    }

    /// Starts a user's unit. The numbers are those of docs/protocol.md, "The order of a start".
    fn start(&self, systemd: Systemd, unit: &Unit, user: &User, run: Option<&Run>) -> Result<Reply, Refusal> {
        // 1. The user's uid, on disk before anything belongs to it.
        let uid = self.registry.assign(user).map_err(failed(Step::AssignUid))?;
        // 2. A unit that is up for this run is what was asked for; one for another run is in the way.
        if is_up(systemd, unit, run)? {
            return Ok(Reply::Started(uid));
        }
        // 3. The machine's limit.
        let agent_of = run.filter(|_| matches!(unit, Unit::Agent(_)));
        let limit = self.settings.number("MAX_CONCURRENT_RUNS");
        if agent_of.is_some() && systemd.agents().map_err(failed(Step::AskSystemd))? >= limit {
            return Err(Refusal::Full(limit));
        }
        // 4. The uid's name, for systemd and inside the sandbox.
        let names = Path::new(units::USERS_DIR).join(user.as_str());
        uids::publish(Path::new("/run/userdb"), &names, uid).map_err(failed(Step::PublishName))?;
        // 5. Workspace and session.
        for parent in ["BASE_WORKDIR", "SESSION_DIR"].map(|name| Path::new(self.settings.get(name))) {
            files::user_directory(parent, user, uid).map_err(failed(Step::UserDirectories))?;
        }
        // 6. An agent's input and output. The FIFO is held open, or systemd would wait for its writer.
        let make = |run| files::make_run(&run_directory(run), uid, self.front).map_err(failed(Step::RunFiles));
        let fifo = agent_of.map(make).transpose()?;
        // 7. The unit. From here on enter and pi hold the FIFO themselves.
        let started = bring_up(systemd, unit, &units::argv(&self.settings, self.version, user, uid, unit, run));
        drop(fifo);
        if let (Err(_), Some(run)) = (&started, agent_of) {
            forget(Systemd::within(PATIENCE), user, run)?;
        }
        started.map(|()| Reply::Started(uid))
    }
}

/// Whether nobody is there any more to read an answer. One who only has nothing more to say still is.
fn gone(peer: &UnixStream) -> bool {
    let mut seen = [PollFd::new(peer.as_fd(), PollFlags::empty())];
    poll(&mut seen, PollTimeout::ZERO).is_ok() && seen[0].any() == Some(true)
}

/// Whether a unit is up for the run; when it is not, it can be started, for which its last failure is forgotten.
fn is_up(systemd: Systemd, unit: &Unit, run: Option<&Run>) -> Result<bool, Refusal> {
    let unit = units::name(unit);
    let state = systemd.show(&unit).map_err(failed(Step::AskSystemd))?;
    match state.activity {
        Activity::Active | Activity::Activating if state.run.as_ref() == run => Ok(true),
        _ => clear(systemd, &unit, state).map(|()| false),
    }
}

/// Forgets how a unit ended; one that has not is busy.
fn clear(systemd: Systemd, unit: &str, state: UnitState) -> Result<(), Refusal> {
    match state.activity {
        Activity::Inactive => Ok(()),
        Activity::Failed => systemd.manage("reset-failed", unit).map_err(failed(Step::AskSystemd)),
        _ => Err(Refusal::Busy(state.run)),
    }
}

/// Starts a unit. A start that failed leaves nothing but its reason in the log, and has time of its own for that.
fn bring_up(systemd: Systemd, unit: &Unit, arguments: &[String]) -> Result<(), Refusal> {
    let Err(told) = systemd.run(arguments) else { return Ok(()) };
    let (systemd, name, asking) = (Systemd::within(PATIENCE), units::name(unit), failed(Step::AskSystemd));
    let state = systemd.show(&name).map_err(&asking)?;
    error!(unit = name, state.status, %told, "the unit could not be started");
    systemd.manage("stop", &name).map_err(&asking)?;
    is_up(systemd, unit, None)?;
    Err(Refusal::StartFailed(state.status))
}

fn run_directory(run: &Run) -> PathBuf {
    Path::new(units::RAW_DIR).join(run.as_str())
}

fn forget(systemd: Systemd, user: &User, run: &Run) -> Result<(), Refusal> {
    let unit = units::name(&Unit::Agent(user.clone()));
    let state = systemd.show(&unit).map_err(failed(Step::AskSystemd))?;
    // The user's next run may be up, or have ended, already: that is not forgotten, and this run's files are nobody's.
    if state.run.as_ref() == Some(run) {
        clear(systemd, &unit, state)?;
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
        let launcher = Launcher { settings, version: 252, registry, front: (1, 1), relay: 2, starting, waiting };
        let (peer, front) = UnixStream::pair().unwrap();
        let late = |patience| launcher.turn(&peer, patience).err();
        assert_eq!(late(Duration::ZERO), None, "free");
        let held = launcher.turn(&peer, Duration::ZERO).unwrap();
        assert_eq!(late(Duration::from_millis(30)), Some(Refusal::Failed(Step::WaitForTurn)));
        launcher.waiting.store(WAITING, Ordering::SeqCst);
        assert_eq!(late(Duration::from_secs(3600)), Some(Refusal::Failed(Step::WaitForTurn)), "enough wait already");
        launcher.waiting.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| late(Duration::from_secs(3600)));
            drop(held);
            assert_eq!(next.join().unwrap(), None, "its turn comes");
        });
        // A start of a front that has died while it waited would come after its successor's stop.
        front.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(late(Duration::ZERO), None, "who has nothing more to say waits for the answer");
        drop(front);
        assert_eq!(late(Duration::ZERO), Some(Refusal::Failed(Step::WaitForTurn)), "nobody is there");
    }
}
