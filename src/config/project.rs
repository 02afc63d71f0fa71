//! What the launcher and the relays may know of the configuration: the values of exactly the variables whose readers they
//! are. Each relay has a file, written by root before it starts; the launcher, which has them written, is told. No secret
//! has such a reader.

use std::fs;
use std::io;
use std::path::Path;

use super::values::Values;
use super::variables::{self, Reader};
use crate::durable::{self, Access};

/// The files and their readers.
const FILES: [(&str, Reader); 3] = [
    ("relay-model.env", Reader::ModelRelay),
    ("relay-git.env", Reader::GitRelay),
    ("relay-egress.env", Reader::EgressRelay),
];

/// What a reader may know, a line `NAME=VALUE` each.
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
        durable::write(&path, text.as_bytes(), Access { mode: 0o644, owner: None })?;
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
    fn no_reader_but_the_front_gets_the_secret_and_the_launcher_takes_what_it_is_told() {
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
        let before = (inode("relay-egress.env"), inode("relay-model.env"));
        write(&values("SANDBOX_INTERNET_ALLOW=example.org\n"), dir.path()).unwrap();
        assert_ne!(before.0, inode("relay-egress.env"));
        assert_eq!(before.1, inode("relay-model.env"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), FILES.len());
    }
}
