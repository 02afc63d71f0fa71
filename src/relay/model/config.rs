//! What the model relay is told: its settings file, its credential, its models.
//!
//! The rules that hold for every relay's settings are in [`crate::relay::settings`].

use std::fmt;
use std::path::Path;
use std::time::Duration;

use hyper::header::HeaderValue;
use reqwest::Url;

use super::codex;
use super::images::way::Images;
use crate::models::{Catalogue, Provider};
use crate::relay::settings::{self, Mistakes, keep};

/// The credential's name under `$CREDENTIALS_DIRECTORY` and /etc/pi-gateway/credentials.
pub const CREDENTIAL: &str = "OPENAI_API_KEY";

/// Where the Images API is, below the base URL.
const IMAGES: &str = "images/generations";

/// The relay's configuration, validated.
#[derive(Debug)]
pub struct Config {
    /// Where `POST …/responses` goes: the base URL with `/responses` appended.
    pub endpoint: Url,
    /// The port agents listen on inside their sandboxes.
    pub port: u16,
    /// What may be asked for.
    pub catalogue: Catalogue,
    /// How long usage files are kept.
    pub retention: Duration,
    /// Tokens a user may spend in 24 hours; 0 for any number.
    pub budget: u64,
    /// How images are made.
    pub images: Images,
    /// The provider's key; none when no model needs it.
    pub key: Option<ApiKey>,
    /// What belongs to the models of a ChatGPT account, when there is one.
    pub codex: Option<codex::Settings>,
}

/// The provider's key, as the header value it is sent in.
#[derive(Clone)]
pub struct ApiKey {
    header: HeaderValue,
    text: String,
}

impl ApiKey {
    /// Takes a key.
    ///
    /// # Errors
    /// It cannot stand in a header; it is not shown.
    pub fn new(text: &str) -> Result<Self, String> {
        let header = HeaderValue::from_str(&format!("Bearer {text}"));
        let mut header = header.map_err(|_| format!("credential {CREDENTIAL} cannot stand in a header"))?;
        header.set_sensitive(true);
        Ok(Self { header, text: text.to_owned() })
    }

    /// `Authorization` for the upstream, marked sensitive.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// Whether a text from outside repeats the key.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        text.contains(&self.text)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

impl Config {
    /// Reads the settings file and the credential in `credentials` (`$CREDENTIALS_DIRECTORY`); `launcher` is the
    /// launcher's socket for this relay.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load(file: &Path, credentials: Option<&Path>, launcher: &Path) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let (mut base, mut port, mut models, mut days) =
            ("https://api.openai.com/v1".to_owned(), "4180".to_owned(), String::new(), "30".to_owned());
        let (mut auth_file, mut codex_base, mut token_url) = (
            String::new(),
            "https://chatgpt.com/backend-api".to_owned(),
            "https://auth.openai.com/oauth/token".to_owned(),
        );
        let mut budget = "0".to_owned();
        let (mut image_model, mut image_size, mut responses_model) =
            ("gpt-image-2".to_owned(), "1024x1024".to_owned(), String::new());
        for (name, value) in keep(settings::variables(file), &mut mistakes).into_iter().flatten() {
            match name.as_str() {
                "OPENAI_BASE_URL" => base = value,
                "INTERNAL_PROVIDER_PORT" => port = value,
                "PI_GATEWAY_MODELS" => models = value,
                "RUN_RETENTION_DAYS" => days = value,
                "PI_GATEWAY_CODEX_AUTH_FILE" => auth_file = value,
                "PI_GATEWAY_CODEX_UPSTREAM_BASE_URL" => codex_base = value,
                "PI_GATEWAY_CODEX_TOKEN_URL" => token_url = value,
                "USER_DAILY_TOKEN_BUDGET" => budget = value,
                "OPENAI_IMAGE_MODEL" => image_model = value,
                "OPENAI_IMAGE_SIZE" => image_size = value,
                "OPENAI_RESPONSES_MODEL" => responses_model = value,
                // The rest of what the table says it reads belongs to routes that are not asked for.
                _ => {}
            }
        }
        if models.is_empty() {
            models = "/usr/lib/pi-gateway/trusted/models.json".to_owned();
        }
        let by_tool = !responses_model.is_empty();
        let (below, image_model) = if by_tool { ("responses", responses_model) } else { (IMAGES, image_model) };
        let images = at(&base, below).ok();
        let images = images.map(|endpoint| Images { endpoint, model: image_model, by_tool, size: image_size });
        let endpoint = keep(endpoint(&base).map_err(|m| format!("OPENAI_BASE_URL {m}")), &mut mistakes);
        let port = keep(self::port(&port).map_err(|m| format!("INTERNAL_PROVIDER_PORT {m}")), &mut mistakes);
        let catalogue = if Path::new(&models).is_absolute() {
            keep(Catalogue::load(Path::new(&models)).map_err(|m| m.to_string()), &mut mistakes)
        } else {
            keep(Err("PI_GATEWAY_MODELS must be an absolute path".to_owned()), &mut mistakes)
        };
        // Without a list nobody knows, so it is looked at.
        let needed = catalogue.as_ref().is_none_or(|catalogue| catalogue.has(Provider::Openai));
        let key = || settings::credential(CREDENTIAL, credentials).and_then(|text| ApiKey::new(&text));
        // One that is there and not needed is of no interest, whatever it is.
        let key = if needed { keep(key(), &mut mistakes) } else { key().ok() };
        let codex_base = codex::endpoint(&codex_base).map_err(|m| format!("PI_GATEWAY_CODEX_UPSTREAM_BASE_URL {m}"));
        let token_url = codex::token_url(&token_url).map_err(|m| format!("PI_GATEWAY_CODEX_TOKEN_URL {m}"));
        let codex = keep(codex_base, &mut mistakes).zip(keep(token_url, &mut mistakes));
        let codex = codex.filter(|_| !auth_file.is_empty());
        let codex =
            codex.map(|(endpoint, token_url)| codex::Settings { endpoint, token_url, launcher: launcher.into() });
        let days = days.parse::<u64>().map_err(|_| "RUN_RETENTION_DAYS must be a whole number".to_owned());
        let retention = keep(days.map(|days| Duration::from_secs(days * 86_400)), &mut mistakes);
        let budget = budget.parse().map_err(|_| "USER_DAILY_TOKEN_BUDGET must be a whole number".to_owned());
        let budget = keep(budget, &mut mistakes).unwrap_or_default();
        match (endpoint.zip(images), port, catalogue, retention) {
            (Some((endpoint, images)), Some(port), Some(catalogue), Some(retention)) if mistakes.is_empty() => {
                Ok(Self { endpoint, port, catalogue, retention, budget, images, key, codex })
            }
            _ => Err(Mistakes(mistakes)),
        }
    }
}

/// The URL that requests to models are sent to. Plain http only leaves the machine's own loopback out: the key goes with
/// it.
pub(crate) fn endpoint(base: &str) -> Result<Url, String> {
    at(base, "responses")
}

fn at(base: &str, below: &str) -> Result<Url, String> {
    let mut url = settings::secret_url(base, "https://api.openai.com/v1")?;
    let path = format!("{}/{below}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|p| *p >= 1024).ok_or_else(|| "must be a port from 1024 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn load(env: &str, key: Option<&str>) -> Result<Config, Mistakes> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay-model.env");
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/trusted/models.json");
        let default = if env.contains("PI_GATEWAY_MODELS") { "" } else { &format!("PI_GATEWAY_MODELS={models}\n") };
        std::fs::write(&file, format!("{default}{env}")).unwrap();
        if let Some(key) = key {
            std::fs::write(dir.path().join(CREDENTIAL), key).unwrap();
        }
        Config::load(&file, Some(dir.path()), Path::new("/run/launcher.sock"))
    }

    #[test]
    fn defaults_and_given_values_are_taken_and_the_key_is_trimmed_and_hidden() {
        let config = load("# comment\n\n", Some(" sk-secret-1234\n")).unwrap();
        assert_eq!((config.endpoint.as_str(), config.port), ("https://api.openai.com/v1/responses", 4180));
        let header = config.key.as_ref().unwrap().header();
        assert_eq!(header.to_str().unwrap(), "Bearer sk-secret-1234");
        assert!(header.is_sensitive() && config.codex.is_none());
        assert!(!format!("{config:?} {header:?}").contains("sk-secret"));
        let given =
            load("OPENAI_BASE_URL='http://127.0.0.1:9/v1/'\nINTERNAL_PROVIDER_PORT=5000\n", Some("sk-secret-1234"));
        let given = given.unwrap();
        assert_eq!((given.endpoint.as_str(), given.port), ("http://127.0.0.1:9/v1/responses", 5000));
    }

    #[test]
    fn images_are_made_by_their_api_or_by_a_models_tool() {
        let images = load("", Some("sk-secret-1234")).unwrap().images;
        assert_eq!(images.endpoint.as_str(), "https://api.openai.com/v1/images/generations");
        assert_eq!((images.model.as_str(), images.by_tool, images.size.as_str()), ("gpt-image-2", false, "1024x1024"));
        let env = "OPENAI_RESPONSES_MODEL=gpt-6-sol\nOPENAI_IMAGE_SIZE=auto\n";
        let images = load(env, Some("sk-secret-1234")).unwrap().images;
        assert_eq!(images.endpoint.as_str(), "https://api.openai.com/v1/responses");
        assert_eq!((images.model.as_str(), images.by_tool, images.size.as_str()), ("gpt-6-sol", true, "auto"));
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_none_shows_the_key() {
        let env = "OPENAI_BASE_URL=ftp://x\nINTERNAL_PROVIDER_PORT=80\nPI_GATEWAY_MODELS=models.json\n";
        let mistakes = load(env, Some("sk with blanks")).unwrap_err();
        assert_eq!(mistakes.0.len(), 4, "{mistakes}");
        for word in ["OPENAI_BASE_URL", "INTERNAL_PROVIDER_PORT", "PI_GATEWAY_MODELS", CREDENTIAL] {
            assert!(mistakes.to_string().contains(word), "{word}: {mistakes}");
        }
        assert!(!mistakes.to_string().contains("blanks without"), "{mistakes}");
        assert!(!mistakes.to_string().contains("sk with"), "{mistakes}");
    }

    #[test]
    fn models_of_an_account_need_no_key_and_its_urls_are_judged_alike() {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models.json");
        let text = include_str!("../../../trusted/models.json").replace("\"id\"", "\"provider\": \"codex\", \"id\"");
        std::fs::write(&models, text).unwrap();
        let env = format!("PI_GATEWAY_MODELS={}\nPI_GATEWAY_CODEX_AUTH_FILE=/etc/x\n", models.display());
        let config = load(&env, None).unwrap();
        let codex = config.codex.unwrap();
        assert!(config.key.is_none());
        assert_eq!(codex.endpoint.as_str(), "https://chatgpt.com/backend-api/codex/responses");
        assert_eq!(codex.token_url.as_str(), "https://auth.openai.com/oauth/token");
        let bad =
            "PI_GATEWAY_CODEX_UPSTREAM_BASE_URL=http://chatgpt.com\nPI_GATEWAY_CODEX_TOKEN_URL=http://10.0.0.1/t\n";
        assert_eq!(load(&format!("{env}{bad}"), Some("")).unwrap_err().0.len(), 2);
    }

    #[test]
    fn base_urls_that_would_leak_or_confuse_are_refused() {
        for bad in [
            "http://api.example.org/v1",
            "http://10.0.0.1/v1",
            "https://user:pw@example.org/v1",
            "https://example.org/v1?x=1",
            "https://example.org/v1#x",
            "file:///etc/passwd",
            "example.org/v1",
            "",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        for good in ["https://example.org", "http://localhost:1/v1", "http://[::1]:1/v1"] {
            assert!(endpoint(good).unwrap().path().ends_with("/responses"), "{good}");
        }
    }

    #[test]
    fn a_missing_empty_or_placeholder_credential_stops_the_start_with_the_remedy() {
        for key in [None, Some(""), Some(" \n"), Some("CHANGEME-please"), Some("sk-short\u{e9}")] {
            let mistakes = load("", key).unwrap_err();
            assert!(mistakes.to_string().contains("/etc/pi-gateway/credentials/OPENAI_API_KEY"), "{mistakes}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(
            Config::load(file.path(), None, Path::new("")).unwrap_err().to_string().contains("CREDENTIALS_DIRECTORY")
        );
    }
}
