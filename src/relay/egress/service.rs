//! The egress relay as a program.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::address;
use super::config::Allowed;
use super::limits::{ALL_CONNECTIONS, ALL_RESOLUTIONS, Limits, PORT, PORTS};
use super::peer::Shared;
use crate::relay::service::{self, StartError};

/// Where things are. The defaults are the installed places.
#[derive(Debug, Clone)]
pub struct Places {
    /// The settings file that is written for it.
    pub config: PathBuf,
    /// The socket that agents hand their listeners over on.
    pub socket: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            config: "/run/pi-gateway/config/relay-egress.env".into(),
            socket: "/run/pi-gateway/relay-egress/relay.sock".into(),
        }
    }
}

/// Runs the egress relay until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(places: &Places) -> Result<(), StartError> {
    service::run(&places.socket, || {
        let allowed = Allowed::load(&places.config).map_err(StartError::Config)?;
        Ok(Shared {
            port: PORT,
            allowed,
            ports: PORTS.to_vec(),
            permitted: address::may_be_reached,
            places: Arc::new(Semaphore::new(ALL_CONNECTIONS)),
            resolving: Arc::new(Semaphore::new(ALL_RESOLUTIONS)),
            limits: Limits::default(),
        })
    })
}
