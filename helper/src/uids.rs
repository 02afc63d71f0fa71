//! Who is which uid: an append-only registry, and its publication to the system.
//!
//! A user gets the next uid of the range when his first run starts and keeps it for ever. The registry is checked against
//! the owners of the directories at each start: a lost or foreign one would mix users, so a mismatch stops the start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::files::write_readable;
use crate::names::User;

/// The uid before the first user's.
pub const BASE: u32 = 1_879_048_192;
/// How many users there can be.
pub const RANGE: u32 = 65_535;

/// The registry: one line a user, `<uid> <name>`, uids rising by one.
pub struct Registry {
    path: PathBuf,
    users: Mutex<Vec<User>>,
}

impl Registry {
    /// Reads the registry at `path`; an absent one is empty.
    ///
    /// # Errors
    /// When it cannot be read or a line is not what was written. A torn last line, without its line feed, was never
    /// acted on and is cut off.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut users = Vec::new();
        for line in text[..whole].lines() {
            let (uid, name) = line.split_once(' ').unwrap_or_default();
            match User::parse(name) {
                Ok(user) if uid == uid_of(users.len()).to_string() && !users.contains(&user) => users.push(user),
                _ => {
                    let (path, line) = (path.display(), users.len() + 1);
                    let told = format!("{path}: line {line} is not what was written; restore it from a backup");
                    return Err(io::Error::other(told));
                }
            }
        }
        if whole < text.len() {
            OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
        }
        Ok(Registry { path: path.to_owned(), users: Mutex::new(users) })
    }

    /// Compares the registry with the owners of the directories in `parent`, one a user.
    ///
    /// # Errors
    /// The first directory that belongs to nobody here or to another uid.
    pub fn check(&self, parent: &Path) -> io::Result<()> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(parent)? {
            let path = entry?.path();
            let owner = fs::symlink_metadata(&path)?.uid();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let known = users.iter().position(|user| user.as_str() == name).map(uid_of);
            // A directory of root is one whose making was interrupted: it is made again before use.
            if known != Some(owner) && !(owner == 0 && known.is_some()) {
                let wanted = known.map_or("nobody".to_owned(), |uid| format!("uid {uid}"));
                let (path, registry) = (path.display(), self.path.display());
                return Err(io::Error::other(format!(
                    "{path} belongs to uid {owner}, by {registry} to {wanted}; restore both from the same backup, with \
                     numeric owners"
                )));
            }
        }
        Ok(())
    }

    /// The user's uid, assigned and on disk when this returns.
    ///
    /// # Errors
    /// When the range is used up or the disk refuses.
    pub fn assign(&self, user: &User) -> io::Result<u32> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = users.iter().position(|known| known == user) {
            return Ok(uid_of(index));
        }
        if users.len() >= RANGE as usize {
            return Err(io::Error::other(format!("all {RANGE} uids are assigned")));
        }
        let uid = uid_of(users.len());
        let mut file = OpenOptions::new().append(true).create(true).mode(0o644).open(&self.path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(format!("{uid} {}\n", user.as_str()).as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            file.set_len(before)?;
            return Err(error);
        }
        users.push(user.clone());
        Ok(uid)
    }
}

fn uid_of(index: usize) -> u32 {
    BASE + 1 + u32::try_from(index).unwrap_or(RANGE)
}

/// Tells the system that the uid has a name (`pg<n>`): systemd refuses a numeric user without one. The files in
/// `userdb` are gone after a reboot, so this is done at each start of an agent.
///
/// # Errors
/// When the files cannot be written.
pub fn publish(userdb: &Path, sandbox: &Path, uid: u32) -> io::Result<()> {
    let name = format!("pg{}", uid - BASE);
    let user = format!(
        "{{\"userName\":\"{name}\",\"uid\":{uid},\"gid\":{uid},\"disposition\":\"container\",\"homeDirectory\":\"/\",\
         \"shell\":\"/usr/sbin/nologin\",\"locked\":true}}\n"
    );
    let group = format!("{{\"groupName\":\"{name}\",\"gid\":{uid},\"disposition\":\"container\"}}\n");
    // What the sandbox sees: itself and nobody.
    fs::create_dir_all(sandbox)?;
    let passwd = format!(
        "{name}:x:{uid}:{uid}::/workspace:/bin/bash\nroot:x:0:0::/:/usr/sbin/nologin\n\
         nobody:x:65534:65534::/:/usr/sbin/nologin\n"
    );
    write_readable(&sandbox.join("passwd"), &passwd)?;
    write_readable(&sandbox.join("group"), &format!("{name}:x:{uid}:\nroot:x:0:\nnogroup:x:65534:\n"))?;
    for (kind, record) in [("user", user), ("group", group)] {
        write_readable(&userdb.join(format!("{name}.{kind}")), &record)?;
        match symlink(format!("{name}.{kind}"), userdb.join(format!("{uid}.{kind}"))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(name: &str) -> User {
        User::parse(name).unwrap()
    }

    #[test]
    fn uids_are_assigned_once_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uids");
        let registry = Registry::open(&path).unwrap();
        assert_eq!(registry.assign(&user("alice")).unwrap(), BASE + 1);
        assert_eq!(registry.assign(&user("bob")).unwrap(), BASE + 2);
        assert_eq!(registry.assign(&user("alice")).unwrap(), BASE + 1);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "1879048193 alice\n1879048194 bob\n");
        for cut in 0..text.len() {
            fs::write(&path, &text[..cut]).unwrap();
            let again = Registry::open(&path).unwrap();
            let kept = usize::from(cut > 16) + 1;
            assert_eq!(again.assign(&user("carol")).unwrap(), BASE + u32::try_from(kept).unwrap(), "cut at {cut}");
        }
    }

    #[test]
    fn a_registry_that_was_edited_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uids");
        for text in ["1879048194 alice\n", "1879048193 alice\n1879048194 alice\n", "1879048193 A\n", "x\n", "\n"] {
            fs::write(&path, text).unwrap();
            assert!(Registry::open(&path).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_directory_of_somebody_else_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("uids")).unwrap();
        let parent = dir.path().join("workspaces");
        fs::create_dir_all(parent.join("alice")).unwrap();
        assert!(registry.check(&parent).is_err(), "alice is nobody here");
        let uid = registry.assign(&user("alice")).unwrap();
        if std::os::unix::fs::chown(parent.join("alice"), Some(uid), Some(uid)).is_ok() {
            registry.check(&parent).unwrap();
            std::os::unix::fs::chown(parent.join("alice"), Some(uid + 1), None).unwrap();
            assert!(registry.check(&parent).is_err(), "another uid owns alice's directory");
        }
    }
}
