//! The events of a run as clients see them: names, payloads, and the id that resumes a stream.
//!
//! Every subscriber sees the same events with the same ids, because they are written once, to the run's log, in the
//! form in which they are sent. A payload never exceeds [`MAX_DATA`]: the texts in it are cut before.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::messages::Mode;
use super::record::{RunError, Status};
use crate::relay::model::usage::Usage;

/// Longest text inside one event, in bytes: 64 KiB for outputs of tools, which pi cuts near there itself.
pub const MAX_TOOL_TEXT: usize = 64 << 10;
/// Longest text of a message, in bytes: 1 MiB. The whole text is in the session in any case.
pub const MAX_MESSAGE_TEXT: usize = 1 << 20;
/// Bound of one event's `data` line, in bytes; JSON may need six bytes for one of text (`\u0000`).
pub const MAX_DATA: usize = 6 * MAX_MESSAGE_TEXT + 4096;

/// `<seq>-<raw offset>`: the event's number in its run, from 1, and how much of pi's raw output it accounts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EventId {
    /// Number of the event, from 1; 0 stands for "before the first".
    pub seq: u64,
    /// Bytes of pi's output that are accounted for up to and including this event.
    pub offset: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.offset)
    }
}

impl FromStr for EventId {
    type Err = ();

    /// Takes exactly what `Display` prints: two decimal numbers without sign or leading zeros.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str| -> Result<u64, ()> {
            let canonical = part == "0" || !part.starts_with('0');
            if canonical && part.bytes().all(|b| b.is_ascii_digit()) { part.parse().map_err(drop) } else { Err(()) }
        };
        let (seq, offset) = text.split_once('-').ok_or(())?;
        Ok(EventId { seq: number(seq)?, offset: number(offset)? })
    }
}

/// Who a message is of.
#[derive(Serialize, ToSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// What happened in a run.
#[derive(Serialize, ToSchema, Debug, Clone, PartialEq)]
#[serde(tag = "event", content = "data")]
pub enum Event {
    /// pi has accepted the prompt.
    #[serde(rename = "run.started")]
    RunStarted {
        /// The run.
        run_id: Uuid,
        /// When, RFC 3339.
        #[schema(value_type = String, format = DateTime)]
        at: jiff::Timestamp,
    },
    /// A message begins: one of the assistant, or one that the user has sent to the run.
    #[serde(rename = "message.started")]
    MessageStarted {
        /// Number of the message in this run, from 1.
        message: u32,
        /// Who it is of.
        role: Role,
    },
    /// More text of the answer.
    #[serde(rename = "text.delta")]
    TextDelta {
        /// Number of the message.
        message: u32,
        /// Which part of the message.
        index: u32,
        /// The text that was added.
        text: String,
    },
    /// More of the model's summary of its reasoning.
    #[serde(rename = "thinking.delta")]
    ThinkingDelta {
        /// Number of the message.
        message: u32,
        /// Which part of the message.
        index: u32,
        /// The text that was added.
        text: String,
    },
    /// A message is complete; its text supersedes the deltas.
    #[serde(rename = "message.completed")]
    MessageCompleted {
        /// Number of the message.
        message: u32,
        /// Who it is of.
        role: Role,
        /// The id that `POST /runs/{id}/messages` gave it, for one of the user's.
        #[serde(skip_serializing_if = "Option::is_none")]
        message_id: Option<Uuid>,
        /// The whole text, at most 1 MiB.
        text: String,
        /// Whether the text was cut to fit.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
        /// `stop`, `length`, `toolUse`, `error` or `aborted`; for the assistant's.
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
        /// What went wrong, for `error`.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// pi has taken a message that the user has sent to the run; it waits for its turn.
    #[serde(rename = "message.accepted")]
    MessageAccepted {
        /// The id that `POST /runs/{id}/messages` gave it.
        message_id: Uuid,
        /// When it gets into the conversation.
        mode: Mode,
    },
    /// A message that the user has sent to the run will not be in the conversation.
    #[serde(rename = "message.refused")]
    MessageRefused {
        /// The id that `POST /runs/{id}/messages` gave it.
        message_id: Uuid,
        /// Why not.
        reason: String,
    },
    /// The agent calls a tool.
    #[serde(rename = "tool.started")]
    ToolStarted {
        /// Id of the call.
        tool_call_id: String,
        /// Name of the tool.
        name: String,
        /// Its arguments, or null when they are larger than 64 KiB.
        arguments: serde_json::Value,
    },
    /// More output of a running tool.
    #[serde(rename = "tool.output")]
    ToolOutput {
        /// Id of the call.
        tool_call_id: String,
        /// The output that was added.
        text: String,
        /// Whether output between the last event and this one was left out (it came faster than pi reports).
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        gap: bool,
    },
    /// A tool has ended; its output supersedes the increments.
    #[serde(rename = "tool.completed")]
    ToolCompleted {
        /// Id of the call.
        tool_call_id: String,
        /// Name of the tool.
        name: String,
        /// The output as the model gets it, at most its last 64 KiB.
        output: String,
        /// Whether the output was cut to fit.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
        /// Whether the tool failed.
        is_error: bool,
        /// How long it ran, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
    },
    /// The upstream failed in a way that passes; pi tries again.
    #[serde(rename = "retry.scheduled")]
    RetryScheduled {
        /// Which attempt comes next.
        attempt: u32,
        /// How many there are at most.
        max_attempts: u32,
        /// The wait before it, in milliseconds.
        delay_ms: u64,
        /// The failure.
        reason: String,
    },
    /// The conversation is being shortened.
    #[serde(rename = "compaction.started")]
    CompactionStarted {
        /// `threshold`, `overflow` or `manual`.
        reason: String,
    },
    /// The conversation has been shortened.
    #[serde(rename = "compaction.completed")]
    CompactionCompleted {
        /// Whether it was given up.
        aborted: bool,
        /// Tokens before.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens_before: Option<u64>,
        /// Tokens after, estimated.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens_after: Option<u64>,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// How full the model's context is after a turn.
    #[serde(rename = "context.updated")]
    ContextUpdated {
        /// The model.
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// Tokens in the context.
        tokens: u64,
    },
    /// Something a person may want to know.
    #[serde(rename = "notice")]
    Notice {
        /// A stable code.
        code: String,
        /// A sentence.
        message: String,
    },
    /// The agent has finished; the gateway stops its sandbox and completes the record.
    #[serde(rename = "run.finalizing")]
    RunFinalizing {
        /// The run.
        run_id: Uuid,
    },
    /// The run is over. The last event of every run.
    #[serde(rename = "run.finished")]
    RunFinished {
        /// The run.
        run_id: Uuid,
        /// `succeeded`, `failed`, `cancelled` or `interrupted`.
        status: Status,
        /// Why it did not succeed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<RunError>,
        /// What the run used, as the model relay counted it.
        usage: Usage,
    },
}

impl Event {
    /// The name of the last event.
    pub const LAST: &'static str = "run.finished";

    /// Appends the event as one server-sent event: `id`, `event` and `data` lines, then an empty line.
    pub fn frame(&self, id: EventId, into: &mut Vec<u8>) {
        // A tagged enum of plain data serializes without fail; see `frames_hold_one_data_line`.
        let Ok(serde_json::Value::Object(mut tagged)) = serde_json::to_value(self) else { return };
        let name = tagged.remove("event").unwrap_or_default();
        let data = tagged.remove("data").unwrap_or_default();
        let name = name.as_str().unwrap_or_default();
        into.extend_from_slice(format!("id: {id}\nevent: {name}\ndata: {data}\n\n").as_bytes());
    }
}

/// Cuts `text` to at most `limit` bytes at a character, keeping its end; tells whether something was cut.
pub fn keep_end(text: &str, limit: usize) -> (&str, bool) {
    if text.len() <= limit {
        return (text, false);
    }
    let mut start = text.len() - limit;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    (&text[start..], true)
}

/// Cuts `text` to at most `limit` bytes at a character, keeping its beginning; tells whether something was cut.
pub fn keep_start(text: &str, limit: usize) -> (&str, bool) {
    if text.len() <= limit {
        return (text, false);
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (&text[..end], true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_taken_only_as_they_are_printed() {
        for good in ["0-0", "1-0", "12-3456", "18446744073709551615-0"] {
            assert_eq!(good.parse::<EventId>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "01-2",
            "1-02",
            "+1-2",
            "1 -2",
            "a-b",
            "1-18446744073709551616",
            "１-２",
        ] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn frames_hold_one_data_line(text in any::<String>(), seq in any::<u64>(), offset in any::<u64>()) {
            let mut bytes = Vec::new();
            let event = Event::TextDelta { message: 1, index: 0, text: text.clone() };
            event.frame(EventId { seq, offset }, &mut bytes);
            let frame = String::from_utf8(bytes).unwrap();
            let lines: Vec<&str> = frame.split(['\n', '\r']).collect();
            prop_assert_eq!(lines.len(), 5);
            let id = format!("id: {seq}-{offset}");
            prop_assert_eq!(lines[0], id.as_str());
            prop_assert_eq!(lines[1], "event: text.delta");
            let data: serde_json::Value = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
            prop_assert_eq!(data["text"].as_str().unwrap(), text);
        }

        #[test]
        fn cuts_keep_whole_characters(text in any::<String>(), limit in 0usize..64) {
            let (end, cut) = keep_end(&text, limit);
            prop_assert!(end.len() <= limit && text.ends_with(end) && cut == (text.len() > limit));
            let (start, cut) = keep_start(&text, limit);
            prop_assert!(start.len() <= limit && text.starts_with(start) && cut == (text.len() > limit));
        }
    }
}
