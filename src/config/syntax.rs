//! The syntax of gateway.env.

/// The variables of a file, in order: `NAME=VALUE` lines, `#` comments, empty lines; a value may stand in matching
/// quotes. Nothing is expanded.
///
/// # Errors
/// Every line that is none of these, and every name that comes twice.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, Vec<String>> {
    let (mut variables, mut mistakes) = (Vec::<(String, String)>::new(), Vec::new());
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let valid = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| valid(name)) else {
            // The line itself is not repeated: it may be a secret.
            mistakes.push(format!("line {}: not NAME=VALUE", index + 1));
            continue;
        };
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        if variables.iter().any(|(known, _)| known == name) {
            mistakes.push(format!("{name}: set twice (again in line {}); keep one", index + 1));
        }
        variables.push((name.to_owned(), quoted.unwrap_or(value).to_owned()));
    }
    if mistakes.is_empty() { Ok(variables) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_syntax_is_taken_literally() {
        let taken = parse("# c\n\nA=1\n  B= \nC=\"x $Y\"\nD='q\"'\nE=a=b\n").unwrap();
        let expected = [("A", "1"), ("B", ""), ("C", "x $Y"), ("D", "q\""), ("E", "a=b")];
        assert_eq!(taken, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mistakes = parse("A=1\nsecret\nA=2\nB C=1\n").unwrap_err();
        assert_eq!(
            mistakes,
            ["line 2: not NAME=VALUE", "A: set twice (again in line 3); keep one", "line 4: not NAME=VALUE"]
        );
    }
}
