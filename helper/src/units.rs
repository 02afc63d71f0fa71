//! The arguments of `systemd-run`: pure functions of the files in `helper/units`, the settings and checked names.
//!
//! Golden files in `helper/tests/golden` hold the results. Nothing a user can choose gets here but his name and his
//! run's id; settings hold no white space, `$`, quote or specifier (see [`crate::settings`]).

use crate::names::{Run, User};
use crate::settings::Settings;
use crate::wire::Unit;

/// What a unit's description begins with when it runs an agent; the run's id follows.
pub const RUN_DESCRIPTION: &str = "pi-gateway run ";
/// What the name of an agent's unit begins with.
pub const AGENT_PREFIX: &str = "pi-gateway-agent-";
/// The unit of the model relay.
pub const MODEL_RELAY: &str = "pi-gateway-relay-model.service";
/// The input and output of runs.
pub const RAW_DIR: &str = "/var/lib/pi-gateway/raw";
/// The passwd and group files of users.
pub const USERS_DIR: &str = "/run/pi-gateway/users";

const COMMON: &str = include_str!("../units/common.conf");
const AGENT: &str = include_str!("../units/agent.conf");
const COMMAND: &str = include_str!("../units/agent.command");
const AGENT_257: &str = include_str!("../units/agent-257.conf");
const RELAY: &str = include_str!("../units/model-relay.conf");
const RELAY_COMMAND: &str = "-- /usr/lib/pi-gateway/pi-gateway-relay model";

/// The unit of a user's agent.
pub fn agent(user: &User) -> String {
    format!("{AGENT_PREFIX}{}.service", user.as_str())
}

/// The unit that a request means.
pub fn name(unit: &Unit) -> String {
    match unit {
        Unit::Agent(user) => agent(user),
        Unit::ModelRelay => MODEL_RELAY.to_owned(),
    }
}

/// The lines of a file of `helper/units` that are no comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

fn arguments(unit: &str, description: &str, properties: &[&str], command: &str) -> Vec<String> {
    let mut all = ["--quiet", "--no-ask-password", "--slice=pi-gateway.slice"].map(str::to_owned).to_vec();
    all.extend([format!("--unit={unit}"), format!("--description={description}")]);
    all.extend(properties.iter().flat_map(|text| lines(text)).map(|line| format!("--property={line}")));
    all.extend(lines(command).flat_map(str::split_whitespace).map(str::to_owned));
    all
}

/// The arguments that start an agent. `version` is systemd's.
pub fn agent_arguments(settings: &Settings, version: u32, user: &User, uid: u32, run: &Run) -> Vec<String> {
    let lifetime = (settings.number("RUN_TIMEOUT_MS") + settings.number("RUN_CANCEL_GRACE_MS")) / 1000 + 60;
    let (uid, lifetime) = (uid.to_string(), lifetime.to_string());
    let context = if settings.get("PI_DISABLE_CONTEXT_FILES") == "true" { "-nc" } else { "" };
    let own = [("user", user.as_str()), ("run", run.as_str()), ("uid", &uid), ("lifetime", &lifetime)];
    let names: Vec<_> = own.into_iter().chain([("context", context)]).chain(settings.all()).collect();
    // No value holds a brace, so none is taken for a name.
    let fill = |text: &str| {
        names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    };
    let newer = if version >= 257 { AGENT_257 } else { "" };
    let description = format!("{RUN_DESCRIPTION}{}", run.as_str());
    arguments(&agent(user), &description, &[COMMON, &fill(AGENT), newer], &fill(COMMAND))
}

/// The arguments that start the model relay.
pub fn relay_arguments() -> Vec<String> {
    arguments(MODEL_RELAY, "pi-gateway model relay", &[COMMON, RELAY], RELAY_COMMAND)
}
