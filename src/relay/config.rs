//! What the model relay is told: its settings file, its credential, its models.
//!
//! Everything is checked before anything listens, and every mistake is reported at once. The key itself is in no
//! message, no `Debug` output and no environment variable.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::HeaderValue;
use reqwest::Url;

use crate::config::syntax;
use crate::models::Catalogue;

/// Largest settings file and credential, in bytes.
const MAX_FILE: u64 = 64 * 1024;
/// The credential's name under `$CREDENTIALS_DIRECTORY` and /etc/pi-gateway/credentials.
pub const CREDENTIAL: &str = "OPENAI_API_KEY";

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
    /// The provider's key.
    pub key: ApiKey,
}

/// The provider's key, as the header value it is sent in.
pub struct ApiKey {
    header: HeaderValue,
    text: String,
}

impl ApiKey {
    /// Takes a key; surrounding white space goes.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.len() < 8 || text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err("is no API key: at least 8 visible ASCII characters without blanks are expected".to_owned());
        }
        let lower = text.to_ascii_lowercase();
        if ["changeme", "placeholder", "your-api-key", "your_api_key", "xxxxxxxx"].iter().any(|p| lower.contains(p)) {
            return Err("is a placeholder; put the real key there".to_owned());
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| "is no API key".to_owned())?;
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

/// Everything that is wrong, one sentence each; the start is refused with exit status 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads the settings file and the credential in `credentials` (`$CREDENTIALS_DIRECTORY`).
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load(file: &Path, credentials: Option<&Path>) -> Result<Self, Mistakes> {
        let mut list = Vec::new();
        let mut note = |result: Result<(), String>| list.extend(result.err());
        let (mut base, mut port, mut models, mut days) =
            ("https://api.openai.com/v1".to_owned(), "4180".to_owned(), String::new(), "30".to_owned());
        match read(file).and_then(|text| syntax::parse(&text).map_err(|mistakes| mistakes.join("; "))) {
            Err(mistake) => note(Err(format!("{}: {mistake}", file.display()))),
            Ok(pairs) => {
                for (name, value) in pairs {
                    match name.as_str() {
                        "OPENAI_BASE_URL" => base = value,
                        "INTERNAL_PROVIDER_PORT" => port = value,
                        "PI_GATEWAY_MODELS" => models = value,
                        "RUN_RETENTION_DAYS" => days = value,
                        // The rest of what the table says it reads belongs to routes that are not asked for.
                        _ => {}
                    }
                }
            }
        }
        if models.is_empty() {
            models = "/usr/lib/pi-gateway/trusted/models.json".to_owned();
        }
        let endpoint = keep(endpoint(&base).map_err(|m| format!("OPENAI_BASE_URL {m}")), &mut note);
        let port = keep(self::port(&port).map_err(|m| format!("INTERNAL_PROVIDER_PORT {m}")), &mut note);
        let catalogue = if Path::new(&models).is_absolute() {
            keep(Catalogue::load(Path::new(&models)).map_err(|m| m.to_string()), &mut note)
        } else {
            keep(Err("PI_GATEWAY_MODELS must be an absolute path".to_owned()), &mut note)
        };
        let key = keep(credential(credentials), &mut note);
        let days = days.parse::<u64>().map_err(|_| "RUN_RETENTION_DAYS must be a whole number".to_owned());
        let retention = keep(days.map(|days| Duration::from_secs(days * 86_400)), &mut note);
        match (endpoint, port, catalogue, key, retention) {
            (Some(endpoint), Some(port), Some(catalogue), Some(key), Some(retention)) if list.is_empty() => {
                Ok(Self { endpoint, port, catalogue, key, retention })
            }
            _ => Err(Mistakes(list)),
        }
    }
}

fn keep<T>(result: Result<T, String>, note: &mut impl FnMut(Result<(), String>)) -> Option<T> {
    result.map_err(|mistake| note(Err(mistake))).ok()
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > MAX_FILE { Err(format!("is larger than {MAX_FILE} bytes")) } else { Ok(text) }
}

/// The one URL requests are sent to. Plain http only leaves the machine's own loopback out: the key goes with it.
pub(crate) fn endpoint(base: &str) -> Result<Url, String> {
    let mut url = Url::parse(base).map_err(|e| format!("is no URL ({e}); expected like https://api.openai.com/v1"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("must begin with https:// (http:// only to this machine: it would show the key)".into());
        }
        _ => return Err("must begin with https://".into()),
    }
    if host.is_empty() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have a host and no user name or password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment".into());
    }
    let path = format!("{}/responses", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|p| *p >= 1024).ok_or_else(|| "must be a port from 1024 to 65535".to_owned())
}

/// With private mount propagation systemd hands over nothing and says nothing, so absence is found out here.
fn credential(dir: Option<&Path>) -> Result<ApiKey, String> {
    let remedy = "put the key into /etc/pi-gateway/credentials/OPENAI_API_KEY (root, mode 0600) and restart pi-gateway";
    let Some(dir) = dir else {
        return Err(format!("credential {CREDENTIAL}: systemd gave no $CREDENTIALS_DIRECTORY; {remedy}"));
    };
    let path: PathBuf = dir.join(CREDENTIAL);
    let text = read(&path).map_err(|m| format!("credential {CREDENTIAL}: {} {m}; {remedy}", path.display()))?;
    ApiKey::new(&text).map_err(|m| format!("credential {CREDENTIAL} {m}; {remedy}"))
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
        Config::load(&file, Some(dir.path()))
    }

    #[test]
    fn defaults_and_given_values_are_taken_and_the_key_is_trimmed_and_hidden() {
        let config = load("# comment\n\n", Some(" sk-secret-1234\n")).unwrap();
        assert_eq!((config.endpoint.as_str(), config.port), ("https://api.openai.com/v1/responses", 4180));
        assert_eq!(config.key.header().to_str().unwrap(), "Bearer sk-secret-1234");
        assert!(config.key.header().is_sensitive());
        assert!(!format!("{config:?} {:?}", config.key.header()).contains("sk-secret"));
        let given =
            load("OPENAI_BASE_URL='http://127.0.0.1:9/v1/'\nINTERNAL_PROVIDER_PORT=5000\n", Some("sk-secret-1234"));
        let given = given.unwrap();
        assert_eq!((given.endpoint.as_str(), given.port), ("http://127.0.0.1:9/v1/responses", 5000));
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
        assert!(Config::load(file.path(), None).unwrap_err().to_string().contains("CREDENTIALS_DIRECTORY"));
    }
}
