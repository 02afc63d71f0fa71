//! Requests for models of the account: unfolded, judged, sent with the account's token, and once more with the next one
//! when the upstream refuses it.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};

use super::file::Credential;
use super::{Codex, coding, failure};
use crate::models::Provider;
use crate::relay::model::agent::Agent;
use crate::relay::model::body::Held;
use crate::relay::model::failure::Failure;
use crate::relay::model::headers;
use crate::relay::model::meter::Meter;
use crate::relay::model::policy::{self, Accepted};
use crate::relay::model::requests::{Answer, Ended, aside, passed_on, refused};

const ACCOUNT: HeaderName = HeaderName::from_static("chatgpt-account-id");
const BETA: HeaderName = HeaderName::from_static("openai-beta");

/// Answers a request whose head was let in.
///
/// # Errors
/// What the client is told, in words for pi's Codex client.
pub(in crate::relay::model) async fn answer(
    agent: &Arc<Agent>,
    codex: &Codex,
    client: &HeaderMap,
    held: Held,
) -> Result<Answer, Ended> {
    let worded = |ended: Ended| Ended { failure: failure::worded(ended.failure), close: ended.close };
    forward(agent, codex, client, held).await.map_err(worded)
}

async fn forward(agent: &Arc<Agent>, codex: &Codex, client: &HeaderMap, held: Held) -> Result<Answer, Ended> {
    let shared = &agent.shared;
    let packed = client.get(CONTENT_ENCODING).is_some_and(|coding| coding == "zstd");
    let (held, accepted) = judge(agent, held, packed).await?;
    let accepted = accepted?;
    let trouble = |failure| Ended { failure, close: false };
    let mut token = codex.keeper.token().await.map_err(trouble)?;
    let share = shared.ledger.admit(agent.uid, accepted.most_tokens, shared.waits.turn).await?;
    let mut meter = Meter::start(Arc::clone(agent), share, accepted.model, held.bytes.len(), accepted.text_bytes);
    let mut response = send(codex, client, &token, packed, &held.bytes, &mut meter).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        token = codex.keeper.instead_of(token).await.map_err(trouble)?;
        response = send(codex, client, &token, packed, &held.bytes, &mut meter).await?;
    }
    drop(held);
    if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        tracing::error!(status = response.status().as_u16(), "the upstream refuses the ChatGPT account");
    }
    let credential = Arc::clone(&token);
    passed_on(response, meter, &shared.waits, move |status, said| {
        failure::worded(failure::upstream(status, said, &credential))
    })
    .await
}

async fn send(
    codex: &Codex,
    client: &HeaderMap,
    token: &Credential,
    packed: bool,
    body: &Bytes,
    meter: &mut Meter,
) -> Result<reqwest::Response, Ended> {
    let sent = codex.upstream.send(outward(client, token, packed), body.clone()).await;
    let response = sent.map_err(|failure| {
        meter.answered(failure.status.as_u16(), "");
        Ended { failure, close: false }
    })?;
    meter.answered(response.status().as_u16(), headers::upstream_id(response.headers()));
    Ok(response)
}

/// What is sent upstream for a client's request. Who asks is what the client says: the provider wants to know.
fn outward(client: &HeaderMap, token: &Credential, packed: bool) -> HeaderMap {
    let mut out = headers::outward(client, &token.bearer);
    headers::pass(client, &HeaderName::from_static("originator"), &mut out);
    out.insert(ACCOUNT, token.account.clone());
    out.insert(BETA, HeaderValue::from_static("responses=experimental"));
    if packed {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    out
}

async fn judge(agent: &Arc<Agent>, held: Held, packed: bool) -> Result<(Held, Result<Accepted, Failure>), Failure> {
    let own = Arc::clone(agent);
    // How much a compressed body unfolds to is not known, so its length says nothing.
    aside(packed, held, move |bytes| {
        let unfolded = packed.then(|| coding::unfold(bytes, [&own.bodies, &own.shared.bodies])).transpose()?;
        let bytes = unfolded.as_ref().map_or(&bytes[..], |unfolded| &unfolded.bytes[..]);
        policy::check(bytes, &own.shared.catalogue, Provider::Codex).map_err(refused)
    })
    .await
}
