//! `/session` and `/context`: the user's conversation, read by his worker out of pi's file, without starting pi.
//!
//! What is in that file is the user's agent's to write, so everything here is his word, but for the cost, which is what
//! the model relay counted.

pub mod context;
pub mod messages;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pi_gateway_helper::names::User;
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::caller::Caller;
use super::problem::Problem;
use super::workspace::{hold, refused, unfit};
use crate::worker::message::{Failure, Reply, Request, Session as Told};
use crate::workspace::connection::AskError;
use crate::workspace::workers::WorkerError;

/// A user's session.
#[derive(Serialize, ToSchema)]
pub struct Session {
    /// Whether there is one: the first run begins it.
    exists: bool,
    /// When it began, RFC 3339.
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<jiff::Timestamp>,
    /// When something was added last.
    #[schema(value_type = Option<String>, format = DateTime)]
    updated_at: Option<jiff::Timestamp>,
    /// Messages in its history.
    message_count: u64,
    /// The model that has answered last.
    model: Option<String>,
    /// Its name, or the first line of what it began with; up to 200 characters.
    title: Option<String>,
    /// The run that goes on in it.
    active_run: Option<Uuid>,
}

/// What the user's worker says of his session; None when there is none.
async fn told(app: &App, user: &User) -> Result<Option<Told>, WorkerError> {
    match app.workers.ask(user, Request::Session).await?.0 {
        Reply::Session(session) => Ok(session),
        _ => Err(WorkerError::Ask(AskError::Unfit)),
    }
}

/// The user's session.
#[utoipa::path(get, path = "/session", tag = "session", security(("bearer" = [])),
    responses((status = 200, body = Session), (status = 401, body = Problem),
        (status = 409, description = "`session_unusable` or `session_too_large`", body = Problem),
        (status = 503, body = Problem)))]
pub async fn show(State(app): State<App>, Caller(caller): Caller) -> Result<Json<Session>, Box<Problem>> {
    let found = told(&app, &caller.user).await.map_err(refused)?;
    let active_run = app.runs.active_run(&caller.user);
    let at = |nanoseconds: i64| jiff::Timestamp::from_nanosecond(nanoseconds.into()).ok();
    let begun = |milliseconds: i64| jiff::Timestamp::from_millisecond(milliseconds).ok();
    Ok(Json(Session {
        exists: found.is_some(),
        created_at: found.as_ref().and_then(|session| begun(session.created?)),
        updated_at: found.as_ref().and_then(|session| at(session.updated)),
        message_count: found.as_ref().map_or(0, |session| session.messages),
        model: found.as_ref().and_then(|session| session.model.clone()),
        title: found.and_then(|session| session.title),
        active_run,
    }))
}

/// Starts afresh: the session is set aside under another name, and the next run begins a new one.
#[utoipa::path(delete, path = "/session", tag = "session", security(("bearer" = [])),
    responses((status = 204, description = "There is no session now"), (status = 401, body = Problem),
        (status = 409, description = "`run_active` or `sync_active`", body = Problem), (status = 503, body = Problem),
        (status = 507, body = Problem)))]
pub async fn remove(State(app): State<App>, Caller(caller): Caller) -> Result<StatusCode, Box<Problem>> {
    let user = caller.user;
    let hold = hold(&app, &user).await?;
    match told(&app, &user).await {
        Ok(None) => return Ok(StatusCode::NO_CONTENT),
        // Whatever is in its place goes aside as well.
        Ok(Some(_)) | Err(WorkerError::Ask(AskError::Failed(Failure::NotASession | Failure::TooLarge))) => {}
        Err(error) => return Err(refused(error)),
    }
    // A client that hangs up does not stop it half way.
    let work = async move {
        let _hold = hold;
        let (id, store) = (Uuid::now_v7(), app.runs.services().store.clone());
        // Kept before it is done, so that what is aside goes when its time is over, whoever dies in between.
        let note = {
            let user = user.clone();
            tokio::task::spawn_blocking(move || store.note_aside(&user, id))
        };
        note.await.map_err(std::io::Error::other).flatten().map_err(|error| Problem::storage(&error))?;
        match app.workers.ask(&user, Request::SetAside(id.as_u128())).await.map_err(refused)?.0 {
            Reply::Done => Ok(StatusCode::NO_CONTENT),
            _ => Err(unfit()),
        }
    };
    let work = tokio::spawn(work.in_current_span());
    work.await.map_err(|error| Problem::storage(&std::io::Error::other(error)))?
}
