//! The helper stays small enough to be read in one sitting: this test counts it and prints what it counted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of code in all: not blank, no comment, before the tests.
const LINES: usize = 1_000;
/// Lines of code of one file.
const LINES_OF_A_FILE: usize = 200;
/// Crates that are not ours, with everything they pull in.
const CRATES: usize = 20;
/// Requests the launcher answers.
const REQUESTS: usize = 8;

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines that count, trimmed.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).map(str::to_owned).collect()
}

fn source_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn the_code_fits_into_the_budget() {
    let (mut all, mut over, mut with_unsafe) = (0, Vec::new(), Vec::new());
    for path in sources(&source_directory()) {
        let name = path.strip_prefix(source_directory()).unwrap().display().to_string();
        let lines = code(&path);
        println!("{:>5}  {name}", lines.len());
        all += lines.len();
        if lines.len() > LINES_OF_A_FILE {
            over.push(name.clone());
        }
        if lines.iter().any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe"))
        {
            with_unsafe.push(name);
        }
    }
    println!("{all:>5}  of {LINES} lines in all; with unsafe code: {with_unsafe:?}");
    assert!(over.is_empty(), "more than {LINES_OF_A_FILE} lines of code: {over:?}");
    assert_eq!(with_unsafe, ["sys.rs"], "unsafe code belongs into sys.rs");
    assert!(all <= LINES, "{all} lines of code, {LINES} are allowed");
}

#[test]
fn the_requests_fit_into_the_budget() {
    let lines = code(&source_directory().join("wire.rs"));
    let inside = lines.iter().skip_while(|line| *line != "pub enum Request {").skip(1);
    let variants = inside.take_while(|line| *line != "}").filter(|line| !line.starts_with('#')).count();
    println!("{variants} of {REQUESTS} requests");
    assert!((1..=REQUESTS).contains(&variants), "{variants} requests");
}

#[test]
fn the_crates_fit_into_the_budget() {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["tree", "--locked", "--offline", "-p", "pi-gateway-helper", "-e", "normal", "--prefix", "none"]);
    let told = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(told.status.success(), "cargo tree: {}", String::from_utf8_lossy(&told.stderr));
    let text = String::from_utf8(told.stdout).unwrap();
    let mut crates: Vec<&str> =
        text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).collect();
    crates.sort_unstable();
    crates.dedup();
    crates.retain(|name| *name != "pi-gateway-helper");
    println!("{} of {CRATES} external crates: {}", crates.len(), crates.join(", "));
    assert!((1..=CRATES).contains(&crates.len()), "{} crates", crates.len());
}
