//! The line of the log that each request becomes when it ends, however it ends. It is written on drop, so that a client
//! that goes away and an answer that is cut have theirs too. No path, header or text of a body is in it.

use std::sync::Arc;
use std::time::Instant;

use super::admit::Call;
use super::failure::Failure;
use super::peer::Peer;
use super::upload::Progress;

/// Status in the log when the client went away before there was one.
const CLIENT_GONE: u16 = 499;

/// One request under way.
#[derive(Debug)]
pub struct Meter {
    peer: Arc<Peer>,
    call: Call,
    started: Instant,
    sent: Arc<Progress>,
    received: u64,
    status: u16,
    code: &'static str,
}

impl Meter {
    /// Starts counting.
    #[must_use]
    pub fn start(peer: Arc<Peer>, call: Call, sent: Arc<Progress>) -> Self {
        Self { peer, call, started: Instant::now(), sent, received: 0, status: CLIENT_GONE, code: "" }
    }

    /// It ends with an error.
    pub fn failed(&mut self, failure: &Failure) {
        (self.status, self.code) = (failure.status.as_u16(), failure.code);
    }

    /// Its answer begins; unless more is heard it was cut.
    pub fn answered(&mut self, status: u16) {
        (self.status, self.code) = (status, "cut");
    }

    /// A piece of the answer passes; gives the number of bytes so far.
    pub fn passes(&mut self, bytes: usize) -> u64 {
        self.received += bytes as u64;
        self.received
    }

    /// The answer ended like this.
    pub fn ends(&mut self, code: &'static str) {
        self.code = code;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // What was refused here can be repeated at no cost; what reached Gitea cannot.
        let refused = self.status >= 400 && self.status != CLIENT_GONE && !self.code.starts_with("gitea_");
        if refused && self.peer.refusals.count().is_none() {
            return;
        }
        tracing::info!(
            user = self.peer.user,
            uid = self.peer.uid,
            run = %self.peer.run,
            method = if self.call.asks_for_refs { "GET" } else { "POST" },
            service = self.call.service.name(),
            status = self.status,
            code = self.code,
            request_bytes = self.sent.bytes(),
            answer_bytes = self.received,
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "git request"
        );
    }
}
