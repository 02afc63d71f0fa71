//! A user of the gateway, with a token and the calls he makes.

use std::io::BufRead;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::http::{self, Response, raw, request};
use crate::tokens::token_for;

/// A user with a name that no other test has.
pub struct User {
    pub name: String,
    pub token: String,
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// A stream of events.
pub struct Stream {
    pub status: u16,
    body: Box<dyn BufRead + Send>,
    /// Comments that came, such as heartbeats.
    pub comments: usize,
}

impl Iterator for Stream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (mut id, mut name, mut data) = (None, None, None);
        let mut line = String::new();
        loop {
            line.clear();
            if self.body.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.strip_suffix('\n')?;
            if let Some(value) = line.strip_prefix("id: ") {
                id = Some(value.to_owned());
            } else if let Some(value) = line.strip_prefix("event: ") {
                name = Some(value.to_owned());
            } else if let Some(value) = line.strip_prefix("data: ") {
                data = serde_json::from_str(value).ok();
            } else if line.starts_with(':') {
                self.comments += 1;
                // Heartbeats come every 15 s: this run says nothing any more.
                assert!(self.comments < 20, "no event for five minutes");
            } else if line.is_empty()
                && let (Some(id), Some(name), Some(data)) = (id.take(), name.take(), data.take())
            {
                return Some(Event { id, name, data });
            }
        }
    }
}

impl User {
    /// A new user.
    pub fn new(prefix: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        User { token: token_for(&name, 3600), name }
    }

    /// The user of this name.
    pub fn named(name: &str) -> Self {
        User { token: token_for(name, 3600), name: name.to_owned() }
    }

    pub fn get(&self, path: &str) -> Response {
        request("GET", path, Some(&self.token), &[], None)
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Response {
        let headers = [&[("Content-Type", "application/json")], headers].concat();
        request("POST", path, Some(&self.token), &headers, Some(body.to_string().as_bytes()))
    }

    /// Starts a run; gives its id.
    pub fn start(&self, prompt: &str) -> String {
        let response = self.post("/runs", &[], &json!({"prompt": prompt}));
        assert_eq!(response.status, 202, "{}", String::from_utf8_lossy(&response.body));
        response.json()["id"].as_str().unwrap().to_owned()
    }

    /// Says something to a run.
    pub fn say(&self, run: &str, text: &str, mode: &str) -> Response {
        self.post(&format!("/runs/{run}/messages"), &[], &json!({"text": text, "mode": mode}))
    }

    /// Says something to a run that takes it; gives the message's id.
    pub fn said(&self, run: &str, text: &str, mode: &str) -> String {
        let response = self.say(run, text, mode);
        assert_eq!(response.status, 202, "{}", String::from_utf8_lossy(&response.body));
        response.json()["id"].as_str().unwrap().to_owned()
    }

    /// The whole history of the session, page by page.
    pub fn history(&self) -> Vec<Value> {
        self.pages("/session/messages?limit=3")
    }

    /// Everything that a list holds, whose path has a query, page by page.
    pub fn pages(&self, path: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}{cursor}"));
            assert_eq!(page.status, 200, "{}", String::from_utf8_lossy(&page.body));
            let page = page.json();
            all.extend(page["data"].as_array().unwrap().clone());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    /// The history in short: role and text of each message.
    pub fn conversation(&self) -> Vec<(String, String)> {
        let text =
            |part: &Value| part["text"].as_str().filter(|_| part["type"] == "text").unwrap_or_default().to_owned();
        let short = |message: &Value| {
            let texts: String = message["content"].as_array().unwrap().iter().map(text).collect();
            (message["role"].as_str().unwrap().to_owned(), texts)
        };
        self.history().iter().map(short).collect()
    }

    /// Where pi keeps the session.
    pub fn session_file(&self) -> String {
        format!("/var/lib/pi-gateway/sessions/{}/session.jsonl", self.name)
    }

    /// Runs a prompt to its end; gives the run.
    pub fn run(&self, prompt: &str) -> Value {
        let id = self.start(prompt);
        self.finished(&id)
    }

    /// Runs a command with the agent's bash tool; gives what it printed.
    pub fn bash(&self, command: &str) -> String {
        let id = self.start(&format!("[[bash {command}]]"));
        let completed = self.stream(&id, None).find(|event| event.name == "tool.completed").expect("a tool's end");
        self.finished(&id);
        completed.data["output"].as_str().unwrap().to_owned()
    }

    /// Waits for the last event of a run; gives the run.
    pub fn finished(&self, id: &str) -> Value {
        // A restart of the gateway ends the stream; whoever waits comes back.
        crate::until("the run has ended", || {
            let last = self.try_stream(id, None)?.last()?;
            (last.name == "run.finished").then_some(())
        });
        self.get(&format!("/runs/{id}")).json()
    }

    /// The events of a run after one, until the stream ends; None when nobody answers.
    pub fn try_stream(&self, id: &str, after: Option<&str>) -> Option<Stream> {
        let headers: Vec<(&str, &str)> = after.map(|after| ("Last-Event-ID", after)).into_iter().collect();
        let answer = http::open(&raw("GET", &format!("/runs/{id}/events"), Some(&self.token), &headers, None)).ok()?;
        Some(Stream { status: answer.status, body: answer.body, comments: 0 })
    }

    /// The events of a run after one, until the stream ends.
    pub fn stream(&self, id: &str, after: Option<&str>) -> Stream {
        self.try_stream(id, after).expect("an answer")
    }

    /// All events of a run that has ended or will.
    pub fn events(&self, id: &str) -> Vec<Event> {
        self.stream(id, None).collect()
    }
}
