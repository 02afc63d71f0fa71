//! How long a listener is served: as long as the process that handed it over, and over restarts of the relay.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;

/// A process of its own that connects with our socket, so that the kernel names it as the peer. It lives until its
/// standard output's reader, we, is gone or it is killed.
fn other_process(bench: &Bench) -> (Child, OwnedFd) {
    let ours = peer();
    let script = r#"use Socket; connect(STDIN, pack_sockaddr_un($ARGV[0])) or die "connect: $!"; $| = 1; print "connected\n"; sleep 60;"#;
    let mut child = Command::new("/usr/bin/perl")
        .args(["-e", script])
        .arg(bench.socket())
        .stdin(Stdio::from(ours.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"connected\n");
    (child, ours)
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until nothing accepts on the port any more: the listener is shut down when it is let go.
fn refuses_connections(bench: &Bench) -> bool {
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        if TcpStream::connect(("127.0.0.1", bench.port)).is_err() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn the_listener_is_let_go_when_its_process_ends_and_streams_end_with_it() {
    let upstream = Fake::start(Mode::Begin);
    let mut bench = Bench::new(&upstream);
    let run = Uuid::now_v7();
    let (child, connection) = other_process(&bench);
    send(&connection, format!("1 model {run}").as_bytes(), &[bench.listener.as_fd()]);
    assert_eq!(receive(&connection), "ok");
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    end(child);
    assert_eq!(upstream.report(), 0, "the upstream request is dropped");
    read_all(&mut stream);
    assert!(refuses_connections(&bench));
    assert_eq!(bench.usage(run).requests, 1);
}

#[test]
fn a_dead_processs_place_is_taken_by_the_next_one() {
    let upstream = Fake::start(Mode::Whole);
    let bench = Bench::new(&upstream);
    let (child, connection) = other_process(&bench);
    send(&connection, format!("1 model {}", Uuid::now_v7()).as_bytes(), &[bench.listener.as_fd()]);
    assert_eq!(receive(&connection), "ok");
    let spare = bench.listener.try_clone().unwrap();
    end(child);
    // The old socket is shut down with its process, so the next run brings one of its own on the same port.
    assert!(refuses_connections(&bench));
    drop(spare);
    let fresh = rebind(bench);
    let (bench, _) = fresh.handed_over();
    assert_eq!(status(&bench.post("", BODY)), 200);
}

/// Replaces the bench's listener by a new one on the same port.
fn rebind(mut bench: Bench) -> Bench {
    let placeholder = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(std::mem::replace(&mut bench.listener, placeholder));
    let deadline = Instant::now() + LONG;
    bench.listener = loop {
        match TcpListener::bind(("127.0.0.1", bench.port)) {
            Ok(listener) => break listener,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
    };
    bench
}

#[test]
fn a_peer_that_has_ended_before_its_offer_is_refused() {
    let upstream = Fake::start(Mode::Whole);
    let waits = relay_waits(|waits| waits.hand_over = LONG);
    let bench = Bench::with(&upstream.base(), waits, own_uid()..=own_uid(), |_| Vec::new());
    let (child, connection) = other_process(&bench);
    end(child);
    // We still hold the connection that the dead process made.
    send(&connection, format!("1 model {}", Uuid::now_v7()).as_bytes(), &[bench.listener.as_fd()]);
    assert!(receive(&connection).contains("has ended"));
}

fn pidfd(pid: u32) -> OwnedFd {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

#[test]
fn a_stopping_relay_leaves_the_listener_to_its_successor() {
    let upstream = Fake::start(Mode::Whole);
    let (mut first, _) = Bench::new(&upstream).handed_over();
    first.stop();
    // The socket still listens: this connection waits in the kernel for whoever serves it next.
    let early = first.connect();
    let port = first.port;
    let kept = Kept {
        uid: own_uid(),
        run: Uuid::now_v7(),
        listener: first.listener.try_clone().unwrap().into(),
        pidfd: pidfd(std::process::id()),
    };
    let run = kept.run;
    let mut second = Bench::with_port(&upstream.base(), port, vec![kept]);
    let mut early = early;
    early.write_all(format!("{}{BODY}", second.head("Connection: close\r\n", BODY.len())).as_bytes()).unwrap();
    assert_eq!(status(&read_all(&mut early)), 200);
    assert_eq!(second.usage(run).requests, 1);
}

#[test]
fn a_kept_listener_of_a_dead_process_is_not_served() {
    let upstream = Fake::start(Mode::Whole);
    let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let pidfd = pidfd(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let bench = Bench::with(&upstream.base(), waits(), own_uid()..=own_uid(), |listener| {
        vec![Kept { uid: own_uid(), run: Uuid::now_v7(), listener: listener.try_clone().unwrap().into(), pidfd }]
    });
    // The place is free, so the same user's new listener is taken.
    let (bench, _) = bench.handed_over();
    assert_eq!(status(&bench.post("", BODY)), 200);
}

#[test]
fn more_connections_than_allowed_wait_until_one_ends() {
    let upstream = Fake::start(Mode::Whole);
    let waits = relay_waits(|waits| waits.head = LONG);
    let (bench, _) = Bench::with(&upstream.base(), waits, own_uid()..=own_uid(), |_| Vec::new()).handed_over();
    let most = crate::relay::model::limits::MAX_CONNECTIONS;
    let request = format!("{}{BODY}", bench.head("", BODY.len()));
    let mut open: Vec<TcpStream> = (0..most)
        .map(|_| {
            let mut stream = bench.connect();
            stream.write_all(request.as_bytes()).unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).unwrap();
            stream
        })
        .collect();
    let mut waiting = bench.connect();
    waiting.write_all(request.replace("Content-Length", "Connection: close\r\nContent-Length").as_bytes()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "it is not served beyond the limit");
    open.pop();
    waiting.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(status(&read_all(&mut waiting)), 200);
}
