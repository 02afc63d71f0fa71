//! `/etc/pi-gateway/gateway.env`: its syntax, and the variables that the launcher reads.
//!
//! The front's table refers to these declarations, so each variable is declared once. Values that end up in an argv or
//! a mount are checked against a small alphabet here; whatever does not fit is refused, with every mistake at once.

use std::path::PathBuf;
use std::time::Duration;

/// The configuration file.
pub const FILE: &str = "/etc/pi-gateway/gateway.env";
/// Credentials that the launcher alone may hold; in the file above they are refused.
pub const CREDENTIALS: [&str; 2] = ["OPENAI_API_KEY", "GITEA_SYNC_SERVICE_TOKEN"];
/// Where they belong.
pub const CREDENTIALS_DIR: &str = "/etc/pi-gateway/credentials";
/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 64 << 10;

/// A variable: its name, its default, and what makes a value of it.
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// What holds when it is not set or empty.
    pub default: &'static str,
    /// Says what would be right when a value is not.
    pub check: fn(&str) -> Result<(), String>,
}

macro_rules! settings {
    ($($name:ident = $default:expr, $check:expr;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`")]
          pub const $name: Setting = Setting { name: stringify!($name), default: $default, check: $check };)*
        /// All of them.
        pub const ALL: &[&Setting] = &[$(&$name),*];
    };
}

settings! {
    BASE_WORKDIR = "/var/lib/pi-gateway/workspaces", state_path;
    SESSION_DIR = "/var/lib/pi-gateway/sessions", state_path;
    PI_BIN = "/usr/lib/pi-gateway/runtime/1.5.2/pi", program_path;
    INTERNAL_PROVIDER_PORT = "4180", |value| number(value, 1024, 65535);
    PI_GATEWAY_EXTENSION_PATH = "/usr/lib/pi-gateway/trusted/extension.mjs", path;
    PI_SANDBOX_AGENTS_PATH = "/usr/lib/pi-gateway/trusted/AGENTS.md", path;
    PI_GATEWAY_MODELS = "/usr/lib/pi-gateway/trusted/models.json", path;
    PI_GATEWAY_DEFAULT_MODEL = "gpt-6-sol", model;
    PI_DISABLE_CONTEXT_FILES = "true", boolean;
    SANDBOX_MEMORY_MAX = "1G", memory;
    SANDBOX_TASKS_MAX = "256", |value| number(value, 16, 10_000);
    SANDBOX_CPU_QUOTA = "100%", percent;
    RUN_TIMEOUT_MS = "1800000", |value| number(value, 1_000, 86_400_000);
    RUN_CANCEL_GRACE_MS = "5000", |value| number(value, 100, 60_000);
    MAX_CONCURRENT_RUNS = "8", |value| number(value, 1, 100);
}

/// The launcher's configuration, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are the variables above")]
pub struct Settings {
    pub base_workdir: PathBuf,
    pub session_dir: PathBuf,
    pub pi_bin: String,
    pub provider_port: u16,
    pub extension: String,
    pub agents: String,
    pub models: String,
    pub default_model: String,
    pub disable_context_files: bool,
    pub memory_max: String,
    pub tasks_max: String,
    pub cpu_quota: String,
    pub run_timeout: Duration,
    pub cancel_grace: Duration,
    pub max_concurrent_runs: u32,
}

/// The variables of a file, in order: `NAME=VALUE` lines, `#` comments, empty lines; a value may stand in matching
/// quotes. Nothing is expanded.
///
/// # Errors
/// Every line that is none of these, and every name that comes twice.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, Vec<String>> {
    let (mut variables, mut mistakes) = (Vec::<(String, String)>::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let valid =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
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

/// The value of a setting among the variables of a file; an empty one counts as not set.
pub fn value<'v>(variables: &'v [(String, String)], setting: &Setting) -> &'v str {
    let found = variables.iter().find(|(name, _)| name == setting.name).map(|(_, value)| value.as_str());
    found.filter(|value| !value.is_empty()).unwrap_or(setting.default)
}

/// What is wrong about credentials in the file, with the command that puts each where it belongs.
pub fn misplaced(variables: &[(String, String)]) -> Vec<String> {
    let misplaced = |name: &&str| variables.iter().any(|(known, value)| known == name && !value.is_empty());
    let command = |name: &&str| {
        format!(
            "{name}: belongs to the launcher, not into {FILE}. Move it: `grep '^{name}=' {FILE} | cut -d= -f2- | \
             install -D -m 0600 /dev/stdin {CREDENTIALS_DIR}/{name} && sed -i '/^{name}=/d' {FILE}`"
        )
    };
    CREDENTIALS.iter().filter(|name| misplaced(name)).map(|name| command(&name)).collect()
}

impl Settings {
    /// Takes the launcher's settings from the variables of a file.
    ///
    /// # Errors
    /// Every mistake: the variable, what is wrong, what would be right.
    pub fn new(variables: &[(String, String)]) -> Result<Self, Vec<String>> {
        let mut mistakes = misplaced(variables);
        for setting in ALL {
            if let Err(wanted) = (setting.check)(value(variables, setting)) {
                mistakes.push(format!("{}: {wanted}", setting.name));
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let text = |setting: &Setting| value(variables, setting).to_owned();
        // Checked above, so nothing falls back to zero.
        let int = |setting: &Setting| value(variables, setting).parse::<u64>().unwrap_or_default();
        Ok(Settings {
            base_workdir: text(&BASE_WORKDIR).into(),
            session_dir: text(&SESSION_DIR).into(),
            pi_bin: text(&PI_BIN),
            provider_port: u16::try_from(int(&INTERNAL_PROVIDER_PORT)).unwrap_or_default(),
            extension: text(&PI_GATEWAY_EXTENSION_PATH),
            agents: text(&PI_SANDBOX_AGENTS_PATH),
            models: text(&PI_GATEWAY_MODELS),
            default_model: text(&PI_GATEWAY_DEFAULT_MODEL),
            disable_context_files: text(&PI_DISABLE_CONTEXT_FILES) == "true",
            memory_max: text(&SANDBOX_MEMORY_MAX),
            tasks_max: text(&SANDBOX_TASKS_MAX),
            cpu_quota: text(&SANDBOX_CPU_QUOTA),
            run_timeout: Duration::from_millis(int(&RUN_TIMEOUT_MS)),
            cancel_grace: Duration::from_millis(int(&RUN_CANCEL_GRACE_MS)),
            max_concurrent_runs: u32::try_from(int(&MAX_CONCURRENT_RUNS)).unwrap_or_default(),
        })
    }
}

/// A whole number in a range.
///
/// # Errors
/// What would be right.
pub fn number(value: &str, low: u64, high: u64) -> Result<(), String> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let fits = digits && value.parse::<u64>().is_ok_and(|number| (low..=high).contains(&number));
    if fits { Ok(()) } else { Err(format!("must be a whole number from {low} to {high}")) }
}

/// `true` or `false`.
///
/// # Errors
/// What would be right.
pub fn boolean(value: &str) -> Result<(), String> {
    if matches!(value, "true" | "false") { Ok(()) } else { Err("must be true or false".into()) }
}

/// An absolute path that can stand in an argument and a mount as it is.
///
/// # Errors
/// What would be right.
pub fn path(value: &str) -> Result<(), String> {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+-".contains(&b));
    let straight = value.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if value.starts_with('/') && plain && straight && value.len() <= 200 {
        Ok(())
    } else {
        Err("must be an absolute path of letters, digits and / . _ + -, without . or .. or // in it".into())
    }
}

fn state_path(value: &str) -> Result<(), String> {
    path(value)?;
    // The launcher's unit may write there and nowhere else; another place needs a drop-in for ReadWritePaths= as well.
    if value.starts_with("/var/lib/") || value.starts_with("/srv/") {
        Ok(())
    } else {
        Err("must lie below /var/lib or /srv".into())
    }
}

fn program_path(value: &str) -> Result<(), String> {
    path(value)?;
    if value.starts_with("/usr/") {
        Ok(())
    } else {
        Err("must lie below /usr, which is what a sandbox sees".into())
    }
}

fn model(value: &str) -> Result<(), String> {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    if plain && value.starts_with(|c: char| c.is_ascii_alphanumeric()) && value.len() <= 64 {
        Ok(())
    } else {
        Err("must be a model's id: 1 to 64 letters, digits and . _ : -".into())
    }
}

fn memory(value: &str) -> Result<(), String> {
    let (digits, unit) = value.split_at(value.len() - usize::from(value.ends_with(['M', 'G'])));
    let bounds = if unit == "G" { (1, 1024) } else { (256, 1 << 20) };
    let fits = !unit.is_empty() && number(digits, bounds.0, bounds.1).is_ok();
    if fits { Ok(()) } else { Err("must be a size from 256M to 1024G, such as 512M or 2G".into()) }
}

fn percent(value: &str) -> Result<(), String> {
    let fits = value.strip_suffix('%').is_some_and(|digits| number(digits, 10, 10_000).is_ok());
    if fits { Ok(()) } else { Err("must be a share of one processor from 10% to 10000%".into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn variables(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    #[test]
    fn every_default_passes_its_own_check() {
        let settings = Settings::new(&[]).unwrap();
        assert_eq!(settings.provider_port, 4180);
        assert_eq!(settings.max_concurrent_runs, 8);
        assert!(settings.disable_context_files);
    }

    #[test]
    fn the_syntax_is_taken_literally() {
        let taken =
            variables("# c\n\nA=1\n B = \nC=\"x $Y\"\nD='q\"'\nE=a=b\n".replace(" B = ", "B=").as_str());
        let expected = [("A", "1"), ("B", ""), ("C", "x $Y"), ("D", "q\""), ("E", "a=b")];
        assert_eq!(taken, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mistakes = parse("A=1\nsecret\nA=2\nB C=1\n").unwrap_err();
        assert_eq!(
            mistakes,
            ["line 2: not NAME=VALUE", "A: set twice (again in line 3); keep one", "line 4: not NAME=VALUE"]
        );
    }

    #[test]
    fn every_mistake_is_told_at_once_and_no_credential_is_repeated() {
        let text = "PI_BIN=/opt/pi\nSESSION_DIR=/var/lib/a b\nSANDBOX_MEMORY_MAX=1T\nSANDBOX_CPU_QUOTA=9%\n\
            SANDBOX_TASKS_MAX=-1\nRUN_TIMEOUT_MS=0\nMAX_CONCURRENT_RUNS=101\nPI_DISABLE_CONTEXT_FILES=yes\n\
            PI_GATEWAY_MODELS=/etc/../x\nPI_GATEWAY_DEFAULT_MODEL=$x\nINTERNAL_PROVIDER_PORT=80\n\
            BASE_WORKDIR=/etc\nOPENAI_API_KEY=sk-live-1234567890\n";
        let mistakes = Settings::new(&variables(text)).unwrap_err();
        assert_eq!(mistakes.len(), 13, "{mistakes:#?}");
        assert!(mistakes[0].contains("/etc/pi-gateway/credentials/OPENAI_API_KEY"));
        assert!(!mistakes.concat().contains("sk-live"));
    }
}
