//! What the launcher is configured with: lines `NAME=VALUE` that `pi-gateway check --write` makes of
//! `/etc/pi-gateway/gateway.env` at each start of the launcher, complete and in range.
//!
//! The launcher still trusts no value to be harmless: each must be made of a small alphabet, so that it can stand in an
//! argument and a mount as it is.

/// What puts a mistake right.
const REMEDY: &str = "correct it in /etc/pi-gateway/gateway.env, then `systemctl restart pi-gateway-launcher`";
/// Every variable that must be there.
const NAMES: &str = "BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
    PI_SANDBOX_AGENTS_PATH PI_GATEWAY_MODELS PI_GATEWAY_DEFAULT_MODEL PI_DISABLE_CONTEXT_FILES SANDBOX_MEMORY_MAX \
    SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS RUN_CANCEL_GRACE_MS MAX_CONCURRENT_RUNS WORKSPACE_REMOTE_MODE \
    WORKSPACE_FINALIZATION_TIMEOUT_MS SANDBOX_INTERNET_ENABLED";

/// The launcher's configuration.
#[derive(Debug, Default)]
pub struct Settings(String);

/// A number, perhaps of percent, or words, a path or an address: nothing that means more than itself in an argument,
/// a mount or a unit. A path holds no colon, which would end it in `BindPaths=`.
fn harmless(name: &str, value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:+-".contains(&byte);
    let begins = value.starts_with(|first: char| first == '/' || first.is_ascii_alphanumeric());
    let percent = value.strip_suffix('%').filter(|_| name.ends_with("_QUOTA"));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let path = !value.starts_with('/') || !value.contains(':');
    begins && path && !value.contains("..") && percent.map_or_else(|| value.bytes().all(plain), number)
}

impl Settings {
    /// Takes the settings from their text.
    ///
    /// # Errors
    /// The first variable that is missing, there twice, or holds more than plain characters.
    pub fn new(text: &str) -> Result<Self, String> {
        let settings = Settings(text.to_owned());
        let once = |name: &str| settings.all().filter(|(known, _)| *known == name).count() == 1;
        let bad = NAMES.split_whitespace().find(|name| !once(name) || !harmless(name, settings.get(name)));
        let told = bad.map(|name| format!("{name} is missing, there twice or not plain; {REMEDY}"));
        told.map_or(Ok(settings), Err)
    }

    /// Names and values.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.split_once('='))
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> &str {
        self.all().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The value of a variable that is a number; 0 when it is none, which as a limit allows nothing.
    pub fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_that_could_be_more_than_a_value_is_refused() {
        let text: String = NAMES.split_whitespace().map(|name| format!("{name}=1\n")).collect();
        assert_eq!(Settings::new(&text).unwrap().number("RUN_TIMEOUT_MS"), 1);
        assert!(Settings::new("").unwrap_err().starts_with("BASE_WORKDIR is missing"));
        Settings::new(&text.replace("QUOTA=1", "QUOTA=100%")).unwrap();
        for good in ["2G", "/srv/pi", "qwen3:8b", "gpt-6-sol"] {
            Settings::new(&text.replace("PI_BIN=1", &format!("PI_BIN={good}"))).unwrap();
        }
        let bad = "|100%|a b|$x|/a/../b|a\tb|a,b|é|a;b|a=b|%|a%|1%n|%n|-/a|+/a|/a:/b|:a|.a";
        for bad in bad.split('|') {
            let changed = text.replace("PI_BIN=1", &format!("PI_BIN={bad}"));
            let mistakes = Settings::new(&changed).unwrap_err();
            assert!(mistakes.lines().count() == 1 && mistakes.contains("PI_BIN"), "{bad:?}: {mistakes:?}");
        }
        assert!(Settings::new(&format!("{text}PI_BIN=2\n")).is_err(), "twice");
    }
}
