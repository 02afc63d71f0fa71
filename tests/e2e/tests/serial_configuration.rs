//! A wrong configuration stops the start, all of it is told at once, and the remedy that is told works.

use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::operator::{self, FILE};
use pi_gateway_e2e::{User, request, sh, testhost, until};

const KEY: &str = "/etc/pi-gateway/credentials/OPENAI_API_KEY";

/// Puts everything back as it was, also when a test fails: the key, and then what the services are started with.
struct Restore {
    _services: operator::Restore,
}

impl Restore {
    fn new() -> Self {
        sh(&format!("cp -a {KEY} /root/key.kept"));
        Restore { _services: operator::Restore::new() }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = try_sh(&format!("cp -a /root/key.kept {KEY}"));
    }
}

/// Restarts a service that must not come up; gives what it said.
fn refuses_to_start(unit: &str) -> String {
    let cursor = sh("journalctl -b -n0 --show-cursor -q | sed -n 's/^-- cursor: //p'");
    let (started, _) = try_sh(&format!("systemctl restart {unit}"));
    assert!(!started, "{unit} started");
    until("the service has given up", || {
        (sh(&format!("systemctl show -P ActiveState {unit}")) == "failed").then_some(())
    });
    assert_eq!(sh(&format!("systemctl show -P NRestarts {unit}")), "0", "a wrong configuration is not tried again");
    sh(&format!("journalctl -b --no-pager -o cat --after-cursor='{cursor}' -u {unit}"))
}

#[test]
fn twelve_mistakes_are_told_at_once_and_no_secret_with_them() {
    testhost();
    let file = "/root/twelve.env";
    let text = "PORT=0\nHOST=localhost\nJWT_SHARED_SECRET=changeme\nMAX_UPLOAD_MB=many\nPI_BIN=pi\n\
        INTERNAL_PROVIDER_HOST=0.0.0.0\nSANDBOX_MEMORY_MAX=1T\nRUN_TIMEOUT_MS=-1\nWORKSPACE_REMOTE_MODE=github\n\
        OPENAI_API_KEY=sk-live-0123456789\nnot a variable\nCORS_ORIGINS=*\n";
    std::fs::write(file, text).unwrap();
    sh(&format!("chmod 600 {file}"));
    let (ok, told) = try_sh(&format!("pi-gateway check --config {file} 2>&1; echo status $?"));
    assert!(ok && told.ends_with("status 78"), "{told}");
    assert!(told.starts_with("pi-gateway: the configuration has 12 mistakes:"), "{told}");
    assert_eq!(told.lines().count(), 14, "{told}");
    assert!(!told.contains("sk-live"), "{told}");
    let good = sh("pi-gateway check");
    assert_eq!(good, "the configuration is valid");
}

#[test]
fn a_placeholder_secret_stops_both_and_nothing_answers_until_it_is_real() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("sed -i 's/^JWT_SHARED_SECRET=.*/JWT_SHARED_SECRET=changeme/' {FILE}"));
    for unit in ["pi-gateway", "pi-gateway-launcher"] {
        let told = refuses_to_start(unit);
        assert!(told.contains("JWT_SHARED_SECRET") && told.contains("openssl rand"), "{told}");
    }
    let (answered, _) = try_sh("curl -s -m 2 http://127.0.0.1:8787/health");
    assert!(!answered, "the front answers without a valid configuration");
}

#[test]
fn files_that_others_can_read_stop_the_start_with_the_command_that_helps() {
    testhost();
    let _restore = Restore::new();
    for (file, unit, mode) in
        [(FILE, "pi-gateway", "0644"), (KEY, "pi-gateway-launcher", "0644"), (KEY, "pi-gateway-launcher", "0640")]
    {
        sh(&format!("chmod {mode} {file}"));
        let told = refuses_to_start(unit);
        // The remedy stands between backquotes; it is what an operator would paste.
        let remedy =
            told.split('`').find(|part| part.starts_with("chown ")).unwrap_or_else(|| panic!("{told}")).to_owned();
        sh(&remedy);
        sh(&format!("systemctl reset-failed {unit}; systemctl restart {unit}"));
    }
    until_ready();
}

#[test]
fn a_key_in_the_configuration_stops_both_and_the_told_command_moves_it() {
    testhost();
    let _restore = Restore::new();
    let key = std::fs::read_to_string(KEY).unwrap();
    sh(&format!("echo 'OPENAI_API_KEY={}' >> {FILE}; rm {KEY}", key.trim()));
    refuses_to_start("pi-gateway");
    let told = refuses_to_start("pi-gateway-launcher");
    assert!(!told.contains(key.trim()), "the key is in the journal");
    let remedy =
        told.split('`').find(|part| part.contains("move-credentials")).unwrap_or_else(|| panic!("{told}")).to_owned();
    sh(&remedy);
    assert_eq!(std::fs::read_to_string(KEY).unwrap().trim(), key.trim());
    assert_eq!(sh(&format!("stat -c '%a %u' {KEY}")), "600 0");
    assert!(!std::fs::read_to_string(FILE).unwrap().contains("OPENAI_API_KEY"));
    sh("systemctl reset-failed pi-gateway pi-gateway-launcher; systemctl restart pi-gateway-launcher pi-gateway");
    until_ready();
    assert_eq!(User::new("moved").run("hello")["status"], "succeeded");
}

#[test]
fn a_missing_credential_stops_the_launcher_and_says_what_to_do() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("rm {KEY}"));
    let told = refuses_to_start("pi-gateway-launcher");
    assert!(told.contains("OPENAI_API_KEY") && told.contains("install -D -m 0600"), "{told}");
}

#[test]
fn another_port_than_the_sockets_stops_the_front_with_the_remedy() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo PORT=9999 >> {FILE}"));
    let told = refuses_to_start("pi-gateway");
    assert!(told.contains("systemctl edit pi-gateway.socket") && told.contains("127.0.0.1:9999"), "{told}");
}

#[test]
fn a_changed_setting_reaches_the_next_run_and_a_long_run_is_stopped() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo RUN_TIMEOUT_MS=6000 >> {FILE}; systemctl restart pi-gateway-launcher pi-gateway"));
    until_ready();
    let run = User::new("long").run("[[bash sleep 60]]");
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("timeout")), "{run}");
    // An upstream that says nothing holds a run no longer than that either.
    let silent = User::new("silent");
    let run = silent.run("[[hang]]");
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("timeout")), "{run}");
    assert_eq!(silent.run("and again")["status"], "succeeded");
    let unknown = format!("echo NO_SUCH_THING=1 >> {FILE}; pi-gateway check");
    assert!(sh(&unknown).contains("NO_SUCH_THING: no variable of pi-gateway"));
    assert_eq!(request("GET", "/health", None, &[], None).status, 200);
}
