//! The git relay as a program.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::config::Config;
use super::limits::{ALL_REQUESTS, NAME, Waits};
use super::peer::Shared;
use super::upstream::Upstream;
use crate::relay::listener::Place;
use crate::relay::service::{self, StartError, failed};

/// Where things are. The defaults are the installed places.
#[derive(Debug, Clone)]
pub struct Places {
    /// The settings file the launcher writes.
    pub config: PathBuf,
    /// The socket that git units hand their listeners over on.
    pub socket: PathBuf,
    /// The launcher's registry of users.
    pub registry: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            config: "/run/pi-gateway/config/relay-git.env".into(),
            socket: "/run/pi-gateway/relay-git/relay.sock".into(),
            registry: pi_gateway_helper::uids::REGISTRY.into(),
        }
    }
}

/// Runs the git relay until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(places: &Places) -> Result<(), StartError> {
    service::run(&places.socket, || {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let config = Config::load(&places.config, credentials.as_deref()).map_err(StartError::Config)?;
        make(config, Waits::default(), places.registry.clone(), Place::Name(NAME))
    })
}

/// Prepares the connection to Gitea. `place` is that of listeners inside the sandboxes.
///
/// # Errors
/// A step failed.
pub fn make(config: Config, waits: Waits, registry: PathBuf, place: Place) -> Result<Shared, StartError> {
    let Config { base, repository, max_pack, account } = config;
    let upstream = Upstream::new(base, account, &waits)
        .map_err(io::Error::other)
        .map_err(failed("set up its connection to Gitea"))?;
    let places = Arc::new(Semaphore::new(ALL_REQUESTS));
    Ok(Shared { place, repository, max_pack, upstream, registry, places, waits })
}
