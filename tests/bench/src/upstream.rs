//! The upstream of the model relay's rows: it answers every request at once, always with the same events. What the request
//! holds says how the answer goes on, see [`Answer`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1:9190";
/// From one increment to the next: as fast as a quick model.
const PACE: Duration = Duration::from_millis(20);

/// How an answer goes on behind its first event.
#[derive(Clone, Copy)]
pub enum Answer {
    /// At once and to its end.
    Whole,
    /// By an increment every [`PACE`] until the client goes away.
    Flows,
    /// Not at all until the client goes away.
    Waits,
}

impl Answer {
    /// The word in a request that asks for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Whole => "bench-whole",
            Self::Flows => "bench-flows",
            Self::Waits => "bench-waits",
        }
    }
}

/// Starts it; it ends with the bench.
pub fn start() {
    let listener = TcpListener::bind(ADDRESS).expect("a listener");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its connection only.
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn event(kind: &str, rest: &str) -> String {
    let data = format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n\
                X-Request-Id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n";
    let begin = format!("{head}{}", event("response.created", ",\"response\":{\"id\":\"resp_bench\",\"output\":[]}"));
    let delta =
        event("response.output_text.delta", ",\"item_id\":\"msg_bench\",\"output_index\":0,\"delta\":\" a word\"");
    let usage = ",\"response\":{\"id\":\"resp_bench\",\"usage\":{\"input_tokens\":6000,\"output_tokens\":20}}";
    let rest = format!("{}{}0\r\n\r\n", delta.repeat(20), event("response.completed", usage));
    let mut requests = BufReader::with_capacity(64 << 10, stream.try_clone()?);
    while let Some(body) = request(&mut requests)? {
        stream.write_all(begin.as_bytes())?;
        if body.contains(Answer::Waits.word()) {
            requests.read_exact(&mut [0])?;
        } else if body.contains(Answer::Flows.word()) {
            loop {
                std::thread::sleep(PACE);
                stream.write_all(delta.as_bytes())?;
            }
        }
        stream.write_all(rest.as_bytes())?;
    }
    Ok(())
}

/// The body of the next request; none when the client has closed the connection.
fn request(requests: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if requests.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    requests.read_exact(&mut body)?;
    Ok(String::from_utf8(body).ok())
}
