//! What the launcher and the relays may know of the configuration: a file each, written by root before they start, with
//! the values of exactly the variables whose readers they are. No secret has such a reader.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::values::Values;
use super::variables::{self, Reader};

/// The files and their readers.
const FILES: [(&str, Reader); 2] = [("launcher.env", Reader::Launcher), ("relay-model.env", Reader::ModelRelay)];

/// The text of a reader's file.
pub fn text(values: &Values, reader: Reader) -> String {
    variables::all()
        .filter(|variable| variable.readers.contains(&reader))
        .map(|variable| format!("{}={}\n", variable.name, values.get(variable.name)))
        .collect()
}

/// Writes the files into `directory`, each whole or not at all. One that says the same is left alone: its age tells
/// whether a relay has read it.
///
/// # Errors
/// When the disk refuses.
pub fn write(values: &Values, directory: &Path) -> io::Result<()> {
    for (name, reader) in FILES {
        let (path, text) = (directory.join(name), text(values, reader));
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            continue;
        }
        let temporary = directory.join(format!(".{name}.new"));
        let mut file = File::create(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &str = "q3VtN0m1c2ZLw8Jx5RbYtPzKdHfGsAeUiOp";

    fn values(more: &str) -> Values {
        Values::check(&format!("JWT_SHARED_SECRET={SECRET}\n{more}")).ok().unwrap().0
    }

    #[test]
    fn no_reader_but_the_front_gets_the_secret_and_the_launcher_takes_its_file() {
        for reader in [Reader::Launcher, Reader::ModelRelay, Reader::GitRelay, Reader::EgressRelay, Reader::Worker] {
            assert!(!text(&values(""), reader).contains(SECRET), "{reader:?}");
        }
        let launcher = text(&values("SANDBOX_MEMORY_MAX=512M\n"), Reader::Launcher);
        let settings = pi_gateway_helper::settings::Settings::new(&launcher).unwrap();
        assert_eq!(settings.get("SANDBOX_MEMORY_MAX"), "512M");
    }

    #[test]
    fn a_file_is_written_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        write(&values(""), dir.path()).unwrap();
        let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.path().join(name)).unwrap());
        let before = (inode("launcher.env"), inode("relay-model.env"));
        write(&values("RUN_CANCEL_GRACE_MS=6000\n"), dir.path()).unwrap();
        assert_ne!(before.0, inode("launcher.env"));
        assert_eq!(before.1, inode("relay-model.env"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
