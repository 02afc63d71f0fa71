//! The arguments of `systemd-run`: pure functions of the files in `helper/units`, the settings and checked names.
//!
//! Golden files in `helper/tests/golden` hold the results. Nothing a user can choose gets here but his name and his
//! run's id; settings hold no white space, `$`, `%` or quote (see [`crate::settings`]).

use crate::names::{Run, User};
use crate::settings::Settings;
use crate::systemd::RUN_DESCRIPTION;

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
const AGENT_257: &str = include_str!("../units/agent-257.conf");
const RELAY: &str = include_str!("../units/model-relay.conf");

/// The unit of a user's agent.
pub fn agent(user: &User) -> String {
    format!("{AGENT_PREFIX}{}.service", user.as_str())
}

fn arguments(unit: &str, description: &str, properties: &[&str]) -> Vec<String> {
    let mut arguments =
        ["--quiet", "--no-ask-password", "--slice=pi-gateway.slice"].map(str::to_owned).to_vec();
    arguments.extend([format!("--unit={unit}"), format!("--description={description}")]);
    let lines = properties.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#'));
    arguments.extend(lines.map(|line| format!("--property={line}")));
    arguments
}

/// The arguments that start an agent. `version` is systemd's.
pub fn agent_arguments(settings: &Settings, version: u32, user: &User, uid: u32, run: &Run) -> Vec<String> {
    let (name, id, set) = (user.as_str(), run.as_str(), |name| settings.get(name));
    let seconds = |name| settings.number(name) / 1000;
    // The front ends a run in time; this ends it should the front be gone for good.
    let lifetime = seconds("RUN_TIMEOUT_MS") + seconds("RUN_CANCEL_GRACE_MS") + 60;
    let port = set("INTERNAL_PROVIDER_PORT");
    let own = format!(
        "User={uid}\nGroup={uid}\n\
         BindPaths={}/{name}:/workspace {}/{name}:/session\n\
         BindReadOnlyPaths={USERS_DIR}/{name}/passwd:/etc/passwd {USERS_DIR}/{name}/group:/etc/group\n\
         BindReadOnlyPaths={}:/trusted/extension.mjs {}:/trusted/AGENTS.md {}:/trusted/models.json\n\
         StandardInput=file:{RAW_DIR}/{id}/in\n\
         StandardOutput=append:{RAW_DIR}/{id}/out\n\
         StandardError=append:{RAW_DIR}/{id}/err\n\
         MemoryMax={}\nTasksMax={}\nCPUQuota={}\nRuntimeMaxSec={lifetime}\n\
         Environment=GATEWAY_URL=http://127.0.0.1:{port}/v1",
        set("BASE_WORKDIR"),
        set("SESSION_DIR"),
        set("PI_GATEWAY_EXTENSION_PATH"),
        set("PI_SANDBOX_AGENTS_PATH"),
        set("PI_GATEWAY_MODELS"),
        set("SANDBOX_MEMORY_MAX"),
        set("SANDBOX_TASKS_MAX"),
        set("SANDBOX_CPU_QUOTA"),
    );
    let newer = if version >= 257 { AGENT_257 } else { "" };
    let description = format!("{RUN_DESCRIPTION}{id}");
    let mut all = arguments(&agent(user), &description, &[COMMON, AGENT, newer, &own]);
    let enter = format!(
        "-- /usr/lib/pi-gateway/pi-gateway-enter --run {id} --model-port {port} -- {}",
        set("PI_BIN")
    );
    // Nothing of the workspace is loaded as configuration, and the session is the user's one file.
    let context = if set("PI_DISABLE_CONTEXT_FILES") == "true" { "-nc" } else { "" };
    let pi = format!(
        "--mode rpc -ne -ns -np --no-themes {context} -na --offline -e /trusted/extension.mjs \
         --append-system-prompt /trusted/AGENTS.md --session-dir /session --session /session/session.jsonl \
         --provider gateway --model {}",
        set("PI_GATEWAY_DEFAULT_MODEL")
    );
    all.extend(enter.split_whitespace().chain(pi.split_whitespace()).map(str::to_owned));
    all
}

/// The arguments that start the model relay.
pub fn relay_arguments() -> Vec<String> {
    let mut all = arguments(MODEL_RELAY, "pi-gateway model relay", &[COMMON, RELAY]);
    all.extend(["--", "/usr/lib/pi-gateway/pi-gateway-relay", "model"].map(str::to_owned));
    all
}
