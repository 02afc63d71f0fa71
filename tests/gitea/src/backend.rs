//! git's `http-backend` as a CGI program: the request's body streams into it, its output streams back.

use std::io;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::server::{Body, text};

/// Largest piece of an answer, in bytes.
const PIECE: usize = 64 * 1024;
/// Most header lines that are read of the program.
const MAX_LINES: usize = 32;

/// Answers a request with the program; with `half` the answer breaks off behind its first piece.
///
/// # Errors
/// git cannot be run, or does not answer as a CGI program does.
pub async fn answer(
    root: &Path,
    account: &str,
    access: &str,
    head: &Parts,
    body: Incoming,
    half: bool,
) -> io::Result<Response<Body>> {
    let header = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut command = Command::new("git");
    command
        .args(["-c", "safe.directory=*", "http-backend"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", account)
        .env("TEST_ACCESS", access)
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(CONTENT_TYPE))
        .env("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING))
        .env("GIT_PROTOCOL", header(HeaderName::from_static("git-protocol")));
    if !header(CONTENT_LENGTH).is_empty() {
        command.env("CONTENT_LENGTH", header(CONTENT_LENGTH));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("git has no pipes"));
    };
    tokio::spawn(feed(body, stdin));
    let mut output = BufReader::with_capacity(PIECE, stdout);
    let mut response = Response::new(text(""));
    for _ in 0..MAX_LINES {
        let mut line = String::new();
        output.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        if name == "Status" {
            let status = value.split(' ').next().and_then(|status| status.parse::<StatusCode>().ok());
            *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        } else if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    *response.body_mut() = pieces(child, output, half);
    Ok(response)
}

async fn feed(mut body: Incoming, mut stdin: ChildStdin) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data()
            && stdin.write_all(&data).await.is_err()
        {
            return;
        }
    }
}

fn pieces(child: Child, output: BufReader<ChildStdout>, half: bool) -> Body {
    // The child is held until its output ends, or the client goes away and it is killed.
    let frames = stream::unfold(Some((child, output, 0usize)), move |state| async move {
        let (child, mut output, count) = state?;
        if half && count > 0 {
            return Some((Err(io::Error::other("cut by a fault")), None));
        }
        let mut piece = Vec::with_capacity(PIECE);
        match output.read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(read) => {
                piece.truncate(if half { read / 2 } else { read });
                Some((Ok(Frame::data(Bytes::from(piece))), Some((child, output, count + 1))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}
