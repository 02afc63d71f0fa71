//! One connection from a sandbox: requests in, checked, forwarded, streamed back.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::agents::{Agent, stopping};
use super::failure::{Failure, keep_retry_after};
use super::limits::{MAX_BUFFER, MAX_HEAD, MAX_HEADERS};
use super::meter::Meter;
use super::{admit, body, headers, policy, upstream};

/// Above this size, in bytes, a body is parsed on a thread of its own, so that other users do not wait for it.
const PARSE_ASIDE: usize = 64 * 1024;

type Answer = Response<Either<Full<Bytes>, Streamed>>;

/// Serves requests until the client ends the connection, breaks the rules or is too slow, or `closing` becomes true:
/// then the answer under way is finished and no further request is taken.
pub async fn connection(stream: TcpStream, agent: Arc<Agent>, mut closing: watch::Receiver<bool>) {
    let waits = agent.shared.waits;
    let service = service_fn(move |request| {
        let agent = Arc::clone(&agent);
        async move { Ok::<Answer, Infallible>(answer(&agent, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(waits.head)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
    );
    // How a connection ends is the client's affair; what its requests cost has been accounted for.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Answer {
    match handle(agent, request).await {
        Ok(answer) => answer,
        Err(Ended { failure, close }) => {
            if close {
                agent.note_refusal(&failure);
            }
            failure.answer(close).map(Either::Left)
        }
    }
}

/// A request that ends with an error; `close` when it was refused here.
struct Ended {
    failure: Failure,
    close: bool,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self { failure, close: true }
    }
}

async fn handle(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Answer, Ended> {
    let shared = &agent.shared;
    let (head, incoming) = request.into_parts();
    let length = admit::admit(&head, shared.port)?;
    let held = body::read(incoming, length, [&agent.bodies, &shared.bodies], &shared.waits).await?;
    let (held, verdict) = judge(agent, held).await?;
    let accepted =
        verdict.map_err(|sentence| Failure::refused(StatusCode::BAD_REQUEST, "request_not_allowed", sentence))?;

    let outward = headers::outward(&head.headers, &shared.key);
    let mut meter = Meter::start(Arc::clone(agent), accepted.model, held.bytes.len(), accepted.text_bytes);
    let sent = shared.upstream.send(outward, held.bytes.clone()).await;
    drop(held);
    let response = match sent {
        Ok(response) => response,
        Err(failure) => {
            meter.answered(failure.status.as_u16(), "");
            return Err(Ended { failure, close: false });
        }
    };
    meter.answered(response.status().as_u16(), headers::upstream_id(response.headers()));
    if response.status() == StatusCode::OK && is_event_stream(response.headers()) {
        let response: hyper::http::Response<reqwest::Body> = response.into();
        let (upstream, inner) = response.into_parts();
        let mut answer = Response::new(Either::Right(Streamed { inner, meter }));
        *answer.headers_mut() = headers::inward(&upstream.headers);
        return Ok(answer);
    }
    let (status, upstream_headers) = (response.status(), response.headers().clone());
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        tracing::error!(
            status = status.as_u16(),
            "the upstream refuses the gateway's key: replace /etc/pi-gateway/credentials/OPENAI_API_KEY and restart"
        );
    }
    let said = upstream::error_body(response, &shared.waits).await;
    meter.ends();
    let mut answer = Failure::upstream(status, &said, &shared.key).answer(false);
    keep_retry_after(&upstream_headers, answer.headers_mut());
    Ok(answer.map(Either::Left))
}

type Verdict = Result<policy::Accepted, String>;

async fn judge(agent: &Arc<Agent>, held: body::Held) -> Result<(body::Held, Verdict), Failure> {
    if held.bytes.len() <= PARSE_ASIDE {
        let verdict = policy::check(&held.bytes, &agent.shared.catalogue);
        return Ok((held, verdict));
    }
    let shared = Arc::clone(&agent.shared);
    // The body goes along with its share of the budget, so a client that leaves does not free what is still held.
    tokio::task::spawn_blocking(move || {
        let verdict = policy::check(&held.bytes, &shared.catalogue);
        (held, verdict)
    })
    .await
    .map_err(|_| Failure::trouble(StatusCode::SERVICE_UNAVAILABLE, "gateway_stopping", "The gateway is stopping."))
}

/// Whether an answer is a stream that can be read on the way; a compressed one, which was not asked for, cannot.
fn is_event_stream(headers: &HeaderMap) -> bool {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return false;
    }
    let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|t| t.split(';').next());
    media.is_some_and(|m| m.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// The upstream's answer, passed on piece by piece as the client takes it. Dropping it ends the upstream request.
#[derive(Debug)]
pub struct Streamed {
    inner: reqwest::Body,
    meter: Meter,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.meter.passes(data);
                } else {
                    // Trailers are headers too, and none of them is on the list.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            Poll::Ready(None) => self.meter.ends(),
            _ => {}
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
