//! Commands for pi's stdin, one JSON object per line.
//!
//! Order matters to pi 1.5.2 and is the caller's duty: one prompt at a time, `clear_queue` before `abort`, and `abort`
//! only after the prompt's response (pi answers an earlier abort first and then runs the prompt to its end).

use serde::Serialize;
use uuid::Uuid;

use crate::runs::messages::{Message, Mode};

/// Who asks: each driver of a run has a number of its own, which is in the ids of those commands whose answers must not
/// be taken for those to a predecessor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker(u64);

impl Asker {
    /// One that was never there before.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        // The last bits of a UUIDv7 are random.
        #[allow(clippy::cast_possible_truncation, reason = "those are wanted")]
        Asker(uuid::Uuid::now_v7().as_u128() as u64)
    }

    fn id(self, command: &str) -> String {
        format!("{command}-{:x}", self.0)
    }

    /// The command and the asker of an id.
    pub fn of(id: &str) -> (&str, Option<Self>) {
        match id.split_once('-') {
            Some((command, asker)) => (command, u64::from_str_radix(asker, 16).ok().map(Asker)),
            None => (id, None),
        }
    }
}

/// Ids of the commands; pi echoes them in its responses. Those of the first three have the asker behind a dash.
pub mod id {
    /// The state query that tells pi is up, and after a restart separates old input from new.
    pub const STATE: &str = "state";
    /// The choice of the model.
    pub const MODEL: &str = "model";
    /// The choice of the thinking level.
    pub const THINKING: &str = "thinking";
    /// The run's prompt.
    pub const PROMPT: &str = "prompt";
    /// A message to a run that goes on; its own id is behind a dash.
    pub const MESSAGE: &str = "message";
    /// Emptying the queue of steering messages.
    pub const CLEAR: &str = "clear";
    /// The abort of the turn.
    pub const ABORT: &str = "abort";
}

/// An image that goes with a prompt, as pi takes it.
#[derive(Serialize)]
pub struct Image<'a> {
    /// Always `image`.
    pub r#type: &'static str,
    /// Base64 of the file.
    pub data: &'a str,
    /// The MIME type, such as `image/png`.
    #[serde(rename = "mimeType")]
    pub mime_type: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Command<'a> {
    GetState {
        id: String,
    },
    SetModel {
        id: String,
        provider: &'static str,
        #[serde(rename = "modelId")]
        model_id: &'a str,
    },
    SetThinkingLevel {
        id: String,
        level: &'a str,
    },
    Prompt {
        id: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        images: &'a [Image<'a>],
        #[serde(rename = "streamingBehavior", skip_serializing_if = "Option::is_none")]
        behaviour: Option<&'static str>,
    },
    ClearQueue {
        id: &'static str,
    },
    Abort {
        id: &'static str,
    },
    ExtensionUiResponse {
        id: &'a str,
        cancelled: bool,
    },
}

fn line(command: &Command<'_>) -> Vec<u8> {
    // Serializing strings and booleans into memory cannot fail; an empty line is harmless to pi all the same.
    let mut bytes = serde_json::to_vec(command).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// An LF first, so that a line torn by our own death ends here and is answered as a parse error; then `get_state`.
pub fn probe(asker: Asker) -> Vec<u8> {
    let mut bytes = b"\n".to_vec();
    bytes.extend(line(&Command::GetState { id: asker.id(id::STATE) }));
    bytes
}

/// Chooses the model of this process.
pub fn set_model(model_id: &str, asker: Asker) -> Vec<u8> {
    line(&Command::SetModel { id: asker.id(id::MODEL), provider: super::PROVIDER, model_id })
}

/// Chooses the thinking level of this process.
pub fn set_thinking(level: &str, asker: Asker) -> Vec<u8> {
    line(&Command::SetThinkingLevel { id: asker.id(id::THINKING), level })
}

/// The run's prompt.
pub fn prompt(message: &str, images: &[Image<'_>]) -> Vec<u8> {
    line(&Command::Prompt { id: id::PROMPT, message, images, behaviour: None })
}

/// A message to a run that goes on. As a prompt, not as pi's own commands for it: those only queue, so that a message
/// which comes as the turn ends would wait for ever; this one begins a new turn then.
pub fn message(message: &Message) -> Vec<u8> {
    let behaviour = match message.mode {
        Mode::Steer => "steer",
        Mode::FollowUp => "followUp",
    };
    let id = format!("{}-{}", id::MESSAGE, message.id);
    line(&Command::Prompt { id: &id, message: &message.text, images: &[], behaviour: Some(behaviour) })
}

/// The message that an id is of, if it is of one.
pub fn message_of(id: &str) -> Option<Uuid> {
    Uuid::try_parse(id.strip_prefix(id::MESSAGE)?.strip_prefix('-')?).ok()
}

/// Ends the turn. The queue goes first: pi would otherwise deliver it in the next run.
pub fn abort() -> Vec<u8> {
    let mut bytes = line(&Command::ClearQueue { id: id::CLEAR });
    bytes.extend(line(&Command::Abort { id: id::ABORT }));
    bytes
}

/// Dismisses a dialog of an extension; nobody is there to answer it, and an open one would hold up an abort.
pub fn dismiss(dialog: &str) -> Vec<u8> {
    line(&Command::ExtensionUiResponse { id: dialog, cancelled: true })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn commands_are_single_lines_as_pi_documents_them() {
        assert_eq!(text(probe(Asker(0xa1))), "\n{\"type\":\"get_state\",\"id\":\"state-a1\"}\n");
        assert_eq!(
            text(set_model("gpt-6-sol", Asker(2))),
            "{\"type\":\"set_model\",\"id\":\"model-2\",\"provider\":\"gateway\",\"modelId\":\"gpt-6-sol\"}\n"
        );
        assert_eq!(
            text(set_thinking("low", Asker(u64::MAX))),
            "{\"type\":\"set_thinking_level\",\"id\":\"thinking-ffffffffffffffff\",\"level\":\"low\"}\n"
        );
        assert_eq!(
            text(abort()),
            "{\"type\":\"clear_queue\",\"id\":\"clear\"}\n{\"type\":\"abort\",\"id\":\"abort\"}\n"
        );
        assert_eq!(text(dismiss("d1")), "{\"type\":\"extension_ui_response\",\"id\":\"d1\",\"cancelled\":true}\n");
    }

    #[test]
    fn the_asker_of_an_answer_is_known_by_its_id() {
        let (ours, theirs) = (Asker::new(), Asker::new());
        assert_ne!(ours, theirs);
        assert_eq!(Asker::of(&ours.id(id::STATE)), (id::STATE, Some(ours)));
        assert_eq!(Asker::of("prompt"), (id::PROMPT, None));
        for forged in ["state-", "state-x", "state-1-2", "state-11111111111111111"] {
            assert_eq!(Asker::of(forged), (id::STATE, None), "{forged}");
        }
    }

    #[test]
    fn a_message_is_a_prompt_that_may_wait_and_its_answer_is_known_by_its_id() {
        let message = |mode| Message { id: Uuid::nil(), text: "/a\n".into(), mode, at: jiff::Timestamp::UNIX_EPOCH };
        let id = "message-00000000-0000-0000-0000-000000000000";
        assert_eq!(
            text(super::message(&message(Mode::FollowUp))),
            format!(
                "{{\"type\":\"prompt\",\"id\":\"{id}\",\"message\":\"/a\\n\",\"streamingBehavior\":\"followUp\"}}\n"
            )
        );
        assert!(text(super::message(&message(Mode::Steer))).contains("\"streamingBehavior\":\"steer\""));
        assert_eq!(message_of(id), Some(Uuid::nil()));
        for other in ["message", "message-", "message-x", "prompt", "state-1"] {
            assert_eq!(message_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_prompt_with_line_feeds_stays_one_line() {
        let image = Image { r#type: "image", data: "AAAA", mime_type: "image/png" };
        let bytes = prompt("a\nb\u{2028}\r\n\"", &[image]);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["message"], "a\nb\u{2028}\r\n\"");
        assert_eq!(value["images"][0]["mimeType"], "image/png");
        assert!(!text(prompt("x", &[])).contains("images"));
    }
}
