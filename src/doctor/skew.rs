//! Whether what runs is what is installed: programs, units, the configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Examination;
use super::units::{relays, show, systemctl, value};

/// The relays' program.
const RELAY: &str = "/usr/lib/pi-gateway/pi-gateway-relay";

/// Looks at every service that is up.
pub fn look(examination: &mut Examination<'_>) {
    let own = [
        ("pi-gateway.service".to_owned(), "/usr/bin/pi-gateway"),
        ("pi-gateway-launcher.service".to_owned(), "/usr/lib/pi-gateway/pi-gateway-launcher"),
    ];
    let relays: Vec<_> = relays(examination).into_iter().map(|unit| (unit, RELAY)).collect();
    let (mut count, mut old) = (0, 0);
    for (unit, program) in own.into_iter().chain(relays) {
        let seen = show(&unit);
        if value(&seen, "NeedDaemonReload") == "yes" {
            examination.warn(
                "versions",
                format!("the file of {unit} has changed since systemd has read it: `systemctl daemon-reload`"),
            );
        }
        let process = value(&seen, "MainPID").to_owned();
        if process.is_empty() || process == "0" {
            continue;
        }
        count += 1;
        if is_another(&process, program) {
            old += 1;
            let told =
                format!("{unit} still runs an older {program} than the installed one: `systemctl restart {unit}`");
            examination.fail("versions", told);
        }
    }
    if old == 0 && count > 0 {
        let version = env!("CARGO_PKG_VERSION");
        examination.ok("versions", format!("{count} services run the installed programs, {version}"));
    }
    configuration(examination);
}

/// Whether a process runs another file than the one that has this path now.
fn is_another(process: &str, program: &str) -> bool {
    let identity = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (identity(&format!("/proc/{process}/exe")), identity(program)) {
        (Ok(running), Ok(installed)) => running != installed,
        // It has ended meanwhile, or the program is not there, which is told elsewhere.
        _ => false,
    }
}

/// A change of the configuration takes effect with a restart.
fn configuration(examination: &mut Examination<'_>) {
    let Ok(changed) = fs::metadata(examination.file).map(|found| found.ctime()) else { return };
    let late: Vec<&str> = ["pi-gateway-launcher", "pi-gateway"]
        .into_iter()
        .filter(|unit| {
            let text =
                systemctl(&["show", "--property", "ExecMainStartTimestamp", "--value", "--timestamp=unix", "--", unit]);
            let started = text.trim().strip_prefix('@').and_then(|seconds| seconds.parse::<i64>().ok());
            started.is_some_and(|started| started < changed)
        })
        .collect();
    if !late.is_empty() {
        let (file, units) = (examination.file.display().to_string(), late.join(" "));
        examination
            .warn("versions", format!("{file} has changed since they were started: `systemctl restart {units}`"));
    }
}
