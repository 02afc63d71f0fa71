//! docs/metrics.md lists what is counted, all of it and nothing else.

#![allow(clippy::unwrap_used, reason = "a test")]

use pi_gateway::metrics::{front, relay};

#[test]
fn every_metric_is_in_the_document_and_the_other_way_round() {
    let books = [&front::metrics().book, &relay::metrics().book];
    let described = books.iter().flat_map(|book| book.described());
    let rows: String = described.map(|one| format!("| `{}` | {} | {} |\n", one.name, one.kind, one.help)).collect();
    let table = format!("| metric | type | what it says |\n|---|---|---|\n{rows}");
    let path = format!("{}/docs/metrics.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- begin of the table of src/metrics -->\n\n", "<!-- end -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "UPDATE_GOLDEN=1 cargo test --test metrics writes it anew");
    }
}
