//! The git relay's kind, and one user as it sees him: his name, his repository, his places.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use uuid::Uuid;

use super::admit::Realm;
use super::failure::Failure;
use super::limits::{MAX_CONNECTIONS, USER_REQUESTS, Waits};
use super::upstream::Upstream;
use super::{requests, users};
use crate::relay::limits;
use crate::relay::listener::{Place, Stream};
use crate::relay::peers::{Kind, Refusals};

/// What all users' requests share.
#[derive(Debug)]
pub struct Shared {
    /// Where listeners are inside the sandboxes.
    pub place: Place,
    /// Name of each user's repository, without `.git`.
    pub repository: String,
    /// Largest pack in either direction, in bytes.
    pub max_pack: u64,
    /// Where requests go.
    pub upstream: Upstream,
    /// The launcher's registry of users.
    pub registry: PathBuf,
    /// Places for requests under way.
    pub places: Arc<Semaphore>,
    /// The waits.
    pub waits: Waits,
}

impl Kind for Shared {
    const NAME: &'static str = "git";
    const MAX_CONNECTIONS: usize = MAX_CONNECTIONS;
    type Peer = Peer;

    fn place(&self) -> Place {
        self.place
    }

    fn waits(&self) -> limits::Waits {
        self.waits.relay
    }

    fn peer(self: &Arc<Self>, uid: u32, run: Uuid) -> Result<Peer, &'static str> {
        let user = users::name(&self.registry, uid).map_err(|error| {
            tracing::error!(uid, %error, path = %self.registry.display(), "the registry of users cannot be used");
            "the registry of users cannot be read"
        })?;
        let user = user.ok_or("your uid is no user's")?.as_str().to_owned();
        let repository = format!("/{user}/{}.git", self.repository);
        let (places, refusals) = (Arc::new(Semaphore::new(USER_REQUESTS)), Refusals::default());
        Ok(Peer { user, uid, run, repository, places, shared: Arc::clone(self), refusals })
    }

    async fn serve(peer: Arc<Peer>, stream: Stream, closing: watch::Receiver<bool>) {
        let wait = peer.shared.waits.connection;
        let _ = timeout(wait, requests::connection(stream, peer, closing)).await;
    }
}

/// One user.
#[derive(Debug)]
pub struct Peer {
    /// His name.
    pub user: String,
    /// His uid, by the kernel's word.
    pub uid: u32,
    /// What the requests belong to, by his word.
    pub run: Uuid,
    /// The path of his repository.
    pub repository: String,
    /// What all users share.
    pub shared: Arc<Shared>,
    /// The requests that were refused to him here.
    pub refusals: Refusals,
    places: Arc<Semaphore>,
}

/// The places of one request, his own and one of all, until it is dropped.
#[derive(Debug)]
pub struct Places {
    _own: OwnedSemaphorePermit,
    _one_of_all: OwnedSemaphorePermit,
}

impl Peer {
    /// What is there for him.
    #[must_use]
    pub fn realm(&self) -> Realm<'_> {
        Realm { repository: &self.repository, place: self.shared.place, max_pack: self.shared.max_pack }
    }

    /// Waits for a place to send a request; for one of his own it does not wait.
    ///
    /// # Errors
    /// Too many requests are under way.
    pub async fn places(&self) -> Result<Places, Failure> {
        let busy = |whose: &str| {
            let message = format!("too many requests of {whose} are under way; try again");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "relay_busy", message)
        };
        let own = Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy("yours"))?;
        let waiting = timeout(self.shared.waits.place, Arc::clone(&self.shared.places).acquire_owned());
        let one_of_all = waiting.await.ok().and_then(Result::ok).ok_or_else(|| busy("all users"))?;
        Ok(Places { _own: own, _one_of_all: one_of_all })
    }

    /// Logs a request that was refused by its head.
    pub fn note_refusal(&self, head: &Parts, failure: &Failure) {
        if let Some(refusals) = self.refusals.count() {
            tracing::info!(
                user = self.user,
                uid = self.uid,
                run = %self.run,
                method = %head.method.as_str().get(..16).unwrap_or(head.method.as_str()),
                status = failure.status.as_u16(),
                code = failure.code,
                refusals,
                "git request refused"
            );
        }
    }
}
