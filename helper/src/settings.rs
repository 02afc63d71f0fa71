//! What the launcher is configured with: a file of `NAME=VALUE` lines that `pi-gateway check --write` makes of
//! `/etc/pi-gateway/gateway.env` at each start of the launcher, complete and in range.
//!
//! The launcher still trusts no value to be harmless: each must be made of a small alphabet, so that it can stand in an
//! argument and a mount as it is. [`parse`] is the syntax of both files; the front uses it as well.

/// The file.
pub const FILE: &str = "/run/pi-gateway/config/launcher.env";
/// Every variable that must be in it.
const NAMES: &str = "BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
    PI_SANDBOX_AGENTS_PATH PI_GATEWAY_MODELS PI_GATEWAY_DEFAULT_MODEL PI_DISABLE_CONTEXT_FILES SANDBOX_MEMORY_MAX \
    SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS RUN_CANCEL_GRACE_MS MAX_CONCURRENT_RUNS";

/// The variables of a file, in order: `NAME=VALUE` lines, `#` comments, empty lines; a value may stand in matching
/// quotes. Nothing is expanded.
///
/// # Errors
/// Every line that is none of these, and every name that comes twice.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, Vec<String>> {
    let (mut variables, mut mistakes) = (Vec::<(String, String)>::new(), Vec::new());
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let valid = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| valid(name)) else {
            // The line itself is not repeated: it may be a secret.
            mistakes.push(format!("line {}: not NAME=VALUE", index + 1));
            continue;
        };
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        if variables.iter().any(|(known, _)| known == name) {
            mistakes.push(format!("{name}: set twice (again in line {}); keep one", index + 1));
        }
        variables.push((name.to_owned(), quoted.unwrap_or(value).to_owned()));
    }
    if mistakes.is_empty() { Ok(variables) } else { Err(mistakes) }
}

/// The launcher's configuration.
#[derive(Debug)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Takes the settings from the text of the file.
    ///
    /// # Errors
    /// Every variable that is missing or holds more than plain characters.
    pub fn new(text: &str) -> Result<Self, Vec<String>> {
        let settings = Settings(parse(text)?);
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
    fn the_syntax_is_taken_literally() {
        let taken = parse("# c\n\nA=1\n  B= \nC=\"x $Y\"\nD='q\"'\nE=a=b\n").unwrap();
        let expected = [("A", "1"), ("B", ""), ("C", "x $Y"), ("D", "q\""), ("E", "a=b")];
        assert_eq!(taken, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mistakes = parse("A=1\nsecret\nA=2\nB C=1\n").unwrap_err();
        assert_eq!(
            mistakes,
            ["line 2: not NAME=VALUE", "A: set twice (again in line 3); keep one", "line 4: not NAME=VALUE"]
        );
    }

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
