//! What a line of pi's output means: an event for the clients, a signal for the run's driver, or nothing.
//!
//! A line gives at most one event of its own, so a run's log can always be cut between two lines. Deltas of the same
//! part are merged until another line or the end of what has arrived; the caller flushes. A run ends at
//! `agent_settled` and nowhere else: `agent_end` may be followed by a retry or a compaction.

use std::collections::HashMap;

use uuid::Uuid;

use super::command::{self, Asker};
use super::record::{Message, MessageOrText, Record};
use super::tail::Tail;
use crate::runs::event::{Event, MAX_MESSAGE_TEXT, MAX_TOOL_TEXT, Role, keep_end, keep_start};

/// Deltas are merged up to this many bytes.
const MAX_DELTA: usize = 32 << 10;
/// Tool calls at the same time whose increments are followed; pi runs far fewer.
const MAX_TOOLS: usize = 64;
/// Longest name, id or reason that is taken over from pi, in bytes.
const MAX_NAME: usize = 256;
/// Longest sentence that is taken over from pi, in bytes.
const MAX_SENTENCE: usize = 4096;

/// What the driver of a run has to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Signal {
    /// pi has answered the state query; whether it is in a turn.
    State {
        /// Whether it is in a turn.
        streaming: bool,
        /// Who had asked.
        asker: Option<Asker>,
    },
    /// pi has taken the model or thinking level.
    Chosen {
        /// Who had asked.
        asker: Option<Asker>,
    },
    /// pi has refused to choose the model or thinking level.
    ChoiceRefused(String),
    /// The prompt runs.
    PromptAccepted,
    /// The prompt will not run.
    PromptRefused(String),
    /// pi has taken a message to the run.
    MessageTaken {
        /// Its id.
        id: Uuid,
        /// Whether it begins a turn; otherwise it waits in the one that goes on.
        started: bool,
    },
    /// pi does not take a message to the run.
    MessageRefused {
        /// Its id.
        id: Uuid,
        /// Why not.
        reason: String,
    },
    /// pi could not read a line of its input.
    InputTorn,
    /// An extension waits for an answer to a dialog.
    Dialog(String),
    /// The run is over.
    Settled,
}

/// What one line gave.
#[derive(Debug, Default, PartialEq)]
pub struct Fed {
    /// Merged deltas of the lines before this one.
    pub before: Option<Event>,
    /// The line's own event.
    pub event: Option<Event>,
    /// The line's signal.
    pub signal: Option<Signal>,
}

/// How the last message of the assistant ended.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LastMessage {
    /// Its text, at most 1 MiB.
    pub text: String,
    /// pi's stop reason.
    pub stop_reason: String,
    /// The error, for the stop reason `error`.
    pub error: Option<String>,
}

/// The state that a run's translation needs from line to line; all of it can be rebuilt from the events emitted.
#[derive(Default)]
pub struct Translator {
    message: u32,
    /// Whether the run's prompt was in the conversation: pi repeats it first, and it is no event.
    prompted: bool,
    pending: Option<Event>,
    tails: HashMap<String, Tail>,
    last: Option<LastMessage>,
}

impl Translator {
    /// The assistant's last complete message.
    pub fn last_message(&self) -> Option<&LastMessage> {
        self.last.as_ref()
    }

    /// Takes one line.
    ///
    /// # Errors
    /// When the line is not a record of pi (see [`Record::parse`]).
    pub fn feed(&mut self, line: &[u8]) -> Result<Fed, serde_json::Error> {
        let record = Record::parse(line)?;
        if record.kind == "message_update" {
            return Ok(Fed { event: self.delta(&record), ..Fed::default() });
        }
        let (event, signal) = self.other(&record);
        let before = if event.is_some() || signal.is_some() { self.flush() } else { None };
        Ok(Fed { before, event, signal })
    }

    /// The merged deltas so far.
    pub fn flush(&mut self) -> Option<Event> {
        self.pending.take()
    }

    /// Merges a delta; gives the earlier ones when it does not belong to them or they are enough.
    fn delta(&mut self, record: &Record<'_>) -> Option<Event> {
        let update = record.assistant_message_event.as_ref()?;
        let added = update.delta.as_deref()?;
        let at = update.content_index.unwrap_or(0);
        let number = self.message;
        let thinking = match &*update.kind {
            "text_delta" => false,
            "thinking_delta" => true,
            _ => return None,
        };
        match &mut self.pending {
            Some(Event::TextDelta { message, index, text }) if !thinking && (*message, *index) == (number, at) => {
                text.push_str(added);
            }
            Some(Event::ThinkingDelta { message, index, text }) if thinking && (*message, *index) == (number, at) => {
                text.push_str(added);
            }
            _ => {
                let text = added.to_owned();
                let delta = if thinking {
                    Event::ThinkingDelta { message: number, index: at, text }
                } else {
                    Event::TextDelta { message: number, index: at, text }
                };
                return self.pending.replace(delta);
            }
        }
        None
    }

    /// Whether so much is merged that it should go out before more comes.
    pub fn is_full(&self) -> bool {
        match &self.pending {
            Some(Event::TextDelta { text, .. } | Event::ThinkingDelta { text, .. }) => text.len() >= MAX_DELTA,
            _ => false,
        }
    }

    fn other(&mut self, record: &Record<'_>) -> (Option<Event>, Option<Signal>) {
        match &*record.kind {
            "response" => (None, response(record)),
            "agent_settled" => (None, Some(Signal::Settled)),
            "message_start" => (self.message_start(record), None),
            "message_end" => (self.message_end(record), None),
            "turn_end" => (context(record), None),
            "tool_execution_start" => (self.tool_start(record), None),
            "tool_execution_update" => (self.tool_update(record), None),
            "tool_execution_end" => (self.tool_end(record), None),
            "extension_ui_request" => (None, dialog(record)),
            _ => (passing(record), None),
        }
    }

    fn message_start(&mut self, record: &Record<'_>) -> Option<Event> {
        let role = match of(record)?.role.as_ref() {
            "user" if self.prompted => Role::User,
            "assistant" => Role::Assistant,
            _ => return None,
        };
        // The prompt's own record may have been too long to be taken.
        self.prompted = true;
        self.message = self.message.saturating_add(1);
        Some(Event::MessageStarted { message: self.message, role })
    }

    fn message_end(&mut self, record: &Record<'_>) -> Option<Event> {
        let message = of(record)?;
        let text = text_of(message.content.parts());
        let (text, truncated) = keep_start(&text, MAX_MESSAGE_TEXT);
        if message.role == "user" && std::mem::replace(&mut self.prompted, true) {
            let (text, role) = (text.to_owned(), Role::User);
            // Which message of his it is, the driver knows.
            let (message_id, stop_reason, error) = (None, None, None);
            let message = self.message;
            return Some(Event::MessageCompleted { message, role, message_id, text, truncated, stop_reason, error });
        }
        if message.role != "assistant" {
            return None;
        }
        let stop_reason = name(message.stop_reason.as_deref().unwrap_or("unknown"));
        let error = message.error_message.as_deref().map(sentence);
        let text = text.to_owned();
        self.last = Some(LastMessage { text: text.clone(), stop_reason: stop_reason.clone(), error: error.clone() });
        let (message, role, message_id, stop_reason) = (self.message, Role::Assistant, None, Some(stop_reason));
        Some(Event::MessageCompleted { message, role, message_id, text, truncated, stop_reason, error })
    }

    fn tool_start(&mut self, record: &Record<'_>) -> Option<Event> {
        let id = name(record.tool_call_id.as_deref()?);
        if self.tails.len() < MAX_TOOLS {
            self.tails.insert(id.clone(), Tail::default());
        }
        // Parsed and written anew: raw JSON may hold a CR between tokens, which would end a line of the stream.
        let arguments = record.args.as_ref().map(|raw| raw.get()).filter(|raw| raw.len() <= MAX_TOOL_TEXT);
        let arguments = arguments.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
        let tool = name(record.tool_name.as_deref().unwrap_or_default());
        Some(Event::ToolStarted { tool_call_id: id, name: tool, arguments })
    }

    fn tool_update(&mut self, record: &Record<'_>) -> Option<Event> {
        let id = name(record.tool_call_id.as_deref()?);
        let report = text_of(record.partial_result.as_ref()?.content.parts());
        let (text, gap) = self.tails.get_mut(&id)?.advance(&report)?;
        Some(Event::ToolOutput { tool_call_id: id, text, gap })
    }

    fn tool_end(&mut self, record: &Record<'_>) -> Option<Event> {
        let id = name(record.tool_call_id.as_deref()?);
        self.tails.remove(&id);
        let output = record.result.as_ref().map(|result| text_of(result.content.parts())).unwrap_or_default();
        let (output, truncated) = keep_end(&output, MAX_TOOL_TEXT);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate")]
        let duration_ms = record.duration_ms.map(|ms| ms as u64);
        Some(Event::ToolCompleted {
            tool_call_id: id,
            name: name(record.tool_name.as_deref().unwrap_or_default()),
            output: output.to_owned(),
            truncated,
            is_error: record.is_error.unwrap_or(false),
            duration_ms,
        })
    }

    /// Takes an event that was emitted before a restart, to be where the translator was then.
    pub fn restore(&mut self, event: &str, data: &serde_json::Value) {
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        match event {
            "message.started" => self.message = self.message.saturating_add(1),
            "message.completed" if data["role"] != "user" => {
                let error = data["error"].as_str().map(str::to_owned);
                self.last = Some(LastMessage { text: text("text"), stop_reason: text("stop_reason"), error });
            }
            "tool.started" if self.tails.len() < MAX_TOOLS => {
                self.tails.insert(text("tool_call_id"), Tail::default());
            }
            "tool.output" => {
                if let Some(tail) = self.tails.get_mut(&text("tool_call_id")) {
                    tail.restore(&text("text"));
                }
            }
            "tool.completed" => {
                self.tails.remove(&text("tool_call_id"));
            }
            _ => {}
        }
        self.prompted |= event == "message.started";
    }
}

fn response(record: &Record<'_>) -> Option<Signal> {
    use super::command::id;
    let refused = || sentence(record.error.as_deref().unwrap_or("pi gave no reason"));
    let ok = record.success == Some(true);
    if record.command.as_deref() == Some("parse") {
        return Some(Signal::InputTorn);
    }
    let id = record.id.as_ref()?.text();
    let disposition = record.data.as_ref().and_then(|data| data.disposition.as_deref());
    if let Some(id) = command::message_of(id) {
        let started = disposition == Some("started");
        return Some(if ok {
            Signal::MessageTaken { id, started }
        } else {
            Signal::MessageRefused { id, reason: refused() }
        });
    }
    let (command, asker) = Asker::of(id);
    match command {
        id::STATE if ok => {
            let streaming = record.data.as_ref().and_then(|data| data.is_streaming).unwrap_or(false);
            Some(Signal::State { streaming, asker })
        }
        id::MODEL | id::THINKING if !ok => Some(Signal::ChoiceRefused(refused())),
        id::MODEL | id::THINKING => Some(Signal::Chosen { asker }),
        id::PROMPT if !ok => Some(Signal::PromptRefused(refused())),
        id::PROMPT => match disposition {
            // "handled" means that something else than a turn took it: no event and no end would ever come.
            Some("started") => Some(Signal::PromptAccepted),
            other => {
                Some(Signal::PromptRefused(format!("pi did not start a turn ({})", name(other.unwrap_or("unknown")))))
            }
        },
        _ => None,
    }
}

fn dialog(record: &Record<'_>) -> Option<Signal> {
    let needs_answer = matches!(record.method.as_deref()?, "select" | "confirm" | "input" | "editor");
    let id = record.id.as_ref().map(|id| id.text()).filter(|id| id.len() <= MAX_NAME)?;
    needs_answer.then(|| Signal::Dialog(id.to_owned()))
}

fn context(record: &Record<'_>) -> Option<Event> {
    let message = of(record).filter(|message| message.role == "assistant")?;
    let tokens = message.usage.as_ref()?.total_tokens.filter(|tokens| *tokens > 0)?;
    Some(Event::ContextUpdated { model: message.model.as_deref().map(name), tokens })
}

/// Records that are told on as they are.
fn passing(record: &Record<'_>) -> Option<Event> {
    let error = record.error_message.as_deref().map(sentence);
    match &*record.kind {
        "auto_retry_start" => Some(Event::RetryScheduled {
            attempt: record.attempt.unwrap_or(0),
            max_attempts: record.max_attempts.unwrap_or(0),
            delay_ms: record.delay_ms.unwrap_or(0),
            reason: error.unwrap_or_default(),
        }),
        "compaction_start" => {
            Some(Event::CompactionStarted { reason: name(record.reason.as_deref().unwrap_or("unknown")) })
        }
        "compaction_end" => Some(Event::CompactionCompleted {
            aborted: record.aborted.unwrap_or(false),
            tokens_before: record.result.as_ref().and_then(|result| result.tokens_before),
            tokens_after: record.result.as_ref().and_then(|result| result.estimated_tokens_after),
            error,
        }),
        "extension_error" => Some(Event::Notice {
            code: "extension_error".into(),
            message: sentence(record.error.as_deref().unwrap_or_default()),
        }),
        _ => None,
    }
}

fn of<'r, 'a>(record: &'r Record<'a>) -> Option<&'r Message<'a>> {
    match record.message.as_ref()? {
        MessageOrText::Message(message) => Some(message),
        MessageOrText::Other(_) => None,
    }
}

fn text_of(parts: &[super::record::Part<'_>]) -> String {
    parts.iter().filter(|part| part.kind == "text").filter_map(|part| part.text.as_deref()).collect()
}

fn name(text: &str) -> String {
    keep_start(text, MAX_NAME).0.to_owned()
}

fn sentence(text: &str) -> String {
    keep_start(text, MAX_SENTENCE).0.to_owned()
}
