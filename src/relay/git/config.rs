//! What the git relay is told: its settings file and its credential. The rules that hold for every relay's settings are
//! in [`crate::relay::settings`].

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use reqwest::Url;

use crate::config::checks;
use crate::relay::settings::{self, Mistakes, keep};

/// The credential's name under `$CREDENTIALS_DIRECTORY` and /etc/pi-gateway/credentials.
pub const CREDENTIAL: &str = "GITEA_SYNC_SERVICE_TOKEN";

/// The relay's configuration, validated.
#[derive(Debug)]
pub struct Config {
    /// The Gitea: scheme, host, port and a path above all repositories.
    pub base: Url,
    /// Name of each user's repository, without `.git`.
    pub repository: String,
    /// Largest pack in either direction, in bytes.
    pub max_pack: u64,
    /// What requests are made with.
    pub account: Account,
}

/// The account's name and token, as the header value they are sent in.
pub struct Account(HeaderValue);

impl Account {
    /// Takes an account's name, which holds no colon, and its token.
    ///
    /// # Errors
    /// They cannot stand in a header; they are not shown.
    pub fn new(name: &str, token: &str) -> Result<Self, String> {
        let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{name}:{token}"))));
        let mut header = header.map_err(|_| format!("credential {CREDENTIAL} cannot stand in a header"))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// `Authorization` for Gitea, marked sensitive.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(hidden)")
    }
}

impl Config {
    /// Reads the settings file and the credential in `credentials` (`$CREDENTIALS_DIRECTORY`).
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load(file: &Path, credentials: Option<&Path>) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let (mut url, mut repository, mut name, mut quota) =
            (String::new(), "workspace".to_owned(), String::new(), "1024".to_owned());
        for (variable, value) in keep(settings::variables(file), &mut mistakes).into_iter().flatten() {
            match variable.as_str() {
                "GITEA_BASE_URL" => url = value,
                "GITEA_WORKSPACE_REPO_NAME" => repository = value,
                "GITEA_SYNC_SERVICE_USERNAME" => name = value,
                "WORKSPACE_QUOTA_MB" => quota = value,
                _ => {}
            }
        }
        let base = keep(base(&url).map_err(|m| format!("GITEA_BASE_URL {m}")), &mut mistakes);
        keep(checks::repository(&repository).map_err(|m| format!("GITEA_WORKSPACE_REPO_NAME {m}")), &mut mistakes);
        let named = if name.is_empty() { Err("must be set".to_owned()) } else { checks::account(&name) };
        keep(named.map_err(|m| format!("GITEA_SYNC_SERVICE_USERNAME {m}")), &mut mistakes);
        let quota = quota.parse::<u32>().map_err(|_| "WORKSPACE_QUOTA_MB must be a whole number".to_owned());
        let max_pack = keep(quota.map(|quota| u64::from(quota) << 20), &mut mistakes);
        let token = settings::credential(CREDENTIAL, credentials);
        let account = keep(token.and_then(|token| Account::new(&name, &token)), &mut mistakes);
        match (base, max_pack, account) {
            (Some(base), Some(max_pack), Some(account)) if mistakes.is_empty() => {
                Ok(Self { base, repository, max_pack, account })
            }
            _ => Err(Mistakes(mistakes)),
        }
    }
}

/// The Gitea's address. Plain http only to the machine's own loopback: the token goes with it.
pub(crate) fn base(url: &str) -> Result<Url, String> {
    settings::secret_url(url, "https://gitea.example.org")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const ENV: &str = "GITEA_BASE_URL=https://git.example.org/sub\nGITEA_SYNC_SERVICE_USERNAME=Sync-Bot\n";

    fn load(env: &str, token: Option<&str>) -> Result<Config, Mistakes> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay-git.env");
        std::fs::write(&file, env).unwrap();
        if let Some(token) = token {
            std::fs::write(dir.path().join(CREDENTIAL), token).unwrap();
        }
        Config::load(&file, Some(dir.path()))
    }

    #[test]
    fn what_is_given_is_taken_and_the_token_is_hidden() {
        let config = load(&format!("{ENV}WORKSPACE_QUOTA_MB=16\nOTHER=x\n"), Some("0123abcdef0123\n")).unwrap();
        assert_eq!((config.base.as_str(), config.repository.as_str()), ("https://git.example.org/sub", "workspace"));
        assert_eq!(config.max_pack, 16 << 20);
        let header = config.account.header();
        assert_eq!(STANDARD.decode(&header.as_bytes()[6..]).unwrap(), b"Sync-Bot:0123abcdef0123");
        assert!(header.is_sensitive());
        let shown = format!("{config:?} {header:?}");
        assert!(!shown.contains("0123abc") && !shown.contains("Basic"), "{shown}");
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_none_shows_the_token() {
        let env = "GITEA_BASE_URL=http://git.example.org\nGITEA_WORKSPACE_REPO_NAME=a/b\nWORKSPACE_QUOTA_MB=x\n";
        let told = load(env, Some("secret word")).unwrap_err();
        assert_eq!(told.0.len(), 5, "{told}");
        for word in [
            "GITEA_BASE_URL",
            "GITEA_WORKSPACE_REPO_NAME",
            "GITEA_SYNC_SERVICE_USERNAME",
            "WORKSPACE_QUOTA_MB",
            CREDENTIAL,
        ] {
            assert!(told.to_string().contains(word), "{word}: {told}");
        }
        assert!(!told.to_string().contains("secret"), "{told}");
    }

    #[test]
    fn an_address_that_would_show_the_token_or_confuse_is_refused() {
        for bad in ["", "git.example.org", "http://10.0.0.1:3000", "https://u:p@git.example.org", "ssh://git@x"] {
            assert!(base(bad).is_err(), "{bad}");
        }
        assert!(base("https://git.example.org?x=1").is_err() && base("https://git.example.org#x").is_err());
        for good in ["https://git.example.org", "http://127.0.0.1:3000", "http://localhost:3000/gitea"] {
            base(good).unwrap();
        }
    }

    #[test]
    fn a_missing_empty_or_placeholder_credential_stops_the_start_with_the_remedy() {
        for token in [None, Some(""), Some(" \n"), Some("changeme-please"), Some("short")] {
            let told = load(ENV, token).unwrap_err().to_string();
            assert!(told.contains("/etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN"), "{told}");
        }
    }
}
