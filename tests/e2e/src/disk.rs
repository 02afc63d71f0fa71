//! A small disk over one of the gateway's directories.

use crate::host::{sh, try_sh};

/// A disk of its own over a directory, until the end of a test.
pub struct Disk {
    place: &'static str,
    /// The units that use it.
    users: &'static str,
}

impl Disk {
    /// Mounts a tmpfs with these options over a directory; `users` are the units that use it.
    pub fn mount(place: &'static str, options: &str, users: &'static str) -> Self {
        sh(&format!("mount -t tmpfs -o {options} small {place}"));
        Disk { place, users }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = try_sh(&format!("systemctl stop {}; umount -l {}", self.users, self.place));
    }
}
