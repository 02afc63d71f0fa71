//! What these tests share beside the client of the end-to-end tests: a configuration that is put back, a client that
//! comes back, and where things of a run lie. They restart services, so they run one at a time.

use std::time::{Duration, Instant};

use crate::host::{try_sh, until_ready};
use crate::{Event, User, sh};

/// The longest time without an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway's configuration.
pub const FILE: &str = "/etc/pi-gateway/gateway.env";

/// What the gateway is reached by, from outside and within.
const SOCKETS: &str = "pi-gateway.socket pi-gateway-launcher.socket pi-gateway-launcher-model.socket";

/// Puts the configuration and the units back as they were, also when a test fails.
pub struct Restore;

impl Restore {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        sh(&format!("cp -a {FILE} /root/operator.env.kept"));
        Restore
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // Stopped before they are started: a socket is not restarted while its service is being started, which the model
        // relay does when it connects meanwhile.
        let (ok, told) = try_sh(&format!(
            "cp -a /root/operator.env.kept {FILE}; rm -rf /etc/systemd/system/pi-gateway.socket.d; \
             systemctl daemon-reload; systemctl stop pi-gateway {SOCKETS} pi-gateway-launcher; \
             systemctl reset-failed 'pi-gateway*'; systemctl start {SOCKETS} pi-gateway-launcher pi-gateway"
        ));
        if !ok {
            eprintln!("the services were not put back as they were: {told}");
        }
        until_ready();
    }
}

/// Kills a unit's main process, with no chance to tidy up.
pub fn kill(unit: &str) {
    sh(&format!("kill -9 $(systemctl show -P MainPID {unit})"));
}

/// The events of a run as a client sees them that comes back whenever its stream ends; fails on a gap or a repetition.
pub fn persistent(user: &User, id: &str, mut each: impl FnMut(&Event, usize)) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    let mut deadline = Instant::now() + PATIENCE;
    while seen.last().is_none_or(|event| event.name != "run.finished") {
        assert!(Instant::now() < deadline, "a client that comes back has seen nothing new for {PATIENCE:?}: {seen:?}");
        let after = seen.last().map(|event| event.id.clone());
        for event in user.try_stream(id, after.as_deref()).into_iter().flatten() {
            each(&event, seen.len() + 1);
            seen.push(event);
            deadline = Instant::now() + PATIENCE;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for (number, event) in seen.iter().enumerate() {
        assert!(event.id.starts_with(&format!("{}-", number + 1)), "a gap or a repetition before {event:?}");
    }
    seen
}

/// The value of `name=value` among the lines of a script's output.
pub fn fact<'a>(facts: &'a str, name: &str) -> &'a str {
    let found = facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{name} is not among the facts:\n{facts}")).trim()
}

/// The body of a request that says nothing.
pub fn nothing() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}
