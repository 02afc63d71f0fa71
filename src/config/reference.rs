//! The reference of all variables, in Markdown, made from the table.

use std::fmt::Write;

use super::variables::{CREDENTIALS, GROUPS, Reader};

fn program(reader: Reader) -> &'static str {
    match reader {
        Reader::Front => "front",
        Reader::Launcher => "launcher",
        Reader::ModelRelay => "model relay",
        Reader::GitRelay => "git relay",
        Reader::EgressRelay => "egress relay",
        Reader::Worker => "worker",
    }
}

/// The reference.
pub fn markdown() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (group, variables) in GROUPS {
        let _ = write!(text, "### {group}\n\n| variable | default | meaning | read by |\n|---|---|---|---|\n");
        for variable in *variables {
            let default = match (variable.required, variable.default) {
                (true, _) => "required".to_owned(),
                (false, "") => String::new(),
                (false, default) => format!("`{default}`"),
            };
            let readers: Vec<&str> = variable.readers.iter().map(|reader| program(*reader)).collect();
            let readers = readers.join(", ");
            let _ = writeln!(text, "| `{}` | {default} | {} | {readers} |", variable.name, variable.meaning);
        }
        text.push('\n');
    }
    text.push_str("### Credentials\n\n| file in /etc/pi-gateway/credentials | meaning | held by |\n|---|---|---|\n");
    for (name, reader, meaning) in CREDENTIALS {
        let _ = writeln!(text, "| `{name}` | {meaning} | {} |", program(*reader));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn the_document_holds_the_reference_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/platform-config-and-testing.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- begin of `pi-gateway config-reference` -->\n", "<!-- end -->");
        let (before, rest) = document.split_once(begin).unwrap();
        let (found, after) = rest.split_once(end).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, format!("{before}{begin}{}{end}{after}", super::markdown())).unwrap();
        } else {
            assert_eq!(found, super::markdown(), "UPDATE_GOLDEN=1 cargo test reference writes it anew");
        }
    }
}
