//! Copies a workspace and a session into a new user's directories, which nobody else touches: he is kept out. Each entry is
//! judged again as it is met, by what is open; owner and mode are set on what was made, never by a path that was looked at
//! before. When it returns all of it is on the disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown, fstat,
    futimens, mkdirat, openat, openat2, symlinkat, syncfs,
};

use super::survey::{self, Candidate};
use super::{Wanted, session};
use crate::worker::message::Failure;
use crate::worker::walk::{Met, Then, walk};

/// What the session's file is called here.
const SESSION: &str = "session.jsonl";

/// A directory of the user's, and who he is.
struct Target {
    root: OwnedFd,
    uid: u32,
}

impl Target {
    /// # Errors
    /// When it is not the user's directory, or holds something.
    fn open(path: &Path, uid: u32) -> Result<Self, String> {
        let told = |error: rustix::io::Errno| format!("{}: {error}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(told)?;
        if fstat(&root).map_err(told)?.st_uid != uid {
            return Err(format!("{}: not the user's", path.display()));
        }
        Ok(Target { root, uid })
    }

    /// Gives what was made to the user.
    fn give(&self, made: impl AsFd, mode: u32) -> io::Result<()> {
        fchown(&made, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.uid)))?;
        Ok(fchmod(&made, Mode::from_raw_mode(mode & 0o777))?)
    }

    /// The directory above a path, which was made before, and the last part of it.
    fn above<'a>(&self, path: &'a [u8]) -> io::Result<(OwnedFd, &'a [u8])> {
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = cut.map_or((&b"."[..], path), |cut| (&path[..cut], &path[cut + 1..]));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok((openat2(&self.root, std::ffi::OsStr::from_bytes(parent), flags, Mode::empty(), how)?, name))
    }

    fn make_file(&self, at: &OwnedFd, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(at, std::ffi::OsStr::from_bytes(name), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn take(&self, met: &Met<'_>) -> io::Result<()> {
        let (at, name) = self.above(met.path)?;
        let name_os = std::ffi::OsStr::from_bytes(name);
        match met.kind() {
            FileType::Directory => {
                mkdirat(&at, name_os, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.give(openat(&at, name_os, flags, Mode::empty())?, met.stat.st_mode)
            }
            FileType::Symlink => {
                let target = met.target().map_err(changed)?;
                symlinkat(std::ffi::OsStr::from_bytes(&target), &at, name_os)?;
                let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
                Ok(chownat(&at, name_os, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
            }
            _ => {
                let from = met.open().map_err(changed)?;
                let size = u64::try_from(met.stat.st_size).unwrap_or(0);
                let mut to = self.make_file(&at, name)?;
                if io::copy(&mut from.take(size), &mut to)? != size {
                    return Err(changed(Failure::Torn));
                }
                self.give(&to, met.stat.st_mode)?;
                let modified =
                    Timespec { tv_sec: met.stat.st_mtime, tv_nsec: i64::try_from(met.stat.st_mtime_nsec).unwrap_or(0) };
                Ok(futimens(&to, &Timestamps { last_access: modified, last_modification: modified })?)
            }
        }
    }
}

fn changed(failure: Failure) -> io::Error {
    io::Error::other(format!("changed while it was copied ({failure:?}); is the old gateway stopped?"))
}

/// Copies the workspace of a candidate to an empty directory of the user's.
///
/// # Errors
/// At which entry it failed.
pub fn workspace(wanted: &Wanted, candidate: &Candidate, to: &Path, uid: u32) -> Result<(), String> {
    let target = Target::open(to, uid)?;
    if candidate.workspace {
        let from = survey::directory_in(&survey::open(&wanted.workspaces)?, &candidate.name);
        let from = from.map_err(|error| format!("{}: {error}", candidate.name))?;
        let owner = fstat(&from).map_err(|error| format!("{}: {error}", candidate.name))?.st_uid;
        let (mut trouble, mut surprises) = (None, 0u64);
        let walked = walk(
            from,
            |met| {
                if survey::judge(met, owner).is_err() {
                    surprises += 1;
                    return Ok(Then::Pass);
                }
                target.take(met).map(|()| Then::Enter).map_err(|error| {
                    trouble = Some(format!("{}: {error}", met.path.escape_ascii()));
                    Failure::Failed
                })
            },
            |_, _| {},
        );
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        walked.map_err(|failure| format!("{}: {failure:?}", candidate.name))?;
        if surprises > candidate.left_out_count {
            return Err("something was put into it while it was copied; is the old gateway stopped?".to_owned());
        }
    }
    syncfs(&target.root).map_err(|error| format!("{}: {error}", to.display()))
}

/// Copies the session of a candidate to an empty directory of the user's.
///
/// # Errors
/// Why not.
pub fn session(wanted: &Wanted, candidate: &Candidate, to: &Path, uid: u32) -> Result<(), String> {
    let target = Target::open(to, uid)?;
    if let Some(path) = &candidate.session {
        let (from, bytes) = session::open(&survey::open(&wanted.sessions)?, path)?;
        let made = target.make_file(&target.root, SESSION.as_bytes());
        let made = made.map_err(|error| format!("{}: {error}", to.display()))?;
        let mut out = io::BufWriter::new(made);
        session::copy(from, bytes, &mut out).map_err(|why| format!("{path}: {why}"))?;
        let made = out.into_inner().map_err(|error| format!("{}: {error}", to.display()))?;
        target.give(&made, 0o600).map_err(|error| format!("{}: {error}", to.display()))?;
    }
    syncfs(&target.root).map_err(|error| format!("{}: {error}", to.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_workspace_arrives_with_content_modes_times_and_its_new_owner_and_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (workspaces, sessions) = (dir.path().join("workspaces"), dir.path().join("sessions"));
        let (from, to) = (workspaces.join("alice"), dir.path().join("to"));
        for path in [&sessions, &from.join("src"), &to] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(from.join("src/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("src/run"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("src/run", from.join("run")).unwrap();
        symlink("/etc/passwd", from.join("out")).unwrap();
        let header = "{\"type\":\"session\",\"id\":\"i\",\"cwd\":\"/old\"}\n";
        fs::write(sessions.join("alice.jsonl"), header).unwrap();
        let uid = 1_879_048_193;
        std::os::unix::fs::chown(&to, Some(uid), Some(uid)).unwrap();
        let wanted = Wanted { workspaces, sessions, user: None, apply: true, leave_out: true };
        let candidate = survey::survey(&wanted).unwrap().pop().unwrap();
        assert_eq!(candidate.left_out_count, 1);
        workspace(&wanted, &candidate, &to, uid).unwrap();
        session(&wanted, &candidate, &to, uid).unwrap();
        let seen = |path: PathBuf| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        };
        assert_eq!(seen(to.join("src/run")), (uid, uid, 0o755), "no set-user-id bit comes along");
        assert_eq!(seen(to.join("run")).0, uid);
        assert_eq!(seen(to.join(SESSION)), (uid, uid, 0o600));
        assert!(fs::symlink_metadata(to.join("out")).is_err());
        let modified = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified(to.join("src/run")), modified(from.join("src/run")));
        assert_eq!(fs::read_to_string(from.join("src/run")).unwrap(), "#!/bin/sh\n");
        // What is there is never replaced.
        let told = workspace(&wanted, &candidate, &to, uid).unwrap_err();
        assert!(told.contains("exists"), "{told}");
        assert!(Target::open(&to, uid + 1).is_err());
    }
}
