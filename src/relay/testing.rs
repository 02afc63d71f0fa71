//! What the tests of all relays need: the other side of a hand-over, and of a connection. Everything blocks, so that a
//! test reads from top to bottom.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};

/// Longer than anything a test waits for in vain.
pub const LONG: Duration = Duration::from_secs(20);

/// The uid that hand-overs of this process have.
pub fn own_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// A socket to hand something over on, not connected yet.
pub fn peer() -> OwnedFd {
    let peer = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let wait = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&peer, wait, Some(LONG)).unwrap();
    peer
}

/// Sends one message with descriptors.
pub fn send(peer: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(peer, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// The next message.
pub fn receive(peer: &OwnedFd) -> String {
    let mut buffer = [0; 512];
    let (length, _) = rustix::net::recv(peer, &mut buffer, RecvFlags::empty()).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Offers descriptors on a connection of its own and gives the answer. Places of earlier offers come back when what they
/// brought is closed, which a thread of the relay does in its own time, so one that is told to try again does, as
/// `pi-gateway-enter` would.
pub fn offer(socket: &Path, message: &str, fds: &[BorrowedFd<'_>]) -> String {
    let until = Instant::now() + LONG;
    loop {
        let peer = peer();
        rustix::net::connect(&peer, &SocketAddrUnix::new(socket).unwrap()).unwrap();
        send(&peer, message.as_bytes(), fds);
        let answer = receive(&peer);
        if !answer.ends_with("try again") || Instant::now() > until {
            return answer;
        }
    }
}

/// Everything that comes until the connection ends.
pub fn read_all(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("no end: {e}; so far {:?}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The status of the answer at the beginning of a text; 0 when there is none.
pub fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|a| a.get(2..5)).and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// The code of an answer that is an error.
pub fn code(answer: &str) -> &str {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    body.split_once(": ").map_or("", |(code, _)| code)
}

/// Everything that is logged by the tests of this process, as the program would.
pub fn capture_log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let lines = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || Lines(Arc::clone(&lines)))
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    })
}

/// What was logged of a run in lines with these words, when there are `count` of them.
pub fn logged(run: &str, words: &str, count: usize) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + LONG;
    loop {
        let text = String::from_utf8_lossy(&capture_log().lock().unwrap()).into_owned();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .filter(|line| line.contains(run) && line.contains(words))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < deadline, "{} of {count} lines: {text}", lines.len());
        std::thread::yield_now();
    }
}
