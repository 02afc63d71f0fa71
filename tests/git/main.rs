//! The git worker's work on real directories, against git itself and a small Gitea.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hostile;
mod losses;
mod remote;
mod snapshots;
mod submodules;
mod support;
