//! The table helper/AUDIT.md says which content of each file was reviewed: a change of a file takes its review away.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::Command;

const HELPER: &str = env!("CARGO_MANIFEST_DIR");
const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// Whether the table is right, and what is told.
fn audit(arguments: &[&str], directory: &Path) -> (bool, String) {
    let told = Command::new(format!("{HELPER}/audit")).args(arguments).arg(directory).output().unwrap();
    (told.status.success(), String::from_utf8([told.stdout, told.stderr].concat()).unwrap())
}

#[test]
fn every_file_of_the_helper_is_the_one_that_its_row_speaks_of() {
    let (right, told) = audit(&[], Path::new(HELPER));
    print!("{told}");
    assert!(right, "{told}");
}

#[test]
fn a_changed_a_new_and_a_removed_file_are_named_and_lose_their_review() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("src")).unwrap();
    fs::create_dir(at("units")).unwrap();
    fs::write(at("src/kept.rs"), "test").unwrap();
    fs::write(at("units/a.conf"), "test").unwrap();
    let row = |file: &str, when: &str| format!("| `{file}` | {HASH} | {when} | all of it | nothing, `a | b` too |\n");
    let head = "# Table\n\n| file | sha256 | reviewed | looked at | found |\n|---|---|---|---|---|\n";
    let table =
        format!("{head}{}{}\nBehind it.\n", row("src/kept.rs", "2026-01-01"), row("units/a.conf", "2026-01-02"));
    fs::write(at("AUDIT.md"), &table).unwrap();
    assert_eq!(audit(&[], directory.path()), (true, String::new()));

    fs::write(at("units/a.conf"), "test, and more").unwrap();
    fs::write(at("src/new.rs"), "test").unwrap();
    fs::remove_file(at("src/kept.rs")).unwrap();
    let (right, told) = audit(&[], directory.path());
    assert!(!right);
    for word in ["units/a.conf is not what was reviewed", "src/new.rs has no row", "src/kept.rs, which is not there"] {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    assert!(told.contains("helper/audit --reset"), "{told}");
    assert_eq!(fs::read_to_string(at("AUDIT.md")).unwrap(), table, "a look changes nothing");

    assert!(audit(&["--reset"], directory.path()).0);
    let text = fs::read_to_string(at("AUDIT.md")).unwrap();
    assert!(text.starts_with(head) && text.ends_with("\nBehind it.\n"), "{text}");
    assert!(text.contains(&format!("| `src/new.rs` | {HASH} | not reviewed | | |")), "{text}");
    assert!(text.contains("| changed since the review of 2026-01-02 | all of it |"), "{text}");
    assert!(!text.contains("kept.rs"), "{text}");
    let (right, told) = audit(&[], directory.path());
    assert!(right && told.contains("units/a.conf: changed since the review of 2026-01-02"), "{told}");
    assert!(told.contains("src/new.rs: not reviewed"), "{told}");
    // Changed once more, it is still the old review that it is changed since.
    fs::write(at("units/a.conf"), "again").unwrap();
    assert!(audit(&["--reset"], directory.path()).0);
    assert_eq!(fs::read_to_string(at("AUDIT.md")).unwrap().matches("changed since").count(), 1);
}
