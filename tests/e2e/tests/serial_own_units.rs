//! An agent that stops, kills or floods whatever it reaches of its own units: others are served as before, its run ends
//! with a documented code or goes on, its next run works, and nothing is left.

use pi_gateway_e2e::attack::place;
use pi_gateway_e2e::host::{try_sh, uid_of, until_ready};
use pi_gateway_e2e::operator::{fact, nothing};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::Value;

const FLOOD: &str = include_str!("../attacks/flood.py");
const LINGER: &str = include_str!("../attacks/linger.py");

fn flood(what: &str) -> String {
    format!("/usr/bin/python3 {} {what} 2>&1", place("flood.py", FLOOD))
}

fn services() -> String {
    sh(
        "for u in pi-gateway pi-gateway-launcher pi-gateway-relay-model; do systemctl show -P MainPID -P NRestarts $u; done",
    )
}

/// Runs a command by the bash tool while another user's runs go on; gives the tool's output, if it came to its end, and
/// the run. A run that stands still is cancelled, as its user would.
fn attack(command: &str) -> (Option<String>, Value) {
    let before = services();
    let (user, other) = (User::new("attacker"), User::new("other"));
    let id = user.start(&format!("[[bash {command}; exit 0]][[say done]]"));
    let unit = format!("pi-gateway-agent-{}", user.name);
    let mut served = 0;
    let run = until_over(&user, &id, || {
        assert_eq!(other.run(&format!("number {served}"))["status"], "succeeded", "another user's run");
        served += 1;
        // What stops everything of its own leaves a run that its user ends.
        if served >= 4 && stopped(&user) {
            user.post(&format!("/runs/{id}/cancel"), &[], &nothing());
        }
    });
    println!("{command}: {} {}, others served {served} times", run["status"], run["error"]);
    assert!(served > 0);
    let uid = uid_of(&user.name);
    until("nothing is left", || {
        let units = sh(&format!("systemctl list-units --all --plain --no-legend '{unit}*'"));
        let cgroups = sh(&format!("find /sys/fs/cgroup -type d -name '{unit}.service'"));
        let raw = std::path::Path::new(&format!("/var/lib/pi-gateway/raw/{id}")).exists();
        (!try_sh(&format!("pgrep -u {uid}")).0 && units.is_empty() && cgroups.is_empty() && !raw).then_some(())
    });
    assert_eq!(user.run("and again")["status"], "succeeded", "the attacker's next run");
    assert_eq!(services(), before, "no service was hurt");
    let told = user.events(&id).into_iter().find(|event| event.name == "tool.completed");
    (told.map(|event| event.data["output"].as_str().unwrap().to_owned()), run)
}

fn stopped(user: &User) -> bool {
    sh(&format!("ps -o stat= -u {} || true", uid_of(&user.name))).lines().any(|state| state.starts_with('T'))
}

/// Does something again and again until a run is over; gives the run.
fn until_over(user: &User, id: &str, mut meanwhile: impl FnMut()) -> Value {
    let begun = std::time::Instant::now();
    loop {
        meanwhile();
        let run = user.get(&format!("/runs/{id}")).json();
        if !run["finished_at"].is_null() {
            return run;
        }
        assert!(begun.elapsed().as_secs() < 120, "the run does not end: {run}");
    }
}

fn code(run: &Value) -> &str {
    run["error"]["code"].as_str().unwrap_or_default()
}

#[test]
fn an_agent_that_kills_everything_it_may_kills_itself_only() {
    testhost();
    let (_, run) = attack("kill -9 -1");
    assert_eq!((run["status"].as_str().unwrap(), code(&run)), ("failed", "agent_killed"), "{run}");
}

#[test]
fn an_agent_that_stops_everything_it_may_is_ended_by_a_cancel() {
    testhost();
    // Everything but the shell that does it is stopped, pi too: nobody is left to end the run but its user.
    let (_, run) = attack("kill -STOP -1");
    assert_eq!(run["status"], "cancelled", "{run}");
}

#[test]
fn a_flood_of_the_relays_socket_costs_nobody_a_run() {
    testhost();
    let (told, run) = attack(&flood("relay"));
    println!("{told:?}");
    assert!(told.unwrap().contains("made="));
    assert_eq!(run["status"], "succeeded", "{run}");
}

#[test]
fn sockets_left_in_the_relays_queue_that_take_long_to_close_cost_nobody_a_run() {
    testhost();
    // Longer than the relay's watchdog waits.
    let linger = place("linger.py", LINGER);
    let (told, run) = attack(&format!("/usr/bin/python3 {linger} /run/relay-model/relay.sock 20 40 2>&1"));
    let told = told.unwrap();
    assert!(told.matches("left=1").count() > 10, "the sockets did not get there: {told}");
    assert_eq!(run["status"], "succeeded", "{run}");
}

#[test]
fn a_thousand_slow_connections_to_its_own_provider_cost_nobody_else_a_run() {
    testhost();
    let (told, run) = attack(&flood("provider"));
    println!("{told:?}");
    assert!(told.unwrap().contains("made="));
    assert_eq!(run["status"], "succeeded", "{run}");
}

#[test]
fn garbage_and_forged_commands_in_pis_input_end_at_most_its_own_run() {
    testhost();
    for what in ["stdin", "commands"] {
        let (told, run) = attack(&flood(what));
        println!("{what}: {told:?}");
        // Its own pi is its own to talk to: that the bytes arrive is no breach, so what matters is how the run ends.
        // The forged abort may end the tool before it can tell.
        if let Some(told) = told.filter(|told| what == "stdin" || told.contains("wrote=")) {
            assert_eq!(fact(&told, "wrote"), "worked", "{told}");
            assert!(fact(&told, "bytes").parse::<u32>().unwrap() > 100, "{told}");
        }
        let allowed = ["", "aborted", "output_invalid", "agent_crashed", "agent_unresponsive", "no_answer"];
        assert!(allowed.contains(&code(&run)), "{what}: {run}");
    }
}

#[test]
fn pis_output_can_be_opened_by_root_and_not_by_its_tools() {
    testhost();
    let user = User::new("control");
    let id = user.start("[[bash exec sleep 302]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let pid = sh(&format!("systemctl show -P MainPID pi-gateway-agent-{}", user.name));
    sh(&format!(": >> /proc/{pid}/fd/1"));
    user.post(&format!("/runs/{id}/cancel"), &[], &nothing());
    user.finished(&id);
    let (told, run) = attack(&flood("stdout"));
    let told = told.unwrap();
    assert_eq!((fact(&told, "wrote"), fact(&told, "cut")), ("Permission-denied", "Permission-denied"), "{told}");
    assert_eq!(run["status"], "succeeded", "{run}");
}

#[test]
fn a_tool_that_prints_at_full_speed_for_ten_seconds_holds_up_nobody() {
    testhost();
    let (_, run) = attack("timeout 10 yes; echo over");
    // pi keeps what a tool prints in /tmp and ends when that is full; a slow machine does not get that far.
    assert!(["", "disk_full"].contains(&code(&run)), "{run}");
    until_ready();
}
