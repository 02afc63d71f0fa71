//! What passes, and how it looks on the other side.

use std::io::Read;

use super::*;

fn answer(head: &str, body: &str) -> Mode {
    Mode::Answer(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_is_one_line_of_the_log() {
    let server = Server::start(Mode::Echo);
    let bench = Bench::new(&server);
    let target = format!("127.0.0.1:{}", server.port());
    // Python's own client still says 1.0 and nothing else; others do not wait for the answer.
    for head in [
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic eDp5\r\n\r\n"),
        format!("CONNECT {target} HTTP/1.0\r\n\r\n"),
        format!("CONNECT 0x7f.1:{} HTTP/1.1\r\nHost: elsewhere.org\r\n\r\n", server.port()),
    ] {
        let mut stream = bench.connect();
        stream.write_all(format!("{head}\x16\x03early").as_bytes()).unwrap();
        let mut seen = String::new();
        while !seen.ends_with("early") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        assert!(status(&seen) == 200 && seen.to_lowercase().matches("content-length").count() == 0, "{seen}");
        stream.write_all(&[b'x'; 100_000]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut stream).len(), 100_000);
    }
    for line in bench.log(3) {
        assert_eq!((&line["kind"], &line["host"]), (&"tunnel".into(), &"127.0.0.1".into()), "{line}");
        assert_eq!((&line["port"], &line["address"]), (&server.port().into(), &"127.0.0.1".into()), "{line}");
        assert_eq!((&line["up_bytes"], &line["down_bytes"]), (&100_007.into(), &100_007.into()), "{line}");
        assert_eq!(
            (&line["status"], &line["code"], &line["uid"]),
            (&200.into(), &"".into(), &own_uid().into()),
            "{line}"
        );
    }
    assert!(server.seen().iter().all(|bytes| bytes.starts_with("\u{16}\u{3}early")), "nothing of the head goes on");
}

#[test]
fn a_plain_request_goes_out_with_a_clean_head_and_its_answer_comes_back_with_one() {
    let server = Server::start(answer(
        "201 Made\r\nX-Kept: 1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Authenticate: Basic\r\nTrailer: X-T\r\nUpgrade: h2c",
        "the answer",
    ));
    let bench = Bench::new(&server);
    let host = format!("127.0.0.1:{}", server.port());
    let got = bench.raw(
        format!(
            "POST http://{host}/a/../b?c=%2f HTTP/1.1\r\nHost: evil.example.org\r\nX-Own: 1\r\nUser-Agent: me\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nConnection: close, X-Named\r\n\
             X-Named: 1\r\nKeep-Alive: 9\r\nTE: trailers\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody"
        )
        .as_bytes(),
    );
    assert!(got.starts_with("HTTP/1.1 201 ") && got.ends_with("\r\n\r\nthe answer"), "{got}");
    let lower = got.to_lowercase();
    assert!(lower.contains("x-kept: 1") && lower.contains("content-length: 10"), "{got}");
    for gone in ["x-hop", "keep-alive", "proxy-", "trailer", "upgrade"] {
        assert!(!lower.contains(gone), "{gone}: {got}");
    }
    let seen = &server.seen()[0];
    assert!(seen.starts_with("POST /a/../b?c=%2f HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nbody"), "{seen}");
    let lower = seen.to_lowercase();
    for (kept, times) in
        [(format!("host: {host}\r\n"), 1), ("x-own: 1".to_owned(), 1), ("content-length: 4".to_owned(), 1)]
    {
        assert_eq!(lower.matches(&kept).count(), times, "{kept}: {seen}");
    }
    for gone in ["evil", "x-named", "keep-alive", "proxy-", "te: ", "upgrade", "transfer-encoding"] {
        assert!(!lower.contains(gone), "{gone}: {seen}");
    }
    let line = &bench.log(1)[0];
    assert_eq!((&line["kind"], &line["status"], &line["code"]), (&"request".into(), &201.into(), &"".into()), "{line}");
}

#[test]
fn a_connection_of_a_client_takes_requests_to_several_hosts_one_after_the_other() {
    let (one, other) = (Server::start(answer("200 OK", "one")), Server::start(answer("200 OK", "other")));
    let bench = Bench::new(&one);
    let get = |more: &str| format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\n{more}\r\n", one.port());
    // The second is judged anew: its port is not one of this bench's.
    let elsewhere = format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\n\r\n", other.port());
    let got = bench.raw(format!("{}{}{elsewhere}{}", get(""), get(""), get("")).as_bytes());
    assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 2, "{got}");
    assert!(got.contains("403") && got.contains("port_not_allowed"), "{got}");
    assert_eq!((one.connections(), other.connections()), (2, 0));
}

#[test]
fn answers_of_every_framing_arrive_whole() {
    for (bytes, expected) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n", "wikipedia"),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", "until the end"),
        ("HTTP/1.0 200 OK\r\n\r\nof another time", "of another time"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
    ] {
        let server = Server::start(Mode::Answer(bytes.as_bytes().to_vec()));
        let bench = Bench::new(&server);
        // A client of 1.0 gets no chunks.
        let got = bench.raw(format!("GET http://127.0.0.1:{}/ HTTP/1.0\r\n\r\n", server.port()).as_bytes());
        assert_eq!(got.split_once("\r\n\r\n").unwrap().1, expected, "{got}");
        assert_eq!(bench.log(1)[0]["code"], "", "{bytes}");
    }
    let server = Server::start(Mode::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec()));
    let bench = Bench::new(&server);
    let got = bench.raw(
        format!("HEAD http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", server.port()).as_bytes(),
    );
    assert!(got.to_lowercase().contains("content-length: 1234"), "{got}");
}

#[test]
fn no_framing_that_a_client_writes_is_seen_outside() {
    let server = Server::start(answer("200 OK", ""));
    let bench = Bench::new(&server);
    let url = format!("http://127.0.0.1:{}/", server.port());
    let hidden = format!("GET {url}hidden HTTP/1.1\r\nHost: x\r\n\r\n");
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for (head, body) in [
        (format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", hidden.len()), chunked.clone()),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", hidden.len()), chunked.clone()),
        (format!("Content-Length: 0\r\nContent-Length: {}\r\n", hidden.len()), hidden.clone()),
        (format!("Content-Length: {}, 0\r\n", hidden.len()), hidden.clone()),
        ("Transfer-Encoding: identity\r\n".to_owned(), hidden.clone()),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), chunked.clone()),
        ("Transfer-Encoding : chunked\r\n".to_owned(), chunked.clone()),
        ("Transfer-Encoding: chunked\r\nConnection: close, Transfer-Encoding\r\n".to_owned(), chunked.clone()),
        (format!("Content-Length: {}\r\nConnection: Content-Length\r\n", hidden.len()), hidden.clone()),
        (format!("Content-Length: {}\r\n", hidden.len()), hidden.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunked.clone()),
    ] {
        let got =
            bench.raw(format!("POST {url} HTTP/1.1\r\nHost: x\r\n{head}Connection: close\r\n\r\n{body}").as_bytes());
        let passed = got.matches("HTTP/1.1 200").count();
        assert!(passed <= 1 && !got.is_empty(), "{head}: {got}");
    }
    assert!(server.connections() >= 2, "the last two are honest");
    for request in server.seen() {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let lower = head.to_lowercase();
        assert!(head.starts_with("POST / HTTP/1.1\r\n") && !head.contains("hidden"), "{request}");
        let (length, coding) = (lower.matches("content-length").count(), lower.matches("transfer-encoding").count());
        assert!(length + coding <= 1, "{request}");
        // What is hidden stands in a body, or nowhere.
        assert!(length + coding == 1 || body.is_empty(), "{request}");
    }
}
