//! The front's side of the launcher's socket, and the model relay's: one request, one reply, one connection.
//!
//! The names are the launcher's own: `start_agent` here is `StartAgent` there. What can fail: the launcher is not there
//! (it may be restarting; the caller tries again), it refuses (the reason is typed), or it breaks the protocol.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pi_gateway_helper::names::{Run, User};
use pi_gateway_helper::wire::{self, Hidden, MAX_FRAME, Refusal, Reply, Request, Unit, UnitState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::metrics;

/// A request is answered within the launcher's own 10 s; a little more for the way.
const DEADLINE: Duration = Duration::from_secs(12);

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The launcher is not there.
    #[error("the launcher cannot be reached at {socket}: {error}; see `systemctl status pi-gateway-launcher`", socket = .socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The launcher took too long.
    #[error("the launcher did not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The launcher says no.
    #[error("{}", tell(.0))]
    Refused(Refusal),
    /// The launcher does not speak our protocol.
    #[error("the launcher's reply is not understood: {0}; are front and launcher of the same version?")]
    Protocol(String),
}

/// The launcher, by its socket.
#[derive(Clone, Debug)]
pub struct Launcher {
    socket: PathBuf,
}

impl Launcher {
    /// The launcher that listens on `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Launcher { socket }
    }

    /// Starts the user's agent for a run; gives the uid in it. Done already is done.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn start_agent(&self, user: &User, run: &Run) -> Result<u32, LauncherError> {
        match self.ask(&Request::StartAgent(user.clone(), run.clone())).await? {
            Reply::Started(uid) => Ok(uid),
            other => Err(unexpected(other)),
        }
    }

    /// Starts the user's worker, which connects by itself; gives the uid in it. Done already is done.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn start_worker(&self, user: &User) -> Result<u32, LauncherError> {
        match self.ask(&Request::StartWorker(user.clone())).await? {
            Reply::Started(uid) => Ok(uid),
            other => Err(unexpected(other)),
        }
    }

    /// Starts the user's git worker for one job, which connects by itself; gives the uid in it. Done already is done.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn start_git(&self, user: &User, job: &Run) -> Result<u32, LauncherError> {
        match self.ask(&Request::StartGit(user.clone(), job.clone())).await? {
            Reply::Started(uid) => Ok(uid),
            other => Err(unexpected(other)),
        }
    }

    /// Stops a unit to its last process.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn stop(&self, unit: Unit) -> Result<(), LauncherError> {
        match self.ask(&Request::Stop(unit)).await? {
            Reply::Stopped => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// What a unit does, or how it ended.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn status(&self, unit: Unit) -> Result<UnitState, LauncherError> {
        match self.ask(&Request::Status(unit)).await? {
            Reply::State(state) => Ok(state),
            other => Err(unexpected(other)),
        }
    }

    /// Removes what is kept of a run that has ended.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn forget(&self, user: &User, run: &Run) -> Result<(), LauncherError> {
        match self.ask(&Request::Forget(user.clone(), run.clone())).await? {
            Reply::Forgotten => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Replaces what the Codex credential's file holds by `new`, if it is what is `known`; with an empty `new` it only
    /// tells. Gives what the file holds then. Only the model relay is answered.
    ///
    /// # Errors
    /// See [`LauncherError`].
    pub async fn codex_token(&self, known: &[u8], new: &[u8]) -> Result<Vec<u8>, LauncherError> {
        match self.ask(&Request::StoreCodexToken(Hidden(known.to_vec()), Hidden(new.to_vec()))).await? {
            Reply::CodexToken(content) => Ok(content.0),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Reply, LauncherError> {
        let begun = Instant::now();
        let answer = match self.exchange(request).await {
            Ok(Reply::Refused(refusal)) => Err(LauncherError::Refused(refusal)),
            answer => answer,
        };
        metrics::front::metrics().launcher(kind(request), &answer, begun);
        answer
    }

    async fn exchange(&self, request: &Request) -> Result<Reply, LauncherError> {
        let unreachable = |error| LauncherError::Unreachable { socket: self.socket.clone(), error };
        let exchange = async {
            let frame = wire::encode(request).map_err(protocol)?;
            let mut stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
            stream.write_all(&frame).await.map_err(unreachable)?;
            let length = stream.read_u32_le().await.map_err(unreachable)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME);
            let length = length.ok_or_else(|| protocol("a frame over the limit"))?;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.map_err(unreachable)?;
            wire::decode(&payload).map_err(protocol)
        };
        match timeout(DEADLINE, exchange).await {
            Ok(reply) => reply,
            Err(_) => Err(LauncherError::Late),
        }
    }
}

fn protocol(what: impl std::fmt::Display) -> LauncherError {
    LauncherError::Protocol(what.to_string())
}

fn unexpected(reply: Reply) -> LauncherError {
    protocol(format!("{reply:?} is no answer to this request"))
}

/// What a kind of request is counted as.
fn kind(request: &Request) -> &'static str {
    match request {
        Request::StartAgent(..) => "start_agent",
        Request::StartWorker(_) => "start_worker",
        Request::StartGit(..) => "start_git",
        Request::Stop(_) => "stop",
        Request::Status(_) => "status",
        Request::Forget(..) => "forget",
        Request::StoreCodexToken(..) => "store_codex_token",
    }
}

/// A refusal in words that say what to do.
fn tell(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Busy(Some(run)) => format!("the user's agent is busy with run {}", run.as_str()),
        Refusal::Busy(None) => "the user's unit is about to end; try again".to_owned(),
        Refusal::Full(limit) => format!("{limit} agents are up, as many as MAX_CONCURRENT_RUNS allows"),
        Refusal::StartFailed(status) => {
            format!("systemd could not start the unit (status {status}); see `journalctl -u pi-gateway-launcher`")
        }
        Refusal::NotYours => "the launcher does not do this for us".to_owned(),
        Refusal::Failed(step) => {
            format!("the launcher failed at {step:?}; see `journalctl -u pi-gateway-launcher`")
        }
    }
}
