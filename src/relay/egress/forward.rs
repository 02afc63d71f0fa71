//! A plain request on its way out and its answer on its way back: heads are made anew, bodies are passed on as they come.
//!
//! The framing of a body is made here from what was read of it, so that no length and no coding that a client writes is
//! seen by a server. Each request has a connection of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::line::{Flow, Line};
use super::meter::Meter;
use crate::relay::failure::Failure;
use crate::relay::limits::{MAX_BUFFER, MAX_HEADERS};

/// Sends a request on a line and gives its answer.
///
/// # Errors
/// There is none.
pub async fn forward(head: Parts, body: Incoming, line: Line, meter: Meter) -> Result<Response<Answer>, Failed> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER).max_headers(MAX_HEADERS);
    let is_head = head.method == Method::HEAD;
    let flow = Arc::clone(meter.flow());
    let failed = move |meter| Failed { failure: reason(&flow), meter };
    let Some(request) = outward(head, body) else { return Err(failed(meter)) };
    let Ok((mut sender, connection)) = builder.handshake(TokioIo::new(line)).await else { return Err(failed(meter)) };
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let (mut answer, inner) = match sender.send_request(request).await {
        // Nobody asked for another protocol.
        Ok(response) if response.status() != StatusCode::SWITCHING_PROTOCOLS => response.into_parts(),
        _ => return Err(failed(meter)),
    };
    clean(&mut answer.headers);
    // Of a body that comes the length is known; of one that only would have come it is what the server says.
    if !is_head && answer.status != StatusCode::NOT_MODIFIED {
        answer.headers.remove(CONTENT_LENGTH);
    }
    let mut meter = meter;
    meter.answered(answer.status.as_u16());
    if inner.is_end_stream() {
        meter.ends();
    }
    let mut response = Response::new(Answer { inner, meter, _driver: driver });
    (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
    Ok(response)
}

/// A request that has no answer.
#[derive(Debug)]
pub struct Failed {
    /// What the client is told.
    pub failure: Failure,
    /// Its line of the log.
    pub meter: Meter,
}

fn reason(flow: &Flow) -> Failure {
    match flow.stopped() {
        Some(code @ "idle_timeout") => {
            Failure::new(StatusCode::GATEWAY_TIMEOUT, code, "the host did not answer in time")
        }
        Some(code) => Failure::new(StatusCode::FORBIDDEN, code, "there were too many bytes"),
        None => Failure::new(StatusCode::BAD_GATEWAY, "host_cut", "the host broke off, or does not speak HTTP"),
    }
}

/// The request as the server gets it: the path of its URL, and the URL's host whatever the client's header says.
fn outward(mut head: Parts, body: Incoming) -> Option<Request<Incoming>> {
    let host = HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?;
    clean(&mut head.headers);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(HOST, host);
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(body);
    *request.uri_mut() = if path.starts_with('/') { Uri::try_from(path).ok()? } else { return None };
    (*request.method_mut(), *request.headers_mut()) = (head.method, head.headers);
    Some(request)
}

/// Removes what is of one connection only: what `Connection` names, what begins with `proxy-`, and what always is.
fn clean(headers: &mut HeaderMap) {
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok());
    let proxy = headers.keys().filter(|name| name.as_str().starts_with("proxy-")).cloned();
    let mut gone: Vec<HeaderName> = named.chain(proxy).collect();
    gone.extend([CONNECTION, HeaderName::from_static("keep-alive"), TE, TRAILER, TRANSFER_ENCODING, UPGRADE, EXPECT]);
    for name in gone {
        headers.remove(name);
    }
}

/// The task that moves a connection's bytes; it ends with whoever holds this.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer on its way to the client. Dropping it ends its connection.
#[derive(Debug)]
pub struct Answer {
    inner: Incoming,
    meter: Meter,
    _driver: Driver,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        // With a length that was told, the end is not asked for.
        if matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.meter.ends();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
