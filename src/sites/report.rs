//! What `build-site` leaves for the front: `/session/site.json`, outside the repository. It is the agent's text.
//!
//! That it differs from the one that was dealt with last is all that counts as a new build. Who forges one has his own
//! `dist` exported, which he may have anyway.

use std::io::Read;

use pi_gateway_helper::names::User;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use super::limits::{MAX_MESSAGE, MAX_REPORT};
use super::state::SiteError;
use crate::worker::message::{Failure, Reply, Request};
use crate::workspace::connection::AskError;
use crate::workspace::file;
use crate::workspace::workers::{WorkerError, Workers};

/// What was left.
#[derive(Debug)]
pub struct Report {
    /// SHA-256 of it, hex.
    pub digest: String,
    /// Whether a site was built, or why not.
    pub built: Result<(), SiteError>,
}

#[derive(Deserialize)]
struct Told {
    built: bool,
    #[serde(default)]
    message: String,
}

/// Reads it; None when there is none.
///
/// # Errors
/// When the worker does not say.
pub async fn read(workers: &Workers, user: &User, uid: u32, until: Instant) -> Result<Option<Report>, SiteError> {
    let descriptor = match timeout_at(until, workers.ask_aside(user, Request::SiteReport)).await {
        Err(_) => return Err(super::export::late()),
        Ok(Ok((Reply::Entry(_), descriptor))) => descriptor,
        Ok(Err(WorkerError::Ask(AskError::Failed(Failure::NotFound)))) => return Ok(None),
        // Something is there that build-site does not make.
        Ok(Err(WorkerError::Ask(AskError::Failed(_)))) => return Ok(Some(parse(b""))),
        Ok(answer) => return Err(super::export::unfit(answer.map(drop))),
    };
    let storage = |error| super::export::storage(&error);
    let (file, _) = file::readable(descriptor).map_err(storage)?;
    if !super::export::is_of(&file, uid) {
        return Ok(Some(parse(b"")));
    }
    let mut text = Vec::new();
    file.take(MAX_REPORT + 1).read_to_end(&mut text).map_err(storage)?;
    Ok(Some(parse(&text)))
}

fn parse(text: &[u8]) -> Report {
    let digest = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    let small = text.len() as u64 <= MAX_REPORT;
    let built = match serde_json::from_slice::<Told>(text) {
        Ok(told) if small && told.built => Ok(()),
        Ok(told) if small => Err(SiteError::new("build_failed", clean(&told.message))),
        _ => Err(SiteError::new("report_invalid", "/session/site.json is not what build-site writes")),
    };
    Report { digest, built }
}

fn clean(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whatever_is_in_the_report_it_is_a_word_and_a_line() {
        let code = |text: &[u8]| parse(text).built.err().map(|error| error.code);
        assert_eq!(code(br#"{"id":"1","built":true,"message":"fine"}"#), None);
        assert_eq!(code(br#"{"id":"1","built":false,"message":"npm"}"#).as_deref(), Some("build_failed"));
        let long = format!(r#"{{"built":true,"message":"{}"}}"#, "x".repeat(5000));
        for bad in [b"".as_slice(), b"{}", b"[]", b"\xff", br#"{"built":1}"#, long.as_bytes()] {
            assert_eq!(code(bad).as_deref(), Some("report_invalid"), "{}", bad.escape_ascii());
        }
        let told = format!(r#"{{"built":false,"message":"a\nb{}"}}"#, "y".repeat(1000));
        let message = parse(told.as_bytes()).built.unwrap_err().message;
        assert!(message.starts_with("a by") && message.len() == MAX_MESSAGE);
        assert_ne!(parse(b"1").digest, parse(b"2").digest);
    }
}
