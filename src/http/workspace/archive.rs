//! `GET /workspace/archive`: a whole tree, written by the worker into a pipe and sent as it comes.
//!
//! An archive that could not be written to its end is never sent to its end: the connection breaks.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::{refused, unfit};
use crate::http::App;
use crate::http::caller::Caller;
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::worker::message::{Format, Reply, Request};
use crate::workspace::connection::{AskError, Question};
use crate::workspace::workers::{PATIENCE, WorkerError};

/// How long a worker may write nothing, and how long it may take to say how it went.
const SILENCE: Duration = Duration::from_secs(30);
/// How much is taken from the pipe at a time; as much as it may hold.
const CHUNK: usize = 256 << 10;

/// Downloads a tree.
#[utoipa::path(get, path = "/workspace/archive", tag = "workspace", security(("bearer" = [])),
    params(("format" = Option<String>, Query, pattern = r"^(tar\.gz|tar\.zst|zip)$", description = "`tar.gz`, `tar.zst` or `zip`; `tar.gz` unless given"),
        ("path" = Option<String>, Query, description = "A file or directory; the whole workspace unless given"),
        ("git" = Option<bool>, Query, description = "Whether `.git` belongs to it; false unless given")),
    responses((status = 200, description = "The archive",
            content(("application/gzip"), ("application/zstd"), ("application/zip"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn archive(State(app): State<App>, Caller(caller): Caller, uri: Uri) -> Result<Response, Box<Problem>> {
    let parameters = Parameters::of(&uri, &["format", "path", "git"])?;
    let ending = parameters.word("format", &["tar.gz", "tar.zst", "zip"])?;
    let (format, content_type) = match ending {
        "tar.zst" => (Format::TarZst, "application/zstd"),
        "zip" => (Format::Zip, "application/zip"),
        _ => (Format::TarGz, "application/gzip"),
    };
    let path = parameters.path("path");
    let request = Request::Archive { path, format, git: parameters.flag("git")? };
    let (worker, mut question) = app.workers.question(&caller.user, request).await.map_err(refused)?;
    let answered = question.answer(PATIENCE).await;
    if let Err(AskError::Gone | AskError::Late) = answered {
        app.workers.replace(&caller.user, &worker).await;
    }
    let (reply, descriptor) = answered.map_err(|error| refused(WorkerError::Ask(error)))?;
    let (Reply::Piped, Some(descriptor)) = (reply, descriptor) else { return Err(unfit()) };
    let pipe = Receiver::from_owned_fd(descriptor).map_err(|error| Problem::storage(&error))?;
    let disposition = format!("attachment; filename=\"workspace.{ending}\"");
    let headers = [(header::CONTENT_TYPE, content_type.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    // The connection to the worker is kept as long as it writes for us.
    let state = (worker, question, pipe);
    let parts = stream::try_unfold(state, |(worker, mut question, mut pipe)| async move {
        let bytes = part(&mut question, &mut pipe).await?;
        Ok::<_, io::Error>(bytes.map(|bytes| (bytes, (worker, question, pipe))))
    });
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// The next part; None at the end, when the worker says that nothing is missing.
async fn part(question: &mut Question, pipe: &mut Receiver) -> io::Result<Option<Bytes>> {
    let mut bytes = bytes::BytesMut::with_capacity(CHUNK);
    let read = timeout(SILENCE, pipe.read_buf(&mut bytes)).await;
    let count = read.map_err(|_| io::Error::other("the worker wrote nothing for a long time"))??;
    if count > 0 {
        return Ok(Some(bytes.freeze()));
    }
    match question.answer(SILENCE).await {
        Ok((Reply::Archived { .. }, _)) => Ok(None),
        Ok(_) => Err(io::Error::other("the worker's answer is not one to the question")),
        Err(error) => {
            tracing::info!(%error, "an archive could not be completed");
            Err(io::Error::other(error))
        }
    }
}
