//! The record of what came in: one line of JSON per request and per end of an answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::HeaderMap;
use serde_json::{Map, Value, json};

/// Lines kept for `GET /__log`; the file keeps all.
const KEPT: usize = 10_000;

#[derive(Debug)]
pub struct Journal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    lines: VecDeque<Value>,
    requests: u64,
    failures: HashMap<String, u32>,
    used: HashSet<String>,
}

impl Journal {
    pub fn open(path: Option<&str>) -> io::Result<Self> {
        let file = path.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        Ok(Self(Mutex::new(State { file, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request and returns its number.
    pub fn request(&self, mut line: Map<String, Value>, headers: &HeaderMap) -> u64 {
        let mut state = self.lock();
        state.requests += 1;
        let n = state.requests;
        let mut all: Map<String, Value> = Map::new();
        for (name, value) in headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            match all.get_mut(name.as_str()) {
                Some(Value::String(earlier)) => *earlier = format!("{earlier}, {text}"),
                _ => {
                    all.insert(name.to_string(), json!(text));
                }
            }
        }
        line.insert("n".to_owned(), json!(n));
        line.insert("headers".to_owned(), Value::Object(all));
        state.write(Value::Object(line));
        n
    }

    /// Records how an answer ended.
    pub fn end(&self, n: u64, status: u16, how: &str) {
        self.lock().write(json!({"n": n, "end": how, "status": status}));
    }

    /// Whether a flaky answer still fails: `times` times for each key, then it succeeds and starts anew.
    pub fn fails(&self, key: &str, times: u32) -> bool {
        let mut state = self.lock();
        let count = state.failures.entry(key.to_owned()).or_default();
        *count += 1;
        let fails = *count <= times;
        if !fails {
            state.failures.remove(key);
        }
        fails
    }

    /// Whether a word has not come before.
    pub fn is_first(&self, word: &str) -> bool {
        self.lock().used.insert(word.to_owned())
    }

    pub fn lines(&self) -> Value {
        Value::Array(self.lock().lines.iter().cloned().collect())
    }
}

impl State {
    fn write(&mut self, line: Value) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(format!("{line}\n").as_bytes())
        {
            eprintln!("the log cannot be written: {error}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn flaky_fails_as_often_as_told_and_starts_anew() {
        let journal = Journal::open(None).unwrap();
        let seen: Vec<bool> = (0..6).map(|_| journal.fails("k", 2)).collect();
        assert_eq!(seen, [true, true, false, true, true, false]);
    }
}
