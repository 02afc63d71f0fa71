//! A way to the upstream, straight or through something in between, and a client on it that asks as pi does.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::json;

use crate::upstream::Answer;

/// Bytes of the conversation in a request; with pi's instructions and tools it is one of pi's first ones.
const CONVERSATION: usize = 16 << 10;

/// A way to the upstream.
pub struct Way {
    /// What it is called in the rows.
    pub name: String,
    /// Where it begins: address and port.
    pub address: String,
    /// The network namespaces of the sandboxes it begins in, taken in turn; none for the bench's own.
    pub sandboxes: Vec<File>,
    /// Header lines beside pi's.
    pub headers: String,
}

/// A client's connection.
pub struct Client(TcpStream);

impl Way {
    /// A request as pi makes it.
    pub fn request(&self, answer: Answer) -> Vec<u8> {
        let tool = |name: &str| {
            let text = json!({"type": "string", "description": "Path to the file (relative or absolute)"});
            let parameters = json!({"type": "object", "required": ["path"], "properties": {"path": text}});
            json!({"type": "function", "name": name, "description": "d".repeat(500), "parameters": parameters})
        };
        let tools = ["read", "bash", "edit", "write"].map(tool);
        let said = |role: &str, text: &str| json!({"role": role, "content": [{"type": "input_text", "text": text}]});
        let body = json!({
            "model": "gpt-6-sol",
            "input": [said("developer", &"i".repeat(3600)), said("user", &"c".repeat(CONVERSATION)), said("user", answer.word())],
            "stream": true,
            "prompt_cache_key": "01a214de-77e2-70b2-ac69-8d59bc29cf3a",
            "store": false,
            "max_output_tokens": 128_000,
            "tools": tools,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
        })
        .to_string();
        let (address, headers, length) = (&self.address, &self.headers, body.len());
        format!(
            "POST /v1/responses HTTP/1.1\r\nhost: {address}\r\nconnection: keep-alive\r\naccept: application/json\r\n\
             x-stainless-retry-count: 0\r\nx-stainless-timeout: 300\r\nx-stainless-lang: js\r\n\
             x-stainless-package-version: 7.19.0\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\n\
             x-stainless-runtime: node\r\nx-stainless-runtime-version: v22.23.3\r\nauthorization: Bearer placeholder\r\n\
             user-agent: pi/1.5.2 (linux; node/v22.23.3; x64)\r\nsession-id: 01a214de-77e2-70b2-ac69-8d59bc29cf3a\r\n\
             x-client-request-id: 01a214de-77e2-70b2-ac69-8d59bc29cf3a\r\ncontent-type: application/json\r\n\
             accept-language: *\r\nsec-fetch-mode: cors\r\naccept-encoding: gzip, deflate\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Connects, from the sandbox whose turn it is with this number.
    pub fn connect(&self, number: usize) -> Client {
        let own = File::open("/proc/thread-self/ns/net").expect("the own namespace");
        let enter = |place: &File| setns(place, CloneFlags::CLONE_NEWNET).expect("a network namespace");
        if !self.sandboxes.is_empty() {
            enter(&self.sandboxes[number % self.sandboxes.len()]);
        }
        let stream = TcpStream::connect(&self.address);
        enter(&own);
        let stream = stream.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        Client(stream)
    }

    /// Opens so many streams, each on a connection of its own, and reads the first event of each.
    pub fn open(&self, count: usize, answer: Answer) -> Vec<Client> {
        let request = self.request(answer);
        let open = |number| {
            let mut client = self.connect(number);
            client.begin(&request);
            client
        };
        (0..count).map(open).collect()
    }
}

impl Client {
    /// Sends a request and reads until the first event has come; gives what has been read.
    fn begin(&mut self, request: &[u8]) -> Vec<u8> {
        self.0.write_all(request).expect("a request");
        let mut seen = Vec::new();
        self.until(&mut seen, |seen| seen.windows(6).any(|window| window == b"data: "));
        seen
    }

    /// Seconds from the request to the first byte of the stream of events. The answer is read to its end.
    pub fn first_byte(&mut self, request: &[u8]) -> f64 {
        let begun = Instant::now();
        let mut seen = self.begin(request);
        let took = begun.elapsed().as_secs_f64();
        self.until(&mut seen, |seen| seen.ends_with(b"\r\n0\r\n\r\n"));
        took
    }

    fn until(&mut self, seen: &mut Vec<u8>, over: impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 16 << 10];
        while !over(seen) {
            let count = self.0.read(&mut buffer).unwrap_or(0);
            assert_ne!(count, 0, "no whole answer in time: {}", String::from_utf8_lossy(seen));
            seen.extend_from_slice(&buffer[..count]);
        }
    }

    /// Reads what comes, on a thread of its own, until the connection ends.
    pub fn read_on(&self) {
        let mut stream = self.0.try_clone().expect("a descriptor");
        std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    }
}

impl Drop for Client {
    /// Ends the connection, also for the thread that reads on.
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}
