//! The front's start and end: configuration in hand, it takes up its runs, listens, and only then says that it is ready.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::room::Room;
use super::seats::Seats;
use super::{App, Parts, health, limits, router, server};
use crate::auth::Verifier;
use crate::config::Config;
use crate::git::Git;
use crate::git::state::States;
use crate::image::maker::Maker;
use crate::launcher::Launcher;
use crate::metrics;
use crate::metrics::server::{Listener, UNIT};
use crate::models;
use crate::runs::store::Store;
use crate::runs::{Runs, Services, disk, retention};
use crate::sites::{Sites, place};
use crate::standing::{Register, keeper};
use crate::workspace::workers::Workers;

/// Why the front did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The list of models, or `SITES_DIR`, cannot be used; an error of the configuration.
    #[error("{0}")]
    Unusable(String),
    /// The passed socket is another one than the configuration says.
    #[error(
        "HOST and PORT say {wanted}, but systemd passed a socket on {passed}. To listen on {wanted}: \
         `systemctl edit pi-gateway.socket`, enter\n[Socket]\nListenStream=\nListenStream={wanted}\n\
         and run `systemctl restart pi-gateway.socket pi-gateway.service`"
    )]
    Socket {
        /// By configuration.
        wanted: SocketAddr,
        /// By systemd.
        passed: SocketAddr,
    },
    /// A step failed.
    #[error("{step}: {error}")]
    Step {
        /// Which.
        step: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl ServeError {
    /// Whether the configuration is to blame, which no restart changes.
    pub fn is_config(&self) -> bool {
        matches!(self, ServeError::Unusable(_) | ServeError::Socket { .. })
    }
}

fn step(step: &'static str) -> impl Fn(io::Error) -> ServeError {
    move |error| ServeError::Step { step, error }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let catalogue = models::with_default(&config.models_path, &config.default_model).map_err(ServeError::Unusable)?;
    if let Some(sites) = &config.sites {
        place::judge(sites).and_then(|()| place::is_writable(sites)).map_err(ServeError::Unusable)?;
    }
    // The socket first: a wrong one stops the start before anything is touched.
    let (listener, metrics_listener) = listeners(config.listen)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(step("waiting for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(step("waiting for SIGINT"))?;
    let launcher = Launcher::new(config.paths.launcher_socket.clone());
    let workers =
        Workers::open(&config.paths.worker_socket, launcher.clone()).map_err(step("listening for workers"))?;
    let git = Git::open(
        config.git.clone(),
        launcher.clone(),
        &config.paths.git_socket,
        States::new(&config.paths.state),
        config.finalization_timeout,
    )
    .map_err(step("listening for git workers"))?;
    let standing = Register::new(config.paths.standing.clone());
    standing.check().map_err(step("reading who is blocked"))?;
    let services = Services {
        store: Store::open(&config.paths.state).map_err(step("opening the directory of runs"))?,
        launcher,
        catalogue,
        default_model: config.default_model.clone(),
        raw: config.paths.raw.clone(),
        usage: config.paths.usage.clone(),
        registry: config.paths.registry.clone(),
        run_timeout: config.run_timeout,
        cancel_grace: config.cancel_grace,
        finalization_timeout: config.finalization_timeout,
        max_concurrent_runs: config.max_concurrent_runs,
        workspace_quota: config.workspace_quota,
        git,
        sites: Sites::new(config.sites.clone(), &config.paths.state, workers.clone(), config.finalization_timeout),
        workers: workers.clone(),
        sizes: disk::Sizes::default(),
        standing: standing.clone(),
    };
    let runs = Runs::recover(Arc::new(services)).map_err(step("taking up the active runs"))?;
    let keeping = tokio::spawn(keeper::keep(runs.clone(), config.paths.state.join("standing")));
    let pushing = tokio::spawn(crate::runs::push_again(runs.services().clone()));
    let (ending, shutdown) = watch::channel(false);
    let app = App::from(Parts {
        runs: runs.clone(),
        workers,
        maker: Arc::new(Maker::new(config.paths.image_socket.clone())),
        max_upload: config.max_upload,
        verifier: Verifier::new(&config.jwt),
        sandbox_internet: config.sandbox_internet,
        ready: health::ReadyCache::default(),
        bodies: Arc::new(Room::new(limits::BODIES)),
        answers: Arc::new(Room::new(limits::ANSWERS)),
        files: Arc::new(Room::new(limits::FILES)),
        seats: Seats::new([limits::USER_REQUESTS, limits::USER_STREAMS], standing),
        shutdown: shutdown.clone(),
        request_timeout: config.request_timeout,
        run_retention: config.run_retention,
    });
    let counting = metrics_listener.map(|listener| {
        let relay = config.paths.image_socket.clone();
        tokio::spawn(metrics::server::serve(listener, app.clone(), relay, shutdown.clone()))
    });
    let retention = tokio::spawn(retention::keep(runs.clone(), config.run_retention));
    let serving = tokio::spawn(server::serve(listener, router(app, &config.cors_origins, config.console), shutdown));
    let watchdog = tokio::spawn(watchdog());
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {}", config.listen))]);
    tracing::info!(listen = %config.listen, "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(active = runs.active_count(), "ending; the agents go on");
    notify(&[NotifyState::Stopping]);
    runs.drain();
    ending.send_replace(true);
    pushing.abort();
    keeping.abort();
    watchdog.abort();
    retention.abort();
    if let Some(counting) = counting {
        counting.abort();
    }
    serving.await.map_err(io::Error::other).map_err(step("ending the server"))
}

/// The socket that systemd passes, or one of our own where there is none; and the one for metrics, if there is one.
fn listeners(wanted: SocketAddr) -> Result<(TcpListener, Option<Listener>), ServeError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let own = names.split(':').position(|name| name == UNIT);
    let mut passed = listenfd::ListenFd::from_env();
    let metrics = own.map(|index| metrics_listener(&mut passed, index)).transpose();
    let metrics = metrics.map_err(step("taking the socket for metrics from systemd"))?;
    // Where systemd passes both, their order is not said.
    let public = usize::from(own == Some(0));
    let passed = passed.take_tcp_listener(public).map_err(step("taking the socket from systemd"))?;
    let listener = match passed {
        Some(passed) => {
            let address = passed.local_addr().map_err(step("looking at the passed socket"))?;
            if address != wanted {
                return Err(ServeError::Socket { wanted, passed: address });
            }
            passed
        }
        None => std::net::TcpListener::bind(wanted).map_err(step("listening on HOST and PORT"))?,
    };
    listener.set_nonblocking(true).map_err(step("preparing the socket"))?;
    let listener = TcpListener::from_std(listener).map_err(step("preparing the socket"))?;
    Ok((listener, metrics))
}

fn metrics_listener(passed: &mut listenfd::ListenFd, index: usize) -> io::Result<Listener> {
    // One that is no Unix socket is a port, or the error says what it is.
    if let Ok(Some(unix)) = passed.take_unix_listener(index) {
        return Listener::unix(unix);
    }
    let tcp = passed.take_tcp_listener(index)?;
    Listener::tcp(tcp.ok_or_else(|| io::Error::other("LISTEN_FDNAMES has more names than LISTEN_FDS"))?)
}

/// Tells systemd twice per period that the runtime still turns.
async fn watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((period / 2).max(Duration::from_millis(100)));
    loop {
        tick.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
