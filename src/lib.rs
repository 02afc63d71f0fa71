//! pi-gateway: everything that runs without privilege.
//!
//! The binaries in `src/bin/` are a few lines each over this library. What needs root lives in the `helper` crate,
//! which this one uses for the names, the wire format and the launcher's settings only.

pub mod auth;
pub mod cli;
pub mod config;
pub mod http;
pub mod launcher;
pub mod models;
pub mod pi;
pub mod relay;
pub mod runs;
