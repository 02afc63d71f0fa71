//! How answers end: whole, refused, cut, abandoned, or never.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::*;

#[test]
fn errors_of_the_upstream_keep_their_status_and_lose_the_account() {
    let reply = |status: &str, more: &str, body: &str| {
        Mode::Answer(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let account = r#"{"error":{"message":"Incorrect API key sk-abc, organization org-abc","type":"t","code":"c"}}"#;
    for (mode, expected, word) in [
        (reply("401 Unauthorized", "", account), 401, "operator"),
        (reply("403 Forbidden", "", account), 403, "operator"),
        (reply("429 Too Many Requests", "Retry-After: 7\r\nSet-Cookie: x=y\r\n", account), 429, "[hidden]"),
        (reply("500 Oops", "", "<html>"), 500, "server error"),
        (reply("503 Oops", "", ""), 503, "server error"),
        (reply("302 Found", "Location: http://127.0.0.1:1/\r\n", ""), 502, "does not understand"),
        (reply("200 OK", "", "{}"), 502, "does not understand"),
        (
            Mode::Answer(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n"
                    .to_owned(),
            ),
            502,
            "does not understand",
        ),
        (Mode::Answer("not http at all\r\n\r\n".to_owned()), 502, "cannot be reached"),
        (Mode::Answer(String::new()), 502, "cannot be reached"),
    ] {
        let upstream = Fake::start(mode.clone());
        let (mut bench, run) = Bench::new(&upstream).handed_over();
        let answer = bench.post("", BODY);
        assert_eq!(status(&answer), expected, "{mode:?}: {answer}");
        assert!(error(&answer)["error"]["message"].as_str().unwrap().contains(word), "{answer}");
        for secret in ["sk-abc", "org-abc", "x=y", "Location"] {
            assert!(!answer.contains(secret), "{secret}: {answer}");
        }
        assert_eq!(answer.to_lowercase().contains("retry-after: 7"), expected == 429, "{answer}");
        assert_eq!(upstream.seen().len(), 1, "no redirect, no second try");
        let usage = bench.usage(run);
        // An error costs nothing; an answer of 200 that is no stream may have cost something.
        let estimate = if matches!(&mode, Mode::Answer(text) if text.starts_with("HTTP/1.1 200")) {
            BODY.len() / 4
        } else {
            0
        };
        assert_eq!((usage.requests, usage.input_tokens), (1, estimate as u64));
    }
}

#[test]
fn an_upstream_that_is_down_is_a_502() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{free}/v1");
    let (bench, _) = Bench::with(&base, waits(), own_uid()..=own_uid(), |_| Vec::new()).handed_over();
    let answer = bench.post("", BODY);
    assert_eq!((status(&answer), error(&answer)["error"]["code"].as_str()), (502, Some("upstream_unreachable")));
}

#[test]
fn a_silent_upstream_is_a_504_before_the_answer_and_a_cut_within_it() {
    let waits = Waits { upstream_idle: Duration::from_millis(300), ..waits() };
    for (mode, expected) in [(Mode::Silent, 504), (Mode::Begin, 200)] {
        let upstream = Fake::start(mode);
        let (mut bench, run) =
            Bench::with(&upstream.base(), waits, own_uid()..=own_uid(), |_| Vec::new()).handed_over();
        let answer = bench.post("", BODY);
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "a cut answer must not look whole: {answer}");
        let usage = bench.usage(run);
        assert_eq!((usage.requests, usage.estimated), (1, true));
    }
}

#[test]
fn a_stream_cut_by_the_upstream_is_cut_for_the_client_and_estimated() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let piece = fake::DELTA.repeat(3);
    let upstream = Fake::start(Mode::Answer(format!("{head}{:x}\r\n{piece}\r\n", piece.len())));
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let answer = bench.post("", BODY);
    // When the cut is seen together with what came before it, there is no answer at all.
    let begun = answer.is_empty() || answer.contains(fake::DELTA);
    assert!(begun && !answer.ends_with("0\r\n\r\n"), "{answer}");
    let line = bench.usage_text(run);
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["complete"], false);
    assert_eq!(record["output_tokens"], 3);
    assert_eq!(record["input_tokens"], BODY.len() / 4);
}

#[test]
fn a_client_that_goes_away_ends_the_upstream_request() {
    let upstream = Fake::start(Mode::Begin);
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    drop(stream);
    assert_eq!(upstream.report(), 0, "the upstream connection is closed");
    let record: serde_json::Value = serde_json::from_str(&bench.usage_text(run)).unwrap();
    assert_eq!((record["status"].as_u64(), record["complete"].as_bool()), (Some(200), Some(false)));
}

#[test]
fn a_client_that_goes_away_before_the_answer_ends_the_upstream_request_too() {
    let upstream = Fake::start(Mode::Silent);
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    assert_eq!(upstream.report(), 1, "the request has arrived");
    drop(stream);
    assert_eq!(upstream.report(), 0, "the upstream connection is closed");
    let record: serde_json::Value = serde_json::from_str(&bench.usage_text(run)).unwrap();
    assert_eq!((record["status"].as_u64(), record["complete"].as_bool()), (Some(499), Some(false)));
}

#[test]
fn a_client_that_does_not_read_holds_the_upstream_back() {
    let upstream = Fake::start(Mode::Flood);
    let (bench, _) = Bench::new(&upstream).handed_over();
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    let sent = upstream.report();
    // What the kernel's socket buffers take on both sides, and a little of ours.
    assert!((1..64 << 20).contains(&sent), "{sent} bytes went out to a client that reads nothing");
}

#[test]
fn a_client_that_never_reads_is_ended_by_the_kernel() {
    let upstream = Fake::start(Mode::Flood);
    let waits = relay_waits(|waits| waits.client_stall = Duration::from_millis(500));
    let (mut bench, run) = Bench::with(&upstream.base(), waits, own_uid()..=own_uid(), |_| Vec::new()).handed_over();
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    upstream.report();
    let path = bench.dir.path().join(format!("usage/{}-{run}.jsonl", own_uid()));
    // The account is made while the client's connection is still open on its side.
    let deadline = std::time::Instant::now() + LONG;
    while !path.exists() && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(path.exists(), "the stalled request was not ended");
    drop(stream);
    assert_eq!(bench.usage(run).requests, 1);
}

#[test]
fn an_answer_under_way_is_finished_when_the_service_stops() {
    let (go, held) = channel();
    let upstream = Fake::start(Mode::Held(Arc::new(Mutex::new(held))));
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    drop(bench.stop.take());
    // The connection stays until its answer is whole, and is closed behind it.
    go.send(()).unwrap();
    let rest = read_all(&mut stream);
    assert!(rest.contains("response.completed") && rest.ends_with("0\r\n\r\n"), "{rest}");
    assert!(!bench.usage(run).estimated);
}
