//! `USER_DAILY_TOKEN_BUDGET`: a user who has spent it is refused, told until when, and costs nothing more; whatever dies.

use pi_gateway_e2e::host::{uid_of, until_ready, upstream_requests};
use pi_gateway_e2e::operator::{FILE, Restore, kill};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::json;

fn set(budget: u64) {
    sh(&format!(
        "sed -i '/^USER_DAILY_TOKEN_BUDGET=/d' {FILE}; echo USER_DAILY_TOKEN_BUDGET={budget} >> {FILE}; \
         systemctl restart pi-gateway-launcher pi-gateway"
    ));
    until_ready();
}

#[test]
fn a_spent_budget_ends_the_run_and_refuses_the_next_until_it_is_raised() {
    testhost();
    let _restore = Restore::new();
    set(300);
    let (user, other) = (User::new("spender"), User::new("saver"));
    // Each request of the script costs more than a hundred tokens.
    let prompt = format!("{}: [[bash echo 1]][[bash echo 2]][[bash echo 3]][[bash echo 4]][[bash echo 5]]", user.name);
    let id = user.start(&prompt);
    let run = user.finished(&id);
    assert_eq!(
        (run["status"].as_str(), run["error"]["code"].as_str()),
        (Some("failed"), Some("budget_exhausted")),
        "{run}"
    );
    assert!(run["error"]["message"].as_str().unwrap().contains("until 20"), "{run}");
    assert!(user.events(&id).iter().all(|event| event.name != "retry.scheduled"), "trying again is of no use");
    let spent = run["usage"]["input_tokens"].as_u64().unwrap() + run["usage"]["output_tokens"].as_u64().unwrap();
    let requests = upstream_requests(&prompt).len() as u64;
    assert_eq!(run["usage"]["requests"], requests, "{run}");
    assert!(spent >= 300 && spent < 300 + 2 * spent / requests, "{spent} tokens in {requests} requests");

    let refused = user.post("/runs", &[], &json!({"prompt": "and now?"}));
    refused.is_problem(429, "budget_exhausted");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((80_000..=87_001).contains(&after), "{after}");
    assert!(refused.json()["resets_at"].as_str().unwrap().starts_with("20"), "{refused:?}");
    let runs = user.get("/runs").json();
    assert_eq!(runs["data"].as_array().unwrap().len(), 1, "nothing was started: {runs}");
    assert_eq!(other.run("one request")["status"], "succeeded", "another user's budget is another one");

    // A relay that is killed, without the mark that the front reads, still knows it from the usage files.
    kill("pi-gateway-relay-model");
    until_ready();
    sh(&format!("rm -f /var/lib/pi-gateway/usage/{}.exhausted", uid_of(&user.name)));
    let again = format!("{}: after the kill", user.name);
    let run = user.run(&again);
    assert_eq!(run["error"]["code"], "budget_exhausted", "{run}");
    assert_eq!(upstream_requests(&again).len(), 0);

    set(1_000_000);
    until("the budget is raised", || (user.run("at last")["status"] == "succeeded").then_some(()));
}
