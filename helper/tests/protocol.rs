//! docs/protocol.md says what the code does.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The variants of an enum of wire.rs.
fn variants(name: &str) -> Vec<String> {
    let source = read("src/wire.rs");
    let body = source.split(&format!("pub enum {name} {{\n")).nth(1).unwrap().split("\n}").next().unwrap();
    let lines = body.lines().map(str::trim).filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    lines.map(|line| line.trim_end_matches(',').to_owned()).collect()
}

#[test]
fn every_message_is_in_the_document_with_its_form() {
    let document = read("../docs/protocol.md");
    for request in variants("Request") {
        assert!(document.contains(&format!("| `{request}` |")), "{request}");
    }
    for name in ["Reply", "Refusal", "Step", "Unit", "Activity", "Outcome"] {
        for variant in variants(name) {
            let word = variant.split('(').next().unwrap();
            assert!(document.contains(&format!("`{word}")), "{name}::{word}");
        }
    }
}

#[test]
fn the_limits_are_in_the_document() {
    use pi_gateway_helper::wire::{MAX_FRAME, VERSION};
    let document = read("../docs/protocol.md");
    assert!(document.contains(&format!("1 to {MAX_FRAME} bytes")));
    assert!(document.contains(&format!("version ({VERSION})")));
    let launcher = read("src/launcher.rs");
    assert!(launcher.contains("const THREADS: usize = 16;") && document.contains("Sixteen"));
    assert!(launcher.contains("PATIENCE: Duration = Duration::from_secs(10)") && document.contains("10 s without one"));
}

#[test]
fn the_steps_of_a_start_are_numbered_alike_in_code_and_document() {
    let document = read("../docs/protocol.md");
    let sections: Vec<&str> = document.split("\n1. ").collect();
    for (file, section) in [("src/launcher.rs", sections[1]), ("src/enter.rs", sections[2])] {
        let told: Vec<String> =
            format!("1. {section}").lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect();
        let source = read(file);
        let steps: Vec<String> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("// "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()) && line[1..].starts_with(". "))
            .map(str::to_owned)
            .collect();
        assert_eq!(told, steps, "{file}");
    }
}
