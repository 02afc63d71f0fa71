//! `POST /runs/{id}/messages`: what the user says to a run that goes on.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::body;
use super::caller::Caller;
use super::problem::{self, Problem};
use super::runs::run_id;
use crate::runs::messages::{MAX_TEXT, MAX_WAITING, Mode, Refused};

/// What is said to a run.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageRequest {
    /// 1 byte to 64 KiB of text.
    #[schema(min_length = 1, max_length = 65536, pattern = r"\S")]
    text: String,
    /// When the agent gets it.
    mode: Mode,
}

/// A message that was accepted.
#[derive(Serialize, ToSchema)]
pub struct AcceptedMessage {
    /// Its id, which the run's events have as `message_id`.
    id: Uuid,
    /// The run.
    run_id: Uuid,
    /// When the agent gets it.
    mode: Mode,
    /// When it was accepted, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    created_at: jiff::Timestamp,
}

/// Says something to an active run: from its acceptance on until its end begins.
#[utoipa::path(post, path = "/runs/{id}/messages", tag = "runs", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The run's id")),
    request_body(content = MessageRequest),
    responses((status = 202, description = "Kept; the agent gets it", body = AcceptedMessage),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "`run_not_active`: the run has ended, or is about to", body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 429, description = "`too_many_messages`", body = Problem), (status = 507, body = Problem)))]
pub async fn send(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    body::Json(bytes, _place): body::Json,
) -> Result<Response, Box<Problem>> {
    let run = run_id(&id)?;
    let MessageRequest { text, mode } = body::parse(&bytes)?;
    if text.trim().is_empty() || text.len() > MAX_TEXT {
        let detail = format!("text: a character that is not white space, and at most {} KiB.", MAX_TEXT >> 10);
        return Err(Problem::new(problem::INVALID_REQUEST, detail));
    }
    let message = app.runs.say(&caller.user, run, text, mode).await.map_err(|refused| match refused {
        Refused::NoRun => Problem::not_found("This run"),
        Refused::Ended => {
            Problem::new(problem::RUN_NOT_ACTIVE, "It has ended or is about to. Start a run with the text.")
                .with_run(run)
        }
        Refused::TooMany => {
            let detail = format!("At most {MAX_WAITING} wait until they are in the conversation, and 1,000 a run.");
            Problem::new(problem::TOO_MANY_MESSAGES, detail).with_header(header::RETRY_AFTER, "2")
        }
        Refused::Storage(error) => Problem::storage(&error),
    })?;
    let accepted = AcceptedMessage { id: message.id, run_id: run, mode, created_at: message.at };
    Ok((StatusCode::ACCEPTED, axum::Json(accepted)).into_response())
}
