//! pi-gateway: everything that runs without privilege.
//!
//! The binaries in `src/bin/` are a few lines each over this library. What needs root lives in the `helper` crate,
//! which this one uses for the names, the wire format and the launcher's settings only.

pub mod auth;
pub mod cli;
pub mod closer;
pub mod config;
pub mod doctor;
pub mod durable;
pub mod git;
pub mod http;
pub mod image;
pub mod launcher;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod models;
pub mod operator;
pub mod owners;
pub mod pi;
pub mod quota;
pub mod relay;
pub mod runs;
pub mod sites;
pub mod standing;
pub mod worker;
pub mod workspace;
