//! The reverse proxies of docs/operations.md, real ones, with the configurations that stand there: events come one by one and a
//! quiet stream stays, tokens and the largest uploads pass, and a client that hangs up is gone for the gateway as well.

use pi_gateway_e2e::proxy::{Proxy, bearer};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::json;

/// `MAX_UPLOAD_MB` unless set, in bytes.
const UPLOAD: usize = 50 << 20;

fn proxies() -> [Proxy; 2] {
    testhost();
    [Proxy::nginx(), Proxy::caddy()]
}

#[test]
fn tokens_errors_and_request_ids_pass() {
    for proxy in proxies() {
        let user = User::new("proxied");
        let none = proxy.fetch("/session", &[]);
        assert_eq!(none.status, 401, "{}", proxy.kind);
        assert!(none.headers.contains("www-authenticate: bearer"), "{}: {}", proxy.kind, none.headers);
        assert!(none.headers.contains("application/problem+json"), "{}: {}", proxy.kind, none.headers);
        let good = proxy.fetch("/session", &["-H", &bearer(&user), "-H", "X-Request-Id: from-the-portal"]);
        assert_eq!(good.status, 200, "{}: {}", proxy.kind, good.body);
        assert!(good.headers.contains("x-request-id: from-the-portal"), "{}: {}", proxy.kind, good.headers);
        let old = proxy.fetch("/health", &["--http1.1"]);
        assert_eq!((old.status, proxy.fetch("/health", &["--http2"]).status), (200, 200), "{}", proxy.kind);
    }
}

#[test]
fn events_come_one_by_one_while_the_run_goes_on_and_a_stream_is_resumed() {
    for proxy in proxies() {
        let user = User::new("stepwise");
        let id = user.start("[[slow 60 100]]");
        let mut lines = proxy.follow(&user, &id);
        let first = lines.find(|line| line.starts_with("event: text.delta")).expect("text");
        // What is collected somewhere comes with the end only.
        let status = user.get(&format!("/runs/{id}")).json()["status"].clone();
        assert_eq!(status, "running", "{} {first}", proxy.kind);
        let last = lines.find_map(|line| line.strip_prefix("id: ").map(|id| id.trim().to_owned())).expect("an id");
        drop(lines);
        let again = proxy
            .fetch(&format!("/runs/{id}/events"), &["-H", &bearer(&user), "-H", &format!("Last-Event-ID: {last}")]);
        let rest: Vec<&str> = again.body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        let all = user.events(&id);
        let known = all.iter().position(|event| event.id == last).unwrap();
        assert_eq!(rest, all[known + 1..].iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), "{}", proxy.kind);
    }
}

#[test]
fn a_stream_that_says_nothing_for_more_than_a_minute_stays() {
    let proxies = proxies();
    let user = User::new("patient");
    let id = user.start("[[bash sleep 70]]");
    std::thread::scope(|scope| {
        for proxy in &proxies {
            scope.spawn(|| {
                let lines: Vec<String> = proxy.follow(&user, &id).collect();
                let beats = lines.iter().filter(|line| line.starts_with(':')).count();
                assert!(beats >= 4, "{}: {beats} heartbeats", proxy.kind);
                assert!(lines.iter().any(|line| line.starts_with("event: run.finished")), "{}", proxy.kind);
                assert_eq!(lines.iter().filter(|line| line.starts_with("id: 1-")).count(), 1, "{}", proxy.kind);
            });
        }
    });
}

#[test]
fn the_largest_upload_passes_and_a_larger_one_changes_nothing() {
    sh(&format!(
        "head -c {UPLOAD} /dev/urandom >/root/proxy-upload; cp /root/proxy-upload /root/proxy-more; echo >>/root/proxy-more"
    ));
    for proxy in proxies() {
        let user = User::new("large");
        let path = "/workspace/files/content?path=large";
        let made = proxy.fetch(path, &["-H", &bearer(&user), "-T", "/root/proxy-upload"]);
        assert_eq!(made.status, 201, "{}: {}", proxy.kind, made.body);
        sh(&format!("cmp /root/proxy-upload {}/large", user.workspace()));
        // The gateway refuses before it has read it all. nginx waits for that answer; Caddy sees it only if it comes before the
        // connection breaks under what it still sends.
        let more = proxy.try_fetch(path, &["-H", &bearer(&user), "-T", "/root/proxy-more"]);
        match more {
            Some(more) if proxy.kind == "nginx" => {
                assert_eq!(more.status, 413);
                assert!(more.body.contains("payload_too_large"), "{}", more.body);
            }
            Some(more) => assert!(more.status == 413 || more.status == 502, "{}", more.status),
            None => assert_eq!(proxy.kind, "caddy", "no answer"),
        }
        sh(&format!("cmp /root/proxy-upload {}/large", user.workspace()));
        // Parts have heads of their own.
        let form = ["-H", &bearer(&user), "-F", "file=@/root/proxy-upload;filename=part"];
        let parts = proxy.fetch("/workspace/files", &form);
        assert!(parts.status == 200 || parts.status == 201, "{}: {} {}", proxy.kind, parts.status, parts.body);
        let back = proxy
            .curl("/workspace/files/content?path=part", &["-H", &bearer(&user), "-o", "/root/proxy-back"])
            .status();
        assert!(back.unwrap().success());
        sh("cmp /root/proxy-upload /root/proxy-back");
    }
    sh("rm -f /root/proxy-upload /root/proxy-more /root/proxy-back");
}

#[test]
fn a_client_that_hangs_up_leaves_no_stream_behind_in_the_gateway() {
    for proxy in proxies() {
        let user = User::new("fickle");
        let id = user.start("[[slow 4000 20]]");
        // More, one after the other, than the 256 that a user may have at a time.
        let upstream = || sh("ss -Htn state established '( sport = :8787 )' | wc -l").parse::<usize>().unwrap();
        for _ in 0..30 {
            proxy.follow(&user, &id).find(|line| line.starts_with("event: run.started")).expect("the beginning");
        }
        // What is kept open to the gateway for the next request is no stream.
        until("the streams are gone", || (upstream() < 20).then_some(()));
        user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
        user.finished(&id);
    }
}
