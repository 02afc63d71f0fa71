//! The git relay as a whole: a real socket for hand-overs, real listeners, and on the other side a Gitea on loopback
//! that counts every byte it gets, or git's own programs. Everything blocks; the relay has threads of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;
mod hand_over;
mod hostile;
mod passes;
mod real;
mod refused;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::config::{Account, Config};
use super::limits::Waits;
use super::service::make;
use crate::relay::limits;
use crate::relay::listener::Place;
use crate::relay::service::Relay;
use crate::relay::testing::{LONG, capture_log, code, logged, offer, own_uid, read_all, status};
use fake::{Fake, Mode, ok};

const TOKEN: &str = "d0c5bb6e7ae2-the-token-of-gitea";
const ACCOUNT: &str = "sync-bot";
const NONE: &str = "0000000000000000000000000000000000000000";
const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const REFS: &str = "/alice/workspace.git/info/refs?service=git-upload-pack";
const FETCH: &str = "/alice/workspace.git/git-upload-pack";
const PUSH: &str = "/alice/workspace.git/git-receive-pack";

fn authorization() -> String {
    format!("Basic {}", STANDARD.encode(format!("{ACCOUNT}:{TOKEN}")))
}

fn waits() -> Waits {
    Waits {
        relay: limits::Waits {
            hand_over: Duration::from_millis(300),
            head: Duration::from_millis(400),
            ..limits::Waits::default()
        },
        place: Duration::from_millis(300),
        body_idle: Duration::from_millis(400),
        unwanted: Duration::from_millis(400),
        connect: Duration::from_secs(2),
        ..Waits::default()
    }
}

/// A relay that serves one listener of this process, which is `alice`'s.
struct Bench {
    dir: tempfile::TempDir,
    listener: TcpListener,
    port: u16,
    run: Uuid,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    fn new(base: &str) -> Self {
        Self::with(base, waits(), 64 << 20)
    }

    fn with(base: &str, waits: Waits, max_pack: u64) -> Self {
        let bench = Self::before(base, waits, max_pack, &format!("{} alice\n", own_uid()));
        assert_eq!(bench.offer(&format!("1 git {}", bench.run), &[bench.listener.as_fd()]), "ok");
        bench
    }

    /// A relay whose listener has not been handed over yet, with this registry of users.
    fn before(base: &str, waits: Waits, max_pack: u64, registry: &str) -> Self {
        capture_log();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let (uids, socket) = (dir.path().join("uids"), dir.path().join("relay.sock"));
        std::fs::write(&uids, registry).unwrap();
        let config = Config {
            base: base.parse().unwrap(),
            repository: "workspace".to_owned(),
            max_pack,
            account: Account::new(ACCOUNT, TOKEN).unwrap(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let kind = make(config, waits, uids, Place::Port(port)).unwrap();
                let relay = Relay::start(kind, &socket, own_uid()..=own_uid()).unwrap();
                ready.send(()).unwrap();
                relay.serve(async { drop(stopped.await) }).await;
            });
        });
        is_ready.recv_timeout(LONG).unwrap();
        Self { dir, listener, port, run: Uuid::now_v7(), stop: Some(stop), thread: Some(thread) }
    }

    fn offer(&self, message: &str, fds: &[BorrowedFd<'_>]) -> String {
        offer(&self.dir.path().join("relay.sock"), message, fds)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends bytes as they are and returns everything that comes until the connection ends.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A relay that has seen enough may close before everything is written.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    /// The head of a request as git makes it.
    fn head(&self, method: &str, target: &str, more: &str) -> String {
        let service = if target.contains("receive") { "receive" } else { "upload" };
        let media = if method == "POST" && !more.to_lowercase().contains("content-type") {
            format!("Content-Type: application/x-git-{service}-pack-request\r\n")
        } else {
            String::new()
        };
        format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{media}{more}", self.port)
    }

    fn get(&self, target: &str, more: &str) -> String {
        self.raw(format!("{}Connection: close\r\n\r\n", self.head("GET", target, more)).as_bytes())
    }

    fn post(&self, target: &str, more: &str, body: &[u8]) -> String {
        let length = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        self.raw(&[self.head("POST", target, more).as_bytes(), length.as_bytes(), body].concat())
    }

    /// The lines of the log about requests of this bench, once there are `count`.
    fn log(&self, count: usize) -> Vec<serde_json::Value> {
        logged(&self.run.to_string(), "\"git request", count)
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

fn packet(line: &str) -> String {
    format!("{:04x}{line}", line.len() + 4)
}

/// The body of a push with these commands, and a pack that the fake does not look at.
fn push(commands: &[String], pack: &str) -> Vec<u8> {
    let list: String = commands.iter().map(|command| packet(command)).collect();
    format!("{list}0000PACK{pack}").into_bytes()
}

fn good_push() -> Vec<u8> {
    push(&[format!("{A} {B} refs/heads/main\0 report-status side-band-64k agent=git/2.39.5")], "pack")
}

fn chunked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for piece in pieces {
        body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        body.extend_from_slice(piece);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}
