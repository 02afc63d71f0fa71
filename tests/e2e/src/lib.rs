//! What the end-to-end tests share. They run as root inside the test host (`make test`), where the gateway is installed
//! and started as from its package; a test that finds itself elsewhere fails and says so.
//!
//! Nothing here waits by sleeping for a fixed time: streams are read with a deadline, states are asked until they come.

pub mod account;
pub mod attack;
pub mod disk;
pub mod files;
pub mod gitea;
pub mod host;
pub mod http;
pub mod internet;
pub mod metrics;
pub mod neighbour;
pub mod nginx;
pub mod operator;
pub mod points;
pub mod proxy;
pub mod tokens;
pub mod user;
pub mod wire;

pub use host::{sh, testhost, until};
pub use http::{Response, request, send};
pub use user::{Event, User};
