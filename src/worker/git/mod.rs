//! `pi-gateway-worker git`: commits a user's workspace and keeps it in step with its remote, as that user, in a sandbox
//! that holds no secret, has no network, and reaches the git relay alone.
//!
//! The repository belongs to the agent, so nothing in it is believed. libgit2 never opens it: it opens a repository of our
//! own on a tmpfs ([`repository`]) that shares the objects and refs, after both were looked through. The workspace is
//! walked here, below its root and without following anything ([`snapshot`]); what a merge brings is written the same way
//! ([`checkout`]). Configuration, hooks, filters, attributes and submodules of the workspace are never read. What cannot
//! be committed is left out and reported; a repository that cannot be used is set aside, and a new one made.

pub mod checkout;
pub mod ignored;
mod loose;
pub mod message;
pub mod remote;
pub mod repository;
pub mod service;
pub mod snapshot;
pub mod sync;
pub mod transport;

use message::Failure;

/// What libgit2 says, as a failure of a step.
pub(super) fn failed(step: &'static str) -> impl Fn(git2::Error) -> Failure {
    move |error| Failure::new("git_failed", format_args!("{step}: {}", error.message()))
}

/// What the file system says, as a failure of a step.
pub(super) fn refused(step: &'static str) -> impl Fn(crate::worker::message::Failure) -> Failure {
    use crate::worker::message::Failure as Tree;
    move |failure| match failure {
        Tree::NoSpace | Tree::Quota => Failure::new("disk_full", format_args!("{step}: no room is left")),
        other => Failure::new("git_failed", format_args!("{step}: {other:?}")),
    }
}

/// What the system says of our own scratch directory, as a failure of a step.
pub(super) fn broken(step: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::new("git_failed", format_args!("{step}: {error}"))
}
