//! The models of a ChatGPT account, asked by Codex's API.
//!
//! The account's token changes: it lives for some hours and is then exchanged for the next, with a refresh token that can
//! be used once. One process does that for all users: [`keeper`] has the present token, [`issuer`] gives the next,
//! [`file`] knows the two forms of the file that root keeps it in, and the launcher writes that file. [`state`] tells the
//! front how it stands. [`requests`] takes what pi asks, whose bodies come compressed ([`coding`]), and [`failure`] words
//! errors so that pi's Codex client and a run's code make of them what they make of those of other models.

pub mod coding;
pub mod failure;
pub mod file;
pub mod issuer;
pub mod keeper;
pub mod limits;
pub mod requests;
pub mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;

use super::limits::Waits;
use super::upstream::Upstream;
use crate::launcher::Launcher;
use crate::relay::settings::secret_url;
use issuer::Issuer;
use keeper::Keeper;
use state::Report;

/// What is configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where `POST …/codex/responses` goes.
    pub endpoint: Url,
    /// Where tokens are exchanged.
    pub token_url: Url,
    /// The launcher's socket for this relay.
    pub launcher: PathBuf,
}

/// What requests for these models need.
#[derive(Debug)]
pub struct Codex {
    /// Where they go.
    pub upstream: Upstream,
    /// Who has the token.
    pub keeper: Arc<Keeper>,
}

impl Codex {
    /// Prepares both; `directory` is that of the usage files, where the state is told.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(settings: Settings, waits: &Waits, directory: &Path) -> reqwest::Result<Self> {
        let upstream = Upstream::new(settings.endpoint, waits)?;
        let issuer = Issuer::new(settings.token_url, waits)?;
        let (launcher, report) = (Launcher::new(settings.launcher), Report::new(directory));
        Ok(Self { upstream, keeper: Arc::new(Keeper::new(launcher, issuer, report, waits.codex)) })
    }
}

/// The one URL requests are sent to.
///
/// # Errors
/// What is wrong with the base, to be read behind the variable's name.
pub fn endpoint(base: &str) -> Result<Url, String> {
    let mut url = secret_url(base, "https://chatgpt.com/backend-api")?;
    let path = format!("{}/codex/responses", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// The one URL tokens are exchanged at.
///
/// # Errors
/// What is wrong with it, to be read behind the variable's name.
pub fn token_url(text: &str) -> Result<Url, String> {
    secret_url(text, "https://auth.openai.com/oauth/token")
}
