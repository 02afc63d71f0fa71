//! `GET /workspace`: what there is, how much of it, and whether an agent is at work in it.

use axum::Json;
use axum::extract::State;
use pi_gateway_helper::names::User;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{refused, unfit};
use crate::git::state::{GitError, Position, Push};
use crate::http::App;
use crate::http::caller::Caller;
use crate::http::problem::Problem;
use crate::runs::paths;
use crate::runs::record::Skipped;
use crate::sites::state::Site;
use crate::worker::git::message::ChangeKind;
use crate::worker::message::Reply;

/// A user's workspace.
#[derive(Serialize, ToSchema)]
pub struct Workspace {
    /// What files and session take on the disk, in bytes.
    size_bytes: u64,
    /// How many files, directories and others there are.
    entries: u64,
    /// How much it may take, in bytes (`WORKSPACE_QUOTA_MB`).
    quota_bytes: u64,
    /// The run that works in it; reading goes on, writing is 409.
    active_run: Option<Uuid>,
    /// What is served of it; null before the first build, and without `SITES_DIR`.
    site: Option<Site>,
    /// Its repository; null without git (`WORKSPACE_GIT_INIT_ENABLED=false`).
    git: Option<Repository>,
}

/// A workspace's repository.
#[derive(Serialize, ToSchema)]
pub struct Repository {
    /// Where it is.
    #[serde(flatten)]
    position: Position,
    /// What differs from the last commit: the first hundred paths. Null while a run is active, or when `error` says why.
    changed: Option<Vec<Changed>>,
    /// How many paths differ.
    changed_count: Option<u64>,
    /// What cannot be committed: the first hundred paths.
    skipped: Vec<Skipped>,
    /// How many paths cannot be committed.
    skipped_count: u64,
    /// How the last push behind a run went.
    last_push: Option<Push>,
    /// How the last sync went.
    last_sync: Option<Push>,
    /// Why it cannot be told what has changed.
    error: Option<GitError>,
}

/// A path that differs from the last commit.
#[derive(Serialize, ToSchema)]
pub struct Changed {
    /// Where; what is not UTF-8 in it is replaced.
    path: String,
    /// `added`, `modified` or `deleted`.
    kind: &'static str,
}

/// What is known of the user's repository. While no run is active, the workspace is compared with its last commit.
async fn repository(app: &App, user: &User, active: bool) -> Option<Repository> {
    let git = &app.runs.services().git;
    if !git.is_enabled() {
        return None;
    }
    let compared = if active { None } else { Some(git.compare(user).await) };
    let state = git.state(user);
    let mut told = Repository {
        position: state.position,
        changed: None,
        changed_count: None,
        skipped: Vec::new(),
        skipped_count: 0,
        last_push: state.last_push,
        last_sync: state.last_sync,
        error: None,
    };
    match compared {
        None => {}
        Some(Err(failure)) => told.error = Some((&failure).into()),
        Some(Ok(compared)) => {
            let changed = compared.changed.iter().map(|change| Changed {
                path: String::from_utf8_lossy(&change.path).into_owned(),
                kind: match change.kind {
                    ChangeKind::Added => "added",
                    ChangeKind::Modified => "modified",
                    ChangeKind::Deleted => "deleted",
                },
            });
            told.changed = Some(changed.collect());
            told.changed_count = Some(compared.count);
            (told.skipped, told.skipped_count) = paths(&compared.skipped);
            told.position = compared.position.into();
        }
    }
    Some(told)
}

/// The user's workspace.
#[utoipa::path(get, path = "/workspace", tag = "workspace", security(("bearer" = [])),
    responses((status = 200, body = Workspace), (status = 401, body = Problem), (status = 503, body = Problem)))]
pub async fn show(State(app): State<App>, Caller(caller): Caller) -> Result<Json<Workspace>, Box<Problem>> {
    let measured = app.workers.measure(&caller.user).await;
    let (Reply::Measured { bytes, inodes, .. }, _) = measured.map_err(refused)? else { return Err(unfit()) };
    let active_run = app.runs.active_run(&caller.user);
    Ok(Json(Workspace {
        size_bytes: bytes,
        entries: inodes,
        quota_bytes: app.runs.services().workspace_quota,
        active_run,
        site: app.runs.services().sites.state(&caller.user),
        git: repository(&app, &caller.user, active_run.is_some()).await,
    }))
}
