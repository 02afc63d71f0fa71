//! The service around it: start, readiness, watchdog, stop.

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::fdstore::{self, Kept};
use super::handover::{Door, USERS, Visitor};
use super::peers::{Kind, Peers, Tasks, status};
use super::settings::Mistakes;

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
            Self::Failed(step, error) => write!(f, "the relay cannot {step}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Makes a step's error one of the start.
pub fn failed(step: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::Failed(step, error)
}

/// Runs a relay until SIGTERM or SIGINT. `make` reads its configuration; `socket` is the one that listeners are handed
/// over on.
///
/// # Errors
/// It cannot start.
pub fn run<K: Kind>(socket: &Path, make: impl FnOnce() -> Result<K, StartError>) -> Result<(), StartError> {
    // Before the secret is read: no core dump, and no other process of this uid may look into this one.
    nix::sys::prctl::set_dumpable(false).map_err(io::Error::from).map_err(failed("make itself non-dumpable"))?;
    let kept = fdstore::take_back(K::NAME).map_err(failed("take back the listeners the service manager kept"))?;
    let kind = make()?;
    // Two workers, so that one user's work on the one does not keep all others waiting.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(K::BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(failed("start its runtime"))?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(failed("listen for SIGTERM"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed("listen for SIGINT"))?;
        let relay = Relay::start(kind, socket, USERS)?;
        relay.resume(kept);
        let stop = async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        };
        relay.serve(stop).await;
        Ok(())
    })
}

/// A relay, listening.
#[derive(Debug)]
pub struct Relay<K> {
    door: Door,
    kind: Arc<K>,
    peers: Peers<K>,
    tasks: Tasks,
}

impl<K: Kind> Relay<K> {
    /// Opens the socket. `users` are the uids that may hand something over.
    ///
    /// # Errors
    /// A step failed.
    pub fn start(kind: K, socket: &Path, users: RangeInclusive<u32>) -> Result<Self, StartError> {
        let kind = Arc::new(kind);
        let (peers, tasks) = Peers::new(Arc::clone(&kind));
        let door = Door::bind(socket, users).map_err(failed("listen on its socket"))?;
        Ok(Self { door, kind, peers, tasks })
    }

    /// Serves what was kept over a restart.
    pub fn resume(&self, kept: Vec<Kept>) {
        kept.into_iter().for_each(|kept| self.peers.resume(kept));
    }

    /// Says it is ready and serves until `stop`.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let mut count = self.peers.count();
        notify(&[NotifyState::Ready, NotifyState::Status(&status(*count.borrow_and_update()))]);
        tracing::info!(kind = K::NAME, "the relay is ready");
        self.kind.begin();
        // Half the interval, from the same loop that lets peers in: if that hangs, the service manager restarts us.
        let interval = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2);
        let mut beat = tokio::time::interval(interval.max(Duration::from_millis(10)));
        let mut stop = std::pin::pin!(stop);
        let beside = tokio::spawn(Arc::clone(&self.kind).beside(self.peers.closing()));
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
        tracing::info!(kind = K::NAME, "the relay stops; listeners stay with the service manager");
        self.peers.close(self.tasks).await;
        self.kind.end().await;
        let _ = beside.await;
    }

    fn receive(&self, visitor: Visitor) {
        let (peers, place, wait) = (self.peers.clone(), self.kind.place(), self.kind.waits().hand_over);
        tokio::spawn(async move {
            let uid = visitor.uid();
            let refused = match visitor.offer(K::NAME, place, wait).await {
                Err(reason) => Some(reason),
                Ok((offer, reply)) => match peers.take(offer).await {
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
