//! The parts of a `multipart/form-data` body.
//!
//! The parser keeps whatever it has been given until it finds a boundary or the end of a part's headers, and searches it
//! anew each time. So it is given no more than [`OVERHEAD`] beyond what it has handed out, in no more than [`PIECES`]
//! pieces without handing something out; a body that it cannot get on with then is refused.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use futures_util::{Stream, StreamExt};

use crate::http::problem::{self, Problem};

/// What boundaries and headers may take beside the files.
pub const OVERHEAD: u64 = 256 << 10;
/// In how many pieces the headers of a part may come, or what stands before the first.
const PIECES: usize = 1024;

/// The parts of a body, one after the other.
pub struct Parts {
    inner: Multipart,
    ledger: Arc<Mutex<Ledger>>,
}

/// One part, a stream of its bytes.
pub struct Part<'a> {
    field: Field<'a>,
    ledger: Arc<Mutex<Ledger>>,
}

/// What the parser was given and has not handed out.
#[derive(Default)]
struct Ledger {
    bytes: u64,
    /// Pieces since it handed something out.
    pieces: usize,
    /// Whether it was told to get on with what it has.
    told: bool,
    refused: bool,
}

impl Ledger {
    fn handed_out(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        (self.pieces, self.told) = (0, false);
    }
}

/// A body as the parser takes it.
struct Intake {
    body: BodyDataStream,
    ledger: Arc<Mutex<Ledger>>,
}

impl Stream for Intake {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut ledger = lock(&self.ledger);
        if ledger.bytes >= OVERHEAD || ledger.pieces >= PIECES {
            if ledger.told {
                ledger.refused = true;
                return Poll::Ready(Some(Err(axum::Error::new("the parts' headers are too large"))));
            }
            // It takes all it can get before it looks at it; asked again, it had no use for what it has.
            ledger.told = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        drop(ledger);
        let next = self.body.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            let mut ledger = lock(&self.ledger);
            ledger.bytes += bytes.len() as u64;
            ledger.pieces += 1;
        }
        next
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Parts {
    /// The parts of a request's body.
    ///
    /// # Errors
    /// When the request names no boundary.
    pub async fn of(request: Request) -> Result<Self, Box<Problem>> {
        let ledger = Arc::<Mutex<Ledger>>::default();
        let (head, body) = request.into_parts();
        let intake = Intake { body: body.into_data_stream(), ledger: ledger.clone() };
        let mut request = Request::from_parts(head, Body::from_stream(intake));
        // The files are counted as they are written.
        DefaultBodyLimit::disable().apply(&mut request);
        let inner = Multipart::from_request(request, &()).await.map_err(|error: MultipartRejection| {
            Problem::new(problem::UNSUPPORTED_MEDIA_TYPE, format!("{}.", error.body_text()))
        })?;
        Ok(Parts { inner, ledger })
    }

    /// The next part, None at the end.
    ///
    /// # Errors
    /// When the body is malformed, or more than [`OVERHEAD`] is no file.
    pub async fn next(&mut self) -> Result<Option<Part<'_>>, Box<Problem>> {
        let ledger = self.ledger.clone();
        let field = self.inner.next_field().await.map_err(|error: MultipartError| {
            if lock(&ledger).refused {
                let detail = format!("Boundaries and headers: at most {} KiB, and not in tiny pieces.", OVERHEAD >> 10);
                return Problem::new(problem::PAYLOAD_TOO_LARGE, detail);
            }
            Problem::new(problem::INVALID_REQUEST, format!("{}.", error.body_text()))
        })?;
        lock(&ledger).handed_out(0);
        Ok(field.map(|field| Part { field, ledger }))
    }
}

impl Part<'_> {
    /// The name of its file, when it has one.
    pub fn file_name(&self) -> Option<String> {
        self.field.file_name().filter(|name| !name.is_empty()).map(str::to_owned)
    }
}

impl Stream for Part<'_> {
    type Item = Result<Bytes, MultipartError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.field.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            lock(&self.ledger).handed_out(bytes.len());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::StatusCode;
    use futures_util::stream;
    use std::convert::Infallible;

    fn parts(pieces: impl Stream<Item = Bytes> + Send + 'static) -> impl Future<Output = Result<Parts, Box<Problem>>> {
        let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
        Parts::of(Request::builder().header("content-type", "multipart/form-data; boundary=b").body(body).unwrap())
    }

    fn pieces(text: Vec<u8>, size: usize) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::iter(text.chunks(size).map(|piece| Bytes::from(piece.to_vec())).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn what_never_becomes_a_part_is_refused_before_it_takes_memory_or_time() {
        let endless = |piece: &'static [u8]| stream::repeat_with(move || Bytes::from_static(piece));
        let head = |text: &'static [u8]| stream::iter([Bytes::from_static(text)]);
        let before = parts(endless(&[b'x'; 4096])).await.unwrap().next().await.err().unwrap();
        let tiny = parts(endless(b"x")).await.unwrap().next().await.err().unwrap();
        let name = head(b"--b\r\nContent-Disposition: form-data; filename=\"").chain(endless(&[b'x'; 4096]));
        let name = parts(name).await.unwrap().next().await.err().unwrap();
        for problem in [before, tiny, name] {
            assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE.as_u16(), "{:?}", problem.detail);
        }
    }

    #[tokio::test]
    async fn files_come_through_whatever_the_pieces_they_come_in() {
        let files: Vec<Vec<u8>> = (0_u8..24).map(|n| vec![n; 40_000]).collect();
        let mut text = Vec::new();
        for file in &files {
            text.extend(b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n");
            text.extend(file);
            text.extend(b"\r\n");
        }
        text.extend(b"--b--\r\n");
        for size in [1, 7, 1000, 65_536, text.len()] {
            let mut parts = parts(pieces(text.clone(), size)).await.unwrap();
            let mut got = Vec::new();
            while let Some(mut part) = parts.next().await.unwrap() {
                let mut file = Vec::new();
                while let Some(bytes) = part.next().await {
                    file.extend(bytes.unwrap());
                }
                got.push(file);
            }
            assert!(got == files, "in pieces of {size}");
        }
    }
}
