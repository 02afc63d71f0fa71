//! Descriptors that a worker handed over, looked at again: the worker runs as the user, whose agent is hostile.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::worker::message::Version;

fn version(found: &Metadata) -> Version {
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Version {
        inode: found.ino(),
        size: found.len(),
        modified: nanoseconds(found.mtime(), found.mtime_nsec()),
        changed: nanoseconds(found.ctime(), found.ctime_nsec()),
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the worker handed over {what}"))
}

fn regular(descriptor: OwnedFd, access: OFlag) -> io::Result<(File, Metadata)> {
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    let file = File::from(descriptor);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused("something that is no regular file"));
    }
    // A descriptor that only names a path has neither right.
    if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE != access {
        return Err(refused("a descriptor with other rights than asked for"));
    }
    Ok((file, found))
}

/// A file to read, and its version now.
///
/// # Errors
/// When it is not a regular file, open for reading only.
pub fn readable(descriptor: Option<OwnedFd>) -> io::Result<(File, Version)> {
    let (file, found) = regular(descriptor.ok_or_else(|| refused("no descriptor"))?, OFlag::O_RDONLY)?;
    Ok((file, version(&found)))
}

/// A file to fill.
///
/// # Errors
/// When it is not a regular file, empty and without a name, open for writing only.
pub fn fillable(descriptor: Option<OwnedFd>) -> io::Result<File> {
    let (file, found) = regular(descriptor.ok_or_else(|| refused("no descriptor"))?, OFlag::O_WRONLY)?;
    if found.len() != 0 { Err(refused("a file that holds something already")) } else { Ok(file) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_regular_files_with_exactly_the_rights_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let read = || Some(OwnedFd::from(File::open(&path).unwrap()));
        let write = || Some(OwnedFd::from(std::fs::OpenOptions::new().write(true).open(&path).unwrap()));
        readable(read()).unwrap();
        fillable(write()).unwrap_err();
        std::fs::write(&path, "").unwrap();
        fillable(write()).unwrap();
        let both = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        readable(Some(both.into())).unwrap_err();
        for bad in
            [write(), None, Some(File::open(dir.path()).unwrap().into()), Some(File::open("/dev/null").unwrap().into())]
        {
            readable(bad).unwrap_err();
        }
    }
}
