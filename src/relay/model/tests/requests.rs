//! What gets through to the upstream, and what does not.

use super::*;

#[test]
fn a_request_goes_out_with_the_key_and_its_answer_comes_back_counted() {
    let upstream = Fake::start(Mode::Whole);
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let more = "Authorization: Bearer placeholder\r\nCookie: a=b\r\nOpenAI-Organization: org-mine\r\nX-Stainless-OS: L\r\nUser-Agent: pi/1.5.2\r\nsession-id: s1\r\n";
    let answer = bench.post(more, BODY);
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains(fake::DELTA) && answer.contains("response.completed"), "{answer}");
    let lower = answer.to_lowercase();
    for name in ["set-cookie", "openai-organization", "ratelimit", "x-request-id", KEY] {
        assert!(!lower.contains(name), "{name}: {answer}");
    }
    assert!(lower.contains("content-type: text/event-stream") && lower.contains("cache-control: no-cache"));

    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(body, BODY);
    assert!(head.starts_with("POST /v1/responses HTTP/1.1\r\n"), "{head}");
    let mut names: Vec<String> = head.lines().skip(1).map(|l| l.split(':').next().unwrap().to_lowercase()).collect();
    names.sort();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "session-id",
        "user-agent",
    ];
    assert_eq!(names, expected, "{head}");
    assert!(head.contains(&format!("Bearer {KEY}")) && !head.contains("placeholder"), "{head}");

    let usage = bench.usage(run);
    assert_eq!((usage.requests, usage.input_tokens, usage.cached_input_tokens), (1, 1000, 512));
    assert_eq!((usage.output_tokens, usage.reasoning_tokens, usage.estimated), (42, 7, false));
    assert!(usage.cost_usd > 0.0);
}

#[test]
fn connections_are_kept_alive_and_large_bodies_pass() {
    let upstream = Fake::start(Mode::Whole);
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let image = format!("data:image/png;base64,{}", "A".repeat(4_000_000));
    let large = format!(
        r#"{{"model":"gpt-6-sol","stream":true,"input":[{{"role":"user","content":[{{"type":"input_image","image_url":"{image}"}}]}}]}}"#
    );
    let two =
        format!("{}{large}{}{BODY}", bench.head("", large.len()), bench.head("Connection: close\r\n", BODY.len()));
    let answer = bench.raw(two.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].ends_with(&large) && seen[1].ends_with(BODY));
    assert_eq!(bench.usage(run).requests, 2);
}

#[test]
fn refused_requests_are_told_why_in_the_providers_form_and_nothing_goes_out() {
    let upstream = Fake::start(Mode::Whole);
    let (mut bench, run) = Bench::new(&upstream).handed_over();
    let port = bench.port;
    let line = |line: &str| {
        format!(
            "{line}\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        )
    };
    let ours = |more: &str, length: usize, body: &str| format!("{}{body}", bench.head(more, length));
    let refused = [
        (line("GET /v1/responses HTTP/1.1"), 405),
        (line("DELETE /v1/responses HTTP/1.1"), 405),
        (line("POST /v1/chat/completions HTTP/1.1"), 404),
        (line("GET /v1/models HTTP/1.1"), 404),
        (line("POST /v1/responses/resp_1 HTTP/1.1"), 404),
        (line("POST /v1/responses?x=1 HTTP/1.1"), 400),
        (line(&format!("POST http://127.0.0.1:{port}/v1/responses HTTP/1.1")), 400),
        (line("POST http://169.254.169.254/v1/responses HTTP/1.1"), 400),
        (line("CONNECT example.org:443 HTTP/1.1"), 400),
        (line("OPTIONS * HTTP/1.1"), 404),
        (ours("Upgrade: websocket\r\nConnection: Upgrade\r\n", BODY.len(), BODY), 400),
        (ours("Expect: 100-continue\r\n", BODY.len(), BODY), 400),
        (ours("Transfer-Encoding: chunked\r\n", BODY.len(), BODY), 400),
        (ours("Host: example.org\r\n", BODY.len(), BODY), 400),
        (ours("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", BODY.len(), BODY), 400),
        (ours("Content-Type: text/plain\r\n", BODY.len(), BODY), 400),
        (ours("Content-Encoding: zstd\r\n", BODY.len(), BODY), 415),
        (ours("", 34_000_000, ""), 413),
        (ours("", 4, "null"), 400),
        (line("POST /v1/responses HTTP/1.1").replace("gpt-6-sol", "gpt-other"), 400),
        (line("POST /v1/responses HTTP/1.1").replace("true", "null"), 400),
    ];
    for (request, expected) in &refused {
        let answer = bench.raw(request.as_bytes());
        assert_eq!(status(&answer), *expected, "{request} -> {answer}");
        let error = &error(&answer)["error"];
        assert!(error["message"].is_string() && error["type"].is_string() && error["code"].is_string(), "{answer}");
    }
    assert_eq!(upstream.seen(), Vec::<String>::new());
    assert_eq!(bench.usage(run), Usage::default());
}

#[test]
fn forms_that_smuggle_requests_are_ended_and_nothing_goes_out() {
    let upstream = Fake::start(Mode::Whole);
    let (bench, _) = Bench::new(&upstream).handed_over();
    let n = BODY.len();
    let base = |more: &str| {
        format!(
            "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n{more}\r\n{BODY}",
            bench.port
        )
    };
    let chunked = format!("{n:x}\r\n{BODY}\r\n0\r\n\r\n");
    for request in [
        base(&format!("Content-Length: {n}\r\nContent-Length: {}\r\n", n + 1)),
        base(&format!("Content-Length: {n}, {n}\r\n")),
        base(&format!("Content-Length: +{n}\r\n")),
        base(&format!("Content-Length: 0x{n:x}\r\n")),
        base(&format!("Content-Length : {n}\r\n")),
        base(&format!("Content-Length:\r\n {n}\r\n")),
        base(&format!("Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n")),
        base(&format!("Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n")),
        base(&format!("Content-Length: {n}\r\nTransfer-Encoding: identity\r\n")),
        base(&format!("Content-Length: {n}\r\nTransfer-Encoding: xchunked\r\n")),
        base(&format!("Content-Length: {n}\r\nTransfer-Encoding : chunked\r\n")),
        base(&format!("Content-Length: {n}\r\nTransfer-Encoding:\x0bchunked\r\n")),
        base("Transfer-Encoding: chunked\r\n").replace(BODY, &chunked),
        base("Transfer-Encoding: chunked, chunked\r\n").replace(BODY, &chunked),
        base(&format!("Content-Length: {n}\r\nX: a\nTransfer-Encoding: chunked\r\n")),
        base(&format!("Content-Length: {n}\r\nX: a\r\n folded\r\n")),
        base(&format!("Content-Length: {n}\r\nX: a\0b\r\n")),
        base(&format!("Content-Length: {n}\r\n\u{e9}: a\r\n")),
        base(&format!("Content-Length: {n}\r\n")).replace("HTTP/1.1", "HTTP/1.0"),
        base(&format!("Content-Length: {n}\r\n")).replace("HTTP/1.1", "HTTP/2.0"),
        base(&format!("Content-Length: {n}\r\n")).replace(" HTTP/1.1", ""),
        base(&format!("Content-Length: {n}\r\n")).replace("POST /v1", "POST\t/v1"),
        base(&format!("Content-Length: {n}\r\n")).replace("POST ", "POST  "),
        base(&format!("Content-Length: {n}\r\n")).replace("Host: 127.0.0.1", "Host: 127.0.0.1, 127.0.0.1"),
        format!("{}{}", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", base("")),
        base(&format!("Content-Length: {n}\r\n{}", "X: y\r\n".repeat(70))),
        base(&format!("Content-Length: {n}\r\nX: {}\r\n", "y".repeat(20_000))),
    ] {
        let answer = bench.raw(request.as_bytes());
        let shown = request.get(..300).unwrap_or(&request);
        assert!((400..600).contains(&status(&answer)) || answer.is_empty(), "{shown} -> {answer}");
        assert!(answer.matches("\r\ndate: ").count() <= 1, "{shown} -> {answer}");
    }
    assert_eq!(upstream.seen(), Vec::<String>::new());
}

#[test]
fn what_follows_a_body_is_a_request_of_its_own_and_equal_lengths_count_once() {
    let upstream = Fake::start(Mode::Whole);
    let (bench, _) = Bench::new(&upstream).handed_over();
    let hidden = "GET /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let answer = bench.raw(format!("{}{BODY}{hidden}", bench.head("", BODY.len())).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 404").count(), 1, "{answer}");
    // RFC 9110 section 8.6 lets a recipient take equal lengths as one; the upstream gets exactly one, our own.
    let twice = format!("Content-Length: {}\r\nConnection: close\r\n", BODY.len());
    assert_eq!(status(&bench.post(&twice, BODY)), 200);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(request.to_lowercase().matches("content-length").count(), 1, "{request}");
        assert!(!request.contains("files"), "{request}");
    }
}

#[test]
fn slow_heads_and_bodies_are_ended() {
    let upstream = Fake::start(Mode::Whole);
    let (bench, _) = Bench::new(&upstream).handed_over();
    for begin in ["", "POST /v1/resp", "POST /v1/responses HTTP/1.1\r\nHost: x\r\n"] {
        let answer = bench.raw(begin.as_bytes());
        assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
    }
    let answer = bench.raw(format!("{}{}", bench.head("", BODY.len()), &BODY[..10]).as_bytes());
    assert_eq!((status(&answer), error(&answer)["error"]["code"].as_str()), (408, Some("body_timeout")));
    assert_eq!(upstream.seen(), Vec::<String>::new());
}

#[test]
fn bodies_are_held_within_the_users_budget() {
    let upstream = Fake::start(Mode::Whole);
    let waits = Waits { body_idle: LONG, ..waits() };
    let (bench, _) = Bench::with(&upstream.base(), waits, own_uid()..=own_uid(), |_| Vec::new()).handed_over();
    let most = crate::relay::model::limits::MAX_BODY as usize;
    let hold = || {
        let mut stream = bench.connect();
        stream.write_all(bench.head("", most).as_bytes()).unwrap();
        stream.write_all(b"{").unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = (0..crate::relay::model::limits::USER_BODIES / most).map(|_| hold()).collect();
    // Declared sizes count, so the budget is used up as soon as all heads have been read. A small request that is
    // read before them can take a large one's place; that one is then sent again.
    let refused = (0..10_000).map(|_| bench.post("", BODY)).find(|answer| {
        for stream in &mut held {
            if stream.peek(&mut [0]).is_ok() {
                *stream = hold();
            }
        }
        status(answer) == 503
    });
    let refused = refused.unwrap();
    assert_eq!(error(&refused)["error"]["code"], "gateway_busy");
    drop(held);
    let served = (0..1000).map(|_| bench.post("", BODY)).any(|answer| status(&answer) == 200);
    assert!(served, "the budget did not come back");
}
