//! In step with a remote.

use pi_gateway::worker::git::message::{Outcome, Pushed};

use crate::support::{Place, git, sh};

fn pushed(place: &Place) -> String {
    let synced = place.sync().unwrap();
    assert!(matches!(synced.pushed, Pushed::All(_)), "{synced:?}");
    match synced.outcome {
        Outcome::UpToDate => "up to date".to_owned(),
        Outcome::FastForward => "fast forward".to_owned(),
        Outcome::Merged(_) => "merged".to_owned(),
        Outcome::Conflict { .. } => panic!("{synced:?}"),
    }
}

#[test]
fn a_workspace_and_an_empty_repository_come_in_step_and_stay_so() {
    let place = Place::with_remote();
    place.prepare();
    place.write("a", "1");
    assert_eq!(pushed(&place), "up to date");
    assert_eq!(git(&place.bare(), "show main:a"), "1");
    // Somebody edits at the remote.
    place.elsewhere("echo 2 >b; rm a; mkdir -p d/e; echo deep >d/e/f; ln -s d link; echo '#!' >run; chmod +x run");
    assert_eq!(pushed(&place), "fast forward");
    assert_eq!(place.git("status --porcelain"), "");
    assert!(!place.inside("a").exists());
    assert_eq!(place.read("link/e/f"), "deep\n");
    assert_eq!(sh(&place.inside(""), "test -x run && echo yes"), "yes");
    // Both edit different things.
    place.elsewhere("echo theirs >theirs");
    place.write("ours", "ours");
    assert_eq!(pushed(&place), "merged");
    assert_eq!((place.read("theirs").as_str(), place.read("ours").as_str()), ("theirs\n", "ours"));
    assert_eq!(place.git("status --porcelain"), "");
    assert_eq!(git(&place.bare(), "ls-tree -r --name-only main"), "b\nd/e/f\nlink\nours\nrun\ntheirs");
    assert_eq!(git(&place.bare(), "fsck --strict"), "");
    assert_eq!(pushed(&place), "up to date");
    let position = place.compare().position;
    assert_eq!((position.ahead, position.behind), (Some(0), Some(0)));
}

#[test]
fn a_conflict_changes_nothing_and_both_sides_are_at_the_remote() {
    let place = Place::with_remote();
    place.prepare();
    place.write("page", "base\n");
    place.write("other", "base\n");
    pushed(&place);
    place.elsewhere("echo theirs >page; echo new >new");
    place.write("page", "ours\n");
    for round in 0..2 {
        let synced = place.sync().unwrap();
        let Outcome::Conflict { paths, count, side } = synced.outcome else { panic!("{synced:?}") };
        assert_eq!((paths, count), (vec![b"page".to_vec()], 1), "round {round}");
        assert_eq!(git(&place.bare(), &format!("show {side}:page")), "ours");
        assert_eq!(git(&place.bare(), "show main:page"), "theirs");
        assert_eq!(place.read("page"), "ours\n");
        assert!(!place.inside("new").exists());
        assert_eq!(place.git("status --porcelain"), "");
    }
    assert_eq!(git(&place.bare(), "for-each-ref").lines().count(), 2, "one side branch for one commit");
    // Once the remote's owner has merged, the workspace follows.
    let side = git(&place.bare(), "for-each-ref '--format=%(refname:short)' refs/heads/pi-gateway");
    place.elsewhere(&format!("git fetch -q; git merge -q -X theirs origin/{side} -m both"));
    assert_eq!(pushed(&place), "fast forward");
    assert_eq!(place.read("new"), "new\n");
}

#[test]
fn what_is_not_committed_is_not_overwritten_by_what_comes() {
    let place = Place::with_remote();
    place.prepare();
    place.write(".gitignore", "ignored\nway/\n");
    pushed(&place);
    place.write("ignored", "precious");
    place.write("way/in", "precious");
    place.elsewhere("echo theirs >ignored; mkdir -p way; echo x >way/in; echo fine >fine; git add -f ignored way");
    let synced = place.sync().unwrap();
    let Outcome::Conflict { paths, .. } = synced.outcome else { panic!("{synced:?}") };
    assert_eq!(paths, [b"ignored".to_vec(), b"way/in".to_vec()]);
    assert_eq!((place.read("ignored").as_str(), place.read("way/in").as_str()), ("precious", "precious"));
    assert!(!place.inside("fine").exists());
}

#[test]
fn the_agents_own_commits_and_branches_are_pushed_and_a_diverged_one_stops_no_other() {
    let place = Place::with_remote();
    place.prepare();
    place.write("a", "1");
    pushed(&place);
    place.git("checkout -qb feature/x");
    place.write("f", "1");
    place.git("add -A");
    place.git("commit -qm own");
    place.git("branch second");
    assert_eq!(pushed(&place), "up to date");
    assert_eq!(git(&place.bare(), "log -1 --format=%s feature/x"), "own");
    // The agent rewrites a branch that is at the remote: it is not forced there.
    place.git("commit -q --amend -m rewritten");
    place.git("branch third");
    let synced = place.sync().unwrap();
    assert!(matches!(synced.outcome, Outcome::Merged(_)), "{synced:?}");
    place.git("checkout -q second");
    place.git("commit -q --amend -m changed --allow-empty");
    place.git("checkout -q main");
    place.write("a", "2");
    let synced = place.sync().unwrap();
    let Pushed::Most(position, told) = synced.pushed else { panic!("{synced:?}") };
    assert_eq!((position.branch.as_deref(), position.ahead, position.behind), (Some("main"), Some(0), Some(0)));
    assert_eq!(told.code, "branches_diverged");
    assert!(told.message.ends_with(": second"), "{told:?}");
    assert_eq!(git(&place.bare(), "log -1 --format=%s third"), "rewritten");
    // Both sides stay, and what goes forwards still goes.
    assert_eq!(git(&place.bare(), "show main:a"), "2");
    assert_eq!(git(&place.bare(), "log -1 --format=%s second"), "own");
    assert_eq!(place.git("log -1 --format=%s second"), "changed");
    // On the diverged branch it is a failure, which a sync cures.
    place.git("checkout -q second");
    let synced = place.sync().unwrap();
    assert!(matches!((&synced.outcome, &synced.pushed), (Outcome::Merged(_), Pushed::All(_))), "{synced:?}");
}

#[test]
fn however_many_branches_have_diverged_the_workspaces_own_is_pushed() {
    let place = Place::with_remote();
    place.prepare();
    place.write("a", "1");
    pushed(&place);
    let all = "for n in $(seq 100 250); do";
    sh(&place.inside(""), &format!("{all} echo create refs/heads/b$n main; done | git update-ref --stdin"));
    for left in [51, 0] {
        let synced = place.sync().unwrap();
        match synced.pushed {
            Pushed::Most(_, told) => assert!(told.message.starts_with(&format!("{left} branches")), "{told:?}"),
            other => assert!(left == 0 && matches!(other, Pushed::All(_)), "{other:?}"),
        }
    }
    let other = "$(git commit-tree -m other main^{tree})";
    sh(&place.inside(""), &format!("o={other}; {all} echo update refs/heads/b$n $o; done | git update-ref --stdin"));
    place.write("a", "2");
    let Pushed::Most(_, told) = place.sync().unwrap().pushed else { panic!("not pushed") };
    assert_eq!(told.code, "branches_diverged");
    assert!(told.message.starts_with("on 151 other branches") && told.message.ends_with("b109"), "{told:?}");
    assert_eq!(git(&place.bare(), "show main:a"), "2");
}

#[test]
fn a_new_workspace_takes_over_what_the_remote_has() {
    let place = Place::with_remote();
    place.elsewhere("echo portal >README");
    let prepared = place.prepare();
    assert_eq!(place.read("README"), "portal\n");
    assert_eq!(prepared.commit, None);
    assert_eq!(place.git("log --format=%s"), "elsewhere");
    // A workspace that has files already keeps both.
    let other = Place::with_remote();
    other.elsewhere("echo portal >README");
    other.write("mine", "1");
    other.prepare();
    assert_eq!(pushed(&other), "up to date");
    assert_eq!(git(&other.bare(), "ls-tree --name-only main"), "README\nmine");
}

#[test]
fn what_the_remote_refuses_has_a_word_and_the_commit_stays() {
    let place = Place::with_remote();
    place.prepare();
    place.write("a", "1");
    let access = place.bare().join("access");
    for (text, code) in [("sync-bot read\n", "gitea_refused"), ("", "gitea_not_found")] {
        std::fs::write(&access, text).unwrap();
        let failure = match place.sync() {
            Ok(synced) => match synced.pushed {
                Pushed::Not(failure) => failure,
                other => panic!("{other:?}"),
            },
            Err(failure) => failure,
        };
        assert_eq!(failure.code, code, "{failure:?}");
        assert_eq!(place.git("log -1 --format=%s"), "outside of runs");
    }
    std::fs::write(&access, "sync-bot write\n").unwrap();
    assert_eq!(pushed(&place), "up to date");
}

#[test]
fn an_interrupted_merge_is_completed_by_the_next() {
    let place = Place::with_remote();
    place.prepare();
    for number in 0..20 {
        place.write(format!("f{number}"), "base");
    }
    pushed(&place);
    place.elsewhere("for n in $(seq 0 19); do echo theirs >f$n; done; echo new >new");
    place.write("ours", "1");
    // Killed after half of the files were written: the branch has not moved.
    for number in 0..10 {
        place.write(format!("f{number}"), "theirs\n");
    }
    place.write("new", "new\n");
    std::fs::create_dir(place.inside(".pi-gateway-git")).unwrap();
    std::fs::write(place.inside(".pi-gateway-git/.pi-gateway-x"), "half").unwrap();
    assert_eq!(pushed(&place), "merged");
    for number in 0..20 {
        assert_eq!(place.read(format!("f{number}")), "theirs\n");
    }
    assert!(!place.inside(".pi-gateway-git").exists());
    assert_eq!(place.read("ours"), "1");
    assert_eq!(git(&place.bare(), "fsck --strict"), "");
}

#[test]
fn what_a_killed_merge_left_goes_with_the_next_commit() {
    let place = Place::new();
    place.prepare();
    place.write(".pi-gateway-git/.pi-gateway-x", "half");
    place.commit("a run");
    assert!(!place.inside(".pi-gateway-git").exists());
}
