//! Every error of the API: `application/problem+json` (RFC 9457) with a stable code.
//!
//! [`CODES`] is the registry; docs/api-and-media.md shows it and a test compares. A detail never repeats a token, a
//! prompt or another user's data.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
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
    AMBIGUOUS_REQUEST = "ambiguous_request", BAD_REQUEST, "The request can be understood in two ways";
    MALFORMED_JSON = "malformed_json", BAD_REQUEST, "The body is not JSON";
    UNAUTHORIZED = "unauthorized", UNAUTHORIZED, "A valid bearer token is needed";
    NOT_FOUND = "not_found", NOT_FOUND, "There is no such thing";
    METHOD_NOT_ALLOWED = "method_not_allowed", METHOD_NOT_ALLOWED, "The path does not take this method";
    NOT_ACCEPTABLE = "not_acceptable", NOT_ACCEPTABLE, "None of the accepted types can be given";
    REQUEST_TIMEOUT = "request_timeout", REQUEST_TIMEOUT, "The request took too long";
    PERMISSION_DENIED = "permission_denied", FORBIDDEN, "The file's mode does not let the user do this";
    OUTSIDE_WORKSPACE = "outside_workspace", FORBIDDEN, "A symbolic link leads out of the workspace";
    USER_BLOCKED = "user_blocked", FORBIDDEN, "The operator has blocked the user";
    ALREADY_EXISTS = "already_exists", CONFLICT, "There is something of this name already";
    NOT_A_FILE = "not_a_file", CONFLICT, "The path does not name a regular file";
    NOT_A_DIRECTORY = "not_a_directory", CONFLICT, "A part of the path is not a directory";
    NOT_EMPTY = "not_empty", CONFLICT, "The directory holds something";
    TOO_DEEP = "too_deep", CONFLICT, "The workspace has too many levels of directories";
    FILE_CHANGED = "file_changed", CONFLICT, "The file changed while it was read";
    RUN_ACTIVE = "run_active", CONFLICT, "The user has an active run";
    RUN_NOT_ACTIVE = "run_not_active", CONFLICT, "The run takes no messages any more";
    SESSION_UNUSABLE = "session_unusable", CONFLICT, "The session's file is not a session";
    SESSION_TOO_LARGE = "session_too_large", CONFLICT, "The session is larger than what can be shown";
    SYNC_ACTIVE = "sync_active", CONFLICT, "The user's workspace is being synced";
    IMAGE_ACTIVE = "image_active", CONFLICT, "An image is being made for the user's workspace";
    MERGE_CONFLICT = "merge_conflict", CONFLICT, "The workspace and the remote have changed the same files";
    NO_REMOTE = "no_remote", CONFLICT, "The workspace has nothing to be synced with";
    PRECONDITION_FAILED = "precondition_failed", PRECONDITION_FAILED, "The file is not the version that was asked for";
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable", RANGE_NOT_SATISFIABLE, "The file has no such range";
    EVENTS_EXPIRED = "events_expired", GONE, "The run is past its retention";
    PAYLOAD_TOO_LARGE = "payload_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body's type is not taken";
    INVALID_REQUEST = "invalid_request", UNPROCESSABLE_ENTITY, "The body asks for something that is not possible";
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused", UNPROCESSABLE_ENTITY,
        "The idempotency key was used for another body";
    IMAGE_REFUSED = "image_refused", UNPROCESSABLE_ENTITY, "The provider does not make this image";
    TOO_MANY_REQUESTS = "too_many_requests", TOO_MANY_REQUESTS, "The user has too many requests under way";
    TOO_MANY_MESSAGES = "too_many_messages", TOO_MANY_REQUESTS, "Too many messages wait in the run";
    TOO_MANY_STREAMS = "too_many_streams", TOO_MANY_REQUESTS, "The user has too many streams of events open";
    BUDGET_EXHAUSTED = "budget_exhausted", TOO_MANY_REQUESTS, "The user's token budget is used up";
    STORAGE_FAILED = "storage_failed", INTERNAL_SERVER_ERROR, "The gateway could not read or write its data";
    GIT_FAILED = "git_failed", INTERNAL_SERVER_ERROR, "The workspace's repository could not be worked with";
    REMOTE_FAILED = "remote_failed", BAD_GATEWAY, "The remote did not do what it was asked";
    IMAGE_FAILED = "image_failed", BAD_GATEWAY, "The provider did not make the image";
    IMAGE_TIMEOUT = "image_timeout", GATEWAY_TIMEOUT, "The image was not made in time";
    IMAGE_UNAVAILABLE = "image_unavailable", SERVICE_UNAVAILABLE, "Images cannot be made at the moment";
    GIT_TIMEOUT = "git_timeout", GATEWAY_TIMEOUT, "git took longer than the operator allows";
    AT_CAPACITY = "at_capacity", SERVICE_UNAVAILABLE, "As many runs are active as the operator allows";
    DRAINING = "draining", SERVICE_UNAVAILABLE, "The gateway is about to restart";
    WORKSPACE_UNAVAILABLE = "workspace_unavailable", SERVICE_UNAVAILABLE, "The workspace cannot be reached";
    WORKSPACE_BUSY = "workspace_busy", SERVICE_UNAVAILABLE, "Too much is asked of the workspace at once";
    QUOTA_EXCEEDED = "quota_exceeded", INSUFFICIENT_STORAGE, "The workspace is as large as the operator allows";
    DISK_FULL = "disk_full", INSUFFICIENT_STORAGE, "The gateway's disk is full";
}

/// What a problem document says, for the log and the counts.
#[derive(Clone, Copy)]
pub struct Told {
    /// Its code.
    pub code: &'static str,
    /// The run that it names.
    pub run: Option<Uuid>,
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
    /// The paths that both sides have changed, for `merge_conflict`: the first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// The remote's branch that has the workspace's side, for `merge_conflict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_branch: Option<String>,
    /// When there is something to spend again, for `budget_exhausted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resets_at: Option<Timestamp>,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of a kind, with what happened.
    pub fn new((code, status, title): Code, detail: impl Into<String>) -> Box<Self> {
        let (status, detail) = (status.as_u16(), Some(detail.into()));
        Box::new(Problem {
            r#type: "about:blank",
            title,
            status,
            code,
            detail,
            run_id: None,
            paths: Vec::new(),
            side_branch: None,
            resets_at: None,
            headers: Vec::new(),
        })
    }

    /// Names the run that stands in the way.
    #[must_use]
    pub fn with_run(mut self: Box<Self>, run: Uuid) -> Box<Self> {
        self.run_id = Some(run);
        self
    }

    /// Names the paths of a conflict, and where the workspace's side is.
    #[must_use]
    pub fn with_conflict(mut self: Box<Self>, paths: Vec<String>, side_branch: String) -> Box<Self> {
        (self.paths, self.side_branch) = (paths, Some(side_branch));
        self
    }

    /// The user's token budget is used up until then.
    pub fn exhausted(until: Timestamp) -> Box<Self> {
        let seconds = until.duration_since(Timestamp::now()).as_secs().max(0) + 1;
        let detail = "What was spent counts for 24 hours (USER_DAILY_TOKEN_BUDGET).";
        let mut problem = Problem::new(BUDGET_EXHAUSTED, detail).with_header(header::RETRY_AFTER, seconds.to_string());
        problem.resets_at = Some(until);
        problem
    }

    /// The operator keeps the user out.
    pub fn blocked() -> Box<Self> {
        Problem::new(USER_BLOCKED, "Only the operator of this gateway can change that.")
    }

    /// An image is being made for the user's workspace.
    pub fn imaging() -> Box<Self> {
        Problem::new(IMAGE_ACTIVE, "Try again when it is there.").with_header(header::RETRY_AFTER, "5")
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

    /// A request whose time is over.
    pub fn late() -> Box<Self> {
        Problem::new(REQUEST_TIMEOUT, "The request was not complete in time (REQUEST_TIMEOUT_MS).")
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
        response.extensions_mut().insert(Told { code: self.code, run: self.run_id });
        response
    }
}
