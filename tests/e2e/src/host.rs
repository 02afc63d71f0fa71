//! The machine around the gateway: commands, files, the upstream's log.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
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

/// What the upstream has logged.
pub fn upstream_log() -> Vec<Value> {
    let text = std::fs::read_to_string("/var/lib/private/pi-gateway-upstream/log").unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
}

/// The requests that reached the upstream whose last user text is `prompt`.
pub fn upstream_requests(prompt: &str) -> Vec<Value> {
    let lines = upstream_log().into_iter();
    lines.filter(|line| line["last_user"] == prompt && line.get("method").is_some()).collect()
}

/// A shell command that looks for a word given in base64, so that the command itself does not hold it.
pub fn search(word: &str, places: &str) -> String {
    let (a, b) = word.split_at(word.len() / 2);
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "w=$(echo {} | base64 -d)$(echo {} | base64 -d); printf '%s\\n' \"$w\" | grep -rlaF --devices=skip -f - {places} \
         2>/dev/null | sort -u | head -20; env | grep -cF -f <(printf '%s\\n' \"$w\"); true",
        encode(a),
        encode(b)
    )
}

/// Whether the word in a file, so that no command line holds it, is in the memory of a process, region by region.
pub fn memory_holds(pid: &str, needle: &str) -> bool {
    let script = format!(
        "while read -r range flags _; do case $flags in r*) from=$((16#${{range%-*}})); to=$((16#${{range#*-}})); \
         dd if=/proc/{pid}/mem bs=4096 skip=$((from/4096)) count=$(((to-from)/4096)) 2>/dev/null;; esac; done \
         </proc/{pid}/maps | grep -caF -f {needle}"
    );
    sh(&format!("{script} || true")).trim() != "0"
}

/// The processes of users' sandboxes but for files workers: those of other users stay for a minute and go at any time.
pub const USER_PROCESSES: &str =
    "ps -eo uid=,pid=,args= | awk '$1 > 1879048192' | grep -v 'pi-gateway-worker files$' || true";

/// What [`USER_PROCESSES`] finds.
pub fn user_processes() -> String {
    sh(USER_PROCESSES)
}

/// Waits until the last files worker is gone that nobody asks anything.
pub fn until_workers_are_gone() {
    let deadline = Instant::now() + Duration::from_secs(100);
    loop {
        let workers = sh("ps -eo uid=,pid=,etimes=,args= | grep 'pi-gateway-worker files$' || true");
        if workers.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "idle workers stay:\n{workers}\n{}",
            sh("systemctl list-units --all 'pi-gateway-*'")
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every file below a directory with owner, mode and size.
pub fn listing(directory: &str) -> String {
    sh(&format!("find {directory} -printf '%p %U:%G %m %s\\n' 2>/dev/null | sort"))
}

/// The API key of the test's upstream.
pub fn api_key() -> String {
    std::fs::read_to_string(Path::new("/etc/pi-gateway/credentials/OPENAI_API_KEY")).unwrap().trim().to_owned()
}
