//! Submodules whose address is a command, or somebody else's repository: git runs and reads them, nobody here does.

use pi_gateway::worker::git::message::Pushed;

use crate::support::{Place, SECRET, git, sh, try_sh};

/// What makes both of them in a repository: one that is run, one that is read.
fn plant(place: &Place) -> String {
    sh(
        &place.outside(""),
        "git init -q -b main other; cp secret other/; git -C other add -A; git -C other commit -qm secret",
    );
    let file = place.directory.path().join("gitmodules");
    let modules = format!(
        "[submodule \"run\"]\n\tpath = run\n\turl = ext::sh -c touch% {}\n\
         [submodule \"read\"]\n\tpath = read\n\turl = ../outside/other\n",
        place.outside("mark").display()
    );
    std::fs::write(&file, modules).unwrap();
    let commit = git(&place.outside("other"), "rev-parse main");
    let link = |name: &str| format!("git update-index --add --cacheinfo 160000,{commit},{name}");
    format!("cp {} .gitmodules; mkdir run read; {}; {}", file.display(), link("run"), link("read"))
}

/// The control, in a copy of the workspace.
fn git_itself_falls_for_it(place: &Place) {
    let (copy, mark) = (place.directory.path().join("copy"), place.outside("mark"));
    sh(place.directory.path(), "cp -r inside copy");
    let update = "git -c protocol.ext.allow=always -c protocol.file.allow=always submodule update --init";
    let _ = try_sh(&copy, &format!("{update} run"));
    assert!(mark.exists(), "git itself runs the command");
    sh(&copy, &format!("{update} read"));
    assert_eq!(std::fs::read_to_string(copy.join("read/secret")).unwrap(), SECRET, "git itself reads what is there");
    std::fs::remove_file(mark).unwrap();
}

fn holds(place: &Place) {
    for text in ["1", "2"] {
        place.write("mine", text);
        let synced = place.sync().unwrap();
        assert!(matches!(synced.pushed, Pushed::All(_)), "{synced:?}");
        assert_eq!(git(&place.bare(), "show main:mine"), text);
    }
    // They stay what they are: names of commits, and a file with addresses.
    assert_eq!(
        git(&place.bare(), "ls-tree main run read").lines().filter(|line| line.starts_with("160000")).count(),
        2
    );
    assert_eq!(git(&place.bare(), "show main:.gitmodules").lines().count(), 6);
    assert!(!place.outside("mark").exists(), "the command was run");
    for name in ["run", "read"] {
        assert_eq!(std::fs::read_dir(place.inside(name)).unwrap().count(), 0, "{name}");
    }
    assert!(!place.inside(".git/modules").exists());
    assert!(!place.everything_at_the_remote().contains(SECRET));
}

#[test]
fn the_agents_submodules_are_neither_run_nor_read() {
    let place = Place::with_remote();
    place.prepare();
    sh(&place.inside(""), &plant(&place));
    sh(&place.inside(""), "git add .gitmodules; git commit -qm modules");
    git_itself_falls_for_it(&place);
    holds(&place);
}

#[test]
fn submodules_that_the_remote_brings_are_neither_run_nor_read() {
    let place = Place::with_remote();
    place.prepare();
    place.write("mine", "0");
    assert!(matches!(place.sync().unwrap().pushed, Pushed::All(_)));
    place.elsewhere(&plant(&place));
    assert!(matches!(place.sync().unwrap().pushed, Pushed::All(_)));
    git_itself_falls_for_it(&place);
    holds(&place);
}
