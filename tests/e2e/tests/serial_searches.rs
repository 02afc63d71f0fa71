//! The API key is searched while a run is active: the raw output, event logs, sessions, transient units and the memory of
//! every process of the sandbox. The same searches find a word that is there.

use pi_gateway_e2e::host::{api_key, uid_of};
use pi_gateway_e2e::{User, sh, testhost};

#[test]
fn the_key_is_in_nothing_that_belongs_to_an_active_run() {
    testhost();
    let user = User::new("active");
    let word = "Known-4711-word";
    let id = user.start(&format!("{word} [[bash echo {word}; sleep 20]]"));
    user.stream(&id, None).find(|event| event.name == "tool.output").unwrap();
    std::fs::write("/root/search-key", api_key()).unwrap();
    std::fs::write("/root/search-word", word).unwrap();
    std::fs::write("/root/search-unit", "pi-gateway run").unwrap();
    std::fs::write("/root/search-env", "PI_CODING_AGENT_DIR=/agent").unwrap();
    let count = |needle: &str, source: &str| -> usize {
        let text = sh(&format!("({source}) 2>/dev/null | grep -caF -f /root/search-{needle} || true"));
        text.parse().unwrap_or_else(|_| panic!("{source}: {text}"))
    };
    let state = "/var/lib/pi-gateway";
    // Those of the sandbox: a worker of the same uid may come and go beside it.
    let inside = format!(
        "for p in $(pgrep -U {}); do grep -q pi-gateway-agent- /proc/$p/cgroup && echo $p; done",
        uid_of(&user.name)
    );
    for (place, known) in [
        (format!("cat {state}/raw/{id}/out {state}/raw/{id}/err"), "word"),
        (format!("cat {state}/front/users/{}/runs/{id}/*", user.name), "word"),
        (format!("cat {state}/sessions/{}/*", user.name), "word"),
        ("cat /run/systemd/transient/pi-gateway-agent-*".to_owned(), "unit"),
        (format!("systemctl show --all pi-gateway-agent-{}", user.name), "unit"),
        (format!("for p in $({inside}); do cat /proc/$p/environ; done"), "env"),
    ] {
        assert!(count(known, &place) > 0, "the search finds what is there: {place}");
        assert_eq!(count("key", &place), 0, "the key is in: {place}");
    }
    let processes = sh(&format!("{inside}; true"));
    assert!(processes.lines().count() > 1, "pi and what its tool runs: {processes}");
    for pid in processes.lines() {
        let memory = format!(
            "while read -r range flags _; do case $flags in r*) from=$((16#${{range%-*}})); to=$((16#${{range#*-}})); \
             dd if=/proc/{pid}/mem bs=4096 skip=$((from/4096)) count=$(((to-from)/4096));; esac; done </proc/{pid}/maps"
        );
        assert!(count("env", &memory) > 0, "the search finds the environment of {pid}");
        assert_eq!(count("key", &memory), 0, "the key is in the memory of {pid}");
    }
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &pi_gateway_e2e::operator::nothing());
    user.finished(&id);
}
