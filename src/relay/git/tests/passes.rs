//! What gets through, and what becomes of it on the way.

use std::io::Read;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// The names of a head's fields, in alphabetical order.
fn names(head: &str) -> Vec<String> {
    let mut names: Vec<String> =
        head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_lowercase())).collect();
    names.sort();
    names
}

const OF_THE_CLIENT: &str = "Authorization: Basic YTpi\r\nCookie: a=b\r\nX-Forwarded-For: 10.0.0.1\r\n\
     X-Gitea-Internal-Auth: x\r\nUser-Agent: git/2.39.5\r\nAccept-Language: de\r\nSudo: root\r\n";

#[test]
fn the_question_for_refs_goes_out_with_the_account_and_nothing_of_the_clients_head_but_the_version() {
    let gitea = Fake::start(Mode::Answer(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nSet-Cookie: i_like_gitea=x\r\n\
          X-Frame-Options: SAMEORIGIN\r\nContent-Length: 4\r\n\r\n0000"
            .to_vec(),
    ));
    let bench = Bench::new(&format!("{}/sub", gitea.base()));
    let answer = bench.get(REFS, &format!("{OF_THE_CLIENT}Git-Protocol: version=2\r\n"));
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("\r\n\r\n0000"), "{answer}");
    let crossed = ["cache-control", "connection", "content-length", "content-type", "date"];
    assert_eq!(names(answer.split_once("\r\n\r\n").unwrap().0), crossed, "{answer}");
    let seen = gitea.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with(&format!("GET /sub{REFS} HTTP/1.1\r\n")), "{}", seen[0]);
    let expected = ["accept", "accept-encoding", "authorization", "git-protocol", "host", "user-agent"];
    assert_eq!(names(&seen[0]), expected, "{}", seen[0]);
    assert!(seen[0].contains(&authorization()) && !seen[0].contains("YTpi"), "{}", seen[0]);
}

#[test]
fn a_push_goes_out_byte_by_byte_with_its_length_or_in_chunks() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "000eunpack ok\n0000")));
    let bench = Bench::new(&gitea.base());
    let body = good_push();
    let answer = bench.post(PUSH, OF_THE_CLIENT, &body);
    assert!(status(&answer) == 200 && answer.ends_with("unpack ok\n0000"), "{answer}");
    let head = bench.head("POST", PUSH, "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    // In pieces of one byte, so that the command list comes in parts.
    let pieces: Vec<&[u8]> = body.chunks(1).collect();
    let answer = bench.raw(&[head.as_bytes(), &chunked(&pieces)].concat());
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = gitea.seen();
    assert_eq!(seen.len(), 2);
    let (head, sent) = seen[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(sent.as_bytes(), body);
    assert!(head.starts_with(&format!("POST {PUSH} HTTP/1.1\r\n")), "{head}");
    let expected =
        ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent"];
    assert_eq!(names(head), expected, "{head}");
    let (head, sent) = seen[1].split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("transfer-encoding: chunked") && !head.contains("ontent-length"), "{head}");
    let joined: String = sent.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(joined.as_bytes(), body);
}

#[test]
fn the_question_whether_one_may_push_passes_and_is_nothing_but_that() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "")));
    let bench = Bench::new(&gitea.base());
    assert_eq!(status(&bench.post(PUSH, "", b"0000")), 200);
    assert!(gitea.seen()[0].ends_with("\r\n\r\n0000"));
    for more in ["0000PACK", "00000000", "0000x"] {
        assert_eq!(code(&bench.post(PUSH, "", more.as_bytes())), "push_not_allowed", "{more}");
    }
    assert_eq!(gitea.connections(), 1);
}

#[test]
fn a_compressed_fetch_goes_out_decompressed_and_a_bomb_does_not() {
    let gitea = Fake::start(Mode::Answer(ok("upload-pack-result", "0008NAK\n")));
    let bench = Bench::new(&gitea.base());
    let deflated = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let plain = packet(&format!("want {A}\n")).repeat(100);
    let gzip = "Content-Encoding: gzip\r\n";
    assert_eq!(status(&bench.post(FETCH, gzip, &deflated(plain.as_bytes()))), 200);
    let seen = gitea.seen();
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(body, plain);
    assert!(!head.to_lowercase().contains("content-encoding"), "{head}");
    let bomb = deflated(&vec![b'0'; 100 << 20]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(code(&bench.post(FETCH, gzip, &bomb)), "body_too_large");
    assert_eq!(code(&bench.post(FETCH, gzip, plain.as_bytes())), "content_encoding");
    assert_eq!(gitea.connections(), 1);
}

#[test]
fn each_request_is_a_line_of_the_log_with_its_figures_and_no_secret() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "000eunpack ok\n0000")));
    let bench = Bench::new(&gitea.base());
    bench.post(PUSH, "", &good_push());
    bench.get("/bob/workspace.git/HEAD", "");
    bench.post(PUSH, "", &push(&[format!("{A} {NONE} refs/heads/main")], ""));
    let lines = bench.log(3);
    let line = lines.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!((line["user"].as_str(), line["service"].as_str()), (Some("alice"), Some("git-receive-pack")));
    assert_eq!((line["method"].as_str(), line["code"].as_str()), (Some("POST"), Some("")));
    assert_eq!(
        (line["request_bytes"].as_u64(), line["answer_bytes"].as_u64()),
        (Some(good_push().len() as u64), Some(18))
    );
    assert!(line["ms"].is_u64() && line["uid"] == own_uid(), "{line}");
    let codes: Vec<&str> = lines.iter().filter_map(|line| line["code"].as_str()).collect();
    assert!(codes.contains(&"path_not_allowed") && codes.contains(&"push_not_allowed"), "{codes:?}");
    let all = String::from_utf8_lossy(&capture_log().lock().unwrap()).into_owned();
    for secret in [TOKEN, authorization().as_str(), "bob/workspace"] {
        assert!(!all.contains(secret), "{secret}");
    }
}

#[test]
fn refusals_that_cost_nothing_do_not_fill_the_log() {
    let gitea = Fake::start(Mode::Answer(Vec::new()));
    let bench = Bench::new(&gitea.base());
    for _ in 0..40 {
        bench.get("/", "");
    }
    // Sixteen, and then the thirty-second.
    assert_eq!(bench.log(17).len(), 17);
}

#[test]
fn more_requests_of_a_user_than_he_has_places_for_are_refused_and_the_places_come_back() {
    let gitea = Fake::start(Mode::Begin(Vec::new()));
    let waits = Waits { relay: limits::Waits { head: LONG, ..waits().relay }, ..waits() };
    let bench = Bench::with(&gitea.base(), waits, 1000);
    let most = crate::relay::git::limits::USER_REQUESTS;
    let request = format!("{}\r\n", bench.head("GET", REFS, ""));
    let held: Vec<TcpStream> = (0..most)
        .map(|_| {
            let mut stream = bench.connect();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let deadline = Instant::now() + LONG;
    let arrived = || gitea.seen().iter().filter(|request| request.ends_with("\r\n\r\n")).count();
    while arrived() < most && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!((arrived(), gitea.connections()), (most, most));
    let refused = bench.get(REFS, "");
    assert_eq!((status(&refused), code(&refused)), (503, "relay_busy"));
    drop(held);
    for _ in 0..most {
        assert_eq!(gitea.report(), 0, "a client that goes away takes its request along");
    }
    let mut stream = bench.connect();
    stream.write_all(request.as_bytes()).unwrap();
    while gitea.connections() == most && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(gitea.connections(), most + 1);
    let gone = bench.log(most + 1).iter().filter(|line| line["status"] == 499).count();
    assert_eq!(gone, most);
}

#[test]
fn bodies_stream_both_ways_while_they_come() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n\
                   Transfer-Encoding: chunked\r\n\r\n4\r\n0000\r\n";
    let gitea = Fake::start(Mode::Begin(answer.to_vec()));
    let bench = Bench::new(&gitea.base());
    let mut stream = bench.connect();
    let request = format!("{}Content-Length: 4\r\n\r\n0000", bench.head("POST", FETCH, ""));
    stream.write_all(request.as_bytes()).unwrap();
    let mut begin = Vec::new();
    // The first piece arrives although the answer never ends.
    while !begin.ends_with(b"0000\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        begin.push(byte[0]);
    }
    drop(stream);
    assert_eq!(gitea.report(), 0);
    // A push is on its way when its list is there, whatever is still to come.
    let gitea = Fake::start(Mode::Early(Vec::new()));
    let waits = Waits { body_idle: LONG, ..waits() };
    let bench = Bench::with(&gitea.base(), waits, 64 << 20);
    let mut stream = bench.connect();
    let head = format!("{}Content-Length: 1000000\r\n\r\n", bench.head("POST", PUSH, ""));
    stream.write_all(&[head.as_bytes(), &good_push()].concat()).unwrap();
    let deadline = Instant::now() + LONG;
    while gitea.connections() == 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(gitea.connections(), 1);
}
