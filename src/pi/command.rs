//! Commands for pi's stdin, one JSON object per line.
//!
//! Order matters to pi 1.5.2 and is the caller's duty: one prompt at a time, `clear_queue` before `abort`, and `abort`
//! only after the prompt's response (pi answers an earlier abort first and then runs the prompt to its end).

use serde::Serialize;

/// Ids of the commands; pi echoes them in its responses.
pub mod id {
    /// The state query that tells pi is up, and after a restart separates old input from new.
    pub const STATE: &str = "state";
    /// The choice of the model.
    pub const MODEL: &str = "model";
    /// The choice of the thinking level.
    pub const THINKING: &str = "thinking";
    /// The run's prompt.
    pub const PROMPT: &str = "prompt";
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
        id: &'static str,
    },
    SetModel {
        id: &'static str,
        provider: &'static str,
        #[serde(rename = "modelId")]
        model_id: &'a str,
    },
    SetThinkingLevel {
        id: &'static str,
        level: &'a str,
    },
    Prompt {
        id: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        images: &'a [Image<'a>],
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
pub fn probe() -> Vec<u8> {
    let mut bytes = b"\n".to_vec();
    bytes.extend(line(&Command::GetState { id: id::STATE }));
    bytes
}

/// Chooses the model of this process.
pub fn set_model(model_id: &str) -> Vec<u8> {
    line(&Command::SetModel { id: id::MODEL, provider: super::PROVIDER, model_id })
}

/// Chooses the thinking level of this process.
pub fn set_thinking(level: &str) -> Vec<u8> {
    line(&Command::SetThinkingLevel { id: id::THINKING, level })
}

/// The run's prompt.
pub fn prompt(message: &str, images: &[Image<'_>]) -> Vec<u8> {
    line(&Command::Prompt { id: id::PROMPT, message, images })
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
        assert_eq!(text(probe()), "\n{\"type\":\"get_state\",\"id\":\"state\"}\n");
        assert_eq!(
            text(set_model("gpt-6-sol")),
            "{\"type\":\"set_model\",\"id\":\"model\",\"provider\":\"gateway\",\"modelId\":\"gpt-6-sol\"}\n"
        );
        assert_eq!(
            text(set_thinking("low")),
            "{\"type\":\"set_thinking_level\",\"id\":\"thinking\",\"level\":\"low\"}\n"
        );
        assert_eq!(
            text(abort()),
            "{\"type\":\"clear_queue\",\"id\":\"clear\"}\n{\"type\":\"abort\",\"id\":\"abort\"}\n"
        );
        assert_eq!(text(dismiss("d1")), "{\"type\":\"extension_ui_response\",\"id\":\"d1\",\"cancelled\":true}\n");
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
