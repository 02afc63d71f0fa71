//! Requests of one connection: checked, forwarded, streamed back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::admit::{Call, Service, admit};
use super::answer::{self, Answer};
use super::commands::List;
use super::failure::Failure;
use super::limits::MAX_FETCH_REQUEST;
use super::meter::Meter;
use super::peer::{Peer, Places};
use super::upload::{Progress, Rest, Upload};
use crate::relay::connection;
use crate::relay::listener::Stream;

type Reply = Response<Either<Full<Bytes>, Answer>>;

/// Serves requests until the client ends the connection, breaks the rules or is too slow, or `closing` becomes true.
pub async fn connection(stream: Stream, peer: Arc<Peer>, closing: watch::Receiver<bool>) {
    let waits = peer.shared.waits.relay;
    connection::serve(stream, waits, closing, move |request| {
        let peer = Arc::clone(&peer);
        async move { answer(&peer, request).await }
    })
    .await;
}

async fn answer(peer: &Arc<Peer>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let admitted = admit(&head, peer.realm());
    let most = match &admitted {
        Ok(Call { service: Service::UploadPack, .. }) => MAX_FETCH_REQUEST,
        _ => peer.shared.max_pack,
    };
    let rest = Rest::new(body, most, peer.shared.waits);
    let call = match admitted {
        Ok(call) => call,
        Err(failure) => {
            peer.note_refusal(&head, &failure);
            return failure.answer().map(Either::Left);
        }
    };
    let deadline = Instant::now() + peer.shared.waits.request;
    let progress = Arc::default();
    let mut meter = Meter::start(Arc::clone(peer), call, Arc::clone(&progress));
    let forwarded = timeout_at(deadline, forward(peer, call, rest, &progress)).await;
    let (response, places) = match forwarded.unwrap_or_else(|_| Err(Failure::late())) {
        Ok(forwarded) => forwarded,
        Err(failure) => {
            meter.failed(&failure);
            return failure.answer().map(Either::Left);
        }
    };
    meter.answered(response.status().as_u16());
    let (most, idle) = (answer::most(call, peer.shared.max_pack), peer.shared.waits.upstream_idle);
    let inner = reqwest::Body::from(response);
    let mut reply = Response::new(Either::Right(Answer::new(inner, most, idle, deadline, meter, places)));
    answer::set_headers(reply.headers_mut(), call);
    reply
}

/// Sends the request, once it has a place and its body may pass.
async fn forward(
    peer: &Peer,
    call: Call,
    rest: Rest,
    progress: &Arc<Progress>,
) -> Result<(reqwest::Response, Places), Failure> {
    let places = peer.places().await?;
    let body = match call.service {
        _ if call.asks_for_refs => reqwest::Body::default(),
        Service::UploadPack if call.compressed => whole(rest.decompressed().await?, progress),
        Service::UploadPack => reqwest::Body::wrap(Upload::new(Bytes::new(), rest, call.length, Arc::clone(progress))),
        Service::ReceivePack => push(rest, call.length, progress).await?,
    };
    let sending = peer.shared.upstream.send(&peer.repository, call, body);
    let response = watched(sending, progress, peer.shared.waits.upstream_idle).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        tracing::error!(
            "Gitea refuses the gateway's account: replace /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN, \
             or correct GITEA_SYNC_SERVICE_USERNAME, and restart pi-gateway-launcher"
        );
    }
    answer::judge(&response, call, answer::most(call, peer.shared.max_pack))?;
    Ok((response, places))
}

/// Reads the command list at the beginning of a push; when it may pass, gives the body with the list in front.
async fn push(mut rest: Rest, length: Option<u64>, progress: &Arc<Progress>) -> Result<reqwest::Body, Failure> {
    let refused = |sentence: String| Failure::new(StatusCode::FORBIDDEN, "push_not_allowed", sentence);
    let mut list = List::default();
    let mut ended = false;
    while !ended || (list.commands() > 0 && list.behind().len() < PACK.len()) {
        let Some(piece) = rest.piece().await? else { break };
        ended = list.take(&piece).map_err(refused)?;
    }
    if !ended {
        return Err(refused("the command list of a push has no end".to_owned()));
    }
    if list.commands() == 0 {
        // Git asks with an empty list whether it may push before it sends much.
        let more = !list.behind().is_empty() || rest.piece().await?.is_some();
        return if more { Err(refused(NOT_A_PACK.to_owned())) } else { Ok(whole(list.into_bytes().into(), progress)) };
    }
    if !list.behind().starts_with(PACK) {
        return Err(refused(NOT_A_PACK.to_owned()));
    }
    Ok(reqwest::Body::wrap(Upload::new(list.into_bytes().into(), rest, length, Arc::clone(progress))))
}

/// A body that is held already.
fn whole(bytes: Bytes, progress: &Progress) -> reqwest::Body {
    progress.add(bytes.len());
    bytes.into()
}

/// What a pack begins with.
const PACK: &[u8] = b"PACK";
const NOT_A_PACK: &str = "behind the command list of a push there is its pack and nothing else";

/// Waits for the answer to begin for as long as something is sent, and for `idle` after that.
async fn watched(
    sending: impl Future<Output = reqwest::Result<reqwest::Response>>,
    progress: &Progress,
    idle: Duration,
) -> Result<reqwest::Response, Failure> {
    let mut sending = pin!(sending);
    loop {
        let before = progress.bytes();
        match timeout(idle, sending.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => {
                // What was stopped here is the client's affair and not Gitea's.
                return Err(progress.stopped().unwrap_or_else(|| unreachable(&error.without_url())));
            }
            Err(_) if progress.bytes() != before => {}
            Err(_) => return Err(Failure::late()),
        }
    }
}

fn unreachable(error: &reqwest::Error) -> Failure {
    let mut cause = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        cause = format!("{cause}: {error}");
        source = error.source();
    }
    tracing::warn!(cause, "no answer from Gitea");
    if error.is_timeout() {
        return Failure::late();
    }
    Failure::new(StatusCode::BAD_GATEWAY, "gitea_unreachable", "Gitea cannot be reached, or broke off")
}
