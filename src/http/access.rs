//! What surrounds every request: its id, its time limit, and one line in the log.
//!
//! The line names method, route (the pattern, not the path), status, time, user and request id. Query strings, headers
//! and bodies never go into it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::problem::Problem;
use super::seats::{self, Held};
use super::{App, framing};

/// The request's id, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a caller.
const MAX_ID: usize = 128;

/// Where the authenticated user's name is put for the log.
#[derive(Clone, Default)]
pub struct LogUser(Arc<OnceLock<String>>);

impl LogUser {
    /// Notes the user.
    pub fn set(&self, user: &str) {
        let _ = self.0.set(user.to_owned());
    }
}

/// Runs a request within its limits and logs it.
pub async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let user = LogUser::default();
    request.extensions_mut().insert(user.clone());
    let held = Held::default();
    request.extensions_mut().insert(held.clone());
    // A stream's response is there at once; what follows is bounded by its own rules.
    let limit = app.request_timeout + super::runs::wait_of(&request) + super::workspace::time_of(&app, &request);
    let mut response = match framing::refuse(&request) {
        Some(refusal) => refusal,
        None => match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::late().into_response(),
        },
    };
    tracing::info!(
        request = id.to_str().unwrap_or_default(),
        %method,
        route = route.as_deref().unwrap_or("-"),
        status = response.status().as_u16(),
        ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        user = user.0.get().map_or("-", String::as_str),
        "request"
    );
    response.headers_mut().insert(X_REQUEST_ID, id);
    seats::keep(response, &held)
}

/// The caller's id when it is a harmless word, otherwise a new one.
fn request_id(request: &Request) -> HeaderValue {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let given = request.headers().get(X_REQUEST_ID);
    given
        .filter(|id| (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(harmless))
        .cloned()
        .or_else(|| Uuid::now_v7().to_string().try_into().ok())
        .unwrap_or(HeaderValue::from_static("unknown"))
}
