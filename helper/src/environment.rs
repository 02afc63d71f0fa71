//! What must be true before the launcher starts: what systemd and the kernel can do, and that nobody but root could
//! have written its configuration and credentials.

use std::fs::{self, OpenOptions};
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
/// Where credentials belong.
const CREDENTIALS: &str = "/etc/pi-gateway/credentials";
/// What a value begins with that nobody has filled in.
const PLACEHOLDERS: &str = "changeme change-me placeholder example your xxxx secret todo";

/// Reads a file of root's: a regular one, in a directory of root's, with none of the `forbidden` mode bits.
///
/// # Errors
/// What is wrong with it, with the remedy.
pub fn read_root_file(path: &Path, forbidden: u32) -> Result<String, String> {
    let (shown, parent) = (path.display(), path.parent().unwrap_or(Path::new("/")));
    let told = |error: std::io::Error| format!("{shown}: {error}");
    roots_directory(parent).map_err(|error| error.to_string())?;
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(told)?;
    let found = file.metadata().map_err(told)?;
    if !found.is_file() || found.uid() != 0 || found.mode() & forbidden != 0 || found.len() > MAX_FILE {
        let remedy = format!("`chown root {shown} && chmod {:04o} {shown}`", 0o666 & !forbidden);
        return Err(format!("{shown}: must be a small file of root's: {remedy}"));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(told)?;
    Ok(text)
}

/// Has the whole configuration judged, and written for launcher and relays. Not a step of its own in the unit: there a
/// wrong configuration would be tried again and again.
///
/// # Errors
/// When it is wrong; the program has said what is.
pub fn configure() -> Result<(), String> {
    let mut check = Command::new("/usr/bin/pi-gateway");
    check.args(["check", "--write", "/run/pi-gateway/config"]).env_clear().stdin(Stdio::null());
    match check.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("the configuration is wrong; see above, or run `pi-gateway check`".to_owned()),
        Err(error) => Err(format!("/usr/bin/pi-gateway: {error}")),
    }
}

/// Whether the credential called `name` is there and can be one.
///
/// # Errors
/// What is wrong, with the remedy. The value is never told.
pub fn credential(name: &str) -> Result<(), String> {
    let path = Path::new(CREDENTIALS).join(name);
    let shown = path.display();
    if !path.exists() {
        return Err(format!("{name}: no credential; type it into `install -D -m 0600 /dev/stdin {shown}`"));
    }
    let text = read_root_file(&path, 0o077)?;
    let (value, lower) = (text.trim(), text.trim().to_lowercase());
    let placeholder = PLACEHOLDERS.split(' ').any(|word| lower.starts_with(word));
    if value.len() >= 8 && !placeholder && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!("{shown}: empty, a placeholder, or not one word of visible ASCII; put the real value there"))
}

/// systemd's version, when this process has what it needs, and nothing beyond: root without all but one capability,
/// which giving a user his directories needs.
///
/// # Errors
/// What it lacks.
pub fn machine(systemd: Systemd) -> Result<u32, String> {
    let mut lacks = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        lacks.push("must be started by systemd as root: `systemctl start pi-gateway-launcher`".to_owned());
    }
    // What a program that root executes is given is the bounding set.
    let little = |set| caps::read(None, set).is_ok_and(|held| held.iter().all(|held| *held == Capability::CAP_CHOWN));
    if ![CapSet::Bounding, CapSet::Permitted, CapSet::Ambient].into_iter().all(little) {
        lacks.push("holds more than CAP_CHOWN: `systemctl start pi-gateway-launcher`, by its own unit".to_owned());
    }
    let version = systemd.version();
    match &version {
        Ok(MIN_SYSTEMD..) => {}
        Ok(older) => lacks.push(format!("systemd {older}: {MIN_SYSTEMD} or later is needed")),
        Err(error) => lacks.push(format!("systemd does not answer: {error}")),
    }
    // On the unified hierarchy one file lists the controllers; on the older ones each is a mount.
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let there = |name| unified.split_whitespace().any(|known| known == name);
    for name in ["memory", "pids", "cpu"] {
        if !there(name) && !Path::new("/sys/fs/cgroup").join(name).is_dir() {
            lacks.push(format!("no cgroup controller `{name}` in the kernel; a sandbox could not be limited"));
        }
    }
    version.ok().filter(|_| lacks.is_empty()).ok_or_else(|| lacks.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_can_change_or_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "A=1\n").unwrap();
        for (mode, secret, good) in [
            (0o600, true, true),
            (0o640, true, false),
            (0o640, false, true),
            (0o660, false, false),
            (0o644, false, true),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_root_file(&path, if secret { 0o077 } else { 0o022 });
            assert_eq!(read.is_ok(), good, "{mode:o} {read:?}");
            assert!(good || read.unwrap_err().contains("chmod 06"));
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_root_file(&link, 0o022).is_err());
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read_root_file(&dir.path().join("fifo"), 0o022).is_err());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_root_file(&path, 0o077).is_err());
    }
}
