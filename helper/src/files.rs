//! Directories of users, input and output of runs. Everything lies in directories that are root's, so a path cannot be
//! turned under the launcher's hands; nothing below a user's own directory is ever touched.
//!
//! The launcher has CAP_CHOWN and no other capability: what is another uid's cannot be changed any more. So the owner
//! comes last, and a step that was interrupted is recognised by root still being the owner.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind::AlreadyExists, ErrorKind::NotFound, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::names::User;

/// The result, unless it is the error that is expected.
pub(crate) fn unless(expected: io::ErrorKind, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == expected { Ok(()) } else { Err(error) })
}

/// Checks that a directory is root's and nobody else can write to it: then nobody can put a link into it.
///
/// # Errors
/// What is wrong with it, with the remedy.
pub fn roots_directory(path: &Path) -> io::Result<()> {
    let shown = path.display();
    let found = fs::symlink_metadata(path).map_err(|error| io::Error::other(format!("{shown}: {error}")))?;
    if found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let remedy = format!("`chown root {shown} && chmod go-w {shown}`");
    Err(io::Error::other(format!("{shown}: must be root's directory, and only root may write to it: {remedy}")))
}

/// Makes a file that was not there, for root alone.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes sure that the user's directory in `parent` is there and his: mode 0700, his uid.
///
/// # Errors
/// When it is something else or somebody else's.
pub fn user_directory(parent: &Path, user: &User, uid: u32) -> io::Result<()> {
    let path = parent.join(user.as_str());
    // One of root's whose making was interrupted is empty. One that is not empty is not ours to give away.
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == 0) {
        fs::remove_dir(&path)?;
    }
    unless(AlreadyExists, DirBuilder::new().mode(0o700).create(&path))?;
    match fs::symlink_metadata(&path)? {
        found if found.is_dir() && found.uid() == uid => Ok(()),
        found if found.is_dir() && found.uid() == 0 => lchown(&path, Some(uid), Some(uid)),
        _ => Err(io::Error::other(format!("{}: not a directory of uid {uid}", path.display()))),
    }
}

/// Makes the input, output and error output of a run in `directory` anew and gives the input, a FIFO open on both sides:
/// as long as it is held, opening it blocks nobody. What an interrupted call leaves is removed by the next.
///
/// # Errors
/// When the disk refuses.
pub fn make_run(directory: &Path, user: u32, (front, group): (u32, u32)) -> io::Result<File> {
    remove_run(directory)?;
    DirBuilder::new().mode(0o700).create(directory)?;
    for name in ["out", "err"] {
        fchown(create(&directory.join(name))?, Some(front), Some(group))?;
    }
    let path = directory.join("in");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let fifo = OpenOptions::new().read(true).write(true).open(&path)?;
    // Whatever our umask is.
    fifo.set_permissions(Permissions::from_mode(0o620))?;
    fchown(&fifo, Some(user), Some(group))?;
    let directory = File::open(directory)?;
    directory.set_permissions(Permissions::from_mode(0o750))?;
    fchown(&directory, None, Some(group))?;
    Ok(fifo)
}

/// Removes the files of a run; what is not there is removed.
///
/// # Errors
/// When the disk refuses.
pub fn remove_run(directory: &Path) -> io::Result<()> {
    for name in ["in", "out", "err"] {
        unless(NotFound, fs::remove_file(directory.join(name)))?;
    }
    unless(NotFound, fs::remove_dir(directory))
}

/// Makes a file that everybody may read say `text`: a reader finds the old or the new text, whole, also after a power
/// failure.
///
/// # Errors
/// When the disk refuses; the old text stays.
pub fn publish(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    replace(path, text.as_bytes(), 0o644)
}

/// Replaces a file, or makes it: whole or not at all, and when it is done it lasts.
///
/// # Errors
/// When the disk refuses; what was there stays.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // No name that an operator gives a file of his own beside it, such as the next credential.
    let temporary = path.with_extension("pi-gateway-new");
    unless(NotFound, fs::remove_file(&temporary))?;
    let mut file = create(&temporary)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
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
        let path = dir.path().join("run");
        for _ in 0..2 {
            make_run(&path, 1_879_048_193, (990, 991)).unwrap();
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
        // Interrupted between making and giving; and one that root has filled.
        let carol = User::parse("carol").unwrap();
        fs::create_dir(dir.path().join("carol")).unwrap();
        user_directory(dir.path(), &carol, 1_879_048_195).unwrap();
        assert_eq!(fs::symlink_metadata(dir.path().join("carol")).unwrap().uid(), 1_879_048_195);
        fs::create_dir_all(dir.path().join("dave/backup")).unwrap();
        assert!(user_directory(dir.path(), &User::parse("dave").unwrap(), 1_879_048_196).is_err());
    }
}
