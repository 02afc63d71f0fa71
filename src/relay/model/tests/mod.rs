//! The relay as a whole: a real socket for hand-overs, real listeners, and an upstream on loopback that counts every
//! byte it gets. Everything blocks, so that a test reads from top to bottom; the relay has threads of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
mod budget;
mod codex;
mod fake;
mod hand_over;
mod images;
mod lifetime;
mod requests;
mod streams;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::SocketAddrUnix;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::config::{ApiKey, Config};
use super::front::FrontDoor;
use super::images::way::Images;
use super::limits::Waits;
use super::service;
use super::usage::Usage;
use crate::models::Catalogue;
use crate::relay::fdstore::Kept;
use crate::relay::limits;
use crate::relay::service::Relay;
use crate::relay::testing::{LONG, offer, own_uid, peer, read_all, receive, send, status};
use fake::{Fake, Mode};

const KEY: &str = "sk-the-real-key-of-the-gateway";
const BODY: &str = r#"{"model":"gpt-6-sol","stream":true,"store":false,"input":"hello"}"#;
/// The waits of the tests, with those of every relay changed by `change`.
fn relay_waits(change: impl FnOnce(&mut limits::Waits)) -> Waits {
    let mut waits = waits();
    change(&mut waits.relay);
    waits
}

fn waits() -> Waits {
    Waits {
        relay: limits::Waits {
            hand_over: Duration::from_millis(300),
            head: Duration::from_millis(400),
            ..limits::Waits::default()
        },
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
        Self::listening(base, listener, port, waits, users, kept, |_, _| {})
    }

    /// A relay whose configuration is changed.
    fn changed(waits: Waits, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let change = |config: &mut Config, _: &Path| change(config);
        Self::listening("http://127.0.0.1:1/v1", listener, port, waits, own_uid()..=own_uid(), Vec::new(), change)
    }

    /// A relay whose configuration and directory of usage files are changed before it starts.
    fn configured(upstream: &Fake, waits: Waits, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self::listening(&upstream.base(), listener, port, waits, own_uid()..=own_uid(), Vec::new(), change)
    }

    /// A relay for a port that another bench's listener is on.
    fn with_port(base: &str, port: u16, kept: Vec<Kept>) -> Self {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::listening(base, unused, port, waits(), own_uid()..=own_uid(), kept, |_, _| {})
    }

    fn listening(
        base: &str,
        listener: TcpListener,
        port: u16,
        waits: Waits,
        users: RangeInclusive<u32>,
        kept: Vec<Kept>,
        change: impl FnOnce(&mut Config, &Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("usage")).unwrap();
        let images = Images {
            endpoint: format!("{base}/images/generations").parse().unwrap(),
            model: "gpt-image-2".to_owned(),
            by_tool: false,
            size: "1024x1024".to_owned(),
        };
        let mut config = Config {
            images,
            budget: 0,
            retention: Duration::from_secs(86_400),
            endpoint: format!("{base}/responses").parse().unwrap(),
            port,
            catalogue: catalogue(),
            key: Some(ApiKey::new(KEY).unwrap()),
            codex: None,
        };
        let (socket, usage) = (dir.path().join("relay.sock"), dir.path().join("usage"));
        change(&mut config, &usage);
        let door = FrontDoor::bind(&dir.path().join("front.sock"), own_uid()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let relay =
                    Relay::start(service::make(config, waits, &usage, Some(door)).unwrap(), &socket, users).unwrap();
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
        offer(&self.socket(), message, fds)
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
    Catalogue::parse(include_str!("../../../../trusted/models.json")).unwrap()
}

fn error(answer: &str) -> serde_json::Value {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
}
