#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn catalogue() -> Catalogue {
    Catalogue::parse(include_str!("../../../../trusted/models.json")).unwrap()
}

fn verdict(body: &Value) -> Result<Accepted, String> {
    check(body.to_string().as_bytes(), &catalogue(), Provider::Openai)
}

/// A request with everything pi sends in it.
fn pi_request() -> Value {
    json!({
        "model": "gpt-6-sol",
        "input": [
            {"role": "developer", "content": "You are…"},
            {"role": "user", "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AAAA"},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": "g"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}],
             "status": "completed", "id": "msg_1"},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "bash", "arguments": "{\"command\":\"ls\"}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "file"},
            {"type": "function_call_output", "call_id": "call_2", "output": [
                {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AAAA"}]},
            {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "i"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "o"},
            {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f", "parameters": {}}]},
            {"type": "configuration_update", "reasoning": {"effort": "low"}},
        ],
        "stream": true,
        "prompt_cache_key": "0199",
        "store": false,
        "max_output_tokens": 128_000,
        // A tool's own schema may use any member name.
        "tools": [{"type": "function", "name": "bash", "parameters": {"type": "object", "properties":
            {"image_url": {"type": "string"}, "file_id": {"type": "string"}, "tools": {}}}, "strict": false}],
        "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut body = pi_request();
    let (parent, name) = path.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
    body
}

#[test]
fn a_model_is_asked_for_by_its_own_providers_api_and_nothing_of_an_account_is_stored() {
    let text = include_str!("../../../../trusted/models.json").replacen("\"id\"", "\"provider\":\"codex\",\"id\"", 1);
    let catalogue = Catalogue::parse(&text).unwrap();
    let judged = |body: &Value, provider| check(body.to_string().as_bytes(), &catalogue, provider);
    let (first, second) = (pi_request(), with("/model", json!("gpt-6-luna")));
    assert!(judged(&first, Provider::Codex).is_ok() && judged(&second, Provider::Openai).is_ok());
    let refused = judged(&second, Provider::Codex).unwrap_err();
    assert!(refused.ends_with("offered: gpt-6-sol"), "{refused}");
    assert!(judged(&first, Provider::Openai).unwrap_err().contains("gpt-6-luna"));
    for store in [Value::Null, json!(true)] {
        assert!(judged(&with("/store", store), Provider::Codex).unwrap_err().contains("`store`"));
    }
    for (name, value) in [
        ("/previous_response_id", json!("resp_1")),
        ("/conversation", json!("conv_1")),
        ("/client_metadata", json!({})),
        ("/tools", json!([{"type": "web_search"}])),
        ("/tools", json!([{"type": "image_generation"}])),
        ("/tools", json!([{"type": "mcp", "server_url": "https://example.org"}])),
        ("/stream", json!(false)),
    ] {
        assert!(judged(&with(name, value.clone()), Provider::Codex).is_err(), "{name} {value}");
    }
}

#[test]
fn what_pi_sends_is_accepted_and_images_do_not_count_as_text() {
    let body = pi_request();
    let accepted = verdict(&body).unwrap();
    assert_eq!(accepted.model, "gpt-6-sol");
    assert_eq!(accepted.text_bytes, body.to_string().len() - 2 * "data:image/png;base64,AAAA".len());
    assert!(verdict(&json!({"model": "gpt-6-sol", "stream": true, "input": "text"})).is_ok());
    assert!(verdict(&with("/previous_response_id", Value::Null)).is_err(), "unknown members are refused even as null");
}

#[test]
fn each_forbidden_thing_is_refused_with_a_sentence_that_names_it() {
    let table = [
        ("/model", json!("gpt-5"), "model"),
        ("/model", json!("GPT-6-SOL"), "model"),
        ("/stream", json!(false), "stream"),
        ("/stream", json!("true"), "boolean"),
        ("/store", json!(true), "store"),
        ("/background", json!(true), "background"),
        ("/service_tier", json!("priority"), "service_tier"),
        ("/include", json!(["file_search_call.results"]), "include"),
        ("/previous_response_id", json!("resp_1"), "previous_response_id"),
        ("/conversation", json!("conv_1"), "conversation"),
        ("/prompt", json!({"id": "pmpt_1"}), "prompt"),
        ("/metadata", json!({}), "metadata"),
        ("/max_output_tokens", json!(-1), "u64"),
        ("/Model", json!("gpt-6-sol"), "Model"),
        ("/tools", json!([{"type": "web_search"}]), "tool"),
        ("/tools", json!([{"type": "mcp", "server_url": "https://example.org"}]), "tool"),
        ("/tools", json!([{"type": "code_interpreter", "container": {"type": "auto"}}]), "tool"),
        ("/tools", json!([{"type": "image_generation"}]), "tool"),
        ("/tools", json!([{"name": "f"}]), "type"),
        ("/tools", json!([{"type": "function", "tools": [{"type": "mcp"}]}]), "tools"),
        ("/tools", json!({"type": "function"}), "list of tools"),
        ("/input", json!([{"type": "item_reference", "id": "msg_1"}]), "type of input item"),
        ("/input", json!([{"id": "msg_1"}]), "stored"),
        ("/input", json!([{"type": "web_search_call", "id": "ws"}]), "type of input item"),
        ("/input", json!([{"type": "mcp_approval_response"}]), "type of input item"),
        ("/input", json!([{"type": "additional_tools", "tools": [{"type": "web_search"}]}]), "tool"),
        ("/input", json!([{"tools": [{"type": "mcp"}], "type": "message"}]), "tool"),
        ("/input", json!([{"role": "user", "Content": "x"}]), "case"),
        ("/input", json!([{"role": "tool", "content": "x"}]), "role"),
        ("/input", json!([{"role": "user", "content": {"type": "input_text"}}]), "content parts"),
        (
            "/input",
            json!([{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/x"}]}]),
            "data:",
        ),
        ("/input", json!([{"role": "user", "content": [{"type": "input_image", "image_url": "DATA:x"}]}]), "data:"),
        (
            "/input",
            json!([{"role": "user", "content": [{"type": "input_image", "image_url": {"url": "data:x"}}]}]),
            "data:",
        ),
        ("/input", json!([{"role": "user", "content": [{"type": "input_image", "IMAGE_URL": "https://x"}]}]), "case"),
        ("/input", json!([{"role": "user", "content": [{"type": "input_file", "file_url": "https://x"}]}]), "data:"),
        ("/input", json!([{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]), "stored"),
        ("/input", json!([{"role": "user", "content": [{"type": "input_audio"}]}]), "type of content"),
        ("/input", json!([{"role": "user", "content": ["x"]}]), "content part"),
        (
            "/input",
            json!([{"type": "function_call_output", "output": [{"type": "input_image", "image_url": "http://x"}]}]),
            "data:",
        ),
        ("/input", json!([{"type": "message", "file_id": "file-1"}]), "stored"),
        ("/input", json!({}), "list of items"),
    ];
    for (path, value, word) in table {
        let sentence = verdict(&with(path, value.clone())).expect_err(&format!("{path} {value}"));
        assert!(sentence.contains(word), "{path} {value}: {sentence}");
    }
}

#[test]
fn ambiguous_documents_are_refused() {
    let good = r#"{"model":"gpt-6-sol","stream":true,"input":"x"}"#;
    assert!(check(good.as_bytes(), &catalogue(), Provider::Openai).is_ok());
    for bad in [
        r#"{"model":"gpt-6-sol","stream":true,"input":"x","model":"gpt-5"}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":"x","\u006dodel":"gpt-5"}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":"x","store":false,"store":true}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":[{"role":"user","type":"message","type":"x"}]}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":[{"role":"user","a":1,"a":2}]}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":"x","reasoning":{"effort":"low","effort":"high"}}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":"x"}{}"#,
        r#"{"model":"gpt-6-sol","stream":true,"input":"x",}"#,
        "\u{feff}{\"model\":\"gpt-6-sol\",\"stream\":true,\"input\":\"x\"}",
        "",
        "null",
        "[]",
    ] {
        assert!(check(bad.as_bytes(), &catalogue(), Provider::Openai).is_err(), "{bad}");
    }
    let mut broken = good.as_bytes().to_vec();
    let last = broken.len() - 3;
    broken[last] = 0xff;
    assert!(check(&broken, &catalogue(), Provider::Openai).is_err());
    let deep = format!(
        r#"{{"model":"gpt-6-sol","stream":true,"input":"x","text":{}1{}}}"#,
        "[".repeat(9999),
        "]".repeat(9999)
    );
    assert!(check(deep.as_bytes(), &catalogue(), Provider::Openai).is_err());
}

#[test]
fn a_refusal_does_not_repeat_what_the_client_wrote() {
    let sentence = verdict(&with("/stream", json!("my secret words"))).unwrap_err();
    assert!(!sentence.contains("secret"), "{sentence}");
    let sentence = verdict(&with("/model", json!("my secret model"))).unwrap_err();
    assert!(!sentence.contains("secret"), "{sentence}");
}

proptest! {
    /// Whatever is mixed in, an accepted document never holds an outside URL where the provider would fetch it.
    #[test]
    fn no_outside_url_passes(kind in "(input_image|input_file|output_text)", name in "(image_url|file_url|IMAGE_URL|File_Url)",
                             url in "(data:|http:|https:|file:|//)[a-z/.]{0,12}", first in any::<bool>()) {
        let part = if first { format!(r#"{{"{name}":"{url}","type":"{kind}"}}"#) } else { format!(r#"{{"type":"{kind}","{name}":"{url}"}}"#) };
        let body = format!(r#"{{"model":"gpt-6-sol","stream":true,"input":[{{"role":"user","content":[{part}]}}]}}"#);
        let allowed = url.starts_with("data:") && name == name.to_lowercase();
        prop_assert_eq!(check(body.as_bytes(), &catalogue(), Provider::Openai).is_ok(), allowed);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(check(&bytes, &catalogue(), Provider::Openai).is_err());
    }
}
