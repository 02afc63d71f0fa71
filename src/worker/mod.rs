//! `pi-gateway-worker`: every access to a user's files, as that user, in a sandbox that holds nothing else.

pub mod archive;
pub mod git;
pub mod list;
pub mod message;
pub mod once;
pub mod packet;
pub mod relpath;
pub mod service;
pub mod session;
pub mod trash;
pub mod tree;
pub mod usage;
pub mod walk;
