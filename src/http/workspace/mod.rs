//! `/workspace`: the user's files. Reading goes on at any time; what changes something waits for its turn and is 409
//! while a run is active.

pub mod archive;
pub mod content;
pub mod files;
pub mod image;
mod parts;
mod put;
pub mod show;
pub mod sync;
mod upload;
mod validators;

use std::time::Duration;

use axum::extract::Request as HttpRequest;
use axum::http::{Method, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pi_gateway_helper::names::User;
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use super::App;
use super::problem::{self, Problem};
use crate::image::maker;
use crate::runs::{Busy, Hold};
use crate::worker::message::{Entry, Failure, Kind, Reply, Request};
use crate::workspace::connection::AskError;
use crate::workspace::workers::WorkerError;

/// What something in a workspace is.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe; it is never opened.
    Fifo,
    /// A socket; it is never opened.
    Socket,
    /// A device; it is never opened.
    Device,
}

/// Something in a workspace.
#[derive(Serialize, ToSchema)]
pub struct FileEntry {
    /// Where it is, from the workspace's root; what is not UTF-8 in it is replaced, then `path_b64` has the bytes.
    path: String,
    /// The bytes of a path that is not UTF-8, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    /// What it is.
    kind: EntryKind,
    /// Its length in bytes.
    size: u64,
    /// When its content was changed last, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    modified_at: jiff::Timestamp,
    /// Its version, as `ETag` gives it; files only.
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<Entry> for FileEntry {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            Kind::File => EntryKind::File,
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => EntryKind::Symlink,
            Kind::Fifo => EntryKind::Fifo,
            Kind::Socket => EntryKind::Socket,
            Kind::Device => EntryKind::Device,
        };
        let utf8 = std::str::from_utf8(&entry.path).is_ok();
        FileEntry {
            path: String::from_utf8_lossy(&entry.path).into_owned(),
            path_b64: (!utf8).then(|| STANDARD.encode(&entry.path)),
            kind,
            size: if entry.kind == Kind::File { entry.version.size } else { 0 },
            modified_at: validators::timestamp(&entry.version),
            etag: (entry.kind == Kind::File).then(|| validators::etag(&entry.version)),
            target: entry.target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        }
    }
}

/// What a request may take beyond the ordinary limit: an upload counts its own time.
pub fn time_of(app: &App, request: &HttpRequest) -> Duration {
    let uploads = [Method::PUT, Method::POST].contains(request.method());
    if request.uri().path() == "/workspace/sync" {
        return app.runs.services().finalization_timeout + app.request_timeout;
    }
    if request.uri().path() == "/workspace/images/generate" {
        return maker::PATIENCE + app.request_timeout;
    }
    if uploads && request.uri().path().starts_with("/workspace/files") {
        return Duration::from_secs(app.max_upload / put::SLOWEST) + app.request_timeout;
    }
    Duration::ZERO
}

/// Keeps runs and other writers away; 409 while a run is active.
pub(super) async fn hold(app: &App, user: &User) -> Result<Hold, Box<Problem>> {
    app.runs.hold(user).await.map_err(busy)
}

/// Does what changes the workspace to its end, whoever hangs up: until the worker has answered, runs and other writers are
/// kept away.
async fn kept<T: Send + 'static>(
    hold: Hold,
    work: impl Future<Output = Result<T, Box<Problem>>> + Send + 'static,
) -> Result<(Hold, T), Box<Problem>> {
    let done = tokio::spawn(async move { work.await.map(|done| (hold, done)) }.in_current_span());
    done.await.map_err(|error| Problem::storage(&std::io::Error::other(error)))?
}

/// Has the worker change something.
async fn change(app: &App, hold: Hold, user: &User, request: Request) -> Result<(Hold, Reply), Box<Problem>> {
    let (workers, user) = (app.workers.clone(), user.clone());
    let asked = async move { workers.ask_once(&user, request).await.map(|(reply, _)| reply).map_err(refused) };
    kept(hold, asked).await
}

fn busy(busy: Busy) -> Box<Problem> {
    match busy {
        Busy::Run(run) => {
            let detail = "The workspace belongs to the run until it ends: wait for it, or cancel it.";
            Problem::new(problem::RUN_ACTIVE, detail).with_run(run)
        }
        Busy::Image => Problem::imaging(),
        Busy::Blocked => Problem::blocked(),
        Busy::Sync => {
            Problem::new(problem::SYNC_ACTIVE, "Try again when it has ended.").with_header(header::RETRY_AFTER, "2")
        }
    }
}

/// The problem that a worker's failure is to the caller.
pub(super) fn refused(error: WorkerError) -> Box<Problem> {
    let busy =
        || Problem::new(problem::WORKSPACE_BUSY, "Try again in a few seconds.").with_header(header::RETRY_AFTER, "2");
    match error {
        WorkerError::Ask(AskError::Failed(failure)) => failed(failure),
        WorkerError::Ask(AskError::Busy) | WorkerError::Full => busy(),
        error => {
            tracing::error!(%error, "workspace");
            let detail = "The operator finds the cause in the journal, under the request's id. Try again.";
            Problem::new(problem::WORKSPACE_UNAVAILABLE, detail).with_header(header::RETRY_AFTER, "5")
        }
    }
}

fn failed(failure: Failure) -> Box<Problem> {
    let told = |code, detail: &str| Problem::new(code, detail);
    match failure {
        Failure::NotFound => Problem::not_found("This path"),
        Failure::NotADirectory => told(problem::NOT_A_DIRECTORY, "Choose another path."),
        Failure::IsADirectory => told(problem::NOT_A_FILE, "It is a directory."),
        Failure::Special(kind) => told(problem::NOT_A_FILE, &format!("It is a {kind:?}.").to_lowercase()),
        Failure::Outside => told(problem::OUTSIDE_WORKSPACE, "It is never followed."),
        Failure::Exists => told(problem::ALREADY_EXISTS, "Remove it first, choose another name, or say overwrite."),
        Failure::Changed => told(problem::PRECONDITION_FAILED, "Read it again, and decide anew."),
        Failure::Denied => told(problem::PERMISSION_DENIED, "The agent has taken the user's own right away (chmod)."),
        Failure::BadPath => told(
            problem::INVALID_PARAMETER,
            "path: relative, without empty, `.` and `..` parts, each part up to 255 bytes, 4096 bytes in all.",
        ),
        Failure::TooDeep => told(problem::TOO_DEEP, "Ask for a part of it."),
        Failure::NotEmpty => told(problem::NOT_EMPTY, "Say recursive=true to remove what is in it."),
        Failure::NoSpace => told(problem::DISK_FULL, "Nothing was changed. Tell the operator."),
        Failure::Quota => told(problem::QUOTA_EXCEEDED, "Nothing was changed. Remove something first."),
        Failure::Torn => told(problem::FILE_CHANGED, "Try again."),
        Failure::NotASession => told(
            problem::SESSION_UNUSABLE,
            "The agent has put something else in its place. DELETE /session starts afresh.",
        ),
        Failure::TooLarge => {
            told(problem::SESSION_TOO_LARGE, "DELETE /session starts afresh and keeps this one aside.")
        }
        Failure::Unfit => told(problem::WORKSPACE_BUSY, "Try again in a few seconds."),
        Failure::Failed => told(problem::STORAGE_FAILED, "The operator finds the cause in the worker's journal."),
    }
}

/// A reply that is not one to the question.
pub(super) fn unfit() -> Box<Problem> {
    refused(WorkerError::Ask(AskError::Unfit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::runs::testing;

    #[tokio::test]
    async fn others_are_kept_away_until_a_change_is_done_though_its_client_has_hung_up() {
        let dir = tempfile::tempdir().unwrap();
        let (runs, user) = (testing::runs(dir.path()), User::parse("alice").unwrap());
        let (done, coming) = tokio::sync::oneshot::channel::<()>();
        let work = kept(runs.hold(&user).await.unwrap(), async move {
            coming.await.unwrap();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::ZERO, work).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(100), runs.hold(&user)).await.is_err());
        done.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(60), runs.hold(&user)).await.unwrap().unwrap();
    }
}
