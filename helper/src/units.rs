//! The arguments of `systemd-run`: pure functions of the files in `helper/units`, the settings and checked names.
//!
//! Golden files in `helper/tests/golden` hold the results. Nothing a user can choose gets here but his name and his
//! run's id; settings hold no white space, `$`, quote or specifier (see [`crate::settings`]).

use crate::names::{Run, User};
use crate::settings::Settings;
use crate::wire::Unit;

/// What a unit's description begins with that is for one run or job, whose id follows.
pub const RUN_DESCRIPTION: &str = "pi-gateway run ";
/// What the name of an agent's unit begins with.
pub const AGENT_PREFIX: &str = "pi-gateway-agent-";
/// The input and output of runs.
pub const RAW_DIR: &str = "/var/lib/pi-gateway/raw";
/// The passwd and group files of users.
pub const USERS_DIR: &str = "/run/pi-gateway/users";

const COMMON: &str = include_str!("../units/common.conf");
const SANDBOX: &str = include_str!("../units/sandbox.conf");
const SANDBOX_257: &str = include_str!("../units/sandbox-257.conf");
const AGENT: &str = include_str!("../units/agent.conf");
const INTERNET: &str = include_str!("../units/internet.conf");
const WORKER: &str = include_str!("../units/worker.conf");
const GIT_WORKER: &str = include_str!("../units/git.conf");
const RELAY: &str = include_str!("../units/relay.conf");

/// A relay: what it relays, the credential that it alone is given, if any, and its own properties.
pub struct Relay(pub &'static str, pub Option<&'static str>, &'static str);

/// The model relay.
pub const MODEL: Relay = Relay("model", Some("OPENAI_API_KEY"), include_str!("../units/model-relay.conf"));
/// The git relay.
pub const GIT: Relay = Relay("git", Some("GITEA_SYNC_SERVICE_TOKEN"), include_str!("../units/git-relay.conf"));
/// The egress relay.
pub const EGRESS: Relay = Relay("egress", None, include_str!("../units/egress-relay.conf"));

/// The unit of a relay.
pub fn relay(relay: &Relay) -> String {
    format!("pi-gateway-relay-{}.service", relay.0)
}

/// The name of a unit.
pub fn name(unit: &Unit) -> String {
    match unit {
        Unit::Agent(user) => format!("{AGENT_PREFIX}{}.service", user.as_str()),
        Unit::Worker(user) => format!("pi-gateway-worker-{}.service", user.as_str()),
        Unit::ModelRelay => relay(&MODEL),
        Unit::GitRelay => relay(&GIT),
        Unit::EgressRelay => relay(&EGRESS),
        Unit::Git(user) => format!("pi-gateway-git-{}.service", user.as_str()),
    }
}

/// The arguments for a unit of properties, one a line, and behind `-- ` its program, word by word; `#` begins a comment.
fn arguments(unit: &str, description: &str, text: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    let (properties, program) = text.split_once("\n-- ").unwrap_or((text, ""));
    let mut all = ["--quiet", "--no-ask-password", "--slice=pi-gateway.slice"].map(str::to_owned).to_vec();
    all.extend([format!("--unit={unit}"), format!("--description={description}")]);
    all.extend(lines(properties).iter().map(|line| format!("--property={line}")));
    all.push("--".to_owned());
    all.extend(lines(program).iter().flat_map(|line| line.split_whitespace()).map(str::to_owned));
    all
}

/// The arguments that start one of a user's units as his uid; `version` is systemd's, `run` that of an agent, or the job
/// of a git worker.
pub fn argv(settings: &Settings, version: u32, user: &User, uid: u32, unit: &Unit, run: Option<&Run>) -> Vec<String> {
    let is = |name, value| settings.get(name) == value;
    let context = if is("PI_DISABLE_CONTEXT_FILES", "true") { "-nc" } else { "" };
    let (internet, egress) = if is("SANDBOX_INTERNET_ENABLED", "true") { (INTERNET, ",egress:4182") } else { ("", "") };
    let newer = if version >= 257 { SANDBOX_257 } else { "" };
    let (user, uid, run) = (user.as_str(), uid.to_string(), run.map_or("", Run::as_str));
    let (told, files) = match unit {
        Unit::Agent(_) => (format!("{RUN_DESCRIPTION}{run}"), [newer, internet, AGENT]),
        Unit::Git(_) => (format!("{RUN_DESCRIPTION}{run}"), [newer, "", GIT_WORKER]),
        _ => ("pi-gateway worker".to_owned(), [newer, "", WORKER]),
    };
    let own = [("user", user), ("uid", &uid), ("run", run), ("context", context), ("egress", egress)];
    // No value holds a brace, so none is taken for a name.
    let fill = |text: String, (name, value): (&str, &str)| text.replace(&format!("{{{name}}}"), value);
    let text = own.into_iter().chain(settings.all()).fold([COMMON, SANDBOX, &files.concat()].concat(), fill);
    arguments(&name(unit), &told, &text)
}

/// The arguments that start a relay.
pub fn relay_argv(own: &Relay) -> Vec<String> {
    let program = format!("\n-- /usr/lib/pi-gateway/pi-gateway-relay {}", own.0);
    arguments(&relay(own), &format!("pi-gateway {} relay", own.0), &[COMMON, RELAY, own.2, &program].concat())
}
