//! The model relay: the only process that holds the providers' credentials.
//!
//! A request is let in by its head ([`routes`], [`admit`]) and its body ([`policy`]), goes to the one upstream with the key and a
//! few of its headers ([`headers`], [`upstream`]), and its answer streams back ([`requests`]) while it is counted
//! ([`meter`], [`sse`], [`usage`]) and taken from the user's budget ([`ledger`], [`mark`]). Images are made by
//! requests of their own ([`images`]), for agents and for the front ([`front`]). What is refused, and errors of the upstream,
//! become OpenAI-shaped errors ([`failure`]). What is particular to the models of a ChatGPT account is in [`codex`].

pub mod admit;
pub mod agent;
pub mod body;
pub mod codex;
pub mod config;
pub mod failure;
pub mod front;
pub mod headers;
pub mod images;
pub mod ledger;
pub mod limits;
pub mod mark;
pub mod meter;
pub mod policy;
pub mod requests;
pub mod routes;
pub mod service;
pub mod sse;
pub mod upstream;
pub mod usage;

#[cfg(test)]
mod tests;
