//! Hostile workspaces against `pi_gateway::worker`, each attack beside a control that shows that it works without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod archives;
mod limits;
mod links;
mod modes;
mod races;
mod support;
mod writes;
