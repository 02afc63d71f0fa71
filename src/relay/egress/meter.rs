//! The line of the log that each connection becomes when it ends, however it ends. It is written on drop, so that a
//! client that goes away and a tunnel that is cut have theirs too. No path, header or text of a body is in it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::line::Flow;
use super::peer::Peer;
use super::target::Target;
use crate::relay::failure::Failure;

/// Status in the log when the client went away before there was one.
const CLIENT_GONE: u16 = 499;

/// One connection, from the moment that somebody wants it.
#[derive(Debug)]
pub struct Meter {
    peer: Arc<Peer>,
    target: Target,
    address: Option<IpAddr>,
    started: Instant,
    flow: Arc<Flow>,
    status: u16,
    code: &'static str,
}

impl Meter {
    /// Starts counting.
    #[must_use]
    pub fn start(peer: Arc<Peer>, target: Target) -> Self {
        let (flow, started) = (Arc::default(), Instant::now());
        Self { peer, target, address: None, started, flow, status: CLIENT_GONE, code: "" }
    }

    /// What counts its bytes.
    #[must_use]
    pub fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    /// It leads to this address.
    pub fn leads_to(&mut self, address: IpAddr) {
        self.address = Some(address);
    }

    /// It ends with an error.
    pub fn failed(&mut self, failure: &Failure) {
        (self.status, self.code) = (failure.status.as_u16(), failure.code);
    }

    /// Bytes begin to pass; unless more is heard it was cut.
    pub fn answered(&mut self, status: u16) {
        (self.status, self.code) = (status, "cut");
    }

    /// It ended by itself.
    pub fn ends(&mut self) {
        self.code = "";
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // What never led out can be repeated at little cost.
        if self.address.is_none() && self.peer.refusals.count().is_none() {
            return;
        }
        let code = self.flow.stopped().unwrap_or(self.code);
        tracing::info!(
            uid = self.peer.uid,
            run = %self.peer.run,
            kind = if self.target.tunnel { "tunnel" } else { "request" },
            host = %self.target.host,
            port = self.target.port,
            address = self.address.map(tracing::field::display),
            status = self.status,
            code,
            up_bytes = self.flow.up(),
            down_bytes = self.flow.down(),
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "egress connection"
        );
    }
}
