//! `POST /workspace/images/generate`: an image that the provider makes, as a file of the workspace.
//!
//! While it is made no run and no sync of the user starts, so that it can be written when it is there; it is written as a
//! PUT is, whole or not at all. A client that hangs up does not stop it: it is paid for. With an idempotency key it asks
//! again and gets the answer.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use pi_gateway_helper::names::User;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::Instrument;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{FileEntry, busy, failed, hold, put, refused, unfit};
use crate::http::App;
use crate::http::body;
use crate::http::caller::Caller;
use crate::http::problem::{self, Problem};
use crate::http::runs::idempotency;
use crate::image::maker::{self, MakeError};
use crate::image::wish::{Background, Format, Quality, Size, Wish};
use crate::runs::record::Idempotency;
use crate::runs::store::ImageUse;
use crate::worker::message::{Condition, Failure, Kind, Reply, Request};
use crate::workspace::connection::AskError;
use crate::workspace::workers::{PATIENCE, WorkerError};

/// Where images go unless said otherwise.
const DIRECTORY: &str = "public/images";
/// How much of the prompt is in the name of a file, in bytes.
const SLUG: usize = 40;

/// An image to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// What it shall show; at most 32,000 characters.
    #[schema(min_length = 1, max_length = 32000, pattern = r"\S")]
    prompt: String,
    /// The file, from the workspace's root; it ends in `.png`, `.jpg`, `.jpeg` or `.webp`, which is the type that is made.
    /// What is there is replaced. Unless given, a new PNG in `public/images`.
    path: Option<String>,
    /// Its size in pixels; the operator's unless given.
    size: Option<Size>,
    /// How much is spent on it; the provider's choice unless given.
    quality: Option<Quality>,
    /// What is behind what it shows; the provider's choice unless given.
    background: Option<Background>,
}

/// An image that was made.
#[derive(Serialize, ToSchema)]
pub struct GeneratedImage {
    /// The file.
    #[serde(flatten)]
    file: FileEntry,
    /// Its media type.
    mime_type: &'static str,
    /// Its width in pixels.
    width: usize,
    /// Its height in pixels.
    height: usize,
}

/// What is to be made, and where it goes.
struct Order {
    id: Uuid,
    wish: Wish,
    path: Vec<u8>,
    condition: Condition,
}

/// Makes an image and writes it.
#[utoipa::path(post, path = "/workspace/images/generate", tag = "workspace", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
        description = "1 to 255 visible ASCII characters; the same key and body within 24 hours gives the same answer")),
    request_body(content = ImageRequest),
    responses(
        (status = 201, description = "The file, with `ETag`", body = GeneratedImage),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 409, description = "`run_active`, `sync_active`, `image_active`, or what stands in the file's way",
            body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 429, body = Problem), (status = 502, body = Problem), (status = 503, body = Problem),
        (status = 504, body = Problem), (status = 507, body = Problem)))]
pub async fn generate(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body::Json(bytes, place): body::Json,
) -> Result<Response, Box<Problem>> {
    let key = idempotency(&headers, &bytes)?;
    let order = Order::of(body::parse(&bytes)?)?;
    drop((bytes, place));
    let work = tokio::spawn(async move { make(&app, &caller.user, order, key).await }.in_current_span());
    let answer = work.await.map_err(|error| Problem::storage(&std::io::Error::other(error)))??;
    let etag = (header::ETAG, answer["etag"].as_str().unwrap_or_default().to_owned());
    Ok((StatusCode::CREATED, [etag], Json(answer)).into_response())
}

async fn make(app: &App, user: &User, order: Order, key: Option<Idempotency>) -> Result<Value, Box<Problem>> {
    // Before anything is in the way, and again when nobody else can be using it.
    if let Some(answer) = replay(app, user, key.as_ref())? {
        return Ok(answer);
    }
    let _hold = app.runs.hold_for_image(user).await.map_err(busy)?;
    if let Some(answer) = replay(app, user, key.as_ref())? {
        return Ok(answer);
    }
    let services = app.runs.services();
    if let Some(until) = services.exhausted(user) {
        return Err(Problem::exhausted(until));
    }
    let uid = look(app, user, &order.path).await?;
    let made = app.maker.ask(uid, order.id, &order.wish).await.map_err(not_made)?;
    let place = app.bodies.take(user, maker::MEMORY).await?;
    let (bytes, width, height) = made.image(&order.wish).await.map_err(not_made)?;
    let mime_type = order.wish.output_format.mime_type();
    let file = write(app, user, order, bytes).await?;
    drop(place);
    let answer = serde_json::to_value(GeneratedImage { file, mime_type, width, height });
    let answer = answer.map_err(|error| Problem::storage(&error.into()))?;
    if let Some(Idempotency { key, body }) = key {
        let made = ImageUse { body, at: Timestamp::now(), answer: answer.clone() };
        if let Err(error) = services.store.remember_image(user, &key, &made) {
            tracing::error!(user = user.as_str(), %error, "an idempotency key could not be kept");
        }
    }
    Ok(answer)
}

fn replay(app: &App, user: &User, key: Option<&Idempotency>) -> Result<Option<Value>, Box<Problem>> {
    let Some(Idempotency { key, body }) = key else { return Ok(None) };
    let used = app.runs.services().store.image_use(user, key, Timestamp::now());
    match used.map_err(|error| Problem::storage(&error))? {
        Some(used) if used.body != *body => {
            let detail = "The key belongs to a request with another body; take a new key for a new request.";
            Err(Problem::new(problem::IDEMPOTENCY_KEY_REUSED, detail))
        }
        used => Ok(used.map(|used| used.answer)),
    }
}

/// Whether the file can be where it shall be, before anything is paid for. Gives the user's uid.
async fn look(app: &App, user: &User, path: &[u8]) -> Result<u32, Box<Problem>> {
    let (worker, mut question) = app.workers.question(user, Request::Stat(path.to_vec())).await.map_err(refused)?;
    let answered = question.answer(PATIENCE).await;
    if let Err(AskError::Gone | AskError::Late) = answered {
        app.workers.replace(user, &worker).await;
    }
    match answered {
        Ok((Reply::Entry(entry), _)) if entry.kind == Kind::Directory => Err(failed(Failure::IsADirectory)),
        Ok((Reply::Entry(_), _)) | Err(AskError::Failed(Failure::NotFound)) => Ok(worker.uid),
        Ok(_) => Err(unfit()),
        Err(error) => Err(refused(WorkerError::Ask(error))),
    }
}

async fn write(app: &App, user: &User, order: Order, bytes: Bytes) -> Result<FileEntry, Box<Problem>> {
    let whole = stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
    let received = put::receive_stream(app, user, order.path.clone(), whole, &mut put::Budget::new(app)).await?;
    let _hold = hold(app, user).await?;
    received.commit(order.path, order.condition).await.map(FileEntry::from)
}

impl Order {
    fn of(asked: ImageRequest) -> Result<Self, Box<Problem>> {
        let refuse = |detail: String| Problem::new(problem::INVALID_REQUEST, format!("{detail}."));
        let id = Uuid::now_v7();
        let ImageRequest { prompt, path, size, quality, background } = asked;
        let output_format = match &path {
            None => Format::Png,
            Some(path) => Format::of_name(path)
                .ok_or_else(|| refuse("path: a file whose name ends in .png, .jpg, .jpeg or .webp".to_owned()))?,
        };
        let wish = Wish { prompt, size, quality, background, output_format };
        wish.check().map_err(refuse)?;
        // What the user named may be replaced; a name that was made up here replaces nothing.
        let (path, condition) = match path {
            Some(path) => (path, Condition::None),
            None => (new_path(&wish, id), Condition::Absent),
        };
        Ok(Self { id, wish, path: path.into_bytes(), condition })
    }
}

/// A name made of the prompt's first words and of the id, which no other file has.
fn new_path(wish: &Wish, id: Uuid) -> String {
    let mut slug = String::new();
    for word in wish.prompt.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if slug.len() + word.len() >= SLUG {
            break;
        }
        slug.push_str(&word.to_ascii_lowercase());
        slug.push('-');
    }
    let id = id.simple().to_string();
    format!("{DIRECTORY}/{slug}{}.{}", &id[id.len() - 8..], wish.output_format.extension())
}

/// The problem that it is to the caller that there is no image.
fn not_made(error: MakeError) -> Box<Problem> {
    let unavailable = |detail: String, seconds: i64| {
        Problem::new(problem::IMAGE_UNAVAILABLE, detail).with_header(header::RETRY_AFTER, seconds.to_string())
    };
    match error {
        MakeError::Refused { code, retry_after: Some(seconds), .. } if code == "budget_exhausted" => {
            Problem::exhausted(Timestamp::now() + SignedDuration::from_secs(seconds))
        }
        // The provider's own words, without what names the account.
        MakeError::Refused { status: 400 | 422, message, .. } => Problem::new(problem::IMAGE_REFUSED, message),
        MakeError::Refused { status: 429 | 503, message, retry_after, .. } => {
            unavailable(message, retry_after.unwrap_or(10))
        }
        MakeError::Refused { status: 504, message, .. } => Problem::new(problem::IMAGE_TIMEOUT, message),
        MakeError::Refused { message, .. } => Problem::new(problem::IMAGE_FAILED, message),
        MakeError::Late => Problem::new(problem::IMAGE_TIMEOUT, format!("{error}.")),
        MakeError::NoImage(reason) => Problem::new(problem::IMAGE_FAILED, format!("What came is no image: {reason}.")),
        MakeError::Unreachable(_) => {
            tracing::error!(%error, "image");
            unavailable("The operator finds the cause in the journal. Try again.".to_owned(), 5)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn order(text: &str) -> Result<Order, Box<Problem>> {
        Order::of(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_file_without_a_name_gets_one_of_the_prompt_and_replaces_nothing() {
        for (prompt, begin) in [
            ("A red fox, in SNOW!", "public/images/a-red-fox-in-snow-"),
            ("../../etc/passwd", "public/images/etc-passwd-"),
            ("狐", "public/images/"),
            (&"long ".repeat(30), "public/images/long-long-long-long-long-long-long-long-"),
        ] {
            let order = order(&serde_json::json!({"prompt": prompt}).to_string()).unwrap();
            let path = String::from_utf8(order.path).unwrap();
            let rest = path.strip_prefix(begin).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((rest.len(), rest.ends_with(".png"), order.condition), (12, true, Condition::Absent), "{path}");
        }
    }

    #[test]
    fn a_named_file_is_made_of_the_type_of_its_name() {
        let order_of = |path: &str| order(&serde_json::json!({"prompt": "x", "path": path}).to_string());
        let made = order_of("site/logo.JPG").unwrap();
        assert_eq!((made.wish.output_format, made.condition), (Format::Jpeg, Condition::None));
        for bad in ["logo", "logo.svg", "logo.png.sh", ""] {
            assert_eq!(order_of(bad).err().unwrap().code, "invalid_request", "{bad}");
        }
    }

    #[test]
    fn what_the_relay_says_becomes_a_problem() {
        let of = |status: u16, code: &str| {
            let refused = MakeError::Refused {
                status,
                code: code.to_owned(),
                message: "why".to_owned(),
                retry_after: (status == 429).then_some(60),
            };
            not_made(refused).code
        };
        assert_eq!(of(429, "budget_exhausted"), "budget_exhausted");
        assert_eq!(of(429, "rate_limit_exceeded"), "image_unavailable");
        assert_eq!(of(400, "moderation_blocked"), "image_refused");
        assert_eq!(of(401, "gateway_credential_refused"), "image_failed");
        assert_eq!(of(502, "no_image"), "image_failed");
        assert_eq!(of(504, "upstream_timeout"), "image_timeout");
        assert_eq!(not_made(MakeError::Late).code, "image_timeout");
        assert_eq!(not_made(MakeError::NoImage("x")).code, "image_failed");
        assert_eq!(not_made(MakeError::Unreachable("x".into())).code, "image_unavailable");
    }
}
