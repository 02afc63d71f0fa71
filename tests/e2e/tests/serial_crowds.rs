//! Very many clients at once: ten thousand connections, and hundreds of subscribers that do not read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pi_gateway_e2e::wire::{connect, front_descriptors, front_memory, held_ports, rest};
use pi_gateway_e2e::{Event, User, sh, testhost};

/// What the front may take beyond its rest with ten thousand clients: 256 MiB. Measured: 130 MiB.
const CROWD_KIB: usize = 256 << 10;
/// What it may take beyond its rest with 200 subscribers that do not read: 64 MiB. Measured: 35 MiB.
const STALLED_KIB: usize = 64 << 10;

/// Asks until something is so; fails after so many seconds.
fn within(seconds: u64, what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(seconds), "not within {seconds} s: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn may_open(descriptors: usize) {
    sh(&format!("prlimit --pid {} --nofile={descriptors}:{descriptors}", std::process::id()));
}

#[test]
fn ten_thousand_connections_at_once_are_served_and_so_is_everybody_else() {
    testhost();
    may_open(20_000);
    let user = User::new("crowd");
    assert_eq!(user.get("/runs").status, 200);
    within(30, "nobody is connected", || held_ports().is_empty());
    let (descriptors, memory) = (front_descriptors(), front_memory());
    let (mut most, mut peak) = (0, memory);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(user.get("/runs").status, 200);
                served += 1;
                thread::sleep(Duration::from_millis(20));
            }
            served
        });
        let mut crowd: Vec<TcpStream> = Vec::new();
        for _ in 0..10_000 {
            let mut stream = connect();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
            crowd.push(stream);
        }
        // Each stays for another 10 s: the server waits for a further request.
        let mut look = || {
            most = most.max(front_descriptors());
            peak = peak.max(front_memory());
        };
        look();
        for stream in &mut crowd {
            let mut start = [0; 12];
            stream.read_exact(&mut start).expect("an answer");
            assert_eq!(&start, b"HTTP/1.1 200");
        }
        look();
        stop.store(true, Ordering::Relaxed);
        let served = other.join().expect("somebody else was not served");
        assert!(served > 10, "the other client was served {served} times only");
        within(30, "the server has closed every one", || {
            look();
            held_ports().is_empty()
        });
    });
    println!("at rest {memory} KiB, at most {most} descriptors and {peak} KiB");
    assert!(most > 9_000, "at most {most} were connected at once: no crowd");
    assert!(peak.saturating_sub(memory) < CROWD_KIB, "{memory} became {peak} KiB");
    within(20, "the descriptors are closed", || front_descriptors() <= descriptors + 2);
}

#[test]
fn subscribers_that_never_read_cost_nothing_and_are_closed_while_others_get_every_event() {
    testhost();
    may_open(20_000);
    let user = User::new("stalled");
    within(30, "nobody is connected", || held_ports().is_empty());
    let id = user.start("[[bash sleep 2]][[long 80000]]");
    let memory = front_memory();
    let mut peak = memory;
    let subscribe =
        format!("GET /runs/{id}/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\r\n", user.token);
    let mut stalled: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(subscribe.as_bytes()).unwrap();
            stream
        })
        .collect();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| user.events(&id))).collect();
        while readers.iter().any(|reader| !reader.is_finished()) {
            peak = peak.max(front_memory());
            thread::sleep(Duration::from_millis(100));
        }
        let seen: Vec<Vec<Event>> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!(seen[0].last().unwrap().data["status"], "succeeded");
        for (number, event) in seen[0].iter().enumerate() {
            assert!(event.id.starts_with(&format!("{}-", number + 1)), "a gap before {event:?}");
        }
        assert!(seen.iter().all(|events| *events == seen[0]), "subscribers saw different events");
        println!("{} events", seen[0].len());
    });
    // The run goes on being sent to nobody; what is not taken for 15 s is given up.
    within(30, "those that do not read are closed", || {
        peak = peak.max(front_memory());
        held_ports().is_empty()
    });
    let whole = sh(&format!("stat -c %s /var/lib/pi-gateway/front/users/{}/runs/{id}/events*", user.name))
        .parse::<usize>()
        .unwrap();
    println!("at rest {memory} KiB, at most {peak} KiB, log {whole} bytes");
    for stream in &mut stalled {
        let received = rest(stream);
        assert!(received.starts_with(b"HTTP/1.1 200 "));
        assert!(received.len() < whole, "it was sent everything: no stall");
    }
    assert!(peak.saturating_sub(memory) < STALLED_KIB, "{memory} became {peak} KiB");
}

/// The status of an answer whose body nobody reads.
fn unread(path: &str, token: &str) -> (u16, TcpStream) {
    let mut stream = connect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).expect("an answer");
    (String::from_utf8_lossy(&start[9..]).parse().unwrap(), stream)
}

#[test]
fn a_user_has_so_many_requests_and_streams_at_a_time_and_others_are_served() {
    testhost();
    may_open(20_000);
    let (user, other) = (User::new("many"), User::new("few"));
    // Requests whose bodies do not come.
    let headers = [("Content-Type", "application/json"), ("Content-Length", "100")];
    let request = pi_gateway_e2e::http::raw("POST", "/runs", Some(&user.token), &headers, None);
    let hold = || {
        let mut stream = connect();
        stream.write_all(&request).unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = (0..128).map(|_| hold()).collect();
    within(8, "all of his places are taken", || {
        // The question takes a place as well, perhaps of one of those.
        let taken = user.get("/runs").status == 429;
        held.push(hold());
        taken
    });
    user.get("/runs").is_problem(429, "too_many_requests");
    assert_eq!(user.get("/runs").header("retry-after"), Some("1"));
    assert_eq!(other.get("/runs").status, 200);
    assert_eq!(user.get("/health").status, 200, "what is public counts for nobody");
    drop(held);
    within(20, "their places are free again", || user.get("/runs").status == 200);

    let id = user.start("[[bash sleep 20]]");
    let events = format!("/runs/{id}/events");
    let mut held: Vec<TcpStream> = Vec::new();
    for number in 0..256 {
        let (status, stream) = unread(&events, &user.token);
        assert_eq!(status, 200, "stream {number}");
        held.push(stream);
    }
    user.get(&events).is_problem(429, "too_many_streams");
    assert_eq!(user.get(&format!("/runs/{id}")).status, 200, "streams take no place of requests");
    assert_eq!(other.run("[[say done]]")["status"], "succeeded");
    drop(held);
    let answer =
        || pi_gateway_e2e::http::open(&pi_gateway_e2e::http::raw("GET", &events, Some(&user.token), &[], None));
    within(20, "their places are free again", || answer().is_ok_and(|answer| answer.status == 200));
    user.post(&format!("/runs/{id}/cancel"), &[], &serde_json::json!({}));
    user.finished(&id);
}
