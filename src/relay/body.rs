//! Reads a request's body: whole, within a budget of memory for the user and for all users, and within time.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failure::Failure;
use super::limits::Waits;

/// The budget is counted in pieces of this many bytes.
const PIECE: u64 = 1024;

/// Memory for request bodies.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / PIECE as usize)))
    }

    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(pieces).ok()
    }
}

/// A body, with its share of both budgets for as long as it is held.
#[derive(Debug)]
pub struct Held {
    /// The bytes, exactly as many as were declared.
    pub bytes: Bytes,
    _shares: [OwnedSemaphorePermit; 2],
}

/// Reads a body of `length` bytes.
///
/// # Errors
/// No memory is free (worth another try), the client is too slow, or it went away.
pub async fn read(mut body: Incoming, length: u64, budgets: [&Budget; 2], waits: &Waits) -> Result<Held, Failure> {
    let [user, all] = budgets.map(|budget| budget.take(length));
    let (Some(user), Some(all)) = (user, all) else {
        return Err(Failure::trouble(
            StatusCode::SERVICE_UNAVAILABLE,
            "gateway_busy",
            "The gateway holds too many large requests at the moment (server overloaded).",
        ));
    };
    let slow = |_| Failure::refused(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not come in time");
    let gone = |_| Failure::refused(StatusCode::BAD_REQUEST, "body_incomplete", "the body did not come whole");
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = timeout(waits.body_idle, body.frame()).await.map_err(slow)? {
            if let Ok(data) = frame.map_err(gone)?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    };
    let bytes = timeout(waits.body, reading).await.map_err(slow)??;
    Ok(Held { bytes, _shares: [user, all] })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_budget_is_given_out_once_and_comes_back() {
        let budget = Budget::new(4 * 1024);
        let first = budget.take(3 * 1024 + 1).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(4096).is_some());
        assert!(budget.take(u64::MAX).is_none());
    }
}
