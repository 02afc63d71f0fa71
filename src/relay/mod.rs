//! The relays: outside every sandbox, each the only process that holds its secret.
//!
//! A relay accepts on listeners made inside the sandboxes. The first process of a sandbox hands its listener over
//! ([`handover`]), the relay checks it ([`listener`]), serves it for as long as that process lives ([`peers`],
//! [`connection`]) and keeps it over its own restart ([`fdstore`]). All of that is the same for every kind. What a kind
//! lets through and what it adds is its own: [`model`] for pi's requests to the model provider, [`git`] for a user's
//! repository on Gitea, [`egress`] for the internet. [`service`] is the program around them, [`settings`] what it is told.

pub mod connection;
pub mod egress;
pub mod failure;
pub mod fdstore;
pub mod git;
pub mod handover;
pub mod limits;
pub mod listener;
pub mod model;
pub mod peers;
pub mod plain;
pub mod probe;
pub mod service;
pub mod settings;
pub mod watch;

#[cfg(test)]
mod testing;
