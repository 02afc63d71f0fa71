//! The session as the API shows it, with the real pi: whole after everything that can happen to it, and begun anew on request.

use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pi_gateway_e2e::host::upstream_requests;
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::{Value, json};

fn told(role: &str, text: &str) -> (String, String) {
    (role.to_owned(), text.to_owned())
}

#[test]
fn history_is_complete_after_a_tool_and_in_pages_of_any_size() {
    testhost();
    let user = User::new("history");
    assert_eq!(user.get("/session").json()["exists"], false);
    assert_eq!(user.get("/session/messages").json(), json!({"data": [], "next": null}));
    let prompt = "Look around, please.\n[[think I look]][[bash echo hi]][[say seen]]";
    let id = user.run(prompt)["id"].clone();
    let session = user.get("/session").json();
    assert_eq!((&session["exists"], &session["message_count"]), (&json!(true), &json!(4)), "{session}");
    assert_eq!((&session["title"], &session["model"]), (&json!("Look around, please."), &json!("gpt-6-sol")));
    assert!(session["created_at"].is_string() && session["updated_at"].is_string() && session["active_run"].is_null());
    let history = user.history();
    let roles: Vec<&str> = history.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool_result", "assistant"]);
    assert_eq!(history[0]["content"], json!([{"type": "text", "text": prompt}]));
    let parts = history[1]["content"].as_array().unwrap();
    let part = |kind: &str| parts.iter().find(|part| part["type"] == kind).unwrap_or(&Value::Null);
    assert_eq!(part("thinking")["text"], "I look");
    assert_eq!(part("tool_call")["arguments"]["command"], "echo hi");
    assert_eq!(part("tool_call")["tool_call_id"], history[2]["tool_call_id"]);
    assert_eq!((&history[2]["tool_name"], &history[1]["stop_reason"]), (&json!("bash"), &json!("toolUse")));
    assert_eq!(user.get("/session/messages?limit=200").json()["data"], json!(history));
    let context = user.get("/context").json();
    assert_eq!((&context["model"], &context["context_window"]), (&json!("gpt-6-sol"), &json!(272_000)));
    assert!(context["tokens"].as_u64().unwrap() > 0 && context["percent"].is_number(), "{context}");
    let run = user.get(&format!("/runs/{}", id.as_str().unwrap())).json();
    assert_eq!(context["cost_usd"], run["usage"]["cost_usd"], "counted by the relay");
    assert_eq!(user.get("/session/messages?cursor=x").status, 400);
    assert_eq!(User::new("nobody").get("/session/messages?cursor=AAAAAAAAAAAAAAAAAAAAAA").status, 400);
    user.get("/session/messages?limit=201").is_problem(400, "invalid_parameter");
    user.get("/session/messages?page=2").is_problem(400, "invalid_parameter");
}

#[test]
fn history_is_complete_after_a_retry_and_without_the_failed_tries() {
    testhost();
    let user = User::new("retry");
    let prompt = "[[flaky 500 1]][[say fine again]]";
    user.run(prompt);
    assert_eq!(user.conversation(), [told("user", prompt), told("assistant", "fine again")]);
    let file = std::fs::read_to_string(user.session_file()).unwrap();
    assert!(
        file.contains("\"context_edit\"") && file.contains("\"stopReason\":\"error\""),
        "the failed try is in the file"
    );
}

#[test]
fn history_is_complete_after_an_abort() {
    testhost();
    let user = User::new("abort");
    let id = user.start("[[slow 2000 20]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    user.finished(&id);
    user.run("[[say after it]]");
    let history = user.history();
    let roles: Vec<&str> = history.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(history[1]["stop_reason"], "aborted");
    assert!(history[1]["content"][0]["text"].as_str().unwrap().starts_with("word1 "), "{}", history[1]);
}

#[test]
fn history_is_complete_after_a_torn_last_line() {
    testhost();
    let user = User::new("torn");
    user.run("[[say one]]");
    let before = user.conversation();
    sh(&format!("printf '%s' '{{\"type\":\"message\",\"id\":\"0000\",\"parentId\"' >>{}", user.session_file()));
    assert_eq!(user.conversation(), before);
    user.run("[[say two]]");
    assert_eq!(user.conversation(), [before, vec![told("user", "[[say two]]"), told("assistant", "two")]].concat());
}

#[test]
fn history_is_complete_after_a_compaction() {
    testhost();
    let user = User::new("compaction");
    let long = ["first [[long 12000]]", "second [[long 12000]]"];
    for prompt in long {
        assert_eq!(user.run(prompt)["status"], "succeeded");
    }
    let id = user.start("third [[overflow]][[say after it]]");
    let run = user.finished(&id);
    assert_eq!((&run["status"], &run["output_text"]), (&json!("succeeded"), &json!("after it")), "{run}");
    let events = user.events(&id);
    let compacted = events.iter().find(|event| event.name == "compaction.completed").expect("a compaction");
    assert!(compacted.data["error"].is_null(), "{compacted:?}");
    let conversation = user.conversation();
    let said: Vec<&str> = conversation.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(said.len(), 6, "{:?}", conversation.iter().map(|(role, text)| (role, text.len())).collect::<Vec<_>>());
    assert_eq!(
        [said[0], said[2], said[4], said[5]],
        [long[0], long[1], "third [[overflow]][[say after it]]", "after it"]
    );
    assert!(said[1].ends_with("word12000 ") && said[3].ends_with("word12000 "));
    let context = user.get("/context").json();
    assert_eq!(context["compactions"], 1, "{context}");
}

#[test]
fn a_reset_keeps_the_old_file_and_begins_anew() {
    testhost();
    let user = User::new("reset");
    user.run("remember me");
    let old = std::fs::read(user.session_file()).unwrap();
    let spent = user.get("/context").json()["cost_usd"].as_f64().unwrap();
    assert!(spent > 0.0);
    let id = user.start("[[slow 100 20]]");
    let busy = user.ask("DELETE", "/session", &[], None);
    busy.is_problem(409, "run_active");
    assert_eq!(busy.json()["run_id"], id.as_str());
    assert_eq!(user.get("/session").json()["active_run"], id.as_str());
    user.finished(&id);
    let cursor = user.get("/session/messages?limit=1").json()["next"].as_str().unwrap().to_owned();
    let old_and_more = std::fs::read(user.session_file()).unwrap();
    assert!(old_and_more.starts_with(&old));
    for _ in 0..2 {
        assert_eq!(user.ask("DELETE", "/session", &[], None).status, 204);
    }
    let kept = sh(&format!("ls /var/lib/pi-gateway/sessions/{}", user.name));
    assert!(kept.starts_with("session-") && kept.lines().count() == 1, "{kept}");
    let kept = format!("/var/lib/pi-gateway/sessions/{}/{kept}", user.name);
    assert_eq!(std::fs::read(&kept).unwrap(), old_and_more);
    let session = user.get("/session").json();
    assert_eq!((&session["exists"], &session["message_count"]), (&json!(false), &json!(0)));
    assert_eq!(user.get("/context").json()["cost_usd"], 0.0);
    user.get(&format!("/session/messages?cursor={cursor}")).is_problem(400, "invalid_parameter");
    let next = user.run("[[recall]]");
    assert!(!next["output_text"].as_str().unwrap().contains("remember me"), "{next}");
    assert_eq!(user.conversation().len(), 2);
    assert_eq!(std::fs::read(&kept).unwrap(), old_and_more);
}

#[test]
fn a_file_that_is_no_session_is_told_at_once_and_can_be_put_aside() {
    testhost();
    let user = User::new("hostile");
    user.run("hello");
    let file = user.session_file();
    for (make, code) in [
        ("mkfifo F", "session_unusable"),
        ("ln -s /etc/passwd F", "session_unusable"),
        ("mkdir F", "session_unusable"),
        ("echo no session >F", "session_unusable"),
        ("truncate -s 4G F", "session_too_large"),
        ("head -c 1M /dev/urandom | base64 -w0 >F; truncate -s 200M F", "session_unusable"),
    ] {
        sh(&format!("rm -rf {file}; {}; chown -h --reference=$(dirname {file}) {file}", make.replace('F', &file)));
        for path in ["/session", "/session/messages", "/context"] {
            user.get(path).is_problem(409, code);
        }
        assert_eq!(user.ask("DELETE", "/session", &[], None).status, 204, "{make}");
        assert_eq!(user.get("/session").json()["exists"], false, "{make}");
    }
    sh(&format!("rm -rf $(dirname {file})/session-*"));
    assert_eq!(user.run("and again")["status"], "succeeded");
    assert_eq!(user.conversation().len(), 2);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn images_of_a_prompt_reach_the_model_as_they_were_and_the_history_says_what_they_are() {
    testhost();
    let user = User::new("pictures");
    // Two pixels, as PNG and as GIF; the model takes both.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let gif = "R0lGODlhAQABAPAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==";
    let prompt = format!("{} looks [[say nice]]", user.name);
    let images = json!([{"mime_type": "image/png", "data": png}, {"mime_type": "image/gif", "data": gif}]);
    let run = user.post("/runs?wait=30", &[], &json!({"prompt": prompt, "images": images})).json();
    assert_eq!((&run["status"], &run["output_text"]), (&json!("succeeded"), &json!("nice")), "{run}");
    let seen = upstream_requests(&prompt)[0]["images"].clone();
    assert_eq!(seen, json!([format!("data:image/png;base64,{png}"), format!("data:image/gif;base64,{gif}")]));
    let bytes = |data: &str| STANDARD.decode(data).unwrap().len();
    let expected = json!([
        {"type": "text", "text": prompt},
        {"type": "image", "mime_type": "image/png", "bytes": bytes(png)},
        {"type": "image", "mime_type": "image/gif", "bytes": bytes(gif)},
    ]);
    assert_eq!(user.history()[0]["content"], expected);
}

#[test]
fn the_models_are_those_of_the_operator_and_one_is_the_default() {
    testhost();
    let models = User::new("models").get("/models").json();
    let listed: Value =
        serde_json::from_slice(&std::fs::read("/usr/lib/pi-gateway/trusted/models.json").unwrap()).unwrap();
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&models["data"]), ids(&listed));
    let default: Vec<&Value> =
        models["data"].as_array().unwrap().iter().filter(|model| model["default"] == true).collect();
    assert_eq!((default.len(), &default[0]["id"], &models["next"]), (1, &json!("gpt-6-sol"), &json!(null)));
    assert_eq!(default[0]["context_window"], 272_000);
    assert_eq!(default[0]["inputs"], json!(["text", "image"]));
    assert!(default[0]["prices"]["output"].is_number() && default[0]["thinking_levels"].is_array());
}
