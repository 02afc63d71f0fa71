//! The model relay's kind, and one user's agent as it sees it.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::body::Budget;
use super::codex::Codex;
use super::config::ApiKey;
use super::failure::Failure;
use super::front::{self, FrontDoor};
use super::images::way::Images;
use super::ledger::Ledger;
use super::limits::{MAX_CONNECTIONS, USER_BODIES, USER_IMAGES, Waits};
use super::requests;
use super::routes::Route;
use super::upstream::Upstream;
use super::usage::Writer;
use crate::metrics;
use crate::models::Catalogue;
use crate::relay::limits;
use crate::relay::listener::{Place, Stream};
use crate::relay::peers::{Kind, Refusals};

/// What all users' requests share.
#[derive(Debug)]
pub struct Shared {
    /// The provider's port inside the sandboxes.
    pub port: u16,
    /// What may be asked for.
    pub catalogue: Catalogue,
    /// The provider's key, when there are models that need it.
    pub key: Option<ApiKey>,
    /// What the models of a ChatGPT account need, when there is one.
    pub codex: Option<Codex>,
    /// Where requests go.
    pub upstream: Upstream,
    /// Where usage is written.
    pub usage: Writer,
    /// What users have spent.
    pub ledger: Arc<Ledger>,
    /// Memory for all request bodies.
    pub bodies: Budget,
    /// How images are made.
    pub images: Images,
    /// Memory for all answers with images.
    pub pictures: Budget,
    /// Where the front asks.
    pub front: Option<FrontDoor>,
    /// The waits.
    pub waits: Waits,
}

impl Shared {
    /// Whether something can be asked for as this relay is configured.
    #[must_use]
    pub fn offers(&self, route: Route) -> bool {
        match route {
            Route::Responses | Route::Images => self.key.is_some(),
            Route::Codex => self.codex.is_some(),
        }
    }
}

impl Kind for Shared {
    const NAME: &'static str = "model";
    const MAX_CONNECTIONS: usize = MAX_CONNECTIONS;
    type Peer = Agent;

    fn place(&self) -> Place {
        Place::Port(self.port)
    }

    fn waits(&self) -> limits::Waits {
        self.waits.relay
    }

    fn peer(self: &Arc<Self>, uid: u32, run: Uuid) -> Result<Agent, &'static str> {
        Ok(Agent::new(uid, run, Arc::clone(self)))
    }

    fn begin(self: &Arc<Self>) {
        if let Some(codex) = &self.codex {
            tokio::spawn(Arc::clone(&codex.keeper).watch());
        }
    }

    async fn end(self: Arc<Self>) {
        if let Some(codex) = &self.codex {
            codex.keeper.settle().await;
        }
    }

    async fn serve(agent: Arc<Agent>, stream: Stream, closing: watch::Receiver<bool>) {
        requests::connection(stream, agent, closing).await;
    }

    async fn beside(self: Arc<Self>, closing: watch::Receiver<bool>) {
        front::serve(self, closing).await;
    }
}

/// One user's agent.
#[derive(Debug)]
pub struct Agent {
    /// The user.
    pub uid: u32,
    /// The run.
    pub run: Uuid,
    /// Memory for this user's request bodies.
    pub bodies: Budget,
    /// The images of this user that may be made at one time.
    pub images: Semaphore,
    /// What all users share.
    pub shared: Arc<Shared>,
    refusals: Refusals,
}

impl Agent {
    /// A user with a run, or with a request of the front's.
    #[must_use]
    pub fn new(uid: u32, run: Uuid, shared: Arc<Shared>) -> Self {
        let (bodies, images) = (Budget::new(USER_BODIES), Semaphore::new(USER_IMAGES));
        Self { uid, run, bodies, images, shared, refusals: Refusals::default() }
    }

    /// Counts a request that was refused here, and logs it.
    pub fn note_refusal(&self, failure: &Failure) {
        metrics::relay::metrics().refused(&failure.code);
        if let Some(count) = self.refusals.count() {
            tracing::info!(
                uid = self.uid,
                run = %self.run,
                status = failure.status.as_u16(),
                code = failure.code,
                refusals = count,
                "model request refused"
            );
        }
    }
}
