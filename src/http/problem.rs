//! Every error of the API: `application/problem+json` (RFC 9457) with a stable code.
//!
//! [`CODES`] is the registry; docs/api-and-media.md shows it and a test compares. A detail never repeats a token, a
//! prompt or another user's data.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A kind of error: code, status and title.
pub type Code = (&'static str, StatusCode, &'static str);

macro_rules! codes {
    ($($name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = ($code, StatusCode::$status, $title);)*
        /// The registry of all codes of the API.
        pub const CODES: &[Code] = &[$($name),*];
    };
}

codes! {
    INVALID_PARAMETER = "invalid_parameter", BAD_REQUEST, "A parameter of the request is not valid";
    INVALID_EVENT_ID = "invalid_event_id", BAD_REQUEST, "The event id is not one of this run";
    MALFORMED_JSON = "malformed_json", BAD_REQUEST, "The body is not JSON";
    UNAUTHORIZED = "unauthorized", UNAUTHORIZED, "A valid bearer token is needed";
    NOT_FOUND = "not_found", NOT_FOUND, "There is no such thing";
    METHOD_NOT_ALLOWED = "method_not_allowed", METHOD_NOT_ALLOWED, "The path does not take this method";
    NOT_ACCEPTABLE = "not_acceptable", NOT_ACCEPTABLE, "None of the accepted types can be given";
    REQUEST_TIMEOUT = "request_timeout", REQUEST_TIMEOUT, "The request took too long";
    RUN_ACTIVE = "run_active", CONFLICT, "The user has an active run";
    EVENTS_EXPIRED = "events_expired", GONE, "The run is past its retention";
    PAYLOAD_TOO_LARGE = "payload_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body's type is not taken";
    INVALID_REQUEST = "invalid_request", UNPROCESSABLE_ENTITY, "The body asks for something that is not possible";
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused", UNPROCESSABLE_ENTITY,
        "The idempotency key was used for another body";
    STORAGE_FAILED = "storage_failed", INTERNAL_SERVER_ERROR, "The gateway could not read or write its data";
    AT_CAPACITY = "at_capacity", SERVICE_UNAVAILABLE, "As many runs are active as the operator allows";
    DRAINING = "draining", SERVICE_UNAVAILABLE, "The gateway is about to restart";
    DISK_FULL = "disk_full", INSUFFICIENT_STORAGE, "The gateway's disk is full";
}

/// A problem document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the code says more than a page could.
    pub r#type: &'static str,
    /// What kind of error it is.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The stable code, for programs.
    pub code: &'static str,
    /// What happened and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The run that stands in the way, for `run_active`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Uuid>,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of a kind, with what happened.
    pub fn new((code, status, title): Code, detail: impl Into<String>) -> Box<Self> {
        let (status, detail) = (status.as_u16(), Some(detail.into()));
        Box::new(Problem { r#type: "about:blank", title, status, code, detail, run_id: None, headers: Vec::new() })
    }

    /// Names the run that stands in the way.
    #[must_use]
    pub fn with_run(mut self: Box<Self>, run: Uuid) -> Box<Self> {
        self.run_id = Some(run);
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self: Box<Self>, name: HeaderName, value: impl TryInto<HeaderValue>) -> Box<Self> {
        self.headers.extend(value.try_into().ok().map(|value| (name, value)));
        self
    }

    /// A failure of the gateway's own storage: logged whole, told in general.
    pub fn storage(error: &std::io::Error) -> Box<Self> {
        tracing::error!(%error, "storage");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Problem::new(DISK_FULL, "Nothing was changed. Tell the operator.")
            }
            _ => Problem::new(STORAGE_FAILED, "The operator finds the cause in the journal, under the request's id."),
        }
    }

    /// An unknown path, run or other thing.
    pub fn not_found(what: &str) -> Box<Self> {
        Problem::new(NOT_FOUND, format!("{what} does not exist."))
    }
}

impl IntoResponse for Box<Problem> {
    fn into_response(mut self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = std::mem::take(&mut self.headers);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (status, [content_type], body).into_response();
        response.headers_mut().extend(headers);
        response
    }
}
