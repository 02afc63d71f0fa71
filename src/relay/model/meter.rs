//! Counts one upstream request from the moment it is sent, and accounts for it when it ends, however it ends.
//!
//! The account is made on drop, so that a client that goes away, a stream that is cut and a service that stops are
//! accounted for like an answer that came whole. Nothing of the request's or answer's text is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agent::Agent;
use super::ledger::Share;
use super::sse::{Scanner, Tokens};
use super::usage::Record;
use crate::metrics::relay;

/// Status in the account when the client went away before the upstream answered.
const CLIENT_GONE: u16 = 499;
/// Bytes of request text that count as one token in an estimate.
const BYTES_PER_TOKEN: u64 = 4;

/// One upstream request under way.
#[derive(Debug)]
pub struct Meter {
    agent: Arc<Agent>,
    share: Share,
    model: String,
    request_bytes: usize,
    text_bytes: usize,
    started: Instant,
    /// Time until the answer began.
    head: Option<Duration>,
    status: u16,
    upstream_id: String,
    answer_bytes: u64,
    scanner: Scanner,
    /// What the provider counted, where it is not in a stream.
    counted: Option<Tokens>,
    /// Output that an answer without a count is taken to have had.
    expected: u64,
    whole: bool,
}

impl Meter {
    /// Starts counting; the request goes out now, for which `share` was set aside.
    #[must_use]
    pub fn start(agent: Arc<Agent>, share: Share, model: String, request_bytes: usize, text_bytes: usize) -> Self {
        Self {
            agent,
            share,
            model,
            request_bytes,
            text_bytes,
            started: Instant::now(),
            head: None,
            status: CLIENT_GONE,
            upstream_id: String::new(),
            answer_bytes: 0,
            scanner: Scanner::default(),
            counted: None,
            expected: 0,
            whole: false,
        }
    }

    /// The upstream's answer begins, or there is none (502, 504).
    pub fn answered(&mut self, status: u16, upstream_id: &str) {
        self.status = status;
        self.head = Some(self.started.elapsed());
        upstream_id.clone_into(&mut self.upstream_id);
    }

    /// What the output costs should the provider's count not come, for answers that are no streams.
    pub fn expect(&mut self, output: u64) {
        self.expected = output;
    }

    /// What the provider counted, where it is not in a stream.
    pub fn counted(&mut self, tokens: Option<Tokens>) {
        self.counted = tokens;
    }

    /// A piece of the answer passes.
    pub fn passes(&mut self, bytes: &[u8]) {
        self.answer_bytes += bytes.len() as u64;
        self.scanner.feed(bytes);
    }

    /// The answer came to its end.
    pub fn ends(&mut self) {
        self.whole = true;
    }

    /// The tokens, and whether the provider counted them.
    fn tokens(&self) -> (Tokens, bool) {
        match (self.scanner.usage().or(self.counted), self.status) {
            (Some(tokens), _) => (tokens, true),
            // Errors cost nothing.
            (None, status) if status != 200 && status != CLIENT_GONE => (Tokens::default(), self.whole),
            (None, _) => {
                let input = self.text_bytes as u64 / BYTES_PER_TOKEN;
                (Tokens { input, output: self.scanner.deltas().max(self.expected), ..Tokens::default() }, false)
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let (tokens, complete) = self.tokens();
        let whole = self.started.elapsed();
        let (model, status, head) = (self.model.as_str(), self.status, self.head);
        relay::metrics().ended(&relay::Ended { model, status, complete, head, whole, tokens });
        tracing::info!(
            uid = self.agent.uid,
            run = %self.agent.run,
            model = self.model,
            status = self.status,
            request_bytes = self.request_bytes,
            answer_bytes = self.answer_bytes,
            ms = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX),
            input_tokens = tokens.input,
            output_tokens = tokens.output,
            complete,
            upstream_id = self.upstream_id,
            "model request"
        );
        let record = Record::now(&self.model, self.status, tokens, complete);
        let exhausted = self.share.spend(record.tokens(), record.at);
        self.agent.shared.usage.record(self.agent.uid, self.agent.run, record, exhausted);
    }
}
