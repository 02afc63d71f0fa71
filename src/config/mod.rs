//! The configuration: one file, one table, every mistake at once.
//!
//! Each program takes what it reads from the same table. What is wrong stops the start with exit status 78 and names the
//! variable, what is wrong and what would be right; a value is never repeated, because it may be a secret.

pub(crate) mod checks;
pub mod credentials;
pub mod project;
pub mod reference;
pub mod syntax;
pub mod values;
pub mod variables;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use crate::{git, log};
use values::Values;

/// The configuration file.
pub const FILE: &str = "/etc/pi-gateway/gateway.env";
/// `EX_CONFIG` of sysexits.h.
pub const EX_CONFIG: u8 = 78;

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.0 {
            writeln!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What tokens are judged by.
#[derive(Clone)]
pub struct JwtConfig {
    /// The present secret, and the one before if it still counts.
    pub secrets: Vec<String>,
    /// `JWT_ISSUER`
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`
    pub audience: Option<String>,
    /// `JWT_USER_CLAIM`
    pub user_claim: String,
    /// `JWT_MAX_LIFETIME_S`
    pub max_lifetime: Duration,
}

impl fmt::Debug for JwtConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtConfig {{ {} secrets, user_claim: {} }}", self.secrets.len(), self.user_claim)
    }
}

/// Fixed places; tests have others.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "packaging/tmpfiles.d says what each is")]
pub struct Paths {
    pub state: PathBuf,
    pub raw: PathBuf,
    pub usage: PathBuf,
    pub registry: PathBuf,
    pub standing: PathBuf,
    pub launcher_socket: PathBuf,
    pub worker_socket: PathBuf,
    pub git_socket: PathBuf,
    pub image_socket: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Paths {
            state: "/var/lib/pi-gateway/front".into(),
            raw: "/var/lib/pi-gateway/raw".into(),
            usage: "/var/lib/pi-gateway/usage".into(),
            registry: pi_gateway_helper::uids::REGISTRY.into(),
            standing: crate::standing::DIRECTORY.into(),
            launcher_socket: "/run/pi-gateway/launcher/launcher.sock".into(),
            worker_socket: "/run/pi-gateway/worker/worker.sock".into(),
            git_socket: "/run/pi-gateway/worker/git.sock".into(),
            image_socket: "/run/pi-gateway/relay-front/model.sock".into(),
        }
    }
}

/// What the front is configured with.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are the variables of the same names")]
pub struct Config {
    pub listen: SocketAddr,
    pub request_timeout: Duration,
    pub finalization_timeout: Duration,
    pub run_timeout: Duration,
    pub cancel_grace: Duration,
    pub run_retention: Duration,
    pub max_concurrent_runs: usize,
    pub max_upload: u64,
    pub workspace_quota: u64,
    pub sandbox_internet: bool,
    pub models_path: PathBuf,
    pub default_model: String,
    pub cors_origins: Vec<String>,
    pub console: bool,
    pub log_format: log::Format,
    pub log_level: LevelFilter,
    pub jwt: JwtConfig,
    pub git: git::Configuration,
    pub sites: Option<PathBuf>,
    pub paths: Paths,
}

/// Reads and judges the configuration in `file`; gives it with warnings.
///
/// # Errors
/// Every mistake.
pub fn load(file: &Path) -> Result<(Config, Vec<String>), Mistakes> {
    let (values, warnings) = Values::load(file)?;
    Ok((Config::new(&values)?, warnings))
}

impl Config {
    /// Takes the front's part of checked values.
    ///
    /// # Errors
    /// When the values were not checked.
    pub fn new(values: &Values) -> Result<Self, Mistakes> {
        let text = |name: &str| Some(values.get(name).to_owned()).filter(|value| !value.is_empty());
        let milliseconds = |name: &str| Duration::from_millis(values.number(name));
        let address = format!("{}:{}", bracketed(values.get("HOST")), values.get("PORT"));
        let listen = address.parse().map_err(|_| Mistakes(vec![format!("HOST, PORT: {address} is no address")]))?;
        let secrets = ["JWT_SHARED_SECRET", "JWT_SHARED_SECRET_PREVIOUS"].into_iter().filter_map(text).collect();
        let origins = values.get("CORS_ORIGINS").split(',').map(str::trim).filter(|origin| !origin.is_empty());
        Ok(Config {
            listen,
            request_timeout: milliseconds("REQUEST_TIMEOUT_MS"),
            finalization_timeout: milliseconds("WORKSPACE_FINALIZATION_TIMEOUT_MS"),
            run_timeout: milliseconds("RUN_TIMEOUT_MS"),
            cancel_grace: milliseconds("RUN_CANCEL_GRACE_MS"),
            run_retention: Duration::from_secs(values.number("RUN_RETENTION_DAYS") * 86_400),
            max_concurrent_runs: usize::try_from(values.number("MAX_CONCURRENT_RUNS")).unwrap_or(1),
            max_upload: values.number("MAX_UPLOAD_MB") << 20,
            workspace_quota: values.number("WORKSPACE_QUOTA_MB") << 20,
            sandbox_internet: values.get("SANDBOX_INTERNET_ENABLED") == "true",
            models_path: values.get("PI_GATEWAY_MODELS").into(),
            default_model: values.get("PI_GATEWAY_DEFAULT_MODEL").to_owned(),
            cors_origins: origins.map(str::to_owned).collect(),
            console: values.get("CONSOLE_ENABLED") == "true",
            log_format: if values.get("LOG_FORMAT") == "text" { log::Format::Text } else { log::Format::Json },
            log_level: values.get("LOG_LEVEL").parse().unwrap_or(LevelFilter::INFO),
            jwt: JwtConfig {
                secrets,
                issuer: text("JWT_ISSUER"),
                audience: text("JWT_AUDIENCE"),
                user_claim: values.get("JWT_USER_CLAIM").to_owned(),
                max_lifetime: Duration::from_secs(values.number("JWT_MAX_LIFETIME_S")),
            },
            git: git::Configuration {
                enabled: values.get("WORKSPACE_GIT_INIT_ENABLED") == "true",
                branch: values.get("WORKSPACE_GIT_DEFAULT_BRANCH").to_owned(),
                initial_message: values.get("WORKSPACE_GIT_INITIAL_COMMIT_MESSAGE").to_owned(),
                author: values.get("WORKSPACE_AUTO_COMMIT_AUTHOR_NAME").to_owned(),
                email: values.get("WORKSPACE_AUTO_COMMIT_AUTHOR_EMAIL").to_owned(),
                prefix: values.get("WORKSPACE_AUTO_COMMIT_MESSAGE_PREFIX").to_owned(),
                quota: values.number("WORKSPACE_QUOTA_MB") << 20,
                remote: (values.get("WORKSPACE_REMOTE_MODE") == "gitea")
                    .then(|| values.get("GITEA_WORKSPACE_REPO_NAME").to_owned()),
            },
            sites: text("SITES_DIR").map(PathBuf::from),
            paths: Paths::default(),
        })
    }
}

/// An IPv6 address needs brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
