//! A workspace, a remote, and git beside them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use pi_gateway::worker::git::message::{Committed, Failure, Reason, Settings, Synced};
use pi_gateway::worker::git::{repository, sync};
use pi_gateway::worker::tree::Tree;
use pi_gateway_gitea::server::{Gitea, serve};
use tempfile::TempDir;

/// A workspace `inside`, a directory `outside` that is none of its user's, and repositories of a Gitea.
pub struct Place {
    pub directory: TempDir,
    pub tree: Tree,
    pub settings: Settings,
    jobs: AtomicU32,
}

/// What is in the file `outside/secret`.
pub const SECRET: &str = "a secret of somebody else";

impl Place {
    /// Without a remote.
    pub fn new() -> Self {
        static ISOLATED: Once = Once::new();
        ISOLATED.call_once(|| repository::isolate().unwrap());
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["inside", "outside", "scratch", "gitea"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("outside/secret"), SECRET).unwrap();
        let tree = Tree::open(&directory.path().join("inside")).unwrap();
        let settings = Settings {
            init: true,
            branch: "main".to_owned(),
            initial_message: "Initial commit".to_owned(),
            author: "pi-gateway".to_owned(),
            email: "pi-gateway@localhost".to_owned(),
            quota: u64::MAX,
            remote: None,
        };
        Place { directory, tree, settings, jobs: AtomicU32::new(0) }
    }

    /// With an empty repository at a Gitea.
    pub fn with_remote() -> Self {
        let mut place = Self::new();
        let root = place.directory.path().join("gitea");
        pi_gateway_gitea::repository::create(&root, "alice", "workspace", &[("sync-bot", "write")]).unwrap();
        let gitea = Gitea::new(root, vec![("sync-bot".to_owned(), "token".to_owned())], |_| {});
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(listener, gitea));
        place.settings.remote = Some(format!("http://sync-bot:token@{address}/alice/workspace.git"));
        place
    }

    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("inside").join(path)
    }

    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("outside").join(path)
    }

    /// The repository at the Gitea.
    pub fn bare(&self) -> PathBuf {
        self.directory.path().join("gitea/alice/workspace.git")
    }

    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.inside(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn read(&self, path: impl AsRef<Path>) -> String {
        std::fs::read_to_string(self.inside(path)).unwrap()
    }

    fn scratch(&self) -> PathBuf {
        let job = self.jobs.fetch_add(1, Ordering::Relaxed);
        self.directory.path().join(format!("scratch/{job}"))
    }

    pub fn prepare(&self) -> Committed {
        sync::prepare(&self.tree, &self.settings, &self.scratch()).unwrap()
    }

    pub fn commit(&self, message: &str) -> Committed {
        sync::commit(&self.tree, &self.settings, message, &self.scratch()).unwrap().unwrap().1
    }

    pub fn sync(&self) -> Result<Synced, Failure> {
        sync::sync(&self.tree, &self.settings, "outside of runs\n", &self.scratch())
    }

    pub fn compare(&self) -> pi_gateway::worker::git::message::Compared {
        sync::compare(&self.tree, &self.settings, &self.scratch()).unwrap()
    }

    /// git in the workspace, as the agent has it.
    pub fn git(&self, arguments: &str) -> String {
        git(&self.inside(""), arguments)
    }

    /// Pretends that somebody else works at the remote: the commands run in a clone, then everything is pushed.
    pub fn elsewhere(&self, commands: &str) {
        let clone = self.directory.path().join("elsewhere");
        if !clone.exists() {
            let cloned = Command::new("git").args(["clone", "-q"]).arg(self.bare()).arg(&clone).status().unwrap();
            assert!(cloned.success());
        }
        sh(
            &clone,
            &format!(
                "git pull -q --ff-only 2>/dev/null; {commands}; git add -A; git commit -qm elsewhere; git push -q origin HEAD"
            ),
        );
    }

    /// Everything that any ref of the remote holds, as one text.
    pub fn everything_at_the_remote(&self) -> String {
        sh(
            &self.bare(),
            "git rev-list --objects --all | cut -d' ' -f1 | git cat-file --batch | strings; git for-each-ref",
        )
    }

    /// The files of the last commit.
    pub fn files(&self) -> Vec<String> {
        self.git("ls-tree -r --name-only HEAD").lines().map(str::to_owned).collect()
    }
}

/// Why each path was left out.
pub fn reasons(committed: &Committed) -> Vec<(String, Reason)> {
    let mut all: Vec<_> = committed
        .skipped
        .named
        .iter()
        .map(|skip| (String::from_utf8_lossy(&skip.path).into_owned(), skip.reason))
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

pub fn git(directory: &Path, arguments: &str) -> String {
    sh(directory, &format!("git {arguments}"))
}

/// A shell with nothing of this machine's git configuration; fails with what it printed.
pub fn sh(directory: &Path, commands: &str) -> String {
    let (ok, told) = try_sh(directory, commands);
    assert!(ok, "{commands}\n{told}");
    told
}

pub fn try_sh(directory: &Path, commands: &str) -> (bool, String) {
    let output = Command::new("sh")
        .args(["-c", commands])
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        // What the Gitea's hook asks for.
        .env("TEST_ACCESS", "write")
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b"), ("GIT_COMMITTER_NAME", "a")])
        .env("GIT_COMMITTER_EMAIL", "a@b")
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&told).trim().to_owned())
}
