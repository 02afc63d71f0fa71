//! Images, either way and through either door, and upstreams that lie.

use std::os::unix::net::UnixStream;

use serde_json::json;

use super::*;
use crate::image::maker::{MakeError, Maker};
use crate::image::picture::tests::PNG;
use crate::image::wish::Wish;

const WISH: &str = r#"{"prompt":"a red fox","size":"1536x1024","quality":"low"}"#;
const PATH: &str = "/v1/images/generations";

/// An upstream whose whole answer is this JSON.
fn answering(body: &str) -> Mode {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\nX-Request-Id: req_1\r\n";
    Mode::Answer(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

fn made() -> Mode {
    let usage = json!({"input_tokens": 12, "output_tokens": 4160, "input_tokens_details": {"text_tokens": 12}});
    answering(&json!({"created": 1, "data": [{"b64_json": PNG}], "usage": usage}).to_string())
}

fn by_tool(config: &mut Config, _: &Path) {
    config.images.by_tool = true;
    config.images.model = "gpt-6-sol".to_owned();
    let base = config.images.endpoint.as_str().replace("/images/generations", "/responses");
    config.images.endpoint = base.parse().unwrap();
}

fn ask(bench: &Bench, more: &str, body: &str) -> String {
    let request = bench.head(&format!("Connection: close\r\n{more}"), body.len()).replace("/v1/responses", PATH);
    let mut stream = bench.connect();
    // Some answers are megabytes long, and other tests run beside this one.
    stream.set_read_timeout(Some(6 * LONG)).unwrap();
    let _ = stream.write_all(format!("{request}{body}").as_bytes());
    read_all(&mut stream)
}

/// What is sent on the front's door, and everything that comes back.
fn front(bench: &Bench, request: &str) -> String {
    let mut stream = UnixStream::connect(bench.dir.path().join("front.sock")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let _ = stream.write_all(request.as_bytes());
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

fn front_request(path: &str, uid: u32, id: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: model-relay\r\nConnection: close\r\nContent-Type: application/json\r\n\
         pi-gateway-uid: {uid}\r\npi-gateway-request: {id}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn an_image_is_asked_for_with_the_key_and_comes_back_alone_and_counted() {
    let upstream = Fake::start(made());
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let more = "Authorization: Bearer placeholder\r\nCookie: a=b\r\npi-gateway-uid: 1879048200\r\n";
    let answer = ask(&bench, more, WISH);
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(error(&answer), json!({"data": [{"b64_json": PNG}]}), "this and nothing else");
    assert!(!answer.to_lowercase().contains("cookie") && !answer.contains("req_1"), "{answer}");

    let seen = upstream.seen();
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/images/generations HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("Bearer {KEY}")) && !head.contains("placeholder") && !head.contains("a=b"),
        "{head}"
    );
    let expected = json!({"model": "gpt-image-2", "prompt": "a red fox", "n": 1, "size": "1536x1024", "quality": "low",
        "output_format": "png"});
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap(), expected);
    let usage = bench.usage(run);
    assert_eq!((usage.requests, usage.input_tokens, usage.output_tokens, usage.estimated), (1, 12, 4160, false));
}

#[test]
fn a_models_tool_makes_it_and_the_client_sees_no_difference() {
    let usage = json!({"input_tokens": 300, "output_tokens": 40});
    let output = json!([{"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PNG}]);
    let upstream = Fake::start(answering(&json!({"id": "resp_1", "output": output, "usage": usage}).to_string()));
    let (mut bench, run) = Bench::configured(&upstream, waits(), by_tool).handed_over();
    let answer = ask(&bench, "", WISH);
    assert_eq!((status(&answer), error(&answer)), (200, json!({"data": [{"b64_json": PNG}]})), "{answer}");
    let seen = upstream.seen();
    assert!(seen[0].starts_with("POST /v1/responses HTTP/1.1\r\n"), "{seen:?}");
    assert!(
        seen[0].contains(r#""tool_choice":{"type":"image_generation"}"#) && seen[0].contains("gpt-6-sol"),
        "{seen:?}"
    );
    let usage = bench.usage(run);
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (300, 40, false));
}

#[test]
fn an_upstream_that_lies_is_an_error_of_its_own_and_nothing_of_it_is_passed_on() {
    let b64 = |text: &str| answering(&json!({"data": [{"b64_json": text}]}).to_string());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let html = "<!doctype html><html>LIE</html>";
    let huge = crate::relay::model::limits::MAX_IMAGE_ANSWER + 1;
    for (what, mode) in [
        ("a page", answering(html)),
        ("a page in base64", b64("PCFkb2N0eXBlIGh0bWw+PGh0bWw+TElFPC9odG1sPg==")),
        ("base64 that is cut", b64(&PNG[..PNG.len() - 5])),
        ("an image that is cut", b64(&PNG[..PNG.len() - 8])),
        ("another type", b64("UklGRh4AAABXRUJQVlA4TBEAAAAvAYAAAAdQqCKXov+BiOh/AAA=")),
        ("an address", answering(r#"{"data":[{"url":"http://127.0.0.1:1/LIE"}]}"#)),
        ("two", answering(&json!({"data": [{"b64_json": PNG}, {"b64_json": PNG}]}).to_string())),
        ("nothing", answering("{}")),
        ("one that announces to be huge", Mode::Answer(format!("{head}Content-Length: {huge}\r\n\r\n{{"))),
        ("one that is huge", Mode::Answer(format!("{head}\r\n{}", "x".repeat(usize::try_from(huge).unwrap())))),
        ("one that breaks off", Mode::Answer(format!("{head}Content-Length: 999\r\n\r\n{{\"data\""))),
        (
            "a redirect",
            Mode::Answer("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/LIE\r\nContent-Length: 0\r\n\r\n".into()),
        ),
    ] {
        let upstream = Fake::start(mode);
        let (bench, _) = Bench::new(&upstream).handed_over();
        let answer = ask(&bench, "", WISH);
        assert_eq!(status(&answer), 502, "{what}: {answer}");
        assert!(
            ["no_image", "upstream_unexpected"].contains(&error(&answer)["error"]["code"].as_str().unwrap()),
            "{answer}"
        );
        assert!(!answer.contains("LIE"), "{what}: {answer}");
        assert_eq!(upstream.seen().len(), 1, "{what}: no second try, and nothing is fetched");
    }
}

#[test]
fn one_that_is_silent_is_given_up_and_paid_for_as_an_image() {
    let upstream = Fake::start(Mode::Silent);
    let waits = Waits { image: Duration::from_millis(300), ..waits() };
    let (mut bench, run) = Bench::configured(&upstream, waits, |_, _| {}).handed_over();
    let answer = ask(&bench, "", WISH);
    assert_eq!(
        (status(&answer), error(&answer)["error"]["code"].as_str()),
        (504, Some("upstream_timeout")),
        "{answer}"
    );
    let usage = bench.usage(run);
    assert_eq!((usage.output_tokens, usage.estimated), (crate::relay::model::limits::IMAGE_ESTIMATE, true));
}

#[test]
fn what_is_not_offered_is_refused_and_nothing_goes_out() {
    let upstream = Fake::start(made());
    let (bench, _) = Bench::new(&upstream).handed_over();
    for body in [
        r#"{"prompt":"x","model":"dall-e-3"}"#,
        r#"{"prompt":"x","n":2}"#,
        r#"{"prompt":"x","n":1}"#,
        r#"{"prompt":"x","response_format":"url"}"#,
        r#"{"prompt":"x","image":"https://example.org/a.png"}"#,
        r#"{"prompt":"x","size":"4096x4096"}"#,
        r#"{"prompt":"x","prompt":"y"}"#,
        r#"{"prompt":""}"#,
        r#"{"stream":true,"prompt":"x"}"#,
        "[\"x\"]",
        "null",
        "\u{feff}{}",
    ] {
        let answer = ask(&bench, "", body);
        assert_eq!(
            (status(&answer), error(&answer)["error"]["code"].as_str()),
            (400, Some("request_not_allowed")),
            "{body}"
        );
    }
    for path in ["/v1/images/edits", "/v1/images/variations", "/v1/images", "/v1/images/generations/x"] {
        let answer = bench.raw(bench.head("", 2).replace("/v1/responses", path).as_bytes());
        assert_eq!(status(&answer), 404, "{path}: {answer}");
    }
    assert_eq!(upstream.seen(), Vec::<String>::new());
}

#[test]
fn the_front_asks_in_a_users_name_and_for_nothing_else() {
    let upstream = Fake::start(made());
    let (mut bench, run) = Bench::configured(&upstream, waits(), |config, _| config.budget = 4000).handed_over();
    let (uid, id) = (1_879_048_193, Uuid::now_v7());
    for (path, uid, id) in [
        ("/v1/responses", uid, id.to_string()),
        ("/v1/images/edits", uid, id.to_string()),
        (PATH, 0, id.to_string()),
        (PATH, uid, "x".to_owned()),
    ] {
        let answer = front(&bench, &front_request(path, uid, &id, WISH));
        assert!((400..500).contains(&status(&answer)), "{answer}");
    }
    assert_eq!(upstream.seen(), Vec::<String>::new());
    let answer = front(&bench, &front_request(PATH, uid, &id.to_string(), WISH));
    assert_eq!((status(&answer), error(&answer)), (200, json!({"data": [{"b64_json": PNG}]})), "{answer}");
    // It was his, and used his budget up.
    let answer = front(&bench, &front_request(PATH, uid, &Uuid::now_v7().to_string(), WISH));
    assert_eq!(
        (status(&answer), error(&answer)["error"]["code"].as_str()),
        (429, Some("budget_exhausted")),
        "{answer}"
    );
    assert_eq!(status(&front(&bench, &front_request(PATH, uid + 1, &id.to_string(), WISH))), 200, "not another's");
    assert_eq!(bench.usage(run).requests, 0, "nor the agent's that has a listener here");
    let usage = Usage::read(&bench.dir.path().join("usage"), uid, id, &catalogue()).unwrap();
    assert_eq!((usage.requests, usage.output_tokens), (1, 4160));
}

#[test]
fn the_fronts_client_gets_the_image_and_what_the_relay_says() {
    let upstream = Fake::start(made());
    let (bench, _) = Bench::configured(&upstream, waits(), |config, _| config.budget = 4000).handed_over();
    let wish: Wish = serde_json::from_str(WISH).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ask = |socket: &str| {
        let maker = Maker::new(bench.dir.path().join(socket));
        runtime.block_on(async { maker.ask(1_879_048_193, Uuid::now_v7(), &wish).await?.image(&wish).await })
    };
    let (image, width, height) = ask("front.sock").unwrap();
    assert_eq!((image.starts_with(b"\x89PNG"), width, height), (true, 2, 3));
    let Err(MakeError::Refused { status, code, retry_after, .. }) = ask("front.sock") else { panic!("it is spent") };
    assert_eq!((status, code.as_str(), retry_after.is_some()), (429, "budget_exhausted", true));
    assert!(matches!(ask("nobody.sock"), Err(MakeError::Unreachable(_))));
}
