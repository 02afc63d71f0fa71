//! The runs of all users: accepting, finding, cancelling, and taking up again what a restart interrupted.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pi_gateway_helper::names::User;
use tokio::sync::watch;
use uuid::Uuid;

use super::Services;
use super::driver::{Beginning, Driver};
use super::log::LogReader;
use super::record::{Idempotency, Record, Run, RunRequest, Status};
use crate::relay::usage::Usage;

/// Why a run was not accepted.
#[derive(Debug)]
pub enum StartError {
    /// The user has an active run.
    Active(Uuid),
    /// The idempotency key was used for another body.
    KeyReused(Uuid),
    /// As many runs are active as the operator allows.
    AtCapacity(usize),
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
}

#[derive(Default)]
struct Slot {
    /// Orders what changes the user's state: the start of runs now, sync and writes to the workspace beside it.
    gate: tokio::sync::Mutex<()>,
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
            runs.services.store.remember_key(&user, &record)?;
            runs.count.fetch_add(1, Ordering::Relaxed);
            match runs.drive(&user, record, request) {
                Ok(_) => tracing::info!(user = user.as_str(), run = %id, ?status, "run taken up again"),
                Err(error) => {
                    tracing::error!(user = user.as_str(), run = %id, %error, "the run's log cannot be opened")
                }
            }
        }
        Ok(runs)
    }

    /// What the runs work with.
    pub fn services(&self) -> &Services {
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
        let _gate = slot.gate.lock().await;
        if let Some(idempotency) = &idempotency
            && let Some(accepted) = self.replay(user, idempotency)?
        {
            return Ok(accepted);
        }
        if let Some(active) = &*lock(&slot.active) {
            return Err(StartError::Active(active.id));
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(StartError::Draining);
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
                model: request.model.clone(),
                thinking: request.thinking,
                metadata: request.metadata.clone(),
            },
            cancel_requested: false,
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
            let store = &self.services.store;
            let _ = store.clear_active(&user).and_then(|()| store.remove(&user, run.id));
            StartError::Storage(error)
        })?;
        tracing::info!(user = user.as_str(), run = %run.id, "run accepted");
        Ok(Accepted { run, watch: Some(watch) })
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
        let (cancel, cancelled) = watch::channel(record.cancel_requested);
        let events = self.services.store.events_path(user, id);
        let beginning = Beginning { user: user.clone(), record, request, events, shown, cancel: cancelled };
        let driver = Driver::new(self.services.clone(), beginning).inspect_err(|_| {
            self.count.fetch_sub(1, Ordering::Relaxed);
        })?;
        let slot = self.slot(user);
        let active = Active { id, shown: watch.clone(), cancel, reader: driver.log().reader() };
        *lock(&slot.active) = Some(Arc::new(active));
        let count = self.count.clone();
        tokio::spawn(driver.drive(move || {
            count.fetch_sub(1, Ordering::Relaxed);
            *lock(&slot.active) = None;
        }));
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

    /// A user's runs, newest first, older than `before`.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list(&self, user: &User, before: Option<Uuid>, limit: usize) -> io::Result<Vec<Run>> {
        let ids = self.services.store.list(user, before, limit)?;
        let mut runs = Vec::with_capacity(ids.len());
        for id in ids {
            runs.extend(self.get(user, id)?);
        }
        Ok(runs)
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

    /// Asks an active run to end; one that has ended stays as it is. None when the user has no such run.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn cancel(&self, user: &User, run: Uuid) -> io::Result<Option<Run>> {
        if let Some(active) = self.active(user).filter(|active| active.id == run) {
            active.cancel.send_replace(true);
        }
        self.get(user, run)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; if something did, the map would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
