//! pi's raw output: a regular file that the kernel appends to, read from an offset and freed behind it.
//!
//! The agent holds a descriptor of this file and can truncate or rewrite it. What was turned into events is never read
//! again, and a file shorter than the offset is [`RawError::Tampered`], which ends the run.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, OFlag, fallocate};

/// Consumed output is given back to the file system in steps of 1 MiB.
const PUNCH: u64 = 1 << 20;

/// Why the output cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The file is shorter than what was read of it.
    #[error("the output file was truncated to {length} bytes after {offset} were read")]
    Tampered {
        /// Its length now.
        length: u64,
        /// What was read.
        offset: u64,
    },
    /// The file cannot be read.
    #[error("reading the agent's output: {0}")]
    Io(#[from] io::Error),
}

/// The reader of one run's output.
pub struct RawOutput {
    file: File,
    offset: u64,
    freed: u64,
}

impl RawOutput {
    /// Opens the output at `path`, to be read from `offset`.
    ///
    /// # Errors
    /// When there is no regular file to read and write.
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        // Writing is needed to punch holes only. The directory is root's; the flags cost nothing.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent's output is not a regular file"));
        }
        Ok(RawOutput { file, offset, freed: 0 })
    }

    /// Reads what has come; 0 when there is nothing new.
    ///
    /// # Errors
    /// See [`RawError`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RawError> {
        let count = self.file.read_at(buffer, self.offset)?;
        if count == 0 {
            let length = self.file.metadata()?.len();
            if length < self.offset {
                return Err(RawError::Tampered { length, offset: self.offset });
            }
        }
        self.offset += count as u64;
        Ok(count)
    }

    /// How much was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Gives the space of everything before `offset` back. A file system that cannot do it keeps the space; the
    /// output's own limit bounds that.
    pub fn free_before(&mut self, offset: u64) {
        let end = offset - offset % 4096;
        if end < self.freed + PUNCH {
            return;
        }
        let (from, length) = (i64::try_from(self.freed), i64::try_from(end - self.freed));
        if let (Ok(from), Ok(length)) = (from, length) {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            if let Err(error) = fallocate(&self.file, flags, from, length) {
                tracing::debug!(%error, "the file system keeps the space of consumed output");
            }
        }
        self.freed = end;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn consumed_output_is_freed_and_later_output_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        let before = std::fs::metadata(&path).unwrap().blocks();
        let mut raw = RawOutput::open(&path, 0).unwrap();
        let mut buffer = vec![0; 3 << 20];
        assert_eq!(raw.read(&mut buffer).unwrap(), 3 << 20);
        raw.free_before(raw.offset());
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(after.len(), 3 << 20);
        assert!(after.blocks() < before / 2, "{} of {before} blocks are left", after.blocks());
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_at(b"new", 3 << 20).unwrap();
        assert_eq!(raw.read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"new");
    }

    #[test]
    fn a_truncated_file_is_noticed_and_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, b"0123456789").unwrap();
        let mut raw = RawOutput::open(&path, 0).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(raw.read(&mut buffer).unwrap(), 10);
        std::fs::write(&path, b"forged").unwrap();
        assert!(matches!(raw.read(&mut buffer), Err(RawError::Tampered { length: 6, offset: 10 })));
    }
}
