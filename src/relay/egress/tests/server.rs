//! A server on loopback that counts its connections and keeps what it gets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::LONG;

/// What it does with a connection.
#[derive(Clone)]
pub enum Mode {
    /// Gives every byte back until the client has no more.
    Echo,
    /// Reads one request, gives these bytes, and closes.
    Answer(Vec<u8>),
    /// Gives bytes for as long as somebody takes them.
    Endless,
    /// Takes bytes for as long as somebody gives them, and says nothing.
    Silent,
}

/// The server; it ends with the process.
pub struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    /// Starts one.
    pub fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let keep = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mode, keep, stream) = (mode.clone(), Arc::clone(&keep), stream.unwrap());
                let number = {
                    let mut seen = keep.lock().unwrap();
                    seen.push(Vec::new());
                    seen.len() - 1
                };
                std::thread::spawn(move || {
                    serve(stream, &mode, &|bytes| {
                        keep.lock().unwrap()[number].extend_from_slice(bytes);
                    })
                });
            }
        });
        Self { port, seen }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// What each connection brought.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn serve(mut stream: TcpStream, mode: &Mode, keep: &dyn Fn(&[u8])) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut buffer = [0; 65536];
    let mut request = Vec::new();
    if matches!(mode, Mode::Endless) {
        while stream.write_all(&buffer).is_ok() {}
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        keep(&buffer[..count]);
        match mode {
            Mode::Echo => drop(stream.write_all(&buffer[..count])),
            Mode::Answer(answer) => {
                request.extend_from_slice(&buffer[..count]);
                if is_whole(&String::from_utf8_lossy(&request)) {
                    let _ = stream.write_all(answer);
                    return;
                }
            }
            Mode::Endless | Mode::Silent => {}
        }
    }
}

/// Whether a request has come to its end, by its own framing.
fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    match length {
        Some(length) => body.len() >= length,
        None => !head.contains("transfer-encoding: chunked") || body.ends_with("0\r\n\r\n"),
    }
}
