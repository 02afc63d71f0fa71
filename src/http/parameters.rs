//! Query parameters whose values may be any bytes, as paths are.
//!
//! A parameter that is not known, or there twice, is refused: it would otherwise be a spelling mistake nobody notices.

use axum::http::Uri;
use percent_encoding::percent_decode;

use super::problem::{self, Problem};

/// The parameters of a request.
pub struct Parameters(Vec<(String, Vec<u8>)>);

impl Parameters {
    /// Takes the query apart. A plus is a space, as browsers write it; `%2B` is a plus.
    ///
    /// # Errors
    /// A parameter that is not among `known`, or there twice.
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Self, Box<Problem>> {
        let decode = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>();
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&decode(name)).into_owned();
            if !known.contains(&name.as_str()) {
                return Err(wrong(format!("There is no such parameter here; there are: {}.", known.join(", "))));
            }
            if all.iter().any(|(there, _)| *there == name) {
                return Err(wrong(format!("{name}: once only.")));
            }
            all.push((name, decode(value)));
        }
        Ok(Parameters(all))
    }

    /// The bytes of a parameter.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_slice())
    }

    /// The path that a parameter names; the workspace itself when it is not there.
    pub fn path(&self, name: &str) -> Vec<u8> {
        self.bytes(name).unwrap_or_default().to_vec()
    }

    /// The path of a file that a parameter must name.
    ///
    /// # Errors
    /// When it is missing or empty.
    pub fn file_path(&self, name: &str) -> Result<Vec<u8>, Box<Problem>> {
        match self.bytes(name) {
            Some(path) if !path.is_empty() => Ok(path.to_vec()),
            _ => Err(wrong(format!("{name}: a path in the workspace is needed, percent-encoded."))),
        }
    }

    /// A parameter that is `true` or `false`; false when it is not there.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn flag(&self, name: &str) -> Result<bool, Box<Problem>> {
        match self.bytes(name) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(wrong(format!("{name}: true or false."))),
        }
    }

    /// A parameter that is a number of 1 to `most`; `default` when it is not there.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn number(&self, name: &str, default: u32, most: u32) -> Result<u32, Box<Problem>> {
        let Some(value) = self.bytes(name) else { return Ok(default) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.filter(|number| (1..=most).contains(number)).ok_or_else(|| wrong(format!("{name}: 1 to {most}.")))
    }

    /// A parameter that is one of a few words; the first when it is not there.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn word<'a>(&self, name: &str, words: &[&'a str]) -> Result<&'a str, Box<Problem>> {
        let given = self.bytes(name);
        let found = words.iter().find(|word| given.is_none_or(|given| given == word.as_bytes()));
        found.copied().ok_or_else(|| wrong(format!("{name}: one of {}.", words.join(", "))))
    }
}

fn wrong(detail: String) -> Box<Problem> {
    Problem::new(problem::INVALID_PARAMETER, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_bytes_come_through_and_spelling_mistakes_do_not() {
        let of = |query: &str| Parameters::of(&format!("/x?{query}").parse().unwrap(), &["path", "limit", "format"]);
        let path = |query: &str| of(query).unwrap().path("path");
        assert_eq!(path("path=a%20b+c%2Bd%ff%0A"), b"a b c+d\xff\n");
        assert_eq!(path("path=%zz%"), b"%zz%");
        assert_eq!(path(""), b"");
        assert!(of("pth=a").is_err() && of("path=a&path=b").is_err());
        assert!(of("path=").unwrap().file_path("path").is_err());
        assert_eq!(of("limit=7").unwrap().number("limit", 1, 9).unwrap(), 7);
        for bad in ["limit=0", "limit=10", "limit=x", "limit=", "limit=%ff"] {
            assert!(of(bad).unwrap().number("limit", 1, 9).is_err(), "{bad}");
        }
        assert_eq!(of("").unwrap().word("format", &["a", "b"]).unwrap(), "a");
        assert!(of("format=c").unwrap().word("format", &["a", "b"]).is_err());
    }
}
