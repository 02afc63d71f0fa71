//! What the launcher is configured with: a file of `NAME=VALUE` lines that `pi-gateway check --write` makes of
//! `/etc/pi-gateway/gateway.env` at each start of the launcher, complete and in range.
//!
//! The launcher still trusts no value to be harmless: each must be made of a small alphabet, so that it can stand in an
//! argument and a mount as it is.

/// The file.
pub const FILE: &str = "/run/pi-gateway/config/launcher.env";
/// What makes it anew.
const REMEDY: &str = "correct it in /etc/pi-gateway/gateway.env, then `systemctl restart pi-gateway-launcher`";
/// Every variable that must be in it.
const NAMES: &str = "BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
    PI_SANDBOX_AGENTS_PATH PI_GATEWAY_MODELS PI_GATEWAY_DEFAULT_MODEL PI_DISABLE_CONTEXT_FILES SANDBOX_MEMORY_MAX \
    SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS RUN_CANCEL_GRACE_MS MAX_CONCURRENT_RUNS";

/// The launcher's configuration.
#[derive(Debug, Default)]
pub struct Settings(String);

/// A number, perhaps of percent, or words, a path or an address: nothing that means more than itself in an argument,
/// a mount or a unit. A path holds no colon, which would end it in `BindPaths=`.
fn harmless(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:+-".contains(&byte);
    let begins = value.starts_with(|first: char| first == '/' || first.is_ascii_alphanumeric());
    let percent = value.strip_suffix('%').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let path = !value.starts_with('/') || !value.contains(':');
    begins && path && !value.contains("..") && percent.unwrap_or(value).bytes().all(plain)
}

impl Settings {
    /// Takes the settings from the text of the file.
    ///
    /// # Errors
    /// Every variable that is missing, there twice, or holds more than plain characters.
    pub fn new(text: &str) -> Result<Self, String> {
        let settings = Settings(text.to_owned());
        let once = |name: &str| settings.all().filter(|(known, _)| *known == name).count() == 1;
        let bad = NAMES.split_whitespace().filter(|name| !once(name) || !harmless(settings.get(name)));
        let told = |name| format!("{FILE}: {name} is missing, there twice or not plain; {REMEDY}");
        let mistakes: Vec<String> = bad.map(told).collect();
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes.join("\n")) }
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
        assert_eq!(Settings::new("").unwrap_err().lines().count(), 15);
        for good in ["100%", "2G", "/srv/pi", "qwen3:8b", "gpt-6-sol"] {
            Settings::new(&text.replace("PI_BIN=1", &format!("PI_BIN={good}"))).unwrap();
        }
        let bad = "|a b|$x|/a/../b|a\tb|a,b|é|a;b|a=b|%|a%|1%n|%n|-/a|+/a|/a:/b|:a|.a";
        for bad in bad.split('|') {
            let changed = text.replace("PI_BIN=1", &format!("PI_BIN={bad}"));
            let mistakes = Settings::new(&changed).unwrap_err();
            assert!(mistakes.lines().count() == 1 && mistakes.contains("PI_BIN"), "{bad:?}: {mistakes:?}");
        }
        assert!(Settings::new(&format!("{text}PI_BIN=2\n")).is_err(), "twice");
    }
}
