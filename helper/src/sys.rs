//! The only file of this crate with unsafe code: descriptors that come from outside the program.

#![allow(unsafe_code, reason = "there is no safe interface for inherited descriptors")]

use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;

use nix::errno::Errno;

/// Takes the listening sockets that systemd passes (`LISTEN_PID`, `LISTEN_FDS`). Call it once, first of all.
pub fn passed_listeners() -> Vec<UnixListener> {
    let passed = sd_notify::listen_fds().into_iter().flatten();
    // SAFETY: systemd passes these descriptors to this process and nothing here has taken them; main calls this once, first.
    passed.map(|passed| unsafe { UnixListener::from_raw_fd(passed) }).collect()
}

/// Marks every descriptor beyond 0, 1 and 2 to be closed at exec, whoever opened it.
///
/// # Errors
/// When the kernel does not know the call (before 5.11).
pub fn close_at_exec() -> Result<(), Errno> {
    let flag = nix::libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: no pointers are passed, and no descriptor is closed: each only gets a flag.
    Errno::result(unsafe { nix::libc::close_range(3, u32::MAX, flag) }).map(drop)
}
