//! Goes through a tree without following anything: every directory is opened below the one before it.
//!
//! Nothing is kept but one descriptor and one buffer a level, so a million files cost no memory; there may be
//! [`MAX_LEVELS`]. What disappears while it is looked at is left out; what cannot be read is reported.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::message::Failure;
use super::relpath::RESERVED;
use super::tree::failure;

/// The most levels of directories, each of which is a descriptor. The worker's unit lets it have that many in each of its
/// walks (`LimitNOFILE=`).
pub const MAX_LEVELS: usize = 4096;

/// Something that is met on the way.
pub struct Met<'a> {
    /// Where it is, from where the walk began.
    pub path: &'a [u8],
    /// Its name.
    pub name: &'a CStr,
    /// What the kernel says of it.
    pub stat: Stat,
    directory: BorrowedFd<'a>,
}

/// What to do with what is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Go on; into it, if it is a directory.
    Enter,
    /// Go on beside it.
    Pass,
}

impl Met<'_> {
    /// What kind of thing it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is one of our own files, which nobody is shown.
    pub fn is_reserved(&self) -> bool {
        self.name.to_bytes().starts_with(RESERVED)
    }

    /// Opens it, a regular file, for reading; what has taken its place meanwhile is not opened.
    ///
    /// # Errors
    /// [`Failure::Torn`] when it is another file now.
    pub fn open(&self) -> Result<File, Failure> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(self.directory, self.name, flags, Mode::empty()).map_err(failure)?;
        let found = fstat(&file).map_err(failure)?;
        let same = found.st_ino == self.stat.st_ino && found.st_dev == self.stat.st_dev;
        if same && FileType::from_raw_mode(found.st_mode).is_file() { Ok(file.into()) } else { Err(Failure::Torn) }
    }

    /// Where it leads, if it is a symbolic link.
    ///
    /// # Errors
    /// When it is none any more.
    pub fn target(&self) -> Result<Vec<u8>, Failure> {
        let target = rustix::fs::readlinkat(self.directory, self.name, Vec::new()).map_err(failure)?;
        Ok(target.into_bytes())
    }
}

struct Level {
    entries: Dir,
    /// How much of the path is this directory's.
    length: usize,
}

/// Calls `each` with everything below a directory. What cannot be entered or looked at is given to `lost` with its path.
///
/// # Errors
/// What `each` returns, or [`Failure::TooDeep`].
pub fn walk(
    root: OwnedFd,
    mut each: impl FnMut(&Met<'_>) -> Result<Then, Failure>,
    mut lost: impl FnMut(&[u8], Failure),
) -> Result<(), Failure> {
    let device = fstat(&root).map_err(failure)?.st_dev;
    let mut path = Vec::new();
    let mut levels = vec![Level { entries: Dir::new(root).map_err(failure)?, length: 0 }];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        path.truncate(level.length);
        let entry = match level.entries.read() {
            None => {
                levels.pop();
                continue;
            }
            Some(Err(error)) => {
                lost(&path, failure(error));
                levels.pop();
                continue;
            }
            Some(Ok(entry)) => entry,
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let directory = level.entries.fd().map_err(failure)?;
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => {
                lost(&path, failure(error));
                continue;
            }
        };
        let met = Met { path: &path, name, stat, directory: directory.as_fd() };
        if each(&met)? == Then::Pass || met.kind() != FileType::Directory {
            continue;
        }
        // Another file system is none of the user's.
        if stat.st_dev != device {
            lost(&path, Failure::Outside);
            continue;
        }
        if depth == MAX_LEVELS {
            return Err(Failure::TooDeep);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(directory, name, flags, Mode::empty()).and_then(Dir::new) {
            Ok(entries) => levels.push(Level { entries, length: path.len() }),
            Err(Errno::NOENT) => {}
            Err(error) => lost(&path, failure(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_workers_unit_lets_it_walk_as_deep_as_it_says() {
        let unit = include_str!("../../helper/units/worker.conf");
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
        // Four archives and a count, and something for everything else.
        assert!(limit.parse::<usize>().unwrap() > 6 * MAX_LEVELS);
    }
}
