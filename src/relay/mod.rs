//! The model relay: the only process that holds the provider's key.
//!
//! It runs outside every sandbox and accepts on listeners made inside them. An agent's first process hands its
//! listener over ([`handover`]), the relay checks it ([`listener`]), serves it for as long as that process lives
//! ([`agents`]) and keeps it over its own restart ([`fdstore`]). A request is let in by its head ([`admit`]) and its
//! body ([`policy`]), goes to the one upstream with the key and a few of its headers ([`headers`], [`upstream`]), and
//! its answer streams back ([`serve`]) while it is counted ([`meter`], [`sse`], [`usage`]). What is refused, and
//! errors of the upstream, become OpenAI-shaped errors ([`failure`]).

pub mod admit;
pub mod agents;
pub mod body;
pub mod config;
pub mod failure;
pub mod fdstore;
pub mod handover;
pub mod headers;
pub mod limits;
pub mod listener;
pub mod meter;
pub mod policy;
pub mod serve;
pub mod service;
pub mod sse;
pub mod upstream;
pub mod usage;
pub mod watch;

#[cfg(test)]
mod tests;
