//! The file with the ChatGPT credential. Its tokens rotate, so it is the one credential that is written as well: by the
//! launcher, for the model relay, which alone reads what is in it.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::wire::{Hidden, MAX_CONTENT};
use crate::{environment, files};

/// Held from the look at what is there to its replacement.
static TURN: Mutex<()> = Mutex::new(());

/// Replaces what the file holds if that is what is `known`, and `new` is not empty; gives what it holds then. An operator
/// may replace it at any time: then his content is the answer, and stays.
///
/// # Errors
/// When it is not root's alone, too large, or the disk refuses; what was there stays.
pub fn store(path: &Path, known: &Hidden, new: &Hidden) -> io::Result<Hidden> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let present = environment::read_root_file(path).map_err(io::Error::other)?;
    if present.len().max(new.0.len()) > MAX_CONTENT {
        return Err(io::Error::other(format!("{}: more than {MAX_CONTENT} bytes", path.display())));
    }
    if present.as_bytes() == known.0 && !new.0.is_empty() {
        return files::replace(path, &new.0, 0o600).map(|()| new.clone());
    }
    Ok(Hidden(present.into_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_content_is_replaced_only_by_who_knows_it_and_a_replaced_one_is_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codex.json");
        let hidden = |text: &str| Hidden(text.into());
        assert!(store(&path, &hidden(""), &hidden("")).is_err(), "not there");
        fs::write(&path, "one").unwrap();
        assert!(store(&path, &hidden(""), &hidden("")).unwrap_err().to_string().contains("chmod 0600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        // What an operator prepares beside it is his.
        fs::write(dir.path().join("codex.new"), "the next").unwrap();
        for (known, new, there) in [
            ("", "", "one"),
            ("one", "", "one"),
            ("", "two", "one"),
            ("two", "three", "one"),
            ("one", "two", "two"),
            // The same again, by one that got no answer.
            ("one", "two", "two"),
            ("two", "three", "three"),
        ] {
            assert_eq!(store(&path, &hidden(known), &hidden(new)).unwrap(), hidden(there), "{known} {new}");
            assert_eq!(fs::read_to_string(&path).unwrap(), there);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(dir.path().join("codex.new")).unwrap(), "the next");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        fs::write(&path, "x".repeat(MAX_CONTENT + 1)).unwrap();
        assert!(store(&path, &hidden(""), &hidden("")).is_err(), "too large");
    }
}
