//! Bytes on their way into the workspace: into an unnamed file of the user's, which gets its name at the end.
//!
//! A client that hangs up, a front or worker that dies, a full disk: the unnamed file is gone, and what was there stays.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use futures_util::{Stream, StreamExt};
use pi_gateway_helper::names::User;
use tokio::time::{Instant, timeout_at};

use super::{failed, refused, unfit};
use crate::http::App;
use crate::http::problem::{self, Problem};
use crate::worker::message::{Condition, Entry, Failure, Reply, Request};
use crate::workspace::connection::{Answered, AskError, Connection, Question};
use crate::workspace::disk::Space;
use crate::workspace::file;
use crate::workspace::workers::{PATIENCE, WorkerError};

/// How much is gathered before it is written.
const GATHER: usize = 256 << 10;
/// Beside `REQUEST_TIMEOUT_MS`, a body has a second for each of so many bytes: slower ones are given up.
pub const SLOWEST: u64 = 16 << 10;

/// A file that has arrived, or is about to, and has no name yet.
pub struct Received {
    worker: Arc<Connection>,
    file: u32,
    /// Bytes that have arrived.
    size: u64,
    /// The question that makes it, until it is answered.
    making: Option<Question>,
    named: bool,
}

/// Refuses a body that announces to be too long, or only a part of the file, before a byte of it is asked for.
pub fn check_announced(headers: &HeaderMap, most: u64) -> Result<(), Box<Problem>> {
    // RFC 9110, 14.5: whoever resumes an upload would otherwise have the file replaced by the rest of it.
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::new(problem::INVALID_PARAMETER, "Content-Range: a file is written whole."));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = length.and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > most) { Err(too_large(most)) } else { Ok(()) }
}

/// The problem of a body over the limit.
pub fn too_large(most: u64) -> Box<Problem> {
    Problem::new(problem::PAYLOAD_TOO_LARGE, format!("At most {} MiB (MAX_UPLOAD_MB).", most >> 20))
}

/// Receives a body for `path`.
pub async fn receive(app: &App, user: &User, path: Vec<u8>, body: axum::body::Body) -> Result<Received, Box<Problem>> {
    let mut budget = Budget::new(app);
    receive_stream(app, user, path, body.into_data_stream(), &mut budget).await
}

/// How much and how long a request may still send.
pub struct Budget {
    most: u64,
    left: u64,
    idle: Duration,
    deadline: Instant,
}

impl Budget {
    /// That of one request.
    pub fn new(app: &App) -> Self {
        let idle = app.request_timeout;
        Budget { most: app.max_upload, left: app.max_upload, idle, deadline: Instant::now() + idle }
    }

    /// Takes some bytes from it.
    fn spend(&mut self, count: usize) -> Result<(), Box<Problem>> {
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| too_large(self.most))?;
        self.deadline += Duration::from_nanos((count as u64).saturating_mul(1_000_000_000 / SLOWEST));
        Ok(())
    }

    /// Waits for what a client sends, as long as it may take.
    pub async fn within<T>(&self, coming: impl Future<Output = T>) -> Result<T, Box<Problem>> {
        let until = self.deadline.min(Instant::now() + self.idle);
        let slow = |_| Problem::new(problem::REQUEST_TIMEOUT, "The body came too slowly.");
        timeout_at(until, coming).await.map_err(slow)
    }

    /// The next part of a body, None at its end.
    pub async fn next<E>(
        &mut self,
        stream: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Option<Bytes>, Box<Problem>> {
        match self.within(stream.next()).await? {
            None => Ok(None),
            Some(Err(_)) => Err(Problem::new(problem::INVALID_PARAMETER, "The body did not arrive whole.")),
            Some(Ok(bytes)) => {
                self.spend(bytes.len())?;
                Ok(Some(bytes))
            }
        }
    }
}

/// Receives a stream of bytes for `path` into an unnamed file.
pub async fn receive_stream<E>(
    app: &App,
    user: &User,
    path: Vec<u8>,
    mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    budget: &mut Budget,
) -> Result<Received, Box<Problem>> {
    let request = Request::Create { path, parents: true };
    let (worker, question) = app.workers.question(user, request).await.map_err(refused)?;
    let mut received = Received::new(worker, question);
    let answered = received.made().await;
    if let Err(AskError::Gone | AskError::Late) = answered {
        app.workers.replace(user, &received.worker).await;
    }
    let (reply, descriptor) = answered.map_err(|error| refused(WorkerError::Ask(error)))?;
    let Reply::Created = reply else { return Err(unfit()) };
    let mut file = file::fillable(descriptor).map_err(|error| Problem::storage(&error))?;
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut size = 0;
    while let Some(bytes) = budget.next(&mut stream).await? {
        received.size += bytes.len() as u64;
        size += bytes.len();
        gathered.push(bytes);
        if size >= GATHER {
            file = fill(file, std::mem::take(&mut gathered)).await?;
            size = 0;
        }
    }
    fill(file, gathered).await?;
    Ok(received)
}

async fn fill(mut file: File, bytes: Vec<Bytes>) -> Result<File, Box<Problem>> {
    let write = move || {
        // What must stay free is others' as well.
        if Space::around(&file)?.is_scarce() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for bytes in bytes {
            file.write_all(&bytes)?;
        }
        Ok(file)
    };
    let written: io::Result<File> = tokio::task::spawn_blocking(write).await.map_err(io::Error::other).flatten();
    written.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => failed(Failure::NoSpace),
        io::ErrorKind::QuotaExceeded => failed(Failure::Quota),
        // LimitFSIZE of the worker does not bind the front; a file system's own limit does.
        io::ErrorKind::FileTooLarge => failed(Failure::NoSpace),
        _ => Problem::storage(&error),
    })
}

/// Refuses what would take the workspace over its quota; the caller keeps others away.
pub async fn check_quota(app: &App, user: &User, files: impl Iterator<Item = &Received>) -> Result<(), Box<Problem>> {
    let services = app.runs.services();
    let count = async {
        match app.workers.measure(user).await {
            Ok((Reply::Measured { bytes, .. }, _)) => Ok(bytes),
            // What the agent has closed cannot be counted; that the disk keeps its floor was seen.
            Err(WorkerError::Ask(AskError::Failed(_))) => Ok(0),
            Err(error) => Err(refused(error)),
            Ok(_) => Err(unfit()),
        }
    };
    let size = files.map(|file| file.size).sum();
    let fits = services.sizes.fits(user, size, services.workspace_quota, count).await?;
    if fits { Ok(()) } else { Err(failed(Failure::Quota)) }
}

impl Received {
    fn new(worker: Arc<Connection>, question: Question) -> Self {
        Received { worker, file: question.id, size: 0, making: Some(question), named: false }
    }

    /// Waits until it is made.
    async fn made(&mut self) -> Result<Answered, AskError> {
        let making = self.making.as_mut().ok_or(AskError::Unfit)?;
        let answered = making.answer(PATIENCE).await;
        self.making = None;
        answered
    }

    /// Gives the file its name, if the condition holds.
    pub async fn commit(mut self, path: Vec<u8>, condition: Condition) -> Result<Entry, Box<Problem>> {
        let request = Request::Commit { file: self.file, path, condition };
        let answered = self.worker.ask(request, PATIENCE).await;
        // Whatever came of it, the worker has let go of the file.
        self.named = true;
        match answered {
            Ok((Reply::Entry(entry), _)) => Ok(entry),
            Ok(_) => Err(unfit()),
            Err(error) => Err(refused(WorkerError::Ask(error))),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.named {
            let (worker, file, making) = (self.worker.clone(), self.file, self.making.take());
            tokio::spawn(async move {
                // Not before it is made: the worker answers in any order.
                if let Some(mut making) = making {
                    let _ = making.answer(PATIENCE).await;
                }
                worker.ask(Request::Discard(file), PATIENCE).await
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::worker::message::{Answer, Ask, decode, encode};
    use crate::worker::packet;

    #[tokio::test]
    async fn a_file_whose_sender_goes_before_it_is_made_is_forgotten_once_it_is() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::io::ioctl_fionbio(&theirs, false).unwrap();
        let worker = Arc::new(Connection::new(1, ours.into()).unwrap());
        let question = worker.question(Request::Create { path: b"x".to_vec(), parents: true }).await.unwrap();
        drop(Received::new(worker.clone(), question));
        let asked = tokio::task::spawn_blocking(move || {
            let next = || decode::<Ask>(&packet::receive(&theirs).unwrap().unwrap().0).unwrap();
            let made = next();
            packet::send(&theirs, &encode(&Answer { id: made.id, reply: Ok(Reply::Created) }).unwrap(), None).unwrap();
            (made.id, next().request)
        });
        let (file, request) = asked.await.unwrap();
        assert_eq!(request, Request::Discard(file));
    }

    #[test]
    fn a_part_of_a_file_or_too_much_is_refused_before_it_is_asked_for() {
        let judged = |name: header::HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            check_announced(&headers, 10).map_err(|problem| problem.status)
        };
        assert_eq!(judged(header::CONTENT_LENGTH, "10"), Ok(()));
        assert_eq!(judged(header::CONTENT_LENGTH, "11"), Err(413));
        assert_eq!(judged(header::CONTENT_RANGE, "bytes 3-9/10"), Err(400));
    }
}
