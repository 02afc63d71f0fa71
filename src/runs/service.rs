//! The runs of all users: accepting, finding, cancelling, and taking up again what a restart interrupted.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pi_gateway_helper::names::User;
use tokio::sync::watch;
use tracing::Instrument;
use uuid::Uuid;

use super::Services;
use super::driver::{Beginning, Driver};
use super::log::LogReader;
use super::messages::{Inbox, Message, Mode, Refused};
use super::record::{Idempotency, Record, Run, RunRequest, Status};
use crate::git::Git;
use crate::relay::model::usage::Usage;
use crate::workspace::disk::Space;

/// Why a run was not accepted.
#[derive(Debug)]
pub enum StartError {
    /// The user has an active run.
    Active(Uuid),
    /// The user's workspace is being synced.
    Syncing,
    /// An image is being made for the user's workspace.
    Imaging,
    /// The idempotency key was used for another body.
    KeyReused(Uuid),
    /// The user's token budget is used up until then.
    Exhausted(jiff::Timestamp),
    /// As many runs are active as the operator allows.
    AtCapacity(usize),
    /// The operator keeps the user out.
    Blocked,
    /// The front is about to end.
    Draining,
    /// The disk refuses.
    Storage(io::Error),
}

/// A run that was accepted, now or by an earlier request with the same key.
pub struct Accepted {
    /// The run.
    pub run: Run,
    /// Changes of the run, when it is active.
    pub watch: Option<watch::Receiver<Run>>,
}

/// The run that a user has going.
struct Active {
    id: Uuid,
    shown: watch::Receiver<Run>,
    cancel: watch::Sender<bool>,
    reader: LogReader,
    inbox: Arc<Inbox>,
}

/// As long as it is held, no run of the user starts and nobody else writes to his workspace.
pub struct Hold {
    slot: Arc<Slot>,
    git: Arc<Git>,
    user: User,
    _gate: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Who has looked at the workspace meanwhile may not have seen what was written.
        self.git.touch(&self.user);
        self.slot.syncing.store(false, Ordering::Relaxed);
    }
}

/// What a user's workspace belongs to at the moment.
#[derive(Debug)]
pub enum Busy {
    /// A run.
    Run(Uuid),
    /// A sync.
    Sync,
    /// An image that is being made.
    Image,
    /// Nobody: the operator keeps the user out.
    Blocked,
}

/// As long as it is held, no run, no sync and no other image of the user starts. Writes go on.
pub struct ImageHold {
    slot: Arc<Slot>,
}

impl Drop for ImageHold {
    fn drop(&mut self) {
        self.slot.imaging.store(false, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Slot {
    /// Orders what changes the user's state: the start of runs now, sync and writes to the workspace beside it.
    gate: Arc<tokio::sync::Mutex<()>>,
    /// A sync holds the gate: that takes long, so others are refused rather than left waiting.
    syncing: AtomicBool,
    /// An image is being made. That takes long as well, and at its end it is written; it is set with the gate held.
    imaging: AtomicBool,
    active: Mutex<Option<Arc<Active>>>,
}

/// All runs.
pub struct Runs {
    services: Arc<Services>,
    /// One slot for each user that this process has seen start a run.
    slots: Mutex<HashMap<User, Arc<Slot>>>,
    count: Arc<AtomicUsize>,
    draining: AtomicBool,
}

impl Runs {
    /// Takes up the runs that were active when the front last ended.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recover(services: Arc<Services>) -> io::Result<Arc<Self>> {
        let runs = Arc::new(Runs {
            services,
            slots: Mutex::default(),
            count: Arc::default(),
            draining: AtomicBool::new(false),
        });
        for (user, record, request) in runs.services.store.active()? {
            let (id, status) = (record.run.id, record.run.status);
            if let Err(error) = runs.services.store.remember_key(&user, &record) {
                // On a full disk the runs go on all the same; while this one is active, a repeated request is refused.
                tracing::error!(user = user.as_str(), run = %id, %error, "the run's idempotency key could not be kept");
            }
            runs.count.fetch_add(1, Ordering::Relaxed);
            match runs.drive(&user, record, request) {
                Ok(_) => tracing::info!(user = user.as_str(), run = %id, ?status, "run taken up again"),
                Err(error) => {
                    tracing::error!(user = user.as_str(), run = %id, %error, "the run's log cannot be opened")
                }
            }
        }
        for user in runs.services.git.interrupted() {
            let slot = runs.slot(&user);
            // Nobody has had the time to take it.
            let Ok(gate) = slot.gate.clone().try_lock_owned() else { continue };
            slot.syncing.store(true, Ordering::Relaxed);
            let hold = Hold { slot, git: runs.services.git.clone(), user, _gate: gate };
            tokio::spawn(async move {
                hold.git.end_interrupted(&hold.user).await;
                drop(hold);
            });
        }
        Ok(runs)
    }

    /// What the runs work with.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Accepts no more runs. Those that are active go on in their sandboxes.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// How many runs are active.
    pub fn active_count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The status of each active run.
    pub fn active_states(&self) -> Vec<Status> {
        let slots: Vec<Arc<Slot>> = lock(&self.slots).values().cloned().collect();
        slots.iter().filter_map(|slot| Some(lock(&slot.active).as_ref()?.shown.borrow().status)).collect()
    }

    fn slot(&self, user: &User) -> Arc<Slot> {
        lock(&self.slots).entry(user.clone()).or_default().clone()
    }

    fn active(&self, user: &User) -> Option<Arc<Active>> {
        let slot = lock(&self.slots).get(user).cloned()?;
        lock(&slot.active).clone()
    }

    /// Starts a run, or finds the one that the same key made.
    ///
    /// # Errors
    /// See [`StartError`]; nothing has changed then.
    pub async fn start(
        self: &Arc<Self>,
        user: &User,
        request: RunRequest,
        idempotency: Option<Idempotency>,
    ) -> Result<Accepted, StartError> {
        let slot = self.slot(user);
        if slot.syncing.load(Ordering::Relaxed) {
            return Err(StartError::Syncing);
        }
        let gate = slot.gate.clone().lock_owned().await;
        let (runs, user) = (self.clone(), user.clone());
        // Nobody's hanging up from here on leaves a run that is counted and on the disk, and that nobody drives.
        let accept = async move { runs.accept(&user, &slot, request, idempotency, gate).await };
        let accepted = tokio::spawn(accept.in_current_span());
        accepted.await.map_err(|error| StartError::Storage(io::Error::other(error)))?
    }

    async fn accept(
        self: &Arc<Self>,
        user: &User,
        slot: &Slot,
        request: RunRequest,
        idempotency: Option<Idempotency>,
        _gate: tokio::sync::OwnedMutexGuard<()>,
    ) -> Result<Accepted, StartError> {
        // He may have been kept out since his request was let in. From here on the gate keeps that from being overlooked.
        if self.services.standing.refuses(user) {
            return Err(StartError::Blocked);
        }
        if let Some(idempotency) = &idempotency
            && let Some(accepted) = self.replay(user, idempotency)?
        {
            return Ok(accepted);
        }
        if let Some(active) = &*lock(&slot.active) {
            return Err(StartError::Active(active.id));
        }
        if slot.imaging.load(Ordering::Relaxed) {
            return Err(StartError::Imaging);
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(StartError::Draining);
        }
        if let Some(until) = self.services.exhausted(user) {
            return Err(StartError::Exhausted(until));
        }
        let space = Space::of(&self.services.raw).map_err(StartError::Storage)?;
        if space.is_scarce() {
            return Err(StartError::Storage(io::ErrorKind::StorageFull.into()));
        }
        let limit = self.services.max_concurrent_runs;
        let reserve = |count: usize| (count < limit).then_some(count + 1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return Err(StartError::AtCapacity(limit));
        }
        let record = Record {
            run: Run {
                id: Uuid::now_v7(),
                status: Status::Starting,
                output_text: None,
                error: None,
                created_at: jiff::Timestamp::now(),
                started_at: None,
                finished_at: None,
                usage: Usage::default(),
                workspace: None,
                site: None,
                model: request.model.clone(),
                thinking: request.thinking,
                metadata: request.metadata.clone(),
            },
            prompt_written: false,
            uid: None,
            verdict: None,
            idempotency,
        };
        let run = record.run.clone();
        let (runs, user) = (self.clone(), user.clone());
        let created = tokio::task::spawn_blocking(move || {
            runs.services.store.create(&user, &record, &request)?;
            Ok((user, record, request))
        });
        let created = created.await.map_err(io::Error::other).and_then(|result| result);
        let (user, record, request) = created.map_err(|error| {
            self.count.fetch_sub(1, Ordering::Relaxed);
            StartError::Storage(error)
        })?;
        let watch = self.drive(&user, record, request).map_err(|error| {
            // Without a log there is no run; what was written of it goes again.
            self.services.store.undo(&user, run.id);
            StartError::Storage(error)
        })?;
        tracing::info!(user = user.as_str(), run = %run.id, "run accepted");
        Ok(Accepted { run, watch: Some(watch) })
    }

    /// Waits until nothing else changes the user's state, and keeps others from it: for a write to his workspace.
    ///
    /// # Errors
    /// What the workspace belongs to until it ends.
    pub async fn hold(&self, user: &User) -> Result<Hold, Busy> {
        let hold = self.take(user).await?;
        // He may have been kept out since his request was let in.
        if self.services.standing.refuses(user) { Err(Busy::Blocked) } else { Ok(hold) }
    }

    async fn take(&self, user: &User) -> Result<Hold, Busy> {
        let slot = self.slot(user);
        if slot.syncing.load(Ordering::Relaxed) {
            return Err(Busy::Sync);
        }
        let gate = slot.gate.clone().lock_owned().await;
        if let Some(active) = &*lock(&slot.active) {
            return Err(Busy::Run(active.id));
        }
        let git = self.services.git.clone();
        git.touch(user);
        Ok(Hold { slot, git, user: user.clone(), _gate: gate })
    }

    /// The same for a sync: whoever comes meanwhile is refused.
    ///
    /// # Errors
    /// What the workspace belongs to until it ends.
    pub async fn hold_for_sync(&self, user: &User) -> Result<Hold, Busy> {
        Self::alone(self.hold(user).await?)
    }

    /// The same for whoever ends what a user has under way that is kept out.
    ///
    /// # Errors
    /// What the workspace belongs to until it ends.
    pub async fn hold_for_keeper(&self, user: &User) -> Result<Hold, Busy> {
        Self::alone(self.take(user).await?)
    }

    fn alone(hold: Hold) -> Result<Hold, Busy> {
        if hold.slot.imaging.load(Ordering::Relaxed) {
            return Err(Busy::Image);
        }
        hold.slot.syncing.store(true, Ordering::Relaxed);
        Ok(hold)
    }

    /// The same for an image, but that writes go on: a run and a sync are refused until it is there.
    ///
    /// # Errors
    /// What the workspace belongs to until it ends.
    pub async fn hold_for_image(&self, user: &User) -> Result<ImageHold, Busy> {
        let hold = self.hold(user).await?;
        if hold.slot.imaging.swap(true, Ordering::Relaxed) {
            return Err(Busy::Image);
        }
        Ok(ImageHold { slot: hold.slot.clone() })
    }

    /// Forgets a user of whom nothing is kept.
    pub fn forget(&self, user: &User) {
        lock(&self.slots).remove(user);
    }

    /// The user's active run.
    pub fn active_run(&self, user: &User) -> Option<Uuid> {
        self.active(user).map(|active| active.id)
    }

    fn replay(&self, user: &User, idempotency: &Idempotency) -> Result<Option<Accepted>, StartError> {
        let used = self.services.store.key_use(user, &idempotency.key, jiff::Timestamp::now());
        let Some(used) = used.map_err(StartError::Storage)? else { return Ok(None) };
        if used.body != idempotency.body {
            return Err(StartError::KeyReused(used.run));
        }
        let active = self.active(user).filter(|active| active.id == used.run);
        let run = self.get(user, used.run).map_err(StartError::Storage)?;
        // A run past its retention is gone, and its key with it.
        Ok(run.map(|run| Accepted { run, watch: active.map(|active| active.shown.clone()) }))
    }

    /// Gives a run to a driver of its own. It is counted already, and not any more when this fails.
    fn drive(self: &Arc<Self>, user: &User, record: Record, request: RunRequest) -> io::Result<watch::Receiver<Run>> {
        let id = record.run.id;
        let (shown, watch) = watch::channel(record.run.clone());
        let (cancel, cancelled) = watch::channel(self.services.store.cancel_requested(user, id));
        let events = self.services.store.events_path(user, id);
        let beginning = Beginning { user: user.clone(), record, request, events, shown, cancel: cancelled };
        let driver = Driver::new(self.services.clone(), beginning).inspect_err(|_| {
            self.count.fetch_sub(1, Ordering::Relaxed);
        })?;
        let slot = self.slot(user);
        let (reader, inbox) = (driver.log().reader(), driver.messages.inbox().clone());
        let active = Active { id, shown: watch.clone(), cancel, reader, inbox };
        *lock(&slot.active) = Some(Arc::new(active));
        let count = self.count.clone();
        let ending = driver.drive(move || {
            count.fetch_sub(1, Ordering::Relaxed);
            *lock(&slot.active) = None;
        });
        let (services, user) = (self.services.clone(), user.clone());
        let span = tracing::info_span!("run", run = %id);
        let driven = async move {
            ending.await;
            // Behind the run's end: nobody waits for it.
            let made = tokio::task::spawn_blocking(move || services.store.make_room(&user, services.workspace_quota));
            match made.await.map_err(io::Error::other).flatten() {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "old runs made room: what is kept of a user has a limit"),
                Err(error) => tracing::error!(%error, "old runs could not be removed"),
            }
        };
        // A run goes on beyond the request that began it: what is logged of it has its id, not the request's.
        tokio::spawn(driven.instrument(span));
        Ok(watch)
    }

    /// A user's run; None when he has no such run.
    ///
    /// # Errors
    /// When its record cannot be read.
    pub fn get(&self, user: &User, run: Uuid) -> io::Result<Option<Run>> {
        if let Some(active) = self.active(user).filter(|active| active.id == run) {
            return Ok(Some(active.shown.borrow().clone()));
        }
        Ok(self.services.store.load(user, run)?.map(|record| record.run))
    }

    /// A user's runs, newest first, older than `before`, and whether there are more: at most `limit`, and no more once
    /// their texts have `most` bytes.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list(&self, user: &User, before: Option<Uuid>, limit: usize, most: usize) -> io::Result<(Vec<Run>, bool)> {
        let ids = self.services.store.list(user, before, limit + 1)?;
        let (mut runs, mut size) = (Vec::new(), 0);
        for id in ids {
            if runs.len() == limit || size >= most {
                return Ok((runs, true));
            }
            let run = self.get(user, id)?;
            size += run.as_ref().and_then(|run| run.output_text.as_ref()).map_or(0, String::len);
            runs.extend(run);
        }
        Ok((runs, false))
    }

    /// The events of a user's run; None when he has no such run.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn events(&self, user: &User, run: Uuid) -> io::Result<Option<LogReader>> {
        if let Some(active) = self.active(user).filter(|active| active.id == run) {
            return Ok(Some(active.reader.clone()));
        }
        match LogReader::open(&self.services.store.events_path(user, run)) {
            Ok(reader) => Ok(Some(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives an active run a message of the user's. It is on disk when it is accepted.
    ///
    /// # Errors
    /// See [`Refused`]; nothing has changed then.
    pub async fn say(&self, user: &User, run: Uuid, text: String, mode: Mode) -> Result<Message, Refused> {
        let Some(active) = self.active(user).filter(|active| active.id == run) else {
            let known = self.get(user, run).map_err(Refused::Storage)?;
            return Err(if known.is_some() { Refused::Ended } else { Refused::NoRun });
        };
        if *active.cancel.borrow() {
            return Err(Refused::Ended);
        }
        let (store, user) = (self.services.store.clone(), user.clone());
        // A client that hangs up does not stop it half way.
        let accepting = tokio::spawn(async move {
            let message = Message { id: Uuid::now_v7(), text, mode, at: jiff::Timestamp::now() };
            active.inbox.accept(store, user, run, message.clone()).await.map(|()| message)
        });
        accepting.await.map_err(|error| Refused::Storage(io::Error::other(error)))?
    }

    /// Asks an active run to end; one that has ended stays as it is. None when the user has no such run. The wish is on
    /// disk before it is answered: the front may end before its driver has acted on it.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub async fn cancel(&self, user: &User, run: Uuid) -> io::Result<Option<Run>> {
        if let Some(active) = self.active(user).filter(|active| active.id == run)
            && !active.cancel.send_replace(true)
        {
            let (store, user) = (self.services.store.clone(), user.clone());
            let kept = tokio::task::spawn_blocking(move || store.request_cancel(&user, run)).await;
            if let Err(error) = kept.map_err(io::Error::other).and_then(|kept| kept) {
                // It counts all the same, in this process: a full disk must not keep a run from being ended.
                tracing::error!(%run, %error, "the cancel could not be kept: a restart at this moment would forget it");
            }
        }
        self.get(user, run)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; if something did, the map would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use pi_gateway_helper::wire::{self, Reply, Request, Unit};

    use super::*;
    use crate::runs::testing;

    fn request() -> RunRequest {
        serde_json::from_value(serde_json::json!({"prompt": "x"})).unwrap()
    }

    #[tokio::test]
    async fn whoever_hangs_up_while_his_run_is_accepted_has_a_run_that_somebody_drives() {
        let dir = tempfile::tempdir().unwrap();
        let (runs, user) = (testing::runs(dir.path()), User::parse("alice").unwrap());
        // Given up at the first wait, which is for the disk.
        let given_up = tokio::time::timeout(Duration::ZERO, runs.start(&user, request(), None)).await;
        assert!(given_up.is_err());
        let driven = async {
            while runs.active_run(&user).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), driven).await.unwrap();
        assert_eq!(runs.active_count(), 1);
    }

    #[tokio::test]
    async fn what_an_interrupted_sync_still_does_is_ended_before_anybody_else_writes() {
        let dir = tempfile::tempdir().unwrap();
        let user = User::parse("alice").unwrap();
        std::fs::create_dir_all(dir.path().join("users/alice")).unwrap();
        std::fs::write(dir.path().join("users/alice/git.json"), r#"{"prepared": true, "syncing": true}"#).unwrap();
        let launcher = UnixListener::bind(dir.path().join("launcher.sock")).unwrap();
        let runs = testing::runs(dir.path());
        assert!(matches!(runs.hold(&user).await, Err(Busy::Sync)));
        assert!(matches!(runs.start(&user, request(), None).await, Err(StartError::Syncing)));
        let stopped = tokio::task::spawn_blocking(move || {
            let (mut peer, _) = launcher.accept().unwrap();
            let asked: Request = wire::read(&mut peer).unwrap();
            std::io::Write::write_all(&mut peer, &wire::encode(&Reply::Stopped).unwrap()).unwrap();
            asked
        });
        assert_eq!(stopped.await.unwrap(), Request::Stop(Unit::Git(user.clone())));
        let free = async {
            while runs.hold(&user).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), free).await.unwrap();
        assert!(runs.services().git.interrupted().is_empty());
    }
}
