//! The gateway's own units: up, enabled, and listening where the configuration says.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use pi_gateway_helper::units as of_helper;

use super::Examination;

/// What systemd says of a unit.
pub type Properties = HashMap<String, String>;

/// The units of the package, each with whether it stays up.
const OWN: [&str; 6] = [
    "pi-gateway.socket",
    "pi-gateway-launcher.socket",
    "pi-gateway-launcher-model.socket",
    "pi-gateway-launcher.service",
    "pi-gateway.service",
    "pi-gateway-quota.path",
];

/// What systemctl prints.
pub fn systemctl(arguments: &[&str]) -> String {
    let mut ask = Command::new("/usr/bin/systemctl");
    let asked = ask.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).output();
    asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// What systemd says of a unit.
pub fn show(unit: &str) -> Properties {
    let names = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,MainPID,Listen,Result";
    let text = systemctl(&["show", "--property", names, "--", unit]);
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The value of a property.
pub fn value<'a>(properties: &'a Properties, name: &str) -> &'a str {
    properties.get(name).map_or("", String::as_str)
}

/// The relays that the configuration wants.
pub fn relays(examination: &Examination<'_>) -> Vec<String> {
    let is = |name: &str, wanted: &str| examination.value(name) == wanted;
    let all = [
        (&of_helper::MODEL, true),
        (&of_helper::GIT, is("WORKSPACE_REMOTE_MODE", "gitea")),
        (&of_helper::EGRESS, is("SANDBOX_INTERNET_ENABLED", "true")),
    ];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(relay, _)| of_helper::relay(relay)).collect()
}

/// Looks at all of them.
pub fn look(examination: &mut Examination<'_>) {
    let before = examination.found.len();
    for unit in OWN {
        judge(examination, unit);
    }
    // The launcher brings them up; without it their being down is no news.
    if examination.found.len() == before {
        for unit in relays(examination) {
            if value(&show(&unit), "ActiveState") != "active" {
                let told =
                    format!("{unit} is not up: `systemctl restart pi-gateway-launcher`, then `journalctl -u {unit}`");
                examination.fail("units", told);
            }
        }
    }
    if examination.found.len() == before {
        examination.ok("units", "all sockets, services and relays are up");
    }
    enabled(examination);
    address(examination);
    if examination.value("SANDBOX_INTERNET_ENABLED") == "true"
        && examination.found.iter().any(|finding| finding.what == "units" && finding.state == super::State::Ok)
    {
        let allowed = examination.value("SANDBOX_INTERNET_ALLOW").to_owned();
        let told = if allowed.is_empty() {
            "agents reach every public host".to_owned()
        } else {
            format!("agents reach {allowed}")
        };
        examination.ok("internet", told);
    }
}

fn judge(examination: &mut Examination<'_>, unit: &str) {
    let seen = show(unit);
    if value(&seen, "LoadState") == "not-found" {
        return examination.fail("units", format!("{unit} is not installed: `apt-get install --reinstall pi-gateway`"));
    }
    if value(&seen, "LoadState") == "masked" {
        return examination
            .fail("units", format!("{unit} is masked: `systemctl unmask {unit} && systemctl start {unit}`"));
    }
    match value(&seen, "ActiveState") {
        "active" | "reloading" => {}
        "failed" => {
            let why = value(&seen, "Result");
            let told = format!(
                "{unit} has failed ({why}): `systemctl reset-failed {unit} && systemctl restart {unit}`, then `journalctl -u {unit}`"
            );
            examination.fail("units", told);
        }
        other => examination.fail("units", format!("{unit} is {other}: `systemctl start {unit}`")),
    }
}

/// What is not enabled is not there after the next boot.
fn enabled(examination: &mut Examination<'_>) {
    let off: Vec<&str> = OWN.into_iter().filter(|unit| value(&show(unit), "UnitFileState") == "disabled").collect();
    if !off.is_empty() {
        let all = off.join(" ");
        examination.warn("units", format!("not started at the next boot: `systemctl enable {all}`"));
    }
}

/// The front is reached where its socket listens, not where the configuration says.
fn address(examination: &mut Examination<'_>) {
    let (host, port) = (examination.value("HOST"), examination.value("PORT"));
    if host.is_empty() {
        return;
    }
    let wanted = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let listen = value(&show("pi-gateway.socket"), "Listen").to_owned();
    if listen.split_whitespace().next() == Some(wanted.as_str()) {
        return examination.ok("address", format!("pi-gateway.socket listens on {wanted}, as HOST and PORT say"));
    }
    examination.fail(
        "address",
        format!(
            "HOST and PORT say {wanted}, pi-gateway.socket listens on {listen}: run `systemctl edit pi-gateway.socket`, enter\n\
             [Socket]\nListenStream=\nListenStream={wanted}\nand `systemctl restart pi-gateway.socket pi-gateway.service`"
        ),
    );
}
