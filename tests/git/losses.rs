//! What was committed, or is there and cannot be committed, is not lost by the next commit or merge.

use pi_gateway::worker::git::message::{Outcome, Pushed, Reason};

use crate::support::{Place, git, reasons, sh};

fn in_step(place: &Place) {
    let synced = place.sync().unwrap();
    assert!(matches!(synced.pushed, Pushed::All(_)), "{synced:?}");
    assert!(!matches!(synced.outcome, Outcome::Conflict { .. }), "{synced:?}");
}

/// What no snapshot takes by itself: an ignored file, one over the limit, a submodule.
const ODD: &str = "echo '*.env' >.gitignore; echo 1 >ignored.env; truncate -s 51M huge; git add -f ignored.env; \
    mkdir module; git update-index --add --cacheinfo 160000,0123456789012345678901234567890123456789,module";

#[test]
fn what_others_have_committed_stays_committed_in_a_new_workspace() {
    let place = Place::with_remote();
    place.elsewhere(ODD);
    place.prepare();
    place.write("mine", "1");
    in_step(&place);
    assert_eq!(git(&place.bare(), "ls-tree -r --name-only main"), ".gitignore\nhuge\nignored.env\nmine\nmodule");
}

#[test]
fn what_others_have_committed_stays_committed_when_a_sync_brings_it() {
    let place = Place::with_remote();
    place.prepare();
    place.write("a", "1");
    in_step(&place);
    // Fast forward.
    place.elsewhere(ODD);
    in_step(&place);
    place.write("mine", "1");
    in_step(&place);
    let all = ".gitignore\na\nhuge\nignored.env\nmine\nmodule";
    assert_eq!(git(&place.bare(), "ls-tree -r --name-only main"), all);
    // A merge.
    place.elsewhere("echo 2 >second.env; git add -f second.env");
    place.write("mine", "2");
    in_step(&place);
    assert_eq!(place.git("status --porcelain"), "");
    place.write("mine", "3");
    in_step(&place);
    let all = ".gitignore\na\nhuge\nignored.env\nmine\nmodule\nsecond.env";
    assert_eq!(git(&place.bare(), "ls-tree -r --name-only main"), all);
}

#[test]
fn what_there_is_no_room_for_anew_stays_committed() {
    let mut place = Place::with_remote();
    place.elsewhere("head -c 3000000 /dev/urandom >large; echo 1 >small");
    place.settings.quota = 8 << 20;
    place.prepare();
    place.write("mine", "1");
    in_step(&place);
    assert_eq!(git(&place.bare(), "ls-tree -r --name-only main"), "large\nmine\nsmall");
    // Nor does a merge take what there was no room for.
    place.settings.quota = 16 << 20;
    place.write("over", vec![7_u8; 9 << 20]);
    place.elsewhere("echo 2 >small");
    in_step(&place);
    assert_eq!(place.git("status --porcelain"), "?? over");
    place.write("mine", "2");
    assert_eq!(reasons(&place.commit("pi: more\n")), [("over".to_owned(), Reason::NoRoom)]);
}

#[test]
fn an_index_that_cannot_be_read_loses_nothing() {
    let place = Place::new();
    place.prepare();
    sh(
        &place.inside(""),
        "echo '*.env' >.gitignore; echo 1 >ignored.env; echo 1 >plain; git add -f .; git commit -qm own",
    );
    for spoil in ["rm .git/index", "echo x >.git/index", "git update-index --split-index"] {
        sh(&place.inside(""), spoil);
        place.write("plain", spoil);
        place.commit("pi: more\n");
        assert_eq!(place.files(), [".gitignore", "ignored.env", "plain"], "{spoil}");
        assert_eq!(place.git("status --porcelain"), "", "{spoil}");
    }
}

#[test]
fn what_lies_too_deep_for_a_snapshot_stays_as_the_agent_committed_it() {
    let place = Place::new();
    place.prepare();
    sh(
        &place.inside(""),
        "mkdir deep; cd deep; for n in $(seq 1 300); do mkdir d && cd d || exit 1; done; echo bottom >file; \
         git add -A; git commit -qm deep",
    );
    let before = place.git("rev-parse HEAD^{tree}");
    let committed = place.commit("pi: nothing\n");
    assert_eq!(committed.commit, None, "nothing has changed");
    assert_eq!(place.git("rev-parse HEAD^{tree}"), before);
}

#[test]
fn a_second_detached_head_at_the_same_commit_leaves_the_first_ones_work() {
    let place = Place::new();
    place.prepare();
    place.write("a", "1");
    let base = place.commit("pi: one\n").commit.unwrap();
    let mut seen = Vec::new();
    for round in ["first", "second", "third"] {
        place.git(&format!("checkout -q {base}"));
        place.write("a", round);
        seen.push(place.commit("pi: detached\n").commit.unwrap());
    }
    for commit in seen {
        assert_ne!(place.git(&format!("branch --contains {commit}")), "", "on no branch any more");
    }
    assert_eq!(place.git("symbolic-ref HEAD").lines().count(), 1);
}

#[test]
fn a_file_whose_change_is_not_committed_is_not_overwritten_or_removed_by_what_comes() {
    for theirs in ["echo theirs >file", "rm file"] {
        let place = Place::with_remote();
        place.prepare();
        place.write("file", "committed");
        place.write("module/file", "committed");
        in_step(&place);
        // It has grown over the limit since.
        sh(&place.inside(""), "truncate -s 51M file");
        place.elsewhere(&format!("{theirs}; echo fine >fine"));
        let synced = place.sync().unwrap();
        let Outcome::Conflict { paths, .. } = &synced.outcome else { panic!("{theirs}: {synced:?}") };
        assert_eq!(*paths, [b"file".to_vec()], "{theirs}");
        assert_eq!(std::fs::metadata(place.inside("file")).unwrap().len(), 51 << 20, "{theirs}");
        assert!(!place.inside("fine").exists(), "{theirs}");
        std::fs::remove_file(place.inside("file")).unwrap();
        place.git("checkout file");
        // Beside a repository of its own.
        sh(&place.inside("module"), "git init -q");
        place.write("module/file", "not committed");
        place.elsewhere("echo theirs >module/file");
        let synced = place.sync().unwrap();
        let Outcome::Conflict { paths, .. } = &synced.outcome else { panic!("{theirs}: {synced:?}") };
        assert_eq!(*paths, [b"module/file".to_vec()], "{theirs}");
        assert_eq!(place.read("module/file"), "not committed");
    }
}

#[test]
fn a_file_does_not_take_the_place_of_a_directory_that_holds_what_is_not_committed() {
    let place = Place::with_remote();
    place.prepare();
    place.write(".gitignore", "*.log\n");
    place.write("d/committed", "1");
    in_step(&place);
    place.write("d/e/precious.log", "1");
    place.elsewhere("rm -r d; echo now a file >d");
    for _ in 0..2 {
        let synced = place.sync().unwrap();
        let Outcome::Conflict { paths, .. } = &synced.outcome else { panic!("{synced:?}") };
        assert_eq!(*paths, [b"d".to_vec()]);
        assert_eq!((place.read("d/committed"), place.read("d/e/precious.log")), ("1".to_owned(), "1".to_owned()));
    }
    std::fs::remove_dir_all(place.inside("d/e")).unwrap();
    in_step(&place);
    assert_eq!(place.read("d"), "now a file\n");
}

#[test]
fn a_remote_that_was_made_anew_gets_everything_again() {
    let place = Place::with_remote();
    place.prepare();
    place.write("a", "1");
    place.git("branch was/deep");
    in_step(&place);
    sh(&place.bare(), "git for-each-ref '--format=delete %(refname)' | git update-ref --stdin");
    in_step(&place);
    assert_eq!(git(&place.bare(), "show main:a"), "1");
    // A branch whose name is a part of one that there was.
    place.git("branch -D was/deep");
    sh(&place.bare(), "git update-ref -d refs/heads/was/deep; git update-ref refs/heads/was main");
    in_step(&place);
}

#[test]
fn looking_changes_nothing() {
    let place = Place::new();
    place.prepare();
    place.write("a", "1");
    let head = place.commit("pi: one\n").commit.unwrap();
    // What a git leaves for itself that is at work.
    place.git(&format!("checkout -q {head}"));
    std::fs::write(place.inside(".git/index.lock"), "").unwrap();
    place.write("a", "2");
    let compared = place.compare();
    assert_eq!((compared.count, compared.position.head.as_deref()), (1, Some(head.as_str())));
    assert!(place.inside(".git/index.lock").exists());
    assert_eq!(std::fs::read_to_string(place.inside(".git/HEAD")).unwrap().trim(), head);
    std::fs::remove_file(place.inside(".git/index.lock")).unwrap();
    // A repository that cannot be used is for the next commit to set aside, which tells.
    place.write(".git/objects/info/alternates", "/nowhere\n");
    let looked = pi_gateway::worker::git::sync::compare(&place.tree, &place.settings, &place.outside("looking"));
    assert_eq!(looked.unwrap_err().code, "repository_unusable");
    std::fs::remove_dir_all(place.outside("looking")).ok();
    assert!(place.commit("pi: two\n").set_aside.is_some());
}

#[test]
fn a_mark_of_the_encoding_at_the_beginning_of_the_rules_is_none_of_them() {
    let place = Place::new();
    place.prepare();
    place.write(".gitignore", "\u{feff}secret\n");
    place.write("secret", "1");
    assert!(!place.git("status --porcelain").contains("secret"), "git itself");
    place.commit("pi: one\n");
    assert_eq!(place.files(), [".gitignore"]);
}

#[test]
fn attributes_of_the_workspace_do_not_merge() {
    let place = Place::with_remote();
    place.prepare();
    place.write(".gitattributes", "* merge=union\n");
    place.write("a", "base\n");
    in_step(&place);
    place.elsewhere("echo theirs >a");
    place.write("a", "ours\n");
    let synced = place.sync().unwrap();
    assert!(matches!(synced.outcome, Outcome::Conflict { .. }), "{synced:?}");
}
