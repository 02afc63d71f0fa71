//! `GET /session/messages`: the history, oldest first, in pages.
//!
//! The user's worker makes a page and writes it into a pipe. It may stop, and it may write what it likes: there is a time
//! and a length, and what comes is looked at before it is shown.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pi_gateway_helper::names::User;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::http::App;
use crate::http::caller::Caller;
use crate::http::parameters::Parameters;
use crate::http::problem::{self, Problem};
use crate::http::room;
use crate::http::workspace::{refused, unfit};
use crate::worker::message::{Failure, MAX_PAGE, Message, Page, Part, Place, Reply, Request, Role, decode_page};
use crate::workspace::connection::AskError;
use crate::workspace::workers::{PATIENCE, WorkerError};

/// The most messages on a page, and how many there are unless asked otherwise.
const MOST: u32 = 200;
const FEW: u32 = 50;
/// How long a worker may take to write a page that it has made.
const WRITING: Duration = Duration::from_secs(10);

/// Who a message is of.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageRole {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool: what a call gave.
    ToolResult,
}

/// A part of a message.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessagePart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// The model's summary of its reasoning.
    Thinking {
        /// The text.
        text: String,
    },
    /// A call of a tool.
    ToolCall {
        /// Its id; the result has the same.
        tool_call_id: String,
        /// Name of the tool.
        name: String,
        /// Its arguments, or null when they are larger than 64 KiB.
        #[schema(value_type = Option<serde_json::Value>)]
        arguments: Option<Box<RawValue>>,
    },
    /// An image; its bytes are not part of the history that is shown.
    Image {
        /// Its type, such as `image/png`.
        mime_type: String,
        /// Its size.
        bytes: u64,
    },
}

/// A message of the history.
#[derive(Serialize, ToSchema)]
pub struct SessionMessage {
    /// Its id in the session.
    id: String,
    /// Who it is of.
    role: MessageRole,
    /// When it was written, RFC 3339.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<jiff::Timestamp>,
    /// What it is made of.
    content: Vec<MessagePart>,
    /// Whether something was left out: texts over 1 MiB, arguments over 64 KiB, parts beyond 1,024.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// The model that gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// `stop`, `length`, `toolUse`, `error` or `aborted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<String>,
    /// What went wrong, for `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The call that it is the result of.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    /// The tool that gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<String>,
    /// Whether that tool failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_error: bool,
}

/// A page of the history.
#[derive(Serialize, ToSchema)]
pub struct MessagePage {
    /// The messages, oldest first.
    data: Vec<SessionMessage>,
    /// The cursor of the next page; null on the last.
    next: Option<String>,
}

impl From<Part> for MessagePart {
    fn from(part: Part) -> Self {
        match part {
            Part::Text(text) => MessagePart::Text { text },
            Part::Thinking(text) => MessagePart::Thinking { text },
            Part::ToolCall { id, name, arguments } => {
                // Looked at here as well: a worker's word is not JSON.
                let arguments = arguments.and_then(|text| RawValue::from_string(text).ok());
                MessagePart::ToolCall { tool_call_id: id, name, arguments }
            }
            Part::Image { mime_type, bytes } => MessagePart::Image { mime_type, bytes },
        }
    }
}

impl From<Message> for SessionMessage {
    fn from(message: Message) -> Self {
        SessionMessage {
            id: message.id,
            role: match message.role {
                Role::User => MessageRole::User,
                Role::Assistant => MessageRole::Assistant,
                Role::ToolResult => MessageRole::ToolResult,
            },
            at: message.at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok()),
            content: message.parts.into_iter().map(MessagePart::from).collect(),
            truncated: message.truncated,
            model: message.model,
            stop_reason: message.stop_reason,
            error: message.error,
            tool_call_id: message.tool_call_id,
            tool_name: message.tool_name,
            is_error: message.is_error,
        }
    }
}

/// The history.
#[utoipa::path(get, path = "/session/messages", tag = "session", security(("bearer" = [])),
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Messages on the page, 1 to 200; 50 unless given"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]+$", description = "The `next` of the page before")),
    responses((status = 200, body = MessagePage), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 409, description = "`session_unusable` or `session_too_large`", body = Problem),
        (status = 503, body = Problem)))]
pub async fn list(State(app): State<App>, Caller(caller): Caller, uri: Uri) -> Result<Response, Box<Problem>> {
    let parameters = Parameters::of(&uri, &["limit", "cursor"])?;
    let limit = parameters.number("limit", FEW, MOST)?;
    let after = parameters.bytes("cursor").map(|cursor| place(cursor).ok_or_else(other_session)).transpose()?;
    let room = app.answers.take(&caller.user, room::ANSWER).await?;
    let page = match page(&app, &caller.user, Request::History { after, limit }).await {
        Err(WorkerError::Ask(AskError::Failed(Failure::Changed))) => return Err(other_session()),
        page => page.map_err(refused)?.ok_or_else(unfit)?,
    };
    let data = page.messages.into_iter().map(SessionMessage::from).collect();
    Ok(room.json(&MessagePage { data, next: page.next.map(cursor) }))
}

/// A page as the worker writes it; None when what it writes is none.
async fn page(app: &App, user: &User, request: Request) -> Result<Option<Page>, WorkerError> {
    let (worker, mut question) = app.workers.question(user, request).await?;
    let answered = question.answer(PATIENCE).await;
    if let Err(AskError::Gone | AskError::Late) = answered {
        app.workers.replace(user, &worker).await;
    }
    let (Reply::Piped, Some(pipe)) = answered? else { return Ok(None) };
    let Ok(Ok(bytes)) = timeout(WRITING, written(pipe)).await else { return Ok(None) };
    let (Reply::Done, None) = question.answer(PATIENCE).await? else { return Ok(None) };
    Ok(decode_page(&bytes).ok())
}

async fn written(pipe: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Receiver::from_owned_fd(pipe)?.take(MAX_PAGE as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn cursor(place: Place) -> String {
    URL_SAFE_NO_PAD.encode([place.inode.to_be_bytes(), place.offset.to_be_bytes()].concat())
}

fn place(cursor: &[u8]) -> Option<Place> {
    let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(cursor).ok()?.try_into().ok()?;
    let (inode, offset) = bytes.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some(Place { inode: number(inode)?, offset: number(offset)? })
}

fn other_session() -> Box<Problem> {
    Problem::new(problem::INVALID_PARAMETER, "cursor: the `next` of a page of this session; it may have begun anew.")
}
