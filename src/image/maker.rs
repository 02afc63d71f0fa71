//! Asking the model relay for an image: HTTP over its Unix socket, one connection a request. The front has no other way
//! out, and no key.
//!
//! What comes back is looked at as if the relay had not: the relay handles what a provider says.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::picture;
use super::wish::Wish;
use crate::relay::model::front::{REQUEST, UID};
use crate::relay::model::limits::MAX_IMAGE_ANSWER;
use crate::relay::model::routes::IMAGES as PATH;

/// How long an image may take: the relay's own limit of five minutes, and a little more for the way.
pub const PATIENCE: Duration = Duration::from_secs(310);
/// The memory that reading an answer takes at most, in bytes: as it comes, and the image of it.
pub const MEMORY: usize = 2 * MAX_IMAGE_ANSWER as usize;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The relay is not there, or the connection broke.
    #[error("the model relay cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("the image was not made within {} s", PATIENCE.as_secs())]
    Late,
    /// The relay says no.
    #[error("the model relay answers {status} {code}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The relay's code, or the provider's.
        code: String,
        /// What happened, without anything of the operator's account.
        message: String,
        /// After how many seconds another try may help.
        retry_after: Option<i64>,
    },
    /// What came is no image.
    #[error("what the model relay sent is no image: {0}")]
    NoImage(&'static str),
}

/// The relay, by its socket.
#[derive(Debug)]
pub struct Maker {
    socket: PathBuf,
}

/// An answer whose body is still to be read.
pub struct Answer {
    response: Response<Incoming>,
    connection: AbortHandle,
}

/// An image, its width and its height in pixels.
pub type Image = (Bytes, usize, usize);

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Maker {
    /// The relay that listens on `socket`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for an image in the name of the user with this uid, and waits until it is made.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub async fn ask(&self, uid: u32, id: Uuid, wish: &Wish) -> Result<Answer, MakeError> {
        timeout(PATIENCE, self.exchange(uid, id, wish)).await.map_err(|_| MakeError::Late)?
    }

    async fn exchange(&self, uid: u32, id: Uuid, wish: &Wish) -> Result<Answer, MakeError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        let connection = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let body = serde_json::to_vec(wish).map_err(unreachable)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(HOST, "model-relay")
            .header(CONTENT_TYPE, "application/json")
            .header(UID, uid)
            .header(REQUEST, id.to_string())
            .body(Full::new(Bytes::from(body)))
            .map_err(unreachable)?;
        let sent = sender.send_request(request).await;
        sent.map(|response| Answer { response, connection }).map_err(unreachable)
    }
}

impl Answer {
    /// Reads the image; takes [`MEMORY`] at most.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub async fn image(mut self, wish: &Wish) -> Result<Image, MakeError> {
        let status = self.response.status();
        let retry_after = self.response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(self.response.body_mut(), MAX_IMAGE_ANSWER as usize + 1024);
        let read = timeout(PATIENCE, body.collect()).await.map_err(|_| MakeError::Late)?;
        let all = read.map_err(|error| MakeError::Unreachable(error.to_string()))?.to_bytes();
        if !status.is_success() {
            let Said { error } = serde_json::from_slice(&all).unwrap_or_default();
            let (code, message) = (error.code.unwrap_or_default(), error.message);
            return Err(MakeError::Refused { status: status.as_u16(), code, message, retry_after });
        }
        let format = wish.output_format;
        let look = move || -> Result<Image, &'static str> {
            let made: Made = serde_json::from_slice(&all).map_err(|_| "it is not what was expected")?;
            drop(all);
            let [Datum { b64_json }] = made.data;
            let image = STANDARD.decode(b64_json).map_err(|_| "it is no base64")?;
            let (width, height) = picture::check(&image, format)?;
            Ok((Bytes::from(image), width, height))
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(unreachable)?;
        looked.map_err(MakeError::NoImage)
    }
}

fn unreachable(error: impl std::fmt::Display) -> MakeError {
    MakeError::Unreachable(error.to_string())
}

#[derive(Deserialize)]
struct Made {
    data: [Datum; 1],
}

#[derive(Deserialize)]
struct Datum {
    b64_json: String,
}

#[derive(Deserialize, Default)]
struct Said {
    error: SaidError,
}

#[derive(Deserialize, Default)]
struct SaidError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: Option<String>,
}
