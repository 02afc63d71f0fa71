//! Files that are there whole or not at all, also after a power failure: written beside their place, synced, renamed.
//!
//! What an interrupted write leaves is a `.tmp-NAME` beside the file; the next write of the same file replaces it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// What the name of a file begins with that is being written.
pub const TEMPORARY: &str = ".tmp-";

/// Who may do what with a file.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Its mode, whatever the umask is.
    pub mode: u32,
    /// Its owner and group, when others than ours.
    pub owner: Option<(u32, u32)>,
}

impl Access {
    /// For its owner alone.
    pub const PRIVATE: Access = Access { mode: 0o600, owner: None };
}

/// Writes a file.
///
/// # Errors
/// When the disk refuses; what was there stays.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!("{TEMPORARY}{name}"));
    let written = fill(&temporary, bytes, access).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // On a full disk the next one needs the space.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_directory(directory))
}

fn fill(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if let Some((owner, group)) = access.owner {
        fchown(&file, Some(owner), Some(group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(access.mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes what was renamed or removed in a directory last.
///
/// # Errors
/// When the disk refuses.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_a_failure_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"old", Access { mode: 0o644, owner: None }).unwrap();
        write(&path, b"new", Access::PRIVATE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A directory in its place cannot be replaced by a file.
        fs::create_dir(dir.path().join("directory")).unwrap();
        write(&dir.path().join("directory"), b"new", Access::PRIVATE).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
