//! The documents say what the code does: error codes, events, run error codes, routes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;

fn document(name: &str) -> String {
    fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn openapi() -> serde_json::Value {
    serde_json::from_str(&pi_gateway::http::openapi_json()).unwrap()
}

/// Compares a generated table with the one in docs/api-and-media.md; `UPDATE_GOLDEN=1` writes it anew.
fn is_shown(source: &str, table: &str) {
    let path = format!("{}/docs/api-and-media.md", env!("CARGO_MANIFEST_DIR"));
    let text = document("api-and-media.md");
    let (begin, end) = (format!("<!-- begin of the table in {source} -->\n"), "<!-- end -->");
    let (before, rest) = text.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "UPDATE_GOLDEN=1 cargo test --test documents -- --test-threads=1 writes it anew");
    }
}

#[test]
fn the_registry_of_error_codes_is_in_the_document() {
    let mut table = String::from("\n| code | status | meaning |\n|---|---|---|\n");
    for (code, status, title) in pi_gateway::http::problem::CODES {
        table.push_str(&format!("| `{code}` | {} | {title} |\n", status.as_u16()));
    }
    is_shown("src/http/problem.rs", &table);
}

#[test]
fn the_limits_of_the_http_side_are_in_the_document() {
    let mut table = String::from("\n| what | limit | beyond it |\n|---|---|---|\n");
    for [what, limit, beyond] in pi_gateway::http::limits::table() {
        table.push_str(&format!("| {what} | {limit} | {beyond} |\n"));
    }
    is_shown("src/http/limits.rs", &table);
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
    let section = text.split("## Events").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut told: Vec<String> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    declared.sort();
    told.sort();
    assert_eq!(declared, told);
}

#[test]
fn every_code_of_git_is_in_the_document() {
    let text = document("api-and-media.md");
    let section = text.split("## Git").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut found = std::collections::BTreeSet::new();
    for file in [
        "worker/git/mod.rs",
        "worker/git/repository.rs",
        "worker/git/remote.rs",
        "worker/git/sync.rs",
        "git/mod.rs",
        "git/job.rs",
    ] {
        let source = fs::read_to_string(format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for begin in ["Failure::new(\"", "=> (\"gitea_", "(\"gitea_"] {
            for rest in source.split(begin).skip(1) {
                let word = rest.split('"').next().unwrap();
                let prefix = if begin.contains("gitea_") { "gitea_" } else { "" };
                found.insert(format!("{prefix}{word}"));
            }
        }
    }
    assert!(found.len() > 15, "{found:?}");
    for code in found {
        assert!(section.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn every_code_and_reason_of_sites_is_in_the_document() {
    let text = document("api-and-media.md");
    let section = text.split("## Sites").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut found = std::collections::BTreeSet::new();
    for file in ["export.rs", "report.rs"] {
        let source = fs::read_to_string(format!("{}/src/sites/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for begin in ["SiteError::new(\"", "Some(\"", "=> \""] {
            found.extend(source.split(begin).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    assert!(found.len() >= 15, "the search has stopped to work: {found:?}");
    for word in found {
        assert!(section.contains(&format!("`{word}`")), "{word}");
    }
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

#[test]
fn every_code_of_the_relays_is_in_the_document_and_the_other_way_round() {
    for (relay, codes) in [("git", 20), ("egress", 12)] {
        every_code_of(relay, codes);
    }
}

/// Compares the codes of a relay, of which there are more than some, with its section of the document.
fn every_code_of(relay: &str, codes: usize) {
    let text = document("protocol.md");
    let heading = format!("## What the {relay} relay lets through");
    let section = text.split(&heading).nth(1).unwrap().split("\n## ").next().unwrap();
    let told: std::collections::BTreeSet<&str> =
        section.split('`').skip(1).step_by(2).filter(|word| is_code(word)).collect();
    let mut sources = Vec::new();
    for entry in fs::read_dir(format!("{}/src/relay/{relay}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            sources.push(fs::read_to_string(path).unwrap().split("#[cfg(test)]").next().unwrap().to_owned());
        }
    }
    let code = sources.iter().flat_map(|source| source.lines()).filter(|line| !line.trim_start().starts_with("//"));
    let found: std::collections::BTreeSet<&str> =
        code.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(|word| is_code(word)).collect();
    assert!(found.len() > codes, "{found:?}");
    assert_eq!(found, told, "{relay}");
}

/// Words of lower-case letters with an underscore between them.
fn is_code(word: &str) -> bool {
    word.contains('_') && !word.ends_with('_') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
