//! The model relay, which the launcher starts by itself at its own start.
//!
//! A relay that is up is left alone: it carries other people's streams. It is restarted, with its descriptor store kept,
//! only when its configuration or its credential is newer than its program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::settings::CREDENTIALS_DIR;
use crate::systemd::{self, Ask};
use crate::units::{MODEL_RELAY, MODEL_RELAY_CONFIG, relay_arguments};
use crate::wire::Activity;

/// The variables that the relay reads. None of them is a secret.
const VARIABLES: [&str; 4] =
    ["OPENAI_BASE_URL", "INTERNAL_PROVIDER_PORT", "PI_GATEWAY_MODELS", "RUN_RETENTION_DAYS"];

/// Makes sure that the model relay is up with the present configuration.
///
/// # Errors
/// When its configuration cannot be written or systemd does not bring it up.
pub fn ensure_model_relay(variables: &[(String, String)]) -> Result<(), Ask> {
    let config = Path::new(MODEL_RELAY_CONFIG);
    let told = |error: std::io::Error| Ask(format!("{MODEL_RELAY_CONFIG}: {error}"));
    let text: String = variables
        .iter()
        .filter(|(name, _)| VARIABLES.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    if fs::read_to_string(config).ok().as_ref() != Some(&text) {
        crate::files::replace(config, &text, 0o644).map_err(told)?;
    }
    // The change time, because a copied file may bring an old modification time along.
    let changed =
        |path: &Path| fs::metadata(path).map_or(0, |found| u64::try_from(found.ctime()).unwrap_or(0));
    let newest = changed(config).max(changed(&Path::new(CREDENTIALS_DIR).join("OPENAI_API_KEY")));
    let (state, started) = systemd::show(MODEL_RELAY)?;
    match state.activity {
        Activity::Active | Activity::Activating if newest < started => Ok(()),
        Activity::Active | Activity::Activating | Activity::Deactivating => systemd::restart(MODEL_RELAY),
        Activity::Inactive | Activity::Failed => {
            systemd::reset_failed(MODEL_RELAY)?;
            systemd::run(&relay_arguments(CREDENTIALS_DIR))
        }
    }
}
