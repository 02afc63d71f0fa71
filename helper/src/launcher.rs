//! The launcher: one socket, one peer, four requests.
//!
//! A thread for each connection, at most 16; frames in sequence until the peer closes. A frame that is no request ends
//! its connection; a request that cannot be done is answered with the reason. Starts wait for each other, so that the
//! limit of agents holds; stops and questions wait for nobody. Nothing is remembered between requests but the registry.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::files::{self, RunFiles};
use crate::names::{Run, User};
use crate::settings::Settings;
use crate::systemd::{self, Ask};
use crate::uids::{self, Registry};
use crate::units;
use crate::wire::{self, Activity, Refusal, Reply, Request, Step, Unit};

/// Connections at the same time; a further one is closed at once, and the front tries again.
const MAX_CONNECTIONS: usize = 16;
/// How long a peer may take between and within frames.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the watchdog is told, at least.
const TICK_MS: u16 = 5_000;

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
}

/// Serves for ever.
pub fn serve(launcher: &Arc<Launcher>, listener: &UnixListener) -> std::io::Result<()> {
    let connections = Arc::new(AtomicUsize::new(0));
    listener.set_nonblocking(true)?;
    loop {
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(listener), PollFlags::POLLIN)];
        match poll(&mut ready, TICK_MS) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            warn!(%error, "systemd could not be told that the launcher lives");
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        if connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            connections.fetch_sub(1, Ordering::Relaxed);
            warn!("a connection was closed: {MAX_CONNECTIONS} are open");
            continue;
        }
        let (launcher, count) = (launcher.clone(), connections.clone());
        let spawned = std::thread::Builder::new().name("request".into()).spawn(move || {
            launcher.converse(&stream);
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            connections.fetch_sub(1, Ordering::Relaxed);
            error!(%error, "no thread for a connection");
        }
    }
}

impl Launcher {
    fn converse(&self, stream: &UnixStream) {
        let peer = getsockopt(stream, PeerCredentials).map(|credentials| credentials.uid());
        if peer != Ok(self.front.0) {
            warn!(?peer, "refused: not the front");
            return;
        }
        let bounded = stream.set_nonblocking(false);
        let bounded = bounded
            .and(stream.set_read_timeout(Some(PATIENCE)))
            .and(stream.set_write_timeout(Some(PATIENCE)));
        if let Err(error) = bounded {
            error!(%error, "a connection without deadline is not served");
            return;
        }
        loop {
            let request = match wire::read::<Request>(stream) {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(error) => {
                    warn!(%error, "connection ended: not a request");
                    return;
                }
            };
            let reply = self.answer(&request);
            // Names only: requests and replies hold nothing else.
            info!(?request, ?reply, "request");
            if let Err(error) = wire::write(stream, &reply) {
                warn!(%error, "the reply was not taken");
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let answered = match request {
            Request::StartAgent { user, run } => {
                self.start_agent(user, run).map(|uid| Reply::Started { uid })
            }
            Request::Stop { unit } => stop(unit).map(|()| Reply::Stopped),
            Request::Status { unit } => status(unit),
            Request::Forget { user, run } => forget(user, run).map(|()| Reply::Forgotten),
        };
        answered.unwrap_or_else(Reply::Refused)
    }

    /// Starts an agent. The numbers are those of docs/protocol.md, "The order of a start".
    fn start_agent(&self, user: &User, run: &Run) -> Result<u32, Refusal> {
        let _one_at_a_time = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let unit = units::agent(user);
        // 1. An agent that is up for this run is what was asked for; one for another run is in the way.
        let (state, _) = systemd::show(&unit).map_err(asking)?;
        match state.activity {
            Activity::Active | Activity::Activating if state.run.as_ref() == Some(run) => {
                return state.uid.ok_or(Refusal::Failed { step: Step::AskSystemd });
            }
            Activity::Active | Activity::Activating | Activity::Deactivating => {
                return Err(Refusal::Busy { run: state.run });
            }
            Activity::Inactive => {}
            Activity::Failed => systemd::reset_failed(&unit).map_err(asking)?,
        }
        // 2. The machine's limit.
        let limit = self.settings.max_concurrent_runs;
        if systemd::agents().map_err(asking)?.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::Full { limit });
        }
        // 3. The user's uid, on disk before anything belongs to it.
        let uid = self.registry.assign(user).map_err(failed(Step::AssignUid))?;
        // 4. The uid's name, for systemd and inside the sandbox.
        let sandbox = Path::new(units::USERS_DIR).join(user.as_str());
        uids::publish(Path::new("/run/userdb"), &sandbox, uid).map_err(failed(Step::PublishName))?;
        // 5. Workspace and session.
        for parent in [&self.settings.base_workdir, &self.settings.session_dir] {
            files::user_directory(parent, user, uid).map_err(failed(Step::UserDirectories))?;
        }
        // 6. Input and output. The FIFO is held open, or systemd would wait for its writer.
        let files = RunFiles::new(Path::new(units::RAW_DIR), run);
        let fifo = files.create(uid, self.front).map_err(failed(Step::RunFiles))?;
        // 7. The unit. From here on enter and pi hold the FIFO themselves.
        let arguments = units::agent_arguments(&self.settings, self.version, user, uid, run);
        let started = systemd::run(&arguments);
        drop(fifo);
        let Err(Ask(told)) = started else { return Ok(uid) };
        // 8. A start that failed leaves nothing but its reason in the log.
        let status = systemd::show(&unit).map_or(0, |(state, _)| state.status);
        error!(unit, status, told, "the agent could not be started");
        systemd::stop(&unit).map_err(asking)?;
        systemd::reset_failed(&unit).map_err(asking)?;
        files.remove().map_err(failed(Step::RemoveFiles))?;
        Err(Refusal::StartFailed { status })
    }
}

fn name(unit: &Unit) -> String {
    match unit {
        Unit::Agent(user) => units::agent(user),
        Unit::ModelRelay => units::MODEL_RELAY.to_owned(),
    }
}

fn stop(unit: &Unit) -> Result<(), Refusal> {
    match unit {
        Unit::Agent(_) => systemd::stop(&name(unit)).map_err(asking),
        Unit::ModelRelay => Err(Refusal::NotYours),
    }
}

fn status(unit: &Unit) -> Result<Reply, Refusal> {
    systemd::show(&name(unit)).map(|(state, _)| Reply::State(state)).map_err(asking)
}

fn forget(user: &User, run: &Run) -> Result<(), Refusal> {
    let unit = units::agent(user);
    let (state, _) = systemd::show(&unit).map_err(asking)?;
    match state.activity {
        Activity::Active | Activity::Activating | Activity::Deactivating
            if state.run.as_ref() == Some(run) =>
        {
            return Err(Refusal::Busy { run: state.run });
        }
        Activity::Failed => systemd::reset_failed(&unit).map_err(asking)?,
        Activity::Active | Activity::Activating | Activity::Deactivating | Activity::Inactive => {}
    }
    RunFiles::new(Path::new(units::RAW_DIR), run).remove().map_err(failed(Step::RemoveFiles))
}

fn asking(Ask(told): Ask) -> Refusal {
    error!(told, "systemd");
    Refusal::Failed { step: Step::AskSystemd }
}

fn failed(step: Step) -> impl Fn(std::io::Error) -> Refusal {
    move |error| {
        error!(%error, ?step, "a step failed");
        Refusal::Failed { step }
    }
}
