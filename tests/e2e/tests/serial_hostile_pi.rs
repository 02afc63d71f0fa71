//! A pi that is not pi any more: whatever it prints or does, its run ends with a code that is documented, nothing is left,
//! and the next run works.

use pi_gateway_e2e::host::{until_ready, user_processes};
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost, until};

const PI: &str = "/usr/local/lib/hostile-pi";

/// Has runs driven by the hostile pi until the result is dropped.
fn hostile() -> Restore {
    testhost();
    let restore = Restore::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/attacks/hostile-pi");
    sh(&format!("install -m 0755 {source} {PI}; printf 'PI_BIN={PI}\\nRUN_TIMEOUT_MS=15000\\n' >> {FILE}"));
    sh("systemctl restart pi-gateway-launcher pi-gateway");
    until_ready();
    restore
}

#[test]
fn what_a_hostile_pi_prints_or_does_ends_its_run_with_a_documented_code() {
    let _restore = hostile();
    let documented = std::fs::read_to_string("/usr/share/doc/pi-gateway/pi-runtime.md");
    let documented = documented.unwrap_or_else(|_| include_str!("../../../docs/pi-runtime.md").to_owned());
    let user = User::new("hostile");
    for (prompt, status, code) in [
        ("well behaved", "succeeded", None),
        ("endless line", "failed", Some("output_limit")),
        ("long line", "failed", Some("output_limit")),
        ("not utf-8", "failed", Some("output_invalid")),
        ("a little not utf-8", "succeeded", None),
        ("nesting", "failed", Some("output_invalid")),
        ("forged responses", "succeeded", None),
        ("truncate", "failed", Some("output_tampered")),
        ("rewrite", "succeeded", None),
        ("exit", "failed", Some("agent_crashed")),
        ("die", "failed", Some("agent_killed")),
        ("flood", "succeeded", None),
        ("silence", "failed", Some("timeout")),
    ] {
        let run = user.run(prompt);
        assert_eq!(run["status"], status, "{prompt}: {run}");
        assert_eq!(run["error"]["code"].as_str(), code, "{prompt}: {run}");
        assert!(code.is_none_or(|code| documented.contains(&format!("`{code}`"))), "{code:?} is not documented");
        assert_eq!(user_processes(), "", "{prompt}");
        let id = run["id"].as_str().unwrap();
        assert_eq!(sh(&format!("ls -d /var/lib/pi-gateway/raw/{id} 2>/dev/null || true")), "", "{prompt}");
        let events = user.events(id);
        for (number, event) in events.iter().enumerate() {
            assert!(event.id.starts_with(&format!("{}-", number + 1)), "{prompt}: a gap before {event:?}");
        }
    }
}

#[test]
fn a_flood_without_end_ends_with_the_runs_time_or_at_a_limit_of_its_own() {
    let _restore = hostile();
    let run = User::new("flood").run("flood without end");
    assert_eq!(run["status"], "failed", "{run}");
    // The output of this machine's runs lies on a tmpfs, so what the front has not read yet is the agent's memory: a fast
    // writer meets that limit first, a slow one the run's time.
    let code = run["error"]["code"].as_str().unwrap();
    assert!(["timeout", "agent_killed", "out_of_memory"].contains(&code), "{run}");
    assert_eq!(user_processes(), "");
}

#[test]
fn memory_of_the_front_stays_flat_while_a_pi_prints_a_line_without_end() {
    let _restore = hostile();
    let memory = || -> u64 {
        let pid = sh("systemctl show -P MainPID pi-gateway");
        sh(&format!("awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status")).parse().unwrap()
    };
    let before = memory();
    let user = User::new("endless");
    for _ in 0..3 {
        assert_eq!(user.run("endless line")["error"]["code"], "output_limit");
    }
    // A line may have 16 MiB; what is kept of it goes with the run.
    assert!(memory() < before + 24 * 1024, "{} KiB before, {} KiB after", before, memory());
}

#[test]
fn a_runtime_that_is_missing_fails_the_run_and_is_no_trouble_once_it_is_back() {
    let _restore = hostile();
    let user = User::new("missing");
    sh(&format!("mv {PI} {PI}.away"));
    let run = user.run("well behaved");
    sh(&format!("mv {PI}.away {PI}"));
    assert_eq!(run["status"], "failed", "{run}");
    assert_eq!(run["error"]["code"], "agent_crashed", "{run}");
    assert_eq!(user_processes(), "");
    assert_eq!(user.run("well behaved")["status"], "succeeded");
}

#[test]
fn a_pi_that_never_takes_the_prompt_is_given_up() {
    let _restore = hostile();
    let user = User::new("deaf");
    let id = user.start("deaf");
    until("the prompt is written", || {
        let record = format!("/var/lib/pi-gateway/front/users/{}/runs/{id}/run.json", user.name);
        std::fs::read_to_string(record).ok()?.contains("\"prompt_written\":true").then_some(())
    });
    let run = user.finished(&id);
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("timeout")), "{run}");
}
