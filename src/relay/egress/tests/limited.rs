//! Nothing is without a limit.

use std::io::Read;

use super::*;

fn connect_line(server: &Server) -> String {
    format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\nHost: x\r\n\r\n", server.port())
}

#[test]
fn a_connection_and_a_run_have_their_bytes_and_no_more() {
    let server = Server::start(Mode::Endless);
    let most = Limits { connection_bytes: 3 << 20, run_bytes: 8 << 20, ..limits() };
    let bench = Bench::with(&server, most, "");
    let mut lengths = Vec::new();
    loop {
        let answer = bench.raw(connect_line(&server).as_bytes());
        if status(&answer) != 200 {
            assert_eq!((status(&answer), code(&answer)), (403, "run_bytes"), "{answer}");
            break;
        }
        lengths.push(answer.len());
    }
    assert_eq!(lengths.len(), 3, "{lengths:?}");
    assert!(lengths.iter().all(|length| *length < (3 << 20) + 200_000), "{lengths:?}");
    assert!(lengths.iter().sum::<usize>() < (8 << 20) + 200_000, "{lengths:?}");
    let mut codes: Vec<_> = bench.log(4).iter().map(|line| line["code"].as_str().unwrap().to_owned()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["connection_bytes", "connection_bytes", "run_bytes", "run_bytes"]);
    assert_eq!(server.connections(), 3);
    // What is sent counts as well, and an answer that is cut does not look whole.
    let server = Server::start(Mode::Silent);
    let bench = Bench::with(&server, Limits { connection_bytes: 1 << 20, ..limits() }, "");
    let mut stream = bench.connect();
    stream.write_all(connect_line(&server).as_bytes()).unwrap();
    while stream.write_all(&[0; 65536]).is_ok() {}
    assert_eq!(bench.log(1)[0]["code"], "connection_bytes");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let server =
        Server::start(Mode::Answer(format!("{head}200000\r\n{}\r\n0\r\n\r\n", "x".repeat(2 << 20)).into_bytes()));
    let bench = Bench::with(&server, Limits { connection_bytes: 1 << 20, ..limits() }, "");
    let answer = bench.raw(format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\n\r\n", server.port()).as_bytes());
    assert!(status(&answer) == 200 && !answer.ends_with("0\r\n\r\n"), "{} bytes", answer.len());
    assert_eq!(bench.log(1)[0]["code"], "connection_bytes");
}

#[test]
fn silence_slowness_and_age_end_a_connection() {
    let server = Server::start(Mode::Silent);
    let short = Limits { idle: Duration::from_millis(400), ..limits() };
    let bench = Bench::with(&server, short, "");
    let answer = bench.raw(connect_line(&server).as_bytes());
    assert!(status(&answer) == 200 && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(bench.log(1)[0]["code"], "idle_timeout");
    let answer = bench.raw(format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\n\r\n", server.port()).as_bytes());
    assert_eq!((status(&answer), code(&answer)), (504, "idle_timeout"), "{answer}");
    // A head that does not come, or is too large.
    let answer = bench.raw(b"CONNECT 127.0.0.1");
    assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
    let large = format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\nX: {}\r\n\r\n", server.port(), "x".repeat(20_000));
    assert_eq!(status(&bench.raw(large.as_bytes())), 431);
    assert_eq!(server.connections(), 2);
    // One that is never silent ends all the same.
    let server = Server::start(Mode::Endless);
    let bench = Bench::with(&server, Limits { lifetime: Duration::from_millis(500), ..limits() }, "");
    let began = Instant::now();
    assert_eq!(status(&bench.raw(connect_line(&server).as_bytes())), 200);
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    assert_eq!(bench.log(1)[0]["code"], "cut");
}

#[test]
fn connections_have_places_one_users_and_all() {
    let server = Server::start(Mode::Silent);
    let bench = Bench::new(&server);
    let open = |count: usize| -> Vec<TcpStream> {
        let streams: Vec<TcpStream> = (0..count).map(|_| bench.connect()).collect();
        streams.iter().for_each(|mut stream| stream.write_all(connect_line(&server).as_bytes()).unwrap());
        streams
    };
    // Of all users; there are as many as this bench has.
    let mut streams = open(16);
    for stream in &mut streams {
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    assert_eq!(bench.places.available_permits(), 0);
    let answer = bench.raw(connect_line(&server).as_bytes());
    assert_eq!((status(&answer), code(&answer)), (503, "relay_busy"), "{answer}");
    drop(streams);
    let deadline = Instant::now() + LONG;
    while bench.places.available_permits() < 16 {
        assert!(Instant::now() < deadline, "places are given back");
        std::thread::yield_now();
    }
    // Of one user: further connections wait until one of his ends.
    bench.places.add_permits(100);
    let mut streams = open(super::super::limits::MAX_CONNECTIONS);
    for stream in &mut streams {
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    let mut waiting = open(1).pop().unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(waiting.read(&mut [0; 12]).is_err(), "there is no place");
    drop(streams.pop());
    waiting.set_read_timeout(Some(LONG)).unwrap();
    waiting.read_exact(&mut [0; 12]).unwrap();
}
