//! An upstream that does one thing for every request and remembers everything it was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::LONG;

/// What the upstream does with each request.
#[derive(Debug, Clone)]
pub enum Mode {
    /// A whole stream with usage.
    Whole,
    /// An answer as it stands here, then the connection is closed.
    Answer(String),
    /// One event, then silence until the client goes away, which is reported on the channel.
    Begin,
    /// Nothing, until the client goes away.
    Silent,
    /// Events without end, until the other side takes no more for a second; then the number of bytes is reported.
    Flood,
    /// The first event at once, and the rest when the test says so.
    Held(Arc<Mutex<Receiver<()>>>),
}

/// The fake, and what has come in.
#[derive(Debug)]
pub struct Fake {
    port: u16,
    /// Whole requests, as text.
    pub requests: Arc<Mutex<Vec<String>>>,
    /// What the mode reports.
    pub reports: Receiver<usize>,
}

pub const DELTA: &str =
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n";
pub const COMPLETED: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1000,\"input_tokens_details\":{\"cached_tokens\":512},\"output_tokens\":42,\"output_tokens_details\":{\"reasoning_tokens\":7}}}}\n\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nCache-Control: no-cache\r\nSet-Cookie: a=b\r\nOpenAI-Organization: org-x\r\nX-RateLimit-Limit-Tokens: 9\r\nX-Request-Id: req_1\r\n\r\n";

impl Fake {
    pub fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (report, reports) = channel();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mode, seen, report) = (mode.clone(), Arc::clone(&seen), report.clone());
                std::thread::spawn(move || connection(stream, &mode, &seen, &report));
            }
        });
        Self { port, requests, reports }
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// What the mode reported, within reason.
    pub fn report(&self) -> usize {
        self.reports.recv_timeout(LONG).unwrap()
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn connection(mut stream: TcpStream, mode: &Mode, seen: &Mutex<Vec<String>>, report: &Sender<usize>) {
    while let Some(request) = read_request(&mut stream, seen) {
        seen.lock().unwrap().push(request);
        let begin = format!("{HEAD}{}", chunk(DELTA));
        let rest = format!("{}0\r\n\r\n", chunk(COMPLETED));
        match mode {
            Mode::Whole => stream.write_all(format!("{begin}{rest}").as_bytes()).unwrap(),
            Mode::Answer(text) => {
                stream.write_all(text.as_bytes()).unwrap();
                return;
            }
            Mode::Begin | Mode::Silent => {
                if matches!(mode, Mode::Begin) {
                    stream.write_all(begin.as_bytes()).unwrap();
                } else {
                    report.send(1).unwrap();
                }
                // Blocks until the other side closes.
                let left = stream.read(&mut [0]).unwrap_or(0);
                let _ = report.send(left);
                return;
            }
            Mode::Flood => {
                stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                stream.write_all(HEAD.as_bytes()).unwrap();
                let piece = chunk(&DELTA.repeat(1000));
                let mut sent = 0;
                loop {
                    match stream.write(piece.as_bytes()) {
                        Ok(n) => sent += n,
                        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                        Err(_) => break,
                    }
                    if sent > 1 << 30 {
                        break;
                    }
                }
                let _ = report.send(sent);
                return;
            }
            Mode::Held(go) => {
                stream.write_all(begin.as_bytes()).unwrap();
                go.lock().unwrap().recv_timeout(LONG).unwrap();
                let _ = stream.write_all(rest.as_bytes());
            }
        }
    }
}

/// A request by its Content-Length. What has come of one that does not arrive whole counts as seen, too.
fn read_request(stream: &mut TcpStream, seen: &Mutex<Vec<String>>) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase().split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
            if body.len() >= length {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => {
                if !bytes.is_empty() {
                    seen.lock().unwrap().push(String::from_utf8_lossy(&bytes).into_owned());
                }
                return None;
            }
        }
    }
}
