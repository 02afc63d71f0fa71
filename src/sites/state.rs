//! What is known of a user's site: `site.json` in the user's directory of the front.
//!
//! A file that cannot be read is as good as none: what build-site last said then counts as new, and is exported again.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::durable::{self, Access};
use crate::runs::record::Skipped;

/// The largest state, in bytes.
const MAX: u64 = 256 << 10;

/// What is served of a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    /// The directory in `SITES_DIR/<user>` that `current` leads to; null before the first export.
    pub generation: Option<Uuid>,
    /// When it was exported, RFC 3339.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub exported_at: Option<jiff::Timestamp>,
    /// Files in it.
    pub files: u64,
    /// What they hold, in bytes.
    pub bytes: u64,
    /// What of `dist` is not in it: the first fifty paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// How much of `dist` is not in it.
    #[serde(default)]
    pub skipped_count: u64,
    /// Why the last build is not what is served; what is above is the one before then.
    pub error: Option<SiteError>,
}

/// Why a build is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteError {
    /// A stable word: docs/api-and-media.md, "Sites".
    pub code: String,
    /// What happened.
    pub message: String,
}

impl SiteError {
    /// An error of the given code.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        SiteError { code: code.to_owned(), message: message.to_string() }
    }

    /// Whether the build itself is to blame: another try without another build would end the same way.
    pub fn is_final(&self) -> bool {
        !["disk_full", "timeout", "workspace_unavailable", "storage_failed"].contains(&self.code.as_str())
    }
}

/// What is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// SHA-256 of what build-site had left when it was last dealt with, hex. Another one is a new build.
    #[serde(default)]
    pub report: Option<String>,
    /// The run at whose end that was.
    #[serde(default)]
    pub run: Option<Uuid>,
    /// What is served.
    #[serde(default)]
    pub site: Site,
}

impl State {
    /// Reads what is kept.
    pub fn load(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|found| found.len() <= MAX);
        let text = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        durable::write(path, &serde_json::to_vec(self).map_err(io::Error::other)?, Access::PRIVATE)
    }
}
