//! What a request says: the parts of its body the script and the journal need.

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
pub struct Body {
    #[serde(default)]
    pub model: String,
    /// Of an exchange of tokens.
    #[serde(default)]
    pub refresh_token: Option<String>,
    #[serde(default)]
    instructions: String,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    prompt_cache_key: String,
    /// Of a request for an image.
    #[serde(default)]
    prompt: String,
}

impl Body {
    fn items(&self) -> &[Value] {
        self.input.as_array().map_or(&[], Vec::as_slice)
    }

    /// All user texts, oldest first.
    pub fn user_texts(&self) -> Vec<String> {
        match &self.input {
            Value::String(text) => vec![text.clone()],
            _ => self.items().iter().filter(|item| item["role"] == "user").map(|item| text(&item["content"])).collect(),
        }
    }

    /// The images of all user messages as they came, oldest first.
    pub fn images(&self) -> Vec<&str> {
        let of_user = self.items().iter().filter(|item| item["role"] == "user");
        let parts = of_user.flat_map(|item| item["content"].as_array().map_or(&[][..], Vec::as_slice));
        parts.filter_map(|part| part["image_url"].as_str()).collect()
    }

    /// What the model is told beside what users say.
    pub fn instructions(&self) -> String {
        let system = self.items().iter().filter(|item| item["role"] == "developer" || item["role"] == "system");
        system.fold(self.instructions.clone(), |told, item| told + &text(&item["content"]))
    }

    /// Tool results behind the last user text, oldest first.
    pub fn results(&self) -> Vec<String> {
        let items = self.items();
        let from = items.iter().rposition(|item| item["role"] == "user").map_or(0, |at| at + 1);
        let output = |item: &&Value| item["type"] == "function_call_output";
        items[from..].iter().filter(output).map(|item| text(&item["output"])).collect()
    }

    pub fn tool_names(&self) -> Vec<&str> {
        let inline = self.items().iter().filter(|i| i["type"] == "additional_tools");
        let inline = inline.flat_map(|i| i["tools"].as_array().map_or(&[][..], Vec::as_slice));
        self.tools.iter().chain(inline).filter_map(|tool| tool["name"].as_str()).collect()
    }

    /// Whether it wants an image of the provider's own tool.
    pub fn has_image_tool(&self) -> bool {
        self.tools.iter().any(|tool| tool["type"] == "image_generation")
    }

    /// What an image shall show.
    pub fn image_prompt(&self) -> String {
        if self.prompt.is_empty() { self.user_texts().pop().unwrap_or_default() } else { self.prompt.clone() }
    }

    /// What tells one asking of a text from another: the session and the text.
    pub fn key(&self) -> String {
        format!("{} {} {}", self.prompt_cache_key, self.user_texts().len(), self.user_texts().pop().unwrap_or_default())
    }

    /// What tells sessions apart.
    pub fn session(&self) -> &str {
        &self.prompt_cache_key
    }

    /// Input tokens to report: reproducible from the request.
    pub fn tokens(&self) -> u64 {
        100 + 10 * self.items().len() as u64
    }
}

/// Text content: a string, or the texts of its parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn texts_results_and_tools_are_found() {
        let body: Body = serde_json::from_str(
            r#"{"model":"m","input":[{"role":"developer","content":"x"},{"role":"user","content":"one"},
            {"type":"function_call_output","output":"old"},{"role":"user","content":[{"type":"input_text","text":"two"}]},
            {"type":"function_call","name":"bash"},{"type":"function_call_output","output":"new"},
            {"type":"additional_tools","tools":[{"name":"read"}]}],"tools":[{"name":"bash"}]}"#,
        )
        .unwrap();
        assert_eq!(body.user_texts(), ["one", "two"]);
        assert_eq!(body.instructions(), "x");
        assert_eq!(body.results(), ["new"]);
        assert_eq!(body.tool_names(), ["bash", "read"]);
    }
}
