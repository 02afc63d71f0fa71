//! How the ChatGPT credential stands, in a small file beside the usage files: the relay writes it whenever that changes,
//! the front reads it for `GET /health/ready`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::durable::{self, Access};

/// The file's name.
const NAME: &str = "codex.json";
/// Most of it that is read, in bytes; it has about 60.
const MAX_FILE: u64 = 1024;

/// How the credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CodexState)]
pub enum State {
    /// There is a token that is good.
    Ok,
    /// The issuer gives no more tokens for what the file holds: the operator has to sign in again.
    SignedOut,
    /// The file is not there, not root's alone, or holds no account.
    Unreadable,
    /// The issuer or the launcher cannot be reached or does not do what it should; it is tried again.
    Unavailable,
    /// The relay has not looked yet.
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct Told {
    state: State,
    since: Timestamp,
}

/// Tells the front.
#[derive(Debug, Clone)]
pub struct Report {
    path: PathBuf,
    last: Arc<Mutex<Option<State>>>,
}

impl Report {
    /// One that tells it in `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join(NAME), last: Arc::default() }
    }

    /// Tells a state, if it is another one than the last.
    pub async fn tell(&self, state: State) {
        if self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(state) == Some(state) {
            return;
        }
        tracing::info!(?state, "the ChatGPT credential");
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&Told { state, since: Timestamp::now() })?;
            // The front reads it through the directory's group, as it does usage files.
            durable::write(&path, &text, Access { mode: 0o640, owner: None })
        });
        if let Ok(Err(error)) = written.await {
            tracing::error!(%error, "the state of the ChatGPT credential could not be written");
        }
    }
}

/// What the relay told last in `directory`.
#[must_use]
pub fn read(directory: &Path) -> State {
    let mut text = String::new();
    let read = File::open(directory.join(NAME)).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    let told = read.ok().and_then(|_| serde_json::from_str::<Told>(&text).ok());
    told.map_or(State::Unknown, |told| told.state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn what_the_relay_tells_the_front_reads() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report::new(dir.path());
        assert_eq!(read(dir.path()), State::Unknown);
        for state in [State::Ok, State::SignedOut, State::SignedOut, State::Unreadable, State::Unavailable] {
            report.tell(state).await;
            assert_eq!(read(dir.path()), state);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(dir.path().join(NAME), "{\"state\":\"what\"").unwrap();
        assert_eq!(read(dir.path()), State::Unknown);
    }
}
