//! The documents say what the code does: error codes, events, run error codes, routes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;

fn document(name: &str) -> String {
    fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Every document: its path from the root of the project, and its text.
fn documents() -> Vec<(String, String)> {
    let root = env!("CARGO_MANIFEST_DIR");
    let in_docs = fs::read_dir(format!("{root}/docs")).unwrap();
    let mut paths: Vec<String> =
        in_docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap())).collect();
    paths.retain(|path| path.ends_with(".md"));
    paths.extend(["README.md", "SECURITY.md", "helper/AUDIT.md"].map(str::to_owned));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(format!("{root}/{path}")).unwrap())).collect()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// Every source file below a directory: its path and its text.
fn sources(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("{}/{below}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{below}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(sources(&path));
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            found.push((path, text));
        }
    }
    found
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
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut followed = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            followed += 1;
            let own = root.join(&path);
            let target = if file.is_empty() { own } else { own.parent().unwrap().join(file) };
            let Ok(found) = fs::read_to_string(&target) else {
                assert!(target.is_dir(), "{path}: {link} is not there");
                continue;
            };
            let anchor = |line: &str| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                let kept = words.chars().filter(|c| c.is_alphanumeric() || "- _".contains(*c));
                kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
            };
            let there =
                heading.is_empty() || found.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            assert!(there, "{path}: {link}: no such heading");
        }
    }
    assert!(followed > 60, "{followed}");
}

#[test]
fn the_overview_leads_to_every_document() {
    let overview = document("overview.md");
    for (path, _) in documents() {
        let link = path.strip_prefix("docs/").map_or(format!("../{path}"), str::to_owned);
        assert!(
            link == "overview.md" || overview.contains(&format!("]({link})")),
            "docs/overview.md has no link to {link}"
        );
    }
}

/// A block in a language that can be run is run by a test, which names its document: `sh` as tests/e2e/tests/examples.rs or
/// another test types it, `js FILE` as a file that such a block runs, `sh root` by serial_operations.rs, `sh test=NAME` by that
/// one, nginx and caddy by those who start them. `sh make` names targets of the Makefile, `sh packaging` commands of
/// docs/packaging.md. What is only shown has no language, or is text.
#[test]
fn every_block_that_could_be_run_is_run_by_a_test() {
    let tests = sources("tests");
    let names = |file: &str, document: &str| {
        tests.iter().any(|(path, text)| path.ends_with(file) && text.contains(file_name(document)))
    };
    let makefile = fs::read_to_string(format!("{}/Makefile", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut count = 0;
    for (path, text) in documents() {
        let mut open = false;
        for (number, line) in text.lines().enumerate() {
            let Some(words) = line.trim_start().strip_prefix("```") else { continue };
            open = !open;
            if !open {
                continue;
            }
            let at = format!("{path}, line {}: ```{words}", number + 1);
            match words.split(' ').collect::<Vec<_>>()[..] {
                ["" | "json" | "text" | "yaml"] => continue,
                ["sh"] => {
                    let typed = tests
                        .iter()
                        .any(|(file, text)| !file.ends_with("documents.rs") && text.contains(file_name(&path)));
                    assert!(
                        typed,
                        "{at}: no test names this document; tests/e2e/tests/examples.rs types blocks of portals"
                    );
                }
                ["sh", "packaging"] => {
                    let packaging = document("packaging.md");
                    for line in text.lines().skip(number + 1).take_while(|line| !line.starts_with("```")) {
                        let command = line.split(" #").next().unwrap().trim();
                        assert!(packaging.contains(command), "{at}: docs/packaging.md has not: {command}");
                    }
                }
                ["sh", "root"] => assert!(names("serial_operations.rs", &path), "{at}: nobody types it"),
                ["sh", "make"] => {
                    let body: Vec<&str> =
                        text.lines().skip(number + 1).take_while(|line| !line.starts_with("```")).collect();
                    for target in
                        body.iter().map(|line| line.strip_prefix("make ").unwrap_or_else(|| panic!("{at}: {line}")))
                    {
                        let target = target.split([' ', '=']).next().unwrap();
                        assert!(makefile.contains(&format!("\n{target}:")), "{at}: no target {target}");
                    }
                }
                ["sh", test] if test.starts_with("test=") => {
                    let test = &test["test=".len()..];
                    let there = tests.iter().any(|(file, text)| {
                        let stem = file.rsplit('/').next().unwrap().split('.').next().unwrap();
                        stem == test && text.contains(file_name(&path))
                    });
                    assert!(there, "{at}: no test {test} that names this document");
                }
                ["js", file] => {
                    let by =
                        |(path, text): &(String, String)| path.ends_with("tests/examples.rs") && text.contains(file);
                    let used = text.matches(file).count() > 1 || tests.iter().any(by);
                    assert!(names("tests/examples.rs", &path) && used, "{at}: nobody runs {file}");
                }
                ["nginx" | "caddy"] => {
                    let run = ["src/nginx.rs", "src/proxy.rs"].iter().any(|file| names(file, &path));
                    assert!(run, "{at}: nobody starts it");
                }
                _ => panic!("{at}: say how it is run, as in the head of this test, or take the language away"),
            }
            count += 1;
        }
        assert!(!open, "{path}: a block has no end");
    }
    assert!(count > 30, "{count} blocks");
}

/// docs/threat-model.md promises by the names of tests.
#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let mut tests = std::collections::BTreeSet::new();
    for (_, text) in ["src", "helper", "tests"].iter().flat_map(|below| sources(below)) {
        for marker in ["#[test]", "#[tokio::test"] {
            for rest in text.split(marker).skip(1) {
                // Behind other attributes.
                let name = rest.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or_default();
                tests.insert(name.to_owned());
            }
        }
    }
    assert!(tests.len() > 400, "the search has stopped to work: {}", tests.len());
    let text = document("threat-model.md");
    let (mut rows, mut attacks) = (0, false);
    for line in text.lines() {
        attacks = line.starts_with("| attack, and where it happened | answer | shown by |")
            || attacks && line.starts_with('|');
        if !attacks || line.starts_with("| attack, ") || line.starts_with("|---") {
            continue;
        }
        rows += 1;
        let shown = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut named = shown.split('`').skip(1).step_by(2).peekable();
        assert!(named.peek().is_some(), "nothing shows it: {line}");
        for name in named {
            assert!(tests.contains(name), "no test is called {name}:\n{line}");
        }
    }
    assert!(rows > 60, "{rows} rows");
    // In the text, names are those of tests if they look like one.
    for name in text.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 3) {
        assert!(tests.contains(name), "no test is called {name}");
    }
}

#[test]
fn no_program_of_the_gateway_speaks_http_2() {
    let lock = fs::read_to_string(format!("{}/Cargo.lock", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(lock.contains("name = \"hyper\"") && !lock.contains("name = \"h2\""));
}

/// What an operator can do something about is in his table, with a remedy.
#[test]
fn every_code_that_is_the_operators_is_in_the_table_of_remedies() {
    let text = document("operations.md");
    let section = text.split("\n## When something is wrong").nth(1).unwrap();
    let there = |code: &str| section.lines().any(|line| line.starts_with("| ") && line.contains(&format!("`{code}`")));
    for (code, status, _) in pi_gateway::http::problem::CODES {
        let status = status.as_u16();
        assert!(!(status == 401 || status >= 429) || there(code), "{code}");
    }
    let runs = document("pi-runtime.md");
    let table = runs.split("\n## How a run ends").nth(1).unwrap().split("\n## ").next().unwrap();
    let codes: Vec<&str> = table.lines().filter_map(|line| line.split(" | `").nth(1)?.split('`').next()).collect();
    assert!(codes.len() > 25, "{codes:?}");
    for code in codes {
        assert!(there(code), "{code}");
    }
}

/// The examples of events in docs/api-guide.md are what the schema says; tests/e2e/tests/examples.rs compares them with real ones.
#[test]
fn every_event_has_an_example_that_fits_its_schema() {
    let openapi = openapi();
    let text = document("api-guide.md");
    let section = text.split("\n## The events").nth(1).unwrap();
    let lines = section.lines().filter(|line| line.starts_with("{\"id\""));
    let examples: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    for one in openapi["components"]["schemas"]["Event"]["oneOf"].as_array().unwrap() {
        let name = one["properties"]["event"]["enum"][0].as_str().unwrap();
        let data = &one["properties"]["data"];
        let of_it: Vec<_> = examples.iter().filter(|example| example["event"] == name).collect();
        assert!(!of_it.is_empty(), "no example of {name}");
        for example in of_it {
            for required in data["required"].as_array().unwrap() {
                assert!(example["data"].get(required.as_str().unwrap()).is_some(), "{example}: {required}");
            }
            for member in example["data"].as_object().unwrap().keys() {
                assert!(data["properties"].get(member).is_some(), "{example}: {member}");
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
