//! What the egress relay is told: its settings file, and nothing else.

use std::path::Path;

use crate::config::checks;
use crate::relay::settings::{self, Mistakes, keep};

/// The hosts that may be reached; all of the internet's when there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Vec<String>);

impl Allowed {
    /// Takes `SANDBOX_INTERNET_ALLOW`.
    ///
    /// # Errors
    /// What would be right.
    pub fn new(list: &str) -> Result<Self, String> {
        checks::hosts(list)?;
        let hosts = list.split(',').map(str::trim).filter(|host| !host.is_empty());
        Ok(Self(hosts.map(str::to_ascii_lowercase).collect()))
    }

    /// Whether a host in lower case may be reached. `*.example.org` stands for all below it, not for itself.
    #[must_use]
    pub fn permits(&self, host: &str) -> bool {
        let fits = |allowed: &String| match allowed.strip_prefix('*') {
            Some(below) => host.strip_suffix(below).is_some_and(|label| !label.is_empty()),
            None => host == allowed,
        };
        self.0.is_empty() || self.0.iter().any(fits)
    }

    /// Reads the settings file.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load(file: &Path) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let variables = keep(settings::variables(file), &mut mistakes).unwrap_or_default();
        // Whether the internet is enabled at all, which is there as well, is the launcher's to know.
        let list =
            variables.iter().find(|(name, _)| name == "SANDBOX_INTERNET_ALLOW").map_or("", |(_, list)| list.as_str());
        let allowed = Self::new(list).map_err(|mistake| format!("SANDBOX_INTERNET_ALLOW {mistake}"));
        match keep(allowed, &mut mistakes) {
            Some(allowed) if mistakes.is_empty() => Ok(allowed),
            _ => Err(Mistakes(mistakes)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_is_taken_and_a_file_that_is_none_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay-egress.env");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Allowed::load(&file)
        };
        let allowed = load("SANDBOX_INTERNET_ENABLED=true\nSANDBOX_INTERNET_ALLOW=a.org, *.B.org\n").unwrap();
        assert_eq!(allowed, Allowed(vec!["a.org".to_owned(), "*.b.org".to_owned()]));
        assert!(load("SANDBOX_INTERNET_ALLOW=\n").unwrap().permits("anything.org"));
        assert!(load("SANDBOX_INTERNET_ALLOW=https://a.org\n").unwrap_err().to_string().contains("host names"));
        assert!(Allowed::load(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_wildcard_is_whole_labels_below_and_never_the_name_itself() {
        let allowed = Allowed::new("*.example.org,host.net").unwrap();
        for (host, permitted) in [
            ("a.example.org", true),
            ("a.b.example.org", true),
            ("example.org", false),
            (".example.org", false),
            ("aexample.org", false),
            ("host.net", true),
            ("a.host.net", false),
            ("host.net.org", false),
            ("", false),
        ] {
            assert_eq!(allowed.permits(host), permitted, "{host}");
        }
    }
}
