//! The limits that hold for every relay: its door, its users, its connections. What a request may be is its kind's own.

use std::time::Duration;

/// Largest request head, in bytes; pi's has about 1,000.
pub const MAX_HEAD: usize = 16 * 1024;
/// Largest read or write buffer of a connection, in bytes.
pub const MAX_BUFFER: usize = 64 * 1024;
/// Most header lines of a request.
pub const MAX_HEADERS: usize = 64;
/// Users served at one time.
pub const MAX_PEERS: usize = 256;
/// Hand-overs under way at one time.
pub const MAX_PENDING: usize = 64;
/// Hand-overs of one user under way at one time.
pub const MAX_PENDING_PER_USER: usize = 4;
/// Longest hand-over message, in bytes.
pub const MAX_MESSAGE: usize = 256;
/// Largest settings file and credential, in bytes.
pub const MAX_FILE: u64 = 64 * 1024;

/// The waits; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For a hand-over's message, and for an earlier listener of the same user to be let go.
    pub hand_over: Duration,
    /// For a request's head, also between two requests of a connection.
    pub head: Duration,
    /// For a client that does not read; enforced by the kernel (TCP_USER_TIMEOUT).
    pub client_stall: Duration,
    /// For running answers when the service stops.
    pub drain: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            hand_over: Duration::from_secs(2),
            head: Duration::from_secs(10),
            client_stall: Duration::from_secs(120),
            drain: Duration::from_secs(5),
        }
    }
}
