//! A workspace beside a directory that is none of its user's, and what the tests ask of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use pi_gateway::worker::archive::{self, Source, Summary};
use pi_gateway::worker::message::{Failure, Format};
use pi_gateway::worker::relpath::RelPath;
use pi_gateway::worker::tree::Tree;
use tempfile::TempDir;

/// What the file outside holds; it must never be seen inside.
pub const SECRET: &[u8] = b"a secret of somebody else";

/// A workspace `inside`, and `outside/secret` beside it.
pub struct Place {
    directory: TempDir,
    pub tree: Tree,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(directory.path().join("inside")).unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        std::fs::write(directory.path().join("outside/secret"), SECRET).unwrap();
        let tree = Tree::open(&directory.path().join("inside")).unwrap();
        Place { directory, tree }
    }

    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("inside").join(path)
    }

    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("outside").join(path)
    }

    pub fn write(&self, path: impl AsRef<Path>, content: &[u8]) {
        std::fs::write(self.inside(path), content).unwrap();
    }

    /// Names outside, and what the secret holds.
    pub fn assert_outside_is_untouched(&self) {
        let names: Vec<_> =
            std::fs::read_dir(self.outside("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(std::fs::read(self.outside("secret")).unwrap(), SECRET);
    }

    /// The archive of the whole workspace.
    pub fn archive(&self, format: Format, git: bool) -> Result<(Vec<u8>, Summary), Failure> {
        let mut bytes = Vec::new();
        let source = Source::open(&self.tree, &path(""))?;
        archive::write(source, format, git, &mut bytes).map(|summary| (bytes, summary))
    }

    /// An archive in a file outside.
    pub fn archived(&self, format: Format) -> PathBuf {
        let at = self.directory.path().join(match format {
            Format::TarGz => "a.tar.gz",
            Format::TarZst => "a.tar.zst",
            Format::Zip => "a.zip",
        });
        std::fs::write(&at, self.archive(format, true).unwrap().0).unwrap();
        at
    }

    /// An empty directory beside the workspace.
    pub fn unpacked(&self, name: &str) -> PathBuf {
        let at = self.directory.path().join(name);
        std::fs::create_dir(&at).unwrap();
        at
    }
}

pub fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::parse(bytes.as_ref().to_vec()).unwrap()
}

/// Runs a program that must succeed; gives what it says.
pub fn run(program: &str, arguments: &[&std::ffi::OsStr], at: &Path) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(at).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output.stdout
}

/// The most memory that this process ever had, in bytes.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// As another user, on this thread alone: root is let in everywhere.
pub fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let act = || {
            nix::unistd::setfsgid(nix::unistd::Gid::from_raw(65_534));
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            assert!(
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534)).as_raw() == 65_534
                    || !nix::unistd::Uid::effective().is_root(),
            );
            act()
        };
        scope.spawn(act).join().unwrap()
    })
}
