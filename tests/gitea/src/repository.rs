//! Repositories, and who may do what with them: a line `<account> read|write` each in the file `access`; the owner may
//! write. A file `archived` forbids every push.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// It does not even see the repository.
    None,
    /// Fetch.
    Read,
    /// Fetch and push.
    Write,
}

/// Gitea's own hook has the last word on who may write.
const HOOK: &str = "#!/bin/sh\n[ \"$TEST_ACCESS\" = write ] && exit 0\n\
                    echo 'Gitea: User permission denied for writing.' >&2\nexit 1\n";

/// Makes an empty repository whose branch is `main`, with a line of `access` for each account beside the owner.
///
/// # Errors
/// git or the disk refuses.
pub fn create(root: &Path, owner: &str, name: &str, access: &[(&str, &str)]) -> io::Result<PathBuf> {
    let path = root.join(owner).join(format!("{name}.git"));
    std::fs::create_dir_all(&path)?;
    let made = Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&path).status()?;
    if !made.success() {
        return Err(io::Error::other(format!("git init {}: {made}", path.display())));
    }
    let lines: String = access.iter().map(|(account, right)| format!("{account} {right}\n")).collect();
    std::fs::write(path.join("access"), lines)?;
    let hook = path.join("hooks/pre-receive");
    std::fs::create_dir_all(path.join("hooks"))?;
    std::fs::write(&hook, HOOK)?;
    std::fs::set_permissions(&hook, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// What `account` may do with the repository at `path`.
#[must_use]
pub fn access(path: &Path, owner: &str, account: &str) -> Access {
    if account == owner {
        return Access::Write;
    }
    let text = std::fs::read_to_string(path.join("access")).unwrap_or_default();
    let right = text.lines().find_map(|line| line.strip_prefix(account)?.strip_prefix(' '));
    match right {
        Some("write") => Access::Write,
        Some("read") => Access::Read,
        _ => Access::None,
    }
}
