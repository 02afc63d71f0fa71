//! The names that requests carry: a user and a run.
//!
//! Both are checked when they are made, also when they come off the wire, and rejected with the position of the bad byte;
//! nothing is repaired. A name can be part of a path, a unit's name or an argument as it is: it holds none of `/ $ % : \`,
//! no white space, no leading dash and no `..`.

use std::fmt;

use bincode::de::Decoder;
use bincode::error::DecodeError;
use bincode::{Decode, Encode, impl_borrow_decode};

/// Longest user name, in bytes: Gitea's limit.
pub const MAX_USER: usize = 40;
/// Length of a run's id: a UUID in its canonical text.
pub const RUN_LENGTH: usize = 36;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    /// Offset of the first byte that does not fit; the length when the text ends too soon.
    pub position: usize,
    /// What is wanted there.
    pub wanted: &'static str,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.wanted)
    }
}

/// A user: Gitea's rules for names, lower case only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode)]
pub struct User(String);

/// A run: a UUIDv7 in its canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
pub struct Run(String);

impl User {
    /// Takes a name of 1 to 40 of `a-z 0-9 - _ .`, first and last a letter or digit, no two separators in a row.
    ///
    /// # Errors
    /// The first byte that breaks a rule.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bad = |position, wanted| Err(NameError { position, wanted });
        let mut separator = true;
        for (position, byte) in text.bytes().enumerate() {
            if position == MAX_USER {
                return bad(position, "the end: a user name has at most 40 bytes");
            }
            match byte {
                b'a'..=b'z' | b'0'..=b'9' => separator = false,
                b'-' | b'_' | b'.' if !separator => separator = true,
                _ => return bad(position, "a-z or 0-9, or one of - _ . between two of them"),
            }
        }
        if separator { bad(text.len(), "a-z or 0-9 at the end") } else { Ok(User(text.to_owned())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Run {
    /// Takes the canonical lower-case text of a UUIDv7.
    ///
    /// # Errors
    /// The first byte that does not fit.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fits = |&(position, byte): &(usize, u8)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'7',
            19 => b"89ab".contains(&byte),
            0..RUN_LENGTH => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ => false,
        };
        match text.bytes().enumerate().find(|at| !fits(at)) {
            None if text.len() == RUN_LENGTH => Ok(Run(text.to_owned())),
            found => {
                let position = found.map_or(text.len(), |(position, _)| position);
                Err(NameError { position, wanted: "a UUIDv7 in its canonical lower-case text" })
            }
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Off the wire a name is checked like any other.
macro_rules! decode_checked {
    ($name:ident) => {
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                $name::parse(&String::decode(decoder)?).map_err(|error| DecodeError::OtherString(error.to_string()))
            }
        }
        impl_borrow_decode!($name);
    };
}
decode_checked!(User);
decode_checked!(Run);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const RUN: &str = "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d";

    #[test]
    fn good_names_are_taken_as_they_are() {
        for good in ["a", "0", "alice", "a-b_c.d", "x1", &"a".repeat(40)] {
            assert_eq!(User::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Run::parse(RUN).unwrap().as_str(), RUN);
    }

    #[test]
    fn bad_names_are_refused_at_the_byte_that_is_bad() {
        for (bad, position) in [
            ("", 0),
            (".", 0),
            ("..", 0),
            ("-a", 0),
            ("a-", 2),
            ("a..b", 2),
            ("a/b", 1),
            ("A", 0),
            ("a b", 1),
            ("a\n", 1),
            ("a$b", 1),
            ("a%i", 1),
            ("a:b", 1),
            ("é", 0),
            ("a\0", 1),
        ] {
            assert_eq!(User::parse(bad).unwrap_err().position, position, "{bad:?}");
        }
        assert_eq!(User::parse(&"a".repeat(41)).unwrap_err().position, 40);
        let upper = RUN.to_uppercase();
        for (bad, position) in
            [("", 0), (&RUN[..35], 35), (upper.as_str(), 2), ("../../../../../../../../../etc/passwd", 0)]
        {
            assert_eq!(Run::parse(bad).unwrap_err().position, position, "{bad:?}");
        }
        assert!(Run::parse(&format!("{RUN}0")).is_err());
        assert!(Run::parse(&RUN.replace("-7", "-4")).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_safe_anywhere(text in "\\PC{0,50}") {
            if let Ok(user) = User::parse(&text) {
                let name = user.as_str();
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
                prop_assert!(!name.contains("..") && !name.starts_with(['-', '.']) && name.len() <= MAX_USER);
            }
        }
    }
}
