//! Every limit of the model relay, in one place; those of all relays are in [`crate::relay::limits`].

use std::time::Duration;

use super::codex;
use crate::relay::limits;

/// Largest request body, in bytes.
pub const MAX_BODY: u64 = 32 * 1024 * 1024;
/// Request bodies held at one time for all users, in bytes.
pub const ALL_BODIES: usize = 256 * 1024 * 1024;
/// Request bodies held at one time for one user, in bytes.
pub const USER_BODIES: usize = 64 * 1024 * 1024;
/// Open connections of one user; more wait in the kernel's backlog.
pub const MAX_CONNECTIONS: usize = 32;
/// Largest error body that is read from the upstream, in bytes.
pub const MAX_ERROR_BODY: usize = 64 * 1024;

/// Largest body of a request for an image, in bytes: a prompt of 32,000 characters and its escapes.
pub const MAX_WISH: u64 = 256 * 1024;
/// Largest answer with an image, in bytes of JSON: 24 MiB of image.
pub const MAX_IMAGE_ANSWER: u64 = 32 * 1024 * 1024;
/// Memory for such answers and what is made of them, for all users, in bytes.
pub const ALL_IMAGES: usize = 256 * 1024 * 1024;
/// Images of one user made at one time.
pub const USER_IMAGES: usize = 2;
/// Tokens that an image costs at most, beside its prompt: what is set aside for one of a user's budget.
pub const IMAGE_TOKENS: u64 = 65_536;
/// Tokens that an image counts for when the provider's count did not come: those of a large one.
pub const IMAGE_ESTIMATE: u64 = 6_240;
/// Connections of the front at one time; more wait in the kernel's backlog.
pub const FRONT_CONNECTIONS: usize = 64;

/// The waits; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Those of every relay.
    pub relay: limits::Waits,
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
    /// Those of the ChatGPT token.
    pub codex: codex::limits::Waits,
    /// For an image, all in all.
    pub image: Duration,
    /// For requests of the same user to end that may use up his budget.
    pub turn: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            relay: limits::Waits::default(),
            body_idle: Duration::from_secs(10),
            body: Duration::from_secs(120),
            connect: Duration::from_secs(10),
            upstream_idle: Duration::from_secs(300),
            error_body: Duration::from_secs(10),
            codex: codex::limits::Waits::default(),
            image: Duration::from_secs(300),
            turn: Duration::from_secs(60),
        }
    }
}
