//! What dies and what goes on. One at a time: these tests kill services that the others need.

use pi_gateway_e2e::host::{uid_of, until_ready, user_processes};
use pi_gateway_e2e::operator::kill;
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::json;

#[test]
fn the_launcher_can_be_killed_during_a_run() {
    testhost();
    let user = User::new("launcher");
    let id = user.start("[[slow 60 20]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    kill("pi-gateway-launcher");
    assert_eq!(user.finished(&id)["status"], "succeeded");
    until_ready();
    // The relay was left alone, and the launcher knows the user again.
    let uid = uid_of(&user.name);
    assert_eq!(user.run("again")["status"], "succeeded");
    assert_eq!(uid_of(&user.name), uid);
}

#[test]
fn a_killed_pi_is_a_failed_run_and_the_next_one_works() {
    testhost();
    let user = User::new("pi");
    user.run("my number is seven");
    let id = user.start("[[slow 400 20]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    kill(&format!("pi-gateway-agent-{}", user.name));
    let run = user.finished(&id);
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("agent_killed")));
    assert!(user.run("[[recall]]")["output_text"].as_str().unwrap().contains("my number is seven"));
}

#[test]
fn the_session_outlives_restarts_of_everything() {
    testhost();
    let user = User::new("session");
    user.run("my city is Bergen");
    sh("systemctl restart pi-gateway pi-gateway-launcher");
    until_ready();
    let recalled = user.run("[[recall]]");
    assert!(recalled["output_text"].as_str().unwrap().contains("my city is Bergen"), "{recalled}");
}

#[test]
fn nothing_is_left_over_when_all_runs_have_ended() {
    testhost();
    let user = User::new("tidy");
    user.run("[[bash (setsid sleep 300 &); echo left one behind]]");
    assert_eq!(user_processes(), "");
    until("no unit is left", || {
        sh("systemctl list-units --all --plain --no-legend 'pi-gateway-agent-*'").is_empty().then_some(())
    });
    assert_eq!(sh("ls /var/lib/pi-gateway/raw /var/lib/pi-gateway/front/active | grep -v ':$' | grep . || true"), "");
    assert_eq!(sh("find /sys/fs/cgroup -type d -name 'pi-gateway-agent-*'"), "");
    assert_eq!(sh("grep -c 'pi-gateway/root' /proc/self/mounts || true"), "0");
    assert_eq!(sh("find /var/lib/pi-gateway/front -name '.tmp-*'"), "");
}
