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
    assert!(
        launcher.contains("PATIENCE: Duration = Duration::from_secs(10)")
            && document.contains("within 10 s of the connection")
    );
}

#[test]
fn the_relay_is_given_the_time_that_is_in_the_document() {
    let document = read("../docs/protocol.md");
    assert!(read("src/enter.rs").contains("const RELAY_PATIENCE: i64 = 5;") && document.contains("waits up to 5 s"));
    assert!(
        read("src/enter.rs").contains("\"1 {name} {}\"")
            && document.contains("`1 model <run id>`, `1 git <job id>` or `1 egress <run id>`")
    );
}

#[test]
fn the_budget_and_the_crates_are_in_the_document() {
    let (document, test) = (read("../docs/protocol.md"), read("tests/budget.rs"));
    for (constant, words) in [
        ("LINES: usize = 1_000", "1,000 lines"),
        ("CRATES: usize = 20", "20 external crates"),
        ("REQUESTS: usize = 8", "8 requests"),
        ("LINES_OF_A_FILE: usize = 200", "200 lines a file"),
    ] {
        assert!(test.contains(constant) && document.contains(words), "{words}");
    }
    let (own, workspace) = (read("Cargo.toml"), read("../Cargo.toml"));
    let shared = workspace.split("[workspace.dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let dependencies = own.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| line.contains('=')) {
        let name = line.split(['.', ' ']).next().unwrap();
        let rows: Vec<&str> = document.lines().filter(|row| row.starts_with('|') && row.contains(name)).collect();
        assert!(!rows.is_empty(), "{name}");
        let inherited = shared.lines().find(|shared| shared.starts_with(&format!("{name} ="))).unwrap_or_default();
        for source in [line, inherited] {
            let Some(features) = source.split("features = [").nth(1) else { continue };
            for feature in
                features.split(']').next().unwrap().split('"').filter(|part| part.chars().any(char::is_alphabetic))
            {
                assert!(rows.iter().any(|row| row.contains(feature)), "{name}: {feature}");
            }
        }
    }
    assert!(workspace.contains("bincode = { version = \"=2.0.1\"") && document.contains("2.0.1"));
}

/// What is logged of a request and a reply is their Debug form. It can hold no secret when nothing in it is a free text,
/// and bytes that are secret show their number only.
#[test]
fn messages_are_made_of_names_numbers_and_states_only() {
    let source = read("src/wire.rs");
    let messages = source.split("const fn config()").next().unwrap();
    let known = "User Run Unit UnitState Activity Outcome Refusal Step Hidden u32 u64 i32 Option";
    let mut types = 0;
    for line in messages.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.starts_with('#')) {
        let field =
            line.strip_prefix("pub ").and_then(|field| field.strip_suffix(',')?.split_once(": ")).map(|(_, kind)| kind);
        let variant = line.strip_suffix("),").and_then(|variant| variant.split_once('(')).map(|(_, kinds)| kinds);
        for kind in field.or(variant).unwrap_or_default().split(['<', '>', ',', ' ']).filter(|kind| !kind.is_empty()) {
            assert!(known.split(' ').any(|known| known == kind), "{kind} in {line}");
            types += 1;
        }
    }
    assert!(types > 15, "{types} types were found");
}

#[test]
fn what_is_logged_of_a_request_is_its_names() {
    use pi_gateway_helper::names::{Run, User};
    use pi_gateway_helper::wire::{Hidden, Reply, Request, Unit};
    let hidden = || Hidden(b"rt-secret-of-17-b".to_vec());
    let id = "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d";
    let (user, run) = (User::parse("a.b").unwrap(), Run::parse(id).unwrap());
    for (request, form) in [
        (Request::StartAgent(user.clone(), run.clone()), format!("StartAgent(User(\"a.b\"), Run(\"{id}\"))")),
        (Request::Stop(Unit::Agent(user.clone())), "Stop(Agent(User(\"a.b\")))".to_owned()),
        (Request::Status(Unit::ModelRelay), "Status(ModelRelay)".to_owned()),
        (Request::Status(Unit::GitRelay), "Status(GitRelay)".to_owned()),
        (Request::Status(Unit::EgressRelay), "Status(EgressRelay)".to_owned()),
        (Request::StoreCodexToken(hidden(), Hidden(vec![])), "StoreCodexToken(17 bytes, 0 bytes)".to_owned()),
        (Request::Forget(user, run), format!("Forget(User(\"a.b\"), Run(\"{id}\"))")),
    ] {
        assert_eq!(format!("{request:?}"), form);
    }
    assert_eq!(format!("{:?} {:#?}", Reply::CodexToken(hidden()), hidden()), "CodexToken(17 bytes) 17 bytes");
}

#[test]
fn the_steps_of_a_start_are_numbered_alike_in_code_and_document() {
    let document = read("../docs/protocol.md");
    let sections: Vec<&str> = document.split("\n1. ").collect();
    for (file, section) in [("src/launcher.rs", sections[1]), ("src/enter.rs", sections[2])] {
        let told: Vec<String> =
            format!("1. {section}").lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect();
        let source = read(file);
        let mut steps: Vec<String> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("// "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()) && line[1..].starts_with(". "))
            .map(str::to_owned)
            .collect();
        // Those that a worker's start takes as well stand in a function of their own.
        steps.sort();
        assert_eq!(told, steps, "{file}");
    }
}
