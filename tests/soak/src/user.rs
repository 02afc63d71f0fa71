//! One user: what he does, and what must hold of it whatever dies meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pi_gateway_e2e::files::encode;
use pi_gateway_e2e::http::{Response, try_request};
use pi_gateway_e2e::tokens::token_for;
use pi_gateway_e2e::{Event, User as Client};
use serde_json::{Value, json};

use crate::shared::{Dice, Ended, Shared};

/// How long a request is tried again while nobody answers it, and how long a run may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it is tried again while the answer is that there is no room: others may be quicker again and again.
const QUEUE: Duration = Duration::from_secs(900);
/// The wait before another try.
const RETRY: Duration = Duration::from_millis(100);

/// What a run does.
struct Script {
    text: &'static str,
    /// Requests that the upstream sees.
    requests: usize,
    /// The event after which the user cancels, if he does.
    cancel_at: Option<&'static str>,
}

const fn script(text: &'static str, requests: usize) -> Script {
    Script { text, requests, cancel_at: None }
}

const fn cancelled(text: &'static str, requests: usize, at: &'static str) -> Script {
    Script { text, requests, cancel_at: Some(at) }
}

/// What users do; which one is diced.
const SCRIPTS: [Script; 8] = [
    script("[[say short and sweet]]", 1),
    script("[[slow 60 25]]", 1),
    script("[[think it over]][[long 400]]", 1),
    script("[[bash for i in 1 2 3; do echo line $i; sleep 0.2; done]][[slow 10 20]]", 2),
    script("[[bash (setsid sleep 300 >/dev/null 2>&1 &); echo left one behind]][[say done]]", 2),
    cancelled("[[slow 400 25]]", 1, "text.delta"),
    cancelled("[[bash (setsid sleep 300 >/dev/null 2>&1 &); sleep 60]]", 1, "tool.started"),
    cancelled("[[hang]]", 1, "run.started"),
];

/// One of the users.
pub struct User {
    client: Client,
    dice: Dice,
    shared: Arc<Shared>,
    /// Markers of the prompts that succeeded: the session must hold them.
    markers: Vec<String>,
    count: u64,
}

impl User {
    /// A user with a name and a token for the whole time.
    pub fn new(index: usize, seed: u64, shared: Arc<Shared>) -> Self {
        let name = format!("soak-{index}");
        let client = Client { token: token_for(&name, 80_000), name };
        User { client, dice: Dice::new(seed, index as u64 + 1), shared, markers: Vec::new(), count: 0 }
    }

    /// Until it is over.
    pub fn live(mut self) {
        while self.shared.next() {
            self.count += 1;
            match self.dice.roll(10) {
                0 => self.recall(),
                1 => self.files(),
                number => {
                    let script = &SCRIPTS[usize::try_from((number + self.dice.roll(8)) % 8).unwrap()];
                    self.run(script);
                }
            }
        }
    }

    fn wrong(&self, what: &str) {
        self.shared.complain(format!("{}: {what}", self.client.name));
    }

    /// A request that is made again while nobody answers it or the machine is at its limit.
    fn insist(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Option<Response> {
        let begun = Instant::now();
        let mut answered = begun;
        loop {
            match try_request(method, path, Some(&self.client.token), headers, body) {
                Some(answer) if !matches!(answer.status, 429 | 502..=504) => return Some(answer),
                Some(_) => answered = Instant::now(),
                None => {}
            }
            if answered.elapsed() > PATIENCE || begun.elapsed() > QUEUE {
                let (silent, all) = (answered.elapsed(), begun.elapsed());
                self.wrong(&format!("{method} {path}: refused or not answered for {all:?}, silence for {silent:?}"));
                return None;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Starts a run, with a key, so that a try whose answer was lost is not a second run.
    fn start(&mut self, prompt: &str) -> Option<String> {
        let key = format!("{}-{}", self.client.name, self.count);
        let body = json!({ "prompt": prompt }).to_string();
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key.as_str())];
        let answer = self.insist("POST", "/runs", &headers, Some(body.as_bytes()))?;
        if !matches!(answer.status, 200 | 202) {
            self.wrong(&format!("POST /runs: {} {}", answer.status, String::from_utf8_lossy(&answer.body)));
            return None;
        }
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        answer.json()["id"].as_str().map(str::to_owned)
    }

    fn cancel(&self, run: &str) {
        let headers = [("Content-Type", "application/json")];
        let _ = self.insist("POST", &format!("/runs/{run}/cancel"), &headers, Some(b"{}"));
    }

    /// The events as a client sees them that goes away now and then and comes back whenever its stream ends.
    fn follow(&mut self, run: &str, cancel_at: Option<&str>) -> Option<Vec<Event>> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen: Vec<Event> = Vec::new();
        let mut cancelled = false;
        while seen.last().is_none_or(|event| event.name != "run.finished") {
            if Instant::now() > deadline {
                self.wrong(&format!("run {run} did not end within {PATIENCE:?}; the last event is {:?}", seen.last()));
                return None;
            }
            let after = seen.last().map(|event| event.id.clone());
            if after.is_some() {
                self.shared.resumes.fetch_add(1, Ordering::Relaxed);
            }
            let Some(stream) = self.client.try_stream(run, after.as_deref()) else {
                std::thread::sleep(RETRY);
                continue;
            };
            // A stream that is left early comes back with its last id.
            let leave = if self.dice.roll(4) == 0 { u64::MAX } else { 1 + self.dice.roll(16) };
            for (number, event) in (1..).zip(stream) {
                let is_mark = cancel_at == Some(event.name.as_str());
                seen.push(event);
                if is_mark && !cancelled {
                    cancelled = true;
                    self.cancel(run);
                }
                if number == leave {
                    break;
                }
            }
        }
        self.shared.events.fetch_add(seen.len() as u64, Ordering::Relaxed);
        for (number, event) in seen.iter().enumerate() {
            if !event.id.starts_with(&format!("{}-", number + 1)) {
                self.wrong(&format!("run {run}: a gap or a repetition before {event:?}"));
                break;
            }
        }
        Some(seen)
    }

    fn run(&mut self, script: &Script) -> Option<Value> {
        let marker = format!("<{}.{}>", self.client.name, self.count);
        let prompt = format!("{marker} {}", script.text);
        let run = self.start(&prompt)?;
        let seen = self.follow(&run, script.cancel_at)?;
        let shown = self.insist("GET", &format!("/runs/{run}"), &[], None)?;
        if shown.status != 200 {
            self.wrong(&format!("GET /runs/{run}: {}", shown.status));
            return None;
        }
        let shown = shown.json();
        let status = shown["status"].as_str().unwrap_or_default().to_owned();
        let last = &seen.last()?.data;
        if last["status"] != shown["status"] {
            self.wrong(&format!("run {run}: the last event says {}, the record {status}", last["status"]));
        }
        let code = shown["error"]["code"].as_str().map(|code| format!(" {code}")).unwrap_or_default();
        *self.shared.outcomes.lock().unwrap().entry(format!("{status}{code}")).or_default() += 1;
        let expected = if script.cancel_at.is_some() { "cancelled" } else { "succeeded" };
        if status != expected {
            self.wrong(&format!("run {run} ({}) is {status}, not {expected}: {}", script.text, shown["error"]));
        }
        let succeeded = status == "succeeded";
        if succeeded {
            self.markers.push(marker);
            self.complete(&run, &seen, &shown);
        }
        let retries = seen.iter().filter(|event| event.name == "retry.scheduled").count();
        let ended = Ended { prompt, requests: script.requests, retries, succeeded };
        self.shared.ended.lock().unwrap().push(ended);
        Some(shown)
    }

    /// The text is what was streamed, whole.
    fn complete(&self, run: &str, seen: &[Event], shown: &Value) {
        let Some(message) = seen.iter().rfind(|event| event.name == "message.completed") else {
            return self.wrong(&format!("run {run} succeeded without a message"));
        };
        let of_last = |event: &&Event| event.name == "text.delta" && event.data["message"] == message.data["message"];
        let text: String = seen.iter().filter(of_last).filter_map(|event| event.data["text"].as_str()).collect();
        if message.data["text"] != text.as_str() || shown["output_text"] != text.as_str() {
            self.wrong(&format!("run {run}: the deltas, the message and the answer differ"));
        }
    }

    /// The session holds every prompt that succeeded, once.
    fn recall(&mut self) {
        let before = self.markers.clone();
        let Some(shown) = self.run(&script("[[recall]]", 1)) else { return };
        let recalled = shown["output_text"].as_str().unwrap_or_default();
        for marker in before {
            let times = recalled.matches(&marker).count();
            if times != 1 {
                return self.wrong(&format!("{marker} is {times} times in the session"));
            }
        }
    }

    /// A file that was written is there.
    fn files(&mut self) {
        let path = format!("/workspace/files/content?path={}", encode(format!("file{}", self.count % 5).as_bytes()));
        let text = format!("{} wrote this as number {}", self.client.name, self.count);
        let Some(written) = self.insist("PUT", &path, &[], Some(text.as_bytes())) else { return };
        let Some(read) = self.insist("GET", &path, &[], None) else { return };
        if !matches!(written.status, 200 | 201 | 204) || read.status != 200 || read.body != text.as_bytes() {
            self.wrong(&format!("a file: written {}, read {}", written.status, read.status));
        }
    }
}
