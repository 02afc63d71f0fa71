//! Images made as a tool of a model of the Responses API: the relay is started anew with `OPENAI_RESPONSES_MODEL`, and
//! users and agents see no difference.

use pi_gateway_e2e::host::{until_ready, upstream_requests};
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::json;

#[test]
fn a_models_tool_makes_images_for_users_and_agents_and_its_lies_are_refused() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo OPENAI_RESPONSES_MODEL=gpt-6-luna >> {FILE}; systemctl restart pi-gateway-launcher pi-gateway"));
    until_ready();
    let user = User::new("by-tool");
    let prompt = format!("a fox for {}", user.name);
    let made = user.post("/workspace/images/generate", &[], &json!({"prompt": prompt, "path": "fox.png"}));
    assert_eq!((made.status, made.json()["mime_type"].as_str()), (201, Some("image/png")), "{made:?}");
    let seen = upstream_requests(&prompt);
    assert_eq!((seen[0]["path"].as_str(), seen[0]["model"].as_str()), (Some("/v1/responses"), Some("gpt-6-luna")));
    for lie in ["lie-html", "lie-huge", "lie-truncated"] {
        user.post("/workspace/images/generate", &[], &json!({"prompt": lie})).is_problem(502, "image_failed");
    }
    let id = user.start("[[image an owl]]");
    let run = user.finished(&id);
    assert_eq!((run["status"].as_str(), run["usage"]["requests"].as_u64()), (Some("succeeded"), Some(3)), "{run}");
    // The model's own tokens and its tool's.
    assert!(run["usage"]["output_tokens"].as_u64().unwrap() > 4200, "{run}");
    let files = sh(&format!("cd {} && find . -path ./.git -prune -o -type f -print | sort", user.workspace()));
    assert_eq!(files.lines().count(), 2, "{files}");
    assert!(files.contains("./fox.png") && files.contains("./public/images/an-owl-"), "{files}");
}
