//! The launcher: one socket, one peer, four requests.
//!
//! Sixteen threads take connections; each answers frames in sequence until the peer closes. A frame that is no request
//! ends its connection; a request that cannot be done is answered with the reason. Starts wait for each other, so that
//! the limit of agents holds; stops and questions wait for nobody. Nothing is remembered but the registry.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::files;
use crate::names::{Run, User};
use crate::settings::Settings;
use crate::systemd;
use crate::uids::{self, Registry};
use crate::units;
use crate::wire::{self, Activity, Refusal, Reply, Request, Step, Unit, UnitState, WireError};

/// Connections that are served at the same time; a further one waits in the socket's queue.
const THREADS: usize = 16;
/// How long a peer may take between and within frames.
const PATIENCE: Duration = Duration::from_secs(10);
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
    /// Held while an agent is started.
    pub starting: Mutex<()>,
    /// How many threads want to hold it.
    pub waiting: AtomicUsize,
}

impl Launcher {
    /// Serves for ever.
    ///
    /// # Errors
    /// When there are no threads, or systemd cannot be told that the launcher lives.
    pub fn serve(&self, listener: &UnixListener) -> std::io::Result<()> {
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
        for stream in listener.incoming() {
            let Err(error) = stream.map_err(WireError::Io).and_then(|stream| self.converse(&stream)) else { continue };
            warn!(%error, "a connection has ended");
            if matches!(error, WireError::Io(_)) {
                // Without descriptors accept fails again and again.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn converse(&self, stream: &UnixStream) -> Result<(), WireError> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(WireError::Io)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(WireError::Io)?;
        let peer = getsockopt(stream, PeerCredentials).map_err(|error| WireError::Io(error.into()))?;
        if peer.uid() != self.front.0 {
            return Err(WireError::NotAMessage(format!("uid {} is not the front", peer.uid())));
        }
        while let Some(request) = wire::read::<Request>(stream)? {
            let reply = self.answer(&request).unwrap_or_else(Reply::Refused);
            // Names, numbers and states only: requests and replies hold nothing else.
            info!(?request, ?reply, "request");
            (&mut &*stream).write_all(&wire::encode(&reply)?).map_err(WireError::Io)?;
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Result<Reply, Refusal> {
        match request {
            Request::StartAgent(user, run) => self.start_agent(user, run).map(Reply::Started),
            Request::Stop(Unit::Agent(user)) => stop(&units::agent(user)).map(|()| Reply::Stopped),
            Request::Stop(Unit::ModelRelay) => Err(Refusal::NotYours),
            Request::Status(Unit::Agent(user)) => show(&units::agent(user)).map(Reply::State),
            Request::Status(Unit::ModelRelay) => show(units::MODEL_RELAY).map(Reply::State),
            Request::Forget(user, run) => forget(user, run).map(|()| Reply::Forgotten),
        }
    }

    /// Waits for all starts before this one, for a bounded time and with at most half of the threads.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let until = Instant::now() + PATIENCE;
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.starting.try_lock();
        while turn.is_err() && waiting < THREADS / 2 && Instant::now() < until {
            std::thread::sleep(POLL);
            turn = self.starting.try_lock();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        turn.ok()
    }

    /// Starts an agent. The numbers are those of docs/protocol.md, "The order of a start".
    fn start_agent(&self, user: &User, run: &Run) -> Result<u32, Refusal> {
        let _turn = self.turn().ok_or(Refusal::Failed(Step::WaitForTurn))?;
        let unit = units::agent(user);
        // 1. An agent that is up for this run is what was asked for; one for another run is in the way.
        let state = show(&unit)?;
        match state.activity {
            Activity::Active | Activity::Activating if state.run.as_ref() == Some(run) => {
                return state.uid.ok_or(Refusal::Failed(Step::AskSystemd));
            }
            Activity::Active | Activity::Activating | Activity::Deactivating => {
                return Err(Refusal::Busy(state.run));
            }
            Activity::Inactive => {}
            Activity::Failed => systemd::reset_failed(&unit).map_err(asking)?,
        }
        // 2. The machine's limit.
        let limit = self.settings.number("MAX_CONCURRENT_RUNS");
        if systemd::agents() as u64 >= limit {
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
        let directory = Path::new(units::RAW_DIR).join(run.as_str());
        let fifo = files::create_run(&directory, uid, self.front).map_err(failed(Step::RunFiles))?;
        // 7. The unit. From here on enter and pi hold the FIFO themselves.
        let arguments = units::agent_arguments(&self.settings, self.version, user, uid, run);
        let started = systemd::run(&arguments);
        drop(fifo);
        let Err(told) = started else { return Ok(uid) };
        // 8. A start that failed leaves nothing but its reason in the log.
        let status = show(&unit)?.status;
        error!(unit, status, told, "the agent could not be started");
        stop(&unit)?;
        forget(user, run)?;
        Err(Refusal::StartFailed(status))
    }
}

fn show(unit: &str) -> Result<UnitState, Refusal> {
    systemd::show(unit).map(|(state, _)| state).map_err(asking)
}

fn stop(unit: &str) -> Result<(), Refusal> {
    systemd::stop(unit).map_err(asking)
}

fn forget(user: &User, run: &Run) -> Result<(), Refusal> {
    let unit = units::agent(user);
    let state = show(&unit)?;
    match state.activity {
        Activity::Failed => systemd::reset_failed(&unit).map_err(asking)?,
        Activity::Inactive => {}
        // The user's next run may be up already; this one's files are then nobody's.
        Activity::Active | Activity::Activating | Activity::Deactivating => {
            if state.run.as_ref() == Some(run) {
                return Err(Refusal::Busy(state.run));
            }
        }
    }
    files::remove_run(&Path::new(units::RAW_DIR).join(run.as_str())).map_err(failed(Step::RunFiles))
}

fn asking(told: String) -> Refusal {
    error!(told, "systemd");
    Refusal::Failed(Step::AskSystemd)
}

fn failed(step: Step) -> impl Fn(std::io::Error) -> Refusal {
    move |error| {
        error!(%error, ?step, "a step failed");
        Refusal::Failed(step)
    }
}
