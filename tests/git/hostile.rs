//! Workspaces made to turn whoever commits them against others. Each attack is shown to work on git itself first.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use pi_gateway::worker::git::message::{Pushed, Reason};

use crate::support::{Place, SECRET, git, reasons, sh, try_sh};

/// A workspace in step with its remote, a file in it, and a repository of somebody else's outside with a secret in it.
fn place() -> Place {
    let place = Place::with_remote();
    place.prepare();
    place.write("innocent", "content of the user");
    assert!(matches!(place.sync().unwrap().pushed, Pushed::All(_)));
    let outside = place.outside("");
    sh(&outside, "git init -q -b main other; cp secret other/; git -C other add -A; git -C other commit -qm secret");
    place
}

/// Commits and pushes, and holds that the rest of the tree arrives, and nothing from outside.
fn holds(place: &Place, what: &str) {
    place.write("after", format!("written after {what}"));
    let synced = place.sync().unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
    assert!(matches!(synced.pushed, Pushed::All(_)), "{what}: {synced:?}");
    assert_eq!(git(&place.bare(), "show main:after"), format!("written after {what}"), "{what}");
    assert_eq!(git(&place.bare(), "show main:innocent"), "content of the user", "{what}");
    assert!(!place.everything_at_the_remote().contains(SECRET), "{what}: the secret is at the remote");
    assert_eq!(git(&place.bare(), "fsck --strict"), "", "{what}");
    outside_is_untouched(place, what);
    assert_eq!(place.git("status --porcelain"), "", "{what}: git in the sandbox works again");
}

fn outside_is_untouched(place: &Place, what: &str) {
    let mut names: Vec<_> = std::fs::read_dir(place.outside(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["other", "secret"], "{what}");
    assert_eq!(git(&place.outside("other"), "log --format=%s"), "secret", "{what}");
    assert_eq!(git(&place.outside("other"), "status --porcelain"), "", "{what}");
}

/// Whether git itself is still at it after a while.
fn hangs(directory: &Path, command: &str) -> bool {
    try_sh(directory, &format!("timeout -k 1 2 {command}; test $? = 124")).0
}

#[test]
fn settings_of_the_repository_lead_nobody_elsewhere() {
    let place = place();
    let (url, evil) = (place.settings.remote.clone().unwrap(), place.outside("evil.git"));
    let mark = place.outside("mark");
    for setting in ["insteadOf", "pushInsteadOf"] {
        sh(&place.outside(""), "git init -q --bare -b main evil.git");
        place.git(&format!("config url.{}.{setting} {url}", evil.display()));
        place.git(&format!("push -q {url} HEAD:main"));
        assert_eq!(git(&evil, "show main:innocent"), "content of the user", "git itself follows {setting}");
        std::fs::remove_dir_all(&evil).unwrap();
        holds(&place, setting);
        std::fs::write(place.inside(".git/config"), "[core]\n\trepositoryformatversion = 0\n").unwrap();
    }
    place.git("config http.proxy http://127.0.0.1:9");
    assert!(!try_sh(&place.inside(""), &format!("git ls-remote {url}")).0, "git itself asks the proxy");
    holds(&place, "a proxy");
    place.git("config --unset http.proxy");
    // Whatever runs a program.
    let program = place.inside("program");
    std::fs::write(&program, format!("#!/bin/sh\ntouch {}\ncat\n", mark.display())).unwrap();
    sh(&place.inside(""), "chmod +x program; git add program; git commit -qm program");
    for (what, plant) in [
        (
            "a hook",
            "mkdir -p .git/hooks; cp program .git/hooks/pre-commit; cp program .git/hooks/post-index-change; cp program .git/hooks/reference-transaction; cp program .git/hooks/pre-push",
        ),
        ("a file system monitor", "git config core.fsmonitor $PWD/program"),
        (
            "a filter",
            "git config filter.x.clean $PWD/program; git config filter.x.smudge $PWD/program; mkdir -p .git/info; echo '* filter=x' >.git/info/attributes",
        ),
        (
            "an included file",
            "printf '[core]\\n\\tfsmonitor = %s\\n' $PWD/program >inner; git config include.path $PWD/inner",
        ),
        (
            "a credential helper",
            "git config credential.helper $PWD/program; git config core.askPass $PWD/program; git config core.sshCommand $PWD/program; git config core.fsmonitor $PWD/program",
        ),
    ] {
        sh(&place.inside(""), plant);
        place.write("touched", what);
        let _ = try_sh(&place.inside(""), "git add -A && git commit -qm control");
        assert!(mark.exists(), "git itself runs {what}");
        std::fs::remove_file(&mark).unwrap();
        place.write("touched", format!("again {what}"));
        let synced = place.sync().unwrap();
        assert!(matches!(synced.pushed, Pushed::All(_)), "{what}: {synced:?}");
        assert!(!mark.exists(), "{what} was run");
        assert_eq!(git(&place.bare(), "show main:touched"), format!("again {what}"));
        sh(
            &place.inside(""),
            "rm -rf .git/hooks .git/info/attributes; printf '[core]\\n\\trepositoryformatversion = 0\\n' >.git/config",
        );
    }
}

#[test]
fn another_working_tree_or_common_directory_is_not_believed() {
    let place = place();
    place.git(&format!("config core.worktree {}", place.outside("other").display()));
    assert!(
        place.git("ls-files --others").contains("secret") || place.git("status --porcelain").contains("secret"),
        "git itself looks there"
    );
    holds_after(&place, "core.worktree", || {
        sh(&place.inside(""), "printf '[core]\\n\\trepositoryformatversion = 0\\n' >.git/config")
    });
    std::fs::write(place.inside(".git/commondir"), place.outside("other/.git").as_os_str().as_encoded_bytes()).unwrap();
    assert!(place.git("log --all --format=%s").contains("secret"), "git itself reads those refs");
    holds_after(&place, "commondir", || sh(&place.inside(""), "rm .git/commondir"));
}

/// Like [`holds`], where git in the sandbox works only once the plant is gone.
fn holds_after(place: &Place, what: &str, clean: impl Fn() -> String) {
    place.write("after", format!("written after {what}"));
    let synced = place.sync().unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
    assert!(matches!(synced.pushed, Pushed::All(_)), "{what}: {synced:?}");
    clean();
    holds(place, what);
}

#[test]
fn a_repository_that_is_elsewhere_is_set_aside_and_the_tree_is_committed() {
    let other = |place: &Place| place.outside("other/.git").display().to_string();
    type Plant = fn(&Place, &str);
    let plants: [(&str, Plant); 8] = [
        ("a gitdir file", |place, other| {
            sh(&place.inside(""), &format!("mv .git was; echo 'gitdir: {other}' >.git; rm -rf was"));
        }),
        ("a link to a repository", |place, other| {
            sh(&place.inside(""), &format!("rm -rf .git; ln -s {other} .git"));
        }),
        ("alternates", |place, other| {
            sh(
                &place.inside(""),
                &format!(
                    "mkdir -p .git/objects/info; echo {other}/objects >.git/objects/info/alternates; cat {other}/refs/heads/main >.git/refs/heads/stolen"
                ),
            );
        }),
        ("linked objects", |place, other| {
            sh(
                &place.inside(""),
                &format!(
                    "rm -rf .git/objects; ln -s {other}/objects .git/objects; cat {other}/refs/heads/main >.git/refs/heads/stolen"
                ),
            );
        }),
        ("linked refs", |place, other| {
            sh(
                &place.inside(""),
                &format!(
                    "rm -rf .git/refs; ln -s {other}/refs .git/refs; cp -r {other}/objects/* .git/objects/ 2>/dev/null; rm -rf .git/objects/info; mkdir -p .git/objects/info; echo {other}/objects >.git/objects/info/alternates"
                ),
            );
        }),
        ("a linked HEAD", |place, other| {
            sh(&place.inside(""), &format!("ln -sf {other}/HEAD .git/HEAD"));
        }),
        ("a linked ref", |place, other| {
            sh(
                &place.inside(""),
                &format!(
                    "ln -sf {other}/refs/heads/main .git/refs/heads/stolen; mkdir -p .git/objects/info; echo {other}/objects >.git/objects/info/alternates"
                ),
            );
        }),
        ("a linked object", |place, other| {
            sh(
                &place.inside(""),
                &format!(
                    "for o in $(cd {other}/objects; ls -d ??/*); do mkdir -p .git/objects/${{o%/*}}; ln -s {other}/objects/$o .git/objects/$o; done; cat {other}/refs/heads/main >.git/refs/heads/stolen"
                ),
            );
        }),
    ];
    for (what, plant) in plants {
        let place = place();
        plant(&place, &other(&place));
        if what != "a linked HEAD" {
            let (_, all) = try_sh(&place.inside(""), "git log --format=%s stolen; git log --all --format=%s");
            assert!(all.contains("secret"), "git itself reads {what}: {all}");
        }
        holds(&place, what);
        let aside = std::fs::read_dir(place.inside("")).unwrap();
        let aside =
            aside.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(".git-set-aside-")).count();
        assert_eq!(aside, 1, "{what}");
        assert!(!place.files().iter().any(|file| file.starts_with(".git-set-aside")));
    }
}

#[test]
fn a_pipe_in_any_place_that_git_reads_makes_nobody_wait() {
    for (name, hangs_git) in [
        (".git", false),
        (".git/HEAD", false),
        (".git/config", true),
        (".git/index", true),
        (".git/packed-refs", true),
        (".git/refs/heads/main", false),
        (".git/refs/heads/pipe", false),
        (".git/refs/heads", false),
        (".git/objects/info/alternates", true),
        (".git/objects/pack/pack-0123456789012345678901234567890123456789.idx", false),
        (".git/objects", false),
        (".git/info/exclude", true),
        (".git/info/attributes", true),
        (".git/shallow", true),
        (".git/commondir", true),
        (".gitignore", true),
        (".gitattributes", true),
        (".gitmodules", false),
        ("dir/.gitignore", true),
    ] {
        let place = place();
        place.write("dir/file", "1");
        let path = place.inside(name);
        sh(&place.inside(""), &format!("rm -rf {name}; mkdir -p {}; mkfifo {name}", path.parent().unwrap().display()));
        if hangs_git {
            assert!(
                hangs(&place.inside(""), "git add -A") || hangs(&place.inside(""), "git status"),
                "git itself waits for {name}"
            );
        }
        place.write("after", name);
        let synced = place.sync().unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
        assert!(matches!(synced.pushed, Pushed::All(_)), "{name}: {synced:?}");
        assert_eq!(git(&place.bare(), "show main:after"), name);
        assert_eq!(git(&place.bare(), "show main:dir/file"), "1");
    }
}

#[test]
fn odd_trees_are_committed_but_for_what_is_odd() {
    let place = place();
    sh(
        &place.inside(""),
        "git init -q nested; echo 1 >nested/file; mkfifo pipe; truncate -s 1T huge; mkdir -p sub/mod; echo 'gitdir: ../../.git' >sub/mod/.git; mkdir -p .git-x/.git; mkdir git~1; echo x >git~1/config; mkdir -p x/.GIT; echo x >x/.GIT/config",
    );
    let _socket = UnixListener::bind(place.inside("socket")).unwrap();
    symlink(place.outside("secret"), place.inside("link")).unwrap();
    symlink("../../outside", place.inside("away")).unwrap();
    sh(
        &place.inside(""),
        "p=deep; for n in $(seq 1 1500); do p=$p/d; done; mkdir deep; cd deep; for n in $(seq 1 1500); do mkdir d && cd d || exit 1; done; echo bottom >file",
    );
    let synced = place.sync().unwrap();
    assert!(matches!(synced.pushed, Pushed::All(_)), "{synced:?}");
    let reasons = reasons(&synced.committed);
    for (path, reason) in [
        ("nested", Reason::NestedRepository),
        ("sub/mod", Reason::NestedRepository),
        (".git-x", Reason::NestedRepository),
        ("pipe", Reason::Special),
        ("socket", Reason::Special),
        ("huge", Reason::TooLarge),
        ("x/.GIT/config", Reason::Name),
    ] {
        assert!(reasons.contains(&(path.to_owned(), reason)), "{path}: {reasons:?}");
    }
    assert!(reasons.iter().any(|(path, reason)| path.starts_with("deep/d/d") && *reason == Reason::TooDeep));
    assert_eq!(git(&place.bare(), "show main:innocent"), "content of the user");
    assert_eq!(git(&place.bare(), "show main:away"), "../../outside");
    assert!(!place.everything_at_the_remote().contains(SECRET));
    outside_is_untouched(&place, "odd trees");
    sh(&place.inside(""), "rm -rf deep");
}

#[test]
fn a_hostile_remote_writes_nothing_outside() {
    let place = place();
    // Trees that no git would make: names that lead out, and into the repository.
    let blob = sh(&place.bare(), "echo evil | git hash-object -w --stdin");
    let raw: String = blob.as_bytes().chunks(2).map(|two| format!("\\\\x{}", String::from_utf8_lossy(two))).collect();
    for name in [".git", "..", ".GIT", "a/../../outside/mark", ".pi-gateway-trash"] {
        let parent = git(&place.bare(), "rev-parse main");
        let tree = sh(
            &place.bare(),
            &format!(
                "printf '100644 {name}\\0{raw}' | sed 's/\\\\\\\\x/\\\\x/g' | xargs -0 printf '%b' >/dev/null 2>&1; python3 - <<'P'\nimport subprocess,sys\nentry=b'100644 '+{name:?}.encode()+b'\\0'+bytes.fromhex('{blob}')\nprint(subprocess.run(['git','hash-object','-w','-t','tree','--literally','--stdin'],input=entry,capture_output=True).stdout.decode().strip())\nP"
            ),
        );
        let commit = sh(&place.bare(), &format!("git commit-tree -p {parent} -m evil {tree}"));
        sh(&place.bare(), &format!("git update-ref refs/heads/main {commit}"));
        let before = std::fs::read(place.inside(".git/config")).unwrap();
        let outcome = place.sync();
        assert!(!matches!(&outcome, Ok(synced) if matches!(synced.pushed, Pushed::All(_))), "{name}: {outcome:?}");
        assert_eq!(std::fs::read(place.inside(".git/config")).unwrap(), before, "{name}");
        assert!(place.inside(".git").is_dir() && place.inside("innocent").exists(), "{name}");
        assert!(!place.outside("mark").exists(), "{name}");
        outside_is_untouched(&place, name);
        sh(&place.bare(), &format!("git update-ref refs/heads/main {parent}"));
        place.git("update-ref -d refs/remotes/origin/main");
    }
    // A link first, and then a file behind it.
    place.elsewhere("ln -s ../outside way");
    assert!(matches!(place.sync().unwrap().pushed, Pushed::All(_)));
    place.elsewhere("rm way; mkdir way; echo evil >way/mark");
    assert!(matches!(place.sync().unwrap().pushed, Pushed::All(_)));
    assert!(!place.outside("mark").exists());
    assert_eq!(place.read("way/mark"), "evil\n");
}
