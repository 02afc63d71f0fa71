//! One line of a session, as far as it matters where it belongs: the fields that make the tree, and few more.
//!
//! Everything else is passed over without being kept, however large or deep it is.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The longest id, in bytes; pi's have 8, seldom 36.
pub const MAX_ID: usize = 64;
/// The longest name of a model or a session, in bytes.
const MAX_NAME: usize = 1024;

/// A line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub parent_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub target_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub message: Option<Head<'a>>,
    /// What takes an edited message's place; None when nothing does.
    pub replacement: Option<IgnoredAny>,
}

/// What an entry's message is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head<'a> {
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    #[serde(borrow)]
    pub stop_reason: Option<Cow<'a, str>>,
    pub usage: Option<Usage>,
}

/// What pi says an answer took.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    pub total_tokens: Option<f64>,
}

impl<'a> Line<'a> {
    /// Takes a line apart; None when it is no entry.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let line: Line<'a> = serde_json::from_slice(bytes).ok()?;
        let too_long = |id: &Option<Cow<'_, str>>| id.as_ref().is_some_and(|id| id.len() > MAX_ID);
        let ids = [&line.id, &line.parent_id, &line.target_id];
        if ids.into_iter().any(too_long) { None } else { Some(line) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Answer<'a>>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
}

fn kept(name: Cow<'_, str>) -> Option<String> {
    let name = name.trim();
    (!name.is_empty() && name.len() <= MAX_NAME).then(|| name.to_owned())
}

/// The name that a line gives the session.
pub fn name(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<Named<'_>>(bytes).ok()?.name.and_then(kept)
}

/// The model that a line chooses, or that an answer is of.
pub fn model(bytes: &[u8]) -> Option<String> {
    let named: Named<'_> = serde_json::from_slice(bytes).ok()?;
    named.model_id.or(named.message.and_then(|answer| answer.model)).and_then(kept)
}
