//! Directories of users, input and output of runs. Everything lies in directories that are root's, so a path cannot be
//! turned under the launcher's hands; nothing below a user's own directory is ever touched.
//!
//! The launcher has CAP_CHOWN and no other capability: what is another uid's cannot be changed any more. So the owner
//! comes last, and a step that was interrupted is recognised by root still being the owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::names::{Run, User};
use crate::uids::chmod;

/// The input, output and error output of a run, in a directory of its own.
pub struct RunFiles {
    directory: PathBuf,
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

impl RunFiles {
    /// The files of a run below `raw`.
    pub fn new(raw: &Path, run: &Run) -> Self {
        RunFiles { directory: raw.join(run.as_str()) }
    }

    /// Makes them anew and gives the FIFO, open on both sides: as long as it is held, opening it blocks nobody.
    ///
    /// # Errors
    /// When the disk refuses; nothing is left then.
    pub fn create(&self, user: u32, front: (u32, u32)) -> io::Result<File> {
        self.remove()?;
        let made = self.fill(user, front);
        if made.is_err() {
            self.remove()?;
        }
        made
    }

    fn fill(&self, user: u32, (front, front_group): (u32, u32)) -> io::Result<File> {
        DirBuilder::new().mode(0o700).create(&self.directory)?;
        for name in ["out", "err"] {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.directory.join(name))?;
            fchown(&file, Some(front), Some(front_group))?;
        }
        let path = self.directory.join("in");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let fifo = OpenOptions::new().read(true).write(true).open(&path)?;
        chmod(&fifo, 0o620)?;
        fchown(&fifo, Some(user), Some(front_group))?;
        let directory = File::open(&self.directory)?;
        chmod(&directory, 0o750)?;
        fchown(&directory, None, Some(front_group))?;
        Ok(fifo)
    }

    /// Removes them; what is not there is removed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self) -> io::Result<()> {
        for name in ["in", "out", "err"] {
            missing_is_fine(fs::remove_file(self.directory.join(name)))?;
        }
        missing_is_fine(fs::remove_dir(&self.directory))
    }
}

/// Replaces a file so that a reader finds the old or the new text, whole, also after a power failure.
///
/// # Errors
/// When the disk refuses; the old text stays.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    missing_is_fine(fs::remove_file(&temporary))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    chmod(&file, mode)?;
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
        assert_eq!(
            fs::symlink_metadata(dir.path()).unwrap().uid(),
            0,
            "run this test as root: it changes owners"
        );
        let run = Run::parse("01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d").unwrap();
        let files = RunFiles::new(dir.path(), &run);
        for _ in 0..2 {
            files.create(1_879_048_193, (990, 991)).unwrap();
            let path = dir.path().join(run.as_str());
            let seen = |name: &str| {
                let meta = fs::symlink_metadata(path.join(name)).unwrap();
                (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.file_type().is_fifo())
            };
            assert_eq!(seen(""), (0, 991, 0o750, false));
            assert_eq!(seen("in"), (1_879_048_193, 991, 0o620, true));
            assert_eq!(seen("out"), (990, 991, 0o600, false));
            assert_eq!(seen("err"), (990, 991, 0o600, false));
        }
        files.remove().unwrap();
        files.remove().unwrap();
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
