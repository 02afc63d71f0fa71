//! Images by the Images API: what a user asks for, what his agent asks for, and upstreams that lie.

use pi_gateway_e2e::host::{uid_of, upstream_requests};
use pi_gateway_e2e::{Response, User, sh, testhost};
use serde_json::{Value, json};

const ROUTE: &str = "/workspace/images/generate";

fn generate(user: &User, headers: &[(&str, &str)], body: &Value) -> Response {
    user.post(ROUTE, headers, body)
}

/// Every file of a workspace but git's own, also those that a listing does not show.
fn files(user: &User) -> String {
    sh(&format!("cd {} && find . -path ./.git -prune -o -type f -print | sort", user.workspace()))
}

#[test]
fn an_image_is_made_and_written_as_a_put_would() {
    testhost();
    let user = User::new("painter");
    let prompt = format!("A red fox for {}", user.name);
    let made = generate(&user, &[], &json!({"prompt": prompt, "size": "1536x1024"}));
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let image = made.json();
    let path = image["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("public/images/a-red-fox-for-painter-") && path.ends_with(".png"), "{path}");
    assert_eq!(
        (image["mime_type"].as_str(), image["width"].as_u64(), image["height"].as_u64()),
        (Some("image/png"), Some(2), Some(3))
    );
    let read = user.read(path.as_bytes(), &[]);
    assert_eq!((read.status, read.header("content-type")), (200, Some("image/png")));
    assert!(read.body.starts_with(b"\x89PNG") && image["size"].as_u64() == Some(read.body.len() as u64));
    assert_eq!((made.header("etag"), image["etag"].as_str()), (read.header("etag"), read.header("etag")));
    assert_eq!(sh(&format!("stat -c %u {}/{path}", user.workspace())), uid_of(&user.name).to_string());
    assert_eq!(files(&user), format!("./{path}"), "nothing else is left");

    let seen = upstream_requests(&prompt);
    assert_eq!(
        (seen.len(), seen[0]["path"].as_str(), seen[0]["model"].as_str()),
        (1, Some("/v1/images/generations"), Some("gpt-image-2"))
    );
    // A name that was given is replaced, and has the type of its ending.
    for _ in 0..2 {
        let named = generate(&user, &[], &json!({"prompt": prompt, "path": "site/logo.png"}));
        assert_eq!((named.status, named.json()["path"].as_str()), (201, Some("site/logo.png")));
    }
    generate(&user, &[], &json!({"prompt": prompt, "path": "site/logo.jpg"})).is_problem(502, "image_failed");
    generate(&user, &[], &json!({"prompt": prompt, "path": "site/logo.svg"})).is_problem(422, "invalid_request");
    generate(&user, &[], &json!({"prompt": prompt, "path": "../logo.png"})).is_problem(400, "invalid_parameter");
    generate(&user, &[], &json!({"prompt": prompt, "n": 2})).is_problem(422, "invalid_request");
    assert_eq!(files(&user), format!("./{path}\n./site/logo.png"));
}

#[test]
fn a_key_makes_one_image_and_a_run_keeps_others_away() {
    testhost();
    let user = User::new("once");
    let (body, key) = (json!({"prompt": format!("one for {}", user.name)}), [("Idempotency-Key", "image-17")]);
    let first = generate(&user, &key, &body);
    let again = generate(&user, &key, &body);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!((first.json(), first.header("etag")), (again.json(), again.header("etag")));
    assert_eq!(upstream_requests(body["prompt"].as_str().unwrap()).len(), 1);
    generate(&user, &key, &json!({"prompt": "another"})).is_problem(422, "idempotency_key_reused");
    let id = user.start("[[slow 40 50]]");
    let refused = generate(&user, &[], &json!({"prompt": "while a run is active"}));
    refused.is_problem(409, "run_active");
    assert_eq!(refused.json()["run_id"], id.as_str());
    assert_eq!(generate(&user, &key, &body).status, 201, "what was made before is told at any time");
    user.finished(&id);
    assert_eq!(upstream_requests("while a run is active").len(), 0);
}

#[test]
fn a_lying_upstream_is_refused_and_leaves_nothing() {
    testhost();
    let user = User::new("lied-to");
    user.put(b"there.txt", &[], b"x");
    for (lie, status, code) in [
        ("lie-html", 502, "image_failed"),
        ("lie-huge", 502, "image_failed"),
        ("lie-truncated", 502, "image_failed"),
        ("lie-refuse", 422, "image_refused"),
    ] {
        let refused = generate(&user, &[], &json!({"prompt": lie}));
        refused.is_problem(status, code);
        let told = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(!told.contains("script>") && !told.contains("org-"), "{told}");
        generate(&user, &[], &json!({"prompt": lie, "path": "there.png"})).is_problem(status, code);
        // By the agent: the tool fails with a sentence, and pi goes on.
        let id = user.start(&format!("{lie} [[image {lie} by the agent]]"));
        let events = user.events(&id);
        let tool = events.iter().find(|event| event.name == "tool.completed").unwrap_or_else(|| panic!("{events:?}"));
        assert_eq!(
            (tool.data["name"].as_str(), tool.data["is_error"].as_bool()),
            (Some("generate_image"), Some(true)),
            "{tool:?}"
        );
        assert_eq!(user.finished(&id)["status"], "succeeded");
    }
    assert_eq!(files(&user), "./there.txt");
}

#[test]
fn the_agents_own_tool_makes_an_image_in_the_workspace_and_pays_for_it() {
    testhost();
    let user = User::new("agent-painter");
    let id = user.start("[[image A Red Fox!]]");
    let events = user.events(&id);
    let tool = events.iter().find(|event| event.name == "tool.completed").unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(tool.data["is_error"], false, "{tool:?}");
    let path = files(&user);
    assert!(
        path.starts_with("./public/images/a-red-fox-") && path.ends_with(".png") && path.lines().count() == 1,
        "{path}"
    );
    assert!(tool.data["output"].as_str().unwrap().contains(&path[2..]), "{tool:?}");
    assert!(user.read(&path.as_bytes()[2..], &[]).body.starts_with(b"\x89PNG"));
    let run = user.finished(&id);
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(run["usage"]["requests"], 3, "two of the model and one of an image: {run}");
    assert!(run["usage"]["output_tokens"].as_u64().unwrap() > 4160, "{run}");
}

#[test]
fn nobody_but_the_front_reaches_its_door() {
    testhost();
    let user = User::new("at-the-door");
    let told = user.bash("ls /run/relay-front /run/pi-gateway 2>&1; ls /run; true");
    assert!(!told.contains("relay-front\n") && told.contains("No such file"), "{told}");
    let socket = "/run/pi-gateway/relay-front/model.sock";
    assert_eq!(
        sh(&format!("stat -c '%a %U %G' {socket} {}", "/run/pi-gateway/relay-front")),
        "660 pi-gateway-model pi-gateway\n2750 pi-gateway-model pi-gateway"
    );
    let ask = |identity: &str| {
        let curl = format!(
            "curl -s -m 10 -o /dev/null -w '%{{http_code}}' --unix-socket {socket} -H 'Content-Type: application/json' \
             -H 'pi-gateway-uid: {}' -H 'pi-gateway-request: 01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d' \
             -d '{{\"prompt\": \"at the door\"}}' http://model-relay/v1/images/generations",
            uid_of(&user.name)
        );
        sh(&format!("setpriv {identity} --clear-groups {curl} || true"))
    };
    let front = sh("id -u pi-gateway");
    assert_eq!(ask(&format!("--reuid={front} --regid=$(id -g pi-gateway)")), "200", "the front itself");
    assert_eq!(ask(&format!("--reuid={0} --regid={0}", uid_of(&user.name))), "000", "a user cannot even connect");
    // Root can connect, and is turned away by what the kernel says of it.
    assert_eq!(ask("--reuid=0"), "000");
}
