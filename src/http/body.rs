//! Reading and judging the body of `POST /runs`. What it refuses changes nothing.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pi_gateway_helper::names::User;
use serde::de::DeserializeOwned;

use super::App;
use super::problem::{self, Problem};
use super::room::Place;
use crate::models::Thinking;
use crate::runs::Services;
use crate::runs::record::RunRequest;

/// The largest body of `POST /runs`: 32 MiB.
pub const MAX_BODY: usize = 32 << 20;
/// The longest prompt: 8 MiB; pi was seen to take that much.
const MAX_PROMPT: usize = 8 << 20;
/// The most images of a prompt, and the size of one as base64: pi shrinks larger ones away.
const MAX_IMAGES: usize = 8;
const MAX_IMAGE: usize = 7 << 20;
const IMAGE_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/webp", "image/gif"];
/// The most labels of a run.
pub const MAX_LABELS: usize = 16;
const MAX_LABEL_KEY: usize = 64;
/// The longest value of one, in bytes.
pub const MAX_LABEL_VALUE: usize = 512;

/// The bytes of a JSON body, and the memory that is set aside for what is made of them. They must arrive within
/// `REQUEST_TIMEOUT_MS`, whatever the request may take besides. Comes after the [`Caller`](super::caller::Caller), whose
/// memory it takes.
pub struct Json(pub Bytes, pub Place);

impl FromRequest<App> for Json {
    type Rejection = Box<Problem>;

    async fn from_request(request: Request, app: &App) -> Result<Self, Self::Rejection> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(problem::UNSUPPORTED_MEDIA_TYPE, "Send it as application/json."));
        }
        let too_large = || Problem::new(problem::PAYLOAD_TOO_LARGE, format!("At most {} MiB.", MAX_BODY >> 20));
        // Refused before a byte is asked for, so that a client with `Expect: 100-continue` does not send it.
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_BODY) {
            return Err(too_large());
        }
        let Some(user) = request.extensions().get::<User>().cloned() else {
            return Err(Problem::new(problem::UNAUTHORIZED, "The caller is not known."));
        };
        let arriving = async {
            // Once as it comes and once as values; a chunked one may turn out to be the largest.
            let place = app.bodies.take(&user, 2 * length.unwrap_or(MAX_BODY)).await?;
            let bytes = Bytes::from_request(request, app).await.map_err(|error| match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(),
                _ => Problem::new(problem::MALFORMED_JSON, "The body did not arrive whole."),
            })?;
            Ok(Json(bytes, place))
        };
        tokio::time::timeout(app.request_timeout, arriving).await.map_err(|_| Problem::late())?
    }
}

/// The value that a body holds; unknown fields are refused by the types themselves.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Box<Problem>> {
    // serde would take a list of a struct's fields for the struct.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::new(problem::INVALID_REQUEST, "The body must be an object."));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let kind = if error.is_data() { problem::INVALID_REQUEST } else { problem::MALFORMED_JSON };
        Problem::new(kind, format!("{error}."))
    })
}

/// Whether a run can be made of a request.
pub fn check(request: &RunRequest, services: &Services) -> Result<(), Box<Problem>> {
    let refuse = |detail: String| Err(Problem::new(problem::INVALID_REQUEST, detail));
    if request.prompt.trim().is_empty() {
        return refuse("prompt: at least one character that is not white space.".into());
    }
    if request.prompt.len() > MAX_PROMPT {
        let detail = format!("prompt: at most {} MiB.", MAX_PROMPT >> 20);
        return Err(Problem::new(problem::PAYLOAD_TOO_LARGE, detail));
    }
    if request.images.len() > MAX_IMAGES {
        return refuse(format!("images: at most {MAX_IMAGES}."));
    }
    for (index, image) in request.images.iter().enumerate() {
        if !IMAGE_TYPES.contains(&image.mime_type.as_str()) {
            return refuse(format!("images[{index}].mime_type: one of {}.", IMAGE_TYPES.join(", ")));
        }
        if image.data.len() > MAX_IMAGE || STANDARD.decode(&image.data).map_or(true, |bytes| bytes.is_empty()) {
            return refuse(format!("images[{index}].data: a file in base64, at most {} MiB.", MAX_IMAGE >> 20));
        }
    }
    check_choice(request, services)?;
    if request.metadata.len() > MAX_LABELS {
        return refuse(format!("metadata: at most {MAX_LABELS} labels."));
    }
    let too_long = |(key, value): &(&String, &String)| key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE;
    if request.metadata.iter().any(|label| too_long(&label)) {
        return refuse(format!("metadata: keys up to {MAX_LABEL_KEY}, values up to {MAX_LABEL_VALUE} bytes."));
    }
    Ok(())
}

fn check_choice(request: &RunRequest, services: &Services) -> Result<(), Box<Problem>> {
    let refuse = |detail: String| Err(Problem::new(problem::INVALID_REQUEST, detail));
    let id = request.model.as_deref().unwrap_or(&services.default_model);
    let Some(model) = services.catalogue.get(id) else {
        let offered: Vec<&str> = services.catalogue.iter().map(|model| model.id.as_str()).collect();
        return refuse(format!("model: one of {}.", offered.join(", ")));
    };
    match request.thinking {
        Some(level) if !model.thinking_levels.contains(&level) => {
            let levels: Vec<&str> = model.thinking_levels.iter().map(Thinking::as_str).collect();
            refuse(format!(
                "thinking: {id} takes {}.",
                if levels.is_empty() { "none".into() } else { levels.join(", ") }
            ))
        }
        _ => Ok(()),
    }
}
