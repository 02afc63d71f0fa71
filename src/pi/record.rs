//! One record of pi's stdout, parsed into the fields the gateway uses.
//!
//! A flat struct instead of an enum: pi's key order is stable but not promised, and one pass over borrowed fields is
//! enough for any type. Unknown fields and types are ignored (pi may add some), a known field of a wrong shape or given
//! twice is an error.

use std::borrow::Cow;

use serde::Deserialize;

/// Any record of pi; which fields are there depends on `kind`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are pi's own; docs/pi-runtime.md tells what each record means")]
pub struct Record<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub id: Option<Id<'a>>,
    #[serde(borrow, default)]
    pub command: Option<Cow<'a, str>>,
    pub success: Option<bool>,
    /// The text of a failed response; other records use the name for text as well.
    #[serde(borrow, default)]
    pub error: Option<Cow<'a, str>>,
    pub data: Option<Data>,
    #[serde(borrow, default)]
    pub message: Option<MessageOrText<'a>>,
    #[serde(borrow, default)]
    pub assistant_message_event: Option<Delta<'a>>,
    #[serde(borrow, default)]
    pub tool_call_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub tool_name: Option<Cow<'a, str>>,
    pub args: Option<Box<serde_json::value::RawValue>>,
    #[serde(borrow, default)]
    pub partial_result: Option<ToolResult<'a>>,
    #[serde(borrow, default)]
    pub result: Option<ToolResult<'a>>,
    pub is_error: Option<bool>,
    pub duration_ms: Option<f64>,
    pub aborted: Option<bool>,
    pub attempt: Option<u32>,
    pub max_attempts: Option<u32>,
    pub delay_ms: Option<u64>,
    #[serde(borrow, default)]
    pub error_message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub method: Option<Cow<'a, str>>,
    pub will_retry: Option<bool>,
}

/// An id as pi echoes it: ours are strings; anything else is nobody's.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Id<'a> {
    /// A text id.
    Text(#[serde(borrow)] Cow<'a, str>),
    /// A number, bool or worse.
    Other(serde::de::IgnoredAny),
}

impl Id<'_> {
    /// The id when it is text.
    pub fn text(&self) -> &str {
        match self {
            Id::Text(text) => text,
            Id::Other(_) => "",
        }
    }
}

/// The parts of a response's data in use.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Data {
    pub disposition: Option<String>,
    pub is_streaming: Option<bool>,
}

/// `message` is an object in message records and plain text in notifications.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum MessageOrText<'a> {
    /// A message of the conversation.
    Message(#[serde(borrow)] Box<Message<'a>>),
    /// A notification's text, or anything else.
    Other(serde::de::IgnoredAny),
}

/// A message of the conversation.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Message<'a> {
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    #[serde(borrow, default)]
    pub content: Content<'a>,
    #[serde(borrow, default)]
    pub model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub stop_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub error_message: Option<Cow<'a, str>>,
    pub usage: Option<MessageUsage>,
}

/// What pi says a message used; shown as context, never billed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct MessageUsage {
    pub total_tokens: Option<u64>,
}

/// Content is a list of parts, or plain text in system messages.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Content<'a> {
    /// A list of parts.
    Parts(#[serde(borrow)] Vec<Part<'a>>),
    /// Plain text, or anything else.
    Other(serde::de::IgnoredAny),
}

impl Default for Content<'_> {
    fn default() -> Self {
        Content::Parts(Vec::new())
    }
}

impl<'a> Content<'a> {
    /// The parts, none for plain text.
    pub fn parts(&self) -> &[Part<'a>] {
        match self {
            Content::Parts(parts) => parts,
            Content::Other(_) => &[],
        }
    }
}

/// A part of a message or of a tool's result.
#[derive(Deserialize)]
#[allow(missing_docs)]
pub struct Part<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub text: Option<Cow<'a, str>>,
}

/// A step of an assistant's message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Delta<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    pub content_index: Option<u32>,
    #[serde(borrow, default)]
    pub delta: Option<Cow<'a, str>>,
}

/// What a tool gave so far, or in the end; in compaction records the same key holds other fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ToolResult<'a> {
    #[serde(borrow, default)]
    pub content: Content<'a>,
    pub tokens_before: Option<u64>,
    pub estimated_tokens_after: Option<u64>,
}

impl<'a> Record<'a> {
    /// Parses one line.
    ///
    /// # Errors
    /// When the line is not a JSON object with a text `type`, or a field in use has another shape than pi gives it.
    pub fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}
