//! What surrounds every request: its id, its time limit, one line in the log, and its place in the counts.
//!
//! The line names method, route (the pattern, not the path), status, time, user, request id, the run that it is about and
//! the code of a problem. Query strings, headers and bodies never go into it. Whatever else is logged on behalf of a
//! request has its id as well.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::{Problem, Told};
use super::seats::{self, Held};
use super::{App, framing};
use crate::metrics::front::metrics;

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
    let mut run = route.as_deref().and_then(|route| run_in(route, request.uri().path()));
    let name = id.to_str().unwrap_or_default();
    let span = tracing::error_span!("request", request = name);
    let answered = async {
        match framing::refuse(&request) {
            Some(refusal) => refusal,
            None => match tokio::time::timeout(limit, next.run(request)).await {
                Ok(response) => response,
                Err(_) => Problem::late().into_response(),
            },
        }
    };
    let mut response = answered.instrument(span).await;
    let (time, status) = (begun.elapsed(), response.status().as_u16());
    let told = response.extensions_mut().remove::<Told>();
    run = run.or(told.and_then(|told| told.run)).or_else(|| run_at(&response));
    let (route, code) = (route.as_deref().unwrap_or("-"), told.map(|told| told.code));
    metrics().request(&method, route, status, code, time);
    tracing::info!(
        request = name,
        %method,
        route,
        status,
        ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        user = user.0.get().map_or("-", String::as_str),
        run = run.map(tracing::field::display),
        code,
        "request"
    );
    response.headers_mut().insert(X_REQUEST_ID, id);
    seats::keep(response, &held)
}

/// The run that a path names.
fn run_in(route: &str, path: &str) -> Option<Uuid> {
    let rest = route.starts_with("/runs/{id}").then(|| path.strip_prefix("/runs/"))??;
    Uuid::try_parse(rest.split('/').next()?).ok()
}

/// The run that an answer leads to.
fn run_at(response: &Response) -> Option<Uuid> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    Uuid::try_parse(location.strip_prefix("/runs/")?).ok()
}

/// The caller's id when it is a harmless word, otherwise a new one.
fn request_id(request: &Request) -> HeaderValue {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let given = request.headers().get(X_REQUEST_ID);
    given
        .filter(|id| (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(harmless))
        .cloned()
        .or_else(|| Uuid::new_v4().to_string().try_into().ok())
        .unwrap_or(HeaderValue::from_static("unknown"))
}
