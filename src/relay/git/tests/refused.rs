//! What a hostile git unit may try: none of it costs Gitea a byte.

use super::*;

/// That the same relay lets the honest request through, so that the refusals mean something.
fn honest_requests_pass(bench: &Bench, gitea: &Fake, before: usize) {
    assert_eq!(status(&bench.post(PUSH, "", &good_push())), 200);
    assert_eq!(gitea.connections(), before + 1);
}

#[test]
fn other_repositories_paths_hosts_methods_and_headers_are_refused_with_nothing_upstream() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "0000")));
    let bench = Bench::new(&gitea.base());
    let own = format!("127.0.0.1:{}", bench.port);
    for target in [
        "/bob/workspace.git/info/refs?service=git-upload-pack",
        "/bob/workspace.git/info/refs?service=git-receive-pack",
        "/alice/secrets.git/info/refs?service=git-upload-pack",
        "/alice/workspace.wiki.git/info/refs?service=git-upload-pack",
        "/ALICE/workspace.git/info/refs?service=git-upload-pack",
        "/alice/workspace/info/refs?service=git-upload-pack",
        "//alice/workspace.git/info/refs?service=git-upload-pack",
        "/alice//workspace.git/info/refs?service=git-upload-pack",
        "/./alice/workspace.git/info/refs?service=git-upload-pack",
        "/alice/../bob/workspace.git/info/refs?service=git-upload-pack",
        "/alice/workspace.git/../../bob/workspace.git/info/refs?service=git-upload-pack",
        "/alice/%2e%2e/bob/workspace.git/info/refs?service=git-upload-pack",
        "/alice%2fworkspace.git/info/refs?service=git-upload-pack",
        "/%61lice/workspace.git/info/refs?service=git-upload-pack",
        "/alice/workspace.git/info%2frefs?service=git-upload-pack",
        "/alice/workspace.git;/info/refs?service=git-upload-pack",
        "/alice\\workspace.git/info/refs?service=git-upload-pack",
        "/alice/workspace.git/info/refs",
        "/alice/workspace.git/info/refs?service=git-upload-archive",
        "/alice/workspace.git/info/refs?service=git-upload-pack&go-get=1",
        "/alice/workspace.git/info/refs?service=git-upload-pack%00",
        "/alice/workspace.git/HEAD",
        "/alice/workspace.git/config",
        "/alice/workspace.git/objects/info/alternates",
        "/alice/workspace.git/info/lfs/objects/batch",
        "/alice/workspace.git",
        "/api/v1/user",
        "/user/settings/applications",
        "/-/admin",
        "/",
        "http://example.org/alice/workspace.git/info/refs?service=git-upload-pack",
        "http://127.0.0.1/alice/workspace.git/info/refs?service=git-upload-pack",
        "@example.org/alice/workspace.git/info/refs?service=git-upload-pack",
    ] {
        let answer = bench.get(target, "");
        assert!((400..500).contains(&status(&answer)), "{target}: {answer}");
    }
    for method in ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "CONNECT", "get"] {
        let answer = bench.raw(format!("{}Connection: close\r\n\r\n", bench.head(method, REFS, "")).as_bytes());
        assert!((400..500).contains(&status(&answer)), "{method}: {answer}");
    }
    for more in [
        "Git-Protocol: version=3\r\n",
        "Git-Protocol: version=2:key=value\r\n",
        "Git-Protocol: \u{e9}\r\n",
        "Git-Protocol: version=2\r\nGit-Protocol: version=1\r\n",
        "Upgrade: h2c\r\nConnection: upgrade\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: gitea.example.org\r\n",
    ] {
        let answer = bench.get(REFS, more);
        assert!((400..500).contains(&status(&answer)), "{more}: {answer}");
    }
    for host in ["gitea.example.org", "127.0.0.1", "127.0.0.1:1", "", "[::1]:1", &format!("{own}, {own}")] {
        let answer = bench.raw(format!("GET {REFS} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(status(&answer), 400, "{host}: {answer}");
    }
    assert_eq!(gitea.connections(), 0);
    honest_requests_pass(&bench, &gitea, 0);
}

#[test]
fn pushes_that_delete_or_touch_other_refs_are_refused_with_nothing_upstream() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "0000")));
    let bench = Bench::new(&gitea.base());
    let good = format!("{A} {B} refs/heads/main\0 report-status");
    let mut bodies = Vec::new();
    for line in [
        format!("{A} {NONE} refs/heads/main\0 report-status delete-refs"),
        format!("{A} {NONE} refs/heads/other\0 report-status"),
        format!("{NONE} {B} refs/tags/v1\0 report-status"),
        format!("{NONE} {B} refs/for/main\0 report-status"),
        format!("{NONE} {B} refs/notes/commits"),
        format!("{NONE} {B} refs/pull/1/head"),
        format!("{NONE} {B} refs/meta/config"),
        format!("{NONE} {B} HEAD"),
        format!("{NONE} {B} refs/heads/../../config"),
        format!("{A} {B} refs/heads/main\0 report-status push-options"),
        format!("{A} {B} refs/heads/main\0 push-cert=nonce"),
        "push-cert\0 report-status\n".to_owned(),
        format!("shallow {A}"),
    ] {
        bodies.push(push(std::slice::from_ref(&line), ""));
        // As the second one, behind a good one.
        bodies.push(push(&[good.clone(), line], ""));
    }
    let list = packet(&good);
    let option = packet("ci.skip=1");
    for raw in [
        // What git takes for the end of a list, and what is no packet.
        format!("{list}0001PACK"),
        format!("{list}0002PACK"),
        format!("{list}0003PACK"),
        format!("{list}zzzzPACK"),
        format!("{list}-001PACK"),
        // A second list behind the first, and bodies that end early.
        format!("{list}0000{option}0000PACK"),
        format!("{list}0000{list}0000PACK"),
        format!("{list}0000"),
        format!("{list}0000PAC"),
        list.clone(),
        list[..20].to_owned(),
        String::from("00"),
    ] {
        bodies.push(raw.into_bytes());
    }
    let many: Vec<String> = (0..200).map(|n| format!("{A} {B} refs/heads/b{n}")).collect();
    bodies.push(push(&many, ""));
    bodies.push([b"ffe0".to_vec(), vec![b'x'; 200_000]].concat());
    for body in &bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let answer = bench.post(PUSH, "", body);
        assert_eq!((status(&answer), code(&answer)), (403, "push_not_allowed"), "{shown:?}: {answer}");
        let head = bench.head("POST", PUSH, "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let answer = bench.raw(&[head.as_bytes(), &chunked(&[body])].concat());
        assert_eq!((status(&answer), code(&answer)), (403, "push_not_allowed"), "{shown:?}: {answer}");
    }
    let empty = bench.post(PUSH, "", b"");
    assert_eq!(code(&empty), "push_not_allowed", "{empty}");
    assert_eq!(gitea.connections(), 0);
    honest_requests_pass(&bench, &gitea, 0);
}

#[test]
fn smuggling_is_refused_or_stays_two_requests_of_which_each_is_judged() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "0000")));
    let bench = Bench::new(&gitea.base());
    let body = good_push();
    let (n, hidden) = (body.len(), "GET /bob/workspace.git/HEAD HTTP/1.1\r\nHost: x\r\n\r\n");
    let framed = String::from_utf8_lossy(&chunked(&[&body])).into_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    let head = |more: &str| bench.head("POST", PUSH, &format!("{more}\r\n"));
    for request in [
        format!("{}{body}", head(&format!("Content-Length: {n}\r\nContent-Length: {}\r\n", n + 1))),
        format!("{}{body}", head(&format!("Content-Length: +{n}\r\n"))),
        format!("{}{body}", head(&format!("Content-Length: {n}, {n}x\r\n"))),
        format!("{}{body}", head(&format!("Content-Length : {n}\r\n"))),
        format!("{}{body}", head("Content-Length: -1\r\n")),
        format!("{}{framed}", head("Transfer-Encoding: xchunked\r\n")),
        format!("{}{framed}", head("Transfer-Encoding: identity\r\n")),
        format!("{}{framed}", head("Transfer-Encoding: gzip, chunked\r\n")),
        format!("{}{framed}", head("Transfer-Encoding: chunked, chunked\r\n")),
        format!("{}{framed}", head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        format!("{}{framed}", head("Transfer-Encoding : chunked\r\n")),
        format!("{}{framed}", head("Transfer-Encoding:\x0bchunked\r\n")),
        format!("{}{body}", head(&format!("X: a\nTransfer-Encoding: chunked\r\nContent-Length: {n}\r\n"))),
        format!("{}{body}", head(&format!("X: a\r\n folded\r\nContent-Length: {n}\r\n"))),
        format!("{}{body}", head(&format!("X: a\0b\r\nContent-Length: {n}\r\n"))),
        format!("{}{body}", head(&format!("Content-Length: {n}\r\n"))).replace("HTTP/1.1", "HTTP/1.0"),
        format!("{}{body}", head(&format!("Content-Length: {n}\r\n"))).replace("HTTP/1.1", "HTTP/2.0"),
        format!("{}{body}", head(&format!("Content-Length: {n}\r\n"))).replace("POST /", "POST  /"),
        format!("{}{body}", head(&format!("Content-Length: {n}\r\n{}", "X: y\r\n".repeat(70)))),
        format!("{}{body}", head(&format!("Content-Length: {n}\r\nX: {}\r\n", "y".repeat(20_000)))),
        format!("{}zz\r\n{body}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked\r\n")),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}", head("Content-Length: 0\r\n")),
    ] {
        let answer = bench.raw(request.as_bytes());
        let shown = request.get(..300).unwrap_or(&request);
        assert!((400..600).contains(&status(&answer)) || answer.is_empty(), "{shown}: {answer}");
    }
    assert_eq!(gitea.connections(), 0);

    // A second request behind the first is one of its own, and is refused.
    let answer = bench.raw(format!("{}{body}{hidden}", head(&format!("Content-Length: {n}\r\n"))).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(answer.contains("HTTP/1.1 404"), "{answer}");
    // A chunked body ends where it says, whatever length is told beside it; what follows is not read as its rest.
    let both = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", framed.len() + hidden.len());
    let answer = bench.raw(format!("{}{framed}{hidden}", head(&both)).as_bytes());
    assert!(status(&answer) == 200 || status(&answer) == 400, "{answer}");
    for request in gitea.seen() {
        assert_eq!(request.matches("HTTP/1.1\r\n").count(), 1, "{request}");
        assert!(!request.contains("bob") && request.starts_with(&format!("POST {PUSH} ")), "{request}");
        let lower = request.to_lowercase();
        assert_eq!(
            lower.matches("content-length").count() + lower.matches("transfer-encoding").count(),
            1,
            "{request}"
        );
    }
}

#[test]
fn bodies_beyond_the_limits_are_refused_or_cut_and_slow_ones_are_ended() {
    let gitea = Fake::start(Mode::Answer(ok("receive-pack-result", "0000")));
    let bench = Bench::with(&gitea.base(), waits(), 10_000);
    let large = |size: usize| push(&[format!("{A} {B} refs/heads/main")], &"x".repeat(size));
    // A length that is told is refused before anything goes upstream.
    let answer = bench.post(PUSH, "", &large(20_000));
    assert_eq!((status(&answer), code(&answer)), (413, "body_too_large"), "{answer}");
    let answer = bench.post(FETCH, "", &vec![b'0'; (4 << 20) + 1]);
    assert_eq!((status(&answer), code(&answer)), (413, "body_too_large"), "{answer}");
    assert_eq!(gitea.connections(), 0);
    // One that is not told is cut at the limit.
    let head = bench.head("POST", PUSH, "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let body = large(60_000);
    let pieces: Vec<&[u8]> = body.chunks(1000).collect();
    let answer = bench.raw(&[head.as_bytes(), &chunked(&pieces)].concat());
    assert_eq!((status(&answer), code(&answer)), (413, "body_too_large"), "{answer}");
    assert!(gitea.seen().iter().all(|request| request.len() < 12_000 && !request.ends_with("0\r\n\r\n")));
    // Half a list, half a pack, half a head: each is ended in time.
    let half = format!("{}Content-Length: 9000\r\n\r\n0", bench.head("POST", PUSH, ""));
    assert_eq!(code(&bench.raw(half.as_bytes())), "body_timeout");
    let begun = format!("{}Content-Length: 9000\r\n\r\n", bench.head("POST", PUSH, ""));
    assert_eq!(code(&bench.raw(&[begun.as_bytes(), &large(10)].concat())), "body_timeout");
    let answer = bench.raw(b"POST /alice");
    assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
}
