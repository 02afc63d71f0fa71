//! What the gateway counts is what was done, read by Prometheus' own parser; it is on a socket of its own, and how much of
//! it there is does not depend on users.

use pi_gateway_e2e::gitea::Gitea;
use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::metrics::{Scrape, URL};
use pi_gateway_e2e::{User, request, sh, testhost, until};
use serde_json::json;

/// How much a sample has grown.
fn growth<'a>(before: &'a Scrape, after: &'a Scrape) -> impl Fn(&str, &[(&str, &str)]) -> f64 + 'a {
    |name, labels| after.value(name, labels) - before.value(name, labels)
}

#[test]
fn a_run_a_refusal_and_a_worker_are_counted_as_they_were() {
    testhost();
    until_ready();
    let user = User::new("counted");
    let before = Scrape::now();
    let run = user.run("[[bash echo hello]]");
    assert_eq!(run["status"], "succeeded", "{run}");
    user.post("/runs", &[], &json!({"prompt": ""})).is_problem(422, "invalid_request");
    request("GET", "/runs", None, &[], None).is_problem(401, "unauthorized");
    assert_eq!(user.get("/workspace").status, 200);
    let after = Scrape::now();
    let grown = growth(&before, &after);
    assert_eq!(grown("pi_gateway_runs_finished_total", &[("status", "succeeded"), ("code", "")]), 1.0);
    assert_eq!(grown("pi_gateway_run_seconds_count", &[("status", "succeeded")]), 1.0);
    assert!((0.1..60.0).contains(&grown("pi_gateway_run_seconds_sum", &[("status", "succeeded")])));
    assert_eq!(grown("pi_gateway_run_start_seconds_count", &[]), 1.0);
    assert_eq!(grown("pi_gateway_refusals_total", &[("code", "invalid_request")]), 1.0);
    assert_eq!(grown("pi_gateway_refusals_total", &[("code", "unauthorized")]), 1.0);
    let posted = |status: &'static str| [("method", "POST"), ("route", "/runs"), ("status", status)];
    assert_eq!(grown("pi_gateway_http_requests_total", &posted("202")), 1.0);
    assert_eq!(grown("pi_gateway_http_requests_total", &posted("422")), 1.0);
    assert_eq!(grown("pi_gateway_http_request_seconds_count", &[("route", "/workspace")]), 1.0);
    assert!(grown("pi_gateway_worker_starts_total", &[("outcome", "connected")]) >= 1.0);
    assert!(after.value("pi_gateway_workers", &[]) >= 1.0);
    for kind in ["start_agent", "start_git", "start_worker", "stop", "forget"] {
        assert!(
            grown("pi_gateway_launcher_requests_total", &[("request", kind), ("outcome", "done")]) >= 1.0,
            "{kind}"
        );
        assert!(grown("pi_gateway_launcher_request_seconds_count", &[("request", kind)]) >= 1.0, "{kind}");
    }
    // The relay counts tokens as the run's record has them, and the upstream's time.
    let model = ("model", "gpt-6-sol");
    assert_eq!(after.value("pi_gateway_relay_up", &[]), 1.0);
    assert_eq!(grown("pi_gateway_model_relay_requests_total", &[model, ("outcome", "answered")]), 2.0);
    assert_eq!(grown("pi_gateway_model_relay_upstream_answer_seconds_count", &[model]), 2.0);
    assert_eq!(grown("pi_gateway_model_relay_upstream_seconds_count", &[model]), 2.0);
    for (kind, field) in [("input", "input_tokens"), ("output", "output_tokens")] {
        let counted = grown("pi_gateway_model_relay_tokens_total", &[model, ("kind", kind)]);
        assert_eq!(counted, run["usage"][field].as_f64().unwrap(), "{kind}");
    }
    assert!(after.value("pi_gateway_disk_free_bytes", &[]) > 1e6);
    // Nobody's name, nobody's words; what is looked for is there to be found.
    assert!(after.text.contains("pi_gateway_runs_finished_total") && !after.text.contains("counted-"));
}

#[test]
fn a_subscriber_and_a_running_run_are_seen_while_they_last() {
    testhost();
    let user = User::new("subscriber");
    let id = user.start("[[slow 200 50]]");
    let mut stream = user.stream(&id, None);
    stream.find(|event| event.name == "text.delta").unwrap();
    let during = Scrape::now();
    assert_eq!(during.value("pi_gateway_subscribers", &[]), 1.0);
    assert_eq!(during.value("pi_gateway_runs", &[("status", "running")]), 1.0);
    assert_eq!(during.value("pi_gateway_runs", &[("status", "starting")]), 0.0);
    user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    assert_eq!(stream.last().unwrap().name, "run.finished");
    until("nobody listens any more", || (Scrape::now().value("pi_gateway_subscribers", &[]) == 0.0).then_some(()));
    let after = Scrape::now();
    assert_eq!(after.value("pi_gateway_runs", &[("status", "running")]), 0.0);
    let cancelled = [("status", "cancelled"), ("code", "")];
    assert_eq!(growth(&during, &after)("pi_gateway_runs_finished_total", &cancelled), 1.0);
}

#[test]
fn syncs_and_pushes_are_counted_by_how_they_went() {
    testhost();
    let user = User::new("synced");
    let gitea = Gitea::of(&[&user.name]);
    user.run("[[bash echo hello > a.txt]]");
    until("it is pushed", || {
        (Scrape::now().value("pi_gateway_pushes_total", &[("outcome", "pushed")]) == 1.0).then_some(())
    });
    assert_eq!(user.post("/workspace/sync", &[], &json!({})).status, 200);
    assert_eq!(Scrape::now().value("pi_gateway_syncs_total", &[("outcome", "up_to_date")]), 1.0);
    sh("systemctl stop pi-gateway-gitea");
    assert_eq!(user.post("/workspace/sync", &[], &json!({})).status, 502);
    let after = Scrape::now();
    assert_eq!(after.value("pi_gateway_syncs_total", &[("outcome", "failed")]), 1.0);
    assert_eq!(after.value("pi_gateway_refusals_total", &[("code", "remote_failed")]), 1.0);
    drop(gitea);
}

#[test]
fn neither_users_nor_what_they_ask_for_make_series() {
    testhost();
    let round = |number: usize| {
        let user = User::new(&format!("crowd{number}"));
        assert_eq!(user.get("/models").status, 200);
        user.get(&format!("/nothing/{number}")).is_problem(404, "not_found");
        user.get(&format!("/runs/{:08x}-7d1f-7255-8c8f-ce60b3ba1d9d", number)).is_problem(404, "not_found");
        assert_eq!(user.ask(&format!("ODD{number}"), "/models", &[], None).status, 405);
        user.get(&format!("/models?x{number}=1"));
    };
    round(0);
    let before = Scrape::now();
    (1..40).for_each(round);
    let after = Scrape::now();
    assert_eq!(before.series(), after.series(), "{}", after.text);
    let odd = [("method", "other"), ("route", "/models"), ("status", "405")];
    assert_eq!(growth(&before, &after)("pi_gateway_http_requests_total", &odd), 39.0, "they were counted all the same");
}

#[test]
fn the_public_socket_has_no_metrics_and_no_agent_reaches_them() {
    testhost();
    let user = User::new("curious");
    user.get("/metrics").is_problem(404, "not_found");
    let asked = user
        .bash("(exec 3<>/dev/tcp/127.0.0.1/8788) && echo reached; (exec 3<>/dev/tcp/127.0.0.1/4180) && echo provider");
    assert!(!asked.contains("reached") && asked.contains("provider"), "its own provider it reaches: {asked}");
    let refused = sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8788/runs");
    assert_eq!(refused, "404", "nothing but metrics is on that socket");
}

#[test]
fn a_relay_that_is_silent_takes_only_its_own_figures_along() {
    testhost();
    assert_eq!(Scrape::now().value("pi_gateway_relay_up", &[]), 1.0);
    let pid = sh("systemctl show -P MainPID pi-gateway-relay-model");
    sh(&format!("kill -STOP {pid}"));
    let silent = Scrape::now();
    sh(&format!("kill -CONT {pid}"));
    assert_eq!(silent.value("pi_gateway_relay_up", &[]), 0.0);
    assert!(silent.value("pi_gateway_disk_free_bytes", &[]) > 0.0);
    assert!(!silent.families().iter().any(|family| family.starts_with("pi_gateway_model_relay")));
}

/// Puts the metrics' socket back as it was.
struct Socket;

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = try_sh(
            "rm -rf /etc/systemd/system/pi-gateway-metrics.socket.d; systemctl daemon-reload; \
             systemctl enable -q pi-gateway-metrics.socket; \
             systemctl stop pi-gateway-metrics.socket pi-gateway.socket pi-gateway.service; \
             systemctl start pi-gateway-metrics.socket pi-gateway.socket pi-gateway.service",
        );
        until_ready();
    }
}

#[test]
fn it_is_switched_on_and_moved_by_the_commands_of_the_document() {
    testhost();
    let _socket = Socket;
    let document = include_str!("../../../docs/metrics.md");
    let blocks: Vec<&str> = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    sh("systemctl disable -q --now pi-gateway-metrics.socket; systemctl restart pi-gateway");
    until_ready();
    assert!(!try_sh(&format!("curl -fsS {URL}")).0, "off");
    sh(blocks[0]);
    until_ready();
    assert!(Scrape::now().families().contains("pi_gateway_build"));
    sh(blocks[1]);
    until_ready();
    assert!(!try_sh(&format!("curl -fsS {URL}")).0, "moved");
    let path = "/run/pi-gateway-metrics.sock";
    let text = sh(&format!("curl -fsS --unix-socket {path} http://localhost/metrics"));
    assert!(Scrape::of(text).families().contains("pi_gateway_build"));
    assert_eq!(sh(&format!("stat -c '%a %G' {path}")), "660 adm");
}
