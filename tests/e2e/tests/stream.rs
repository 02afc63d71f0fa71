//! The stream of a run: every event once, resumable at each, ended as documented.

use pi_gateway_e2e::tokens::token_for;
use pi_gateway_e2e::{Event, User, request, testhost};
use serde_json::json;

#[test]
fn a_stream_resumes_at_every_single_event_with_exactly_the_rest() {
    testhost();
    let user = User::new("resume");
    let id =
        user.start("[[think first I think]][[bash for i in 1 2 3; do echo $i; sleep 0.2; done]][[say and then I say]]");
    let all = user.events(&id);
    assert!(all.len() > 8, "{all:?}");
    for (number, event) in all.iter().enumerate() {
        let seq: usize = event.id.split('-').next().unwrap().parse().unwrap();
        assert_eq!(seq, number + 1, "numbers without gaps");
        let rest = &all[number + 1..];
        let by_header: Vec<Event> = user.stream(&id, Some(&event.id)).collect();
        assert_eq!(by_header, rest, "after {} by header", event.id);
        let path = format!("/runs/{id}/events?after={}", event.id);
        let by_query = user.get(&path);
        if rest.is_empty() {
            assert_eq!((by_query.status, by_query.body.len()), (204, 0));
            assert_eq!(user.stream(&id, Some(&event.id)).status, 204);
        } else {
            let text = String::from_utf8(by_query.body).unwrap();
            let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
            assert_eq!(ids, rest.iter().map(|event| event.id.as_str()).collect::<Vec<_>>());
        }
    }
    let from_zero: Vec<Event> = user.stream(&id, Some("0-0")).collect();
    assert_eq!(from_zero, all);
}

#[test]
fn ids_that_are_malformed_or_not_of_the_run_are_400() {
    testhost();
    let user = User::new("badid");
    let id = user.run("hello")["id"].as_str().unwrap().to_owned();
    for bad in ["x", "1", "1-", "-1", "01-0", "1-2-3", "99999-0", "1-1", "18446744073709551616-0", "1%200"] {
        user.get(&format!("/runs/{id}/events?after={bad}")).is_problem(400, "invalid_event_id");
    }
    let header = [("Last-Event-ID", "1;2")];
    request("GET", &format!("/runs/{id}/events"), Some(&user.token), &header, None).is_problem(400, "invalid_event_id");
}

#[test]
fn pages_walk_the_same_events() {
    testhost();
    let user = User::new("pages");
    let id = user.start("[[bash echo hi]]");
    let all = user.events(&id);
    let (mut walked, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/runs/{id}/events?limit=3{after}");
        let response = request("GET", &path, Some(&user.token), &[("Accept", "application/json")], None);
        assert_eq!(response.status, 200);
        let page = response.json();
        for event in page["data"].as_array().unwrap() {
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            walked.push(Event { id: text("id"), name: text("event"), data: event["data"].clone() });
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(walked, all);
    let accept = [("Accept", "text/html")];
    request("GET", &format!("/runs/{id}/events"), Some(&user.token), &accept, None).is_problem(406, "not_acceptable");
}

#[test]
fn a_client_that_joins_and_leaves_during_the_run_misses_nothing() {
    testhost();
    let user = User::new("joiner");
    let id = user.start("[[slow 120 20]]");
    let mut seen: Vec<Event> = Vec::new();
    // Leaves after three events, comes back with the last id, and so on.
    while seen.last().is_none_or(|event| event.name != "run.finished") {
        let after = seen.last().map(|event| event.id.clone());
        seen.extend(user.stream(&id, after.as_deref()).take(3));
    }
    assert_eq!(seen, user.events(&id));
    let text: String = seen
        .iter()
        .filter(|event| event.name == "text.delta")
        .map(|event| event.data["text"].as_str().unwrap())
        .collect();
    let whole = user.get(&format!("/runs/{id}")).json();
    assert_eq!(text, whole["output_text"].as_str().unwrap());
}

#[test]
fn a_stream_ends_with_its_token() {
    testhost();
    let user = User::new("expiring");
    let id = user.start("[[slow 2000 20]]");
    // However long pi takes to start: there is something to see in the time that is left.
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    let short = User { name: user.name.clone(), token: token_for(&user.name, -20) };
    // Its time is over but for ten seconds of the leeway.
    let last = short.stream(&id, None).last().unwrap();
    assert_ne!(last.name, "run.finished");
    assert!(["running", "finalizing"].contains(&user.get(&format!("/runs/{id}")).json()["status"].as_str().unwrap()));
    user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    user.finished(&id);
}

#[test]
fn a_quiet_stream_shows_that_it_lives() {
    testhost();
    let user = User::new("quiet");
    let id = user.start("[[bash sleep 17]]");
    let mut stream = user.stream(&id, None);
    while stream.next().is_some() {}
    assert!(stream.comments >= 1, "no heartbeat in 17 s");
}
