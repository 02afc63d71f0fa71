//! The rival: sandbox-agent 0.4.2 (`tests/bench/rival/fetch`), with the same lines on the same way. Its agent `mock` is a
//! script that it installs; here that script starts the fake pi, which then speaks the rival's protocol (ACP) and prints
//! the same texts with the same clock. The clients are the same as ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use pi_gateway_bench::{now, word};
use pi_gateway_e2e::host::{try_sh, until};
use serde_json::{Value, json};

use crate::route::{DELTAS, EVENTS, FAKE, FLOODS, LINES, PAUSE_US, SUBSCRIBERS, rss, subscribe, timed_resumes};
use crate::table::Table;

const ADDRESS: &str = "127.0.0.1:2468";
const HOME: &str = "/root/rival";
const NAME: &str = "sandbox-agent 0.4.2";

/// The running rival; ended on drop.
struct Rival {
    server: Child,
    count: u32,
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: rival\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A session of the rival with its own agent.
struct Session {
    path: String,
}

impl Session {
    fn post(&self, query: &str, method: &str, params: &Value) -> String {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let mut stream = TcpStream::connect(ADDRESS).expect("the rival");
        stream.write_all(&request("POST", &format!("{}{query}", self.path), "", &body)).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// Has the agent print what the words say; returns when it has.
    fn prompt(&self, words: &str) {
        self.post("", "session/prompt", &json!({"sessionId": "x", "prompt": [{"type": "text", "text": words}]}));
    }

    fn stream(&self, after: &str) -> Vec<u8> {
        request("GET", &self.path, &format!("Accept: text/event-stream\r\n{after}"), "")
    }

    /// Calls `each` with each text the agent prints for the words, until its answer.
    fn texts(&self, words: &str, mut each: impl FnMut(&str)) {
        let stream = subscribe(ADDRESS, &self.stream(""), b"\"id\":1");
        std::thread::scope(|scope| {
            scope.spawn(|| self.prompt(words));
            for line in BufReader::with_capacity(64 << 10, stream).lines() {
                let line = line.expect("a line in time");
                let Some(data) = line.strip_prefix("data: ") else { continue };
                let data: Value = serde_json::from_str(data).expect("JSON");
                match data["params"]["update"]["content"]["text"].as_str() {
                    Some(text) => each(text),
                    None => break,
                }
            }
        });
    }
}

impl Rival {
    /// Starts it; why not, otherwise.
    fn start() -> Result<Self, String> {
        let program = std::env::var("RIVAL").unwrap_or_default();
        if !std::path::Path::new(&program).exists() {
            return Err("it could not be fetched from npm (tests/bench/rival/fetch says why)".into());
        }
        let script = format!("{HOME}/.local/share/sandbox-agent/bin/agent_processes/mock-acp");
        let (done, told) = try_sh(&format!(
            "HOME={HOME} {program} install-agent mock && printf '#!/bin/sh\\nexec {FAKE} --acp\\n' > {script}"
        ));
        if !done {
            return Err(format!("its agent mock cannot be installed: {told}"));
        }
        let server = Command::new(&program)
            .args(["server", "--no-token", "--no-telemetry"])
            .env_clear()
            .envs([("HOME", HOME), ("PATH", "/usr/bin:/bin"), ("SANDBOX_AGENT_BIN", program.as_str())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let rival = Rival { server, count: 0 };
        until("the rival listens", || TcpStream::connect(ADDRESS).ok());
        Ok(rival)
    }

    fn session(&mut self) -> Session {
        self.count += 1;
        let session = Session { path: format!("/v1/acp/bench-{}", self.count) };
        session.post("?agent=mock", "initialize", &json!({"protocolVersion": 1, "clientCapabilities": {}}));
        session
    }

    fn latency(&mut self, table: &mut Table) {
        let mut times = Vec::with_capacity(DELTAS);
        self.session().texts(&format!("latency {DELTAS} {PAUSE_US}"), |text| {
            #[allow(clippy::cast_precision_loss)]
            times.push((now() - text.trim().parse::<u64>().unwrap()) as f64 / 1e6);
        });
        assert_eq!(times.len(), DELTAS, "every line arrived");
        table.quantile(&format!("{NAME}: its agent's line to SSE client: p50"), &mut times, 0.5, "ms", f64::INFINITY);
        table.quantile(&format!("{NAME}: its agent's line to SSE client: p99"), &mut times, 0.99, "ms", f64::INFINITY);
    }

    fn throughput(&mut self, table: &mut Table) {
        let (mut rates, mut missing) = (Vec::new(), Vec::new());
        for _ in 0..FLOODS {
            let (mut begun, mut last, mut got) = (0, 0, 0);
            self.session().texts(&format!("flood {LINES}"), |text| {
                last = now();
                match text.trim().parse::<u64>() {
                    Ok(time) => begun = time,
                    Err(_) => got += 1,
                }
            });
            // The first line, with the time, may be among those that are lost.
            #[allow(clippy::cast_precision_loss)]
            if begun != 0 {
                rates.push(f64::from(got) / ((last - begun) as f64 / 1e9));
            }
            missing.push(f64::from(u32::try_from(LINES).unwrap() - got));
        }
        let what = format!("{NAME}: lines through to a subscriber");
        match rates.is_empty() {
            true => table.impossible(&what, "it lost the line with the time, each time"),
            false => table.at_least(&what, &mut rates, "lines/s", f64::INFINITY),
        }
        table.row(&format!("{NAME}: of {LINES} lines lost on the way"), &mut missing, "lines", f64::INFINITY);
    }

    fn subscribers(&mut self, table: &mut Table) {
        let session = self.session();
        session.prompt("wait");
        let request = session.stream("");
        let one = subscribe(ADDRESS, &request, b"waiting");
        let pid = self.server.id().to_string();
        let before = rss(&pid);
        let all: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| subscribe(ADDRESS, &request, b"waiting")).collect();
        #[allow(clippy::cast_precision_loss)]
        let each = (rss(&pid) - before) / SUBSCRIBERS as f64 / 1024.0;
        let what = format!("{NAME}: memory for each of {SUBSCRIBERS} idle subscribers");
        table.row(&what, &mut [each], "KiB", f64::INFINITY);
        drop((one, all));
    }

    fn resume(&mut self, table: &mut Table) {
        let session = self.session();
        session.prompt(&format!("events {EVENTS}"));
        // The first event is the answer to `initialize`.
        let last = EVENTS + 1;
        let request = session.stream(&format!("Last-Event-ID: {}\r\n", last - 1));
        let mark = word(EVENTS - 1);
        let what = |share: &str| format!("{NAME}: resume at the end of {EVENTS} events: {share}");
        let mut times = timed_resumes(ADDRESS, &request, mark.as_bytes());
        table.quantile(&what("p50"), &mut times, 0.5, "ms", f64::INFINITY);
        table.quantile(&what("p99"), &mut times, 0.99, "ms", f64::INFINITY);
        // What it gives to a client that has seen the first thousand.
        let request = session.stream("Last-Event-ID: 1000\r\n");
        let stream = subscribe(ADDRESS, &request, b"id: ");
        drop(stream);
        let mut stream = TcpStream::connect(ADDRESS).expect("the rival");
        stream.write_all(&request).expect("a request");
        let ids = BufReader::new(stream).lines().map_while(Result::ok);
        let first = ids.filter_map(|line| line.strip_prefix("id: ")?.parse::<f64>().ok()).next().unwrap_or(0.0);
        let what = format!("{NAME}: the event it goes on with after the 1000th");
        table.row(&what, &mut [first], "", f64::INFINITY);
    }
}

/// The rows of the rival.
pub fn all(table: &mut Table) {
    match Rival::start() {
        Ok(mut rival) => {
            rival.latency(table);
            rival.throughput(table);
            rival.subscribers(table);
            rival.resume(table);
        }
        Err(why) => table.impossible(NAME, &why),
    }
}
