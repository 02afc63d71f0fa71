//! What the user says to a run that goes on: where it gets into the conversation, what is refused, and that nothing that
//! was accepted is lost.

use pi_gateway_e2e::host::upstream_requests;
use pi_gateway_e2e::{Event, User, testhost};
use serde_json::json;

/// A tool that waits until the test lets it go on.
const WAIT: &str = "[[bash until [ -e go ]; do sleep 0.02; done; echo gone]]";

/// Starts a run that waits in a tool; gives its id.
fn waiting(user: &User, rest: &str) -> String {
    let id = user.start(&format!("{} waits {WAIT}{rest}", user.name));
    user.stream(&id, None).find(|event| event.name == "tool.started").expect("the tool");
    id
}

/// Waits until pi has taken a message.
fn until_accepted(user: &User, run: &str, message: &str) {
    let of_it = |event: &Event| event.name == "message.accepted" && event.data["message_id"] == message;
    user.stream(run, None).find(of_it).expect("pi takes it");
}

fn go(user: &User) {
    std::fs::write(format!("{}/go", user.workspace()), "").unwrap();
}

/// What is said in a run after its prompt: role and text.
fn said(events: &[Event]) -> Vec<(&str, &str)> {
    let completed = events.iter().filter(|event| event.name == "message.completed");
    completed.map(|event| (event.data["role"].as_str().unwrap(), event.data["text"].as_str().unwrap())).collect()
}

#[test]
fn steer_and_follow_up_arrive_in_the_running_turn() {
    testhost();
    let user = User::new("steer");
    let id = waiting(&user, "[[say never said]]");
    let (after, now) = (format!("{} after [[say last]]", user.name), format!("{} now [[say steered]]", user.name));
    let follow_up = user.said(&id, &after, "follow_up");
    let steer = user.said(&id, &now, "steer");
    until_accepted(&user, &id, &follow_up);
    until_accepted(&user, &id, &steer);
    go(&user);
    let run = user.finished(&id);
    assert_eq!((&run["status"], &run["output_text"]), (&json!("succeeded"), &json!("last")), "{run}");
    let events = user.events(&id);
    let expected = [
        ("assistant", ""),
        ("user", now.as_str()),
        ("assistant", "steered"),
        ("user", after.as_str()),
        ("assistant", "last"),
    ];
    assert_eq!(said(&events), expected);
    let ids: Vec<_> =
        events.iter().filter(|event| event.name == "message.completed").map(|e| &e.data["message_id"]).collect();
    assert_eq!((ids[1], ids[3]), (&json!(steer), &json!(follow_up)));
    assert!(!events.iter().any(|event| event.name == "message.refused"));
    for text in [&now, &after] {
        assert_eq!(upstream_requests(text).len(), 1, "{text}");
    }
    let roles: Vec<String> = user.conversation().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["user", "assistant", "tool_result", "user", "assistant", "user", "assistant"]);
}

#[test]
fn a_message_to_a_run_that_is_only_starting_is_not_lost() {
    testhost();
    let user = User::new("early");
    let id = user.start("[[say first]]");
    let text = format!("{} early [[say second]]", user.name);
    let message = user.said(&id, &text, "follow_up");
    let run = user.finished(&id);
    assert_eq!(run["output_text"], "second", "{run}");
    assert_eq!(upstream_requests(&text).len(), 1);
    assert!(
        user.events(&id).iter().any(|event| event.name == "message.completed" && event.data["message_id"] == message)
    );
}

#[test]
fn a_message_that_comes_as_the_turn_ends_is_answered_or_refused_and_never_lost() {
    testhost();
    let user = User::new("settling");
    let mut accepted = 0;
    for number in 0..12 {
        let id = user.start("[[say short]]");
        let text = format!("{} at the end {number} [[say more]]", user.name);
        // At the last word, and a little after it.
        user.stream(&id, None).find(|event| event.name == "message.completed").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(number * 2));
        let answer = user.say(&id, &text, if number % 2 == 0 { "steer" } else { "follow_up" });
        let run = user.finished(&id);
        assert_eq!(run["status"], "succeeded", "{run}");
        let events = user.events(&id);
        if answer.status == 202 {
            accepted += 1;
            let message = answer.json()["id"].clone();
            let of_it =
                |name: &str| events.iter().filter(|e| e.name == name && e.data["message_id"] == message).count();
            assert_eq!((of_it("message.completed"), of_it("message.refused")), (1, 0), "{events:?}");
            assert_eq!((upstream_requests(&text).len(), &run["output_text"]), (1, &json!("more")));
        } else {
            answer.is_problem(409, "run_not_active");
            assert_eq!(upstream_requests(&text).len(), 0);
        }
    }
    eprintln!("{accepted} of 12 came in time");
}

#[test]
fn what_cannot_be_said_is_refused_and_changes_nothing() {
    testhost();
    let (user, other) = (User::new("refused"), User::new("other"));
    let id = waiting(&user, "");
    for body in [
        json!({"text": "", "mode": "steer"}),
        json!({"text": " \n", "mode": "steer"}),
        json!({"text": "x".repeat((64 << 10) + 1), "mode": "steer"}),
        json!({"text": "x", "mode": "now"}),
        json!({"text": "x"}),
        json!({"mode": "steer"}),
        json!({"text": "x", "mode": "steer", "images": []}),
        json!(["x", "steer"]),
    ] {
        user.post(&format!("/runs/{id}/messages"), &[], &body).is_problem(422, "invalid_request");
    }
    other.say(&id, "x", "steer").is_problem(404, "not_found");
    user.say("00000000-0000-0000-0000-000000000000", "x", "steer").is_problem(404, "not_found");
    go(&user);
    user.finished(&id);
    let late = user.say(&id, "x", "steer");
    late.is_problem(409, "run_not_active");
    assert_eq!(late.json()["run_id"], id.as_str());
    assert!(!user.events(&id).iter().any(|event| event.data.get("message_id").is_some()));
}

#[test]
fn so_many_messages_may_wait_and_more_are_429() {
    testhost();
    let user = User::new("many");
    let id = waiting(&user, "");
    for number in 0..32 {
        user.said(&id, &format!("number {number}"), "follow_up");
    }
    let more = user.say(&id, "one more", "steer");
    more.is_problem(429, "too_many_messages");
    assert!(more.header("retry-after").is_some());
    user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    user.finished(&id);
}

#[test]
fn a_cancel_refuses_what_waits_and_the_next_run_does_not_say_it() {
    testhost();
    let user = User::new("cancelled");
    let id = waiting(&user, "");
    let messages = ["steer", "follow_up"].map(|mode| user.said(&id, &format!("{} waits as {mode}", user.name), mode));
    until_accepted(&user, &id, &messages[1]);
    assert_eq!(user.post(&format!("/runs/{id}/cancel"), &[], &json!({})).status, 202);
    user.say(&id, "too late", "steer").is_problem(409, "run_not_active");
    assert_eq!(user.finished(&id)["status"], "cancelled");
    let events = user.events(&id);
    for message in &messages {
        let refused = events.iter().filter(|e| e.name == "message.refused" && e.data["message_id"] == *message).count();
        assert_eq!(refused, 1, "{events:?}");
    }
    let next = user.run("[[recall]]");
    let recalled = next["output_text"].as_str().unwrap();
    assert!(recalled.contains("waits") && !recalled.contains("waits as"), "{recalled}");
}
