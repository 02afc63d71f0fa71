//! Connections that behave as no client should, and what the server's side of them does.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::http::ADDRESS;
use crate::sh;

/// A connection whose reads wait at most 60 s.
pub fn connect() -> TcpStream {
    let stream = TcpStream::connect(ADDRESS).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends bytes and reads until the server closes: at once, or when its patience with an idle client is over. Fails when
/// it does not close.
pub fn exchange(bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect();
    // A server that refuses early closes before everything is written.
    let _ = stream.write_all(bytes);
    rest(&mut stream)
}

/// What comes until the server closes. Fails when it does not.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(count) => answer.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("{error}: the server keeps the connection open; it said: {}", text(&answer)),
        }
    }
}

/// The statuses of the answers in what a connection received. Bodies without a length end it.
pub fn statuses(mut received: &[u8]) -> Vec<u16> {
    let mut found = Vec::new();
    while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = text(&received[..end]).to_lowercase();
        let status = head.strip_prefix("http/1.").and_then(|rest| rest[1..].trim_start().get(..3)?.parse().ok());
        found.push(status.unwrap_or_else(|| panic!("no answer: {head}")));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let next = end + 4 + length.unwrap_or(0);
        received = received.get(next..).unwrap_or_default();
    }
    found
}

/// Bytes as text, for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the server still holds its end of a connection.
pub fn is_held(stream: &TcpStream) -> bool {
    let port = stream.local_addr().unwrap().port();
    held_ports().contains(&port)
}

/// The clients' ports of the connections that the server holds, or has yet to accept.
pub fn held_ports() -> Vec<u16> {
    // Established, or closed by the client alone.
    server_side().into_iter().filter(|line| ["01", "08"].contains(&&*line.state)).map(|line| line.port).collect()
}

/// What the kernel holds of the server's answers that no client has taken, in KiB.
pub fn unsent() -> usize {
    server_side().into_iter().map(|line| line.unsent).sum::<usize>() >> 10
}

/// A connection, at the server's end.
struct ServerSide {
    port: u16,
    state: String,
    unsent: usize,
}

fn server_side() -> Vec<ServerSide> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let server = ADDRESS.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|line| port(line[1]) == server && line[3] != "0A");
    let unsent = |queues: &str| usize::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap();
    ours.map(|line| ServerSide { port: port(line[2]), state: line[3].into(), unsent: unsent(line[4]) }).collect()
}

/// How long it took until the server closed its end. Fails after 30 s.
pub fn closed_after(what: &str, stream: &TcpStream, mut meanwhile: impl FnMut(&TcpStream)) -> Duration {
    let begun = Instant::now();
    while is_held(stream) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: still open after 30 s");
        meanwhile(stream);
        std::thread::sleep(Duration::from_millis(200));
    }
    begun.elapsed()
}

/// The process id of the front.
fn front() -> String {
    sh("systemctl show -P MainPID pi-gateway")
}

/// The descriptors that the front has open.
pub fn front_descriptors() -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", front())).unwrap().count()
}

/// The memory of the front in KiB: the greater of what systemd counts and what is resident, and what the kernel holds for
/// its connections, which not every kernel counts.
pub fn front_memory() -> usize {
    let number = |text: String| text.trim().parse::<usize>().unwrap();
    let counted = number(sh("systemctl show -P MemoryCurrent pi-gateway")) >> 10;
    let resident = number(sh(&format!("awk '/^VmRSS/ {{ print $2 }}' /proc/{}/status", front())));
    counted.max(resident) + unsent()
}
