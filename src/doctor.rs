//! `pi-gateway doctor`: looks at everything that a run needs and says, a line each, what is well, what is not, and what
//! to do. Run by the operator as root; it changes nothing.

use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};

use pi_gateway_helper::units;
use pi_gateway_helper::wire::Unit;
use serde::Serialize;

use crate::config::values::Values;
use crate::machine;
use crate::models::Catalogue;
use crate::owners;
use crate::quota::{self, Limit};
use crate::sites::place;
use crate::workspace::disk::Space;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Well.
    Ok,
    /// Works, but less than it could.
    Warning,
    /// Does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen, with the remedy.
    pub told: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failure => "failure",
        };
        write!(f, "{state:<8} {:<12} {}", self.what, self.told)
    }
}

fn finding(what: &'static str, result: Result<String, String>) -> Finding {
    match result {
        Ok(told) => Finding { what, state: State::Ok, told },
        Err(told) => Finding { what, state: State::Failure, told },
    }
}

/// Looks at everything.
pub fn examine(file: &Path) -> Vec<Finding> {
    let values = Values::load(file);
    let mut found = Vec::new();
    match &values {
        Ok((_, warnings)) => {
            found.push(finding("configuration", Ok(format!("{} is valid", file.display()))));
            let warned = warnings.iter().map(|told| Finding {
                what: "configuration",
                state: State::Warning,
                told: told.clone(),
            });
            found.extend(warned);
        }
        Err(mistakes) => found.extend(mistakes.0.iter().map(|told| finding("configuration", Err(told.clone())))),
    }
    let known = values.as_ref().ok().map(|(values, _)| values);
    let models = known.and_then(|values| Catalogue::load(Path::new(values.get("PI_GATEWAY_MODELS"))).ok());
    found.extend(machine::needed(known, models.as_ref()).into_iter().map(|told| finding("credentials", told)));
    if let Ok((values, _)) = &values
        && values.get("SANDBOX_INTERNET_ENABLED") == "true"
    {
        found.push(finding("internet", egress(values.get("SANDBOX_INTERNET_ALLOW"))));
    }
    found.push(finding("cgroups", machine::controllers().map(|()| "memory, processes and cpu can be limited".into())));
    if let Ok((values, _)) = &values {
        for name in ["BASE_WORKDIR", "SESSION_DIR"] {
            let directory = Path::new(values.get(name));
            found.push(disk(directory));
            let judged = owners::judge(directory).map(|()| format!("{} belongs to its users", directory.display()));
            found.push(finding("owners", judged));
        }
        found.push(workspace_quota(values));
        let sites = Path::new(values.get("SITES_DIR"));
        if !sites.as_os_str().is_empty() {
            let judged = place::judge(sites).and_then(|()| place::is_open_to_the_front(sites));
            found.push(finding("sites", judged.map(|()| format!("{} takes exported sites", sites.display()))));
            found.push(disk(sites));
        }
    }
    found
}

/// Whether the egress relay is up, and for which hosts.
fn egress(allowed: &str) -> Result<String, String> {
    let unit = units::name(&Unit::EgressRelay);
    let asked = Command::new("/usr/bin/systemctl").args(["is-active", "--quiet", &unit]).status();
    match asked {
        Ok(status) if status.success() && allowed.is_empty() => Ok("agents reach every public host".to_owned()),
        Ok(status) if status.success() => Ok(format!("agents reach {allowed}")),
        _ => Err(format!("{unit} is not up: `systemctl restart pi-gateway-launcher`, then `journalctl -u {unit}`")),
    }
}

fn disk(path: &Path) -> Finding {
    let shown = path.display();
    let mebibytes = |bytes: u64| bytes >> 20;
    match Space::of(path) {
        Err(error) => finding("disk", Err(format!("{shown}: {error}; `systemd-tmpfiles --create pi-gateway.conf`"))),
        Ok(space) if space.is_scarce() => {
            let (free, total) = (mebibytes(space.free), mebibytes(space.total));
            finding("disk", Err(format!("{shown}: {free} of {total} MiB are free, no run starts; make room")))
        }
        Ok(space) => finding("disk", Ok(format!("{shown}: {} MiB are free", mebibytes(space.free)))),
    }
}

fn workspace_quota(values: &Values) -> Finding {
    let quota = values.number("WORKSPACE_QUOTA_MB");
    match quota::in_force(Path::new(values.get("BASE_WORKDIR"))) {
        Limit::Kernel => finding("quota", Ok(format!("the kernel limits each user; WORKSPACE_QUOTA_MB is {quota}"))),
        Limit::Measured(why) => Finding {
            what: "quota",
            state: State::Warning,
            told: format!(
                "WORKSPACE_QUOTA_MB ({quota}) is measured every few seconds, the kernel does not limit: {why}"
            ),
        },
    }
}

/// Prints what was found; gives 1 when something does not work.
pub fn main(file: &Path, json: bool) -> ExitCode {
    let found = examine(file);
    if json {
        println!("{}", serde_json::to_string_pretty(&found).unwrap_or_default());
    } else {
        for finding in &found {
            println!("{finding}");
        }
    }
    let broken = found.iter().any(|finding| finding.state == State::Failure);
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
