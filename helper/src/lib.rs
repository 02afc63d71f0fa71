//! The privileged part of pi-gateway, small on purpose.
//!
//! Read it in this order: [`wire`] (what the front may ask for), [`launcher`] (what is done about it), [`units`] (what a
//! sandbox is), [`files`] and [`uids`] (what belongs to whom), [`environment`] and [`start`] (what must be true before),
//! [`enter`] and [`probe`] (what happens inside). `tests/budget.rs` holds its size.

#![deny(unsafe_code)]

pub mod codex;
pub mod enter;
pub mod environment;
pub mod files;
pub mod launcher;
pub mod names;
pub mod probe;
pub mod settings;
pub mod start;
pub mod sys;
pub mod systemd;
pub mod uids;
pub mod units;
pub mod wire;
