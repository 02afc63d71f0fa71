//! `/workspace/files`: listing, making directories, moving, removing, and uploads of several files.

use axum::Json;
use axum::extract::{FromRequest, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::parts::Parts;
use super::{FileEntry, failed, hold, refused, unfit, upload};
use crate::http::App;
use crate::http::body;
use crate::http::caller::Caller;
use crate::http::parameters::Parameters;
use crate::http::problem::{self, Problem};
use crate::worker::message::{Condition, Reply, Request};
use crate::worker::relpath::RelPath;

/// The most entries on a page, and how many there are unless asked otherwise.
const MAX_PAGE: u32 = 1000;
const PAGE: u32 = 100;

/// A page of a directory.
#[derive(Serialize, ToSchema)]
pub struct FilePage {
    /// What is in it, in the order of the paths' bytes.
    data: Vec<FileEntry>,
    /// The cursor of the next page; null on the last.
    next: Option<String>,
}

/// A change of the tree.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Makes a directory, and those above it.
    Mkdir {
        /// Where.
        #[schema(min_length = 1, max_length = 4096)]
        path: String,
    },
    /// Gives a file or directory another name.
    Move {
        /// Its name now.
        #[schema(min_length = 1, max_length = 4096)]
        from: String,
        /// Its name then; the directory must be there.
        #[schema(min_length = 1, max_length = 4096)]
        to: String,
        /// Whether a file of that name may be replaced; false unless given.
        #[serde(default)]
        overwrite: bool,
    },
}

/// Files to be uploaded. The name of a part does not count, its file name does.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a form that is described; its parts are read one by one")]
struct Upload {
    /// The files, at most 32.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 32)]
    file: Vec<Vec<u8>>,
}

/// What was made: a directory, or files.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "two answers that are described; each is made where it is known")]
enum Made {
    /// The directory.
    Directory(FileEntry),
    /// The files of an upload.
    Files(Uploaded),
}

/// What an upload made.
#[derive(Serialize, ToSchema)]
pub struct Uploaded {
    /// The files, in the order in which they were sent.
    pub data: Vec<FileEntry>,
}

/// Lists a directory.
#[utoipa::path(get, path = "/workspace/files", tag = "workspace", security(("bearer" = [])),
    params(("path" = Option<String>, Query, description = "The directory, percent-encoded; the workspace unless given"),
        ("recursive" = Option<bool>, Query, description = "With everything below; false unless given"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Entries on the page, 1 to 1000; 100 unless given"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]+$", description = "The `next` of the page before")),
    responses((status = 200, body = FilePage), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list(State(app): State<App>, Caller(caller): Caller, uri: Uri) -> Result<Json<FilePage>, Box<Problem>> {
    let parameters = Parameters::of(&uri, &["path", "recursive", "limit", "cursor"])?;
    let path = parameters.path("path");
    let limit = parameters.number("limit", PAGE, MAX_PAGE)?;
    let recursive = parameters.flag("recursive")?;
    let bad = || Problem::new(problem::INVALID_PARAMETER, "cursor: the `next` of a page of this listing.");
    let decoded = |cursor| URL_SAFE_NO_PAD.decode(cursor).ok().filter(|name| !name.is_empty()).ok_or_else(bad);
    let after = parameters.bytes("cursor").map(decoded).transpose()?;
    let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
    let request = Request::List { path, after, limit, recursive };
    let (reply, _) = app.workers.ask(&caller.user, request).await.map_err(refused)?;
    let Reply::Page { entries, more } = reply else { return Err(unfit()) };
    let last = entries.last().filter(|_| more).and_then(|entry| entry.path.get(prefix..));
    let next = last.map(|last| URL_SAFE_NO_PAD.encode(last));
    Ok(Json(FilePage { data: entries.into_iter().map(FileEntry::from).collect(), next }))
}

/// Makes a directory, moves something (JSON), or uploads files (multipart).
#[utoipa::path(post, path = "/workspace/files", tag = "workspace", security(("bearer" = [])),
    params(("path" = Option<String>, Query, description = "For uploads: the directory; the workspace unless given"),
        ("overwrite" = Option<bool>, Query, description = "For uploads: whether files may be replaced; false unless given")),
    request_body(content((Operation = "application/json"), (Upload = "multipart/form-data"))),
    responses((status = 200, description = "Moved", body = FileEntry),
        (status = 201, description = "Made: the directory, or `{data}` with the files of an upload", body = Made),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem),
        (status = 507, body = Problem)))]
pub async fn change(
    State(app): State<App>,
    Caller(caller): Caller,
    uri: Uri,
    headers: HeaderMap,
    request: HttpRequest,
) -> Result<Response, Box<Problem>> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.starts_with("multipart/form-data") {
        let parts = Parts::of(request).await?;
        let uploaded = upload::upload(&app, &caller.user, &uri, &headers, parts).await?;
        return Ok((StatusCode::CREATED, Json(uploaded)).into_response());
    }
    Parameters::of(&uri, &[])?;
    let body::Json(bytes, _place) = body::Json::from_request(request, &app).await?;
    // Looked at here as well: one that no path is may be longer than a question.
    let path_of = |text: String| RelPath::parse(text.into()).map(|path| path.as_bytes().to_vec()).map_err(failed);
    let (request, path, status) = match body::parse(&bytes)? {
        Operation::Mkdir { path } => {
            let path = path_of(path)?;
            (Request::MakeDirectory(path.clone()), path, StatusCode::CREATED)
        }
        Operation::Move { from, to, overwrite } => {
            let (from, to) = (path_of(from)?, path_of(to)?);
            (Request::Rename { from, to: to.clone(), overwrite }, to, StatusCode::OK)
        }
    };
    let hold = hold(&app, &caller.user).await?;
    let (_hold, _) = super::change(&app, hold, &caller.user, request).await?;
    let (reply, _) = app.workers.ask(&caller.user, Request::Stat(path)).await.map_err(refused)?;
    let Reply::Entry(entry) = reply else { return Err(unfit()) };
    Ok((status, Json(FileEntry::from(entry))).into_response())
}

/// Removes a file or a directory.
#[utoipa::path(delete, path = "/workspace/files", tag = "workspace", security(("bearer" = [])),
    params(("path" = String, Query, min_length = 1, max_length = 4096, description = "What, percent-encoded"),
        ("recursive" = Option<bool>, Query, description = "With everything below; false unless given")),
    responses((status = 204, description = "Removed"), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 408, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn remove(State(app): State<App>, Caller(caller): Caller, uri: Uri) -> Result<StatusCode, Box<Problem>> {
    let parameters = Parameters::of(&uri, &["path", "recursive"])?;
    let path = parameters.file_path("path")?;
    let recursive = parameters.flag("recursive")?;
    let mut hold = hold(&app, &caller.user).await?;
    loop {
        let request = Request::Remove { path: path.clone(), recursive, condition: Condition::None };
        let removed = super::change(&app, hold, &caller.user, request).await?;
        hold = removed.0;
        match removed.1 {
            Reply::Done => return Ok(StatusCode::NO_CONTENT),
            // A large tree takes several questions; a request that is over stops between two.
            Reply::Partly => {}
            _ => return Err(unfit()),
        }
    }
}
