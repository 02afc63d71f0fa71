//! Attack scripts (tests/e2e/attacks): the same file runs inside a sandbox and, as the control, outside of it.

use crate::host::{sh, try_sh};
use crate::testhost;

/// A directory of the host that every sandbox sees, because it sees /usr.
const PLACE: &str = "/usr/local/lib/pi-gateway-attacks";

/// Puts a file where both sides see it; gives its path.
pub fn place(name: &str, text: &str) -> String {
    testhost();
    let path = format!("{PLACE}/{name}");
    std::fs::create_dir_all(PLACE).unwrap();
    std::fs::write(&path, text).unwrap();
    sh(&format!("chmod 755 {PLACE} {path}"));
    path
}

/// Runs a command outside, as a service without any restriction, with these properties.
pub fn outside(properties: &str, command: &str) -> String {
    let (ok, text) = try_sh(&format!("systemd-run --quiet --pipe --wait --collect {properties} -- {command}"));
    assert!(ok, "{command}\n{text}");
    text
}

/// The lines `name=value` of a script's output.
pub fn facts(output: &str) -> Vec<(String, String)> {
    let pairs = output.lines().filter_map(|line| line.rsplit_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}
