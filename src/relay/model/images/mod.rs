//! Making an image: one request for agents (`POST /v1/images/generations`) and for the front, whichever way the provider
//! is asked ([`way`]).
//!
//! A client says what it wants in words of a closed list ([`crate::image::wish`]); the request that goes out is made here
//! of those, with the operator's model, and none of the client's bytes or headers but the prompt goes with it. The
//! provider's answer is read whole, within a limit, and believed only when it holds one whole image of the type that was
//! asked for; then the client gets `{"data": [{"b64_json": …}]}`. Otherwise it gets an error, and nothing of the answer.

pub mod way;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::StatusCode;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::agent::{Agent, Shared};
use super::body;
use super::config::ApiKey;
use super::failure::Failure;
use super::headers;
use super::limits::{IMAGE_ESTIMATE, IMAGE_TOKENS, MAX_IMAGE_ANSWER, USER_IMAGES};
use super::meter::Meter;
use super::policy;
use super::requests::{self, Answer, Ended};
use crate::image::wish::Wish;

/// Makes one image of a request whose head was let in.
///
/// # Errors
/// What the client is told.
pub async fn handle(agent: &Arc<Agent>, held: body::Held) -> Result<Answer, Ended> {
    let shared = &agent.shared;
    let Some(key) = &shared.key else {
        let message = "no image can be made: the gateway has no key of the provider that makes them";
        return Err(Failure::refused(StatusCode::NOT_FOUND, "images_not_offered", message).into());
    };
    let refused = |sentence| Failure::refused(StatusCode::BAD_REQUEST, "request_not_allowed", sentence);
    let wish: Wish = serde_json::from_slice(&held.bytes)
        .map_err(|e| refused(format!("the body is not accepted: {}", policy::brief(&e))))?;
    wish.check().map_err(refused)?;
    let Ok(_turn) = agent.images.try_acquire() else {
        let message = format!("At most {USER_IMAGES} images of one user are made at a time (rate limit).");
        return Err(Failure::trouble(StatusCode::TOO_MANY_REQUESTS, "too_many_images", &message).into());
    };
    let request = Bytes::from(shared.images.request(&wish).to_string());
    drop(held);
    let most = (wish.prompt.len() as u64).saturating_add(IMAGE_TOKENS);
    let share = shared.ledger.admit(agent.uid, most, shared.waits.turn).await?;
    let model = shared.images.model.clone();
    let mut meter = Meter::start(Arc::clone(agent), share, model, request.len(), wish.prompt.len());
    meter.expect(IMAGE_ESTIMATE);
    let made = timeout(shared.waits.image, make(shared, key, &wish, request, &mut meter)).await;
    made.unwrap_or_else(|_| {
        let message = "The model provider did not make the image in time (upstream timeout).";
        Err(Ended::upstream(Failure::trouble(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)))
    })
}

async fn make(
    shared: &Arc<Shared>,
    key: &ApiKey,
    wish: &Wish,
    request: Bytes,
    meter: &mut Meter,
) -> Result<Answer, Ended> {
    let outward = outward(key);
    let response = shared.upstream.post(&shared.images.endpoint, outward, request).await.map_err(|failure| {
        meter.answered(failure.status.as_u16(), "");
        Ended::upstream(failure)
    })?;
    meter.answered(response.status().as_u16(), headers::upstream_id(response.headers()));
    if response.status() != StatusCode::OK {
        let told = |status, said: &[u8]| requests::with_key(status, said, key);
        return Ok(requests::error(response, meter, &shared.waits, told).await);
    }
    let (all, permit) = whole(shared, response).await?;
    let (shared, format) = (Arc::clone(shared), wish.output_format);
    // It is megabytes long: others do not wait for it.
    let read = tokio::task::spawn_blocking(move || shared.images.image(&all, format)).await;
    let (tokens, found) = read.map_err(|_| no_image("reading it failed"))?;
    meter.counted(tokens);
    meter.ends();
    let image = found.map_err(no_image)?;
    let answer = Kept { json: format!("{{\"data\":[{{\"b64_json\":\"{image}\"}}]}}"), _permit: permit };
    let mut answer = hyper::Response::new(Either::Left(Full::new(Bytes::from_owner(answer))));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn outward(key: &ApiKey) -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    [
        (CONTENT_TYPE, json.clone()),
        (ACCEPT, json),
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        (AUTHORIZATION, key.header()),
    ]
    .into_iter()
    .collect()
}

/// An answer, with its share of the memory for images until the client has taken it.
struct Kept {
    json: String,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.json.as_bytes()
    }
}

/// Reads an answer whole. Memory for it is waited for before the first byte: for the answer, for the image in it, and for
/// what the client gets.
async fn whole(shared: &Shared, mut response: Response) -> Result<(Vec<u8>, OwnedSemaphorePermit), Ended> {
    let too_large = || no_image("it is too large");
    let announced = response.content_length();
    if announced.is_some_and(|length| length > MAX_IMAGE_ANSWER) {
        return Err(too_large());
    }
    let mut permit = shared.pictures.wait(3 * announced.unwrap_or(MAX_IMAGE_ANSWER)).await.ok_or_else(too_large)?;
    let mut all = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if (all.len() + chunk.len()) as u64 > MAX_IMAGE_ANSWER => return Err(too_large()),
            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
            Ok(None) => {
                body::shrink(&mut permit, 3 * all.len() as u64);
                return Ok((all, permit));
            }
            Err(_) => return Err(no_image("it broke off")),
        }
    }
}

/// The provider's answer is none. Whether another try helps is not known, so the words leave it open.
fn no_image(reason: &str) -> Ended {
    tracing::warn!(reason, "the upstream's answer holds no image");
    let message = format!("The model provider's answer holds no image: {reason}.");
    Ended::upstream(Failure::trouble(StatusCode::BAD_GATEWAY, "no_image", &message))
}
