//! The client of `pi --mode rpc` (pinned: 1.5.2): what is written to its stdin, and what its stdout means.
//!
//! Nothing here does I/O. pi's output is hostile input: a line has a cap, a record is parsed into borrowed, typed
//! fields, and whatever does not fit is an error the caller counts, never a panic. What pi reports about tokens is
//! shown as context, never billed (usage is counted by the model relay).

pub mod command;
pub mod lines;
pub mod record;
pub mod tail;
pub mod translate;

/// The name under which the trusted extension registers the gateway's models in pi.
pub const PROVIDER: &str = "gateway";
