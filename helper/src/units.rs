//! The arguments of `systemd-run`: pure functions of the files in `helper/units`, the settings and checked names.
//!
//! Golden files in `helper/tests/golden` hold the results. Nothing a user can choose gets here but his name and his
//! run's id; settings hold no white space, `$`, `%` or quote (see [`crate::settings`]).

use crate::names::{Run, User};
use crate::settings::Settings;

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

/// The unit of a user's agent.
pub fn agent(user: &User) -> String {
    format!("{AGENT_PREFIX}{}.service", user.as_str())
}

/// The lines of a file of `helper/units` that are no comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

fn arguments(unit: &str, description: &str, properties: &[&str]) -> Vec<String> {
    let mut arguments = ["--quiet", "--no-ask-password", "--slice=pi-gateway.slice"].map(str::to_owned).to_vec();
    arguments.extend([format!("--unit={unit}"), format!("--description={description}")]);
    arguments.extend(properties.iter().flat_map(|text| lines(text)).map(|line| format!("--property={line}")));
    arguments
}

/// The arguments that start an agent. `version` is systemd's.
pub fn agent_arguments(settings: &Settings, version: u32, user: &User, uid: u32, run: &Run) -> Vec<String> {
    let seconds = |name| settings.number(name) / 1000;
    let value = |name: &str| match name {
        "user" => user.as_str().to_owned(),
        "run" => run.as_str().to_owned(),
        "uid" => uid.to_string(),
        "lifetime" => (seconds("RUN_TIMEOUT_MS") + seconds("RUN_CANCEL_GRACE_MS") + 60).to_string(),
        "context" if settings.get("PI_DISABLE_CONTEXT_FILES") != "true" => String::new(),
        "context" => "-nc".to_owned(),
        variable => settings.get(variable).to_owned(),
    };
    // Every second piece between braces is a name.
    let pieces = |text: &str| -> String {
        let named = text.split(['{', '}']).enumerate();
        named.map(|(index, piece)| if index % 2 == 0 { piece.to_owned() } else { value(piece) }).collect()
    };
    let fill = |text: &str| lines(text).map(|line| pieces(line) + "\n").collect::<String>();
    let newer = if version >= 257 { AGENT_257 } else { "" };
    let description = format!("{RUN_DESCRIPTION}{}", run.as_str());
    let mut all = arguments(&agent(user), &description, &[COMMON, &fill(AGENT), newer]);
    all.extend(fill(COMMAND).split_whitespace().map(str::to_owned));
    all
}

/// The arguments that start the model relay.
pub fn relay_arguments() -> Vec<String> {
    let mut all = arguments(MODEL_RELAY, "pi-gateway model relay", &[COMMON, RELAY]);
    all.extend(["--", "/usr/lib/pi-gateway/pi-gateway-relay", "model"].map(str::to_owned));
    all
}
