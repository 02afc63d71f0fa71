//! Runs: what they do, what they refuse, and that users do not see each other.

use pi_gateway_e2e::host::{listing, uid_of, upstream_requests};
use pi_gateway_e2e::{User, request, sh, testhost, until};
use serde_json::json;

#[test]
fn a_prompt_makes_pi_write_a_file_with_its_bash_tool_and_report_on_it() {
    testhost();
    let user = User::new("writer");
    let id = user.start("[[bash printf hello > note.txt; cat note.txt; id -u]]");
    let events = user.events(&id);
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names.first(), Some(&"run.started"));
    assert_eq!(names.last(), Some(&"run.finished"));
    for name in
        ["message.started", "tool.started", "tool.completed", "text.delta", "message.completed", "run.finalizing"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let run = user.get(&format!("/runs/{id}")).json();
    assert_eq!(run["status"], "succeeded", "{run}");
    assert!(run["output_text"].as_str().unwrap().contains("hello"), "{run}");
    assert!(run["prompt"].as_str().unwrap().contains("note.txt"));
    assert_eq!(run["usage"]["requests"], 2);
    assert!(run["usage"]["input_tokens"].as_u64().unwrap() > 0 && run["usage"]["cost_usd"].as_f64().unwrap() > 0.0);
    let file = format!("/var/lib/pi-gateway/workspaces/{}/note.txt", user.name);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello");
    assert_eq!(sh(&format!("stat -c %u {file}")), uid_of(&user.name).to_string());
    assert!(uid_of(&user.name) > 1_879_048_192);
}

#[test]
fn two_users_at_once_see_only_their_own_and_have_their_own_uids() {
    testhost();
    let (ann, bob) = (User::new("ann"), User::new("bob"));
    let look = "id -u; pwd; ls /workspace /session; find / -xdev -name 'mine-*' 2>/dev/null; ls -d /var/lib/pi-gateway \
        2>&1; ls /proc | grep -c '^[0-9]'; sleep 1";
    let ids = [&ann, &bob].map(|user| user.start(&format!("[[bash touch mine-{}; {look}]]", user.name)));
    let output = |user: &User, id: &str| {
        user.events(id).iter().find(|event| event.name == "tool.completed").unwrap().data["output"].to_string()
    };
    let (seen_by_ann, seen_by_bob) = (output(&ann, &ids[0]), output(&bob, &ids[1]));
    assert!(seen_by_ann.contains(&format!("mine-{}", ann.name)) && !seen_by_ann.contains(&bob.name), "{seen_by_ann}");
    assert!(seen_by_bob.contains(&format!("mine-{}", bob.name)) && !seen_by_bob.contains(&ann.name), "{seen_by_bob}");
    assert!(seen_by_ann.contains(&uid_of(&ann.name).to_string()));
    assert_ne!(uid_of(&ann.name), uid_of(&bob.name));
    for seen in [seen_by_ann, seen_by_bob] {
        assert!(seen.contains("cannot access '/var/lib/pi-gateway'"), "{seen}");
    }
    for (user, id) in [(&ann, &ids[0]), (&bob, &ids[1])] {
        assert_eq!(user.finished(id)["status"], "succeeded");
    }
}

#[test]
fn a_second_run_is_409_naming_the_first_and_the_others_run_is_404() {
    testhost();
    let (ann, bob) = (User::new("ann"), User::new("bob"));
    let id = ann.start("[[slow 40 50]]");
    let second = ann.post("/runs", &[], &json!({"prompt": "me too"}));
    second.is_problem(409, "run_active");
    assert_eq!(second.json()["run_id"], id.as_str());
    for (method, path) in [("GET", ""), ("GET", "/events"), ("POST", "/cancel")] {
        let path = format!("/runs/{id}{path}");
        request(method, &path, Some(&bob.token), &[], None).is_problem(404, "not_found");
    }
    assert_eq!(ann.finished(&id)["status"], "succeeded");
    assert_eq!(ann.run("and now")["status"], "succeeded");
    for path in ["/runs/x", "/runs/..", "/runs/00000000-0000-0000-0000-000000000000", "/runs/%2e%2e"] {
        ann.get(path).is_problem(404, "not_found");
    }
}

#[test]
fn an_idempotency_key_gives_the_same_run_for_the_same_body() {
    testhost();
    let (ann, bob) = (User::new("ann"), User::new("bob"));
    let (body, key) = (json!({"prompt": "[[slow 20 50]]"}), [("Idempotency-Key", "order-17")]);
    let first = ann.post("/runs", &key, &body);
    assert_eq!(first.status, 202);
    let again = ann.post("/runs", &key, &body);
    assert_eq!((again.status, &again.json()["id"]), (202, &first.json()["id"]), "while it is active");
    ann.post("/runs", &key, &json!({"prompt": "else"})).is_problem(422, "idempotency_key_reused");
    let id = first.json()["id"].as_str().unwrap().to_owned();
    ann.finished(&id);
    let later = ann.post("/runs", &key, &body);
    assert_eq!((later.status, &later.json()["id"]), (200, &first.json()["id"]), "when it has ended");
    let other = bob.post("/runs", &key, &body);
    assert_ne!(other.json()["id"], first.json()["id"], "another user's key is another key");
    bob.finished(other.json()["id"].as_str().unwrap());
    ann.post("/runs", &[("Idempotency-Key", "a b")], &body).is_problem(400, "invalid_parameter");
}

#[test]
fn a_request_that_is_wrong_is_refused_with_a_problem_and_changes_nothing() {
    testhost();
    let user = User::new("wrong");
    let before = listing("/var/lib/pi-gateway/front/users");
    let json_type = [("Content-Type", "application/json")];
    let post = |headers: &[(&str, &str)], body: &[u8]| request("POST", "/runs", Some(&user.token), headers, Some(body));
    post(&json_type, b"{").is_problem(400, "malformed_json");
    post(&json_type, b"").is_problem(400, "malformed_json");
    post(&[], b"{\"prompt\":\"x\"}").is_problem(415, "unsupported_media_type");
    post(&[("Content-Type", "text/plain")], b"x").is_problem(415, "unsupported_media_type");
    for body in [
        json!({}),
        json!({"prompt": ""}),
        json!({"prompt": "  \n"}),
        json!({"prompt": 1}),
        json!({"prompt": "x", "cwd": "/etc"}),
        json!({"prompt": "x", "session": "s"}),
        json!({"prompt": "x", "model": "gpt-none"}),
        json!({"prompt": "x", "thinking": "hard"}),
        json!({"prompt": "x", "images": [{"mime_type": "image/tiff", "data": "AAAA"}]}),
        json!({"prompt": "x", "images": [{"mime_type": "image/png", "data": "no base64"}]}),
        json!({"prompt": "x", "metadata": {"a": "b".repeat(600)}}),
        json!(["x"]),
    ] {
        user.post("/runs", &[], &body).is_problem(422, "invalid_request");
    }
    user.post("/runs", &[], &json!({"prompt": "x".repeat(9 << 20)})).is_problem(413, "payload_too_large");
    user.post("/runs", &[], &json!({"prompt": "x".repeat(33 << 20)})).is_problem(413, "payload_too_large");
    user.post("/runs?wait=31", &[], &json!({"prompt": "x"})).is_problem(400, "invalid_parameter");
    user.post("/runs?waiting=1", &[], &json!({"prompt": "x"})).is_problem(400, "invalid_parameter");
    user.get("/runs?limit=0").is_problem(400, "invalid_parameter");
    user.get("/runs?cursor=x").is_problem(400, "invalid_parameter");
    user.get("/nothing").is_problem(404, "not_found");
    request("DELETE", "/runs", Some(&user.token), &[], None).is_problem(405, "method_not_allowed");
    let mine: Vec<String> = listing("/var/lib/pi-gateway/front/users")
        .lines()
        .map(str::to_owned)
        .filter(|line| !before.contains(line))
        .collect();
    assert!(!mine.iter().any(|line| line.contains(&user.name)), "{mine:?}");
}

#[test]
fn waiting_returns_the_run_when_it_has_ended() {
    testhost();
    let user = User::new("waiter");
    let ended = user.post("/runs?wait=30", &[], &json!({"prompt": "hello", "metadata": {"ticket": "17"}}));
    assert_eq!((ended.status, &ended.json()["status"]), (200, &json!("succeeded")));
    assert_eq!(ended.json()["metadata"]["ticket"], "17");
    assert_eq!(ended.header("location").unwrap(), format!("/runs/{}", ended.json()["id"].as_str().unwrap()));
    let early = user.post("/runs?wait=1", &[], &json!({"prompt": "[[slow 60 50]]"}));
    assert_eq!(early.status, 202);
    user.finished(early.json()["id"].as_str().unwrap());
}

#[test]
fn the_list_is_newest_first_and_paged() {
    testhost();
    let user = User::new("lister");
    let mut ids: Vec<String> =
        (0..3).map(|n| user.run(&format!("number {n}"))["id"].as_str().unwrap().to_owned()).collect();
    ids.reverse();
    let first = user.get("/runs?limit=2").json();
    let listed = |page: &serde_json::Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&first), ids[..2]);
    let second = user.get(&format!("/runs?limit=2&cursor={}", first["next"].as_str().unwrap())).json();
    assert_eq!((listed(&second), &second["next"]), (ids[2..].to_vec(), &json!(null)));
    assert!(listed(&User::new("nobody").get("/runs").json()).is_empty());
}

#[test]
fn the_model_and_the_thinking_level_can_be_chosen_and_the_upstream_sees_them() {
    testhost();
    let user = User::new("chooser");
    let models: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string("/usr/lib/pi-gateway/trusted/models.json").unwrap()).unwrap();
    let other =
        models.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).find(|id| *id != "gpt-6-sol");
    let (model, prompt) = (other.unwrap(), format!("chosen by {}", user.name));
    let run = user.post("/runs?wait=30", &[], &json!({"prompt": prompt, "model": model, "thinking": "low"})).json();
    assert_eq!(run["status"], "succeeded", "{run}");
    let seen = upstream_requests(&prompt);
    assert_eq!((seen.len(), &seen[0]["model"]), (1, &json!(model)));
}

#[test]
fn upstream_failures_end_the_run_with_their_code_and_the_next_run_works() {
    testhost();
    let user = User::new("failing");
    let run = user.run("[[error 401]]");
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("upstream_unauthorized")), "{run}");
    let run = user.run("[[flaky 500 1]][[say fine again]]");
    assert_eq!(run["status"], "succeeded", "{run}");
    // pi tries these again before it gives up.
    for (prompt, code) in
        [("[[error 429]]", "upstream_rate_limited"), ("[[error 500]]", "upstream_error"), ("[[cut]]", "upstream_error")]
    {
        let run = user.run(prompt);
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!(code)), "{prompt}: {run}");
    }
    assert!(until("the last run", || Some(user.run("hello")))["error"].is_null());
}

#[test]
fn users_that_start_at_the_same_moment_all_get_their_agent_and_one_user_gets_one() {
    testhost();
    let users: Vec<User> = (0..3).map(|_| User::new("crowd")).collect();
    std::thread::scope(|scope| {
        for user in &users {
            scope.spawn(|| assert_eq!(user.run("hello")["status"], "succeeded"));
        }
    });
    let user = User::new("eager");
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let start = || user.post("/runs", &[], &json!({"prompt": "[[slow 20 50]]"})).status;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 202).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 409).count(), 7, "{answers:?}");
    let id = user.get("/runs").json()["data"][0]["id"].as_str().unwrap().to_owned();
    user.finished(&id);
}
