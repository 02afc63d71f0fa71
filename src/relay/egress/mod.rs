//! The egress relay: an agent's way to the internet, and to nothing nearer.
//!
//! Where `SANDBOX_INTERNET_ENABLED=true`, an agent has a second listener in its namespace, a proxy that takes `CONNECT` and
//! plain `http://` requests. This relay accepts on it. Where a request wants to go is read from its head ([`target`]) and
//! judged by name and port; the name is resolved here, outside, every address that it has is judged ([`address`]), and
//! the connection goes to one of those addresses and never asks for the name again ([`dial`]). A redirect is the
//! client's to follow: it comes back as another request. Bytes pass counted and limited ([`line`], [`limits`]), as a
//! tunnel or as requests of a cleaned head ([`forward`]). What is refused is a status with a line of plain text; each
//! connection that leads out is a line of the log ([`meter`]).
//!
//! It holds no secret. What passes through a tunnel is not looked at: what a user's agent knows it can send to any host
//! that it may reach.

pub mod address;
pub mod config;
pub mod dial;
pub mod forward;
pub mod limits;
pub mod line;
pub mod meter;
pub mod peer;
pub mod requests;
pub mod service;
pub mod target;

#[cfg(test)]
mod tests;
