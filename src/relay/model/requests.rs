//! Requests of one connection: checked, forwarded, streamed back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::{Request, Response, StatusCode};
use tokio::sync::watch;

use super::agent::Agent;
use super::config::ApiKey;
use super::failure::{Failure, keep_retry_after};
use super::limits::Waits;
use super::meter::Meter;
use super::routes::Route;
use super::{admit, body, codex, headers, images, policy, upstream};
use crate::models::Provider;
use crate::relay::connection;
use crate::relay::listener::Stream;

/// Above this size, in bytes, a body is large.
const PARSE_ASIDE: usize = 64 * 1024;

/// What a client gets.
pub type Answer = Response<Either<Full<Bytes>, Streamed>>;

/// Serves requests until the client ends the connection, breaks the rules or is too slow, or `closing` becomes true.
pub async fn connection(stream: Stream, agent: Arc<Agent>, closing: watch::Receiver<bool>) {
    let waits = agent.shared.waits.relay;
    connection::serve(stream, waits, closing, move |request| {
        let agent = Arc::clone(&agent);
        async move { answer(&agent, request).await }
    })
    .await;
}

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Answer {
    let ended = handle(agent, request).await;
    finish(agent, ended)
}

/// The answer, also when it is an error.
pub fn finish(agent: &Agent, ended: Result<Answer, Ended>) -> Answer {
    match ended {
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
#[derive(Debug)]
pub struct Ended {
    pub(super) failure: Failure,
    pub(super) close: bool,
}

impl Ended {
    /// The upstream is to blame, or this side: the connection is as good as before.
    #[must_use]
    pub fn upstream(failure: Failure) -> Self {
        Self { failure, close: false }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self { failure, close: true }
    }
}

async fn handle(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Answer, Ended> {
    let shared = &agent.shared;
    let (head, incoming) = request.into_parts();
    let (route, length) = admit::admit(&head, shared.port, |route| shared.offers(route))?;
    let held = body::read(incoming, length, [&agent.bodies, &shared.bodies], &shared.waits).await?;
    match (route, &shared.key, &shared.codex) {
        (Route::Responses, Some(key), _) => responses(agent, key, &head.headers, held).await,
        (Route::Codex, _, Some(codex)) => codex::requests::answer(agent, codex, &head.headers, held).await,
        (Route::Images, ..) => images::handle(agent, held).await,
        // What is not offered was not admitted.
        _ => Err(Failure::refused(StatusCode::NOT_FOUND, "unknown_path", "this does not exist here").into()),
    }
}

/// An answer of the Responses API.
async fn responses(agent: &Arc<Agent>, key: &ApiKey, client: &HeaderMap, held: body::Held) -> Result<Answer, Ended> {
    let shared = Arc::clone(&agent.shared);
    let judge = move |bytes: &Bytes| policy::check(bytes, &shared.catalogue, Provider::Openai).map_err(refused);
    let (held, accepted) = aside(false, held, judge).await?;
    let (accepted, shared) = (accepted?, &agent.shared);
    let share = shared.ledger.admit(agent.uid, accepted.most_tokens, shared.waits.turn).await?;
    let outward = headers::outward(client, key);
    let mut meter = Meter::start(Arc::clone(agent), share, accepted.model, held.bytes.len(), accepted.text_bytes);
    let sent = shared.upstream.send(outward, held.bytes.clone()).await;
    drop(held);
    let response = match sent {
        Ok(response) => response,
        Err(failure) => {
            meter.answered(failure.status.as_u16(), "");
            return Err(Ended::upstream(failure));
        }
    };
    meter.answered(response.status().as_u16(), headers::upstream_id(response.headers()));
    let key = key.clone();
    passed_on(response, meter, &shared.waits, move |status, said| with_key(status, said, &key)).await
}

/// What the client learns of an upstream's error that came for a request with the provider's key.
pub(super) fn with_key(status: StatusCode, said: &[u8], key: &ApiKey) -> Failure {
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        tracing::error!(
            status = status.as_u16(),
            "the upstream refuses the gateway's key: replace /etc/pi-gateway/credentials/OPENAI_API_KEY and restart"
        );
    }
    Failure::upstream(status, said, key)
}

/// A refusal of what the body asks for.
pub(super) fn refused(sentence: String) -> Failure {
    Failure::refused(StatusCode::BAD_REQUEST, "request_not_allowed", sentence)
}

/// Passes an answer on: a stream as it comes, an error as `told` words it.
pub(super) async fn passed_on(
    response: reqwest::Response,
    mut meter: Meter,
    waits: &Waits,
    told: impl FnOnce(StatusCode, &[u8]) -> Failure,
) -> Result<Answer, Ended> {
    if response.status() == StatusCode::OK && is_event_stream(response.headers()) {
        let response: hyper::http::Response<reqwest::Body> = response.into();
        let (upstream, inner) = response.into_parts();
        let mut answer = Response::new(Either::Right(Streamed { inner, meter }));
        *answer.headers_mut() = headers::inward(&upstream.headers);
        return Ok(answer);
    }
    Ok(error(response, &mut meter, waits, told).await)
}

/// What a client gets for an answer that is an error, or none that is understood: what `told` makes of it.
pub(super) async fn error(
    response: reqwest::Response,
    meter: &mut Meter,
    waits: &Waits,
    told: impl FnOnce(StatusCode, &[u8]) -> Failure,
) -> Answer {
    let (status, upstream_headers) = (response.status(), response.headers().clone());
    let said = upstream::error_body(response, waits).await;
    meter.ends();
    let mut answer = told(status, &said).answer(false);
    keep_retry_after(&upstream_headers, answer.headers_mut());
    answer.map(Either::Left)
}

/// Looks through a body; on a thread of its own when it is `heavy` or large, so that other users do not wait for it.
pub(super) async fn aside<T: Send + 'static>(
    heavy: bool,
    held: body::Held,
    look: impl FnOnce(&Bytes) -> T + Send + 'static,
) -> Result<(body::Held, T), Failure> {
    if !heavy && held.bytes.len() <= PARSE_ASIDE {
        let seen = look(&held.bytes);
        return Ok((held, seen));
    }
    // The body goes along with its share of the budget, so a client that leaves does not free what is still held.
    tokio::task::spawn_blocking(move || {
        let seen = look(&held.bytes);
        (held, seen)
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
