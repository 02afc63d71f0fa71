//! Waiting on descriptors that tokio has no type for: SEQPACKET sockets and pidfds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;

use crate::closer::Handed;

/// Registers a descriptor with the runtime.
///
/// # Errors
/// The kernel cannot watch this kind of descriptor, or has no room.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps one descriptor number open for as long as it lives, and it is moved into the AsyncFd,
    // which removes the registration before it drops it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Registers a socket to a sandbox with the runtime.
///
/// # Errors
/// The kernel cannot watch it, or has no room.
pub fn watch_handed(fd: Handed) -> io::Result<AsyncFd<Handed>> {
    // SAFETY: as above; a Handed owns its descriptor.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Whether the process of a pidfd has ended.
pub fn ended(pidfd: &impl AsFd) -> bool {
    !events(pidfd, PollFlags::IN).is_empty()
}

/// What is the case with a descriptor right now, of `wanted` and of hang-up and error.
pub fn events(fd: &impl AsFd, wanted: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(fd, wanted)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents(),
        // An unknown state counts as the end: nothing is then served that should not be.
        Err(_) => PollFlags::ERR,
    }
}
