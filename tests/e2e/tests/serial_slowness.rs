//! Clients that are slow on purpose: each is closed in time while the others are served, and nobody honest is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::http::raw;
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::wire::{closed_after, connect, rest, statuses, text};
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::json;

/// A prompt whose run is an answer that no socket's buffers hold.
fn large(user: &User) -> String {
    let prompt = format!("{} [[say done]]", "x".repeat(6 << 20));
    let id = user.start(&prompt);
    user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    user.finished(&id);
    format!("/runs/{id}")
}

fn kept_alive(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
}

fn post(path: &str, token: &str, framing: &str) -> Vec<u8> {
    let start = format!("POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n");
    format!("{start}Content-Type: application/json\r\n{framing}\r\n\r\n").into_bytes()
}

fn opened(bytes: &[u8]) -> TcpStream {
    let mut stream = connect();
    stream.write_all(bytes).unwrap();
    stream
}

/// Sends a byte now and then until the server has closed.
fn trickle(mut stream: &TcpStream) {
    let _ = stream.write(b"1");
}

/// Is served again and again until told to stop; gives how often. Fails at the first time it is not.
fn bystander(user: &User, stop: &AtomicBool) -> usize {
    let mut served = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(user.get("/health").status, 200);
        assert_eq!(user.get("/runs").status, 200);
        served += 1;
        thread::sleep(Duration::from_millis(20));
    }
    served
}

#[test]
fn every_form_of_slowness_is_closed_within_30_s_while_others_are_served() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo REQUEST_TIMEOUT_MS=8000 >> {FILE}; systemctl restart pi-gateway-launcher pi-gateway"));
    until_ready();
    let (user, other) = (User::new("slow"), User::new("bystander"));
    let path = large(&user);
    let token = user.token.as_str();
    let stop = AtomicBool::new(false);
    let closed = AtomicUsize::new(0);
    let until_closed = |what: &str, stream: TcpStream, meanwhile: fn(&TcpStream)| {
        let after = closed_after(what, &stream, meanwhile);
        println!("{what}: closed after {:.1} s", after.as_secs_f32());
        closed.fetch_add(1, Ordering::Relaxed);
        stream
    };
    let is_408 = |what: &str, mut stream: TcpStream| {
        assert_eq!(statuses(&rest(&mut stream)), [408], "{what}");
    };
    thread::scope(|scope| {
        let served = scope.spawn(|| bystander(&other, &stop));
        let forms = [
            scope.spawn(|| drop(until_closed("silence", connect(), |_| ()))),
            scope.spawn(|| {
                let head = opened(b"GET /health HTTP/1.1\r\nHost: gateway\r\nX-Slow: ");
                drop(until_closed("a head that trickles", head, trickle));
            }),
            scope.spawn(|| {
                let mut idle = opened(&kept_alive("/health", token));
                assert!(idle.read(&mut [0; 4096]).unwrap() > 0);
                drop(until_closed("idle between requests", idle, |_| ()));
            }),
            scope.spawn(|| {
                let what = "a body of known length that stalls";
                is_408(what, until_closed(what, opened(&post("/runs", token, "Content-Length: 1000")), |_| ()));
            }),
            scope.spawn(|| {
                // The time that a run may be waited for is no time for its request to arrive.
                let what = "a body of known length that trickles, with a wait";
                let body = opened(&post("/runs?wait=30", token, "Content-Length: 1000"));
                is_408(what, until_closed(what, body, trickle));
            }),
            scope.spawn(|| {
                let what = "a chunked body that stalls";
                let chunked = opened(&[&*post("/runs", token, "Transfer-Encoding: chunked"), b"5\r\n{\"p"].concat());
                is_408(what, until_closed(what, chunked, |_| ()));
            }),
            scope.spawn(|| {
                let what = "a chunked body that trickles";
                let chunked = opened(&[&*post("/runs", token, "Transfer-Encoding: chunked"), b"ff\r\n"].concat());
                is_408(what, until_closed(what, chunked, trickle));
            }),
            scope.spawn(|| {
                let body = opened(&post(&format!("{path}/cancel"), token, "Content-Length: 1000"));
                drop(until_closed("a body that nobody asked for and that does not come", body, |_| ()));
            }),
            scope.spawn(|| {
                drop(until_closed("an answer that is not read", opened(&kept_alive(&path, token)), |_| ()));
            }),
            scope.spawn(|| {
                let pipelined = kept_alive("/openapi.json", token).repeat(200);
                let stream = opened(&pipelined);
                stream.set_nonblocking(true).unwrap();
                let more =
                    |mut stream: &TcpStream| drop(stream.write(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"));
                drop(until_closed("requests in a row whose answers are not read", stream, more));
            }),
        ];
        // His own bodies that do not come are not in the way of what he asks for besides.
        assert_eq!(user.get("/runs").status, 200);
        let count = forms.len();
        let results: Vec<_> = forms.into_iter().map(|form| form.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let served = served.join().expect("somebody else was not served");
        assert!(results.iter().all(Result::is_ok), "a form of slowness was not closed");
        assert_eq!(closed.load(Ordering::Relaxed), count);
        assert!(served > 5, "the bystander was served {served} times only");
    });
    assert_eq!(user.get("/runs").json()["data"].as_array().unwrap().len(), 1, "a request that never came made a run");
}

#[test]
fn a_client_that_is_slow_within_the_deadlines_is_served() {
    testhost();
    let user = User::new("honest");
    let path = large(&user);
    let body = json!({"prompt": "[[say slow but honest]]"}).to_string();
    let request =
        raw("POST", "/runs?wait=30", Some(&user.token), &[("Content-Type", "application/json")], Some(body.as_bytes()));
    let mut stream = connect();
    // About two seconds for the head and another two for the body.
    for piece in request.chunks(request.len().div_ceil(20)) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(200));
    }
    let answer = text(&rest(&mut stream));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("slow but honest"), "{answer}");

    let mut stream = opened(&kept_alive(&path, &user.token));
    let (mut count, mut buffer) = (0, vec![0; 128 << 10]);
    while count < 6 << 20 {
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "cut off after {count} bytes");
        count += read;
        thread::sleep(Duration::from_millis(50));
    }
}
