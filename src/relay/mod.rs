//! relay
pub mod config;
pub mod failure;
pub mod headers;
pub mod policy;
pub mod sse;
pub mod usage;
