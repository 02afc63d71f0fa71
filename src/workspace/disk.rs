//! How much users may take of the disk, and how much must stay free.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::Statvfs;

/// How long a worker may take to count what a workspace takes.
pub const MEASURING: Duration = Duration::from_secs(10);
/// What must stay free of a file system: a twentieth of it, or this much, whichever is less.
const FLOOR: u64 = 1 << 30;

/// A file system's space, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What others than root may still take.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl Space {
    /// The space of the file system that holds `path`.
    ///
    /// # Errors
    /// When the path is not there.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(nix::sys::statvfs::statvfs(path)?.into())
    }

    /// The space of the file system that holds an open file.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn around(file: &File) -> io::Result<Self> {
        Ok(nix::sys::statvfs::fstatvfs(file)?.into())
    }

    /// Whether less is free than must be. Sessions and events still have room then.
    pub fn is_scarce(&self) -> bool {
        self.free < FLOOR.min(self.total / 20)
    }
}

impl From<Statvfs> for Space {
    fn from(found: Statvfs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Space { free: bytes(found.blocks_available()), total: bytes(found.blocks()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_a_twentieth_or_a_gibibyte() {
        let scarce = |free, total| Space { free, total }.is_scarce();
        assert!(scarce(49, 1000) && !scarce(50, 1000));
        assert!(scarce((1 << 30) - 1, 1 << 40) && !scarce(1 << 30, 1 << 40));
    }
}
