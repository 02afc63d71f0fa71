//! What the operator's commands have done once, as the user, in his worker's sandbox without the front's socket: no other
//! program follows a path in his tree. `measure` tells what workspace and session take, `pack` writes both as a tar.zst to
//! standard output, `empty` removes everything in them. What there is to tell is one line of JSON on standard error for
//! `pack`, on standard output for the others; a failure is status 1 and a line that says at what.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::message::{Failure, Format};
use super::relpath::RelPath;
use super::tree::Tree;
use super::{archive, trash, usage};

/// What one tree takes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories and others.
    pub inodes: u64,
}

/// What `measure` tells; None for what cannot be counted: a directory that the agent has closed hides what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The workspace.
    pub workspace: Option<Taken>,
    /// The session, and those that were set aside.
    pub session: Option<Taken>,
}

/// What `pack` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Files, directories and links that are in it.
    pub entries: u64,
    /// What is not, and is named in it.
    pub left_out: u64,
}

/// How long `empty` may take with one tree; its unit's own limit ends it before.
const EMPTYING: Duration = Duration::from_secs(24 * 3600);

/// The trees, with the names that they have in an archive.
const TREES: [(&str, &str); 2] = [("/workspace", "workspace"), ("/session", "session")];

fn told(what: &str) -> impl FnOnce(Failure) -> io::Error {
    move |failure| io::Error::other(format!("{what}: {failure:?}"))
}

fn open(path: &str) -> io::Result<Tree> {
    Tree::open(Path::new(path)).map_err(told(path))
}

fn line(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    to.write_all(&serde_json::to_vec(what)?)?;
    to.write_all(b"\n")?;
    to.flush()
}

/// Tells what both trees take.
///
/// # Errors
/// When they are not there.
pub fn measure() -> io::Result<()> {
    let [workspace, session] = TREES.map(|(path, _)| {
        let found = usage::measure(&open(path)?).ok();
        Ok::<_, io::Error>(found.map(|usage| Taken { bytes: usage.bytes, inodes: usage.inodes }))
    });
    line(&mut io::stdout(), &Measured { workspace: workspace?, session: session? })
}

/// Writes both as one archive.
///
/// # Errors
/// When it is not whole.
pub fn pack() -> io::Result<()> {
    let mut sources = Vec::new();
    for (path, name) in TREES {
        let directory = open(path)?.directory(&RelPath::parse(Vec::new()).map_err(told(path))?).map_err(told(path))?;
        sources.push(archive::Source::Directory(directory, name.into()));
    }
    let packed = archive::write_all(sources, Format::TarZst, true, &mut io::stdout()).map_err(told("packing"))?;
    line(&mut io::stderr(), &Packed { entries: packed.entries, left_out: packed.skipped })
}

/// Removes everything in both.
///
/// # Errors
/// When something cannot be removed.
pub fn empty() -> io::Result<()> {
    for (path, _) in TREES {
        trash::clear(&open(path)?, Instant::now() + EMPTYING).map_err(told(path))?;
    }
    line(&mut io::stdout(), &"empty")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn everything_in_a_tree_goes_and_what_a_link_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, root) = (dir.path().join("outside"), dir.path().join("workspace"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        fs::create_dir_all(root.join("a/b/c/.pi-gateway-own")).unwrap();
        fs::create_dir_all(root.join(".pi-gateway-own/d")).unwrap();
        for name in ["a/b/c/f", "a/f", ".git", ".pi-gateway-own/d/f"] {
            fs::write(root.join(name), "x").unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        nix::unistd::mkfifo(&root.join("a/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o500)).unwrap();
        let tree = Tree::open(&root).unwrap();
        trash::clear(&tree, Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "x");
    }

    #[test]
    fn two_trees_are_one_archive_each_below_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut sources = Vec::new();
        for name in ["workspace", "session"] {
            fs::create_dir_all(dir.path().join(name).join(".git")).unwrap();
            fs::write(dir.path().join(name).join("f"), name).unwrap();
            let tree = Tree::open(&dir.path().join(name)).unwrap();
            let directory = tree.directory(&RelPath::parse(Vec::new()).unwrap()).unwrap();
            sources.push(archive::Source::Directory(directory, name.into()));
        }
        let mut bytes = Vec::new();
        let packed = archive::write_all(sources, Format::TarZst, true, &mut bytes).unwrap();
        assert_eq!((packed.entries, packed.skipped), (4, 0));
        let mut archive = tar::Archive::new(zstd::Decoder::new(bytes.as_slice()).unwrap());
        let mut names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        names.sort();
        assert_eq!(names, ["session/.git/", "session/f", "workspace/.git/", "workspace/f"]);
    }
}
