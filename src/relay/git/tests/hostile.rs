//! A Gitea that is not one, or has a bad day: the token is seen by nobody else, and nothing is without a limit.

use super::*;

fn answer(status: &str, more: &str, body: &str) -> Mode {
    let text = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
    Mode::Answer(text.into_bytes())
}

#[test]
fn no_redirect_of_any_kind_is_followed_and_the_token_is_seen_by_the_right_origin_only() {
    let trap = Fake::start(Mode::Answer(ok("upload-pack-advertisement", "0000")));
    let elsewhere = trap.port();
    for status_line in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent", "300 Choices"] {
        for place in [
            format!("http://127.0.0.1:{elsewhere}{REFS}"),
            format!("http://localhost:{elsewhere}{REFS}"),
            format!("//127.0.0.1:{elsewhere}{REFS}"),
            "/bob/workspace.git/info/refs?service=git-upload-pack".to_owned(),
            REFS.to_owned(),
            format!("http://user:pw@127.0.0.1:{elsewhere}/"),
        ] {
            let more = format!(
                "Location: {place}\r\nRefresh: 0;url={place}\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
                 Content-Location: {place}\r\nAlt-Svc: h2=\"127.0.0.1:{elsewhere}\"\r\n"
            );
            let gitea = Fake::start(answer(status_line, &more, "moved"));
            let bench = Bench::new(&gitea.base());
            for reply in [bench.get(REFS, ""), bench.post(FETCH, "", b"0000"), bench.post(PUSH, "", &good_push())] {
                assert_eq!((status(&reply), code(&reply)), (502, "gitea_redirect"), "{status_line} {place}: {reply}");
                assert!(!reply.contains(&elsewhere.to_string()) && !reply.contains("bob"), "{reply}");
            }
            let seen = gitea.seen();
            assert_eq!(seen.len(), 3, "no second try");
            assert!(seen.iter().all(|request| request.contains(&authorization())));
        }
    }
    // A challenge, then a redirect: no credential is kept for whoever comes next.
    let challenge = answer("401 Unauthorized", &format!("WWW-Authenticate: Basic\r\nLocation: {REFS}\r\n"), "");
    let gitea = Fake::start(challenge);
    let reply = Bench::new(&gitea.base()).get(REFS, "");
    assert_eq!((status(&reply), code(&reply)), (401, "gitea_unauthorized"));
    assert!(!reply.to_lowercase().contains("www-authenticate"), "{reply}");
    assert_eq!(trap.connections(), 0);
    // The trap works: it answers whoever does come.
    let bench = Bench::new(&trap.base());
    assert_eq!(status(&bench.get(REFS, "")), 200);
    assert_eq!(trap.connections(), 1);
}

#[test]
fn statuses_come_back_with_a_reason_and_without_giteas_words() {
    for (line, expected, reason) in [
        ("401 Unauthorized", 401, "gitea_unauthorized"),
        ("403 Forbidden", 403, "gitea_forbidden"),
        ("404 Not Found", 404, "gitea_not_found"),
        ("413 Too Large", 413, "gitea_too_large"),
        ("429 Slow Down", 429, "gitea_busy"),
        ("500 Oops", 500, "gitea_error"),
        ("502 Bad Gateway", 502, "gitea_error"),
        ("503 Unavailable", 503, "gitea_error"),
        ("204 No Content", 502, "gitea_unexpected"),
        ("206 Partial Content", 502, "gitea_unexpected"),
        ("304 Not Modified", 502, "gitea_redirect"),
        ("400 Bad Request", 502, "gitea_unexpected"),
    ] {
        let gitea = Fake::start(answer(line, "Content-Type: text/html\r\n", &format!("<p>{TOKEN}</p>")));
        let bench = Bench::new(&gitea.base());
        for reply in [bench.get(REFS, ""), bench.post(PUSH, "", &good_push())] {
            assert_eq!((status(&reply), code(&reply)), (expected, reason), "{line}: {reply}");
            assert!(!reply.contains(TOKEN), "{reply}");
        }
        assert!(bench.log(2).iter().all(|line| line["code"] == reason));
    }
}

#[test]
fn what_does_not_speak_git_is_an_error() {
    let media = "Content-Type: application/x-git-upload-pack-advertisement\r\n";
    for mode in [
        answer("200 OK", "Content-Type: text/html\r\n", "<html>"),
        answer("200 OK", "", "0000"),
        answer("200 OK", "Content-Type: application/x-git-receive-pack-advertisement\r\n", "0000"),
        answer("200 OK", &format!("{media}Content-Encoding: gzip\r\n"), "0000"),
        Mode::Answer(b"not http at all\r\n\r\n".to_vec()),
        Mode::Answer(Vec::new()),
        Mode::Answer(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec()),
    ] {
        let gitea = Fake::start(mode.clone());
        let reply = Bench::new(&gitea.base()).get(REFS, "");
        assert_eq!(status(&reply), 502, "{mode:?}: {reply}");
        assert!(code(&reply).starts_with("gitea_un"), "{mode:?}: {reply}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let reply = Bench::new(&format!("http://127.0.0.1:{free}")).get(REFS, "");
    assert_eq!((status(&reply), code(&reply)), (502, "gitea_unreachable"));
}

#[test]
fn huge_and_endless_heads_are_an_error_after_a_bounded_number_of_bytes() {
    let line = format!("X: {}\r\n", "y".repeat(8000));
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\n", line.repeat(9)),
        ("HTTP/1.1 200 OK\r\nX: ", "y".repeat(9000)),
        ("", format!("HTTP/1.1 103 Early Hints\r\n{}\r\n", line.repeat(9))),
        ("HTTP/1.1 200 ", "O".repeat(9000)),
    ] {
        let gitea = Fake::start(Mode::Endless(head.as_bytes().to_vec(), piece.clone().into_bytes()));
        let waits = Waits { upstream_idle: Duration::from_secs(1), ..waits() };
        let bench = Bench::with(&gitea.base(), waits, 1000);
        let reply = bench.get(REFS, "");
        assert!([502, 504].contains(&status(&reply)), "{head:?} {reply}");
        // An interim answer is thrown away as it comes; it is time that ends those.
        let sent = gitea.report();
        assert!(piece.contains("103 Early") || sent < 64 << 20, "{head:?}: {sent} bytes");
    }
}

#[test]
fn endless_answers_are_cut_at_their_limit_and_do_not_look_whole() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
    let piece = chunk(&"x".repeat(50_000));
    for (target, media, most) in [
        (REFS, "upload-pack-advertisement", crate::relay::git::limits::MAX_ADVERTISEMENT),
        (FETCH, "upload-pack-result", 3_000_000),
        (PUSH, "receive-pack-result", 1 << 20),
    ] {
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-git-{media}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let gitea = Fake::start(Mode::Endless(head.into_bytes(), piece.clone()));
        let bench = Bench::with(&gitea.base(), waits(), 3_000_000);
        let reply = match target {
            REFS => bench.get(REFS, ""),
            FETCH => bench.post(FETCH, "", b"0000"),
            _ => bench.post(PUSH, "", &good_push()),
        };
        assert!(!reply.ends_with("0\r\n\r\n"), "{target}: a cut answer must not look whole");
        assert!(reply.len() as u64 <= most + most / 10 + 100_000, "{target}: {} bytes", reply.len());
        gitea.report();
        assert_eq!(bench.log(1)[0]["code"], "gitea_answer_too_large");
        // And one that tells its length is not even begun.
        let told = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-{media}\r\nContent-Length: {}\r\n\r\nx",
            most + 1
        );
        let gitea = Fake::start(Mode::Begin(told.into_bytes()));
        let bench = Bench::with(&gitea.base(), waits(), 3_000_000);
        let reply = match target {
            REFS => bench.get(REFS, ""),
            FETCH => bench.post(FETCH, "", b"0000"),
            _ => bench.post(PUSH, "", &good_push()),
        };
        assert_eq!((status(&reply), code(&reply)), (502, "gitea_answer_too_large"), "{target}: {reply}");
    }
}

#[test]
fn a_gitea_that_falls_silent_is_a_504_before_the_answer_and_a_cut_within_it() {
    let waits = Waits { upstream_idle: Duration::from_millis(300), ..waits() };
    let begun = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\
                 Transfer-Encoding: chunked\r\n\r\n4\r\n0000\r\n";
    for (mode, expected, reason) in [
        (Mode::Begin(Vec::new()), 504, "gitea_timeout"),
        (Mode::Begin(b"HTTP/1.1 200 OK\r\nContent-".to_vec()), 504, "gitea_timeout"),
        (Mode::Begin(begun.as_bytes().to_vec()), 200, "gitea_timeout"),
        (Mode::Answer(begun.as_bytes().to_vec()), 200, "gitea_cut"),
    ] {
        let gitea = Fake::start(mode.clone());
        let bench = Bench::with(&gitea.base(), waits, 1000);
        let reply = bench.get(REFS, "");
        // What is cut before anything was passed on is no answer at all.
        assert!(status(&reply) == expected || (reply.is_empty() && reason == "gitea_cut"), "{mode:?}: {reply}");
        assert!(!reply.ends_with("0\r\n\r\n"), "a cut answer must not look whole: {reply}");
        assert_eq!(bench.log(1)[0]["code"], reason);
    }
}

#[test]
fn an_answer_that_trickles_and_one_that_never_begins_end_with_the_requests_time() {
    let waits = Waits { request: Duration::from_millis(900), ..waits() };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nContent-Length: 90000\r\n\r\n";
    // It is never silent for long.
    let gitea = Fake::start(Mode::Trickle(head.as_bytes().to_vec()));
    let bench = Bench::with(&gitea.base(), Waits { upstream_idle: Duration::from_millis(700), ..waits }, 64 << 20);
    let reply = bench.post(FETCH, "", b"0000");
    assert!(status(&reply) == 200 && reply.ends_with("xxxx") && reply.len() < 1000, "{reply}");
    assert_eq!(bench.log(1)[0]["code"], "gitea_timeout");
    let gitea = Fake::start(Mode::Begin(Vec::new()));
    let bench = Bench::with(&gitea.base(), waits, 64 << 20);
    let reply = bench.post(PUSH, "", &good_push());
    assert_eq!((status(&reply), code(&reply)), (504, "gitea_timeout"), "{reply}");
}

#[test]
fn a_client_that_still_sends_gets_to_read_why_it_need_not() {
    let pack = "x".repeat(20 << 20);
    let commands = [format!("{A} {B} refs/heads/main\0 report-status")];
    // Gitea, or a proxy before it, has enough and says so at once.
    let refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for mode in [Mode::Early(refusal.to_vec()), Mode::Answer(refusal.to_vec())] {
        let gitea = Fake::start(mode);
        let reply = Bench::new(&gitea.base()).post(PUSH, "", &push(&commands, &pack));
        assert_eq!((status(&reply), code(&reply)), (413, "gitea_too_large"));
    }
    // The relay itself has.
    let gitea = Fake::start(Mode::Answer(Vec::new()));
    let bench = Bench::new(&gitea.base());
    let reply = bench.post(PUSH, "", &push(&[format!("{A} {NONE} refs/heads/main")], &pack));
    assert_eq!((status(&reply), code(&reply)), (403, "push_not_allowed"));
    let reply = bench.post("/bob/workspace.git/git-receive-pack", "", &push(&commands, &pack));
    assert_eq!((status(&reply), code(&reply)), (404, "path_not_allowed"));
    assert_eq!(gitea.connections(), 0);
}
