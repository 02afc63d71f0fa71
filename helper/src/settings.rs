//! What the launcher is configured with: a file of `NAME=VALUE` lines that `pi-gateway check --write` makes of
//! `/etc/pi-gateway/gateway.env` at each start of the launcher, complete and in range.
//!
//! The launcher still trusts no value to be harmless: each must be made of a small alphabet, so that it can stand in an
//! argument and a mount as it is.

/// The file.
pub const FILE: &str = "/run/pi-gateway/config/launcher.env";
/// Every variable that must be in it.
const NAMES: &str = "BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
    PI_SANDBOX_AGENTS_PATH PI_GATEWAY_MODELS PI_GATEWAY_DEFAULT_MODEL PI_DISABLE_CONTEXT_FILES SANDBOX_MEMORY_MAX \
    SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS RUN_CANCEL_GRACE_MS MAX_CONCURRENT_RUNS";

/// The launcher's configuration.
#[derive(Debug)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Takes the settings from the text of the file.
    ///
    /// # Errors
    /// Every variable that is missing or holds more than plain characters.
    pub fn new(text: &str) -> Result<Self, Vec<String>> {
        let variables = text.lines().filter_map(|line| line.split_once('='));
        let settings = Settings(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:%+-".contains(&byte);
        let harmless = |value: &str| !value.is_empty() && !value.contains("..") && value.bytes().all(plain);
        let bad = NAMES.split_whitespace().filter(|name| !harmless(settings.get(name)));
        let told = |name| format!("{FILE}: {name} is missing or not plain; `systemctl restart pi-gateway-launcher`");
        let mistakes: Vec<String> = bad.map(told).collect();
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The value of a variable that is a number; the largest when it is none, which no limit of systemd accepts.
    pub fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(u64::from(u32::MAX))
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
        assert_eq!(Settings::new("").unwrap_err().len(), 15);
        for bad in ["", "a b", "$x", "/a/../b", "a\tb", "a,b", "é", "a;b", "a=b"] {
            let changed = text.replace("PI_BIN=1", &format!("PI_BIN={bad}"));
            let mistakes = Settings::new(&changed).unwrap_err();
            assert!(mistakes.len() == 1 && mistakes[0].contains("PI_BIN"), "{bad:?}: {mistakes:?}");
        }
    }
}
