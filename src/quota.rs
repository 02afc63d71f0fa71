//! The kernel's own limit of what a user's uid takes, where the file system keeps one.
//!
//! `pi-gateway-quota.service`, a fixed one-shot, sets it for every uid of the registry whenever the registry changes. The
//! gateway's own measuring goes on beside it: the kernel's limit lies [`RESERVE`] above `WORKSPACE_QUOTA_MB`, so that a
//! run is ended in good order and its session still has room. Without it a fast writer can pass the limit between two
//! measurements.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::quota::{Dqblk, QuotaType, QuotaValidFlags, quotactl_get, quotactl_set};
use pi_gateway_helper::uids::{BASE, REGISTRY};

/// What the kernel allows beyond `WORKSPACE_QUOTA_MB`, in bytes: the session, and what is written while a run is ended.
pub const RESERVE: u64 = 128 << 20;
/// Files a user may have for each MiB that he may have.
const FILES_PER_MIB: u64 = 1000;
/// The unit of the kernel's limits, in bytes.
const BLOCK: u64 = 1024;

/// Which limit is in force.
#[derive(Debug, PartialEq, Eq)]
pub enum Limit {
    /// The kernel refuses to write more.
    Kernel,
    /// The gateway measures every few seconds; why the kernel does not.
    Measured(String),
}

/// The device of the file system that holds `path`, from the text of /proc/self/mounts.
pub fn device_of(path: &Path, mounts: &str) -> Option<PathBuf> {
    let unescape = |field: &str| field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    let mut best: Option<(PathBuf, PathBuf)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(place)) = (fields.next(), fields.next()) else { continue };
        let place = PathBuf::from(unescape(place));
        // A later mount at the same place covers the earlier one.
        if path.starts_with(&place) && best.as_ref().is_none_or(|(there, _)| place.starts_with(there)) {
            best = Some((place, PathBuf::from(unescape(device))));
        }
    }
    best.map(|(_, device)| device).filter(|device| device.is_absolute())
}

fn device(path: &Path) -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| format!("/proc/self/mounts: {error}"))?;
    device_of(path, &mounts).ok_or_else(|| format!("{} lies on no device", path.display()))
}

fn told(error: Errno) -> String {
    match error {
        Errno::ESRCH | Errno::ENOTBLK | Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV => {
            "the file system keeps no quota (mount it with usrquota, ext4 or xfs)".to_owned()
        }
        other => other.to_string(),
    }
}

/// Which limit is in force for the users below `path`. Asks as root.
pub fn in_force(path: &Path) -> Limit {
    let asked = device(path).and_then(|device| {
        let id = i32::try_from(BASE + 1).unwrap_or_default();
        quotactl_get(QuotaType::USRQUOTA, &device, id).map_err(told)
    });
    match asked.map(|found| found.blocks_hard_limit()) {
        Ok(Some(1..)) => Limit::Kernel,
        Ok(_) => Limit::Measured("the kernel has no limit for users: `systemctl start pi-gateway-quota`".to_owned()),
        Err(why) => Limit::Measured(why),
    }
}

/// Sets the limit of every user of the registry on the file system of each of `paths`; gives how many users it is set for.
///
/// # Errors
/// Why the kernel does not.
pub fn apply(paths: &[&Path], quota: u64) -> Result<usize, String> {
    let registry = fs::read_to_string(REGISTRY).map_err(|error| format!("{REGISTRY}: {error}"))?;
    let uids: Vec<i32> = registry.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    let mut devices = paths.iter().map(|path| device(path)).collect::<Result<Vec<_>, _>>()?;
    devices.dedup();
    let mut limit = Dqblk::default();
    limit.set_blocks_hard_limit((quota + RESERVE) / BLOCK);
    limit.set_inodes_hard_limit((quota >> 20) * FILES_PER_MIB);
    let fields = QuotaValidFlags::QIF_BLIMITS | QuotaValidFlags::QIF_ILIMITS;
    for device in &devices {
        for uid in &uids {
            quotactl_set(QuotaType::USRQUOTA, device, *uid, &limit, fields).map_err(told)?;
        }
    }
    Ok(uids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_that_of_the_innermost_and_last_mount() {
        let mounts = "/dev/vda1 / ext4 rw 0 0\n/dev/vdb /var/lib ext4 rw,usrquota 0 0\n/dev/vdc /var/lib\\040x ext4 rw 0 0\n\
            tmpfs /run tmpfs rw 0 0\n/dev/vdd /var/lib xfs rw 0 0\n";
        let of = |path: &str| device_of(Path::new(path), mounts).map(|device| device.display().to_string());
        assert_eq!(of("/var/lib/pi-gateway").as_deref(), Some("/dev/vdd"));
        assert_eq!(of("/var/lib x/a").as_deref(), Some("/dev/vdc"));
        assert_eq!(of("/var/library").as_deref(), Some("/dev/vda1"));
        assert_eq!(of("/run/x"), None, "a tmpfs has no device");
    }
}
