//! Runs: one active run a user, kept in files, driven by a task each, and found again after a restart.
//!
//! [`Runs`] is what the HTTP side sees. A user's gate orders what changes his state; reading needs no lock.

mod agent;
pub mod disk;
mod driver;
pub mod event;
mod follow;
mod git;
pub mod log;
pub mod messages;
pub mod raw;
pub mod record;
pub mod retention;
mod service;
mod spent;
mod stdin;
pub mod store;
#[cfg(test)]
pub mod testing;
pub mod verdict;
mod wake;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pi_gateway_helper::names::User;
use uuid::Uuid;

pub use git::{paths, push_again};
pub use service::{Accepted, Busy, Hold, ImageHold, Runs, StartError};

use crate::git::Git;
use crate::launcher::Launcher;
use crate::models::Catalogue;
use crate::relay::git::users;
use crate::relay::model::mark;
use crate::relay::model::usage::Usage;
use crate::sites::Sites;
use crate::standing::Register;
use crate::workspace::workers::Workers;
use store::Store;

/// What every run needs.
pub struct Services {
    /// The records.
    pub store: Store,
    /// The launcher.
    pub launcher: Launcher,
    /// The operator's models and their prices.
    pub catalogue: Catalogue,
    /// `PI_GATEWAY_DEFAULT_MODEL`; one of the catalogue.
    pub default_model: String,
    /// Where the launcher puts the agents' input and output.
    pub raw: PathBuf,
    /// Where the model relay counts.
    pub usage: PathBuf,
    /// Where the launcher keeps which user has which uid.
    pub registry: PathBuf,
    /// `RUN_TIMEOUT_MS`.
    pub run_timeout: Duration,
    /// `RUN_CANCEL_GRACE_MS`.
    pub cancel_grace: Duration,
    /// `WORKSPACE_FINALIZATION_TIMEOUT_MS`.
    pub finalization_timeout: Duration,
    /// `MAX_CONCURRENT_RUNS`.
    pub max_concurrent_runs: usize,
    /// `WORKSPACE_QUOTA_MB`, in bytes.
    pub workspace_quota: u64,
    /// The users' repositories.
    pub git: Arc<Git>,
    /// The users' sites.
    pub sites: Sites,
    /// The users' workers.
    pub workers: Arc<Workers>,
    /// What the workspaces of active runs take.
    pub sizes: disk::Sizes,
    /// Who is kept out.
    pub standing: Register,
}

impl Services {
    fn raw_dir(&self, run: Uuid) -> PathBuf {
        self.raw.join(run.to_string())
    }

    /// Until when the user's token budget is used up, by the model relay's word. When that cannot be read he is let
    /// through: the relay refuses him all the same.
    pub fn exhausted(&self, user: &User) -> Option<Timestamp> {
        let found = match users::uid(&self.registry, user) {
            Ok(None) => return None,
            // No user has ever had a run.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Ok(Some(uid)) => mark::read(&self.usage, uid, Timestamp::now()),
            Err(error) => Err(error),
        };
        found.unwrap_or_else(|error| {
            tracing::error!(user = user.as_str(), %error, "whether the user's budget is used up could not be read");
            None
        })
    }

    /// What the relay counted for a run; nothing when its sandbox never started.
    fn usage(&self, uid: Option<u32>, run: Uuid) -> Usage {
        let Some(uid) = uid else { return Usage::default() };
        Usage::read(&self.usage, uid, run, &self.catalogue).unwrap_or_else(|error| {
            tracing::error!(%run, %error, "the run's usage could not be read");
            Usage::default()
        })
    }
}
