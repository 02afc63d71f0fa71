//! The relay as a whole: a real socket for hand-overs, real listeners, and an upstream on loopback that counts every
//! byte it gets. Everything blocks, so that a test reads from top to bottom; the relay has threads of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;
mod hand_over;
mod lifetime;
mod requests;
mod streams;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::config::{ApiKey, Config};
use super::fdstore::Kept;
use super::limits::Waits;
use super::service::Relay;
use super::usage::Usage;
use crate::models::Catalogue;
use fake::{Fake, Mode};

const KEY: &str = "sk-the-real-key-of-the-gateway";
const BODY: &str = r#"{"model":"gpt-6-sol","stream":true,"store":false,"input":"hello"}"#;
/// Longer than anything a test waits for in vain.
const LONG: Duration = Duration::from_secs(20);

fn own_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

fn waits() -> Waits {
    Waits {
        hand_over: Duration::from_millis(300),
        head: Duration::from_millis(400),
        body_idle: Duration::from_millis(300),
        error_body: Duration::from_millis(500),
        connect: Duration::from_secs(2),
        ..Waits::default()
    }
}

/// A relay with one listener that has not been handed over yet.
struct Bench {
    dir: tempfile::TempDir,
    listener: TcpListener,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    fn new(upstream: &Fake) -> Self {
        Self::with(&upstream.base(), waits(), own_uid()..=own_uid(), |_| Vec::new())
    }

    fn with(
        base: &str,
        waits: Waits,
        users: RangeInclusive<u32>,
        kept: impl FnOnce(&TcpListener) -> Vec<Kept>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let kept = kept(&listener);
        Self::listening(base, listener, port, waits, users, kept)
    }

    /// A relay for a port that another bench's listener is on.
    fn with_port(base: &str, port: u16, kept: Vec<Kept>) -> Self {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::listening(base, unused, port, waits(), own_uid()..=own_uid(), kept)
    }

    fn listening(
        base: &str,
        listener: TcpListener,
        port: u16,
        waits: Waits,
        users: RangeInclusive<u32>,
        kept: Vec<Kept>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("usage")).unwrap();
        let config = Config {
            retention: Duration::from_secs(86_400),
            endpoint: format!("{base}/responses").parse().unwrap(),
            port,
            catalogue: catalogue(),
            key: ApiKey::new(KEY).unwrap(),
        };
        let (socket, usage) = (dir.path().join("relay.sock"), dir.path().join("usage"));
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let relay = Relay::start(config, waits, &socket, &usage, users).unwrap();
                relay.resume(kept);
                ready.send(()).unwrap();
                relay.serve(async { drop(stopped.await) }).await;
            });
        });
        is_ready.recv_timeout(LONG).unwrap();
        Self { dir, listener, port, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("relay.sock")
    }

    /// Hands the bench's own listener over, in this process's name.
    fn handed_over(self) -> (Self, Uuid) {
        let run = Uuid::now_v7();
        assert_eq!(self.offer(&format!("1 model {run}"), &[self.listener.as_fd()]), "ok");
        (self, run)
    }

    fn offer(&self, message: &str, fds: &[BorrowedFd<'_>]) -> String {
        let peer = peer();
        rustix::net::connect(&peer, &SocketAddrUnix::new(self.socket()).unwrap()).unwrap();
        send(&peer, message.as_bytes(), fds);
        receive(&peer)
    }

    /// Sends bytes as they are and returns everything that comes until the connection ends.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A relay that has seen enough may close before everything is written.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn head(&self, more: &str, length: usize) -> String {
        format!(
            "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n",
            self.port
        )
    }

    fn post(&self, more: &str, body: &str) -> String {
        self.raw(format!("{}{body}", self.head(&format!("Connection: close\r\n{more}"), body.len())).as_bytes())
    }

    /// Stops the relay and waits until it has written everything.
    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn usage(&mut self, run: Uuid) -> Usage {
        self.stop();
        Usage::read(&self.dir.path().join("usage"), own_uid(), run, &catalogue()).unwrap()
    }

    fn usage_text(&mut self, run: Uuid) -> String {
        self.stop();
        let name = format!("usage/{}-{run}.jsonl", own_uid());
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn catalogue() -> Catalogue {
    Catalogue::parse(include_str!("../../../trusted/models.json")).unwrap()
}

fn peer() -> OwnedFd {
    let peer = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let wait = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&peer, wait, Some(LONG)).unwrap();
    peer
}

fn send(peer: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(peer, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn receive(peer: &OwnedFd) -> String {
    let mut buffer = [0; 512];
    let (length, _) = rustix::net::recv(peer, &mut buffer, RecvFlags::empty()).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn read_all(stream: &mut TcpStream) -> String {
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

fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.").and_then(|a| a.get(2..5)).and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn error(answer: &str) -> serde_json::Value {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
}
