//! Who is which uid: an append-only registry, and its publication to the system.
//!
//! A user gets the next uid of the range when his first run starts and keeps it for ever. The registry is checked against
//! the owners of the directories at each start: a lost or foreign one would mix users, so a mismatch stops the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::files;
use crate::names::User;

/// The uid before the first user's.
pub const BASE: u32 = 1_879_048_192;
/// How many users there can be.
pub const RANGE: u32 = 65_535;

/// The registry: one line a user, `<uid> <name>`, uids rising by one.
pub struct Registry {
    file: File,
    users: Mutex<Vec<User>>,
}

/// Where it is.
pub const REGISTRY: &str = "/var/lib/pi-gateway/uids";
/// What puts a mismatch right.
pub const RESTORE: &str = "restore /var/lib/pi-gateway from one backup, with numeric owners";

impl Registry {
    /// Reads the registry at `path`; one that is absent is made, empty.
    ///
    /// # Errors
    /// When it cannot be read or a line is not what was written. A torn last line, without its line feed, was never
    /// acted on and is cut off.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        // For the git relay, whatever the umask.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        File::open(path.parent().unwrap_or(path))?.sync_all()?;
        let (mut text, mut users) = (String::new(), Vec::new());
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            let (uid, name) = line.split_once(' ').unwrap_or_default();
            let user = User::parse(name).ok().filter(|user| !users.contains(user));
            let Some(user) = user.filter(|_| uid == uid_of(users.len()).to_string()) else {
                let told = format!("line {} is not what was written; {RESTORE}", users.len() + 1);
                return Err(io::Error::other(told));
            };
            users.push(user);
        }
        file.set_len(whole as u64)?;
        Ok(Registry { file, users: Mutex::new(users) })
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
        let before = self.file.metadata()?.len();
        let written = (&self.file).write_all(format!("{uid} {}\n", user.as_str()).as_bytes());
        if let Err(error) = written.and_then(|()| self.file.sync_all()) {
            self.file.set_len(before)?;
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
/// `userdb` are gone after a reboot, so this is done at each start of an agent. `sandbox` gets what the sandbox sees:
/// itself and nobody.
///
/// # Errors
/// When the files cannot be written.
pub fn publish(userdb: &Path, sandbox: &Path, uid: u32) -> io::Result<()> {
    let (name, number) = (format!("pg{}", uid - BASE), uid.to_string());
    let fill = |template: &str| template.replace("{NAME}", &name).replace("{UID}", &number);
    fs::create_dir_all(sandbox)?;
    files::publish(&sandbox.join("passwd"), &fill(include_str!("../units/passwd")))?;
    files::publish(&sandbox.join("group"), &fill(include_str!("../units/group")))?;
    let records = [("user", include_str!("../units/userdb.user")), ("group", include_str!("../units/userdb.group"))];
    for (kind, record) in records {
        files::publish(&userdb.join(format!("{name}.{kind}")), &fill(record))?;
        let linked = symlink(format!("{name}.{kind}"), userdb.join(format!("{uid}.{kind}")));
        files::unless(io::ErrorKind::AlreadyExists, linked)?;
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
}
