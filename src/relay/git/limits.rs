//! Every limit of the git relay, in one place; those of all relays are in [`crate::relay::limits`]. A pack, in either
//! direction, may be as large as a workspace (`WORKSPACE_QUOTA_MB`): the repository lies in it.

use std::time::Duration;

use crate::relay::limits;

/// The abstract name of the git relay's listeners inside the sandboxes, where nothing else listens.
pub const NAME: &str = "relay-git";
/// Open connections of one user; more wait in the kernel's backlog.
pub const MAX_CONNECTIONS: usize = 8;
/// Requests of one user under way at one time.
pub const USER_REQUESTS: usize = 4;
/// Requests of all users under way at one time.
pub const ALL_REQUESTS: usize = 128;
/// Largest request of a fetch, in bytes, decompressed. With 16,000 commits to compare git sends 800 KiB.
pub const MAX_FETCH_REQUEST: u64 = 4 * 1024 * 1024;
/// Largest compressed request of a fetch, in bytes; it is held whole.
pub const MAX_COMPRESSED: u64 = 1024 * 1024;
/// Largest list of refs that Gitea may answer with, in bytes; a ref has about 60.
pub const MAX_ADVERTISEMENT: u64 = 16 * 1024 * 1024;
/// Largest command list of a push, in bytes, its last packet included.
pub const MAX_LIST: usize = 64 * 1024;
/// Most commands of a push.
pub const MAX_COMMANDS: usize = 128;
/// Longest name of a ref, in bytes.
pub const MAX_REF: usize = 250;

/// The waits; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Those of every relay.
    pub relay: limits::Waits,
    /// For one of the places of [`ALL_REQUESTS`].
    pub place: Duration,
    /// For the next piece of a request's body.
    pub body_idle: Duration,
    /// For a connection to Gitea.
    pub connect: Duration,
    /// For Gitea to take or give the next piece; the first one of an answer may follow a long check of a push.
    pub upstream_idle: Duration,
    /// For a whole request with its answer.
    pub request: Duration,
    /// For a whole connection; what is left of a request whose answer nobody reads.
    pub connection: Duration,
    /// For the next piece of a body that nobody wants any more, so that the client gets to read why.
    pub unwanted: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            relay: limits::Waits::default(),
            place: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            upstream_idle: Duration::from_secs(90),
            request: Duration::from_secs(900),
            connection: Duration::from_secs(1800),
            unwanted: Duration::from_secs(5),
        }
    }
}
