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

    /// Waits until so many bytes are free; None when there are never so many.
    pub async fn wait(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).ok()?;
        Arc::clone(&self.0).acquire_many_owned(pieces).await.ok()
    }
}

/// Gives back what is beyond so many bytes.
pub fn shrink(share: &mut OwnedSemaphorePermit, bytes: u64) {
    let kept = usize::try_from(bytes.div_ceil(PIECE)).unwrap_or(usize::MAX);
    drop(share.split(share.num_permits().saturating_sub(kept)));
}

/// A body, with its share of both budgets for as long as it is held.
#[derive(Debug)]
pub struct Held {
    /// The bytes, exactly as many as were declared.
    pub bytes: Bytes,
    _shares: [OwnedSemaphorePermit; 2],
}

/// Takes a share of both budgets.
///
/// # Errors
/// No memory is free (worth another try).
pub fn shares(bytes: u64, budgets: [&Budget; 2]) -> Result<[OwnedSemaphorePermit; 2], Failure> {
    let [Some(user), Some(all)] = budgets.map(|budget| budget.take(bytes)) else {
        return Err(Failure::trouble(
            StatusCode::SERVICE_UNAVAILABLE,
            "gateway_busy",
            "The gateway holds too many large requests at the moment (server overloaded).",
        ));
    };
    Ok([user, all])
}

/// Reads a body of `length` bytes.
///
/// # Errors
/// No memory is free (worth another try), the client is too slow, or it went away.
pub async fn read(mut body: Incoming, length: u64, budgets: [&Budget; 2], waits: &Waits) -> Result<Held, Failure> {
    let shares = shares(length, budgets)?;
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
    Ok(Held { bytes, _shares: shares })
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
        let mut all = budget.take(4096).unwrap();
        shrink(&mut all, 1025);
        assert!(budget.take(2048).is_some() && budget.take(2049).is_none());
    }
}
