//! docs/dependencies.md lists the crates that are built into the helper, or run when it is built, as they are.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::process::Command;

/// `name version` of the external crates that edges of these kinds lead to.
fn crates(edges: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["tree", "--locked", "--offline", "-p", "pi-gateway-helper", "-e", edges, "--prefix", "none"]);
    let told = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(told.status.success(), "cargo tree: {}", String::from_utf8_lossy(&told.stderr));
    let text = String::from_utf8(told.stdout).unwrap();
    let words = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    });
    words.filter(|found| !found.starts_with("pi-gateway-helper ")).collect()
}

#[test]
fn every_crate_of_the_helper_is_recorded_with_its_version() {
    let path = format!("{}/../docs/dependencies.md", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(path).unwrap();
    let (built_in, building) = document.split_once("Two more run on the machine that builds").unwrap();
    let rows = |text: &str| -> BTreeSet<String> {
        let cells = |line: &str| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some(format!("{} {}", cells.next()?.trim_end_matches('`'), cells.next()?))
        };
        text.lines().filter_map(cells).collect()
    };
    let normal = crates("normal");
    let told = "read what is new of it, and write that into docs/dependencies.md";
    assert_eq!(rows(built_in), normal, "{told}");
    let only_building: BTreeSet<String> = crates("normal,build").difference(&normal).cloned().collect();
    assert_eq!(rows(building), only_building, "{told}");
    for name in normal.iter().filter_map(|found| found.split(' ').next()) {
        let read = building.split_once("## What was read").unwrap().1;
        assert!(read.lines().any(|line| line.contains(name)), "what was read of {name}?");
    }
}
