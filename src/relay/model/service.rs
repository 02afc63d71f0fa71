//! The model relay as a program.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::agent::Shared;
use super::body::Budget;
use super::codex::Codex;
use super::config::Config;
use super::front::FrontDoor;
use super::ledger::{self, Ledger};
use super::limits::{ALL_BODIES, ALL_IMAGES, Waits};
use super::mark;
use super::upstream::Upstream;
use super::usage::{self, Writer};
use crate::relay::service::{self, StartError, failed};

/// Where things are. The defaults are the installed places.
#[derive(Debug, Clone)]
pub struct Places {
    /// The settings file the launcher writes.
    pub config: PathBuf,
    /// The socket agents hand their listeners over on.
    pub socket: PathBuf,
    /// The directory for usage files.
    pub usage: PathBuf,
    /// The launcher's socket for this relay.
    pub launcher: PathBuf,
    /// The socket that the front asks on.
    pub front: PathBuf,
}

/// The account that the front runs as.
const FRONT: &str = "pi-gateway";

impl Default for Places {
    fn default() -> Self {
        Self {
            config: "/run/pi-gateway/config/relay-model.env".into(),
            socket: "/run/pi-gateway/relay-model/relay.sock".into(),
            usage: "/var/lib/pi-gateway/usage".into(),
            launcher: "/run/pi-gateway/launcher-model/launcher.sock".into(),
            front: "/run/pi-gateway/relay-front/model.sock".into(),
        }
    }
}

/// Runs the model relay until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(places: &Places) -> Result<(), StartError> {
    service::run(&places.socket, || {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let config = Config::load(&places.config, credentials.as_deref(), &places.launcher);
        let config = config.map_err(StartError::Config)?;
        let uid = front().map_err(failed("find the account of the front"))?;
        let door = FrontDoor::bind(&places.front, uid).map_err(failed("listen on the front's socket"))?;
        make(config, Waits::default(), &places.usage, Some(door))
    })
}

fn front() -> io::Result<u32> {
    let found = nix::unistd::User::from_name(FRONT)?;
    found.map(|user| user.uid.as_raw()).ok_or_else(|| io::Error::other(format!("there is no user {FRONT}")))
}

/// Prepares everything that requests need: the connection to the upstream, and the directory for usage files. `front` is
/// where the front asks.
///
/// # Errors
/// A step failed.
pub fn make(config: Config, waits: Waits, usage: &Path, front: Option<FrontDoor>) -> Result<Shared, StartError> {
    let Config { endpoint, port, catalogue, key, codex, retention, budget, images } = config;
    let upstream = Upstream::new(endpoint, &waits)
        .map_err(io::Error::other)
        .map_err(failed("set up its connection to the upstream"))?;
    let codex = codex.map(|codex| Codex::new(codex, &waits, usage)).transpose();
    let codex = codex.map_err(io::Error::other).map_err(failed("set up its connection to ChatGPT"))?;
    // Before anything removes files.
    let ledger = remember(budget, usage).map_err(failed("read what users have spent"))?;
    let past = usage.to_owned();
    std::thread::Builder::new()
        .name("retention".to_owned())
        .spawn(move || remove_past_usage(&past, retention))
        .map_err(failed("start the thread that removes old usage files"))?;
    let usage = Writer::start(usage.to_owned()).map_err(failed("use the directory for usage files"))?;
    let (bodies, pictures) = (Budget::new(ALL_BODIES), Budget::new(ALL_IMAGES));
    Ok(Shared { port, catalogue, key, codex, upstream, usage, ledger, bodies, images, pictures, front, waits })
}

/// The ledger with what the usage files have of the last day, and the marks of those whose budget is used up.
fn remember(budget: u64, usage: &Path) -> io::Result<Arc<Ledger>> {
    let (ledger, now) = (Ledger::new(budget), Timestamp::now());
    if budget > 0 {
        let since = now - jiff::SignedDuration::from_secs(ledger::WINDOW);
        usage::recount(usage, since, |uid, record| ledger.add(uid, record.at, record.tokens()))?;
    }
    mark::renew(usage, &ledger.exhausted(now))?;
    Ok(ledger)
}

/// How often old usage files are looked for.
const RETENTION_PERIOD: Duration = Duration::from_secs(3600);

fn remove_past_usage(dir: &Path, retention: Duration) {
    loop {
        match usage::remove_past(dir, retention) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "usage files past their retention were removed"),
            Err(error) => tracing::error!(%error, "old usage files could not be removed"),
        }
        std::thread::sleep(RETENTION_PERIOD);
    }
}
