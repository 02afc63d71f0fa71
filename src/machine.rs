//! What the machine must have beside a valid configuration: credentials that only root can read, and a kernel that can
//! limit a sandbox. The launcher asks for it at each of its starts, the operator by `pi-gateway doctor`.

use std::fs;
use std::path::Path;

use pi_gateway_helper::environment::read_root_file;
use pi_gateway_helper::wire::MAX_CONTENT;

use crate::config::credentials;
use crate::config::values::Values;
use crate::models::{Catalogue, Provider};
use crate::relay::model::codex::file;

/// What a credential begins with that nobody has filled in.
const PLACEHOLDERS: [&str; 8] = ["changeme", "change-me", "placeholder", "example", "your", "xxxx", "secret", "todo"];
/// The shortest credential that can be one, in bytes.
const MIN_CREDENTIAL: usize = 8;
/// The cgroup controllers by which a sandbox is limited.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Whether the credential called `name` is there and can be one.
///
/// # Errors
/// What is wrong, with the remedy. The value is never told.
pub fn credential(name: &str) -> Result<(), String> {
    let path = Path::new(credentials::DIRECTORY).join(name);
    let shown = path.display();
    if !path.exists() {
        return Err(format!("{name}: no credential; type it into `install -D -m 0600 /dev/stdin {shown}`"));
    }
    let text = read_root_file(&path)?;
    if looks_real(text.trim()) {
        return Ok(());
    }
    Err(format!("{shown}: empty, a placeholder, or not one word of visible ASCII; put the real value there"))
}

/// Every credential that is needed with this configuration and list of models, when they are known: what it is, or what
/// is wrong with it.
pub fn needed(values: Option<&Values>, catalogue: Option<&Catalogue>) -> Vec<Result<String, String>> {
    let word = |name: &str| credential(name).map(|()| format!("{name} is there"));
    let value = |name: &str| values.map_or("", |values| values.get(name));
    let mut found = Vec::new();
    // Without a list nobody knows, so it is looked at.
    if catalogue.is_none_or(|catalogue| catalogue.has(Provider::Openai)) {
        found.push(word("OPENAI_API_KEY"));
    }
    if value("WORKSPACE_REMOTE_MODE") == "gitea" {
        found.push(word("GITEA_SYNC_SERVICE_TOKEN"));
    }
    let (name, path) = ("PI_GATEWAY_CODEX_AUTH_FILE", value("PI_GATEWAY_CODEX_AUTH_FILE"));
    if !path.is_empty() {
        found.push(account(Path::new(path)).map_err(|mistake| format!("{name}: {mistake}")));
    } else if catalogue.is_some_and(|catalogue| catalogue.has(Provider::Codex)) {
        let place = format!("{}/codex.json", credentials::DIRECTORY);
        let told = "must be set, for the list in PI_GATEWAY_MODELS has models of the provider codex";
        found.push(Err(format!("{name}: {told}: `install -D -m 0600 ~/.codex/auth.json {place}`")));
    }
    found
}

/// What the file with a ChatGPT account is.
fn account(path: &Path) -> Result<String, String> {
    let shown = path.display();
    if !path.exists() {
        return Err(format!("there is no {shown}: `install -D -m 0600 ~/.codex/auth.json {shown}`"));
    }
    let text = read_root_file(path)?;
    if text.len() > MAX_CONTENT {
        return Err(format!("{shown} has more than {MAX_CONTENT} bytes"));
    }
    let held = file::read(text.as_bytes()).map_err(|mistake| format!("{shown} {mistake}"))?;
    let left = held.expires.saturating_sub(jiff::Timestamp::now().as_second());
    let until = match left {
        ..=0 => "it has ended and will be exchanged".to_owned(),
        _ if held.expires == i64::MAX => "it does not say until when".to_owned(),
        _ => format!("it is good for {} min", left / 60),
    };
    Ok(format!("{shown} has a ChatGPT account and a token; {until}"))
}

fn looks_real(value: &str) -> bool {
    let lower = value.to_lowercase();
    let placeholder = PLACEHOLDERS.iter().any(|word| lower.starts_with(word));
    value.len() >= MIN_CREDENTIAL && !placeholder && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the kernel can limit a sandbox.
///
/// # Errors
/// The controllers it lacks, a line each.
pub fn controllers() -> Result<(), String> {
    // On the unified hierarchy one file lists them; on the older ones each is a mount.
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let there = |name: &str| {
        unified.split_whitespace().any(|known| known == name) || Path::new("/sys/fs/cgroup").join(name).is_dir()
    };
    let missing = CONTROLLERS.iter().filter(|name| !there(name));
    let told: Vec<String> = missing
        .map(|name| format!("no cgroup controller `{name}` in the kernel; a sandbox could not be limited"))
        .collect();
    if told.is_empty() { Ok(()) } else { Err(told.join("\n")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_account_is_told_with_what_is_wrong_and_without_its_tokens() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codex.json");
        assert!(account(&path).unwrap_err().contains("install -D -m 0600"));
        let good = r#"{"tokens":{"access_token":"at-secret","refresh_token":"rt-secret","account_id":"acc"}}"#;
        for (text, mode, word) in [
            (good, 0o600, Ok("does not say until when")),
            (good, 0o644, Err("chmod 0600")),
            (&good.replace(r#""acc""#, r#""""#), 0o600, Err("names no ChatGPT account")),
            (&" ".repeat(MAX_CONTENT + 1), 0o600, Err("more than 16384 bytes")),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let told = account(&path);
            assert!(!format!("{told:?}").contains("secret"), "{told:?}");
            match word {
                Ok(word) => assert!(told.unwrap().contains(word)),
                Err(word) => assert!(told.unwrap_err().contains(word)),
            }
        }
    }

    #[test]
    fn a_credential_is_one_word_that_somebody_has_filled_in() {
        assert!(looks_real("sk-proj-0123456789"));
        for bad in
            ["", "short", "changeme-please", "YOUR_API_KEY_HERE", "two words here", "sk-ümlaut-0123", "todo-todo"]
        {
            assert!(!looks_real(bad), "{bad}");
        }
    }
}
