//! relay
pub mod policy;
pub mod sse;
