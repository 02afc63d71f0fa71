//! The git relay: the only process that holds the Gitea token.
//!
//! A user's git unit sees one address, a listener of its own that this relay accepts on. What it may ask for is three
//! requests of one repository, `<user>/<GITEA_WORKSPACE_REPO_NAME>.git` of the user whose uid the kernel names
//! ([`users`], [`admit`]): the list of refs, a fetch, a push. A push is judged by its command list before a byte of it
//! goes upstream ([`commands`], [`pkt`]): branches may be created and moved, nothing is deleted, and no other ref is
//! touched. Requests go to exactly one origin with the account's name and token, and no redirect is followed
//! ([`upstream`]); bodies stream in both directions within limits of size, time and number ([`upload`], [`answer`],
//! [`limits`]). Nothing that a client or Gitea says crosses but bodies: heads are made here. What is refused, and what
//! Gitea refuses, is a status with a line of plain text ([`failure`]); each request is a line of the log ([`meter`]).
//!
//! Who may push is decided here by repository, not by content: whether a branch moves forward is Gitea's to protect.

pub mod admit;
pub mod answer;
pub mod commands;
pub mod config;
pub mod failure;
pub mod limits;
pub mod meter;
pub mod peer;
pub mod pkt;
pub mod requests;
pub mod service;
pub mod upload;
pub mod upstream;
pub mod users;

#[cfg(test)]
mod tests;
