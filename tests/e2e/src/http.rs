//! A client small enough to send anything, also what no library would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Where the gateway listens.
pub const ADDRESS: &str = "127.0.0.1:8787";
/// The longest silence a test bears.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Fails unless it is a problem document of this status and code.
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.json()["code"], code);
        assert_eq!(self.json()["status"], status);
    }
}

/// An answer whose body is still to be read.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Box<dyn BufRead + Send>,
}

/// Sends bytes as they are; gives the head of the answer.
pub fn open(raw: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A server that refuses early may close before everything is written; its answer counts all the same.
    let _ = stream.write_all(raw);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer");
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(bad)?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let length = value("content-length").and_then(|length| length.parse().ok());
    let body: Box<dyn BufRead + Send> = match length {
        Some(length) => Box::new(reader.take(length)),
        None if value("transfer-encoding").is_some() => {
            Box::new(BufReader::new(Chunked { reader, left: 0, over: false }))
        }
        None => Box::new(reader.take(0)),
    };
    Ok(Answer { status, headers, body })
}

/// Sends bytes as they are; gives the whole answer, None when there is none.
pub fn try_send(raw: &[u8]) -> Option<Response> {
    let mut answer = open(raw).ok()?;
    let mut body = Vec::new();
    answer.body.read_to_end(&mut body).ok()?;
    Some(Response { status: answer.status, headers: answer.headers, body })
}

/// Sends bytes as they are; gives the whole answer.
pub fn send(raw: &[u8]) -> Response {
    try_send(raw).expect("an HTTP answer")
}

/// The bytes of a request.
pub fn raw(method: &str, path: &str, token: Option<&str>, headers: &[(&str, &str)], body: Option<&[u8]>) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body.unwrap_or_default()].concat()
}

/// Makes a request; None when nobody answers.
pub fn try_request(
    method: &str,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Option<Response> {
    try_send(&raw(method, path, token, headers, body))
}

/// Makes a request.
pub fn request(
    method: &str,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Response {
    send(&raw(method, path, token, headers, body))
}

/// A chunked body.
struct Chunked {
    reader: BufReader<TcpStream>,
    left: usize,
    over: bool,
}

impl Read for Chunked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.over {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if line == "\r\n" {
                line.clear();
                self.reader.read_line(&mut line)?;
            }
            // A connection that breaks is the end of what came.
            self.left = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            self.over = self.left == 0;
        }
        let wanted = buffer.len().min(self.left);
        let count = self.reader.read(&mut buffer[..wanted])?;
        self.left -= count;
        self.over |= count == 0;
        Ok(count)
    }
}
