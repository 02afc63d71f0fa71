//! The egress relay's kind, and one user as it sees him: his run, what it has had, his places.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use uuid::Uuid;

use super::config::Allowed;
use super::limits::{ALL_RESOLUTIONS, Limits, MAX_CONNECTIONS, USER_RESOLUTIONS};
use super::requests;
use crate::relay::failure::Failure;
use crate::relay::limits;
use crate::relay::listener::{Place, Stream};
use crate::relay::peers::{Kind, Refusals};

/// What all users' connections share.
#[derive(Debug)]
pub struct Shared {
    /// The port inside the sandboxes.
    pub port: u16,
    /// The hosts that may be reached.
    pub allowed: Allowed,
    /// The ports that may be reached.
    pub ports: Vec<u16>,
    /// Whether an address may be reached; tests have only this machine's own.
    pub permitted: fn(IpAddr) -> bool,
    /// Places for connections that lead out.
    pub places: Arc<Semaphore>,
    /// Places for names that are being resolved.
    pub resolving: Arc<Semaphore>,
    /// The limits.
    pub limits: Limits,
}

impl Kind for Shared {
    const NAME: &'static str = "egress";
    const MAX_CONNECTIONS: usize = MAX_CONNECTIONS;
    // Every name that is being resolved holds one.
    const BLOCKING_THREADS: usize = ALL_RESOLUTIONS;
    type Peer = Peer;

    fn place(&self) -> Place {
        Place::Port(self.port)
    }

    fn waits(&self) -> limits::Waits {
        self.limits.relay
    }

    fn peer(self: &Arc<Self>, uid: u32, run: Uuid) -> Result<Peer, &'static str> {
        let (resolving, spent) = (Arc::new(Semaphore::new(USER_RESOLUTIONS)), Arc::default());
        Ok(Peer { uid, run, spent, shared: Arc::clone(self), refusals: Refusals::default(), resolving })
    }

    async fn serve(peer: Arc<Peer>, stream: Stream, closing: watch::Receiver<bool>) {
        let wait = peer.shared.limits.lifetime;
        let _ = timeout(wait, requests::connection(stream, peer, closing)).await;
    }
}

/// One user.
#[derive(Debug)]
pub struct Peer {
    /// His uid, by the kernel's word.
    pub uid: u32,
    /// What the connections belong to, by his word.
    pub run: Uuid,
    /// The bytes that this run has had.
    pub spent: Arc<AtomicU64>,
    /// What all users share.
    pub shared: Arc<Shared>,
    /// The requests that were refused to him here.
    pub refusals: Refusals,
    /// Places for his names that are being resolved.
    pub resolving: Arc<Semaphore>,
}

/// What is said when too much is under way.
#[must_use]
pub fn busy(what: &str) -> Failure {
    let message = format!("too many {what} are under way; try again");
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "relay_busy", message)
}

impl Peer {
    /// Waits for a place for a connection that leads out.
    ///
    /// # Errors
    /// There is none, or the run has had all its bytes.
    pub async fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let most = self.shared.limits.run_bytes;
        if self.spent.load(Ordering::Relaxed) >= most {
            let message = format!("this run has had its {most} bytes of the internet");
            return Err(Failure::new(StatusCode::FORBIDDEN, "run_bytes", message));
        }
        let waiting = timeout(self.shared.limits.place, Arc::clone(&self.shared.places).acquire_owned());
        waiting.await.ok().and_then(Result::ok).ok_or_else(|| busy("connections of all users"))
    }

    /// Logs a request that was refused by its head.
    pub fn note_refusal(&self, head: &Parts, failure: &Failure) {
        if let Some(refusals) = self.refusals.count() {
            tracing::info!(
                uid = self.uid,
                run = %self.run,
                method = %head.method.as_str().get(..16).unwrap_or(head.method.as_str()),
                status = failure.status.as_u16(),
                code = failure.code,
                refusals,
                "egress request refused"
            );
        }
    }
}
