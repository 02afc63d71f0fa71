//! Every limit of the relay, in one place.

use std::time::Duration;

/// Largest request body, in bytes.
pub const MAX_BODY: u64 = 32 * 1024 * 1024;
/// Request bodies held at one time for all users, in bytes.
pub const ALL_BODIES: usize = 256 * 1024 * 1024;
/// Request bodies held at one time for one user, in bytes.
pub const USER_BODIES: usize = 64 * 1024 * 1024;
/// Largest request head, in bytes; pi's has about 1,000.
pub const MAX_HEAD: usize = 16 * 1024;
/// Largest read or write buffer of a connection, in bytes.
pub const MAX_BUFFER: usize = 64 * 1024;
/// Most header lines of a request.
pub const MAX_HEADERS: usize = 64;
/// Open connections of one user; more wait in the kernel's backlog.
pub const MAX_CONNECTIONS: usize = 32;
/// Users served at one time.
pub const MAX_AGENTS: usize = 256;
/// Hand-overs under way at one time.
pub const MAX_PENDING: usize = 64;
/// Hand-overs of one user under way at one time.
pub const MAX_PENDING_PER_USER: usize = 4;
/// Longest hand-over message, in bytes.
pub const MAX_MESSAGE: usize = 256;
/// Largest error body that is read from the upstream, in bytes.
pub const MAX_ERROR_BODY: usize = 64 * 1024;

/// The waits; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For a hand-over's message, and for an earlier listener of the same user to be let go.
    pub hand_over: Duration,
    /// For a request's head, also between two requests of a connection.
    pub head: Duration,
    /// For the next piece of a request's body.
    pub body_idle: Duration,
    /// For a whole request body.
    pub body: Duration,
    /// For a connection to the upstream.
    pub connect: Duration,
    /// For the upstream's next byte, the first one included.
    pub upstream_idle: Duration,
    /// For an upstream's error body.
    pub error_body: Duration,
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
            body_idle: Duration::from_secs(10),
            body: Duration::from_secs(120),
            connect: Duration::from_secs(10),
            upstream_idle: Duration::from_secs(300),
            error_body: Duration::from_secs(10),
            client_stall: Duration::from_secs(120),
            drain: Duration::from_secs(5),
        }
    }
}
