//! What must be true before the launcher starts: who it is, what systemd and the kernel can do, who can change its
//! configuration and credentials. Every mistake is collected; one of them stops the start.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::settings::{self, CREDENTIALS_DIR, Settings};
use crate::systemd;

/// The oldest systemd whose properties were measured.
const MIN_SYSTEMD: u32 = 252;
/// The shortest credential that can be real, in bytes.
const MIN_CREDENTIAL: usize = 8;

/// Opens a file of root's and says what is wrong with it: somebody else could have changed it, or read it if `secret`.
fn open_checked(path: &Path, secret: bool) -> Result<File, String> {
    let told = |what: String| format!("{}: {what}", path.display());
    let parent = path.parent().unwrap_or(Path::new("/"));
    let above = fs::symlink_metadata(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    if !above.is_dir() || above.uid() != 0 || above.mode() & 0o022 != 0 {
        return Err(format!(
            "{}: must be a directory of root that nobody else can write to",
            parent.display()
        ));
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| told(format!("{error}")))?;
    let found = file.metadata().map_err(|error| told(format!("{error}")))?;
    // The configuration may be read by the front's group; a credential by root alone.
    let (forbidden, wanted) = if secret { (0o077, "0600") } else { (0o027, "0640") };
    if !found.is_file() || found.uid() != 0 || found.mode() & forbidden != 0 {
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        let path = path.display();
        let remedy = format!("chown root {path} && chmod {wanted} {path}");
        return Err(told(format!(
            "owner {owner}, mode {mode:04o}; must be root's, at most {wanted}: `{remedy}`"
        )));
    }
    Ok(file)
}

fn read_checked(path: &Path, secret: bool) -> Result<String, String> {
    let mut text = String::new();
    let file = open_checked(path, secret)?;
    let read = file.take(settings::MAX_FILE + 1).read_to_string(&mut text);
    match read {
        Ok(count) if count as u64 <= settings::MAX_FILE => Ok(text),
        Ok(_) => Err(format!("{}: larger than {} bytes", path.display(), settings::MAX_FILE)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The variables of the configuration and the settings in them.
///
/// # Errors
/// Every mistake.
pub fn configuration(path: &Path) -> Result<(Vec<(String, String)>, Settings), Vec<String>> {
    let text = read_checked(path, false).map_err(|mistake| vec![mistake])?;
    let variables = settings::parse(&text)?;
    let settings = Settings::new(&variables)?;
    Ok((variables, settings))
}

/// Whether the credential called `name` is there and can be one.
///
/// # Errors
/// What is wrong, with the remedy. The value is never told.
pub fn credential(name: &str) -> Result<(), String> {
    let path = Path::new(CREDENTIALS_DIR).join(name);
    if !path.exists() {
        let command = format!("install -D -m 0600 /dev/stdin {}", path.display());
        return Err(format!("{name}: no credential; type it into `{command}`"));
    }
    let text = read_checked(&path, true)?;
    let value = text.trim();
    let placeholder = ["changeme", "change-me", "placeholder", "example", "your", "xxxx", "secret", "todo"];
    let lower = value.to_lowercase();
    if value.len() < MIN_CREDENTIAL || placeholder.iter().any(|word| lower.starts_with(word)) {
        return Err(format!("{}: empty or a placeholder; put the real value into it", path.display()));
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{}: must be one word of visible ASCII", path.display()));
    }
    Ok(())
}

/// What this machine lacks.
pub fn machine() -> (u32, Vec<String>) {
    let mut lacks = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        lacks.push("must be started by systemd as root: `systemctl start pi-gateway-launcher`".to_owned());
    }
    let version = systemd::version().unwrap_or_else(|systemd::Ask(error)| {
        lacks.push(format!("systemd does not answer: {error}"));
        0
    });
    if (1..MIN_SYSTEMD).contains(&version) {
        lacks.push(format!("systemd {version}: {MIN_SYSTEMD} or later is needed"));
    }
    // On the unified hierarchy one file lists the controllers; on the older ones each is a mount.
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    for controller in ["memory", "pids", "cpu"] {
        let mounted = Path::new("/sys/fs/cgroup").join(controller).is_dir();
        if !mounted && !unified.split_whitespace().any(|known| known == controller) {
            lacks.push(format!(
                "the kernel has no cgroup controller `{controller}`; a sandbox could not be limited"
            ));
        }
    }
    (version, lacks)
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
            (0o644, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_checked(&path, secret);
            assert_eq!(read.is_ok(), good, "{mode:o} {read:?}");
            assert!(good || read.unwrap_err().contains("chmod 06"));
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_checked(&link, false).is_err());
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read_checked(&dir.path().join("fifo"), false).is_err());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_checked(&path, true).is_err());
    }
}
