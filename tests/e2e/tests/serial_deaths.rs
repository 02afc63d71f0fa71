//! What a client sees, and what the upstream is asked, when a service dies or stands still during a run.

use pi_gateway_e2e::host::{until_ready, upstream_requests, user_processes};
use pi_gateway_e2e::operator::{kill, persistent};
use pi_gateway_e2e::{User, sh, testhost, until};

#[test]
fn a_front_that_is_away_for_three_seconds_loses_no_event_and_asks_nothing_twice() {
    testhost();
    let user = User::new("away");
    let away = |how: &str| {
        let prompt = format!("the front is away, {how} [[slow 60 50]]");
        let id = user.start(&prompt);
        let events = persistent(&user, &id, |event, count| {
            if count == 6 {
                assert_ne!(event.name, "run.finished");
                sh(how);
            }
        });
        assert_eq!(events.last().unwrap().data["status"], "succeeded", "{how}");
        until_ready();
        assert_eq!(upstream_requests(&prompt).len(), 1, "{how}");
        let text: String =
            events.iter().filter(|e| e.name == "text.delta").map(|e| e.data["text"].as_str().unwrap()).collect();
        assert_eq!(text, user.get(&format!("/runs/{id}")).json()["output_text"].as_str().unwrap(), "{how}");
    };
    away("systemctl stop pi-gateway.socket pi-gateway && sleep 3 && systemctl start pi-gateway.socket pi-gateway");
    away("p=$(systemctl show -P MainPID pi-gateway); kill -STOP $p; sleep 3; kill -CONT $p");
}

#[test]
fn a_pi_that_is_killed_in_a_tool_takes_everything_of_its_sandbox_with_it() {
    testhost();
    let user = User::new("murdered");
    let id = user.start("[[bash (setsid sleep 300 &); sleep 300]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    until("the sandbox's processes are there", || user_processes().contains("sleep 300").then_some(()));
    kill(&format!("pi-gateway-agent-{}", user.name));
    let run = user.finished(&id);
    assert_eq!(run["status"], "failed", "{run}");
    assert!(["agent_killed", "agent_crashed"].contains(&run["error"]["code"].as_str().unwrap()), "{run}");
    assert_eq!(user_processes(), "");
    assert_eq!(user.run("and again")["status"], "succeeded");
}
