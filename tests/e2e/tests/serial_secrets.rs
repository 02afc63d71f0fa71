//! The API key is in one process and on its way to one upstream, and nowhere else. Each search is shown to find a word
//! that was put there.

use pi_gateway_e2e::host::{api_key, memory_holds, search, uid_of, upstream_requests};
use pi_gateway_e2e::{User, sh, testhost};

#[test]
fn the_key_is_nowhere_in_a_sandbox() {
    testhost();
    let user = User::new("searcher");
    let places =
        "/workspace /session /trusted /agent /tmp /var /run /etc /dev/shm /proc/[0-9]*/environ /proc/[0-9]*/cmdline";
    let planted = "planted-word-0123456789";
    user.bash(&format!("printf %s {planted} > /workspace/planted"));
    let found = user.bash(&search(planted, places));
    assert!(found.contains("/workspace/planted"), "the search finds what is there: {found}");
    let found = user.bash(&search("PI_CODING_AGENT_DIR=/agent", places));
    assert!(found.contains("/environ") && !found.trim().ends_with("\n0"), "in environments as well: {found}");
    let output = user.bash(&search(&api_key(), places));
    assert_eq!(output.trim(), "0", "the key is in a sandbox: {output}");
    assert!(user.bash("cat /etc/pi-gateway/credentials/OPENAI_API_KEY 2>&1").contains("No such file"));
}

#[test]
fn the_key_is_in_no_front_no_log_and_no_file_but_its_own() {
    testhost();
    let user = User::new("outside");
    let id = user.start("look around [[slow 3000 30]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    // In files, so that no command line of this test holds what it looks for.
    for (name, word) in [("key", api_key()), ("known", "JWT_SHARED_SECRET".to_owned())] {
        std::fs::write(format!("/root/needle-{name}"), word).unwrap();
    }
    let pid = |unit: &str| sh(&format!("systemctl show -P MainPID {unit}"));
    let (front, launcher) = (pid("pi-gateway"), pid("pi-gateway-launcher"));
    let agent = pid(&format!("pi-gateway-agent-{}", user.name));
    let memory = |pid: &str, needle: &str| memory_holds(pid, &format!("/root/needle-{needle}"));
    // A word that each of them has in its memory: the search finds what is there.
    for (pid, word) in
        [(&front, "JWT_SHARED_SECRET"), (&launcher, "pi-gateway-agent-"), (&agent, "PI_CODING_AGENT_DIR")]
    {
        std::fs::write("/root/needle-known", word).unwrap();
        assert!(memory(pid, "known"), "{word}");
    }
    for (name, pid) in [("front", &front), ("launcher", &launcher), ("agent", &agent)] {
        assert!(!memory(pid, "key"), "the key is in the memory of the {name}");
        assert_eq!(
            sh(&format!("cat /proc/{pid}/environ /proc/{pid}/cmdline | grep -caF -f /root/needle-key || true")),
            "0",
            "{name}"
        );
    }
    user.post(&format!("/runs/{id}/cancel"), &[], &serde_json::json!({}));
    user.finished(&id);
    assert_ne!(sh("journalctl -b --no-pager | grep -cF 'run finished' || true"), "0", "the search finds what is there");
    assert_eq!(sh("journalctl -b --no-pager | grep -cF -f /root/needle-key || true"), "0", "the journal");
    let units = "systemctl show 'pi-gateway*' --all; cat /run/systemd/transient/* /run/pi-gateway/config/* /proc/[0-9]*/cmdline";
    assert_eq!(
        sh(&format!("({units}) 2>/dev/null | grep -caF -f /root/needle-key || true")),
        "0",
        "units and command lines"
    );
    let files = sh("grep -rlaF -f /root/needle-key --devices=skip /etc /var/lib /var/log /run \
        --exclude-dir=pi-gateway-upstream 2>/dev/null || true");
    let allowed = [
        "/etc/pi-gateway/credentials/OPENAI_API_KEY",
        "/run/credentials/pi-gateway-relay-model.service/OPENAI_API_KEY",
    ];
    for file in files.lines() {
        assert!(allowed.contains(&file), "the key is in {file}");
    }
    let credential = "/run/credentials/pi-gateway-relay-model.service/OPENAI_API_KEY";
    let readable = sh(&format!("setpriv --reuid={} --clear-groups cat {credential} 2>&1 || true", uid_of(&user.name)));
    assert!(readable.contains("Permission denied"), "{readable}");
}

#[test]
fn the_upstream_gets_the_key_and_nothing_of_the_callers_own() {
    testhost();
    let user = User::new("caller");
    let prompt = format!("what does the upstream see of {}", user.name);
    user.run(&prompt);
    let requests = upstream_requests(&prompt);
    assert_eq!(requests.len(), 1);
    let headers = requests[0]["headers"].as_object().unwrap();
    assert_eq!(headers["authorization"], format!("Bearer {}", api_key()));
    let all = requests[0].to_string();
    assert!(!all.contains(&user.token) && !all.contains("placeholder"), "{all}");
    let allowed = "accept accept-encoding authorization content-length content-type host session-id user-agent x-client-request-id";
    for name in headers.keys() {
        assert!(allowed.split(' ').any(|known| known == name), "{name} went to the upstream");
    }
}
