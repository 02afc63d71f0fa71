//! `/workspace/files/content`: the bytes of one file.
//!
//! What is sent comes from one descriptor: the file may be replaced meanwhile, the answer stays of one version. A file
//! that shrinks while it is sent ends the connection before the promised length: a wrong body is never a complete one.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use headers::HeaderMapExt;
use rustix::fs::fstatfs;
use rustix::io::{Errno, ReadWriteFlags};

use super::put;
use super::validators::{self, Verdict};
use super::{FileEntry, change, failed, hold, kept, refused, unfit};
use crate::auth;
use crate::http::App;
use crate::http::caller::Caller;
use crate::http::parameters::Parameters;
use crate::http::problem::{self, Problem};
use crate::http::room::Place;
use crate::http::transport::{self, Outbox};
use crate::worker::message::{Condition, Entry, Failure, Kind, Reply, Request, Version};
use crate::workspace::connection::AskError;
use crate::workspace::file;
use crate::workspace::workers::WorkerError;

/// How much of a file is read at a time where the disk is asked.
const CHUNK: usize = 256 << 10;
/// How much is read at a time of what is in memory already.
const SMALL: usize = 64 << 10;
/// The kernel's memory comes in pages of at least this size.
const PAGE: usize = 4 << 10;
/// What hyper keeps of an answer that is not taken: it asks for more below 408 KiB.
const UNSENT: usize = 408 << 10;
/// The magic numbers of tmpfs and overlayfs, by linux/magic.h.
const TMPFS: i64 = 0x0102_1994;
const OVERLAYFS: i64 = 0x794c_7630;

/// Reads a file.
#[utoipa::path(get, path = "/workspace/files/content", tag = "workspace", security(("bearer" = [])),
    params(("path" = String, Query, min_length = 1, max_length = 4096, description = "The file, percent-encoded"),
        ("Range" = Option<String>, Header, description = "One range of bytes; several are answered by the whole file"),
        ("If-None-Match" = Option<String>, Header, description = "304 when the caller has this version"),
        ("If-Match" = Option<String>, Header, description = "412 when it is not this version")),
    responses((status = 200, description = "The file, of the type that its name suggests", content_type = "*/*"),
        (status = 206, description = "A part of it", content_type = "*/*"),
        (status = 304, description = "The caller has it"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem),
        (status = 416, body = Problem), (status = 503, body = Problem)))]
pub async fn read(
    State(app): State<App>,
    Caller(caller): Caller,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    outbox: Option<Extension<Outbox>>,
) -> Result<Response, Box<Problem>> {
    let parameters = Parameters::of(&uri, &["path"])?;
    let path = parameters.file_path("path")?;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let (reply, descriptor) = app.workers.ask(&caller.user, Request::Open(path)).await.map_err(refused)?;
    let Reply::Entry(_) = reply else { return Err(unfit()) };
    let (file, version) = file::readable(descriptor).map_err(|error| Problem::storage(&error))?;
    let mut response = match validators::judge(&headers, Some(&version), true)? {
        Verdict::Failed => return Err(failed(Failure::Changed)),
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::Go => {
            let range = if method == Method::GET { wanted_range(&headers, &version)? } else { None };
            let whole = 0..version.size;
            let mut response = Response::new(Body::empty());
            if let Some(range) = &range {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let last = range.end.saturating_sub(1);
                let value = format!("bytes {}-{last}/{}", range.start, version.size);
                response.headers_mut().extend([(header::CONTENT_RANGE, plain(&value))]);
            }
            let range = range.unwrap_or(whole);
            let length = range.end - range.start;
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            if method == Method::GET {
                // What is in memory at a time of a file that nobody takes; a small one is not worth the count.
                let most = usize::try_from(length).unwrap_or(usize::MAX).min(UNSENT + CHUNK);
                let place = if most > SMALL { Some(app.files.take(&caller.user, most).await?) } else { None };
                let source = Source::new(file, outbox.map(|Extension(outbox)| outbox));
                *response.body_mut() = body(source, range, place).await.map_err(|error| Problem::storage(&error))?;
            }
            response.headers_mut().insert(header::CONTENT_TYPE, content_type(&name));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, plain(&validators::etag(&version)));
    headers.typed_insert(validators::last_modified(&version));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // What an agent wrote must not act in the name of whoever serves the API.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    Ok(response)
}

fn plain(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn content_type(name: &[u8]) -> HeaderValue {
    let guess = std::str::from_utf8(name).ok().and_then(|name| mime_guess::from_path(name).first());
    let Some(mime) = guess else { return HeaderValue::from_static("application/octet-stream") };
    let charset = if mime.type_() == mime_guess::mime::TEXT { "; charset=utf-8" } else { "" };
    plain(&format!("{mime}{charset}"))
}

/// The one range that is wanted; None for the whole file: when there is none, when it is not of this version, in another
/// unit or form (all of which RFC 9110 has ignored), and when there are several.
fn wanted_range(headers: &HeaderMap, version: &Version) -> Result<Option<Range<u64>>, Box<Problem>> {
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(wanted) = value.and_then(|value| range(value, version.size)) else { return Ok(None) };
    if !validators::range_counts(headers, version)? {
        return Ok(None);
    }
    if wanted.start < wanted.end {
        return Ok(Some(wanted));
    }
    Err(Problem::new(problem::RANGE_NOT_SATISFIABLE, format!("It has {} bytes.", version.size))
        .with_header(header::CONTENT_RANGE, format!("bytes */{}", version.size)))
}

/// A range of RFC 9110, section 14.1.2, within `size` bytes; an empty one when the file has nothing of it.
fn range(value: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = value.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number =
        |text: &str| Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u64>().ok();
    match (number(first), number(last)) {
        // All of it is asked for, and no part has the form of nothing.
        (None, Some(1..)) if first.is_empty() && size == 0 => None,
        (None, Some(suffix)) if first.is_empty() => Some(size.saturating_sub(suffix)..size),
        (Some(first), None) if last.is_empty() => Some(first..size.max(first)),
        (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(size).max(first)),
        _ => None,
    }
}

/// The bytes of a range, read as the client takes them; the place of a large one is kept until then.
async fn body(source: Source, range: Range<u64>, place: Option<Place>) -> io::Result<Body> {
    let source = Arc::new(source);
    let (first, next) = source.clone().chunk(range.start, range.end).await?;
    let Some(place) = place.filter(|_| next < range.end) else { return Ok(Body::from(first)) };
    let rest = stream::try_unfold((next, place), move |(from, place)| {
        let source = source.clone();
        async move {
            if from == range.end {
                return Ok(None);
            }
            // A client that takes all at once would have the thread for itself.
            tokio::task::yield_now().await;
            let (bytes, next) = source.chunk(from, range.end).await?;
            Ok::<_, io::Error>(Some((bytes, (next, place))))
        }
    });
    let first = stream::once(async move { Ok(first) });
    Ok(Body::from_stream(StreamExt::chain(first, rest)))
}

/// A file that is sent.
struct Source {
    file: Arc<File>,
    /// Where its parts are put that the connection can send by itself, if it can.
    outbox: Option<Outbox>,
    /// Its file system was seen to be one that never waits for a disk.
    all_memory: AtomicBool,
}

impl Source {
    fn new(file: File, outbox: Option<Outbox>) -> Self {
        Source { file: Arc::new(file), outbox, all_memory: AtomicBool::new(false) }
    }

    /// The next bytes, and where they end.
    async fn chunk(self: Arc<Self>, from: u64, end: u64) -> io::Result<(Bytes, u64)> {
        let most = |limit: usize| usize::try_from(end - from).unwrap_or(limit).min(limit);
        let part = most(transport::PART);
        if let Some(outbox) = self.outbox.as_ref().filter(|_| part > SMALL && self.is_in_memory(from, part)) {
            return Ok((outbox.put(&self.file, from, part), from + part as u64));
        }
        let length = most(SMALL);
        if let Some(bytes) = self.in_memory(from, length) {
            return Ok((bytes, from + length as u64));
        }
        let length = most(CHUNK);
        let read = tokio::task::spawn_blocking(move || self.read(from, length));
        Ok((read.await.map_err(io::Error::other)??, from + length as u64))
    }

    /// Whether a part can be sent without asking the disk. Each page is asked for: whose file it is can put any of them
    /// out of memory.
    fn is_in_memory(&self, from: u64, length: usize) -> bool {
        let last = from + (length as u64).saturating_sub(1);
        (from..last)
            .step_by(PAGE)
            .chain([last])
            .all(|at| self.waits_never() || self.read_at_once(&mut [0], at) == Ok(1))
    }

    /// What is in memory already is not worth a thread's turn; None where the disk would have to be asked, and where
    /// reading fails.
    fn in_memory(&self, from: u64, length: usize) -> Option<Bytes> {
        if !self.waits_never() {
            let mut bytes = vec![0; length];
            match self.read_at_once(&mut bytes, from) {
                Err(Errno::OPNOTSUPP) if self.waits_never() => {}
                read => return (read == Ok(length)).then(|| bytes.into()),
            }
        }
        self.read(from, length).ok()
    }

    fn waits_never(&self) -> bool {
        self.all_memory.load(Ordering::Relaxed)
    }

    /// Reads what the file system has in memory, and remembers when it has everything there.
    fn read_at_once(&self, bytes: &mut [u8], from: u64) -> Result<usize, Errno> {
        let read = rustix::io::preadv2(&self.file, &mut [io::IoSliceMut::new(bytes)], from, ReadWriteFlags::NOWAIT);
        // Two do not know the question: one that is all memory, and one that lies on it, or else on a local disk.
        if read == Err(Errno::OPNOTSUPP) && fstatfs(&self.file).is_ok_and(|it| matches!(it.f_type, TMPFS | OVERLAYFS)) {
            self.all_memory.store(true, Ordering::Relaxed);
        }
        read
    }

    /// Reads all of it. The memory is not cleared first: that would cost as much as the reading.
    fn read(&self, from: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = from + bytes.len() as u64;
            if rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut bytes), at)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        bytes.truncate(length);
        Ok(bytes.into())
    }
}

/// Writes a file, whole or not at all.
#[utoipa::path(put, path = "/workspace/files/content", tag = "workspace", security(("bearer" = [])),
    params(("path" = String, Query, min_length = 1, max_length = 4096, description = "The file, percent-encoded; directories above it are made"),
        ("If-Match" = Option<String>, Header, description = "412 when what is there is not this version"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: 412 when something is there")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "Replaced", body = FileEntry), (status = 201, description = "New", body = FileEntry),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 413, body = Problem),
        (status = 503, body = Problem), (status = 507, body = Problem)))]
pub async fn write(
    State(app): State<App>,
    Caller(caller): Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Box<Problem>> {
    let path = Parameters::of(&uri, &["path"])?.file_path("path")?;
    put::check_announced(&headers, app.max_upload)?;
    // Early, so that a client does not send for nothing; what counts is asked again below.
    drop(hold(&app, &caller.user).await?);
    let there = look(&app, &caller, &path).await?;
    condition(&headers, there.as_ref())?;
    let received = put::receive(&app, &caller.user, path.clone(), body).await?;
    let hold = hold(&app, &caller.user).await?;
    let there = look(&app, &caller, &path).await?;
    let condition = condition(&headers, there.as_ref())?;
    put::check_quota(&app, &caller.user, std::iter::once(&received)).await?;
    let (_hold, entry) = kept(hold, received.commit(path, condition)).await?;
    let status = if there.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let etag = (header::ETAG, validators::etag(&entry.version));
    Ok((status, [etag], axum::Json(FileEntry::from(entry))).into_response())
}

/// What is at a path, None when nothing is. Of a link the version is that of the file which reading it gives, if it does:
/// that is the one that the caller knows.
async fn look(app: &App, caller: &auth::Caller, path: &[u8]) -> Result<Option<Entry>, Box<Problem>> {
    let asked = |request| async {
        match app.workers.ask(&caller.user, request).await {
            Ok((Reply::Entry(entry), _)) => Ok(Ok(entry)),
            Ok(_) => Err(unfit()),
            Err(WorkerError::Ask(AskError::Failed(failure))) => Ok(Err(failure)),
            Err(error) => Err(refused(error)),
        }
    };
    let mut there = match asked(Request::Stat(path.to_vec())).await? {
        Err(Failure::NotFound) => return Ok(None),
        found => found.map_err(failed)?,
    };
    if there.kind == Kind::Symlink
        && let Ok(file) = asked(Request::Open(path.to_vec())).await?
    {
        there.version = file.version;
    }
    Ok(Some(there))
}

/// What the worker shall make sure of when it changes the file; 412 when it is not so already.
fn condition(headers: &HeaderMap, there: Option<&Entry>) -> Result<Condition, Box<Problem>> {
    if !validators::is_conditional(headers) {
        return Ok(Condition::None);
    }
    match validators::judge(headers, there.map(|there| &there.version), false)? {
        Verdict::Go => Ok(there.map_or(Condition::Absent, |there| Condition::Version(there.version))),
        Verdict::NotModified | Verdict::Failed => Err(failed(Failure::Changed)),
    }
}

/// Removes a file.
#[utoipa::path(delete, path = "/workspace/files/content", tag = "workspace", security(("bearer" = [])),
    params(("path" = String, Query, min_length = 1, max_length = 4096, description = "The file, percent-encoded"),
        ("If-Match" = Option<String>, Header, description = "412 when it is not this version")),
    responses((status = 204, description = "Removed"), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 412, body = Problem), (status = 503, body = Problem)))]
pub async fn remove(
    State(app): State<App>,
    Caller(caller): Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, Box<Problem>> {
    let path = Parameters::of(&uri, &["path"])?.file_path("path")?;
    let hold = hold(&app, &caller.user).await?;
    let there = look(&app, &caller, &path).await?;
    let condition = condition(&headers, there.as_ref())?;
    match there.map(|there| there.kind) {
        None => return Err(failed(Failure::NotFound)),
        // A directory is removed by the other route.
        Some(Kind::Directory) => return Err(failed(Failure::IsADirectory)),
        Some(_) => {}
    }
    match change(&app, hold, &caller.user, Request::Remove { path, recursive: false, condition }).await? {
        (_hold, Reply::Done) => Ok(StatusCode::NO_CONTENT),
        _ => Err(unfit()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use pi_gateway_helper::names::User;

    use super::*;
    use crate::http::room::Room;

    #[tokio::test]
    async fn what_nobody_takes_of_a_file_is_memory_that_is_counted() {
        let (room, user) = (Room::new([1 << 20, 1 << 20]), User::parse("alice").unwrap());
        let file = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(8 << 20).unwrap();
            file
        };
        let place = room.take(&user, 1 << 20).await.unwrap();
        let mut sent =
            super::body(Source::new(file(), None), 0..8 << 20, Some(place)).await.unwrap().into_data_stream();
        let mut size = 0;
        while let Some(part) = sent.next().await {
            assert!(room.take(&user, 1).now_or_never().is_none(), "after {size} bytes");
            size += part.unwrap().len();
        }
        assert_eq!(size, 8 << 20);
        drop(sent);
        assert!(room.take(&user, 1 << 20).now_or_never().is_some());
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (value, wanted) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=3-", Some(3..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-99", Some(0..10)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=8-18446744073709551615", Some(8..10)),
            ("bytes=10-", Some(10..10)),
            ("bytes=12-14", Some(12..12)),
            ("bytes=-0", Some(10..10)),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
            ("bytes=99999999999999999999-", None),
            ("lines=1-2", None),
            ("bytes 1-2", None),
        ] {
            assert_eq!(range(value, 10), wanted, "{value}");
        }
        assert_eq!(range("bytes=0-", 0), Some(0..0), "nothing of an empty file can be had");
        assert_eq!((range("bytes=-5", 0), range("bytes=-0", 0)), (None, Some(0..0)), "but for its last bytes");
    }
}
