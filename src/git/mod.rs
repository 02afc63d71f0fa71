//! The workspaces' repositories, seen from the front: when what is committed and pushed, and what is known of it.
//!
//! The front opens no repository. A job is given to a git worker, which the launcher starts in the user's sandbox for
//! that one job ([`job`]). One job a user at a time; whoever needs the repository interrupts a push that is going on
//! behind a run, and does it again with the next. What was learned is kept in a file ([`state`]).

mod job;
pub mod state;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pi_gateway_helper::names::User;
use pi_gateway_helper::wire::Unit;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::launcher::Launcher;
use crate::metrics::front::metrics;
use crate::relay::git::limits::NAME;
use crate::worker::git::message::{
    self, Committed, Compared, Failure, Outcome, Pushed, Report, Settings, Synced, Task,
};
use crate::workspace::door::Door;
use job::Job;
use state::{Push, State, States};

/// How long a comparison may take that somebody waits for.
const COMPARING: Duration = Duration::from_secs(20);
/// How long the first run of a user may wait for his repository.
const PREPARING: Duration = Duration::from_secs(30);
/// Connections that nobody asked for are forgotten after this.
const UNWANTED: Duration = Duration::from_secs(60);
/// The longest first line of a commit's message, in characters.
const SUBJECT: usize = 72;

/// How it is configured.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// `WORKSPACE_GIT_INIT_ENABLED`: without it there is no git.
    pub enabled: bool,
    /// `WORKSPACE_GIT_DEFAULT_BRANCH`.
    pub branch: String,
    /// `WORKSPACE_GIT_INITIAL_COMMIT_MESSAGE`.
    pub initial_message: String,
    /// `WORKSPACE_AUTO_COMMIT_AUTHOR_NAME`.
    pub author: String,
    /// `WORKSPACE_AUTO_COMMIT_AUTHOR_EMAIL`.
    pub email: String,
    /// `WORKSPACE_AUTO_COMMIT_MESSAGE_PREFIX`.
    pub prefix: String,
    /// `WORKSPACE_QUOTA_MB`, in bytes.
    pub quota: u64,
    /// `GITEA_WORKSPACE_REPO_NAME`, with `WORKSPACE_REMOTE_MODE=gitea`.
    pub remote: Option<String>,
}

#[derive(Default)]
struct Slot {
    /// Held as long as a job is going on.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Ends the push that is going on.
    pushing: Mutex<Option<Arc<Notify>>>,
    /// What the last comparison has found, until something is written.
    compared: Mutex<Known>,
}

/// The last comparison, and how often something was written: one that was going on meanwhile does not count.
#[derive(Default)]
struct Known {
    compared: Option<Compared>,
    writes: u64,
}

impl Known {
    fn forget(&mut self) {
        *self = Known { compared: None, writes: self.writes + 1 };
    }
}

/// All repositories.
pub struct Git {
    configuration: Configuration,
    launcher: Launcher,
    door: Arc<Door>,
    states: States,
    /// `WORKSPACE_FINALIZATION_TIMEOUT_MS`.
    patience: Duration,
    slots: Mutex<HashMap<User, Arc<Slot>>>,
}

/// A push that goes on behind a run.
pub struct Pushing {
    job: Job,
    until: Instant,
    stop: Arc<Notify>,
    slot: Arc<Slot>,
    _turn: OwnedMutexGuard<()>,
}

impl Git {
    /// Listens for git workers on a socket and keeps what it learns below `states`, a directory for each user.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn open(
        configuration: Configuration,
        launcher: Launcher,
        socket: &Path,
        states: States,
        patience: Duration,
    ) -> io::Result<Arc<Self>> {
        let door = Door::open(socket)?;
        Ok(Arc::new(Git { configuration, launcher, door, states, patience, slots: Mutex::default() }))
    }

    /// Whether workspaces are git repositories.
    pub fn is_enabled(&self) -> bool {
        self.configuration.enabled
    }

    /// Whether they have a remote.
    pub fn has_remote(&self) -> bool {
        self.configuration.remote.is_some()
    }

    /// What is known of a user's repository.
    pub fn state(&self, user: &User) -> State {
        self.states.load(user)
    }

    /// The users whose push an earlier process did not see end, with the run.
    pub fn unfinished(&self) -> Vec<(User, Uuid)> {
        self.states.unfinished()
    }

    /// The users whose sync an earlier process did not see end.
    pub fn interrupted(&self) -> Vec<User> {
        self.states.interrupted()
    }

    /// Ends the worker of a sync that an earlier process began: nobody would keep runs and writers away from what it still
    /// does. What it has done so far is committed by the next snapshot.
    pub async fn end_interrupted(&self, user: &User) {
        let until = Instant::now() + self.patience;
        let mut pause = Duration::from_millis(20);
        while let Err(error) = self.launcher.stop(Unit::Git(user.clone())).await {
            tracing::warn!(user = user.as_str(), %error, "the git worker of an interrupted sync could not be stopped");
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        self.states.change(user, |state| state.syncing = false).await;
    }

    /// Something in the user's workspace is about to be written, or was.
    pub fn touch(&self, user: &User) {
        if let Some(slot) = lock(&self.slots).get(user) {
            lock(&slot.compared).forget();
        }
    }

    fn slot(&self, user: &User) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if slots.len() > 4096 {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry(user.clone()).or_default().clone()
    }

    /// Has a push that is going on give way, and waits until no job of the user is.
    ///
    /// # Errors
    /// When one does not end in time.
    pub async fn rest(&self, user: &User) -> Result<(), Failure> {
        self.turn(&self.slot(user), Instant::now() + self.patience).await.map(drop)
    }

    fn settings(&self, user: &User) -> Settings {
        let configuration = self.configuration.clone();
        Settings {
            init: configuration.enabled,
            branch: configuration.branch,
            initial_message: configuration.initial_message,
            author: configuration.author,
            email: configuration.email,
            quota: configuration.quota,
            remote: configuration.remote.map(|name| format!("relay://{NAME}/{}/{name}.git", user.as_str())),
        }
    }

    /// Waits for the user's turn; a push that is going on gives way.
    async fn turn(&self, slot: &Slot, until: Instant) -> Result<OwnedMutexGuard<()>, Failure> {
        if let Some(push) = &*lock(&slot.pushing) {
            push.notify_one();
        }
        let turn = timeout_at(until, slot.turn.clone().lock_owned()).await;
        turn.map_err(|_| Failure::new("git_busy", "another job of the user's repository did not end in time"))
    }

    async fn begin(&self, user: &User, task: Task, until: Instant) -> Result<Job, Failure> {
        self.door.clear(UNWANTED);
        Job::begin(&self.launcher, &self.door, user, message::Job { settings: self.settings(user), task }, until).await
    }

    /// Does a job that has one report.
    async fn once(&self, user: &User, task: Task, patience: Duration) -> Result<Report, Failure> {
        let (until, slot) = (Instant::now() + patience, self.slot(user));
        let _turn = self.turn(&slot, until).await?;
        self.report(user, task, until).await
    }

    /// Does it for whoever has the turn.
    async fn report(&self, user: &User, task: Task, until: Instant) -> Result<Report, Failure> {
        let mut job = self.begin(user, task, until).await?;
        let report = job.report(until).await;
        job.end().await;
        report
    }

    /// Makes the repository of a new workspace, before its first agent starts. Done already is done.
    ///
    /// # Errors
    /// When it cannot be made; the next run tries again.
    pub async fn prepare(&self, user: &User) -> Result<(), Failure> {
        if !self.is_enabled() || self.states.load(user).prepared {
            return Ok(());
        }
        match self.once(user, Task::Prepare, PREPARING.min(self.patience)).await? {
            Report::Committed(committed) => {
                let change = move |state: &mut State| {
                    state.prepared = true;
                    state.position = committed.position.into();
                };
                self.states.change(user, change).await;
                Ok(())
            }
            other => Err(job::unexpected(&other)),
        }
    }

    /// Commits what a run has left in the workspace. With a remote, the push that follows is given back; the user's
    /// next job can interrupt it.
    ///
    /// # Errors
    /// When it is not committed; the next snapshot has it.
    pub async fn commit(&self, user: &User, run: Uuid, prompt: &str) -> Result<(Committed, Option<Pushing>), Failure> {
        let (until, slot) = (Instant::now() + self.patience, self.slot(user));
        let turn = self.turn(&slot, until).await?;
        lock(&slot.compared).forget();
        let text = message_of(&self.configuration.prefix, prompt, &format!("Run: {run}"));
        let mut job = self.begin(user, Task::Snapshot(text), until).await?;
        let committed = match job.report(until).await {
            Ok(Report::Committed(committed)) => committed,
            other => {
                job.end().await;
                return Err(other.map_or_else(|failure| failure, |report| job::unexpected(&report)));
            }
        };
        if !self.has_remote() || committed.position.branch.is_none() {
            job.end().await;
            let position = committed.position.clone().into();
            self.states.change(user, |state| state.position = position).await;
            return Ok((committed, None));
        }
        let position = committed.position.clone().into();
        let change = move |state: &mut State| {
            state.position = position;
            state.pushing = Some(run);
        };
        self.states.change(user, change).await;
        let stop = Arc::new(Notify::new());
        *lock(&slot.pushing) = Some(stop.clone());
        Ok((committed, Some(Pushing { job, until, stop, slot, _turn: turn })))
    }

    /// Waits for a push behind a run. Gives what is told of other branches than the workspace's.
    ///
    /// # Errors
    /// Why it is not pushed.
    pub async fn pushed(&self, user: &User, pushing: Pushing) -> Result<Option<Failure>, Failure> {
        let Pushing { mut job, until, stop, slot, _turn } = pushing;
        let result = tokio::select! {
            report = job.report(until) => match report {
                Ok(Report::Pushed(pushed)) => pushed.told(),
                Ok(other) => Err(job::unexpected(&other)),
                Err(failure) => Err(failure),
            },
            () = stop.notified() => Err(Failure::new("superseded", "something newer needed the repository, and pushes this as well")),
        };
        *lock(&slot.pushing) = None;
        job.end().await;
        self.note_push(user, result).await
    }

    /// Pushes what is committed, after a restart in the middle of it. Gives the same.
    ///
    /// # Errors
    /// Why it is not pushed.
    pub async fn push(&self, user: &User) -> Result<Option<Failure>, Failure> {
        let result = match self.once(user, Task::Push, self.patience).await {
            Ok(Report::Pushed(pushed)) => pushed.told(),
            Ok(other) => Err(job::unexpected(&other)),
            Err(failure) => Err(failure),
        };
        self.note_push(user, result).await
    }

    async fn note_push(
        &self,
        user: &User,
        result: Result<(message::Position, Option<Failure>), Failure>,
    ) -> Result<Option<Failure>, Failure> {
        let push = Push::now(result.as_ref().err());
        let position = result.as_ref().ok().map(|(position, _)| position.clone());
        let change = move |state: &mut State| {
            state.pushing = None;
            state.last_push = Some(push);
            if let Some(position) = position {
                state.position = position.into();
            }
        };
        self.states.change(user, change).await;
        result.map(|(_, left)| left)
    }

    /// Commits, fetches, merges and pushes. The caller keeps runs and writers away meanwhile.
    ///
    /// # Errors
    /// When it is not done; what is committed stays.
    pub async fn sync(&self, user: &User) -> Result<Synced, Failure> {
        let text = message_of(&self.configuration.prefix, "changes outside of runs", "");
        self.touch(user);
        self.states.change(user, |state| state.syncing = true).await;
        let result = match self.once(user, Task::Sync(text), self.patience).await {
            Ok(Report::Synced(synced)) => Ok(*synced),
            Ok(other) => Err(job::unexpected(&other)),
            Err(failure) => Err(failure),
        };
        self.touch(user);
        metrics().sync(outcome_of(&result));
        let failure = match &result {
            Ok(Synced { pushed: Pushed::Not(failure), .. }) | Err(failure) => Some(failure),
            Ok(_) => None,
        };
        let sync = Push::now(failure);
        let position = result.as_ref().ok().map(|synced| match &synced.pushed {
            Pushed::All(position) | Pushed::Most(position, _) => position.clone(),
            Pushed::Not(_) => synced.position.clone(),
        });
        let change = move |state: &mut State| {
            state.syncing = false;
            state.last_sync = Some(sync);
            if let Some(position) = position {
                state.prepared = true;
                state.position = position.into();
            }
        };
        self.states.change(user, change).await;
        result
    }

    /// Compares the workspace with its last commit. What was found is kept until something is written.
    ///
    /// # Errors
    /// When it cannot be done now.
    pub async fn compare(&self, user: &User) -> Result<Compared, Failure> {
        let (until, slot) = (Instant::now() + COMPARING.min(self.patience), self.slot(user));
        let known = || lock(&slot.compared).compared.clone();
        if let Some(compared) = known() {
            return Ok(compared);
        }
        // A push is not interrupted by a look.
        if lock(&slot.pushing).is_some() {
            return Err(Failure::new("git_busy", "a push is going on"));
        }
        let _turn = self.turn(&slot, until).await?;
        // Who has waited for another look need not look himself.
        if let Some(compared) = known() {
            return Ok(compared);
        }
        let writes = lock(&slot.compared).writes;
        match self.report(user, Task::Compare, until).await? {
            Report::Compared(compared) => {
                let mut known = lock(&slot.compared);
                if known.writes == writes {
                    known.compared = Some(compared.clone());
                }
                Ok(compared)
            }
            other => Err(job::unexpected(&other)),
        }
    }
}

/// What a sync is counted as. The failure's code is the worker's word, so it is not.
fn outcome_of(result: &Result<Synced, Failure>) -> &'static str {
    match result {
        Err(_) => "failed",
        Ok(Synced { outcome: Outcome::Conflict { .. }, .. }) => "conflict",
        Ok(Synced { pushed: Pushed::Not(_), .. }) => "not_pushed",
        Ok(Synced { outcome: Outcome::UpToDate, .. }) => "up_to_date",
        Ok(Synced { outcome: Outcome::FastForward, .. }) => "fast_forward",
        Ok(Synced { outcome: Outcome::Merged(_), .. }) => "merged",
    }
}

/// A commit's message: the prefix and a first line, cut to a readable length, and a last line that names its cause.
fn message_of(prefix: &str, text: &str, cause: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("a run");
    let plain: String = line.chars().filter(|c| !c.is_control()).take(SUBJECT).collect();
    let subject = if prefix.is_empty() { plain } else { format!("{prefix} {plain}") };
    if cause.is_empty() { format!("{subject}\n") } else { format!("{subject}\n\n{cause}\n") }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_run_and_the_first_line_of_the_prompt() {
        assert_eq!(message_of("pi:", "\n  add a page\nwith more", "Run: 1"), "pi: add a page\n\nRun: 1\n");
        assert_eq!(message_of("", &"ü".repeat(100), ""), format!("{}\n", "ü".repeat(72)));
        assert_eq!(message_of("pi:", "\u{1b}[31mred\u{0}", ""), "pi: [31mred\n");
        assert_eq!(message_of("pi:", "", ""), "pi: a run\n");
    }
}
