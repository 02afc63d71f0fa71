//! The users' workers: started when first needed, kept while they are used, replaced when they fall silent.
//!
//! A worker is started by the launcher, in the user's sandbox and as the user, and dials out to the front's socket; the
//! kernel says whose it is. It serves one front: when this process ends, it ends.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pi_gateway_helper::names::User;
use pi_gateway_helper::wire::{Refusal, Step, Unit};
use tokio::time::{Instant, timeout_at};

use super::connection::{Answered, AskError, Connection, Question};
use super::disk::MEASURING;
use super::door::Door;
use crate::launcher::{Launcher, LauncherError};
use crate::metrics::front::metrics;
use crate::worker::message::Request;

/// How long the start of a worker may take, with all tries.
const START: Duration = Duration::from_secs(15);
/// How long a started worker may take to connect before its start is asked for again: an older one may have been ending.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a worker stays that is asked nothing.
const IDLE: Duration = Duration::from_secs(60);
/// A worker that was asked something within this time stays when a run ends.
const LATELY: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long a question may take that opens, lists or changes something.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Workers at a time. With as many, one that nobody asks anything has to go before another starts.
const MAX_WORKERS: usize = 64;

/// Why there is no worker, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The launcher says no, or is not there.
    #[error("starting the user's worker: {0}")]
    Start(#[from] LauncherError),
    /// It was started and does not connect.
    #[error("the user's worker was started and does not connect; see `journalctl -u 'pi-gateway-worker-*'`")]
    Absent,
    /// As many workers as there may be are busy.
    #[error("{MAX_WORKERS} workers are busy")]
    Full,
    /// It has no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

#[derive(Default)]
struct Slot {
    worker: tokio::sync::Mutex<Option<Arc<Connection>>>,
    used: Mutex<Option<Instant>>,
}

/// All workers.
pub struct Workers {
    launcher: Launcher,
    door: Arc<Door>,
    slots: Mutex<HashMap<User, Arc<Slot>>>,
}

impl Workers {
    /// Binds the socket that workers connect to, and keeps them.
    ///
    /// # Errors
    /// When the path cannot be used.
    pub fn open(path: &Path, launcher: Launcher) -> io::Result<Arc<Self>> {
        let workers = Arc::new(Workers { launcher, door: Door::open(path)?, slots: Mutex::default() });
        tokio::spawn(retire(workers.clone()));
        Ok(workers)
    }

    /// Asks the user's worker something that may be asked again: a worker that is gone or silent is replaced once.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn ask(&self, user: &User, request: Request) -> Result<Answered, WorkerError> {
        self.note_use(user);
        self.ask_within(user, request, PATIENCE).await
    }

    async fn ask_within(&self, user: &User, request: Request, patience: Duration) -> Result<Answered, WorkerError> {
        let worker = self.worker(user).await?;
        match worker.ask(request.clone(), patience).await {
            Err(AskError::Gone | AskError::Late) => self.replace(user, &worker).await,
            answered => return Ok(answered?),
        }
        let worker = self.worker(user).await?;
        match worker.ask(request, patience).await {
            Err(error @ (AskError::Gone | AskError::Late)) => {
                self.replace(user, &worker).await;
                Err(error.into())
            }
            answered => Ok(answered?),
        }
    }

    /// The same as our own affair: it keeps no worker from going.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn ask_aside(&self, user: &User, request: Request) -> Result<Answered, WorkerError> {
        self.ask_within(user, request, PATIENCE).await
    }

    /// Asks how much the user takes of the disk, as our own affair.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn measure(&self, user: &User) -> Result<Answered, WorkerError> {
        self.ask_within(user, Request::Measure, MEASURING).await
    }

    /// Sends the user's worker away unless somebody has asked it something lately: when a run of his has ended.
    pub async fn leave(&self, user: &User) {
        let Some(slot) = lock(&self.slots).get(user).cloned() else { return };
        let mut worker = slot.worker.lock().await;
        let wanted = lock(&slot.used).is_some_and(|used| used.elapsed() < LATELY);
        let busy = worker.as_ref().is_some_and(|there| there.open() > 0);
        // Without a connection there may still be one that was being started.
        if !(wanted || busy) {
            *worker = None;
            self.stop(user).await;
        }
    }

    /// Asks the user's worker to change something. It is not asked again: it may have been done.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn ask_once(&self, user: &User, request: Request) -> Result<Answered, WorkerError> {
        let (worker, mut question) = self.question(user, request).await?;
        match question.answer(PATIENCE).await {
            Err(error @ (AskError::Gone | AskError::Late)) => {
                self.replace(user, &worker).await;
                Err(error.into())
            }
            answered => Ok(answered?),
        }
    }

    /// Opens a question whose worker must stay the same one: what it made is forgotten with it.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn question(&self, user: &User, request: Request) -> Result<(Arc<Connection>, Question), WorkerError> {
        self.note_use(user);
        let worker = self.worker(user).await?;
        match worker.question(request.clone()).await {
            Err(AskError::Gone) => self.replace(user, &worker).await,
            question => return Ok((worker, question?)),
        }
        let worker = self.worker(user).await?;
        let question = worker.question(request).await?;
        Ok((worker, question))
    }

    fn slot(&self, user: &User) -> Arc<Slot> {
        lock(&self.slots).entry(user.clone()).or_default().clone()
    }

    fn note_use(&self, user: &User) {
        *lock(&self.slot(user).used) = Some(Instant::now());
    }

    /// The user's worker.
    async fn worker(&self, user: &User) -> Result<Arc<Connection>, WorkerError> {
        let slot = self.slot(user);
        let mut worker = slot.worker.lock().await;
        if let Some(there) = worker.as_ref().filter(|there| !there.is_closed()) {
            return Ok(there.clone());
        }
        *worker = None;
        self.make_room().await?;
        let begun = Instant::now();
        let started = self.start(user).await;
        metrics().worker_start(started.is_ok(), begun.into_std());
        let started = Arc::new(started?);
        *worker = Some(started.clone());
        Ok(started)
    }

    async fn start(&self, user: &User) -> Result<Connection, WorkerError> {
        let until = Instant::now() + START;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.launcher.start_worker(user).await {
                Ok(uid) => {
                    let connected = timeout_at(until.min(Instant::now() + CONNECT), self.door.arrival_of(uid)).await;
                    if let Ok(socket) = connected {
                        return Connection::new(uid, socket).map_err(|_| WorkerError::Absent);
                    }
                }
                // An older one is about to end, or others are being started.
                Err(LauncherError::Refused(Refusal::Busy(_) | Refusal::Failed(Step::WaitForTurn))) => {}
                Err(error @ LauncherError::Refused(_)) => return Err(error.into()),
                Err(error) if Instant::now() + pause >= until => return Err(error.into()),
                Err(_) => {}
            }
            if Instant::now() + pause >= until {
                self.stop(user).await;
                return Err(WorkerError::Absent);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Has a worker that is gone or silent stopped to its last process, unless another has taken its place already.
    pub async fn replace(&self, user: &User, silent: &Arc<Connection>) {
        let slot = self.slot(user);
        let mut worker = slot.worker.lock().await;
        if worker.as_ref().is_none_or(|there| !Arc::ptr_eq(there, silent)) {
            return;
        }
        *worker = None;
        tracing::warn!(user = user.as_str(), "the user's worker is replaced: it has ended or is silent");
        self.stop(user).await;
    }

    /// Sends the user's worker away, whatever it does.
    ///
    /// # Errors
    /// When the launcher cannot be asked.
    pub async fn dismiss(&self, user: &User) -> Result<(), LauncherError> {
        let slot = self.slot(user);
        let mut worker = slot.worker.lock().await;
        *worker = None;
        self.launcher.stop(Unit::Worker(user.clone())).await
    }

    async fn stop(&self, user: &User) {
        if let Err(error) = self.launcher.stop(Unit::Worker(user.clone())).await {
            tracing::warn!(user = user.as_str(), %error, "the user's worker could not be stopped");
        }
    }

    /// Sends away the workers that were asked nothing for `idle`, at most `count`.
    async fn send_away(&self, idle: Duration, count: usize) {
        let of = |(user, slot): (&User, &Arc<Slot>)| (*lock(&slot.used), user.clone(), slot.clone());
        let mut slots: Vec<_> = lock(&self.slots).iter().map(of).collect();
        // By what was read once: an order that changes while it is made is a panic.
        slots.sort_by_key(|(used, ..)| *used);
        let mut sent = 0;
        for (_, user, slot) in slots {
            let Ok(mut worker) = slot.worker.try_lock() else { continue };
            let rested = lock(&slot.used).is_none_or(|used| used.elapsed() >= idle);
            let free = worker.as_ref().is_some_and(|there| there.open() == 0 && Arc::strong_count(there) == 1);
            if sent < count && rested && free {
                *worker = None;
                self.stop(&user).await;
                sent += 1;
            }
        }
        lock(&self.slots).retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.worker.try_lock().map_or(true, |worker| worker.is_some())
        });
    }

    async fn make_room(&self) -> Result<(), WorkerError> {
        if self.count() >= MAX_WORKERS {
            self.send_away(Duration::ZERO, 1).await;
        }
        if self.count() >= MAX_WORKERS { Err(WorkerError::Full) } else { Ok(()) }
    }

    /// How many workers are up, or are being started.
    pub fn up(&self) -> usize {
        let up = |slot: &Arc<Slot>| slot.worker.try_lock().map_or(true, |worker| worker.is_some());
        lock(&self.slots).values().filter(|slot| up(slot)).count()
    }

    fn count(&self) -> usize {
        // The one that asks holds its own slot and does not count.
        self.up().saturating_sub(1)
    }
}

/// Sends idle workers away, for ever.
async fn retire(workers: Arc<Workers>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        workers.send_away(IDLE, MAX_WORKERS).await;
        // One whose request was given up meanwhile ends with its connection.
        workers.door.clear(IDLE);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
