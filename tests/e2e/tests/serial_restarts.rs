//! What dies and what goes on. One at a time: these tests kill services that the others need.

use pi_gateway_e2e::host::{uid_of, until_ready, upstream_requests, user_processes};
use pi_gateway_e2e::{Event, User, sh, testhost, until};
use serde_json::json;

fn kill(unit: &str) {
    sh(&format!("kill -9 $(systemctl show -P MainPID {unit})"));
}

/// The events of a run as a client sees them that comes back whenever its stream ends.
fn persistent(user: &User, id: &str, mut each: impl FnMut(usize)) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    until("the run has ended for a client that comes back", || {
        let after = seen.last().map(|event| event.id.clone());
        let stream = std::panic::catch_unwind(|| user.stream(id, after.as_deref())).ok()?;
        for event in stream {
            seen.push(event);
            each(seen.len());
        }
        seen.last().is_some_and(|event| event.name == "run.finished").then_some(())
    });
    for (number, event) in seen.iter().enumerate() {
        assert!(event.id.starts_with(&format!("{}-", number + 1)), "a gap or a repetition before {event:?}");
    }
    seen
}

#[test]
fn the_front_can_be_killed_at_any_point_of_a_run_and_the_prompt_reaches_the_upstream_once() {
    testhost();
    let user = User::new("front");
    for (point, prompt) in [
        (1, "killed at the first event [[slow 60 20]]"),
        (5, "killed in mid-stream [[slow 60 20]]"),
        (4, "killed in a tool [[bash echo a; sleep 1; echo b]]"),
        (60, "killed near the end [[slow 60 20]]"),
    ] {
        let id = user.start(prompt);
        let events = persistent(&user, &id, |count| {
            if count == point {
                kill("pi-gateway");
            }
        });
        assert_eq!(events.last().unwrap().data["status"], "succeeded", "{prompt}");
        until_ready();
        let requests = upstream_requests(prompt);
        let expected = if prompt.contains("bash") { 2 } else { 1 };
        assert_eq!(requests.len(), expected, "{prompt}");
        let text: String =
            events.iter().filter(|e| e.name == "text.delta").map(|e| e.data["text"].as_str().unwrap()).collect();
        assert_eq!(text, user.get(&format!("/runs/{id}")).json()["output_text"].as_str().unwrap());
    }
}

#[test]
fn the_front_can_be_killed_before_the_agent_is_up() {
    testhost();
    let user = User::new("early");
    for wait in ["0", "0.05", "0.15", "0.3", "0.5"] {
        let prompt = format!("killed {wait} s after it was accepted");
        let id = user.start(&prompt);
        sh(&format!("sleep {wait}"));
        kill("pi-gateway");
        until_ready();
        assert_eq!(user.finished(&id)["status"], "succeeded", "{prompt}");
        assert_eq!(upstream_requests(&prompt).len(), 1, "{prompt}");
    }
}

#[test]
fn a_prompt_of_five_megabytes_survives_the_front_and_arrives_once() {
    testhost();
    let user = User::new("large");
    let prompt = format!("a long story {} [[say read it all]]", "x".repeat(5 << 20));
    for wait in ["0.2", "0.45", "0.6"] {
        let id = user.start(&prompt);
        sh(&format!("sleep {wait}"));
        kill("pi-gateway");
        until_ready();
        let run = user.finished(&id);
        assert_eq!(run["status"], "succeeded", "{}", run["error"]);
        assert_eq!(run["usage"]["requests"], 1, "after {wait} s");
    }
}

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
fn the_relay_gets_its_listeners_back_after_it_was_killed() {
    testhost();
    let user = User::new("relay");
    let id = user.start("[[bash sleep 1.5]][[say done with it]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let before = sh("systemctl show -P MainPID pi-gateway-relay-model");
    kill("pi-gateway-relay-model");
    // The next request of the same agent goes to the successor.
    assert_eq!(user.finished(&id)["status"], "succeeded");
    assert_ne!(sh("systemctl show -P MainPID pi-gateway-relay-model"), before);
    let id = user.start("[[slow 60 20]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    kill("pi-gateway-relay-model");
    let run = user.finished(&id);
    assert_eq!(run["status"], "succeeded", "pi tries a cut stream again: {run}");
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
    assert_eq!(sh("systemctl list-units --all --plain --no-legend 'pi-gateway-agent-*'"), "");
    assert_eq!(sh("ls /var/lib/pi-gateway/raw /var/lib/pi-gateway/front/active | grep -v ':$' | grep . || true"), "");
    assert_eq!(sh("find /sys/fs/cgroup -type d -name 'pi-gateway-agent-*'"), "");
    assert_eq!(sh("grep -c 'pi-gateway/root' /proc/self/mounts || true"), "0");
    assert_eq!(sh("find /var/lib/pi-gateway/front -name '.tmp-*'"), "");
}
