//! systemd itself: its version, and that it knows the users that have no line in /etc/passwd.

use std::fs;
use std::time::Duration;

use pi_gateway_helper::systemd::Systemd;

use super::Examination;

/// The oldest version that was measured (Debian 12).
const OLDEST: u32 = 252;
/// It answers within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at it.
pub fn look(examination: &mut Examination<'_>) {
    examination.note(
        "systemd",
        match Systemd::within(PATIENCE).version() {
            Ok(version) if version >= OLDEST => Ok(format!("version {version}")),
            Ok(version) => Err(format!("version {version} is too old: {OLDEST} or later is needed, as in Debian 12")),
            Err(error) => Err(format!("does not answer: {error}")),
        },
    );
    let text = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let missing: Vec<&str> =
        ["passwd", "group"].into_iter().filter(|database| !asks_systemd(&text, database)).collect();
    examination.note(
        "names",
        if missing.is_empty() {
            Ok("systemd knows the users' uids by name".to_owned())
        } else {
            let told =
                "in /etc/nsswitch.conf these databases do not ask systemd, so no sandbox can be started as a user";
            Err(format!("{told}: {}: `apt-get install --reinstall libnss-systemd`", missing.join(", ")))
        },
    );
}

fn asks_systemd(text: &str, database: &str) -> bool {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(database)?.strip_prefix(':'));
    line.is_some_and(|line| line.split_whitespace().any(|service| service == "systemd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_asks_systemd_or_does_not() {
        let text = "# passwd: systemd\npasswd:         files systemd\ngroup: files # systemd-like\nshadow: files\n";
        assert!(asks_systemd(text, "passwd"));
        assert!(!asks_systemd(text, "group") && !asks_systemd(text, "hosts"));
    }
}
