//! Is the sandbox real? systemd ignores some restrictions on some systems without a word; this asks the kernel, from
//! inside, before anything of the user's runs. The first restriction that does not bite stops the start.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statvfs::{FsFlags, statvfs};

/// What the root of a sandbox holds, and nothing else.
const ROOT: &str = "agent bin dev etc home lib lib64 proc root run sbin session sys tmp tmp-sized trusted usr var \
    var-tmp-sized workspace";
/// What systemd itself mounts at its /run.
const RUN: &str = "systemd host credentials lock";
/// The most that its /tmp and /var/tmp may each hold, in bytes.
const MAX_TMP: u64 = 512 << 20;
/// Sockets of the host that must not be there, whatever mounts them.
const SOCKETS: &str = "/run/systemd/private /run/systemd/notify /run/systemd/journal/socket \
    /run/systemd/journal/stdout /run/systemd/journal/dev-log /run/systemd/resolve/io.systemd.Resolve \
    /run/systemd/userdb /run/dbus /run/nscd /dev/log";

fn check(holds: bool, property: &str, seen: &str) -> Result<(), String> {
    let told = || format!("{property} is not enforced on this system ({seen}); the program is not started");
    holds.then_some(()).ok_or_else(told)
}

/// All of it; `mounts` are the names that this sandbox's own mounts have in /run.
///
/// # Errors
/// The first restriction that is not enforced, by the name of systemd's property.
pub fn all(mounts: &str) -> Result<(), String> {
    process()?;
    files(&format!("{RUN} {mounts}"))?;
    let devices = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let only_lo = devices.lines().skip(2).all(|line| line.trim_start().starts_with("lo:"));
    check(only_lo && !devices.is_empty(), "PrivateNetwork=yes", "an interface beside lo")?;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
    check(netlink.is_err(), "RestrictAddressFamilies=", "a netlink socket can be made")
}

fn process() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("absent", str::trim)
    };
    check(value("NoNewPrivs") == "1", "NoNewPrivileges=yes", value("NoNewPrivs"))?;
    check(value("Seccomp") == "2", "SystemCallFilter=", value("Seccomp"))?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        check(value(set).bytes().all(|byte| byte == b'0'), "CapabilityBoundingSet=", value(set))?;
    }
    check(!value("Uid").split_whitespace().any(|uid| uid == "0"), "User=", "the agent would be root")?;
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or("4294967295".to_owned());
    check(!map.contains("4294967295"), "PrivateUsers=yes", "every uid of the host exists")?;
    let denied = unshare(CloneFlags::CLONE_NEWUSER) == Err(Errno::EPERM);
    check(denied, "RestrictNamespaces=yes", "unshare works")?;
    // With PrivatePIDs= process 1 is this one.
    let alone = std::process::id() == 1 || fs::symlink_metadata("/proc/1").is_err();
    check(alone, "ProtectProc=invisible", "process 1 is visible")?;
    check(fs::symlink_metadata("/proc/sys").is_err(), "ProcSubset=pid", "/proc/sys is there")
}

fn files(run: &str) -> Result<(), String> {
    for (path, known) in [("/", ROOT), ("/run", run), ("/sys", "")] {
        let entries = fs::read_dir(path);
        // Only /sys may be closed altogether.
        check(entries.is_ok() || path == "/sys", "RootDirectory=", &format!("{path} cannot be listed"))?;
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let expected = known.split(' ').any(|known| known == name);
            check(expected, "RootDirectory= or InaccessiblePaths=", &format!("{path} holds {name}"))?;
        }
    }
    for socket in SOCKETS.split_whitespace() {
        // Followed: /dev/log is a link that leads nowhere here.
        check(fs::metadata(socket).is_err(), "TemporaryFileSystem=/run or BindLogSockets=no", socket)?;
    }
    for path in ["/tmp", "/var/tmp"] {
        let sized = statvfs(path).is_ok_and(|found| found.blocks() * found.fragment_size() <= MAX_TMP);
        check(sized, "TemporaryFileSystem=/tmp", &format!("{path} is not limited"))?;
    }
    for path in ["/", "/usr", "/etc", "/trusted", "/run"] {
        let read_only = statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
        check(read_only, "ProtectSystem=strict", &format!("{path} is writable"))?;
    }
    Ok(())
}
