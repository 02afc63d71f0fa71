//! Links that lead out, things that are no files.

use std::ffi::CString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, mknod};
use pi_gateway::worker::message::{Condition, Failure, Format, Kind};
use pi_gateway::worker::tree::version;
use pi_gateway::worker::{list, usage};

use crate::support::{Place, SECRET, path};

/// Symbolic links to the directory outside, by every way there is.
fn ways_out(place: &Place) -> Vec<(&'static str, std::path::PathBuf)> {
    let outside = place.outside("");
    let proc_cwd = format!("/proc/self/root{}", outside.display());
    vec![
        ("relative", "../outside".into()),
        ("absolute", outside.clone()),
        ("proc", proc_cwd.into()),
        ("twice", "relative".into()),
        ("dots", "a/../../outside".into()),
        ("back", "../inside/../outside".into()),
    ]
}

#[test]
fn no_operation_follows_a_link_that_leads_out() {
    let place = Place::new();
    std::fs::create_dir(place.inside("a")).unwrap();
    place.write("file", b"mine");
    for (name, target) in ways_out(&place) {
        symlink(&target, place.inside(name)).unwrap();
        let secret = path(format!("{name}/secret"));
        // Without the wall the link leads to the secret.
        assert_eq!(std::fs::read(place.inside(format!("{name}/secret"))).unwrap(), SECRET, "{name}");
        let tree = &place.tree;
        assert_eq!(tree.open_file(&secret).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(tree.stat(&secret).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(tree.directory(&path(name)).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(list::page(tree, &path(name), None, 10, true).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(tree.create(&secret, true).err(), Some(Failure::Outside), "{name}");
        assert_eq!(tree.create(&path(format!("{name}/x/y")), true).err(), Some(Failure::Outside), "{name}");
        assert_eq!(tree.make_directory(&path(format!("{name}/d"))).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(tree.rename(&secret, &path("taken"), true).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(tree.rename(&path("file"), &secret, true).unwrap_err(), Failure::Outside, "{name}");
        assert_eq!(tree.remove(&secret, true, Condition::None).unwrap_err(), Failure::Outside, "{name}");
        let unnamed = tree.create(&path("new"), false).unwrap();
        assert_eq!(tree.commit(unnamed, &secret, Condition::None).unwrap_err(), Failure::Outside, "{name}");
        place.assert_outside_is_untouched();
    }
    // Told as what they are, and not gone into.
    let (entries, more) = list::page(&place.tree, &path(""), None, 100, true).unwrap();
    let links: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Symlink).collect();
    assert_eq!((links.len(), entries.len(), more), (6, 8, false));
    assert_eq!(usage::measure(&place.tree).unwrap().inodes, 8);
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let (_, summary) = place.archive(format, true).unwrap();
        assert_eq!((summary.entries, summary.skipped), (8, 0), "{format:?}");
    }
}

#[test]
fn what_a_write_names_last_is_never_followed() {
    let place = Place::new();
    let to_secret = place.outside("secret");
    for name in ["replaced", "moved", "removed", "over"] {
        symlink(&to_secret, place.inside(name)).unwrap();
    }
    let unnamed = place.tree.create(&path("replaced"), false).unwrap();
    place.tree.commit(unnamed, &path("replaced"), Condition::None).unwrap();
    assert_eq!(std::fs::symlink_metadata(place.inside("replaced")).unwrap().len(), 0);
    place.tree.rename(&path("moved"), &path("elsewhere"), false).unwrap();
    assert_eq!(std::fs::read_link(place.inside("elsewhere")).unwrap(), to_secret);
    place.tree.remove(&path("removed"), true, Condition::None).unwrap();
    place.write("file", b"mine");
    place.tree.rename(&path("file"), &path("over"), true).unwrap();
    assert_eq!(std::fs::read(place.inside("over")).unwrap(), b"mine");
    place.assert_outside_is_untouched();
}

#[test]
fn a_link_that_stays_inside_is_followed_for_reading() {
    let place = Place::new();
    std::fs::create_dir(place.inside("a")).unwrap();
    place.write("a/file", b"mine");
    symlink("a/file", place.inside("link")).unwrap();
    symlink("a", place.inside("directory")).unwrap();
    for name in ["link", "directory/file"] {
        let mut content = Vec::new();
        place.tree.open_file(&path(name)).unwrap().0.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"mine");
    }
    symlink("loop", place.inside("loop")).unwrap();
    assert_eq!(place.tree.open_file(&path("loop")).unwrap_err(), Failure::Outside);
}

#[test]
fn our_own_directories_are_not_taken_from_where_a_link_leads() {
    let place = Place::new();
    for name in [".pi-gateway-trash", ".pi-gateway-new"] {
        symlink(place.outside(""), place.inside(name)).unwrap();
    }
    let soon = Instant::now() + Duration::from_secs(60);
    // What is swept at the start, and after each removal, is never what is outside.
    let _ = pi_gateway::worker::trash::sweep(&place.tree, soon);
    let _ = pi_gateway::worker::trash::empty(&place.tree, soon);
    std::fs::create_dir_all(place.inside("d/e")).unwrap();
    place.tree.remove(&path("d"), true, Condition::None).unwrap();
    assert!(pi_gateway::worker::trash::empty(&place.tree, soon).unwrap());
    let unnamed = place.tree.create(&path("new"), false).unwrap();
    place.tree.commit(unnamed, &path("new"), Condition::Absent).unwrap();
    assert!(place.inside("new").is_file() && !place.inside("d").exists());
    place.assert_outside_is_untouched();
}

#[test]
fn a_removal_succeeds_whatever_stands_where_the_trash_goes() {
    for kind in ["file", "link", "fifo"] {
        let place = Place::new();
        let at = place.inside(".pi-gateway-trash");
        match kind {
            "file" => std::fs::write(&at, b"").unwrap(),
            "link" => symlink("nowhere", &at).unwrap(),
            _ => nix::unistd::mkfifo(&at, Mode::S_IRWXU).unwrap(),
        }
        std::fs::create_dir_all(place.inside("empty")).unwrap();
        place.tree.remove(&path("empty"), true, Condition::None).unwrap();
        let soon = Instant::now() + Duration::from_secs(60);
        assert_eq!(pi_gateway::worker::trash::empty(&place.tree, soon), Ok(true), "{kind}");
        assert_eq!(pi_gateway::worker::trash::is_empty(&place.tree), Ok(true), "{kind}");
    }
}

#[test]
fn what_is_no_file_is_named_and_never_opened() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.inside("fifo"), Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(place.inside("socket")).unwrap();
    let mut expected = vec![("fifo", Kind::Fifo), ("socket", Kind::Socket)];
    // Only root can make one.
    let zero = CString::new(place.inside("device").as_os_str().as_bytes()).unwrap();
    if mknod(zero.as_c_str(), SFlag::S_IFCHR, Mode::S_IRWXU, nix::sys::stat::makedev(1, 5)).is_ok() {
        expected.push(("device", Kind::Device));
    } else {
        eprintln!("!!! no device was tried: only root can make one");
    }
    // Control: somebody who opens the FIFO plainly waits for its other end.
    let fifo = place.inside("fifo");
    let (opened, waited) = std::sync::mpsc::channel();
    let naive = std::thread::spawn(move || opened.send(std::fs::File::open(fifo).is_ok()));
    assert!(waited.recv_timeout(Duration::from_millis(300)).is_err(), "a plain open does not wait");
    for (name, kind) in &expected {
        assert_eq!(place.tree.open_file(&path(name)).unwrap_err(), Failure::Special(*kind));
        assert_eq!(place.tree.stat(&path(name)).unwrap().kind, *kind);
        assert_eq!(place.tree.directory(&path(name)).unwrap_err(), Failure::NotADirectory);
    }
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        assert_eq!(place.archive(format, true).unwrap().1.skipped, expected.len() as u64);
    }
    // None of that has opened it either: the other thread still waits, until it is let go.
    assert!(waited.try_recv().is_err());
    drop(std::fs::OpenOptions::new().write(true).open(place.inside("fifo")).unwrap());
    assert!(waited.recv_timeout(Duration::from_secs(10)).unwrap());
    naive.join().unwrap().unwrap();
    for (name, _) in &expected {
        place.tree.remove(&path(name), false, Condition::None).unwrap();
    }
}

#[test]
fn a_write_leaves_the_other_names_of_a_hard_link_alone() {
    let place = Place::new();
    std::fs::hard_link(place.outside("secret"), place.inside("hard")).unwrap();
    let unnamed = place.tree.create(&path("hard"), false).unwrap();
    std::io::Write::write_all(&mut &unnamed.file, b"overwritten").unwrap();
    place.tree.commit(unnamed, &path("hard"), Condition::None).unwrap();
    assert_eq!(std::fs::read(place.inside("hard")).unwrap(), b"overwritten");
    place.assert_outside_is_untouched();
}

#[test]
fn a_condition_on_a_link_is_judged_by_the_file_that_reading_gives() {
    let place = Place::new();
    place.write("file", b"old");
    for (name, target) in [("link", "file"), ("out", "../outside/secret"), ("none", "absent")] {
        symlink(target, place.inside(name)).unwrap();
    }
    let tree = &place.tree;
    let put = |name: &str, condition| {
        let unnamed = tree.create(&path(name), false).unwrap();
        tree.commit(unnamed, &path(name), condition).map(|_| ())
    };
    let read = Condition::Version(tree.open_file(&path("link")).unwrap().1.version);
    let stale = read;
    place.write("file", b"new content");
    assert_eq!(put("link", stale), Err(Failure::Changed));
    assert_eq!(tree.remove(&path("link"), false, stale), Err(Failure::Changed));
    assert_eq!(put("link", Condition::Absent), Err(Failure::Exists));
    // The version of what a link leads to outside is nobody's to compare with.
    let secret = version(&rustix::fs::stat(place.outside("secret")).unwrap());
    assert_eq!(put("out", Condition::Version(secret)), Err(Failure::Changed));
    // By its own version as well: that is all that a link has that leads nowhere.
    for name in ["none", "out"] {
        let own = Condition::Version(tree.stat(&path(name)).unwrap().version);
        put(name, own).unwrap();
    }
    let read = Condition::Version(tree.open_file(&path("link")).unwrap().1.version);
    put("link", read).unwrap();
    assert!(place.inside("link").symlink_metadata().unwrap().is_file());
    assert_eq!(put("link", read), Err(Failure::Changed), "it is a file of its own now");
    assert_eq!(std::fs::read(place.inside("file")).unwrap(), b"new content");
    symlink("file", place.inside("again")).unwrap();
    tree.remove(&path("again"), false, read).unwrap();
    assert_eq!(std::fs::read(place.inside("file")).unwrap(), b"new content");
    place.assert_outside_is_untouched();
}
