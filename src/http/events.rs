//! `/runs/{id}/events`: the run's log, as a stream or as pages.
//!
//! A stream is nothing but the log's bytes from a position on, then what is appended, until the last event or the
//! token's end or the user's being blocked. A client that does not read costs one chunk; a client that comes back costs one search.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use pi_gateway_helper::names::User;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::caller::Caller;
use super::problem::{self, Problem};
use super::room;
use super::runs::run_id;
use super::seats::{Held, Kind};
use crate::runs::event::{Event, EventId};
use crate::runs::log::{Frame, LogReader};
use crate::runs::retention;
use crate::standing::Register;

/// How often a comment shows that a quiet stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How much of the log goes out at a time.
const CHUNK: usize = 64 << 10;
/// The most events on a page, how many there are unless asked otherwise, and when a page is full in any case.
const MAX_PAGE: usize = 1000;
const PAGE: usize = 100;
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Parameters of `GET /runs/{id}/events`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only what follows this event; the header `Last-Event-ID` goes before it.
    #[param(pattern = "^(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$")]
    after: Option<String>,
    /// Events on a JSON page, 1 to 1000; 100 unless given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// One event on a page.
#[derive(Serialize, ToSchema)]
pub struct PagedEvent {
    /// Its id, for `after` and `Last-Event-ID`.
    id: String,
    /// Name and data.
    #[serde(flatten)]
    #[schema(inline)]
    event: PagedData,
}

/// The name and data of an event as the log holds them; see [`Event`].
#[derive(Serialize, ToSchema)]
pub struct PagedData {
    /// Its name.
    event: String,
    /// Its data.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub struct EventPage {
    /// The events in order.
    data: Vec<PagedEvent>,
    /// The id to go on from; null when the run has ended and nothing follows.
    next: Option<String>,
}

/// The events of a run.
#[utoipa::path(get, path = "/runs/{id}/events", tag = "runs", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The run's id"), EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, pattern = "^(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$",
            description = "Only what follows this event")),
    responses(
        (status = 200, description = "As a stream, each event with `id`, `event` and `data`; or as a page",
            content((Event = "text/event-stream"), (EventPage = "application/json"))),
        (status = 204, description = "The run has ended and nothing follows the given event"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 406, body = Problem), (status = 410, body = Problem), (status = 429, body = Problem)))]
pub async fn events(
    State(app): State<App>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Box<Problem>> {
    let run = run_id(&id)?;
    let Query(query) = query.map_err(|error| Problem::new(problem::INVALID_PARAMETER, error.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new(problem::INVALID_PARAMETER, format!("limit: 1 to {MAX_PAGE}.")));
    }
    let as_page = wants_page(&headers)?;
    let given = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().unwrap_or("?").to_owned()),
        None => query.after,
    };
    let after = match given.as_deref().map(str::parse::<EventId>) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(())) => {
            let detail = "An event id is two numbers with a dash between, as the stream gave it.";
            return Err(Problem::new(problem::INVALID_EVENT_ID, detail));
        }
    };
    let Some(reader) = app.runs.events(&caller.user, run).map_err(|error| Problem::storage(&error))? else {
        // Known from the id alone, so it says nothing about whose run it was.
        return Err(if retention::is_past(run, app.run_retention, jiff::Timestamp::now()) {
            Problem::new(problem::EVENTS_EXPIRED, "Runs and their events are removed after RUN_RETENTION_DAYS.")
        } else {
            Problem::not_found("This run")
        });
    };
    let position = reader.position_after(after.unwrap_or_default()).map_err(|error| Problem::storage(&error))?;
    let Some(position) = position else {
        return Err(Problem::new(problem::INVALID_EVENT_ID, "The run has no event with this id."));
    };
    let extent = reader.extent();
    if extent.finished && position >= extent.length && after.is_some() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if as_page {
        let place = app.answers.take(&caller.user, room::ANSWER).await?;
        return page(&reader, after.unwrap_or_default(), position, limit).map(|page| place.json(&page));
    }
    let seat = Held::of(app.seats.take(&caller.user, Kind::Stream)?);
    let expires = Duration::try_from(caller.expires_at.duration_since(jiff::Timestamp::now())).unwrap_or_default();
    let standing = (app.runs.services().standing.clone(), caller.user.clone());
    let stream = follow(reader, position, Instant::now() + expires, standing, app.shutdown.clone());
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // nginx would otherwise collect the events before it passes them on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Extension(seat), Body::from_stream(stream)).into_response())
}

/// Whether a page is wanted rather than a stream.
fn wants_page(headers: &HeaderMap) -> Result<bool, Box<Problem>> {
    let mut page = false;
    let mut any = false;
    for accept in headers.get_all(header::ACCEPT) {
        for range in accept.to_str().unwrap_or_default().split(',') {
            any = true;
            match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
                "text/event-stream" | "text/*" | "*/*" => return Ok(false),
                "application/json" | "application/*" => page = true,
                _ => {}
            }
        }
    }
    if any && !page {
        let detail = "Events come as text/event-stream or application/json.";
        return Err(Problem::new(problem::NOT_ACCEPTABLE, detail));
    }
    Ok(page)
}

/// The stream from `position` until the last event, the token's end, the user's being blocked, or the end of this process.
fn follow(
    reader: LogReader,
    position: u64,
    expires: Instant,
    standing: (Register, User),
    shutdown: watch::Receiver<bool>,
) -> impl stream::Stream<Item = std::io::Result<Bytes>> {
    // Comes back after a second when the connection breaks; also lets proxies see that the stream has begun.
    let first = stream::once(async { Ok(Bytes::from_static(b"retry: 1000\n\n")) });
    let rest = stream::try_unfold((reader, position, standing, shutdown), move |state| async move {
        let (mut reader, position, standing, mut shutdown) = state;
        loop {
            if standing.0.refuses(&standing.1) {
                return Ok(None);
            }
            let extent = reader.extent();
            if extent.length > position && Instant::now() < expires {
                let bytes = reader.read(position, CHUNK)?;
                let next = position + bytes.len() as u64;
                return Ok(Some((Bytes::from(bytes), (reader, next, standing, shutdown))));
            }
            if extent.finished || Instant::now() >= expires || *shutdown.borrow() {
                return Ok(None);
            }
            tokio::select! {
                grown = reader.grown(position) => if grown.is_none() { return Ok(None) },
                () = sleep(HEARTBEAT) => {
                    let state = (reader, position, standing, shutdown);
                    return Ok(Some((Bytes::from_static(b": still here\n\n"), state)));
                }
                () = sleep_until(expires) => {}
                () = standing.0.refused(&standing.1) => {}
                _ = shutdown.changed() => {}
            }
        }
    });
    stream::StreamExt::chain(first, rest)
}

fn page(reader: &LogReader, mut last: EventId, mut position: u64, limit: usize) -> Result<EventPage, Box<Problem>> {
    let mut data: Vec<PagedEvent> = Vec::new();
    let mut size = 0;
    while data.len() < limit && size < MAX_PAGE_BYTES {
        let Some(bytes) = reader.frame(position).map_err(|error| Problem::storage(&error))? else { break };
        let Some(frame) = Frame::parse(&bytes) else { break };
        let Ok(raw) = RawValue::from_string(frame.data.to_owned()) else { break };
        let event = PagedData { event: frame.event.to_owned(), data: raw };
        last = frame.id;
        data.push(PagedEvent { id: last.to_string(), event });
        position += bytes.len() as u64;
        size += bytes.len();
    }
    let extent = reader.extent();
    let over = extent.finished && position >= extent.length;
    Ok(EventPage { data, next: (!over).then(|| last.to_string()) })
}
