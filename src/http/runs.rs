//! `/runs`: start, list, look at and cancel.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::App;
use super::body;
use super::caller::Caller;
use super::problem::{self, Problem};
use super::room;
use crate::runs::StartError;
use crate::runs::record::{Idempotency, Run, RunRequest};

/// The longest `?wait=`, in seconds.
pub const MAX_WAIT: u64 = 30;
/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 255;
/// The most runs on a page, how many there are unless asked otherwise, and when a page is full in any case.
const MAX_PAGE: usize = 100;
const PAGE: usize = 20;
const MAX_PAGE_BYTES: usize = 4 << 20;

/// A page of runs.
#[derive(Serialize, ToSchema)]
pub struct RunPage {
    /// The runs, newest first.
    data: Vec<Run>,
    /// The cursor of the next page; null on the last.
    next: Option<String>,
}

/// A run with what it was asked to do.
#[derive(Serialize, ToSchema)]
pub struct RunWithPrompt {
    #[serde(flatten)]
    run: Run,
    /// What the agent was asked to do.
    prompt: String,
}

/// Parameters of `POST /runs`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StartQuery {
    /// Seconds to wait for the run's end, at most 30; then the run is returned as it is.
    #[serde(default)]
    #[param(maximum = 30)]
    wait: u64,
}

/// Parameters of `GET /runs`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Runs on the page, 1 to 100; 20 unless given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// The `next` of the page before.
    #[param(value_type = Option<Uuid>)]
    cursor: Option<String>,
}

/// What a request may take beyond the ordinary limit: its `wait`.
pub fn wait_of(request: &Request) -> Duration {
    let wait = Query::<StartQuery>::try_from_uri(request.uri()).map_or(0, |query| query.wait.min(MAX_WAIT));
    Duration::from_secs(wait)
}

/// Starts a run.
#[utoipa::path(post, path = "/runs", tag = "runs", security(("bearer" = [])),
    params(StartQuery, ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
        description = "1 to 255 visible ASCII characters; the same key and body within 24 hours gives the same run")),
    request_body(content = RunRequest),
    responses(
        (status = 202, description = "Accepted", body = Run, headers(("Location" = String, description = "The run"))),
        (status = 200, description = "It ended within `wait`, or the key made it before and it has ended", body = Run),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 408, body = Problem),
        (status = 409, description = "`run_active`, with that run's id", body = Problem), (status = 413, body = Problem),
        (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 429, description = "`budget_exhausted`, with `resets_at`; or too many requests", body = Problem),
        (status = 503, body = Problem)))]
pub async fn start(
    State(app): State<App>,
    Caller(caller): Caller,
    query: Result<Query<StartQuery>, QueryRejection>,
    headers: HeaderMap,
    body::Json(bytes, place): body::Json,
) -> Result<Response, Box<Problem>> {
    let Query(query) = query.map_err(|error| Problem::new(problem::INVALID_PARAMETER, error.body_text()))?;
    if query.wait > MAX_WAIT {
        return Err(Problem::new(problem::INVALID_PARAMETER, format!("wait: at most {MAX_WAIT} seconds.")));
    }
    let idempotency = idempotency(&headers, &bytes)?;
    let request: RunRequest = body::parse(&bytes)?;
    drop(bytes);
    body::check(&request, app.runs.services())?;
    let accepted = app.runs.start(&caller.user, request, idempotency).await.map_err(|error| match error {
        StartError::Active(run) => {
            let detail = "One run at a time: wait for it, or cancel it.";
            Problem::new(problem::RUN_ACTIVE, detail).with_run(run)
        }
        StartError::Syncing => {
            let problem = Problem::new(problem::SYNC_ACTIVE, "Start the run when the sync has ended.");
            problem.with_header(header::RETRY_AFTER, "2")
        }
        StartError::Imaging => Problem::imaging(),
        StartError::Blocked => Problem::blocked(),
        StartError::KeyReused(run) => {
            let detail = "The key belongs to a request with another body; take a new key for a new request.";
            Problem::new(problem::IDEMPOTENCY_KEY_REUSED, detail).with_run(run)
        }
        StartError::Exhausted(until) => Problem::exhausted(until),
        StartError::AtCapacity(limit) => {
            let detail = format!("{limit} runs are active on this machine. Try again when one has ended.");
            Problem::new(problem::AT_CAPACITY, detail).with_header(header::RETRY_AFTER, "10")
        }
        StartError::Draining => {
            Problem::new(problem::DRAINING, "Try again in a few seconds.").with_header(header::RETRY_AFTER, "2")
        }
        StartError::Storage(error) => Problem::storage(&error),
    })?;
    drop(place);
    let mut run = accepted.run;
    if let Some(mut watch) = accepted.watch {
        let end = watch.wait_for(|run| run.status.is_final());
        if query.wait > 0
            && let Ok(Ok(ended)) = tokio::time::timeout(Duration::from_secs(query.wait), end).await
        {
            run = ended.clone();
        }
    }
    let status = if run.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = (header::LOCATION, format!("/runs/{}", run.id));
    Ok((status, [location], app.answers.take(&caller.user, room::ANSWER).await?.json(&run)).into_response())
}

/// The request's idempotency key, if it has one.
///
/// # Errors
/// A key that is none.
pub fn idempotency(headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, Box<Problem>> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let visible = |key: &HeaderValue| key.as_bytes().iter().all(u8::is_ascii_graphic);
    if !(1..=MAX_KEY).contains(&key.len()) || !visible(key) {
        let detail = format!("Idempotency-Key: 1 to {MAX_KEY} visible ASCII characters.");
        return Err(Problem::new(problem::INVALID_PARAMETER, detail));
    }
    Ok(Some(Idempotency { key: hex(&Sha256::digest(key)), body: hex(&Sha256::digest(body)) }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The user's runs, newest first.
#[utoipa::path(get, path = "/runs", tag = "runs", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = RunPage), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Box<Problem>> {
    let Query(query) = query.map_err(|error| Problem::new(problem::INVALID_PARAMETER, error.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new(problem::INVALID_PARAMETER, format!("limit: 1 to {MAX_PAGE}.")));
    }
    let before = match query.cursor.as_deref().map(Uuid::try_parse) {
        None => None,
        Some(Ok(before)) => Some(before),
        Some(Err(_)) => {
            return Err(Problem::new(problem::INVALID_PARAMETER, "cursor: take the `next` of the page before."));
        }
    };
    let place = app.answers.take(&caller.user, room::ANSWER).await?;
    let runs = app.runs.clone();
    let listed = tokio::task::spawn_blocking(move || runs.list(&caller.user, before, limit, MAX_PAGE_BYTES));
    let (data, more) = listed.await.map_err(std::io::Error::other).and_then(|result| result).map_err(storage)?;
    let next = data.last().filter(|_| more).map(|run| run.id.to_string());
    Ok(place.json(&RunPage { data, next }))
}

/// One of the user's runs.
#[utoipa::path(get, path = "/runs/{id}", tag = "runs", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The run's id")),
    responses((status = 200, body = RunWithPrompt), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub async fn show(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Box<Problem>> {
    let (runs, id) = (app.runs.clone(), run_id(&id)?);
    // Once as it is read and once as values.
    let size = usize::try_from(runs.services().store.request_size(&caller.user, id)).unwrap_or(usize::MAX);
    let place = app.answers.take(&caller.user, size.saturating_mul(2).max(room::ANSWER)).await?;
    // A request may be megabytes long, and comes from the disk.
    let read = tokio::task::spawn_blocking(move || {
        let Some(run) = runs.get(&caller.user, id)? else { return Ok(None) };
        let request = runs.services().store.request(&caller.user, id)?;
        Ok(request.map(|request| RunWithPrompt { run, prompt: request.prompt }))
    });
    let found = read.await.map_err(std::io::Error::other).and_then(|result| result).map_err(storage)?;
    found.map(|run| place.json(&run)).ok_or_else(|| Problem::not_found("This run"))
}

/// Ends a run; the session stays. A run that has ended stays as it is.
#[utoipa::path(post, path = "/runs/{id}/cancel", tag = "runs", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The run's id")),
    responses((status = 202, description = "It is being ended", body = Run),
        (status = 200, description = "It has ended", body = Run),
        (status = 401, body = Problem), (status = 404, body = Problem)))]
pub async fn cancel(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Box<Problem>> {
    let run = app.runs.cancel(&caller.user, run_id(&id)?).await.map_err(storage)?;
    let run = run.ok_or_else(|| Problem::not_found("This run"))?;
    let status = if run.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    // Taken last: a user whose answers wait can still end his run.
    Ok((status, app.answers.take(&caller.user, room::ANSWER).await?.json(&run)).into_response())
}

/// The id of a run in a path. What is no id is no run: 404, as for a run of somebody else.
pub fn run_id(text: &str) -> Result<Uuid, Box<Problem>> {
    let canonical = |id: &Uuid| id.hyphenated().to_string() == text;
    Uuid::try_parse(text).ok().filter(canonical).ok_or_else(|| Problem::not_found("This run"))
}

fn storage(error: std::io::Error) -> Box<Problem> {
    Problem::storage(&error)
}
