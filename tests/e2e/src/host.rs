//! The machine around the gateway: commands, files, the upstream's log.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Fails loudly outside the test host: the tests restart services and look at everything as root.
pub fn testhost() {
    assert!(
        std::env::var_os("PI_GATEWAY_TESTHOST").is_some(),
        "this test runs in the test host only: `make test`, or `make test T=name`"
    );
}

/// Runs a shell command; gives what it printed, and fails with it when it fails.
pub fn sh(command: &str) -> String {
    let (ok, text) = try_sh(command);
    assert!(ok, "{command}\n{text}");
    text
}

/// Runs a shell command; tells whether it succeeded and what it printed.
pub fn try_sh(command: &str) -> (bool, String) {
    let output = Command::new("bash").args(["-c", command]).output().expect("bash");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// Asks until something is so; fails after 20 s.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come to this in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the gateway is ready for runs.
pub fn until_ready() {
    until("the gateway is ready", || {
        let response = crate::http::try_request("GET", "/health/ready", None, &[], None)?;
        (response.status == 200).then_some(())
    });
}

/// The uid of a user's workspace.
pub fn uid_of(user: &str) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/var/lib/pi-gateway/workspaces/{user}")).unwrap())
}

/// The requests that reached the upstream whose last user text is `prompt`.
pub fn upstream_requests(prompt: &str) -> Vec<Value> {
    let text = std::fs::read_to_string("/var/lib/private/pi-gateway-upstream/log").unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["last_user"] == prompt && line.get("method").is_some()).collect()
}

/// The processes of users' sandboxes.
pub fn user_processes() -> String {
    sh("ps -eo uid=,pid=,args= | awk '$1 > 1879048192'")
}

/// Every file below a directory with owner, mode and size.
pub fn listing(directory: &str) -> String {
    sh(&format!("find {directory} -printf '%p %U:%G %m %s\\n' 2>/dev/null | sort"))
}

/// The API key of the test's upstream.
pub fn api_key() -> String {
    std::fs::read_to_string(Path::new("/etc/pi-gateway/credentials/OPENAI_API_KEY")).unwrap().trim().to_owned()
}
