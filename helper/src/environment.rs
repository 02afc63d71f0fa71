//! What must be true before the launcher starts: what systemd can do, what this process may, and a configuration that
//! `pi-gateway check` finds right. Credentials and the kernel's limits are judged by that as well.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use caps::{CapSet, Capability};
use nix::fcntl::OFlag;

use crate::files::roots_directory;
use crate::systemd::Systemd;

/// The oldest systemd whose properties were measured.
const MIN_SYSTEMD: u32 = 252;
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// Reads a file that only root can read: a regular one, in a directory of root's.
///
/// # Errors
/// What is wrong with it, with the remedy.
pub fn read_root_file(path: &Path) -> Result<String, String> {
    let (shown, parent) = (path.display(), path.parent().unwrap_or(Path::new("/")));
    let told = |error: std::io::Error| format!("{shown}: {error}");
    roots_directory(parent).map_err(|error| error.to_string())?;
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(told)?;
    let found = file.metadata().map_err(told)?;
    if !found.is_file() || found.uid() != 0 || found.mode() & 0o077 != 0 || found.len() > MAX_FILE {
        return Err(format!("{shown}: must be a small file of root's: `chown root {shown} && chmod 0600 {shown}`"));
    }
    std::io::read_to_string(file.take(MAX_FILE)).map_err(told)
}

/// Has configuration, credentials and kernel judged, and what the relays read written; gives what the launcher is
/// configured with. Not a step of its own in the unit: there a wrong configuration would be tried again and again.
///
/// # Errors
/// When it is wrong; the program has said what is.
pub fn configure() -> Result<String, String> {
    let mut check = Command::new("/usr/bin/pi-gateway");
    check
        .args(["check", "--write", "/run/pi-gateway/config"])
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    match check.output() {
        Ok(told) if told.status.success() => Ok(String::from_utf8_lossy(&told.stdout).into_owned()),
        Ok(_) => Err("the configuration is wrong; see above, or run `pi-gateway check`".to_owned()),
        Err(error) => Err(format!("/usr/bin/pi-gateway: {error}")),
    }
}

/// systemd's version, when this process has what it needs, and nothing beyond: root without all but one capability,
/// which giving a user his directories needs.
///
/// # Errors
/// The first thing that it lacks.
pub fn machine(systemd: Systemd) -> Result<u32, String> {
    // What a program that root executes is given is the bounding set.
    let little = |set| caps::read(None, set).is_ok_and(|held| held.iter().all(|held| *held == Capability::CAP_CHOWN));
    let sets = [CapSet::Bounding, CapSet::Permitted, CapSet::Ambient];
    if !nix::unistd::geteuid().is_root() || !sets.into_iter().all(little) {
        return Err("must be root with CAP_CHOWN only, by its own unit: `systemctl start pi-gateway-launcher`".into());
    }
    match systemd.version() {
        Ok(version @ MIN_SYSTEMD..) => Ok(version),
        Ok(older) => Err(format!("systemd {older}: {MIN_SYSTEMD} or later is needed")),
        Err(error) => Err(format!("systemd does not answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_can_change_or_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "A=1\n").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o620, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_root_file(&path);
            assert_eq!(read.is_ok(), good, "{mode:o} {read:?}");
            assert!(good || read.unwrap_err().contains("chmod 0600"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_root_file(&link).is_err());
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read_root_file(&dir.path().join("fifo")).is_err());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_root_file(&path).is_err());
    }
}
