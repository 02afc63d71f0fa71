//! Whose the users' directories are. A registry that was lost or restored without them would give one user's directory
//! to another, so `pi-gateway check`, which the launcher asks at each of its starts, and `pi-gateway doctor` compare.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pi_gateway_helper::files::roots_directory;
use pi_gateway_helper::names::User;
use pi_gateway_helper::uids::{RANGE, REGISTRY, RESTORE};

/// How much of the registry is read, in bytes: a line has 52 at most.
const MAX_REGISTRY: u64 = RANGE as u64 * 52;

/// Whether every directory in `parent` belongs to the uid that the registry has for its name. One of root's is one whose
/// making was interrupted.
///
/// # Errors
/// The first that does not, or that `parent` is not root's alone, with the remedy.
pub fn judge(parent: &Path) -> Result<(), String> {
    judge_by(Path::new(REGISTRY), parent)
}

/// Who has which uid, in the order in which they got it; nobody without a registry.
///
/// # Errors
/// When it cannot be read.
pub fn registry(path: &Path) -> io::Result<Vec<(User, u32)>> {
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?.take(MAX_REGISTRY).read_to_string(&mut text)?,
    };
    // What has no end was never acted on.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.filter_map(|(uid, name)| Some((User::parse(name).ok()?, uid.parse().ok()?))).collect())
}

fn judge_by(registry: &Path, parent: &Path) -> Result<(), String> {
    let shown = parent.display();
    let told = |error: std::io::Error| format!("{shown}: {error}");
    roots_directory(parent).map_err(|error| error.to_string())?;
    let known = self::registry(registry).map_err(told)?;
    let uids: HashMap<&str, u32> = known.iter().map(|(user, uid)| (user.as_str(), *uid)).collect();
    for entry in fs::read_dir(parent).map_err(told)? {
        let entry = entry.map_err(told)?;
        let owner = entry.metadata().map_err(told)?.uid();
        let known = entry.file_name().to_str().and_then(|name| uids.get(name)).copied();
        if known != Some(owner) && !(owner == 0 && known.is_some()) {
            let wanted = known.map_or("no user of the registry".to_owned(), |uid| format!("uid {uid}"));
            let path = entry.path();
            return Err(format!("{} belongs to uid {owner}, by {REGISTRY} to {wanted}; {RESTORE}", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, chown};

    use pi_gateway_helper::uids::Registry;

    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uids");
        let parent = dir.path().join("workspaces");
        fs::create_dir_all(parent.join("alice")).unwrap();
        fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).unwrap();
        let told = || judge_by(&path, &parent);
        assert!(told().unwrap_err().contains("no user of the registry"), "there is no registry");
        let uid = Registry::open(&path).unwrap().assign(&User::parse("alice").unwrap()).unwrap();
        told().unwrap();
        chown(parent.join("alice"), Some(uid), Some(uid)).unwrap();
        told().unwrap();
        chown(parent.join("alice"), Some(uid + 1), None).unwrap();
        assert!(told().unwrap_err().contains(&format!("to uid {uid}")), "another uid owns alice's directory");
        fs::write(&path, format!("{uid} alice")).unwrap();
        assert!(told().is_err(), "a line without its end");
        fs::set_permissions(&parent, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(told().unwrap_err().contains("only root may write"));
    }
}
