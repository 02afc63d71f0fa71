//! A Gitea that does one thing for every request and remembers every byte it was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::LONG;

/// What it does with each request.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Answers a whole request with these bytes and closes.
    Answer(Vec<u8>),
    /// Answers the head with these bytes, and goes on reading until the other side closes.
    Early(Vec<u8>),
    /// Says these bytes when it has the whole request, then nothing until the other side goes away, which is reported.
    Begin(Vec<u8>),
    /// Says these bytes, then one more again and again, with a little pause before each.
    Trickle(Vec<u8>),
    /// Says the first bytes, then the second ones again and again, until the other side takes no more; the number of
    /// bytes is reported.
    Endless(Vec<u8>, Vec<u8>),
}

/// The fake, and what has come in.
#[derive(Debug)]
pub struct Fake {
    port: u16,
    /// All bytes of each request, the last one perhaps in part.
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<AtomicUsize>,
    reports: Receiver<usize>,
}

/// An answer of git's.
pub fn ok(media: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-{media}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Fake {
    pub fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, connections) = (Arc::default(), Arc::<AtomicUsize>::default());
        let (report, reports) = channel();
        let (seen, count) = (Arc::clone(&requests), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let (mode, seen, report) = (mode.clone(), Arc::clone(&seen), report.clone());
                std::thread::spawn(move || connection(stream, &mode, &seen, &report));
            }
        });
        Self { port, requests, connections, reports }
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// All bytes of each request, as text.
    pub fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn report(&self) -> usize {
        self.reports.recv_timeout(LONG).unwrap()
    }
}

type Seen = Mutex<Vec<Vec<u8>>>;

fn connection(mut stream: TcpStream, mode: &Mode, seen: &Seen, report: &Sender<usize>) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let whole = !matches!(mode, Mode::Early(_));
    if !request(&mut stream, whole, seen) {
        return;
    }
    match mode {
        Mode::Answer(bytes) => {
            let _ = stream.write_all(bytes);
        }
        Mode::Early(bytes) => {
            let _ = stream.write_all(bytes);
            let mut buffer = [0; 65536];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        Mode::Begin(bytes) => {
            let _ = stream.write_all(bytes);
            let _ = report.send(stream.read(&mut [0]).unwrap_or(0));
        }
        Mode::Trickle(bytes) => {
            let _ = stream.write_all(bytes);
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Mode::Endless(head, piece) => {
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = stream.write_all(head);
            let mut sent = 0;
            loop {
                match stream.write(piece) {
                    Ok(written) => sent += written,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
                assert!(sent < 4 << 30, "nobody stops it");
            }
            let _ = report.send(sent);
        }
    }
}

/// Reads a request, with its body when `whole`; every byte of it is seen at once.
fn request(stream: &mut TcpStream, whole: bool, seen: &Seen) -> bool {
    let index = {
        let mut seen = seen.lock().unwrap();
        seen.push(Vec::new());
        seen.len() - 1
    };
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => {
                let mut seen = seen.lock().unwrap();
                seen[index].extend_from_slice(&buffer[..read]);
                if ended(&seen[index], whole) {
                    return true;
                }
            }
            _ => return false,
        }
    }
}

fn ended(bytes: &[u8], whole: bool) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let body = &bytes[end + 4..];
    if !whole {
        return true;
    }
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with(b"0\r\n\r\n");
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
