//! The model relay, which the launcher starts by itself at its own start.
//!
//! A relay that is up is left alone: it carries other people's streams. It is restarted, with its descriptor store kept,
//! only when its configuration or its credential is newer than its program.

use std::os::unix::fs::MetadataExt;
use std::{fs, io};

use crate::systemd::Systemd;
use crate::units::{MODEL_RELAY, relay_arguments};
use crate::wire::Activity;

/// What the relay is configured with; `pi-gateway check --write` makes the first when it changes.
const INPUTS: [&str; 2] = ["/run/pi-gateway/config/relay-model.env", "/etc/pi-gateway/credentials/OPENAI_API_KEY"];

/// Makes sure that the model relay is up with the present configuration.
///
/// # Errors
/// When systemd does not bring it up.
pub fn ensure_model_relay(systemd: Systemd) -> io::Result<()> {
    // The change time, because a copied file may bring an old modification time along.
    let changed = |path| fs::metadata(path).map_or(0, |found| u64::try_from(found.ctime()).unwrap_or(0));
    let newest = INPUTS.into_iter().map(changed).max().unwrap_or(0);
    let (state, started) = systemd.show(MODEL_RELAY)?;
    if state.activity == Activity::Failed {
        systemd.manage("reset-failed", MODEL_RELAY)?;
    }
    match state.activity {
        Activity::Active | Activity::Activating if newest <= started => Ok(()),
        Activity::Inactive | Activity::Failed => systemd.run(&relay_arguments()),
        _ => systemd.manage("restart", MODEL_RELAY),
    }
}
