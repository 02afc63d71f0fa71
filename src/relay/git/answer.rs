//! Gitea's answer on its way to the client: judged by its head, then passed on piece by piece as the client takes it,
//! within a limit of size, of time for the next piece, and of time for the whole. Dropping it ends the request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::admit::{Call, Service};
use super::failure::Failure;
use super::limits::MAX_ADVERTISEMENT;
use super::meter::Meter;
use super::peer::Places;

/// Largest answer to a push, in bytes: a line a ref, and what hooks say.
const MAX_RESULT: u64 = 1024 * 1024;

/// How long an answer to this call may be, in bytes.
#[must_use]
pub fn most(call: Call, max_pack: u64) -> u64 {
    match (call.asks_for_refs, call.service) {
        (true, _) => MAX_ADVERTISEMENT,
        (false, Service::UploadPack) => max_pack,
        (false, Service::ReceivePack) => MAX_RESULT,
    }
}

/// The media type of an answer to this call.
#[must_use]
pub fn media_type(call: Call) -> String {
    let part = if call.asks_for_refs { "advertisement" } else { "result" };
    format!("application/x-{}-{part}", call.service.name())
}

/// Checks that an answer is one of git's smart protocol, uncompressed, and not announced as too long.
///
/// # Errors
/// What the client is told instead.
pub fn judge(response: &reqwest::Response, call: Call, most: u64) -> Result<(), Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::gitea(response.status()));
    }
    if response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes) != Some(media_type(call).as_bytes()) {
        return Err(Failure::unexpected("another media type than git's"));
    }
    if response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Failure::unexpected("a compressed answer, which was not asked for"));
    }
    if response.content_length().is_some_and(|length| length > most) {
        let message = format!("the answer would have more than {most} bytes");
        return Err(Failure::new(StatusCode::BAD_GATEWAY, "gitea_answer_too_large", message));
    }
    Ok(())
}

/// The headers of an answer that passes; none of Gitea's is among them.
pub fn set_headers(headers: &mut hyper::HeaderMap, call: Call) {
    if let Ok(value) = HeaderValue::from_str(&media_type(call)) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

/// An answer that passes.
#[derive(Debug)]
pub struct Answer {
    inner: reqwest::Body,
    most: u64,
    idle: Duration,
    waited_for: Option<Pin<Box<Sleep>>>,
    until: Pin<Box<Sleep>>,
    meter: Meter,
    _places: Places,
}

impl Answer {
    /// An answer of at most `most` bytes, until `deadline` at the latest, with at most `idle` between two pieces.
    #[must_use]
    pub fn new(
        inner: reqwest::Body,
        most: u64,
        idle: Duration,
        deadline: Instant,
        mut meter: Meter,
        places: Places,
    ) -> Self {
        let until = Box::pin(sleep_until(deadline));
        if inner.is_end_stream() {
            meter.ends("");
        }
        Self { inner, most, idle, waited_for: None, until, meter, _places: places }
    }

    /// Cuts it, so that it does not look whole.
    fn cut(&mut self, code: &'static str) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.meter.ends(code);
        Poll::Ready(Some(Err(io::Error::other(code))))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.until.as_mut().poll(context).is_ready() {
            return this.cut("gitea_timeout");
        }
        loop {
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are headers, and none of them passes.
                    let Ok(data) = frame.into_data() else { continue };
                    this.waited_for = None;
                    if this.meter.passes(data.len()) > this.most {
                        return this.cut("gitea_answer_too_large");
                    }
                    if this.inner.is_end_stream() {
                        // With a length that was told, the end is not asked for.
                        this.meter.ends("");
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(_))) => return this.cut("gitea_cut"),
                Poll::Ready(None) => {
                    this.meter.ends("");
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        let idle = this.idle;
        let timer = this.waited_for.get_or_insert_with(|| Box::pin(sleep(idle)));
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => this.cut("gitea_timeout"),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
