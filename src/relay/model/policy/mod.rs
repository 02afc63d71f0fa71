//! What a request's body may ask of the provider.
//!
//! The gateway pays for the request and its key reaches everything the account holds, so the body is read in full
//! before a byte goes out: an offered model, streamed, not stored, no tool that runs at the provider, nothing the
//! provider would fetch, nothing stored there by others, no dearer service tier, and no member that is not known
//! here. The checked bytes are forwarded as they are; `json` says why that is sound. A refusal is one sentence that
//! names the member, never its value.

mod item;
mod json;

use std::borrow::Cow;

use serde::Deserialize;

use crate::models::{Catalogue, Provider};
use item::{Input, Tools};
use json::Plain;

/// What the relay keeps of a request it lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The model's id, as in the catalogue.
    pub model: String,
    /// Bytes of the body without inline images and files.
    pub text_bytes: usize,
    /// The most tokens that it can use.
    pub most_tokens: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "most members are only checked for their form")]
struct Body<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    stream: bool,
    input: Input,
    store: Option<bool>,
    background: Option<bool>,
    tools: Option<Tools>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    include: Option<Vec<Cow<'a, str>>>,
    instructions: Option<String>,
    max_output_tokens: Option<u64>,
    parallel_tool_calls: Option<bool>,
    prompt_cache_key: Option<String>,
    prompt_cache_options: Option<Plain>,
    prompt_cache_retention: Option<String>,
    reasoning: Option<Plain>,
    temperature: Option<f64>,
    text: Option<Plain>,
    tool_choice: Option<Plain>,
    top_p: Option<f64>,
    truncation: Option<String>,
}

/// Checks a whole body that asks for a model of this provider.
///
/// # Errors
/// One sentence saying what is not allowed.
pub fn check(bytes: &[u8], catalogue: &Catalogue, provider: Provider) -> Result<Accepted, String> {
    // First and as a whole: parsers differ in what they do with broken UTF-8.
    let text = std::str::from_utf8(bytes).map_err(|_| "the body is not UTF-8".to_owned())?;
    let body: Body<'_> = serde_json::from_str(text).map_err(|e| format!("the body is not accepted: {}", brief(&e)))?;
    let Some(model) = catalogue.get(&body.model).filter(|model| model.provider == provider) else {
        let offered = catalogue.iter().filter(|model| model.provider == provider);
        let offered: Vec<&str> = offered.map(|model| model.id.as_str()).collect();
        return Err(format!("this model is not offered here; offered: {}", offered.join(", ")));
    };
    if !body.stream {
        return Err("`stream` must be true".to_owned());
    }
    // An account's API stores unless it is told not to.
    if body.store.unwrap_or(provider == Provider::Codex) {
        return Err("`store` must be false".to_owned());
    }
    if body.background == Some(true) {
        return Err("`background` must be absent or false".to_owned());
    }
    if !matches!(body.service_tier.as_deref(), None | Some("auto" | "default")) {
        return Err("`service_tier` must be absent, auto or default".to_owned());
    }
    if body.include.iter().flatten().any(|i| i != "reasoning.encrypted_content") {
        return Err("`include` may only name reasoning.encrypted_content".to_owned());
    }
    let text_bytes = bytes.len().saturating_sub(body.input.data_bytes);
    // A token has a byte at least, and no model takes more than its context.
    let input = model.context_window.min(bytes.len() as u64);
    let output = model.max_tokens.min(body.max_output_tokens.unwrap_or(u64::MAX));
    Ok(Accepted { model: body.model.into_owned(), text_bytes, most_tokens: input + output })
}

/// The parser's sentence without what the client wrote, since it is logged and sent back.
pub fn brief(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let mut kept: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    // "invalid type: string "…", expected …": the middle is the client's.
    if let (Some(from), Some(to)) = (kept.find(": string \""), kept.rfind("\", expected")) {
        kept.replace_range(from..=to, ": a string");
    }
    kept
}

#[cfg(test)]
mod tests;
