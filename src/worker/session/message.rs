//! A message of the history as it is shown: texts, reasoning, calls and results of tools; of images only what they are.
//!
//! Texts may hold what no UTF-8 does (pi cuts texts without regard to it): that is replaced. A message has at most
//! [`MAX_TEXT`] and [`MAX_PARTS`]; what is beyond is left out, and that is said.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::runs::event::{MAX_MESSAGE_TEXT, MAX_TOOL_TEXT, keep_start};
use crate::worker::message::{Message, Part, Role};

/// The longest texts of a message together, in bytes.
pub const MAX_TEXT: usize = MAX_MESSAGE_TEXT;
/// The most parts of a message.
pub const MAX_PARTS: usize = 1024;
/// The longest arguments of a call, in bytes: those of an event.
const MAX_ARGUMENTS: usize = MAX_TOOL_TEXT;
/// The longest name or id, in bytes.
const MAX_NAME: usize = 256;
/// The longest error, in bytes.
const MAX_SENTENCE: usize = 4096;

impl Message {
    /// About how much it takes, in bytes.
    pub fn size(&self) -> usize {
        let of = |part: &Part| match part {
            Part::Text(text) | Part::Thinking(text) => text.len(),
            Part::ToolCall { arguments, .. } => arguments.as_ref().map_or(0, String::len) + MAX_NAME,
            Part::Image { .. } => MAX_NAME,
        };
        512 + self.parts.iter().map(|part| 64 + of(part)).sum::<usize>()
    }
}

/// The message of an entry's line; None when it has none.
pub fn shown(line: &[u8]) -> Option<Message> {
    let Raw { id, timestamp, message } = parse(line)?;
    let role = match message.role.0.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "toolResult" => Role::ToolResult,
        _ => return None,
    };
    let at = timestamp.and_then(|at| at.0.parse::<jiff::Timestamp>().ok()).map(|at| at.as_millisecond());
    let mut room = Room { left: MAX_TEXT, truncated: message.content.more };
    let parts = message.content.parts.into_iter().filter_map(|part| room.part(part)).collect();
    Some(Message {
        id: name(id),
        role,
        at,
        parts,
        truncated: room.truncated,
        model: message.model.map(name),
        stop_reason: message.stop_reason.map(name),
        error: message.error_message.map(|error| keep_start(&error.0, MAX_SENTENCE).0.to_owned()),
        tool_call_id: message.tool_call_id.map(name),
        tool_name: message.tool_name.map(name),
        is_error: message.is_error.unwrap_or(false),
    })
}

/// The first line of a message's text that is not blank.
pub fn first_line(line: &[u8]) -> Option<String> {
    let parts = parse(line)?.message.content.parts;
    let texts = parts.iter().filter_map(|part| part.text.as_ref());
    texts.flat_map(|text| text.0.lines()).map(str::trim).find(|text| !text.is_empty()).map(str::to_owned)
}

fn parse(line: &[u8]) -> Option<Raw<'_>> {
    // pi 1.5 writes parts; plain text is what older sessions have.
    serde_json::from_slice(line).ok().or_else(|| {
        let RawPlain { id, timestamp, message } = serde_json::from_slice(line).ok()?;
        let text = RawPart { kind: Text("text".into()), text: Some(message.content), ..RawPart::default() };
        let content = Parts { parts: vec![text], more: false };
        Some(Raw { id, timestamp, message: RawMessage { role: message.role, content, ..RawMessage::default() } })
    })
}

/// What is left for the texts of a message.
struct Room {
    left: usize,
    truncated: bool,
}

impl Room {
    fn text(&mut self, text: &Text) -> String {
        let (kept, cut) = keep_start(&text.0, self.left);
        self.truncated |= cut;
        self.left -= kept.len();
        kept.to_owned()
    }

    fn part(&mut self, part: RawPart<'_>) -> Option<Part> {
        match part.kind.0.as_str() {
            "text" => Some(Part::Text(self.text(&part.text?))),
            "thinking" => Some(Part::Thinking(self.text(&part.thinking?))),
            "toolCall" => {
                let arguments = part.arguments.and_then(|raw| self.arguments(raw.get()));
                Some(Part::ToolCall { id: name(part.id?), name: name(part.name?), arguments })
            }
            "image" => Some(Part::Image {
                mime_type: part.mime_type.map(name).unwrap_or_default(),
                bytes: part.data.map_or(0, |data| data.0),
            }),
            _ => None,
        }
    }

    /// Written anew: so it is JSON of a depth that others read, too.
    fn arguments(&mut self, raw: &str) -> Option<String> {
        let small = Some(raw).filter(|raw| raw.len() <= MAX_ARGUMENTS.min(self.left));
        let value = small.and_then(|raw| serde_json::from_str::<serde_json::Value>(raw).ok());
        self.truncated |= value.is_none();
        let text = value?.to_string();
        self.left = self.left.saturating_sub(text.len());
        Some(text)
    }
}

fn name(text: Text) -> String {
    keep_start(&text.0, MAX_NAME).0.to_owned()
}

#[derive(Deserialize)]
struct Raw<'a> {
    id: Text,
    timestamp: Option<Text>,
    #[serde(borrow)]
    message: RawMessage<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawMessage<'a> {
    role: Text,
    #[serde(borrow)]
    content: Parts<'a>,
    model: Option<Text>,
    stop_reason: Option<Text>,
    error_message: Option<Text>,
    tool_call_id: Option<Text>,
    tool_name: Option<Text>,
    is_error: Option<bool>,
}

#[derive(Deserialize)]
struct RawPlain {
    id: Text,
    timestamp: Option<Text>,
    message: PlainMessage,
}

#[derive(Deserialize)]
struct PlainMessage {
    role: Text,
    content: Text,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawPart<'a> {
    #[serde(rename = "type")]
    kind: Text,
    text: Option<Text>,
    thinking: Option<Text>,
    id: Option<Text>,
    name: Option<Text>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    data: Option<Base64>,
    mime_type: Option<Text>,
}

/// A text; what is no UTF-8 in it is replaced.
#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(OfBytes).map(|bytes| Text(String::from_utf8_lossy(bytes.as_ref()).into_owned()))
    }
}

/// How many bytes a file in base64 has; they are not kept.
struct Base64(u64);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let data = deserializer.deserialize_bytes(OfBytes)?;
        let digits = data.as_ref().trim_ascii_end().iter().rev().skip_while(|byte| **byte == b'=').count();
        Ok(Base64(digits as u64 * 3 / 4))
    }
}

/// Takes a text as bytes, which may hold what a `str` may not.
struct OfBytes;

impl<'de> Visitor<'de> for OfBytes {
    type Value = std::borrow::Cow<'de, [u8]>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(bytes.into())
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(bytes.to_vec().into())
    }
}

/// The parts of a message, as many as are shown: a part may be two bytes of the file.
#[derive(Default)]
struct Parts<'a> {
    parts: Vec<RawPart<'a>>,
    more: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfParts;
        impl<'de> Visitor<'de> for OfParts {
            type Value = Parts<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("parts of a message")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut taken = Parts::default();
                while taken.parts.len() < MAX_PARTS {
                    match list.next_element()? {
                        Some(part) => taken.parts.push(part),
                        None => return Ok(taken),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    taken.more = true;
                }
                Ok(taken)
            }
        }
        deserializer.deserialize_seq(OfParts)
    }
}
