//! What its owner has closed to himself. As another user, because root is let in everywhere.

use std::os::unix::fs::{PermissionsExt, chown};

use pi_gateway::worker::message::{Condition, Failure, Format};
use pi_gateway::worker::{list, trash, usage};

use crate::support::{Place, as_nobody, path};

const NOBODY: Option<u32> = Some(65_534);

/// `closed/file` in a directory of mode 0, `listed/file` in one that can be read and not entered, `unreadable` of mode 0.
fn closed() -> Place {
    let place = Place::new();
    for directory in ["closed", "listed", "open"] {
        std::fs::create_dir(place.inside(directory)).unwrap();
        place.write(format!("{directory}/file"), b"x");
    }
    place.write("unreadable", b"x");
    for name in ["closed", "listed", "open", "unreadable", "", "closed/file", "listed/file", "open/file"] {
        chown(place.inside(name), NOBODY, NOBODY)
            .unwrap_or_else(|error| panic!("root is needed for this test: {error}"));
    }
    for (name, mode) in [("closed", 0o000), ("listed", 0o444), ("unreadable", 0o000)] {
        std::fs::set_permissions(place.inside(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    place
}

#[test]
fn what_a_mode_closes_is_denied_and_stays_so() {
    let place = closed();
    as_nobody(|| {
        assert!(std::fs::read(place.inside("unreadable")).is_err(), "control: this thread is let in everywhere");
        assert_eq!(place.tree.open_file(&path("unreadable")).unwrap_err(), Failure::Denied);
        assert_eq!(place.tree.open_file(&path("closed/file")).unwrap_err(), Failure::Denied);
        assert_eq!(place.tree.directory(&path("closed")).unwrap_err(), Failure::Denied);
        assert_eq!(place.tree.create(&path("closed/new"), false).err(), Some(Failure::Denied));
        assert_eq!(place.tree.stat(&path("unreadable")).unwrap().mode, 0);
        assert_eq!(list::page(&place.tree, &path("closed"), None, 10, false).unwrap_err(), Failure::Denied);
        assert_eq!(usage::measure(&place.tree), Err(Failure::Denied));
    });
    let mode = std::fs::metadata(place.inside("closed")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0, "it was opened up");
}

#[test]
fn a_recursive_listing_goes_on_beside_what_is_closed() {
    let place = closed();
    let names = as_nobody(|| {
        let (entries, more) = list::page(&place.tree, &path(""), None, 100, true).unwrap();
        assert!(!more);
        entries.into_iter().map(|entry| String::from_utf8(entry.path).unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(names, ["closed", "listed", "open", "open/file", "unreadable"]);
}

#[test]
fn an_archive_says_what_its_owner_has_closed() {
    let place = closed();
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let summary = as_nobody(|| place.archive(format, true).unwrap().1);
        // closed, listed, open and open/file are in it; closed, listed/file and unreadable are not to be read.
        assert_eq!((summary.entries, summary.skipped), (4, 3), "{format:?}");
    }
}

#[test]
fn a_closed_directory_can_be_removed_by_its_owner() {
    let place = closed();
    as_nobody(|| {
        for name in ["closed", "listed", "unreadable"] {
            place.tree.remove(&path(name), true, Condition::None).unwrap();
        }
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(60);
        assert_eq!(trash::empty(&place.tree, soon), Ok(true));
    });
    assert_eq!(std::fs::read_dir(place.inside("")).unwrap().count(), 1);
}

#[test]
fn our_own_directory_that_the_agent_closed_is_opened_again() {
    let place = closed();
    for name in [".pi-gateway-trash", ".pi-gateway-new"] {
        std::fs::create_dir(place.inside(name)).unwrap();
        place.write(format!("{name}/left"), b"x");
        chown(place.inside(name), NOBODY, NOBODY).unwrap();
        std::fs::set_permissions(place.inside(name), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    as_nobody(|| {
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(60);
        assert_eq!(trash::sweep(&place.tree, soon), Ok(true));
        assert_eq!(trash::empty(&place.tree, soon), Ok(true));
    });
    assert!(!place.inside(".pi-gateway-new").exists() && !place.inside(".pi-gateway-trash").exists());
}
