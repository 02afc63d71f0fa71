//! An image, by the Images API or as the result of a model's tool; or what the prompt wants instead of one.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::play::{Answer, error, json_answer};

/// A PNG of 2 by 3 pixels, in base64.
pub const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAFElEQVR4nGM8ESDCwMDAxMDAgKAAF0wBMnFkAlUAAAAASUVORK5CYII=";
/// What `lie-huge` answers with, in bytes: more than any image has.
const HUGE: usize = 40 << 20;

/// The answer to a request for an image with this prompt.
pub fn answer(prompt: &str, by_tool: bool) -> Answer {
    let lies = |word: &str| prompt.contains(word);
    let image = if lies("lie-html") {
        // In base64 as an image would be: a page that a browser would run.
        "PCFkb2N0eXBlIGh0bWw+PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==".to_owned()
    } else if lies("lie-huge") {
        "A".repeat(HUGE)
    } else if lies("lie-truncated") {
        PNG[..PNG.len() - 12].to_owned()
    } else if lies("lie-refuse") {
        return error(StatusCode::BAD_REQUEST);
    } else {
        PNG.to_owned()
    };
    json_answer(StatusCode::OK, &if by_tool { of_tool(&image) } else { of_api(&image) })
}

fn of_api(image: &str) -> Value {
    let usage = json!({"input_tokens": 12, "output_tokens": 4160, "total_tokens": 4172,
        "input_tokens_details": {"text_tokens": 12, "image_tokens": 0}});
    json!({"created": 1_700_000_000, "data": [{"b64_json": image}], "usage": usage})
}

fn of_tool(image: &str) -> Value {
    let call = json!({"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": image});
    let usage = json!({"input_tokens": 300, "output_tokens": 40, "total_tokens": 340});
    let used = json!({"image_gen": {"input_tokens": 12, "output_tokens": 4160, "total_tokens": 4172}});
    json!({"id": "resp_1", "object": "response", "status": "completed", "output": [call], "usage": usage,
        "tool_usage": used})
}
