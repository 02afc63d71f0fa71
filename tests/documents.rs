//! The documents say what the code does: error codes, events, run error codes, routes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;

fn document(name: &str) -> String {
    fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn openapi() -> serde_json::Value {
    serde_json::from_str(&pi_gateway::http::openapi_json()).unwrap()
}

#[test]
fn the_registry_of_error_codes_is_in_the_document() {
    let mut table = String::from("\n| code | status | meaning |\n|---|---|---|\n");
    for (code, status, title) in pi_gateway::http::problem::CODES {
        table.push_str(&format!("| `{code}` | {} | {title} |\n", status.as_u16()));
    }
    let path = format!("{}/docs/api-and-media.md", env!("CARGO_MANIFEST_DIR"));
    let text = document("api-and-media.md");
    let (begin, end) = ("<!-- begin of the registry in src/http/problem.rs -->\n", "<!-- end -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "UPDATE_GOLDEN=1 cargo test --test documents writes it anew");
    }
}

#[test]
fn every_event_of_the_schema_is_in_the_document_and_the_other_way_round() {
    let schema = &openapi()["components"]["schemas"]["Event"];
    let mut declared: Vec<String> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["properties"]["event"]["enum"][0].as_str().unwrap().to_owned())
        .collect();
    let text = document("api-and-media.md");
    let section = text.split("## Events").nth(1).unwrap().split("## Errors").next().unwrap();
    let mut told: Vec<String> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    declared.sort();
    told.sort();
    assert_eq!(declared, told);
}

#[test]
fn every_code_a_run_can_end_with_is_in_the_document() {
    let mut found = std::collections::BTreeSet::new();
    for file in ["driver.rs", "follow.rs", "agent.rs", "verdict.rs"] {
        let source = fs::read_to_string(format!("{}/src/runs/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        // Codes are the only snake-case words in quotes in these files that follow one of these.
        for marker in ["Verdict::failed(", "RunError::new(", "\", \""] {
            for rest in source.split(marker).skip(1) {
                let word = rest.trim_start().trim_start_matches('"').split('"').next().unwrap_or_default();
                if !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                    found.insert(word.to_owned());
                }
            }
        }
    }
    assert!(found.len() >= 20, "the search has stopped to work: {found:?}");
    let text = document("pi-runtime.md");
    let missing: Vec<&String> = found.iter().filter(|code| !text.contains(&format!("| `{code}` |"))).collect();
    assert!(missing.is_empty(), "not in docs/pi-runtime.md: {missing:?}");
}

#[test]
fn every_route_is_in_the_document_with_its_errors_typed() {
    let (document, openapi) = (document("api-and-media.md"), openapi());
    assert_eq!(openapi["openapi"], "3.1.0");
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let row = format!("| {} `{path}` |", method.to_uppercase());
            assert!(document.contains(&row), "{row} is not in docs/api-and-media.md");
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with('4') {
                    let schema = response["content"].as_object().unwrap().values().next().unwrap();
                    assert_eq!(schema["schema"]["$ref"], "#/components/schemas/Problem", "{method} {path} {status}");
                }
            }
            let public = path.starts_with("/health");
            assert_eq!(operation["security"].is_null(), public, "{method} {path}: the token");
        }
    }
}

#[test]
fn the_links_between_documents_lead_somewhere() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut files: Vec<_> = fs::read_dir(format!("{root}/docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(format!("{root}/README.md").into());
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                let target = file.parent().unwrap().join(link);
                assert!(target.exists(), "{}: {link}", file.display());
            }
        }
    }
}
