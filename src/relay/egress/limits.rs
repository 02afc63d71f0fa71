//! Every limit of the egress relay, in one place; those of all relays are in [`crate::relay::limits`].

use std::time::Duration;

use crate::relay::limits;

/// The port of the egress relay's listeners inside the sandboxes.
pub const PORT: u16 = 4182;
/// The ports that may be reached: http and https. Registries and forges serve there; mail, shells and databases do not.
pub const PORTS: &[u16] = &[80, 443];
/// Open connections of one user; more wait in the kernel's backlog. npm opens up to 15 to one host.
pub const MAX_CONNECTIONS: usize = 32;
/// Connections of all users that lead out.
pub const ALL_CONNECTIONS: usize = 1024;
/// Names of one user that are being resolved at one time.
pub const USER_RESOLUTIONS: usize = 4;
/// Names of all users that are being resolved at one time, each on a thread of its own.
pub const ALL_RESOLUTIONS: usize = 64;
/// Most addresses of a name; all of them are judged.
pub const MAX_ADDRESSES: usize = 64;
/// Most addresses of a name that are tried.
pub const MAX_TRIES: usize = 4;

/// The limits that tests shorten.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The waits of every relay.
    pub relay: limits::Waits,
    /// For one of the places of [`ALL_CONNECTIONS`].
    pub place: Duration,
    /// For the addresses of a name.
    pub resolve: Duration,
    /// For a connection, all tries together.
    pub connect: Duration,
    /// For the next byte, in either direction.
    pub idle: Duration,
    /// For a client's connection with all that passes through it.
    pub lifetime: Duration,
    /// Bytes of one connection that leads out, both directions together.
    pub connection_bytes: u64,
    /// Bytes of one run, all its connections and both directions together. A restart of the relay begins anew.
    pub run_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            relay: limits::Waits::default(),
            place: Duration::from_secs(10),
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            lifetime: Duration::from_secs(3600),
            connection_bytes: 2 << 30,
            run_bytes: 8 << 30,
        }
    }
}
