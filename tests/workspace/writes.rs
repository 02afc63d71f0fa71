//! Files get their names whole or not at all, and no update is lost.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use pi_gateway::worker::message::{Condition, Entry, Failure};
use pi_gateway::worker::trash;

use crate::support::{Place, path};

fn put(place: &Place, at: &str, content: &[u8], condition: Condition) -> Result<Entry, Failure> {
    let mut unnamed = place.tree.create(&path(at), true)?;
    unnamed.file.write_all(content).unwrap();
    place.tree.commit(unnamed, &path(at), condition)
}

fn temporaries(place: &Place) -> usize {
    std::fs::read_dir(place.inside(".pi-gateway-new")).map_or(0, Iterator::count)
}

#[test]
fn a_reader_finds_the_old_content_or_the_new() {
    let place = Place::new();
    let contents = [vec![b'a'; 300_000], vec![b'b'; 200_000]];
    put(&place, "file", &contents[0], Condition::None).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = [0; 2];
            while !over.load(Ordering::Relaxed) {
                let content = std::fs::read(place.inside("file")).unwrap();
                let which = contents.iter().position(|one| *one == content).expect("a mixture");
                seen[which] += 1;
            }
            seen
        });
        for round in 0..100 {
            put(&place, "file", &contents[(round + 1) % 2], Condition::None).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap().iter().sum::<i32>() > 0);
    });
    assert_eq!(temporaries(&place), 0);
}

#[test]
fn two_writers_with_conditions_lose_no_update() {
    const EACH: u64 = 50;
    let place = Place::new();
    put(&place, "count", b"0", Condition::Absent).unwrap();
    let add = || {
        let mut lost = 0;
        for _ in 0..EACH {
            loop {
                let (file, entry) = place.tree.open_file(&path("count")).unwrap();
                let count: u64 = std::io::read_to_string(file).unwrap().parse().unwrap();
                let next = (count + 1).to_string();
                match put(&place, "count", next.as_bytes(), Condition::Version(entry.version)) {
                    Ok(_) => break,
                    Err(Failure::Changed) => lost += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        lost
    };
    let refused: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Control: they did get in each other's way.
    assert!(refused > 0, "the writers never met");
    assert_eq!(std::fs::read_to_string(place.inside("count")).unwrap(), (4 * EACH).to_string());
    assert_eq!(temporaries(&place), 0);
}

#[test]
fn one_of_many_makes_what_must_not_be_there() {
    let place = Place::new();
    let made: usize = std::thread::scope(|scope| {
        let one = || usize::from(put(&place, "new/file", b"x", Condition::Absent).is_ok());
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((made, temporaries(&place)), (1, 0));
}

#[test]
fn what_is_refused_changes_nothing_and_leaves_nothing() {
    let place = Place::new();
    let first = put(&place, "file", b"old", Condition::Absent).unwrap();
    assert_eq!(put(&place, "file", b"new", Condition::Absent), Err(Failure::Exists));
    place.write("file", b"by the agent");
    assert_eq!(put(&place, "file", b"new", Condition::Version(first.version)), Err(Failure::Changed));
    assert_eq!(put(&place, "none", b"new", Condition::Version(first.version)), Err(Failure::Changed));
    std::fs::create_dir(place.inside("d")).unwrap();
    assert_eq!(put(&place, "d", b"new", Condition::None), Err(Failure::IsADirectory));
    assert_eq!(put(&place, "file/x", b"new", Condition::None), Err(Failure::NotADirectory));
    drop(place.tree.create(&path("dropped"), false).unwrap());
    assert_eq!(std::fs::read(place.inside("file")).unwrap(), b"by the agent");
    assert_eq!(temporaries(&place), 0);
    let mut names: Vec<_> = std::fs::read_dir(place.inside("")).unwrap().map(|at| at.unwrap().file_name()).collect();
    names.retain(|name| !name.to_string_lossy().starts_with(".pi-gateway-"));
    names.sort();
    assert_eq!(names, ["d", "file"]);
}

#[test]
fn directories_are_made_with_the_name_and_not_for_a_file_that_never_gets_one() {
    let place = Place::new();
    std::fs::create_dir(place.inside("there")).unwrap();
    drop(place.tree.create(&path("new/deep/file"), true).unwrap());
    drop(place.tree.create(&path("there/new/file"), true).unwrap());
    let first = put(&place, "file", b"old", Condition::Absent).unwrap();
    assert_eq!(put(&place, "new/deep/file", b"x", Condition::Version(first.version)), Err(Failure::Changed));
    assert_eq!(put(&place, "file/deep/x", b"x", Condition::None), Err(Failure::NotADirectory));
    assert!(!place.inside("new").exists() && !place.inside("there/new").exists());
    put(&place, "there/new/deep/file", b"x", Condition::Absent).unwrap();
    assert_eq!(std::fs::read(place.inside("there/new/deep/file")).unwrap(), b"x");
}

#[test]
fn what_a_killed_worker_left_is_swept() {
    let place = Place::new();
    std::fs::create_dir(place.inside(".pi-gateway-new")).unwrap();
    place.write(".pi-gateway-new/.pi-gateway-0", b"half");
    // What a removal had put aside that nobody asks for any more.
    std::fs::create_dir_all(place.inside(".pi-gateway-trash/.pi-gateway-1/d")).unwrap();
    for number in 0..3000 {
        place.write(format!(".pi-gateway-trash/.pi-gateway-1/d/{number}"), b"removed");
    }
    place.write("mine", b"mine");
    let now = std::time::Instant::now();
    // However much it is, nobody waits for it: the next worker goes on.
    assert_eq!(trash::sweep(&place.tree, now), Ok(false));
    assert!(place.inside(".pi-gateway-trash").exists());
    assert_eq!(trash::sweep(&place.tree, now + std::time::Duration::from_secs(60)), Ok(true));
    assert!(!place.inside(".pi-gateway-new").exists() && !place.inside(".pi-gateway-trash").exists());
    assert!(place.inside("mine").exists());
}

#[test]
fn permission_bits_stay_and_special_ones_do_not() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    for (mode, kept) in [(0o755, 0o755), (0o600, 0o600), (0o4755, 0o755), (0o2777, 0o777)] {
        place.write("script", b"#!/bin/sh\n");
        std::fs::set_permissions(place.inside("script"), std::fs::Permissions::from_mode(mode)).unwrap();
        put(&place, "script", b"#!/bin/sh\nnew\n", Condition::None).unwrap();
        let found = std::fs::metadata(place.inside("script")).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, kept, "{mode:o}");
    }
}

#[test]
fn every_name_that_a_file_can_have_comes_back_byte_for_byte() {
    let place = Place::new();
    for name in crate::archives::odd_names() {
        let mut unnamed = place.tree.create(&path(&name), false).unwrap();
        unnamed.file.write_all(&name).unwrap();
        place.tree.commit(unnamed, &path(&name), Condition::Absent).unwrap();
        let (file, entry) = place.tree.open_file(&path(&name)).unwrap();
        assert_eq!(
            (std::io::read_to_string(file).map_or(name.len(), |text| text.len()), entry.path),
            (name.len(), name)
        );
    }
    let (entries, _) = pi_gateway::worker::list::page(&place.tree, &path(""), None, 100, false).unwrap();
    let mut names = crate::archives::odd_names();
    names.sort();
    assert_eq!(entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>(), names);
}
