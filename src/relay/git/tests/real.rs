//! git's own programs on both sides: `git` as the client, `http-backend` behind Gitea's rules of access as the server.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pi_gateway_gitea::repository::create;
use pi_gateway_gitea::server::{Gitea, serve};

use super::*;

/// A small Gitea with a repository of alice's and one of bob's, a relay that serves alice, and a place for clones.
struct World {
    bench: Bench,
    gitea: u16,
    root: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with_token(TOKEN)
    }

    /// A world whose Gitea knows the account by this token.
    fn with_token(token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("gitea");
        for owner in ["alice", "bob"] {
            create(&root, owner, "workspace", &[(ACCOUNT, "write")]).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&log);
        let accounts = vec![(ACCOUNT.to_owned(), token.to_owned())];
        let gitea = Gitea::new(root.clone(), accounts, move |line| lines.lock().unwrap().push(line.to_owned()));
        std::thread::spawn(move || serve(listener, gitea));
        let waits = Waits { relay: limits::Waits { head: LONG, ..waits().relay }, body_idle: LONG, ..waits() };
        let bench = Bench::with(&format!("http://127.0.0.1:{port}"), waits, 256 << 20);
        Self { bench, gitea: port, root, log, dir }
    }

    fn relayed(&self, owner: &str) -> String {
        format!("http://127.0.0.1:{}/{owner}/workspace.git", self.bench.port)
    }

    fn direct(&self, owner: &str) -> String {
        format!("http://{ACCOUNT}:{TOKEN}@127.0.0.1:{}/{owner}/workspace.git", self.gitea)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a ref of the repository on the server is.
    fn at(&self, owner: &str, name: &str) -> String {
        let path = self.root.join(owner).join("workspace.git");
        let output = run(&path, &["rev-parse", "--quiet", "--verify", name]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A clone with one commit, pushed.
    fn clone_with_a_commit(&self, name: &str, url: &str) -> PathBuf {
        let path = self.path(name);
        git(self.dir.path(), &["clone", "--quiet", url, name]);
        commit(&path, "a.txt", "one");
        git(&path, &["push", "--quiet", "origin", "HEAD:main"]);
        path
    }
}

/// Runs git with no configuration but its own, and without asking anybody anything.
fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CURL_VERBOSE", "1")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "a")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "a@localhost")))
        .args(["-c", "init.defaultBranch=main", "-c", "safe.directory=*", "-c", "advice.detachedHead=false"])
        .args(arguments);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What git says when it does not succeed.
fn fails(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    assert!(!output.status.success(), "git {arguments:?} succeeded: {}", text(&output));
    text(&output)
}

fn commit(path: &Path, file: &str, content: &str) {
    std::fs::write(path.join(file), content).unwrap();
    git(path, &["add", "."]);
    git(path, &["commit", "--quiet", "-m", content]);
}

#[test]
fn a_repository_is_cloned_pushed_and_fetched_in_every_version_of_the_protocol() {
    let world = World::new();
    let url = world.relayed("alice");
    for version in ["0", "1", "2"] {
        let with = format!("protocol.version={version}");
        let name = format!("clone{version}");
        git(world.dir.path(), &["-c", &with, "clone", "--quiet", &url, &name]);
        let path = world.path(&name);
        commit(&path, &format!("{name}.txt"), &name);
        git(&path, &["-c", &with, "push", "--quiet", "origin", "HEAD:main"]);
        assert_eq!(world.at("alice", "refs/heads/main"), git(&path, &["rev-parse", "HEAD"]));
        git(&path, &["-c", &with, "push", "--quiet", "--atomic", "origin", "HEAD:side/a", "HEAD:side/b"]);
    }
    let first = world.path("clone0");
    git(&first, &["fetch", "--quiet", "origin"]);
    assert_eq!(git(&first, &["rev-parse", "origin/main"]), world.at("alice", "refs/heads/main"));
    assert_eq!(git(&first, &["rev-parse", "origin/side/b"]), world.at("alice", "refs/heads/side/b"));
    // The other side was asked by the account only, and the client was never asked for one.
    let log = world.log.lock().unwrap();
    assert!(!log.is_empty() && log.iter().all(|line| line.ends_with(&format!(" {ACCOUNT} 200"))), "{log:?}");
    let lines = world.bench.log(log.len());
    assert!(
        lines.iter().all(|line| line["user"] == "alice" && line["status"] == 200 && line["code"] == ""),
        "{lines:?}"
    );
}

#[test]
fn a_large_push_comes_in_chunks_and_a_fetch_that_compares_much_is_compressed() {
    let world = World::new();
    let path = world.clone_with_a_commit("large", &world.relayed("alice"));
    // Twenty mebibytes that nothing makes smaller, by a generator with the same numbers each time.
    let mut state = 1u64;
    let noise: Vec<u8> = (0..20 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect();
    std::fs::write(path.join("noise"), noise).unwrap();
    git(&path, &["add", "."]);
    git(&path, &["commit", "--quiet", "-m", "noise"]);
    let pushed = run(&path, &["push", "origin", "HEAD:main"]);
    let told = text(&pushed);
    assert!(pushed.status.success() && told.contains("Transfer-Encoding: chunked"), "{told}");
    assert_eq!(world.at("alice", "refs/heads/main"), git(&path, &["rev-parse", "HEAD"]));
    git(&world.root.join("alice/workspace.git"), &["fsck", "--no-progress"]);
    // Somebody else adds a commit, and this clone has two hundred that the server does not know.
    git(world.dir.path(), &["clone", "--quiet", &world.direct("alice"), "other"]);
    commit(&world.path("other"), "b.txt", "two");
    git(&world.path("other"), &["push", "--quiet", "origin", "HEAD:main"]);
    for number in 0..200 {
        git(&path, &["commit", "--quiet", "--allow-empty", "-m", &number.to_string()]);
    }
    let fetched = run(&path, &["fetch", "origin"]);
    let told = text(&fetched);
    assert!(fetched.status.success() && told.contains("Content-Encoding: gzip"), "{told}");
    assert_eq!(git(&path, &["rev-parse", "origin/main"]), world.at("alice", "refs/heads/main"));
}

#[test]
fn what_a_push_may_not_do_works_without_the_relay_and_not_with_it() {
    let world = World::new();
    let path = world.clone_with_a_commit("refs", &world.relayed("alice"));
    git(&path, &["tag", "v1"]);
    git(&path, &["tag", "-a", "v2", "-m", "two"]);
    git(&path, &["notes", "add", "-m", "note"]);
    git(&path, &["push", "--quiet", "origin", "HEAD:doomed", "HEAD:doomed2"]);
    let receive = world.root.join("alice/workspace.git");
    git(&receive, &["config", "receive.advertisePushOptions", "true"]);
    for (refs, changed) in [
        (&["origin", ":doomed"][..], "refs/heads/doomed"),
        (&["origin", "--delete", "doomed2"][..], "refs/heads/doomed2"),
        (&["origin", "v1"][..], "refs/tags/v1"),
        (&["origin", "--tags"][..], "refs/tags/v2"),
        (&["origin", "refs/notes/commits"][..], "refs/notes/commits"),
        (&["origin", "HEAD:refs/for/main"][..], "refs/for/main"),
        (&["origin", "HEAD:refs/meta/config", "HEAD:fine"][..], "refs/meta/config"),
        (&["origin", "--push-option=ci.skip", "HEAD:optional"][..], "refs/heads/optional"),
    ] {
        let before = world.at("alice", changed);
        let requests = world.log.lock().unwrap().iter().filter(|line| line.starts_with("POST")).count();
        let told = fails(&path, &[&["push"], refs].concat());
        assert!(told.contains("403"), "{refs:?}: {told}");
        assert_eq!(world.at("alice", changed), before, "{refs:?}");
        assert_eq!(world.log.lock().unwrap().iter().filter(|line| line.starts_with("POST")).count(), requests);
        let url = world.direct("alice");
        let without: Vec<&str> = refs.iter().map(|word| if *word == "origin" { url.as_str() } else { *word }).collect();
        git(&path, &[&["push"], without.as_slice()].concat());
        assert_ne!(world.at("alice", changed), before, "{refs:?}: works without the relay");
    }
    assert_eq!(world.at("alice", "refs/heads/fine"), git(&path, &["rev-parse", "HEAD"]), "it was the other ref");
}

#[test]
fn another_users_repository_is_there_without_the_relay_and_not_with_it() {
    let world = World::new();
    world.clone_with_a_commit("bobs", &world.direct("bob"));
    let before = world.log.lock().unwrap().len();
    for owner in ["bob", "../bob", "alice/../bob", "%62ob", "Bob", "/bob"] {
        let told = fails(world.dir.path(), &["ls-remote", &world.relayed(owner)]);
        assert!(told.contains("not found") || told.contains("404"), "{owner}: {told}");
    }
    assert_eq!(world.log.lock().unwrap().len(), before, "nothing was asked upstream");
    assert!(git(world.dir.path(), &["ls-remote", &world.direct("bob")]).contains("refs/heads/main"));
}

#[test]
fn what_gitea_refuses_comes_back_as_what_it_is() {
    let world = World::new();
    let path = world.clone_with_a_commit("refused", &world.relayed("alice"));
    let repository = world.root.join("alice/workspace.git");
    let status_of = |arguments: &[&str]| fails(&path, arguments);
    commit(&path, "c.txt", "three");
    let push = ["push", "origin", "HEAD:main"];
    // Who may only read is refused by the hook, in words that come back on git's side band.
    std::fs::write(repository.join("access"), format!("{ACCOUNT} read\n")).unwrap();
    let told = status_of(&push);
    assert!(told.contains("permission denied for writing") && told.contains("pre-receive hook declined"), "{told}");
    git(&path, &["fetch", "--quiet"]);
    std::fs::write(repository.join("access"), format!("{ACCOUNT} write\n")).unwrap();
    std::fs::write(repository.join("archived"), "").unwrap();
    assert!(status_of(&push).contains("403"));
    std::fs::remove_file(repository.join("archived")).unwrap();
    std::fs::write(repository.join("access"), "").unwrap();
    assert!(status_of(&["fetch"]).contains("404"));
    std::fs::rename(&repository, world.root.join("gone")).unwrap();
    assert!(status_of(&["fetch"]).contains("404"));
    assert!(status_of(&push).contains("403"), "push-to-create is off");
    std::fs::rename(world.root.join("gone"), &repository).unwrap();
    std::fs::write(repository.join("access"), format!("{ACCOUNT} write\n")).unwrap();
    for (fault, expected) in
        [("status 503", "503"), ("status 413", "413"), ("redirect 302 http://127.0.0.1:9/", "502"), ("cut", "")]
    {
        std::fs::write(world.root.join("fault"), fault).unwrap();
        let told = status_of(&push);
        assert!(told.contains(expected), "{fault}: {told}");
    }
    std::fs::remove_file(world.root.join("fault")).unwrap();
    git(&path, &push);
    assert_eq!(world.at("alice", "refs/heads/main"), git(&path, &["rev-parse", "HEAD"]));

    let world = World::with_token("another-token");
    let told = fails(world.dir.path(), &["ls-remote", &world.relayed("alice")]);
    assert!(told.contains("401"), "{told}");
    assert_eq!(world.log.lock().unwrap().len(), 1);
}

#[test]
fn a_redirect_takes_plain_git_elsewhere_and_not_the_relay() {
    let world = World::new();
    let trap = Fake::start(Mode::Answer(ok("upload-pack-advertisement", "0000")));
    let place = format!("{}/alice/workspace.git/info/refs?service=git-upload-pack", trap.base());
    std::fs::write(world.root.join("fault"), format!("redirect 302 {place}")).unwrap();
    fails(world.dir.path(), &["ls-remote", &world.relayed("alice")]);
    assert_eq!(trap.connections(), 0);
    run(world.dir.path(), &["ls-remote", &world.direct("alice")]);
    assert!(trap.connections() > 0, "git itself follows");
}
