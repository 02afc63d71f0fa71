//! Removes what was put aside, or never got its name, however deep and large it is: its directories are moved up beside each other, so that no
//! path gets long and no more than two are open. Can be interrupted anywhere and goes on where it was.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::message::Failure;
use super::relpath::RelPath;
use super::tree::{NEW, TRASH, Tree, failure, open_up, temporary};

/// Removes what a worker that was killed has left: files that never got their name, then what was put aside; tells whether
/// nothing is left. To be called before anything is made.
///
/// # Errors
/// When something cannot be removed.
pub fn sweep(tree: &Tree, until: Instant) -> Result<bool, Failure> {
    let swept = sweep_named(tree, NEW, until);
    // One does not keep the other from going.
    let emptied = empty(tree, until);
    Ok(swept? & emptied?)
}

/// Removes what was put aside until nothing is left or the time is over; tells whether nothing is left.
///
/// # Errors
/// When something cannot be removed.
pub fn empty(tree: &Tree, until: Instant) -> Result<bool, Failure> {
    sweep_named(tree, TRASH, until)
}

/// Whether nothing is left of what was put aside.
///
/// # Errors
/// When that cannot be seen.
pub fn is_empty(tree: &Tree) -> Result<bool, Failure> {
    match own(tree, TRASH)? {
        None => Ok(true),
        Some(trash) => Ok(entries(&trash)?.is_empty()),
    }
}

/// One of our own directories; None when it is not there, or something else is, which holds nothing of ours.
fn own(tree: &Tree, name: &str) -> Result<Option<OwnedFd>, Failure> {
    match tree.reserved_if_any(name) {
        Err(Failure::NotFound | Failure::NotADirectory | Failure::Outside) => Ok(None),
        Err(Failure::Denied) => {
            open_up(tree.root(), OsStr::new(name))?;
            tree.reserved_if_any(name).map(Some)
        }
        found => found.map(Some),
    }
}

pub(super) fn sweep_named(tree: &Tree, name: &str, until: Instant) -> Result<bool, Failure> {
    let Some(trash) = own(tree, name)? else { return Ok(true) };
    loop {
        let mut met = false;
        for (inner, _) in entries(&trash)? {
            met = true;
            // At least one thing a call, however little time there is.
            if !remove(&trash, &inner, until)? || Instant::now() >= until {
                return Ok(false);
            }
        }
        if !met {
            return match unlinkat(tree.root(), name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(true),
                Err(error) => Err(failure(error)),
            };
        }
    }
}

/// Removes everything in a tree, and nothing of it is put aside: its own root is where directories are moved up to.
///
/// # Errors
/// When something cannot be removed, or not in time.
pub fn clear(tree: &Tree, until: Instant) -> Result<(), Failure> {
    // Whoever owns it may have closed it.
    rustix::fs::chmod(tree.path(), Mode::RWXU).map_err(failure)?;
    let root = tree.directory(&RelPath::parse(Vec::new())?)?;
    loop {
        let batch = entries(&root)?;
        if batch.is_empty() {
            return Ok(());
        }
        for (name, _) in batch {
            if !remove(&root, &name, until)? {
                return Err(Failure::Unfit);
            }
        }
    }
}

/// How many entries are looked at before what they say is acted on.
const BATCH: usize = 4096;

/// Some of what is in a directory; none when it is empty.
fn entries(directory: &OwnedFd) -> Result<Vec<(CString, FileType)>, Failure> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory).map_err(failure)? {
        let entry = entry.map_err(failure)?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
        if found.len() == BATCH {
            break;
        }
    }
    Ok(found)
}

/// Removes something in the trash: a file, or a directory whose own directories are moved up. False when the time is over.
fn remove(trash: &OwnedFd, name: &CString, until: Instant) -> Result<bool, Failure> {
    match unlinkat(trash, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return absent(removed).map(|()| true),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat(trash, name, flags, Mode::empty());
    let as_os = OsStr::from_bytes(name.to_bytes());
    // Reading is not enough: what is in it can only be removed by who may write to it.
    open_up(trash, as_os)?;
    let directory = open().map_err(failure)?;
    loop {
        let batch = entries(&directory)?;
        if batch.is_empty() {
            match unlinkat(trash, name, AtFlags::REMOVEDIR) {
                // Somebody puts things into it.
                Err(Errno::NOTEMPTY) if Instant::now() < until => continue,
                Err(Errno::NOTEMPTY) => return Ok(false),
                removed => return absent(removed).map(|()| true),
            }
        }
        for (inner, file_type) in batch {
            let removed = match file_type {
                FileType::Directory => Err(Errno::ISDIR),
                _ => unlinkat(&directory, &inner, AtFlags::empty()),
            };
            match removed {
                Err(Errno::ISDIR | Errno::PERM) => lift(&directory, &inner, trash)?,
                removed => absent(removed)?,
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }
}

fn lift(directory: &OwnedFd, name: &CString, trash: &OwnedFd) -> Result<(), Failure> {
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        // Something else by now, which is met again.
        Err(Errno::NOTDIR) => return Ok(()),
        removed => return absent(removed),
    }
    match open_up(directory, OsStr::from_bytes(name.to_bytes())) {
        Err(Failure::NotADirectory | Failure::NotFound | Failure::Outside) => return Ok(()),
        opened => opened?,
    }
    absent(renameat_with(directory, name, trash, temporary().as_str(), RenameFlags::NOREPLACE))
}

fn absent(result: Result<(), Errno>) -> Result<(), Failure> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failure(error)),
    }
}
