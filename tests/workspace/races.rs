//! An agent that changes the tree while it is worked on.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use pi_gateway::worker::list;
use pi_gateway::worker::message::{Condition, Format};

use crate::support::{Place, SECRET, path};

/// Exchanges two names until told to stop; gives how often.
fn flip(one: &Path, other: &Path, stop: &AtomicBool, flips: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
        flips.fetch_add(1, Ordering::Relaxed);
    }
}

/// A workspace where `d` is now a directory, now a link to the one outside.
fn flipping() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.inside("d")).unwrap();
    place.write("d/secret", b"my own");
    symlink("../outside", place.inside("e")).unwrap();
    place
}

/// Longest wait for a yes: on a busy machine the one who flips and the one who acts seldom run at the same time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `act` until there were so many flips and it said yes; gives how often it did.
fn while_flipping(place: &Place, flips_wanted: u64, mut act: impl FnMut() -> bool) -> u64 {
    let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
    let (one, other) = (place.inside("d"), place.inside("e"));
    std::thread::scope(|scope| {
        scope.spawn(|| flip(&one, &other, &stop, &flips));
        let (mut yes, until) = (0, Instant::now() + PATIENCE);
        while flips.load(Ordering::Relaxed) < flips_wanted || (yes == 0 && Instant::now() < until) {
            yes += u64::from(act());
        }
        stop.store(true, Ordering::Relaxed);
        yes
    })
}

fn flips() -> u64 {
    std::env::var("FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(60_000)
}

#[test]
fn reading_never_loses_a_race_with_a_rename() {
    let place = flipping();
    let at = place.inside("d/secret");
    let lost = while_flipping(&place, flips() / 4, || {
        // What looks careful: checked, then opened.
        let checked = std::fs::symlink_metadata(at.parent().unwrap()).is_ok_and(|found| found.is_dir());
        checked && std::fs::read(&at).is_ok_and(|content| content == SECRET)
    });
    assert!(lost > 0, "control: a naive open never lost");
    let (mut read, mut content) = (0, Vec::new());
    while_flipping(&place, flips(), || {
        if let Ok((mut file, entry)) = place.tree.open_file(&path("d/secret")) {
            content.clear();
            file.read_to_end(&mut content).unwrap();
            assert_eq!((content.as_slice(), entry.version.size), (b"my own".as_slice(), 6));
            read += 1;
        }
        if let Ok(entry) = place.tree.stat(&path("d/secret")) {
            assert_eq!(entry.version.size, 6);
        }
        if let Ok((entries, _)) = list::page(&place.tree, &path("d"), None, 10, true) {
            assert!(entries.iter().all(|entry| entry.version.size == 6));
        }
        read > 0
    });
    assert!(read > 0, "nothing was ever read");
    println!("the naive open lost {lost} times; ours read {read} times");
}

#[test]
fn writing_never_loses_a_race_with_a_rename() {
    let place = flipping();
    let naive = place.inside("d/control");
    let landed = place.outside("control");
    let lost = while_flipping(&place, flips() / 4, || {
        let checked = std::fs::symlink_metadata(naive.parent().unwrap()).is_ok_and(|found| found.is_dir());
        checked && std::fs::write(&naive, b"x").is_ok() && std::fs::remove_file(&landed).is_ok()
    });
    assert!(lost > 0, "control: a naive write never lost");
    let _ = std::fs::remove_file(&landed);
    let mut written = 0;
    while_flipping(&place, flips(), || {
        if let Ok(unnamed) = place.tree.create(&path("d/new/deeper"), true) {
            written += u64::from(place.tree.commit(unnamed, &path("d/new/deeper"), Condition::None).is_ok());
        }
        let _ = place.tree.make_directory(&path("d/made/more"));
        let _ = place.tree.rename(&path("d/made"), &path("d/moved"), true);
        let _ = place.tree.remove(&path("d/moved"), true, Condition::None);
        let _ = place.tree.remove(&path("d/new"), true, Condition::None);
        let _ = place.tree.remove(&path("d/control"), true, Condition::None);
        written > 0
    });
    assert!(written > 0, "nothing was ever written");
    place.assert_outside_is_untouched();
}

#[test]
fn an_archive_never_loses_a_race_with_a_rename() {
    let place = flipping();
    let marker = SECRET;
    let mut held = 0;
    while_flipping(&place, flips() / 4, || {
        let Ok((bytes, _)) = place.archive(Format::TarGz, true) else { return false };
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
        assert!(!plain.windows(marker.len()).any(|window| window == marker));
        held += u64::from(plain.windows(6).any(|window| window == b"my own"));
        held > 0
    });
    assert!(held > 0, "the directory was never in an archive");
}

#[test]
fn removing_never_loses_a_race_with_a_rename() {
    // The directory in a tree that is being removed turns into a link and back.
    let place = Place::new();
    let soon = || Instant::now() + Duration::from_secs(60);
    for _ in 0..200 {
        std::fs::create_dir_all(place.inside("t/d/x")).unwrap();
        place.write("t/d/secret", b"my own");
        symlink(place.outside(""), place.inside("t/e")).unwrap();
        let stop = AtomicBool::new(false);
        // By descriptor, as the tree moves to the trash.
        let inside_t = std::fs::File::open(place.inside("t")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat2(&inside_t, "d", &inside_t, "e", RenameFlags::RENAME_EXCHANGE);
                }
            });
            let removed = place.tree.remove(&path("t"), true, Condition::None);
            let emptied = pi_gateway::worker::trash::empty(&place.tree, soon());
            stop.store(true, Ordering::Relaxed);
            removed.unwrap();
            assert!(emptied.is_ok(), "{emptied:?}");
        });
        while !pi_gateway::worker::trash::empty(&place.tree, soon()).unwrap() {}
        assert!(!place.inside("t").exists());
        place.assert_outside_is_untouched();
    }
}

#[test]
fn a_link_that_turns_into_a_file_does_not_end_a_listing() {
    let place = Place::new();
    place.write("d", b"a file");
    symlink("nowhere", place.inside("e")).unwrap();
    while_flipping(&place, flips() / 4, || {
        let (entries, _) = list::page(&place.tree, &path(""), None, 10, false).unwrap();
        assert!(entries.len() <= 2);
        true
    });
}
