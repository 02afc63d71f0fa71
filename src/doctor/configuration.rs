//! The configuration and what belongs to it: the list of models, the credentials.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Examination;
use crate::config::credentials::DIRECTORY;
use crate::config::values::Values;
use crate::config::variables::CREDENTIALS;
use crate::machine;
use crate::models::{self, Catalogue};

/// Judges the configuration; every mistake is a line.
pub fn look(examination: &mut Examination<'_>) {
    match Values::load(examination.file) {
        Ok((values, warnings)) => {
            let models = models::with_default(
                Path::new(values.get("PI_GATEWAY_MODELS")),
                values.get("PI_GATEWAY_DEFAULT_MODEL"),
            );
            if let Err(mistake) = models {
                examination.fail("configuration", mistake);
            } else {
                examination.ok("configuration", format!("{} is valid", examination.file.display()));
            }
            for told in warnings {
                examination.warn("configuration", told);
            }
            examination.values = Some(values);
        }
        Err(mistakes) => {
            for told in mistakes.0 {
                examination.fail("configuration", told);
            }
        }
    }
}

/// Looks at the credentials that the configuration needs, and at where they lie.
pub fn credentials(examination: &mut Examination<'_>) {
    let models = Catalogue::load(Path::new(examination.value("PI_GATEWAY_MODELS"))).ok();
    // With a wrong configuration nobody knows which are needed.
    if examination.values.is_some() {
        for told in machine::needed(examination.values.as_ref(), models.as_ref()) {
            examination.note("credentials", told);
        }
    }
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    if fs::metadata(DIRECTORY).is_ok_and(|found| found.mode() & 0o077 != 0) {
        examination.warn("credentials", format!("others can look into {DIRECTORY}: `chmod 0700 {DIRECTORY}`"));
    }
    let account = Path::new(examination.value("PI_GATEWAY_CODEX_AUTH_FILE")).file_name().map(std::ffi::OsStr::to_owned);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let known = CREDENTIALS.iter().any(|(known, ..)| name == *known) || account.as_ref() == Some(&name);
        if examination.values.is_some() && !known {
            let shown = entry.path().display().to_string();
            examination.warn("credentials", format!("{shown} is nobody's: if it is a left-over, remove it"));
        }
    }
}
