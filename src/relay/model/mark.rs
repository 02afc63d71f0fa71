//! The mark of a user whose token budget is used up: a file beside the usage files that the front reads before it starts a
//! run. It holds the time from which on there is something to spend again and means nothing after it, so nobody has to
//! remove it in time. The relay writes it; what it says is never more than the ledger's own word.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::durable::{self, Access};

/// What the name of a mark ends in.
const SUFFIX: &str = ".exhausted";
/// The longest mark, in bytes.
const MAX_FILE: u64 = 64;

fn file_of(dir: &Path, uid: u32) -> PathBuf {
    dir.join(format!("{uid}{SUFFIX}"))
}

/// Marks a user.
///
/// # Errors
/// The disk refuses.
pub fn write(dir: &Path, uid: u32, until: Timestamp) -> io::Result<()> {
    durable::write(&file_of(dir, uid), until.to_string().as_bytes(), Access { mode: 0o640, owner: None })
}

/// Until when a user's budget is used up; None when there is something to spend.
///
/// # Errors
/// The mark is there and cannot be read.
pub fn read(dir: &Path, uid: u32, now: Timestamp) -> io::Result<Option<Timestamp>> {
    let mut text = String::new();
    match File::open(file_of(dir, uid)) {
        Ok(file) => file.take(MAX_FILE).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let until: Timestamp = text.parse().map_err(io::Error::other)?;
    Ok(Some(until).filter(|until| *until > now))
}

/// Marks exactly these users: at a start, when the budget may be another one than before.
///
/// # Errors
/// The disk refuses.
pub fn renew(dir: &Path, exhausted: &[(u32, Timestamp)]) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    exhausted.iter().try_for_each(|(uid, until)| write(dir, *uid, *until))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mark_counts_until_its_time_and_no_longer_than_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(read(dir.path(), 7, at(0)).unwrap(), None);
        write(dir.path(), 7, at(1000)).unwrap();
        assert_eq!(read(dir.path(), 7, at(999)).unwrap(), Some(at(1000)));
        assert_eq!(read(dir.path(), 7, at(1000)).unwrap(), None);
        renew(dir.path(), &[(8, at(2000))]).unwrap();
        assert_eq!(read(dir.path(), 7, at(0)).unwrap(), None);
        assert_eq!(read(dir.path(), 8, at(0)).unwrap(), Some(at(2000)));
        fs::write(dir.path().join("9.exhausted"), "soon").unwrap();
        assert!(read(dir.path(), 9, at(0)).is_err());
    }
}
