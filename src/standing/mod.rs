//! Whom the gateway does not let in: a file for each user that the operator keeps out, which the front asks at each
//! request.
//!
//! `/var/lib/pi-gateway/standing/<user>` (root:pi-gateway, 0640, in a directory that only root writes) says why and since
//! when. It is written whole or not at all by the operator's commands; as long as it is there, whatever is in it, the user
//! is refused, so a file that cannot be read keeps him out. The front ends what he has under way ([`keeper`]) and then
//! notes the file's id below its own directory: that is how a command knows that it is in force.

pub mod keeper;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inotify::{EventStream, Inotify, WatchMask};
use jiff::Timestamp;
use pi_gateway_helper::names::User;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::durable::{self, Access};

/// Where the files are.
pub const DIRECTORY: &str = "/var/lib/pi-gateway/standing";
/// The largest file, in bytes.
const MAX: u64 = 8 << 10;

/// Why a user is kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The operator wants it.
    Blocked,
    /// He is packed, and nothing of his changes any more.
    Archived,
    /// His workspace and session are being taken over from elsewhere.
    Importing,
    /// All that was kept of him is removed, or about to be.
    Removed,
}

impl Why {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Why::Blocked => "blocked",
            Why::Archived => "archived",
            Why::Importing => "importing",
            Why::Removed => "removed",
        }
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Tells it from every other.
    pub id: Uuid,
    /// Why he is kept out.
    pub why: Why,
    /// Since when.
    pub at: Timestamp,
    /// Where he is packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Standing {
    /// One that begins now.
    pub fn now(why: Why) -> Self {
        Standing { id: Uuid::now_v7(), why, at: Timestamp::now(), file: None }
    }

    /// Writes it for a user, with the access that the front needs: its group reads.
    ///
    /// # Errors
    /// When the disk refuses; what was there stays.
    pub fn write(&self, directory: &Path, user: &User, group: u32) -> io::Result<()> {
        let access = Access { mode: 0o640, owner: Some((nix::unistd::geteuid().as_raw(), group)) };
        durable::write(&directory.join(user.as_str()), &serde_json::to_vec(self)?, access)
    }
}

/// Lets a user in again; one who is let in is let in.
///
/// # Errors
/// When the disk refuses.
pub fn lift(directory: &Path, user: &User) -> io::Result<()> {
    match fs::remove_file(directory.join(user.as_str())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| durable::sync_directory(directory)),
    }
}

/// All users that are kept out, as the front sees them.
#[derive(Clone, Debug)]
pub struct Register {
    directory: PathBuf,
    changed: Arc<watch::Sender<()>>,
}

impl Register {
    /// Those of a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Register { directory: directory.into(), changed: Arc::new(watch::Sender::new(())) }
    }

    /// Whether there is such a directory: without one nobody would be kept out.
    ///
    /// # Errors
    /// That there is none, with the remedy.
    pub fn check(&self) -> io::Result<()> {
        let remedy = |error| io::Error::other(format!("{error}: `systemd-tmpfiles --create pi-gateway.conf`"));
        fs::read_dir(&self.directory).map(drop).map_err(remedy)
    }

    /// Whether a user is kept out. He is when that cannot be told.
    pub fn refuses(&self, user: &User) -> bool {
        match fs::symlink_metadata(self.directory.join(user.as_str())) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(user = user.as_str(), %error, "whether the user is blocked could not be read");
                true
            }
        }
    }

    /// Changes whenever somebody is kept out or let in, from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until a user is kept out.
    pub async fn refused(&self, user: &User) {
        let mut changed = self.changes();
        while !self.refuses(user) {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Why a user is kept out; None when he is not.
    ///
    /// # Errors
    /// When what is there cannot be read: he is kept out then.
    pub fn of(&self, user: &User) -> io::Result<Option<Standing>> {
        let path = self.directory.join(user.as_str());
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = Vec::new();
        file.take(MAX).read_to_end(&mut text)?;
        let told = |error| io::Error::other(format!("{}: not what was written: {error}", path.display()));
        serde_json::from_slice(&text).map(Some).map_err(told)
    }

    /// Everybody who is kept out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn users(&self) -> io::Result<Vec<User>> {
        let mut users = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            users.extend(entry?.file_name().to_str().and_then(|name| User::parse(name).ok()));
        }
        users.sort_unstable();
        Ok(users)
    }

    /// Tells whoever goes by [`Register::changes`] to look again.
    pub fn stir(&self) {
        self.changed.send_replace(());
    }

    /// What happens to the files.
    fn watch(&self) -> io::Result<EventStream<[u8; 1024]>> {
        let inotify = Inotify::init()?;
        inotify.watches().add(&self.directory, WatchMask::MOVED_TO | WatchMask::CREATE | WatchMask::DELETE)?;
        inotify.into_event_stream([0; 1024])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_user_is_kept_out_as_long_as_his_file_is_there_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (register, user) = (Register::new(dir.path()), User::parse("alice").unwrap());
        register.check().unwrap();
        assert!(!register.refuses(&user) && register.of(&user).unwrap().is_none());
        let mut standing = Standing::now(Why::Archived);
        standing.file = Some("/srv/alice.tar.zst".into());
        let group = nix::unistd::getegid().as_raw();
        standing.write(dir.path(), &user, group).unwrap();
        register.refused(&user).await;
        assert_eq!(register.of(&user).unwrap().unwrap(), standing);
        assert_eq!(register.users().unwrap(), std::slice::from_ref(&user));
        lift(dir.path(), &user).unwrap();
        lift(dir.path(), &user).unwrap();
        assert!(!register.refuses(&user));
        // What nobody has written keeps him out as well.
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("alice")).unwrap();
        assert!(register.refuses(&user));
        fs::remove_file(dir.path().join("alice")).unwrap();
        fs::write(dir.path().join("alice"), "x").unwrap();
        assert!(register.refuses(&user) && register.of(&user).is_err());
        let told = Register::new(dir.path().join("absent")).check().unwrap_err().to_string();
        assert!(told.contains("systemd-tmpfiles"), "{told}");
    }
}
