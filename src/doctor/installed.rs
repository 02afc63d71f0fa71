//! Every file and directory of the product: there, whose it should be, with the mode it should have. The lists are those
//! that installed them: `packaging/files` and `tmpfiles.d`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use pi_gateway_helper::files::roots_directory;

use super::Examination;

/// The lists.
const FILES: &str = include_str!("../../packaging/files");
const TMPFILES: &str = include_str!("../../packaging/tmpfiles.d/pi-gateway.conf");
/// Below this nothing is needed for a run, and an administrator may leave it out.
const SHARE: &str = "/usr/share/";
/// What is judged elsewhere: with the configuration, by owners, with sites.
const ELSEWHERE: [&str; 4] = [
    "/etc/pi-gateway/gateway.env",
    "/var/lib/pi-gateway/workspaces",
    "/var/lib/pi-gateway/sessions",
    "/var/lib/pi-gateway/sites",
];
/// What makes what is missing.
const REINSTALL: &str = "`apt-get install --reinstall pi-gateway`";
const TMPFILES_REMEDY: &str = "`systemd-tmpfiles --create pi-gateway.conf`";

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
}

/// Something that must be there.
#[derive(Debug, PartialEq, Eq)]
struct Item<'a> {
    kind: Kind,
    path: &'a str,
    owner: &'a str,
    group: &'a str,
    /// For a link nothing.
    mode: u32,
    /// Where a link leads; what a file holds, when that is fixed.
    holds: Option<String>,
}

/// The installed files of the list.
fn files() -> impl Iterator<Item = Item<'static>> {
    FILES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, path, owner, group, mode] = fields.as_slice() else { return None };
        let mode = u32::from_str_radix(mode, 8).ok()?;
        Some(Item { kind: Kind::File, path, owner, group, mode, holds: None })
    })
}

/// The state and runtime directories of the list, and what is in them.
fn made() -> impl Iterator<Item = Item<'static>> {
    TMPFILES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (kind, path) = (fields.next()?, fields.next()?);
        let (mode, owner, group, _age) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let argument = fields.collect::<Vec<_>>().join(" ").replace("\\n", "\n");
        let holds = Some(argument).filter(|argument| !argument.is_empty());
        let kind = match kind {
            "d" => Kind::Directory,
            "L" => Kind::Link,
            _ => Kind::File,
        };
        Some(Item { kind, path, owner, group, mode: u32::from_str_radix(mode, 8).unwrap_or(0), holds })
    })
}

/// Looks at all of it.
pub fn look(examination: &mut Examination<'_>) {
    let wanted = |item: &Item<'_>| !item.path.starts_with(SHARE) && !ELSEWHERE.contains(&item.path);
    let mut count = 0;
    let installed = files().map(|item| (item, REINSTALL)).chain(made().map(|item| (item, TMPFILES_REMEDY)));
    for (item, remedy) in installed.filter(|(item, _)| wanted(item)) {
        count += 1;
        if let Err(told) = judge(&item, remedy) {
            examination.fail("files", told);
        }
    }
    let directories: BTreeSet<PathBuf> =
        files().filter(|item| wanted(item)).flat_map(|item| above(item.path)).collect();
    for directory in &directories {
        if let Err(error) = roots_directory(directory) {
            examination.fail("files", error.to_string());
        }
    }
    if !examination.found.iter().any(|finding| finding.what == "files") {
        examination.ok("files", format!("{count} files and directories are there, with their owners and modes"));
    }
}

/// The real directories above a path, without the root.
fn above(path: &str) -> Vec<PathBuf> {
    let real = Path::new(path).parent().and_then(|parent| fs::canonicalize(parent).ok());
    real.iter().flat_map(|real| real.ancestors()).map(Path::to_owned).collect()
}

fn judge(item: &Item<'_>, remedy: &str) -> Result<(), String> {
    let path = item.path;
    let found = fs::symlink_metadata(path).map_err(|error| format!("{path}: {error}: {remedy}"))?;
    let (word, right) = match item.kind {
        Kind::File => ("file", found.is_file()),
        Kind::Directory => ("directory", found.is_dir()),
        Kind::Link => ("symbolic link", found.is_symlink()),
    };
    if !right {
        return Err(format!("{path}: must be a {word}: remove what is there, then {remedy}"));
    }
    if item.kind == Kind::Link {
        let leads = fs::read_link(path).map(|target| target.display().to_string());
        let right = leads.ok() == item.holds;
        return if right {
            Ok(())
        } else {
            Err(format!("{path}: leads elsewhere: `rm {path} && systemd-tmpfiles --create pi-gateway.conf`"))
        };
    }
    let (owner, group) = (item.owner, item.group);
    let uid = User::from_name(owner).ok().flatten().map(|user| user.uid.as_raw());
    let gid = Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(format!("{path}: there is no {owner}:{group}: `systemd-sysusers pi-gateway.conf`"));
    };
    let mode = found.mode() & 0o7777;
    if (found.uid(), found.gid(), mode) != (uid, gid, item.mode) {
        let (seen, wanted) =
            (format!("{}:{} {mode:04o}", found.uid(), found.gid()), format!("{owner}:{group} {:04o}", item.mode));
        return Err(format!(
            "{path}: is {seen}, must be {wanted}: `chown {owner}:{group} {path} && chmod {:04o} {path}`",
            item.mode
        ));
    }
    match &item.holds {
        Some(holds) if fs::read_to_string(path).ok().as_ref() != Some(holds) => {
            Err(format!("{path}: holds something else than it must: {TMPFILES_REMEDY}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn both_lists_are_read_whole() {
        let count = |text: &str| text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).count();
        assert_eq!((files().count(), made().count()), (count(FILES), count(TMPFILES)));
        assert!(files().any(|item| item.path == "/usr/bin/pi-gateway" && item.mode == 0o755));
        let hosts = made().find(|item| item.path.ends_with("etc/hosts")).unwrap();
        assert_eq!(hosts.holds.as_deref(), Some("127.0.0.1 localhost\n::1 localhost\n"));
        let link = made().find(|item| item.kind == Kind::Link).unwrap();
        assert_eq!(link.holds.as_deref(), Some("tmp"));
    }

    #[test]
    fn what_is_not_as_it_must_be_is_told_with_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file").display().to_string();
        let item = |kind, mode, holds: Option<&str>| Item {
            kind,
            path: Box::leak(path.clone().into_boxed_str()),
            owner: "root",
            group: "root",
            mode,
            holds: holds.map(str::to_owned),
        };
        assert!(judge(&item(Kind::File, 0o644, None), REINSTALL).unwrap_err().contains(REINSTALL));
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        judge(&item(Kind::File, 0o644, Some("text")), REINSTALL).unwrap();
        assert!(judge(&item(Kind::File, 0o600, None), REINSTALL).unwrap_err().contains(&format!("chmod 0600 {path}")));
        assert!(judge(&item(Kind::File, 0o644, Some("other")), REINSTALL).unwrap_err().contains("something else"));
        assert!(judge(&item(Kind::Directory, 0o644, None), REINSTALL).unwrap_err().contains("must be a directory"));
        fs::remove_file(&path).unwrap();
        symlink("tmp", &path).unwrap();
        judge(&item(Kind::Link, 0, Some("tmp")), REINSTALL).unwrap();
        assert!(judge(&item(Kind::Link, 0, Some("var/tmp")), REINSTALL).unwrap_err().contains("leads elsewhere"));
    }
}
