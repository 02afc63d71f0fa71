//! What every relay is told: a settings file that root wrote for it, and one credential.
//!
//! Everything is checked before anything listens, and every mistake is reported at once. A secret is in no message, no
//! `Debug` output and no environment variable.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use reqwest::Url;

use super::limits::MAX_FILE;
use crate::config::syntax;

/// Everything that is wrong, one sentence each; the start is refused with exit status 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// The variables of a settings file, in order.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub fn variables(file: &Path) -> Result<Vec<(String, String)>, String> {
    let text = read(file).and_then(|text| syntax::parse(&text).map_err(|mistakes| mistakes.join("; ")));
    text.map_err(|mistake| format!("{}: {mistake}", file.display()))
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > MAX_FILE { Err(format!("is larger than {MAX_FILE} bytes")) } else { Ok(text) }
}

/// A value, or a note of what is wrong with it.
pub fn keep<T>(result: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}

/// A URL that a secret is sent to: https, or http to this machine, with nothing but scheme, host, port and path.
///
/// # Errors
/// What is wrong, to be read behind the variable's name.
pub fn secret_url(text: &str, example: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("is no URL ({e}); expected like {example}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("must begin with https:// (http:// only to this machine: it would show the credential)".into());
        }
        _ => return Err("must begin with https://".into()),
    }
    if host.is_empty() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have a host and no user name or password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment".into());
    }
    Ok(url)
}

/// A credential's text, without the white space around it. With private mount propagation systemd hands over nothing
/// and says nothing, so absence is found out here.
///
/// # Errors
/// That it is absent, empty, a placeholder or no secret, with the remedy and without its value.
pub fn credential(name: &str, directory: Option<&Path>) -> Result<String, String> {
    let told = |what: &str| {
        let place = format!("/etc/pi-gateway/credentials/{name}");
        Err(format!("credential {name} {what}; put it into {place} (root, mode 0600) and restart pi-gateway-launcher"))
    };
    let Some(directory) = directory else {
        return told("is not there: systemd gave no $CREDENTIALS_DIRECTORY");
    };
    let text = match read(&directory.join(name)) {
        Ok(text) => text.trim().to_owned(),
        Err(mistake) => return told(&mistake),
    };
    let lower = text.to_ascii_lowercase();
    if text.is_empty() {
        told("is empty")
    } else if text.len() < 8 || text.bytes().any(|b| !b.is_ascii_graphic()) {
        told("is none: at least 8 visible ASCII characters without blanks are expected")
    } else if ["changeme", "placeholder", "your-", "your_", "xxxxxxxx"].iter().any(|p| lower.contains(p)) {
        told("is a placeholder")
    } else {
        Ok(text)
    }
}
