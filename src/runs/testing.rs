//! Runs without a machine around them: whatever asks the launcher fails, or is answered by the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::store::Store;
use super::{Runs, Services, disk};
use crate::git::state::States;
use crate::git::{Configuration, Git};
use crate::launcher::Launcher;
use crate::models::Catalogue;
use crate::sites::Sites;
use crate::standing::Register;
use crate::workspace::workers::Workers;

/// What runs work with, in a directory; the launcher is at `launcher.sock` in it.
#[allow(clippy::unwrap_used, reason = "a test's own directory")]
pub fn services(dir: &Path) -> Services {
    let launcher = Launcher::new(dir.join("launcher.sock"));
    let text = |text: &str| text.to_owned();
    let git = Configuration {
        enabled: true,
        branch: text("main"),
        initial_message: text("Initial commit"),
        author: text("pi-gateway"),
        email: text("pi-gateway@localhost"),
        prefix: text("pi:"),
        quota: 1 << 30,
        remote: Some(text("workspace")),
    };
    let (patience, models) = (Duration::from_secs(60), include_str!("../../trusted/models.json"));
    let workers = Workers::open(&dir.join("worker.sock"), launcher.clone()).unwrap();
    Services {
        store: Store::open(dir).unwrap(),
        launcher: launcher.clone(),
        catalogue: Catalogue::parse(models).unwrap(),
        default_model: text(""),
        raw: dir.to_owned(),
        usage: dir.to_owned(),
        run_timeout: patience,
        cancel_grace: patience,
        finalization_timeout: patience,
        max_concurrent_runs: 8,
        workspace_quota: 1 << 30,
        git: Git::open(git, launcher, &dir.join("git.sock"), States::new(dir), patience).unwrap(),
        registry: dir.join("uids"),
        sites: Sites::new(None, dir, workers.clone(), patience),
        workers,
        sizes: disk::Sizes::default(),
        standing: Register::new(dir.join("standing")),
    }
}

/// All runs.
#[allow(clippy::unwrap_used, reason = "a test's own directory")]
pub fn runs(dir: &Path) -> Arc<Runs> {
    Runs::recover(Arc::new(services(dir))).unwrap()
}
