//! Directories of users, input and output of runs. Everything lies in directories that are root's, so a path cannot be
//! turned under the launcher's hands; nothing below a user's own directory is ever touched.
//!
//! The launcher has CAP_CHOWN and no other capability: what is another uid's cannot be changed any more. So the owner
//! comes last, and a step that was interrupted is recognised by root still being the owner.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::names::User;

/// Our umask lets nobody else in; what is for others is said.
fn chmod(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes sure that the user's directory in `parent` is there and his: mode 0700, his uid.
///
/// # Errors
/// When it is something else or somebody else's.
pub fn user_directory(parent: &Path, user: &User, uid: u32) -> io::Result<()> {
    let path = parent.join(user.as_str());
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(&path)?;
    match (found.is_dir(), found.uid()) {
        (true, owner) if owner == uid => Ok(()),
        (true, 0) => chown(&path, Some(uid), Some(uid)),
        _ => Err(io::Error::other(format!("{}: not a directory of uid {uid}", path.display()))),
    }
}

/// Makes a run's input, output and error output anew in `directory`, and gives the FIFO, open on both sides: as long as
/// it is held, opening it blocks nobody.
///
/// # Errors
/// When the disk refuses; nothing is left then.
pub fn create_run(directory: &Path, user: u32, front: (u32, u32)) -> io::Result<File> {
    remove_run(directory)?;
    let made = fill(directory, user, front);
    if made.is_err() {
        remove_run(directory)?;
    }
    made
}

fn fill(directory: &Path, user: u32, (front, front_group): (u32, u32)) -> io::Result<File> {
    DirBuilder::new().mode(0o700).create(directory)?;
    for name in ["out", "err"] {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name))?;
        fchown(&file, Some(front), Some(front_group))?;
    }
    mkfifo(&directory.join("in"), Mode::S_IRUSR | Mode::S_IWUSR)?;
    let fifo = OpenOptions::new().read(true).write(true).open(directory.join("in"))?;
    chmod(&fifo, 0o620)?;
    fchown(&fifo, Some(user), Some(front_group))?;
    let directory = File::open(directory)?;
    chmod(&directory, 0o750)?;
    fchown(&directory, None, Some(front_group))?;
    Ok(fifo)
}

/// Removes them; what is not there is removed.
///
/// # Errors
/// When the disk refuses.
pub fn remove_run(directory: &Path) -> io::Result<()> {
    for name in ["in", "out", "err"] {
        missing_is_fine(fs::remove_file(directory.join(name)))?;
    }
    missing_is_fine(fs::remove_dir(directory))
}

/// Writes a file that everybody may read: whole or not at all, also after a power failure. One that says the same is
/// left alone.
///
/// # Errors
/// When the disk refuses; the old text stays.
pub fn write_readable(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    missing_is_fine(fs::remove_file(&temporary))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    chmod(&file, 0o644)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    #[test]
    fn the_files_of_a_run_have_the_owners_and_modes_that_keep_user_and_front_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(fs::symlink_metadata(dir.path()).unwrap().uid(), 0, "run this test as root: it changes owners");
        let path = dir.path().join("01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d");
        for _ in 0..2 {
            create_run(&path, 1_879_048_193, (990, 991)).unwrap();
            let seen = |name: &str| {
                let meta = fs::symlink_metadata(path.join(name)).unwrap();
                (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.file_type().is_fifo())
            };
            assert_eq!(seen(""), (0, 991, 0o750, false));
            assert_eq!(seen("in"), (1_879_048_193, 991, 0o620, true));
            assert_eq!(seen("out"), (990, 991, 0o600, false));
            assert_eq!(seen("err"), (990, 991, 0o600, false));
        }
        remove_run(&path).unwrap();
        remove_run(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_users_directory_is_never_a_link_or_somebody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let user = User::parse("alice").unwrap();
        user_directory(dir.path(), &user, 1_879_048_193).unwrap();
        user_directory(dir.path(), &user, 1_879_048_193).unwrap();
        assert!(user_directory(dir.path(), &user, 1_879_048_194).is_err());
        std::os::unix::fs::symlink("/etc", dir.path().join("bob")).unwrap();
        assert!(user_directory(dir.path(), &User::parse("bob").unwrap(), 0).is_err());
    }
}
