//! The models the operator offers: one JSON file, read by the front, the model relay and pi's trusted extension.
//!
//! The file is an array of [`Model`]. It is refused as a whole, with every mistake listed, when an entry is
//! unknown in form, a number is senseless or an id appears twice; nothing is repaired or skipped.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest models file, in bytes.
pub const MAX_FILE: u64 = 256 * 1024;
/// Most models in one file.
pub const MAX_MODELS: usize = 64;
/// Largest context window and answer, in tokens.
const MAX_TOKENS: u64 = 100_000_000;
/// Highest price, in USD per million tokens.
const MAX_PRICE: f64 = 100_000.0;

/// What a model can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Plain text.
    Text,
    /// Pictures, inline in the request.
    Image,
}

/// Whose model it is, which says how it is asked and what for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI's API, with a key.
    #[default]
    Openai,
    /// ChatGPT's backend for Codex, with a signed-in account.
    Codex,
}

/// How long a model thinks; the levels pi knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the levels are names, in ascending order; there is nothing to add")]
pub enum Thinking {
    Off,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

impl Thinking {
    /// The level's name, as pi and the API write it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Thinking::Off => "off",
            Thinking::Minimal => "minimal",
            Thinking::Low => "low",
            Thinking::Medium => "medium",
            Thinking::High => "high",
            Thinking::Xhigh => "xhigh",
            Thinking::Max => "max",
        }
    }
}

/// Prices in USD per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Input that was not in the provider's cache.
    pub input: f64,
    /// Output, reasoning included.
    pub output: f64,
    /// Input read from the provider's cache.
    pub cache_read: f64,
    /// Input written to the provider's cache.
    pub cache_write: f64,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The id the provider knows; also pi's.
    pub id: String,
    /// The name people read.
    pub name: String,
    /// Whose it is; OpenAI's unless said.
    #[serde(default)]
    pub provider: Provider,
    /// Tokens of context.
    pub context_window: u64,
    /// Most tokens of one answer.
    pub max_tokens: u64,
    /// Whether it thinks.
    pub reasoning: bool,
    /// What it takes.
    pub input: Vec<Input>,
    /// The levels that may be chosen; empty when it does not think.
    pub thinking_levels: Vec<Thinking>,
    /// What it costs.
    pub cost: Cost,
}

/// The validated list, in the file's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue(Vec<Model>);

/// Why a models file is refused: the file, and every mistake in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    list: Vec<String>,
}

impl Mistakes {
    /// One sentence per mistake.
    #[must_use]
    pub fn list(&self) -> &[String] {
        &self.list
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "models file {} (PI_GATEWAY_MODELS): {}", self.file, self.list.join("; "))
    }
}

impl std::error::Error for Mistakes {}

impl Catalogue {
    /// Reads and validates the file at `path` (at most [`MAX_FILE`] bytes).
    ///
    /// # Errors
    /// Every mistake found, with the entry it is in.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let text = read(path).map_err(|m| Mistakes { file: path.display().to_string(), list: vec![m] })?;
        Self::parse(&text).map_err(|list| Mistakes { file: path.display().to_string(), list })
    }

    /// Validates the text of a models file.
    ///
    /// # Errors
    /// Every mistake found, with the entry it is in.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        // Entry by entry, so that one bad entry does not hide the mistakes of the next.
        let entries: Vec<&serde_json::value::RawValue> =
            serde_json::from_str(text).map_err(|e| vec![format!("is not a JSON array of models: {e}")])?;
        let mut list = Vec::new();
        if entries.is_empty() {
            list.push("lists no model; name at least one".to_owned());
        }
        if entries.len() > MAX_MODELS {
            return Err(vec![format!("lists {} models; at most {MAX_MODELS} are allowed", entries.len())]);
        }
        let mut models: Vec<Model> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match serde_json::from_str::<Model>(entry.get()) {
                Err(e) => list.push(format!("entry {}: {e}", index + 1)),
                Ok(model) => {
                    list.extend(check(&model).into_iter().map(|m| format!("entry {}: {m}", index + 1)));
                    if models.iter().any(|other| other.id == model.id) {
                        list.push(format!("entry {}: id `{}` appears twice", index + 1, model.id));
                    }
                    models.push(model);
                }
            }
        }
        if list.is_empty() { Ok(Self(models)) } else { Err(list) }
    }

    /// The model with this id, if it is offered.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Model> {
        self.0.iter().find(|model| model.id == id)
    }

    /// Whether a model of this provider is offered.
    #[must_use]
    pub fn has(&self, provider: Provider) -> bool {
        self.0.iter().any(|model| model.provider == provider)
    }

    /// All models, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Model> {
        self.0.iter()
    }
}

/// Loads the catalogue and sees that it offers the default model.
///
/// # Errors
/// What is wrong with either, as a sentence for the operator.
pub fn with_default(path: &Path, default: &str) -> Result<Catalogue, String> {
    let catalogue = Catalogue::load(path).map_err(|mistakes| mistakes.to_string())?;
    match catalogue.get(default) {
        Some(_) => Ok(catalogue),
        None => Err(format!("PI_GATEWAY_DEFAULT_MODEL: {} offers no model `{default}`", path.display())),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    Ok(text)
}

fn check(model: &Model) -> Vec<String> {
    let mut list = Vec::new();
    if !valid_id(&model.id) {
        list.push("`id` must be 1 to 64 of a-z A-Z 0-9 . _ : - and begin with a letter or digit".to_owned());
    }
    if model.name.is_empty() || model.name.len() > 128 || model.name.chars().any(char::is_control) {
        list.push("`name` must be 1 to 128 bytes without control characters".to_owned());
    }
    if !(1..=MAX_TOKENS).contains(&model.context_window) {
        list.push(format!("`context_window` must be 1 to {MAX_TOKENS}"));
    }
    if !(1..=model.context_window).contains(&model.max_tokens) {
        list.push("`max_tokens` must be 1 to context_window".to_owned());
    }
    if !model.input.contains(&Input::Text) {
        list.push("`input` must contain \"text\"".to_owned());
    }
    if repeats(&model.input) || repeats(&model.thinking_levels) {
        list.push("`input` and `thinking_levels` must not repeat a value".to_owned());
    }
    if model.reasoning == model.thinking_levels.is_empty() {
        list.push("`thinking_levels` must list levels exactly when `reasoning` is true".to_owned());
    }
    let prices = [
        ("input", model.cost.input),
        ("output", model.cost.output),
        ("cache_read", model.cost.cache_read),
        ("cache_write", model.cost.cache_write),
    ];
    for (name, price) in prices {
        if !(0.0..=MAX_PRICE).contains(&price) {
            list.push(format!("`cost.{name}` must be 0 to {MAX_PRICE} USD per million tokens"));
        }
    }
    list
}

/// Model ids go into argv and logs, so their alphabet is small: no space, quote, slash or control character.
fn valid_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b))
}

fn repeats<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().any(|(i, v)| values[..i].contains(v))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const GOOD: &str = r#"{"id":"m-1","name":"M","context_window":1000,"max_tokens":100,"reasoning":true,
        "input":["text","image"],"thinking_levels":["off","high"],
        "cost":{"input":2,"output":10,"cache_read":0.2,"cache_write":2.5}}"#;

    #[test]
    fn the_shipped_file_is_valid_and_offers_the_default_model() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("trusted/models.json");
        let catalogue = Catalogue::load(&path).unwrap();
        assert!(catalogue.get("gpt-6-sol").unwrap().reasoning);
        assert!(catalogue.get("gpt-6-SOL").is_none());
    }

    #[test]
    fn a_model_is_openais_unless_it_says_so() {
        let codex = GOOD.replace("m-1", "m-2").replace("\"id\"", "\"provider\":\"codex\",\"id\"");
        let catalogue = Catalogue::parse(&format!("[{GOOD},{codex}]")).unwrap();
        assert_eq!(catalogue.get("m-1").unwrap().provider, Provider::Openai);
        assert_eq!(catalogue.get("m-2").unwrap().provider, Provider::Codex);
        assert!(!Catalogue::parse(&format!("[{GOOD}]")).unwrap().has(Provider::Codex));
        assert!(Catalogue::parse(&format!("[{}]", codex.replace("codex", "Codex"))).is_err());
    }

    #[test]
    fn every_mistake_of_every_entry_is_listed() {
        let bad = GOOD.replace("m-1", "a b").replace("\"max_tokens\":100", "\"max_tokens\":2000");
        let odd = GOOD.replace("\"reasoning\"", "\"resoning\"");
        let text = format!("[{GOOD},{bad},{odd},{GOOD},{}]", GOOD.replace("\"input\":2,", "\"input\":-1,"));
        let list = Catalogue::parse(&text).unwrap_err();
        let found = |entry: &str, word: &str| list.iter().any(|m| m.starts_with(entry) && m.contains(word));
        assert!(found("entry 2", "`id`") && found("entry 2", "`max_tokens`"), "{list:?}");
        assert!(found("entry 3", "resoning"), "{list:?}");
        assert!(found("entry 4", "twice"), "{list:?}");
        assert!(found("entry 5", "cost.input"), "{list:?}");
    }

    #[test]
    fn what_is_no_list_of_models_is_refused() {
        for text in ["", "{}", "[]", "[1]", "null", "[{}", &format!("[{GOOD}] x")] {
            assert!(Catalogue::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_oversized_file_is_refused_by_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " ".repeat(MAX_FILE as usize + 1)).unwrap();
        let error = Catalogue::load(file.path()).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
