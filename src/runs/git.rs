//! What a run has to do with the workspace's repository: it is there before the first agent, the run's work is committed
//! at its end, and the push goes on behind it. Nothing of this fails a run: it is noted in its record.

use std::sync::Arc;

use pi_gateway_helper::names::User;
use uuid::Uuid;

use super::Services;
use super::record::{PushStatus, Record, RunWorkspace, Skipped};
use crate::git::Pushing;
use crate::git::state::Position;
use crate::metrics::front::metrics;
use crate::worker::git::message::{Committed, Failure, Reason, Skips};

/// Makes the user's repository before his first agent starts.
pub async fn prepare(services: &Services, user: &User) {
    if let Err(failure) = services.git.prepare(user).await {
        let (code, message) = (failure.code, failure.message);
        tracing::warn!(user = user.as_str(), code, message, "the workspace's repository could not be made");
    }
}

/// Commits what the run has left, and notes it in the record. Gives the push that follows.
pub async fn commit(services: &Services, user: &User, record: &mut Record, prompt: &str) -> Option<Pushing> {
    if !services.git.is_enabled() {
        return None;
    }
    match services.git.commit(user, record.run.id, prompt).await {
        Ok((committed, pushing)) => {
            let mut workspace = told(committed);
            workspace.push = pushing.as_ref().map(|_| PushStatus::Pending);
            record.run.workspace = Some(workspace);
            pushing
        }
        Err(failure) => {
            tracing::warn!(run = %record.run.id, code = failure.code, message = failure.message, "the run's work is not committed");
            let reason = Some((&failure).into());
            record.run.workspace = Some(RunWorkspace { reason, ..RunWorkspace::default() });
            None
        }
    }
}

fn told(committed: Committed) -> RunWorkspace {
    // Of the worker's words only what has the form of a commit is shown as one.
    let commit =
        Position::from(crate::worker::git::message::Position { head: committed.commit, ..committed.position }).head;
    let (skipped, skipped_count) = paths(&committed.skipped);
    RunWorkspace { commit, push: None, reason: None, skipped, skipped_count, set_aside: committed.set_aside }
}

/// What could not be committed, as it is shown.
pub fn paths(skips: &Skips) -> (Vec<Skipped>, u64) {
    let reason = |reason| match reason {
        Reason::Special => "special",
        Reason::NestedRepository => "nested_repository",
        Reason::TooLarge => "too_large",
        Reason::Unreadable => "unreadable",
        Reason::Name => "name",
        Reason::TooDeep => "too_deep",
        Reason::Changed => "changed",
        Reason::NoRoom => "no_room",
    };
    let named = skips.named.iter().map(|skip| Skipped {
        path: String::from_utf8_lossy(&skip.path).into_owned(),
        reason: reason(skip.reason).to_owned(),
    });
    (named.collect(), skips.count)
}

/// Waits for the push behind a run and notes how it went.
pub async fn push_behind(services: Arc<Services>, user: User, run: Uuid, pushing: Pushing) {
    let result = services.git.pushed(&user, pushing).await;
    note(&services, &user, run, result).await;
}

/// Pushes what an earlier process was pushing when it ended.
pub async fn push_again(services: Arc<Services>) {
    for (user, run) in services.git.unfinished() {
        let result = services.git.push(&user).await;
        note(&services, &user, run, result).await;
    }
}

async fn note(services: &Services, user: &User, run: Uuid, result: Result<Option<Failure>, Failure>) {
    metrics().push(match &result {
        Ok(_) => "pushed",
        Err(failure) if failure.code == "superseded" => "superseded",
        Err(_) => "failed",
    });
    if let Err(failure) = &result {
        tracing::warn!(%run, user = user.as_str(), code = failure.code, message = failure.message, "the run's commit is not pushed");
    }
    let (store, user) = (services.store.clone(), user.clone());
    let noted = tokio::task::spawn_blocking(move || {
        // A run past its retention is gone, and what is active writes its record itself.
        let Some(mut record) = store.load(&user, run)?.filter(|record| record.run.status.is_final()) else {
            return Ok(());
        };
        let workspace = record.run.workspace.get_or_insert_default();
        workspace.push = Some(if result.is_ok() { PushStatus::Pushed } else { PushStatus::Failed });
        workspace.reason = result.as_ref().map_or_else(Some, Option::as_ref).map(Into::into);
        store.save(&user, &record)
    });
    if let Err(error) = noted.await.map_err(std::io::Error::other).flatten() {
        tracing::error!(%run, %error, "how the push went could not be noted");
    }
}
