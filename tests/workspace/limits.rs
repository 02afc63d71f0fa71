//! Trees that are too deep, too wide or too large.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pi_gateway::worker::archive::{self, Source};
use pi_gateway::worker::message::{Condition, Entry, Failure, Format};
use pi_gateway::worker::{list, trash, usage};
use rustix::fs::{Mode, OFlags, mkdirat, openat};

use crate::support::{Place, path, peak_memory};

/// Makes so many levels below the workspace, one in the other, as an agent can who changes into each.
fn deepen(place: &Place, levels: usize, name: &CStr) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = std::fs::File::open(place.inside("")).unwrap().into();
    for _ in 0..levels {
        mkdirat(&at, name, Mode::RWXU).unwrap();
        at = openat(&at, name, flags, Mode::empty()).unwrap();
    }
    openat(&at, c"bottom", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
}

/// Removes a tree by removing it as often as it takes.
fn remove(place: &Place, name: &str) {
    place.tree.remove(&path(name), true, Condition::None).unwrap();
    while !trash::empty(&place.tree, Instant::now() + Duration::from_secs(2)).unwrap() {}
    assert!(!place.inside(".pi-gateway-trash").exists());
}

fn all(place: &Place, limit: usize, recursive: bool) -> Vec<Entry> {
    let (mut found, mut after): (Vec<Entry>, Option<Vec<u8>>) = (Vec::new(), None);
    loop {
        let (entries, more) = list::page(&place.tree, &path(""), after.as_deref(), limit, recursive).unwrap();
        assert!(entries.len() <= limit);
        after = entries.last().map(|entry| entry.path.clone()).or(after);
        found.extend(entries);
        if !more {
            return found;
        }
    }
}

#[test]
fn four_thousand_levels_are_counted_archived_and_removed() {
    let place = Place::new();
    deepen(&place, 4000, c"d");
    // Control: no path to the bottom can be given to the kernel in one piece.
    let bottom = place.inside(["d"; 4000].join("/")).join("bottom");
    assert_eq!(std::fs::metadata(bottom).unwrap_err().raw_os_error(), Some(nix::libc::ENAMETOOLONG));
    assert_eq!(usage::measure(&place.tree).unwrap().inodes, 4001);
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        assert_eq!(place.archive(format, true).unwrap().1.entries, 4001, "{format:?}");
    }
    let (mut after, mut listed) = (None, 0);
    let refused = loop {
        match list::page(&place.tree, &path(""), after.as_deref(), 1000, true) {
            Ok((entries, more)) => {
                assert!(more, "it ended before the bottom");
                listed += entries.len();
                after = entries.last().map(|entry| entry.path.clone());
            }
            Err(failure) => break failure,
        }
    };
    // A path of 4,095 bytes is the longest that can be asked for.
    assert!(refused == Failure::TooDeep || refused == Failure::BadPath, "{refused:?}");
    assert!((1000..=2048).contains(&listed), "{listed}");
    assert_eq!(list::page(&place.tree, &path(""), None, 1000, false).unwrap().0.len(), 1);
    remove(&place, "d");
}

#[test]
fn more_levels_than_are_walked_are_refused_and_can_be_removed() {
    let place = Place::new();
    deepen(&place, 4200, c"d");
    assert_eq!(usage::measure(&place.tree), Err(Failure::TooDeep));
    assert_eq!(place.archive(Format::TarZst, true).unwrap_err(), Failure::TooDeep);
    remove(&place, "d");
}

#[test]
fn a_path_that_has_no_room_in_an_archive_does_not_end_it() {
    let place = Place::new();
    deepen(&place, 300, c"ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd");
    place.write("file", b"x");
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let (_, summary) = place.archive(format, true).unwrap();
        assert!(summary.skipped == 1 && (250..302).contains(&summary.entries), "{format:?}: {summary:?}");
    }
    let (name, _) = list::page(&place.tree, &path(""), None, 1, false).unwrap();
    remove(&place, std::str::from_utf8(&name[0].path).unwrap());
}

#[test]
fn a_tebibyte_of_nothing_is_read_from_and_counted_and_not_archived() {
    let place = Place::new();
    let file = std::fs::File::create(place.inside("holes")).unwrap();
    file.set_len(1 << 40).unwrap();
    let (_, entry) = place.tree.open_file(&path("holes")).unwrap();
    assert_eq!(entry.version.size, 1 << 40);
    assert!(usage::measure(&place.tree).unwrap().bytes < 1 << 20);
    let (before, begun) = (peak_memory(), Instant::now());
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        assert_eq!(place.archive(format, true).unwrap().1.skipped, 1, "{format:?}");
    }
    // Writing a tebibyte takes an hour.
    assert!(begun.elapsed() < Duration::from_secs(120));
    assert!(peak_memory() - before < 256 << 20);
}

#[test]
fn holes_up_to_a_limit_are_archived_as_zeros() {
    let place = Place::new();
    std::fs::File::create(place.inside("holes")).unwrap().set_len(64 << 20).unwrap();
    let (bytes, summary) = place.archive(Format::TarZst, true).unwrap();
    assert_eq!((summary.entries, summary.skipped), (1, 0));
    assert!(bytes.len() < 1 << 20);
}

#[test]
fn a_listing_in_pages_holds_everything_once_and_in_order() {
    let place = Place::new();
    for directory in ["a", "a-b", "a/c", "a/c/d"] {
        std::fs::create_dir_all(place.inside(directory)).unwrap();
        for number in 0..150 {
            place.write(format!("{directory}/f{number}"), b"");
        }
        std::fs::create_dir(place.inside(format!("{directory}/f1-x"))).unwrap();
    }
    let walked = usage::measure(&place.tree).unwrap().inodes;
    for limit in [1, 7, 64, 1000] {
        let found: Vec<_> = all(&place, limit, true).into_iter().map(|entry| entry.path).collect();
        assert_eq!(found.len() as u64, walked, "pages of {limit}");
        let parts = |path: &Vec<u8>| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert!(found.is_sorted_by(|one, other| parts(one) < parts(other)), "pages of {limit}");
    }
}

#[test]
fn a_listing_in_pages_goes_into_no_link() {
    let place = Place::new();
    std::fs::create_dir(place.inside("a")).unwrap();
    place.write("a/file", b"");
    std::os::unix::fs::symlink(".", place.inside("itself")).unwrap();
    std::os::unix::fs::symlink("a", place.inside("to-a")).unwrap();
    for limit in [1, 2, 3, 100] {
        let found: Vec<_> = all(&place, limit, true).into_iter().map(|entry| entry.path).collect();
        assert_eq!(found, [b"a".as_slice(), b"a/file", b"itself", b"to-a"], "pages of {limit}");
    }
}

#[test]
fn a_wide_tree_of_directories_is_listed_in_time() {
    let place = Place::new();
    for number in 0..20_000 {
        std::fs::create_dir(place.inside(format!("{number}"))).unwrap();
    }
    // To read all names again for each directory would be 400 million names.
    let begun = Instant::now();
    assert_eq!(all(&place, 1000, true).len(), 20_000);
    println!("20,000 directories in pages of 1,000: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn removing_stops_when_its_time_is_over_and_goes_on_later() {
    let place = Place::new();
    std::fs::create_dir(place.inside("d")).unwrap();
    for number in 0..20_000 {
        std::fs::write(place.inside(format!("d/{number}")), b"").unwrap();
    }
    place.tree.remove(&path("d"), true, Condition::None).unwrap();
    assert!(!place.inside("d").exists());
    let mut calls = 0;
    while !trash::empty(&place.tree, Instant::now() + Duration::from_millis(20)).unwrap() {
        calls += 1;
    }
    assert!(calls > 0, "all of it was removed in one call of a millisecond");
    assert!(!place.inside(".pi-gateway-trash").exists());
}

fn many(files: usize, limit: u64) {
    let place = Place::new();
    for number in 0..files {
        let directory = place.inside(format!("{}", number / 10_000));
        if number % 10_000 == 0 {
            std::fs::create_dir(&directory).unwrap();
        }
        std::fs::write(directory.join(format!("a file with an ordinary name {number}")), number.to_string()).unwrap();
    }
    let entries = (files + files / 10_000) as u64;
    let before = peak_memory();
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let begun = Instant::now();
        let source = Source::open(&place.tree, &path("")).unwrap();
        let summary = archive::write(source, format, true, &mut std::io::sink()).unwrap();
        let more = peak_memory().saturating_sub(before);
        println!(
            "{format:?}: {} entries in {:?}, peak memory {} KiB more",
            summary.entries,
            begun.elapsed(),
            more >> 10
        );
        assert_eq!(summary.entries, entries);
        assert!(more < limit, "{format:?}: {more} bytes");
    }
    assert_eq!(usage::measure(&place.tree).unwrap().inodes, entries);
    assert_eq!(all(&place, 1000, true).len() as u64, entries);
}

#[test]
#[ignore = "memory is the process's: to be run alone, as `many_files -- --ignored --test-threads=1`"]
fn many_files_a_hundred_thousand_cost_no_memory() {
    many(100_000, 64 << 20);
}

#[test]
#[ignore = "a million files take minutes and an otherwise idle process"]
fn many_files_a_million_cost_no_memory() {
    many(1_000_000, 64 << 20);
}

#[test]
#[ignore = "memory is the process's: to be run alone"]
fn many_levels_cost_no_memory() {
    let place = Place::new();
    deepen(&place, 4000, c"d");
    let before = peak_memory();
    usage::measure(&place.tree).unwrap();
    let more = peak_memory() - before;
    println!("4,000 levels: {} KiB more", more >> 10);
    remove(&place, "d");
    assert!(more < 64 << 20, "{more}");
}
