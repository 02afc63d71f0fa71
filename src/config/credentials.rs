//! Moves credentials that stand in the configuration file to where they belong. Run by the operator as root:
//! `pi-gateway move-credentials`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use super::syntax;
use super::variables::CREDENTIALS;
use crate::durable::{self, Access};

/// Where credentials belong.
pub const DIRECTORY: &str = "/etc/pi-gateway/credentials";

/// Moves what is misplaced in `file` to `directory`; gives the names. An existing credential is replaced, never by an
/// empty one. The configuration loses the lines only when everything has arrived.
///
/// # Errors
/// When a file cannot be read or written.
pub fn move_all(file: &Path, directory: &Path) -> io::Result<Vec<&'static str>> {
    let text = fs::read_to_string(file)?;
    let mut moved = Vec::new();
    let mut kept = String::new();
    for line in text.lines() {
        let variable = syntax::parse(line).ok().and_then(|mut one| one.pop());
        let credential = variable.and_then(|(name, value)| {
            let known = CREDENTIALS.iter().map(|(known, ..)| *known).find(|known| *known == name)?;
            (!value.is_empty()).then_some((known, value))
        });
        match credential {
            Some((name, value)) => {
                write_credential(directory, name, &value)?;
                moved.push(name);
            }
            None => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    if !moved.is_empty() {
        replace(file, &kept)?;
    }
    Ok(moved)
}

fn write_credential(directory: &Path, name: &str, value: &str) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    durable::write(&directory.join(name), value.as_bytes(), Access::PRIVATE)
}

/// Replaces the configuration file, which keeps its owner and mode.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let found = fs::metadata(path)?;
    let access = Access { mode: found.mode() & 0o7777, owner: Some((found.uid(), found.gid())) };
    durable::write(path, text.as_bytes(), access)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn credentials_move_whole_whatever_their_line_looks_like() {
        let dir = tempfile::tempdir().unwrap();
        let (file, directory) = (dir.path().join("gateway.env"), dir.path().join("credentials"));
        fs::write(&file, "A=1\n  OPENAI_API_KEY = no\n  OPENAI_API_KEY='sk-1 2'\n# c\nGITEA_SYNC_SERVICE_TOKEN=\n")
            .unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(move_all(&file, &directory).unwrap(), ["OPENAI_API_KEY"]);
        assert_eq!(fs::read_to_string(directory.join("OPENAI_API_KEY")).unwrap(), "sk-1 2");
        assert_eq!(fs::read_to_string(&file).unwrap(), "A=1\n  OPENAI_API_KEY = no\n# c\nGITEA_SYNC_SERVICE_TOKEN=\n");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::metadata(directory.join("OPENAI_API_KEY")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }
}
