//! `POST /workspace/sync`: commit, fetch, merge, push. A conflict is 409 and changes nothing.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use super::busy;
use crate::git::state::{GitError, Position};
use crate::http::App;
use crate::http::caller::Caller;
use crate::http::problem::{self, Problem};
use crate::runs::paths;
use crate::runs::record::{PushStatus, Skipped};
use crate::worker::git::message::{Failure, Outcome, Synced};

/// How a sync went.
#[derive(Serialize, ToSchema)]
pub struct Sync {
    /// What came from the remote: `up_to_date`, `fast_forward` or `merged`.
    outcome: &'static str,
    /// The commit of what had changed in the workspace since the last run; null when nothing had.
    commit: Option<String>,
    /// Where the workspace is now.
    #[serde(flatten)]
    position: Position,
    /// Whether the remote has the workspace's branch now.
    push: PushStatus,
    /// Why it has not; beside `pushed`, which other branches it has not.
    reason: Option<GitError>,
    /// What could not be committed: the first hundred paths.
    skipped: Vec<Skipped>,
    /// How much could not be committed.
    skipped_count: u64,
}

/// Brings workspace and remote in step.
#[utoipa::path(post, path = "/workspace/sync", tag = "workspace", security(("bearer" = [])),
    responses((status = 200, body = Sync), (status = 401, body = Problem),
        (status = 409, body = Problem, description = "`run_active`, `sync_active`, `no_remote`, or `merge_conflict` with the paths"),
        (status = 500, body = Problem), (status = 502, body = Problem), (status = 503, body = Problem),
        (status = 504, body = Problem), (status = 507, body = Problem)))]
pub async fn sync(State(app): State<App>, Caller(caller): Caller) -> Result<Json<Sync>, Box<Problem>> {
    let services = app.runs.services().clone();
    if !services.git.is_enabled() || !services.git.has_remote() {
        return Err(Problem::new(problem::NO_REMOTE, "The operator has configured none (WORKSPACE_REMOTE_MODE)."));
    }
    let hold = app.runs.hold_for_sync(&caller.user).await.map_err(busy)?;
    // A client that hangs up does not stop it half way.
    let work = async move {
        let _hold = hold;
        services.git.sync(&caller.user).await
    };
    let work = tokio::spawn(work.in_current_span());
    let synced = work.await.map_err(|error| Problem::storage(&std::io::Error::other(error)))?.map_err(failed)?;
    told(synced)
}

fn told(synced: Synced) -> Result<Json<Sync>, Box<Problem>> {
    let outcome = match synced.outcome {
        Outcome::UpToDate => "up_to_date",
        Outcome::FastForward => "fast_forward",
        Outcome::Merged(_) => "merged",
        Outcome::Conflict { paths, count, side } => {
            let detail = format!(
                "{count} paths were changed on both sides. The workspace is as it was; its side is on the remote's branch \
                 {side}. Merge the two at the remote, or have the agent do it, and sync again."
            );
            let paths = paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
            return Err(Problem::new(problem::MERGE_CONFLICT, detail).with_conflict(paths, side));
        }
    };
    let (push, reason, position) = match synced.pushed.told() {
        Ok((position, left)) => (PushStatus::Pushed, left, position),
        Err(failure) => (PushStatus::Failed, Some(failure), synced.position),
    };
    let reason = reason.as_ref().map(GitError::from);
    let (skipped, skipped_count) = paths(&synced.committed.skipped);
    let commit =
        Position::from(crate::worker::git::message::Position { head: synced.committed.commit, ..Default::default() });
    Ok(Json(Sync { outcome, commit: commit.head, position: position.into(), push, reason, skipped, skipped_count }))
}

fn failed(failure: Failure) -> Box<Problem> {
    let GitError { code, message } = (&failure).into();
    let detail = format!("{message} ({code}).");
    match code.as_str() {
        "git_timeout" => Problem::new(problem::GIT_TIMEOUT, detail),
        "disk_full" => Problem::new(problem::DISK_FULL, detail),
        "git_unavailable" | "git_busy" => {
            Problem::new(problem::WORKSPACE_UNAVAILABLE, detail).with_header(header::RETRY_AFTER, "5")
        }
        "no_remote" | "no_repository" => Problem::new(problem::NO_REMOTE, detail),
        code if code.starts_with("gitea_") || code == "diverged" => Problem::new(problem::REMOTE_FAILED, detail),
        _ => Problem::new(problem::GIT_FAILED, detail),
    }
}
