//! A request's body on its way to Gitea: counted, limited, and timed while the client is the one to wait for. It is
//! never held, except for the beginning of a push and a compressed request.

use std::io::Read;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use super::admit::too_large;
use super::failure::Failure;
use super::limits::{MAX_COMPRESSED, MAX_FETCH_REQUEST, Waits};

/// What is known of an upload while somebody else has it.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    stopped: Mutex<Option<Failure>>,
}

impl Progress {
    /// Bytes sent so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why the upload was stopped here, if it was.
    #[must_use]
    pub fn stopped(&self) -> Option<Failure> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts bytes that are sent.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn stop(&self, failure: Failure) -> std::io::Error {
        let error = std::io::Error::other(failure.code);
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        error
    }
}

fn late() -> Failure {
    Failure::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not come in time")
}

fn incomplete() -> Failure {
    Failure::bad("body_incomplete", "the body did not come whole")
}

/// A body as it comes from the client. When it is dropped before its end, the rest is taken and thrown away, within
/// limits: a client that still writes would otherwise get to see a reset connection instead of the answer.
#[derive(Debug)]
pub struct Rest {
    body: Option<Incoming>,
    most: u64,
    waits: Waits,
}

impl Rest {
    /// A body of at most `most` bytes.
    #[must_use]
    pub fn new(body: Incoming, most: u64, waits: Waits) -> Self {
        Self { body: (!body.is_end_stream()).then_some(body), most, waits }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// The client is too slow, or went away.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let Ok(next) = timeout(self.waits.body_idle, body.frame()).await else {
                self.body = None;
                return Err(late());
            };
            match next {
                // Trailers mean nothing here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(_)) => {
                    self.body = None;
                    return Err(incomplete());
                }
                None => {
                    self.body = None;
                    return Ok(None);
                }
            }
        }
    }

    /// The whole compressed request of a fetch, decompressed.
    ///
    /// # Errors
    /// It is too large, before or after, or is not what it should be.
    pub async fn decompressed(mut self) -> Result<Bytes, Failure> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > MAX_COMPRESSED {
                return Err(too_large(MAX_COMPRESSED));
            }
        }
        let inflating = tokio::task::spawn_blocking(move || inflate(&bytes));
        inflating.await.map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "relay_stopping", "try again"))?
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let (Some(mut body), Ok(runtime)) = (self.body.take(), tokio::runtime::Handle::try_current()) else { return };
        let (mut left, wait) = (self.most, self.waits.unwanted);
        // It ends with its connection, which has a time of its own.
        runtime.spawn(async move {
            while left > 0 {
                let Ok(Some(Ok(frame))) = timeout(wait, body.frame()).await else { return };
                left = left.saturating_sub(frame.data_ref().map_or(1, |data| data.len() as u64));
            }
        });
    }
}

fn inflate(bytes: &[u8]) -> Result<Bytes, Failure> {
    let mut plain = Vec::new();
    let read = flate2::read::GzDecoder::new(bytes).take(MAX_FETCH_REQUEST + 1).read_to_end(&mut plain);
    read.map_err(|_| Failure::bad("content_encoding", "the body is no gzip"))?;
    if plain.len() as u64 > MAX_FETCH_REQUEST {
        return Err(too_large(MAX_FETCH_REQUEST));
    }
    Ok(plain.into())
}

/// A body that is passed on while it comes.
#[derive(Debug)]
pub struct Upload {
    first: Bytes,
    rest: Rest,
    length: Option<u64>,
    waited_for: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

impl Upload {
    /// A body that begins with `first`, which has been read, and has `length` bytes in all, if that is known.
    #[must_use]
    pub fn new(first: Bytes, rest: Rest, length: Option<u64>, progress: Arc<Progress>) -> Self {
        Self { first, rest, length, waited_for: None, progress }
    }

    fn stop(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(Some(Err(self.progress.stop(failure))))
    }

    fn pass(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.waited_for = None;
        if self.progress.bytes() + data.len() as u64 > self.rest.most {
            return self.stop(too_large(self.rest.most));
        }
        self.progress.add(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let first = std::mem::take(&mut this.first);
            return this.pass(first);
        }
        loop {
            let Some(body) = &mut this.rest.body else { return Poll::Ready(None) };
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return this.pass(data);
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    this.rest.body = None;
                    return this.stop(incomplete());
                }
                Poll::Ready(None) => {
                    this.rest.body = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        // From here on it is the client who is waited for; the time in which Gitea took nothing is not his.
        let wait = this.rest.waits.body_idle;
        let timer = this.waited_for.get_or_insert_with(|| Box::pin(sleep(wait)));
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => {
                this.rest.body = None;
                this.stop(late())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(self.progress.bytes())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_compressed_request_is_what_it_was_and_no_larger_than_allowed() {
        assert_eq!(inflate(&deflated(b"0032want")).unwrap(), &b"0032want"[..]);
        let most = usize::try_from(MAX_FETCH_REQUEST).unwrap();
        assert_eq!(inflate(&deflated(&vec![0; most])).unwrap().len(), most);
        assert_eq!(inflate(&deflated(&vec![0; most + 1])).unwrap_err().code, "body_too_large");
        let whole = deflated(b"0032want");
        assert_eq!(inflate(&whole[..whole.len() - 1]).unwrap_err().code, "content_encoding");
        assert_eq!(inflate(b"0032want").unwrap_err().code, "content_encoding");
    }
}
