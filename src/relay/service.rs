//! The service around it: start, readiness, watchdog, stop.

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::agents::{Agents, Shared, Tasks, status};
use super::body::Budget;
use super::config::{Config, Mistakes};
use super::fdstore::{self, Kept};
use super::handover::{Door, USERS, Visitor};
use super::limits::{ALL_BODIES, Waits};
use super::upstream::Upstream;
use super::usage::{self, Writer};

/// Where things are. The defaults are the installed places.
#[derive(Debug, Clone)]
pub struct Places {
    /// The settings file the launcher writes.
    pub config: PathBuf,
    /// The socket agents hand their listeners over on.
    pub socket: PathBuf,
    /// The directory for usage files.
    pub usage: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            config: "/run/pi-gateway/config/relay-model.env".into(),
            socket: "/run/pi-gateway/relay-model/relay.sock".into(),
            usage: "/var/lib/pi-gateway/usage".into(),
        }
    }
}

/// Why the relay does not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong; exit status 78.
    Config(Mistakes),
    /// A step failed.
    Failed(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(mistakes) => write!(f, "{mistakes}"),
            Self::Failed(step, error) => write!(f, "the model relay cannot {step}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::Failed(step, error)
}

/// Runs the model relay until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(places: &Places) -> Result<(), StartError> {
    // Before the key is read: no core dump, and no other process of this uid may look into this one.
    nix::sys::prctl::set_dumpable(false).map_err(io::Error::from).map_err(failed("make itself non-dumpable"))?;
    let kept = fdstore::take_back().map_err(failed("take back the listeners the service manager kept"))?;
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let config = Config::load(&places.config, credentials.as_deref()).map_err(StartError::Config)?;
    // Two workers, so that one user's work on the one does not keep all others waiting.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(failed("start its runtime"))?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(failed("listen for SIGTERM"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed("listen for SIGINT"))?;
        let relay = Relay::start(config, Waits::default(), &places.socket, &places.usage, USERS)?;
        relay.resume(kept);
        let stop = async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        };
        relay.serve(stop).await;
        Ok(())
    })
}

/// How often old usage files are looked for.
const RETENTION_PERIOD: Duration = Duration::from_secs(3600);

fn remove_past_usage(dir: &Path, retention: Duration) {
    loop {
        match usage::remove_past(dir, retention) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "usage files past their retention were removed"),
            Err(error) => tracing::error!(%error, "old usage files could not be removed"),
        }
        std::thread::sleep(RETENTION_PERIOD);
    }
}

/// The relay, listening.
#[derive(Debug)]
pub struct Relay {
    door: Door,
    agents: Agents,
    tasks: Tasks,
    port: u16,
    waits: Waits,
}

impl Relay {
    /// Opens the usage directory and the socket. `users` are the uids that may hand something over.
    ///
    /// # Errors
    /// A step failed.
    pub fn start(
        config: Config,
        waits: Waits,
        socket: &Path,
        usage: &Path,
        users: RangeInclusive<u32>,
    ) -> Result<Self, StartError> {
        let Config { endpoint, port, catalogue, key, retention } = config;
        let upstream = Upstream::new(endpoint, &waits)
            .map_err(io::Error::other)
            .map_err(failed("set up its connection to the upstream"))?;
        let past = usage.to_owned();
        std::thread::Builder::new()
            .name("retention".to_owned())
            .spawn(move || remove_past_usage(&past, retention))
            .map_err(failed("start the thread that removes old usage files"))?;
        let usage = Writer::start(usage.to_owned()).map_err(failed("use the directory for usage files"))?;
        let shared = Shared { port, catalogue, key, upstream, usage, bodies: Budget::new(ALL_BODIES), waits };
        let (agents, tasks) = Agents::new(Arc::new(shared));
        let door = Door::bind(socket, users).map_err(failed("listen on its socket"))?;
        Ok(Self { door, agents, tasks, port, waits })
    }

    /// Serves what was kept over a restart.
    pub fn resume(&self, kept: Vec<Kept>) {
        kept.into_iter().for_each(|kept| self.agents.resume(kept));
    }

    /// Says it is ready and serves until `stop`.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let mut count = self.agents.count();
        notify(&[NotifyState::Ready, NotifyState::Status(&status(*count.borrow_and_update()))]);
        tracing::info!("the model relay is ready");
        // Half the interval, from the same loop that lets peers in: if that hangs, the service manager restarts us.
        let interval = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2);
        let mut beat = tokio::time::interval(interval.max(Duration::from_millis(10)));
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = beat.tick() => notify(&[NotifyState::Watchdog]),
                _ = count.changed() => notify(&[NotifyState::Status(&status(*count.borrow_and_update()))]),
                visitor = self.door.next() => match visitor {
                    Ok(visitor) => self.receive(visitor),
                    Err(error) => {
                        tracing::error!(%error, "hand-overs cannot be received at the moment");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        notify(&[NotifyState::Stopping]);
        tracing::info!("the model relay stops; listeners stay with the service manager");
        self.agents.close(self.tasks).await;
    }

    fn receive(&self, visitor: Visitor) {
        let (agents, port, wait) = (self.agents.clone(), self.port, self.waits.hand_over);
        tokio::spawn(async move {
            let uid = visitor.uid();
            let refused = match visitor.offer(port, wait).await {
                Err(reason) => Some(reason),
                Ok((offer, reply)) => match agents.take(offer).await {
                    Ok(()) => {
                        reply.accept();
                        None
                    }
                    Err((listener, reason)) => {
                        reply.refuse(vec![listener], reason);
                        Some(reason)
                    }
                },
            };
            if let Some(reason) = refused {
                tracing::info!(uid, reason, "hand-over refused");
            }
        });
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
