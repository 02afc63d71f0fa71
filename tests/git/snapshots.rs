//! What is committed of a workspace, and what git in the sandbox makes of it.

use std::os::unix::fs::{PermissionsExt, symlink};

use pi_gateway::worker::git::message::{ChangeKind, Reason};

use crate::support::{Place, reasons};

#[test]
fn a_new_workspace_becomes_a_repository_that_git_can_use() {
    let place = Place::new();
    let prepared = place.prepare();
    assert_eq!(prepared.position.branch.as_deref(), Some("main"));
    assert_eq!(place.git("log --format=%an:%ae:%s"), "pi-gateway:pi-gateway@localhost:Initial commit");
    place.write("a", "1");
    assert_eq!(place.git("status --porcelain"), "?? a");
    assert_eq!(place.git("add a"), "");
    place.git("commit -qm mine");
    // The agent's own commit is kept, and there is nothing to add to it.
    let committed = place.commit("pi: more\n");
    assert_eq!(committed.commit, None);
    assert_eq!(place.git("log --format=%s"), "mine\nInitial commit");
    assert_eq!(place.git("fsck --strict"), "");
}

#[test]
fn a_snapshot_is_what_git_add_all_would_commit_and_git_sees_nothing_left_to_do() {
    let place = Place::new();
    place.prepare();
    place.write("plain", "text");
    place.write("dir/deep/file", "deep");
    place.write("program", "#!/bin/sh\n");
    std::fs::set_permissions(place.inside("program"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("dir/deep", place.inside("link")).unwrap();
    symlink("/etc/passwd", place.inside("out")).unwrap();
    place.write("with\nline feed \u{1f980} 'quotes'", "odd");
    place.write("large", vec![7_u8; 3 << 20]);
    place.write("dir/empty", "");
    let committed = place.commit("pi: all\n\nRun: 1\n");
    assert_eq!(committed.skipped.count, 0);
    assert_eq!(committed.commit, committed.position.head);
    assert_eq!(place.git("status --porcelain"), "");
    assert_eq!(place.git("fsck --strict"), "");
    let ours = place.git("rev-parse HEAD^{tree}");
    place.git("rm -rq --cached .");
    place.git("add -A");
    assert_eq!(place.git("write-tree"), ours, "git's own snapshot");
    assert_eq!(place.git("cat-file blob HEAD:out"), "/etc/passwd", "a link is its text");
    // Nothing has changed: no commit. The same message again: the same commit, as after a restart.
    assert_eq!(place.commit("pi: other\n").commit, None);
    assert_eq!(place.commit("pi: all\n\nRun: 1\n").commit, committed.commit);
    // Changes of every kind.
    place.write("plain", "more");
    std::fs::remove_file(place.inside("link")).unwrap();
    place.write("link/now/a/directory", "x");
    std::fs::remove_dir_all(place.inside("dir")).unwrap();
    place.write("dir", "now a file");
    let compared = place.compare();
    let kinds: Vec<_> = compared
        .changed
        .iter()
        .map(|change| (String::from_utf8_lossy(&change.path).into_owned(), change.kind))
        .collect();
    assert!(kinds.contains(&("plain".to_owned(), ChangeKind::Modified)), "{kinds:?}");
    assert!(kinds.contains(&("dir".to_owned(), ChangeKind::Added)), "{kinds:?}");
    assert!(kinds.contains(&("dir/deep/file".to_owned(), ChangeKind::Deleted)), "{kinds:?}");
    place.commit("pi: changes\n");
    assert_eq!(place.git("status --porcelain"), "");
    assert_eq!(place.git("log --format=%s"), "pi: changes\npi: all\nInitial commit");
    assert_eq!(place.compare().count, 0);
}

#[test]
fn a_file_that_changes_within_its_times_is_seen() {
    let place = Place::new();
    place.prepare();
    for round in 0..50 {
        place.write("same size", format!("{round:03}"));
        assert!(place.commit("pi: round\n").commit.is_some(), "round {round}");
        assert_eq!(place.git("cat-file blob 'HEAD:same size'"), format!("{round:03}"));
    }
}

#[test]
fn rules_are_honoured_as_git_honours_them() {
    let place = Place::new();
    place.write("kept", "committed before it was ignored");
    place.write("build/kept too", "1");
    place.prepare();
    place.write(".gitignore", "*.log\n!important.log\n/build/\nkept\nnode_modules/\n# comment\n\\#literal\nsub/**/x\n");
    place.write("sub/.gitignore", "!again.log\nlocal\n");
    place.write(".git/info/exclude", "excluded\n");
    for name in [
        "a.log",
        "important.log",
        "sub/again.log",
        "sub/local",
        "sub/b.log",
        "build/new",
        "excluded",
        "#literal",
        "node_modules/m/index.js",
        "deep/node_modules/m",
        "sub/a/b/x",
        "visible",
        "deep/visible",
    ] {
        place.write(name, "content");
    }
    place.write("kept", "changed");
    place.commit("pi: rules\n");
    let ours = place.git("ls-tree -r --name-only HEAD");
    place.git("add -A");
    assert_eq!(place.git("status --porcelain"), "", "git would commit nothing else");
    assert_eq!(
        ours,
        ".gitignore\nbuild/kept too\ndeep/visible\nimportant.log\nkept\nsub/.gitignore\nsub/again.log\nvisible"
    );
    assert_eq!(place.git("cat-file blob HEAD:kept"), "changed");
}

#[test]
fn a_detached_head_is_given_a_branch_and_locks_of_a_killed_git_are_removed() {
    let place = Place::new();
    place.prepare();
    place.write("a", "1");
    let first = place.commit("pi: one\n").commit.unwrap();
    place.git(&format!("checkout -q {first}"));
    std::fs::write(place.inside(".git/index.lock"), "").unwrap();
    std::fs::write(place.inside(".git/refs/heads/main.lock"), "").unwrap();
    std::fs::write(place.inside(".git/objects/tmp_object_git2_x"), "half").unwrap();
    std::fs::write(place.inside(".git/objects/pack/tmp_pack_x"), "half").unwrap();
    place.write("a", "2");
    let committed = place.commit("pi: two\n");
    assert_eq!(committed.position.branch, Some(format!("detached-{}", &first[..12])));
    assert_eq!(place.git("status --porcelain"), "");
    place.git("checkout -q main");
    let left = crate::support::sh(&place.inside(".git"), "find . -name '*.lock' -o -name 'tmp_*'");
    assert_eq!(left, "");
}

#[test]
fn without_init_a_workspace_stays_what_it_is() {
    let mut place = Place::new();
    place.settings.init = false;
    assert_eq!(place.prepare(), Default::default());
    assert!(!place.inside(".git").exists());
}

#[test]
fn a_submodule_stays_and_a_conflict_in_the_index_is_resolved_by_what_is_there() {
    let place = Place::new();
    place.prepare();
    place.write("a", "base\n");
    place.commit("pi: base\n");
    place.git("checkout -qb other");
    place.write("a", "theirs\n");
    place.git("commit -qam theirs");
    place.git("checkout -q main");
    place.write("a", "ours\n");
    place.git("commit -qam ours");
    let (merged, _) = crate::support::try_sh(&place.inside(""), "git merge -q other");
    assert!(!merged);
    place.commit("pi: as it is\n");
    assert!(place.git("cat-file blob HEAD:a").contains("<<<<<<<"), "what is in the file is committed");
    let commit = place.git("rev-parse HEAD");
    place.git(&format!("update-index --add --cacheinfo 160000,{commit},module"));
    std::fs::create_dir(place.inside("module")).unwrap();
    place.commit("pi: module\n");
    assert!(place.git("ls-tree HEAD module").starts_with("160000 commit"));
    assert_eq!(reasons(&place.commit("x")), [] as [(String, Reason); 0]);
}

#[test]
fn what_would_take_the_workspace_over_its_quota_is_left_out_and_the_rest_is_committed() {
    let mut place = Place::new();
    place.prepare();
    place.settings.quota = 4 << 20;
    place.write("small", "1");
    place.write("large", vec![7_u8; 3 << 20]);
    let committed = place.commit("pi: one\n");
    assert_eq!(reasons(&committed), [("large".to_owned(), Reason::NoRoom)]);
    assert_eq!(place.files(), ["small"]);
    // Once there is room it is committed.
    place.settings.quota = 16 << 20;
    assert_eq!(reasons(&place.commit("pi: two\n")), []);
    assert_eq!(place.files(), ["large", "small"]);
}
