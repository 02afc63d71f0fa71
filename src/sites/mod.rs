//! Exporting what `build-site` has built to `SITES_DIR`, where a web server reads it and no agent writes.
//!
//! At the end of a run, when its sandbox is gone and its user's lock still held, the files worker is asked for what
//! build-site has left ([`report`]). When that is new, `dist` is copied ([`export`]) to a generation of its own and swapped
//! in ([`place`]). Nothing of it is believed, and nothing of it fails a run: whatever goes wrong, what was served is served,
//! and the run says why.

mod export;
pub mod limits;
pub mod place;
mod report;
pub mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use pi_gateway_helper::names::User;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::workspace::workers::Workers;
use report::Report;
use state::{Site, SiteError, State};

/// The sites of all users.
pub struct Sites {
    /// `SITES_DIR`; without one nothing is exported.
    root: Option<PathBuf>,
    /// Where what is known of each user is kept.
    users: PathBuf,
    workers: Arc<Workers>,
    /// `WORKSPACE_FINALIZATION_TIMEOUT_MS`.
    patience: Duration,
}

impl Sites {
    /// Exports to `root`, asks `workers`, keeps what is known in the directory of a store.
    pub fn new(root: Option<PathBuf>, store: &Path, workers: Arc<Workers>, patience: Duration) -> Self {
        Sites { root, users: store.join("users"), workers, patience }
    }

    fn state_path(&self, user: &User) -> PathBuf {
        self.users.join(user.as_str()).join("site.json")
    }

    /// What is served of a user's workspace; None before his first build, and without `SITES_DIR`.
    pub fn state(&self, user: &User) -> Option<Site> {
        self.root.as_ref()?;
        let state = State::load(&self.state_path(user));
        state.run.map(|_| state.site)
    }

    /// Removes what is served of a user, and what was.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget(&self, user: &User) -> io::Result<()> {
        self.root.as_ref().map_or(Ok(()), |root| place::remove(root, user.as_str()))
    }

    /// Exports what the run has built, if it has built anything; `uid` is the user's. Done again after a death.
    pub async fn publish(&self, user: &User, run: Uuid, uid: u32) -> Option<Site> {
        let root = self.root.as_ref()?;
        let until = Instant::now() + self.patience;
        let report = match report::read(&self.workers, user, uid, until).await {
            Ok(report) => report?,
            Err(error) => {
                // It counts as new as long as nobody has seen it.
                tracing::warn!(%run, user = user.as_str(), code = error.code, message = error.message, "what build-site has left is not known");
                return None;
            }
        };
        let path = self.state_path(user);
        let mut state = State::load(&path);
        if state.report.as_ref() == Some(&report.digest) {
            return (state.run == Some(run)).then_some(state.site);
        }
        let exported = match &report.built {
            Ok(()) => self.export(root, user, uid, until).await,
            Err(error) => Err(error.clone()),
        };
        state.note(run, &report, exported);
        if let Some(error) = &state.site.error {
            tracing::warn!(%run, user = user.as_str(), code = error.code, message = error.message, "the site is not exported");
        }
        let kept = state.clone();
        let kept = tokio::task::spawn_blocking(move || kept.save(&path)).await;
        if let Err(error) = kept.map_err(io::Error::other).flatten() {
            tracing::error!(%run, %error, "what is known of the site could not be kept: the next run exports it again");
        }
        Some(state.site)
    }

    /// Copies in a thread of its own: what it makes is for the group as well, and the mask that says so belongs to a
    /// process unless a thread takes a copy of it.
    async fn export(&self, root: &Path, user: &User, uid: u32, until: Instant) -> Result<Site, SiteError> {
        let (root, user, workers, handle) = (root.to_owned(), user.clone(), self.workers.clone(), Handle::current());
        let (done, exported) = oneshot::channel();
        let work = move || {
            let masked = unshare(CloneFlags::CLONE_FS).map(|()| umask(Mode::from_bits_truncate(0o027)));
            let exported = match masked {
                Ok(_) => handle.block_on(export::export(&root, &user, uid, &workers, until)),
                Err(error) => Err(export::storage(&error.into())),
            };
            // Nobody waits for it when this process ends.
            let _ = done.send(exported);
        };
        let spawned = std::thread::Builder::new().name("export".to_owned()).spawn(work);
        spawned.map_err(|error| export::storage(&error))?;
        exported.await.unwrap_or_else(|error| Err(export::storage(&io::Error::other(error))))
    }
}

impl State {
    /// Takes what came of a report.
    fn note(&mut self, run: Uuid, report: &Report, exported: Result<Site, SiteError>) {
        self.run = Some(run);
        self.report = Some(report.digest.clone());
        match exported {
            Ok(site) => self.site = site,
            Err(error) => {
                // What may go better the next time is tried again then.
                if !error.is_final() {
                    self.report = None;
                }
                self.site.error = Some(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_build_that_failed_is_dealt_with_once_and_a_full_disk_is_tried_again() {
        let report = Report { digest: "a".into(), built: Ok(()) };
        let (mut state, run) = (State::default(), Uuid::now_v7());
        let served = Site { generation: Some(run), files: 3, ..Site::default() };
        state.note(run, &report, Ok(served.clone()));
        assert_eq!((state.site.clone(), state.report.as_deref()), (served.clone(), Some("a")));
        for (code, known) in [("build_failed", Some("a")), ("too_large", Some("a")), ("disk_full", None)] {
            let error = SiteError::new(code, "x");
            state.note(run, &report, Err(error.clone()));
            assert_eq!(state.report.as_deref(), known, "{code}");
            assert_eq!(state.site, Site { error: Some(error), ..served.clone() });
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice/site.json");
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).site, state.site);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(State::load(&path).run, None);
    }
}
