//! The egress relay as a whole: a real socket for hand-overs, a real listener, and a server on loopback that counts what
//! it gets. Loopback's first address is what these tests have for an internet; everything else is refused as it would be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod limited;
mod passes;
mod refused;
mod server;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use super::config::Allowed;
use super::limits::Limits;
use super::peer::Shared;
use crate::relay::limits;
use crate::relay::service::Relay;
use crate::relay::testing::{LONG, capture_log, code, logged, offer, own_uid, read_all, status};
use server::{Mode, Server};

fn limits() -> Limits {
    Limits {
        relay: limits::Waits {
            hand_over: Duration::from_millis(300),
            head: Duration::from_millis(400),
            ..limits::Waits::default()
        },
        place: Duration::from_millis(300),
        connect: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn permitted(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// A relay that serves one listener of this process.
struct Bench {
    dir: tempfile::TempDir,
    listener: TcpListener,
    port: u16,
    run: Uuid,
    places: Arc<Semaphore>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    fn new(server: &Server) -> Self {
        Self::with(server, limits(), "")
    }

    fn with(server: &Server, limits: Limits, allow: &str) -> Self {
        let bench = Self::before(server, limits, allow);
        assert_eq!(bench.offer(&format!("1 egress {}", bench.run), &[bench.listener.as_fd()]), "ok");
        bench
    }

    /// A relay whose listener has not been handed over yet.
    fn before(server: &Server, limits: Limits, allow: &str) -> Self {
        capture_log();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("relay.sock");
        let (allowed, places) = (Allowed::new(allow).unwrap(), Arc::new(Semaphore::new(16)));
        let (ports, resolving) = (vec![server.port(), 80], Arc::new(Semaphore::new(4)));
        let kind = Shared { port, allowed, ports, permitted, places: Arc::clone(&places), resolving, limits };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let relay = Relay::start(kind, &socket, own_uid()..=own_uid()).unwrap();
                ready.send(()).unwrap();
                relay.serve(async { drop(stopped.await) }).await;
            });
        });
        is_ready.recv_timeout(LONG).unwrap();
        Self { dir, listener, port, run: Uuid::now_v7(), places, stop: Some(stop), thread: Some(thread) }
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

    /// The lines of the log about connections of this bench, once there are `count`.
    fn log(&self, count: usize) -> Vec<serde_json::Value> {
        logged(&self.run.to_string(), "\"egress connection\"", count)
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

#[test]
fn a_listener_of_another_kind_is_refused() {
    let server = Server::start(Mode::Echo);
    let bench = Bench::before(&server, limits(), "");
    for kind in ["model", "git"] {
        let told = bench.offer(&format!("1 {kind} {}", bench.run), &[bench.listener.as_fd()]);
        assert!(told.contains("kind"), "{told}");
    }
    assert_eq!(bench.offer(&format!("1 egress {}", bench.run), &[bench.listener.as_fd()]), "ok");
}
