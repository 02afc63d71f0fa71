//! The journal says of each request and each run what an operator needs, and nothing of what users say or hold.

use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::{Value, json};

/// The front's lines in the journal that hold a word, each with its priority.
fn lines(word: &str) -> Vec<(String, Value)> {
    let found = try_sh(&format!("journalctl -b -u pi-gateway -o json --no-pager | grep -F -- '{word}'")).1;
    let parsed = found.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .map(|entry| {
            let message = serde_json::from_str(entry["MESSAGE"].as_str().unwrap_or_default()).unwrap_or_default();
            (entry["PRIORITY"].as_str().unwrap_or_default().to_owned(), message)
        })
        .collect()
}

/// The line about a request, once the journal has it.
fn line(id: &str) -> Value {
    until("the journal has the request's line", || {
        lines(id).into_iter().map(|(_, line)| line).find(|line| line["message"] == "request" && line["request"] == id)
    })
}

#[test]
fn each_request_is_one_line_with_its_run() {
    testhost();
    let user = User::new("logged");
    let id = |name: &str| format!("{name}-{}", std::process::id());
    let started = user.post("/runs", &[("X-Request-Id", &id("start"))], &json!({"prompt": "hello"}));
    let run = started.json()["id"].as_str().unwrap().to_owned();
    user.finished(&run);
    user.ask("GET", &format!("/runs/{run}"), &[("X-Request-Id", &id("look"))], None);
    user.ask("GET", "/workspace/files?path=no-such-place", &[("X-Request-Id", &id("miss"))], None);
    let expected = [
        ("start", "POST", "/runs", 202, Some(&run), None),
        ("look", "GET", "/runs/{id}", 200, Some(&run), None),
        ("miss", "GET", "/workspace/files", 404, None, Some("not_found")),
    ];
    for (name, method, route, status, run, code) in expected {
        let line = line(&id(name));
        assert_eq!((&line["method"], &line["route"], &line["status"]), (&method.into(), &route.into(), &status.into()));
        assert_eq!(line["user"], user.name.as_str(), "{line}");
        assert_eq!(line.get("run").and_then(Value::as_str), run.map(String::as_str), "{line}");
        assert_eq!(line.get("code").and_then(Value::as_str), code, "{line}");
        assert!(line["ms"].is_u64() && line["timestamp"].is_string(), "{line}");
        let about = lines(&id(name)).into_iter().filter(|(_, line)| line["message"] == "request").count();
        assert_eq!(about, 1, "one line a request");
    }
    let finished = lines(&run).into_iter().find(|(_, line)| line["message"] == "run finished").unwrap();
    assert_eq!(finished.0, "6", "an ordinary thing");
}

#[test]
fn what_goes_wrong_on_behalf_of_a_request_has_its_id_and_its_priority() {
    testhost();
    let user = User::new("stalled");
    assert_eq!(user.get("/workspace/files").status, 200);
    // A worker that is silent is replaced, which is worth a warning.
    sh(&format!("systemctl kill -s STOP pi-gateway-worker-{}", user.name));
    let id = format!("stalled-{}", std::process::id());
    assert_eq!(user.ask("GET", "/workspace/files", &[("X-Request-Id", &id)], None).status, 200);
    let (priority, warning) = until("the warning is there", || {
        lines(&id).into_iter().find(|(_, line)| line["message"].as_str().is_some_and(|text| text.contains("replaced")))
    });
    assert_eq!((priority.as_str(), &warning["level"]), ("4", &"WARN".into()));
    assert_eq!(warning["span"]["request"], id.as_str(), "{warning}");
}

#[test]
fn no_token_prompt_body_or_name_of_a_file_is_in_the_journal() {
    testhost();
    let user = User::new("discreet");
    let word = |what: &str| format!("planted-{what}-{}", std::process::id());
    let id = word("request");
    let body = json!({"prompt": format!("[[say {}]] {}", word("answer"), word("prompt")), "metadata": {"label": word("label")}});
    let key = word("key");
    let headers = [("X-Request-Id", id.as_str()), ("Idempotency-Key", key.as_str())];
    let run = user.post("/runs", &headers, &body).json()["id"].as_str().unwrap().to_owned();
    user.said(&run, &format!("[[say {}]] {}", word("answer"), word("message")), "follow_up");
    let done = user.finished(&run);
    assert!(done["output_text"].as_str().unwrap().contains("planted-"), "{done}");
    let file = word("file");
    assert_eq!(user.put(file.as_bytes(), &[], word("content").as_bytes()).status, 201);
    assert_eq!(user.read(file.as_bytes(), &[]).body, word("content").into_bytes(), "it is where it belongs");
    user.post("/runs", &[], &json!({"prompt": "x", "surprise": word("field")})).is_problem(422, "invalid_request");
    user.ask("GET", &format!("/{}", word("path")), &[], None).is_problem(404, "not_found");
    user.ask("GET", &format!("/models?{}=1", word("query")), &[("X-Strange", &word("header"))], None);
    line(&id);
    let journal = "journalctl -b --no-pager -o export";
    let count = |needle: &str| {
        std::fs::write("/root/needle", needle).unwrap();
        sh(&format!("{journal} | grep -caF -f /root/needle || true"))
    };
    assert_ne!(count(&id), "0", "the search finds what is there");
    for what in
        ["answer", "prompt", "label", "key", "message", "file", "content", "field", "path", "query", "header"].map(word)
    {
        assert_eq!(count(&what), "0", "{what} is in the journal");
    }
    assert_eq!(count(&user.token), "0", "the token is in the journal");
    let signature = user.token.rsplit('.').next().unwrap();
    assert_eq!(count(signature), "0", "a part of the token is in the journal");
}

#[test]
fn the_form_and_the_level_are_the_operators() {
    testhost();
    let _restore = Restore::new();
    let user = User::new("plain");
    let id = format!("plain-{}", std::process::id());
    sh(&format!("printf 'LOG_FORMAT=text\\n' >>{FILE}; systemctl restart pi-gateway"));
    until_ready();
    user.ask("GET", "/models", &[("X-Request-Id", &id)], None);
    let text = until("the line is there", || {
        let found = try_sh(&format!("journalctl -b -u pi-gateway -o cat --no-pager | grep -F 'request=\"{id}\"'")).1;
        found.lines().find(|line| line.contains("route=\"/models\"")).map(str::to_owned)
    });
    assert!(text.contains("INFO") && !text.starts_with('{'), "{text}");
    sh(&format!("printf 'LOG_LEVEL=warn\\n' >>{FILE}; systemctl restart pi-gateway"));
    until_ready();
    let quiet = format!("quiet-{id}");
    user.ask("GET", "/models", &[("X-Request-Id", &quiet)], None);
    sh("systemctl restart pi-gateway");
    until_ready();
    assert_eq!(sh(&format!("journalctl -b -u pi-gateway -o cat --no-pager | grep -cF '{quiet}' || true")), "0");
}
