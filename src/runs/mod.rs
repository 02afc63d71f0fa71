//! Runs: one active run a user, kept in files, driven by a task each, and found again after a restart.
//!
//! [`Runs`] is what the HTTP side sees. A user's gate orders what changes his state; reading needs no lock.

mod agent;
mod driver;
pub mod event;
mod follow;
pub mod log;
pub mod raw;
pub mod record;
pub mod retention;
mod service;
mod stdin;
pub mod store;
pub mod verdict;
mod wake;

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

pub use service::{Accepted, Runs, StartError};

use crate::launcher::Launcher;
use crate::models::Catalogue;
use crate::relay::usage::Usage;
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
    /// `RUN_TIMEOUT_MS`.
    pub run_timeout: Duration,
    /// `RUN_CANCEL_GRACE_MS`.
    pub cancel_grace: Duration,
    /// `WORKSPACE_FINALIZATION_TIMEOUT_MS`.
    pub finalization_timeout: Duration,
    /// `MAX_CONCURRENT_RUNS`.
    pub max_concurrent_runs: usize,
}

impl Services {
    fn raw_dir(&self, run: Uuid) -> PathBuf {
        self.raw.join(run.to_string())
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
