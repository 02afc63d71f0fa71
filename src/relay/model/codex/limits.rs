//! The limits of what belongs to Codex, in one place.

use std::time::Duration;

/// Largest token and account id in the file or an answer, in bytes; real ones have up to 2,500.
pub const MAX_TOKEN: usize = 6 * 1024;
/// Largest window of a compressed body, as a power of two; pi's have 21. It is memory that a sandbox chooses.
pub const MAX_WINDOW_LOG: u32 = 23;
/// How long before its end a token is exchanged, in seconds.
pub const MARGIN: i64 = 300;

/// The waits; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For an exchange of tokens, from the connection to the last byte.
    pub issuer: Duration,
    /// For a request that needs a token which is just being exchanged.
    pub token: Duration,
    /// From one look at a file that is of no use to the next.
    pub look: Duration,
    /// From a failed exchange to the next; it doubles up to `most`.
    pub retry: Duration,
    /// The longest of those.
    pub most: Duration,
    /// From one look at how the token stands to the next, when nobody asks for it.
    pub period: Duration,
    /// In which a token that upstream refuses is not exchanged again.
    pub renewed: Duration,
    /// For an exchange under way when the service stops.
    pub settle: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            issuer: Duration::from_secs(30),
            token: Duration::from_secs(45),
            look: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            most: Duration::from_secs(60),
            period: Duration::from_secs(10),
            renewed: Duration::from_secs(60),
            settle: Duration::from_secs(5),
        }
    }
}
