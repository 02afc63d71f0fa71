//! One user's workspace. Every path is resolved by the kernel below its root (`openat2`: beneath, no magic links, no other
//! file system), whatever the user's agent does to the tree meanwhile.
//!
//! A symbolic link that stays inside is followed for reading, and on the way to a directory; what a write names last is
//! never followed: the link itself is replaced, moved or removed. Only regular files and directories are opened; FIFOs,
//! sockets and devices are named and left alone. Nothing waits: no lock, no lease, no other end of a pipe.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fchmod, fstat, fsync, linkat, mkdirat, open,
    openat, openat2, readlinkat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::message::{Condition, Entry, Failure, Kind, Version};
use super::relpath::{RESERVED, RelPath, join};

/// How often a resolution is tried that a rename elsewhere has disturbed.
const TRIES: usize = 64;
/// The mode of new files and directories, less the umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);
/// The directory of what is being removed.
pub(super) const TRASH: &str = ".pi-gateway-trash";
/// The directory of what is about to get its name. A worker empties it before anything else.
pub(super) const NEW: &str = ".pi-gateway-new";

/// A workspace.
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    /// Where this process's descriptors have names.
    descriptors: OwnedFd,
    /// Held from the moment that a condition is looked at until what depends on it is done: of two writers with the same
    /// version one is refused.
    deciding: Mutex<()>,
}

/// A file without a name.
pub struct Unnamed {
    /// The file, open for writing.
    pub file: File,
    /// Its name all the same, on a file system that cannot make one without.
    fallback: Option<(OwnedFd, String)>,
    /// Whether directories above its name are made when it gets it.
    parents: bool,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some((directory, name)) = &self.fallback {
            let _ = unlinkat(directory, name.as_str(), AtFlags::empty());
        }
    }
}

/// What an error of the kernel means here.
pub fn failure(error: Errno) -> Failure {
    match error {
        Errno::NOENT => Failure::NotFound,
        Errno::NOTDIR => Failure::NotADirectory,
        Errno::ISDIR => Failure::IsADirectory,
        // Beneath refuses to leave, and so does one file system only; a magic link, or links without end, is a loop.
        Errno::XDEV | Errno::LOOP => Failure::Outside,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Failure::Denied,
        Errno::EXIST => Failure::Exists,
        Errno::NOTEMPTY => Failure::NotEmpty,
        Errno::NAMETOOLONG | Errno::INVAL => Failure::BadPath,
        Errno::NOSPC => Failure::NoSpace,
        Errno::DQUOT => Failure::Quota,
        Errno::FBIG => Failure::NoSpace,
        Errno::NXIO => Failure::Special(Kind::Socket),
        // A lease of somebody's, or a rename that never ends.
        Errno::AGAIN => Failure::Torn,
        other => {
            tracing::error!(error = %other, "the kernel refuses");
            Failure::Failed
        }
    }
}

/// The kind of thing that a mode says.
pub fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::Device,
    }
}

/// The version that the kernel tells.
pub fn version(stat: &Stat) -> Version {
    let nanoseconds =
        |seconds: i64, rest| seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(rest).unwrap_or(0));
    Version {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    }
}

impl Tree {
    /// The workspace in a directory.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(failure)?;
        let descriptors = open("/proc/self/fd", flags, Mode::empty()).map_err(failure)?;
        Ok(Tree { root, path: path.to_owned(), descriptors, deciding: Mutex::default() })
    }

    fn deciding(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self, path: &RelPath, flags: OFlags) -> Result<OwnedFd, Failure> {
        let name = if path.is_root() { OsStr::new(".") } else { OsStr::from_bytes(path.as_bytes()) };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..TRIES {
            match openat2(&self.root, name, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                Err(Errno::AGAIN) => {}
                opened => return opened.map_err(failure),
            }
        }
        Err(Failure::Torn)
    }

    /// A directory, to be read or to make things in.
    ///
    /// # Errors
    /// When it is none.
    pub fn directory(&self, path: &RelPath) -> Result<OwnedFd, Failure> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn entry(directory: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<Entry, Failure> {
        let name = OsStr::from_bytes(name);
        for _ in 0..TRIES {
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failure)?;
            let kind = kind(&stat);
            let target = match kind {
                Kind::Symlink => match readlinkat(directory, name, Vec::new()) {
                    // It was a link a moment ago.
                    Err(Errno::INVAL) => continue,
                    target => Some(target.map_err(failure)?.into_bytes()),
                },
                _ => None,
            };
            return Ok(Entry { path, kind, version: version(&stat), mode: stat.st_mode & 0o7777, target });
        }
        Err(Failure::Torn)
    }

    /// What is at a path; a symbolic link is told as such.
    ///
    /// # Errors
    /// When nothing is, or the way to it leads out.
    pub fn stat(&self, path: &RelPath) -> Result<Entry, Failure> {
        if path.is_root() {
            let stat = fstat(&self.root).map_err(failure)?;
            let mode = stat.st_mode & 0o7777;
            return Ok(Entry { path: Vec::new(), kind: Kind::Directory, version: version(&stat), mode, target: None });
        }
        let (parent, name) = path.split()?;
        Self::entry(&self.directory(&parent)?, name, path.as_bytes().to_vec())
    }

    /// What is in a directory, by name.
    pub(super) fn entry_in(directory: &OwnedFd, at: &[u8], name: &[u8]) -> Result<Entry, Failure> {
        Self::entry(directory, name, join(at, name))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When it is something else, the way to it leads out, or its mode does not let the user.
    pub fn open_file(&self, path: &RelPath) -> Result<(File, Entry), Failure> {
        // Looked at before it is opened: opening some things does something. By its descriptor it stays the same thing.
        let found = self.resolve(path, OFlags::PATH)?;
        let stat = fstat(&found).map_err(failure)?;
        match kind(&stat) {
            Kind::File => {}
            Kind::Directory => return Err(Failure::IsADirectory),
            other => return Err(Failure::Special(other)),
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&self.descriptors, DecInt::from_fd(&found), flags, Mode::empty());
        let file = File::from(file.map_err(failure)?);
        let (mode, path) = (stat.st_mode & 0o7777, path.as_bytes().to_vec());
        Ok((file, Entry { path, kind: Kind::File, version: version(&stat), mode, target: None }))
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// [`Failure::Exists`] when it is there already.
    pub fn make_directory(&self, path: &RelPath) -> Result<(), Failure> {
        let (parent, name) = path.split().map_err(|_| Failure::Exists)?;
        self.make_parents(&parent)?;
        mkdirat(self.directory(&parent)?, OsStr::from_bytes(name), DIRECTORY_MODE).map_err(failure)
    }

    pub(super) fn make_parents(&self, path: &RelPath) -> Result<(), Failure> {
        if path.is_root() || self.resolve(path, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            return Ok(());
        }
        for ancestor in path.ancestors() {
            let (parent, name) = ancestor.split()?;
            match mkdirat(self.directory(&parent)?, OsStr::from_bytes(name), DIRECTORY_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(())
    }

    /// Makes a file without a name, on the file system where `path` is to be. Directories above it that are not there are
    /// made with its name, when `parents` says so: of a file that never gets one nothing is left.
    ///
    /// # Errors
    /// When the directory is not there and is not to be made, or the disk refuses.
    pub fn create(&self, path: &RelPath, parents: bool) -> Result<Unnamed, Failure> {
        let (parent, _) = path.split()?;
        let directory = if parents { self.nearest(&parent)? } else { self.directory(&parent)? };
        match openat(&directory, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, FILE_MODE) {
            Ok(file) => Ok(Unnamed { file: file.into(), fallback: None, parents }),
            // Not every file system has them.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let _deciding = self.deciding();
                let (new, name) = (self.reserved(NEW)?, temporary());
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(&new, name.as_str(), flags, FILE_MODE).map_err(failure)?;
                Ok(Unnamed { file: file.into(), fallback: Some((new, name)), parents })
            }
            Err(error) => Err(failure(error)),
        }
    }

    /// The directory at a path, or the nearest one above it that is there.
    fn nearest(&self, path: &RelPath) -> Result<OwnedFd, Failure> {
        let mut found = self.directory(&RelPath::parse(Vec::new())?)?;
        for ancestor in path.ancestors() {
            match self.directory(&ancestor) {
                Err(Failure::NotFound) => break,
                next => found = next?,
            }
        }
        Ok(found)
    }

    /// Gives a file its name, when the condition holds: whoever opens that name finds what was there or all of the new
    /// file, also after a power failure. It keeps the permission bits of the file that it replaces.
    ///
    /// # Errors
    /// [`Failure::Changed`] or [`Failure::Exists`] when the condition does not hold; nothing has changed then.
    pub fn commit(&self, mut unnamed: Unnamed, path: &RelPath, condition: Condition) -> Result<Entry, Failure> {
        let (parent, name) = path.split()?;
        let directory = match self.directory(&parent) {
            Err(Failure::NotFound) if matches!(condition, Condition::Version(_)) => return Err(Failure::Changed),
            Err(Failure::NotFound) if unnamed.parents => {
                self.make_parents(&parent)?;
                self.directory(&parent)?
            }
            found => found?,
        };
        let look = || match Self::entry(&directory, name, path.as_bytes().to_vec()) {
            Ok(there) => Ok(Some(there)),
            Err(Failure::NotFound) => Ok(None),
            Err(other) => Err(other),
        };
        let there = look()?;
        self.check(condition, path, there.as_ref())?;
        match there.map(|there| (there.kind, there.mode)) {
            Some((Kind::Directory, _)) => return Err(Failure::IsADirectory),
            Some((Kind::File, mode)) => fchmod(&unnamed.file, Mode::from_raw_mode(mode & 0o777)).map_err(failure)?,
            _ => {}
        }
        // It may take long, so nobody waits for it; what was true before is looked at again behind it.
        fsync(&unnamed.file).map_err(failure)?;
        let deciding = self.deciding();
        self.check(condition, path, look()?.as_ref())?;
        let (from, temporary) = match unnamed.fallback.take() {
            Some(fallback) => fallback,
            None => {
                let (new, temporary) = (self.reserved(NEW)?, temporary());
                let link = DecInt::from_fd(&unnamed.file);
                linkat(&self.descriptors, link, &new, temporary.as_str(), AtFlags::SYMLINK_FOLLOW).map_err(failure)?;
                (new, temporary)
            }
        };
        let flags = if condition == Condition::Absent { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        let renamed = renameat_with(&from, temporary.as_str(), &directory, OsStr::from_bytes(name), flags);
        if renamed.is_err() {
            let _ = unlinkat(&from, temporary.as_str(), AtFlags::empty());
        }
        // Gone from the user's sight, unless another file is on its way.
        let _ = unlinkat(&self.root, NEW, AtFlags::REMOVEDIR);
        drop(deciding);
        renamed.and_then(|()| fsync(&directory)).map_err(failure)?;
        // Of the file itself: its name may be another's already.
        let stat = fstat(&unnamed.file).map_err(failure)?;
        let (mode, path) = (stat.st_mode & 0o7777, path.as_bytes().to_vec());
        Ok(Entry { path, kind: Kind::File, version: version(&stat), mode, target: None })
    }

    /// Gives something another name.
    ///
    /// # Errors
    /// [`Failure::Exists`] when that name is taken and may not be replaced.
    pub fn rename(&self, from: &RelPath, to: &RelPath, overwrite: bool) -> Result<(), Failure> {
        let ((from_parent, from), (to_parent, to)) = (from.split()?, to.split()?);
        let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let (from_directory, to_directory) = (self.directory(&from_parent)?, self.directory(&to_parent)?);
        let _deciding = self.deciding();
        renameat_with(&from_directory, OsStr::from_bytes(from), &to_directory, OsStr::from_bytes(to), flags)
            .and_then(|()| fsync(&to_directory))
            .and_then(|()| fsync(&from_directory))
            .map_err(failure)
    }

    /// Removes something, when the condition holds. A directory that holds something goes out of sight at once when it
    /// may; [`super::trash::empty`] then removes what was in it.
    ///
    /// # Errors
    /// When it is not there, not what was asked for, or not empty.
    pub fn remove(&self, path: &RelPath, recursive: bool, condition: Condition) -> Result<(), Failure> {
        let (parent, name) = path.split()?;
        let directory = self.directory(&parent)?;
        let _deciding = self.deciding();
        let there = Self::entry(&directory, name, path.as_bytes().to_vec())?;
        self.check(condition, path, Some(&there))?;
        let name = OsStr::from_bytes(name);
        if there.kind != Kind::Directory {
            unlinkat(&directory, name, AtFlags::empty()).map_err(failure)?;
        } else if condition != Condition::None {
            return Err(Failure::IsADirectory);
        } else {
            match unlinkat(&directory, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) if recursive => self.discard(&directory, name)?,
                removed => removed.map_err(failure)?,
            }
        }
        fsync(&directory).map_err(failure)
    }

    fn discard(&self, directory: &OwnedFd, name: &OsStr) -> Result<(), Failure> {
        let trash = self.reserved(TRASH)?;
        let moved = || renameat_with(directory, name, &trash, temporary().as_str(), RenameFlags::NOREPLACE);
        match moved() {
            // To move a directory elsewhere its own mode must let the user write to it.
            Err(Errno::ACCESS) => {
                open_up(directory, name)?;
                moved().map_err(failure)
            }
            moved => moved.map_err(failure),
        }
    }

    /// One of our own directories, made if it is not there. What the agent has put in its place goes.
    pub(super) fn reserved(&self, name: &str) -> Result<OwnedFd, Failure> {
        for _ in 0..TRIES {
            match self.reserved_if_any(name) {
                Err(Failure::NotFound) => match mkdirat(&self.root, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failure(error)),
                },
                Err(Failure::NotADirectory | Failure::Outside) => {
                    unlinkat(&self.root, name, AtFlags::empty()).map_err(failure)?;
                }
                Err(Failure::Denied) => open_up(&self.root, OsStr::new(name))?,
                opened => return opened,
            }
        }
        Err(Failure::Torn)
    }

    /// One of our own directories, if it is there.
    pub(super) fn reserved_if_any(&self, name: &str) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.root, name, flags, Mode::empty()).map_err(failure)
    }

    fn check(&self, condition: Condition, path: &RelPath, there: Option<&Entry>) -> Result<(), Failure> {
        match (condition, there) {
            (Condition::None, _) | (Condition::Absent, None) => Ok(()),
            (Condition::Absent, Some(_)) => Err(Failure::Exists),
            (Condition::Version(wanted), Some(there)) if there.version == wanted => Ok(()),
            // Whoever has read by a link knows the version of what it leads to.
            (Condition::Version(wanted), Some(there)) if there.kind == Kind::Symlink => {
                let found = self.resolve(path, OFlags::PATH).and_then(|found| fstat(&found).map_err(failure));
                if found.is_ok_and(|stat| version(&stat) == wanted) { Ok(()) } else { Err(Failure::Changed) }
            }
            (Condition::Version(_), _) => Err(Failure::Changed),
        }
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The root, for what works with descriptors itself.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }
}

/// Lets the user into a directory of his that is about to be removed.
pub(super) fn open_up(directory: &OwnedFd, name: &OsStr) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(directory, name, flags, Mode::empty()).map_err(failure)?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU).map_err(failure)
}

/// A name that nothing has.
pub(super) fn temporary() -> String {
    format!("{}{}", String::from_utf8_lossy(RESERVED), uuid::Uuid::now_v7())
}
