//! Requests that are malformed, too large or mean two things: a clear refusal or a closed connection, and nothing of them
//! is ever done. What is hidden behind such a request in the same bytes is no request.

use std::thread;

use pi_gateway_e2e::wire::{exchange, statuses, text};
use pi_gateway_e2e::{User, testhost};
use serde_json::json;

/// What stands in a case for the user's token, for a request whose execution can be seen, and for that one's length, in
/// decimal and in hexadecimal.
const TOKEN: &str = "<token>";
const HIDDEN: &str = "<hidden>";
const LENGTH: &str = "<length>";
const SIZE: &str = "<size>";

/// A case: what it is, and its bytes.
type Case = (String, String);

/// The bytes of a case for a user. The hidden request starts a run.
fn filled_in(case: &str, user: &User) -> String {
    let body = json!({"prompt": "smuggled"}).to_string();
    let head = request(
        "POST /runs HTTP/1.1",
        &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
        &body,
    );
    let hidden = head.replace(TOKEN, &user.token);
    let case = case.replace(LENGTH, &hidden.len().to_string()).replace(SIZE, &format!("{:x}", hidden.len()));
    case.replace(TOKEN, &user.token).replace(HIDDEN, &hidden)
}

/// A request with a token and the given lines, each with its end, and what follows its head.
fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line}\r\nHost: gateway\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n{body}")
}

fn get(headers: &str) -> String {
    request("GET /runs HTTP/1.1", headers, "")
}

fn runs(user: &User) -> usize {
    user.get("/runs").json()["data"].as_array().unwrap().len()
}

fn answers(case: &str) -> Vec<u16> {
    statuses(&exchange(filled_in(case, &User::new("framing")).as_bytes()))
}

/// Sends every case, each for a user of its own, and lets judge what was answered. All at once: a connection that may
/// carry another request is closed after 10 s only. Fails when a hidden request was done.
fn each(cases: &[Case], judge: impl Fn(&str, &[u8]) + Sync) {
    thread::scope(|scope| {
        let judge = &judge;
        let send = |(what, case): &Case| {
            let user = User::new("framing");
            let answer = exchange(filled_in(case, &user).as_bytes());
            println!("{what}: {}", text(&answer).lines().next().unwrap_or("closed"));
            assert_eq!(runs(&user), 0, "{what}: the hidden request was done; {}", text(&answer));
            judge(what, &answer);
        };
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(move || send(case))).collect();
        let failed = threads.into_iter().map(|thread| thread.join()).filter(Result::is_err).count();
        assert_eq!(failed, 0, "of {} cases", cases.len());
    });
}

/// Fails unless a case was refused by a 4xx or a closed connection.
fn is_refusal(what: &str, answer: &[u8]) {
    let statuses = statuses(answer);
    assert!(statuses.iter().all(|status| (400..500).contains(status)), "{what}: {}", text(answer));
    // At most the refusal of what remained of the bytes follows.
    assert!(statuses.len() < 2 || statuses[1..] == [400], "{what}: {}", text(answer));
}

fn cases<const N: usize>(cases: [(&str, String); N]) -> Vec<Case> {
    cases.into_iter().map(|(what, bytes)| (what.to_owned(), bytes)).collect()
}

#[test]
fn two_requests_in_a_row_are_answered_in_order() {
    testhost();
    let get = "GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n";
    assert_eq!(answers(&format!("{get}{get}")), [200, 200]);
    // So a request behind another one is done, when it is one.
    let user = User::new("framing");
    let answer = exchange(filled_in(&format!("{get}{HIDDEN}"), &user).as_bytes());
    assert_eq!(statuses(&answer), [200, 202]);
    assert_eq!(runs(&user), 1);
}

#[test]
fn malformed_heads_are_refused() {
    testhost();
    let line = |line: &str| request(line, "", "");
    each(
        &cases([
            ("NUL in a value", get("X-A: a\0b\r\n")),
            ("CR in a value", get("X-A: a\rX-B: b\r\n")),
            ("a folded line", get("X-A: a\r\n b\r\n")),
            ("a folded line with a tab", get("X-A: a\r\n\tb\r\n")),
            ("a folded first line", "GET /runs HTTP/1.1\r\n Host: gateway\r\n\r\n".into()),
            ("a space before the colon", get("X-A : a\r\n")),
            ("a space in a name", get("X A: a\r\n")),
            ("no name", get(": a\r\n")),
            ("no colon", get("X-A\r\n")),
            ("a control byte in a name", get("X\x01A: a\r\n")),
            ("a control byte in a value", get("X-A: \x0b\r\n")),
            ("no host", "GET /health HTTP/1.1\r\n\r\n".into()),
            ("the same host twice", get("Host: gateway\r\n")),
            ("another host besides", get("Host: other\r\n")),
            ("another token besides", get("Authorization: Bearer x\r\n")),
            ("the same token twice", get(&format!("Authorization: Bearer {TOKEN}\r\n"))),
            ("two ids of events", get("Last-Event-ID: 1-1\r\nLast-Event-ID: 1-2\r\n")),
            ("two keys", get("Idempotency-Key: a\r\nIdempotency-Key: b\r\n")),
            ("another host in the line", line("GET http://other/runs HTTP/1.1")),
            ("a user in the line", line("GET http://gateway@other/runs HTTP/1.1")),
            ("no method", line(" /runs HTTP/1.1")),
            ("a method with a bracket", line("GE(T /runs HTTP/1.1")),
            ("a method that nobody knows", line("FROBNICATE /runs HTTP/1.1")),
            ("a method in small letters", line("get /runs HTTP/1.1")),
            ("CONNECT", line("CONNECT gateway:80 HTTP/1.1")),
            ("TRACE", line("TRACE /runs HTTP/1.1")),
            ("no path", line("GET  HTTP/1.1")),
            ("a path with a space", line("GET /ru ns HTTP/1.1")),
            ("a path with a NUL", line("GET /runs\0 HTTP/1.1")),
            ("a path that does not begin at the root", line("GET runs HTTP/1.1")),
            ("an asterisk", line("GET * HTTP/1.1")),
            ("HTTP/0.9", "GET /health\r\n".into()),
            ("HTTP/0.9 in words", line("GET /runs HTTP/0.9")),
            ("HTTP/1.2", line("GET /runs HTTP/1.2")),
            ("HTTP/11.1", line("GET /runs HTTP/11.1")),
            ("HTTP/2", line("GET /runs HTTP/2.0")),
            ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into()),
            ("TLS", "\x16\x03\x01\0\u{5}\x01\0\0\x01\x03\x03".into()),
            ("text", "hello, is this the gateway?\r\n\r\n".into()),
        ]),
        is_refusal,
    );
    // The same without any of it is served.
    assert_eq!(answers(&get("Connection: close\r\nX-A: a\r\n")), [200]);
    assert_eq!(answers(&request("GET http://gateway/runs HTTP/1.1", "Connection: close\r\n", "")), [200]);
    // HTTP/1.0 is what some proxies speak; one request a connection.
    assert_eq!(answers(&line("GET /runs HTTP/1.0").repeat(2)), [200]);
}

#[test]
fn oversized_heads_are_refused() {
    testhost();
    let long = |length: usize| get(&format!("Connection: close\r\nX-A: {}\r\n", "a".repeat(length)));
    let many = |count: usize| get(&format!("Connection: close\r\n{}", "X-A: a\r\n".repeat(count)));
    let path = |length: usize| request(&format!("GET /{} HTTP/1.1", "a".repeat(length)), "Connection: close\r\n", "");
    each(
        &cases([
            ("a header of 33 KiB", long(33 << 10)),
            ("a header of 64 KiB", long(64 << 10)),
            ("a header of 10 MiB", long(10 << 20)),
            ("65 headers", many(62)),
            ("1000 headers", many(1000)),
            ("a path of 33 KiB", path(33 << 10)),
            ("a path of 1 MiB", path(1 << 20)),
            ("a method of 1 MiB", request(&format!("{} /runs HTTP/1.1", "A".repeat(1 << 20)), "", "")),
        ]),
        |what, answer| {
            let statuses = statuses(answer);
            // What a client sends beyond the limit meets a closed connection, which may cost it the answer.
            assert!(statuses.is_empty() || statuses == [431], "{what}: {}", text(answer));
        },
    );
    let token = format!(
        "GET /runs HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        "a".repeat(9 << 10)
    );
    assert_eq!(answers(&token), [401]);
    // Up to the limits it is served.
    assert_eq!(answers(&long(30 << 10)), [200]);
    assert_eq!(answers(&many(61)), [200]);
    assert_eq!(answers(&path(30 << 10)), [404]);
}

#[test]
fn a_request_hidden_behind_an_ambiguous_one_is_never_done() {
    testhost();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let identity = "Transfer-Encoding: identity\r\n";
    let behind = format!("0\r\n\r\n{HIDDEN}");
    let length = |length: &str| format!("Content-Length: {length}\r\n");
    let mut heads: Vec<(String, String, String)> = Vec::new();
    let mut add = |what: &str, headers: String, body: String| heads.push((what.into(), headers, body));
    // One of two servers in a row would see one request with a body, the other one two requests.
    add("a length, then chunked", length(LENGTH) + chunked, behind.clone());
    add("chunked, then a length", chunked.to_owned() + &length(LENGTH), behind.clone());
    add("a short length, then chunked", length("5") + chunked, behind.clone());
    add("chunked, then length 0", chunked.to_owned() + &length("0"), behind.clone());
    add("chunked twice", chunked.repeat(2), behind.clone());
    add("chunked, then identity", format!("{chunked}{identity}"), behind.clone());
    add("identity, then chunked", format!("{identity}{chunked}"), behind.clone());
    add("length 0, then another", length("0") + &length(LENGTH), HIDDEN.into());
    add("a length, then 0", length(LENGTH) + &length("0"), HIDDEN.into());
    add("a space before the length's colon", "Content-Length : 0\r\n".into(), HIDDEN.into());
    add("a folded length", format!("Content-Length:\r\n {LENGTH}\r\n"), HIDDEN.into());
    for (what, body) in [
        ("a chunk's size over 64 bits", format!("10000000000000000\r\n{HIDDEN}")),
        ("a chunk's size that is 0 in 64 bits", format!("10000000000000000\r\n\r\n{HIDDEN}")),
        ("a chunk's negative size", format!("-1\r\n{behind}")),
        ("a chunk's size with 0x", format!("0x0\r\n\r\n{HIDDEN}")),
        ("no size of a chunk", format!("\r\n\r\n{HIDDEN}")),
        ("an extension with LF", format!("0;a\n\r\n\r\n{HIDDEN}")),
        ("an extension that LF ends", format!("2;\nxx\r\n{SIZE}\r\n0\r\n\r\n{HIDDEN}")),
        ("chunks with LF", format!("0\n\n{HIDDEN}")),
        ("a last chunk with LF", format!("0\r\n\n{HIDDEN}")),
        ("more data than the chunk's size", format!("1\r\nxx\r\n{behind}")),
        ("an end inside the chunk", format!("4\r\n0\r\n\r\n{HIDDEN}")),
    ] {
        add(what, chunked.into(), body);
    }
    for odd in [
        "xchunked",
        "chunked, identity",
        "chunked, chunked",
        "gzip, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "chun ked",
        "chunked,",
        ",chunked",
        "\x0bchunked",
        "chunked\x0b",
        "",
    ] {
        add(&format!("Transfer-Encoding: {odd:?}"), format!("Transfer-Encoding: {odd}\r\n"), behind.clone());
    }
    for odd in [
        "+0",
        "-0",
        "0x0",
        "0,0",
        "0, 0",
        "0 0",
        "0;",
        "1e1",
        "",
        "18446744073709551616",
        "99999999999999999999",
        "\x0b0",
    ] {
        add(&format!("Content-Length: {odd:?}"), length(odd), HIDDEN.into());
    }
    // A route that reads the body, and one that does not.
    let cases: Vec<Case> = ["/runs", "/runs/x/cancel"]
        .iter()
        .flat_map(|path| {
            heads.iter().map(move |(what, headers, body)| {
                let headers = format!("Content-Type: application/json\r\n{headers}");
                (format!("{what}, {path}"), request(&format!("POST {path} HTTP/1.1"), &headers, body))
            })
        })
        .collect();
    each(&cases, is_refusal);
}

#[test]
fn a_request_inside_the_body_of_another_is_never_done() {
    testhost();
    let length = format!("Content-Length: {LENGTH}\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunks = format!("{SIZE}\r\n{HIDDEN}\r\n0\r\n\r\n");
    each(
        &cases([
            ("GET", request("GET /health HTTP/1.1", &length, HIDDEN)),
            ("GET of nothing", request("GET /nowhere HTTP/1.1", &length, HIDDEN)),
            ("GET with a token", request("GET /runs HTTP/1.1", &length, HIDDEN)),
            ("OPTIONS", request("OPTIONS /runs HTTP/1.1", &length, HIDDEN)),
            ("POST that reads no body", request("POST /runs/x/cancel HTTP/1.1", &length, HIDDEN)),
            ("POST of another type", request("POST /runs HTTP/1.1", &length, HIDDEN)),
            ("GET in chunks", request("GET /health HTTP/1.1", chunked, &chunks)),
            (
                "POST in chunks",
                request("POST /runs HTTP/1.1", &format!("Content-Type: application/json\r\n{chunked}"), &chunks),
            ),
            ("GET of HTTP/1.0", request("GET /health HTTP/1.0", &length, HIDDEN)),
            ("POST in chunks of HTTP/1.0", request("POST /runs HTTP/1.0", chunked, &chunks)),
            ("POST that expects", request("POST /runs HTTP/1.1", &format!("{length}Expect: 100-continue\r\n"), HIDDEN)),
            (
                "GET with an upgrade",
                request("GET /health HTTP/1.1", &format!("{length}Upgrade: h2c\r\nConnection: upgrade\r\n"), HIDDEN),
            ),
            // LF alone ends a line of a head for this server, so it does for the whole head.
            ("POST whose lines end with LF", {
                let head = request("POST /runs/x/cancel HTTP/1.1", &length, "").replace("\r\n", "\n");
                format!("{head}{HIDDEN}")
            }),
            ("GET to a host in the line", request("GET http://gateway/health HTTP/1.1", &length, HIDDEN)),
        ]),
        |what, answer| {
            let found = statuses(answer);
            assert!(found.len() == 1 && found[0] < 500, "{what}: {}", text(answer));
        },
    );
}
