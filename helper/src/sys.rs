//! The only file of this crate with unsafe code: descriptors that come from outside the program.

#![allow(unsafe_code, reason = "taking over inherited descriptors and closing unknown ones has no safe interface")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::errno::Errno;

/// The first descriptor that systemd passes (`SD_LISTEN_FDS_START`).
const FIRST_PASSED: RawFd = 3;

/// Takes the one listening socket that systemd passes (`LISTEN_PID`, `LISTEN_FDS`). Call it once, first of all.
pub fn passed_listener() -> Option<UnixListener> {
    let ours = |name: &str, value: u32| std::env::var(name).is_ok_and(|text| text == value.to_string());
    if !ours("LISTEN_PID", std::process::id()) || !ours("LISTEN_FDS", 1) {
        return None;
    }
    // SAFETY: systemd passes descriptor 3 to this process and nothing here has taken it; main calls this once, first.
    let passed = unsafe { OwnedFd::from_raw_fd(FIRST_PASSED) };
    Some(UnixListener::from(passed))
}

/// Closes every descriptor from `first` on, or marks them to be closed at exec.
///
/// # Errors
/// When the kernel does not know the call (before 5.11).
pub fn close_from(first: u32, at_exec: bool) -> Result<(), Errno> {
    #[allow(clippy::cast_possible_wrap, reason = "the flag is 4")]
    let flags = if at_exec { nix::libc::CLOSE_RANGE_CLOEXEC as i32 } else { 0 };
    // SAFETY: no pointers are passed; no owner of a descriptor from `first` on is alive in this process, or they only
    // get a flag.
    let result = unsafe { nix::libc::close_range(first, u32::MAX, flags) };
    Errno::result(result).map(drop)
}
