//! The names that requests carry: a user and a run.
//!
//! Both are checked when they are made, also when they come off the wire, and rejected with the position of the bad byte;
//! nothing is repaired. A name can be part of a path, a unit's name or an argument as it is: it holds none of `/ $ % : \`,
//! no white space, no leading dash and no `..`.

use bincode::de::Decoder;
use bincode::error::DecodeError;
use bincode::{Decode, Encode, impl_borrow_decode};

/// Longest user name, in bytes: Gitea's limit.
pub const MAX_USER: usize = 40;
/// Length of a run's id: a UUID in its canonical text.
pub const RUN_LENGTH: usize = 36;

/// A user: Gitea's rules for names, lower case only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode)]
pub struct User(String);

/// A run: a UUIDv7 in its canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode)]
pub struct Run(String);

/// The text, when every byte of it fits its position, and its end does, which is None; else the offset that does not.
fn checked(text: &str, wanted: &str, mut fits: impl FnMut(usize, Option<u8>) -> bool) -> Result<String, String> {
    let mut bytes = text.bytes().map(Some).chain([None]).enumerate();
    let bad = bytes.find(|&(position, byte)| !fits(position, byte));
    bad.map_or(Ok(text.to_owned()), |(position, _)| Err(format!("at byte {position}: {wanted}")))
}

impl User {
    /// Takes a name of 1 to 40 of `a-z 0-9 - _ .`, first and last a letter or digit, no two separators in a row.
    ///
    /// # Errors
    /// The offset of the first byte that breaks a rule; the length, when the text ends too soon.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut follows = false;
        let fits = |position, byte: Option<u8>| {
            let letter = matches!(byte, Some(b'a'..=b'z' | b'0'..=b'9'));
            let between = matches!(byte, Some(b'-' | b'_' | b'.') | None) && follows;
            follows = letter;
            (letter || between) && (position < MAX_USER || byte.is_none())
        };
        checked(text, "a-z or 0-9, or one of - _ . between two of them; at most 40 bytes", fits).map(User)
    }
}

impl Run {
    /// Takes the canonical lower-case text of a UUIDv7.
    ///
    /// # Errors
    /// The offset of the first byte that does not fit; the length, when the text ends too soon.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = |position, byte: Option<u8>| match (position, byte) {
            (RUN_LENGTH.., _) | (_, None) => position == RUN_LENGTH && byte.is_none(),
            (8 | 13 | 18 | 23, _) => byte == Some(b'-'),
            (14, _) => byte == Some(b'7'),
            (19, _) => matches!(byte, Some(b'8' | b'9' | b'a' | b'b')),
            _ => matches!(byte, Some(b'0'..=b'9' | b'a'..=b'f')),
        };
        checked(text, "the 36 bytes of a UUIDv7 in lower case", fits).map(Run)
    }
}

macro_rules! checked_when_read {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                let refused = |error| DecodeError::OtherString(format!("{} {error}", stringify!($name)));
                $name::parse(&String::decode(decoder)?).map_err(refused)
            }
        }
        impl_borrow_decode!($name);
    };
}
checked_when_read!(User);
checked_when_read!(Run);

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
            assert!(User::parse(bad).unwrap_err().starts_with(&format!("at byte {position}: ")), "{bad:?}");
        }
        assert!(User::parse(&"a".repeat(41)).unwrap_err().starts_with("at byte 40: "));
        let upper = RUN.to_uppercase();
        for (bad, position) in
            [("", 0), (&RUN[..35], 35), (upper.as_str(), 2), ("../../../../../../../../../etc/passwd", 0)]
        {
            assert!(Run::parse(bad).unwrap_err().starts_with(&format!("at byte {position}: ")), "{bad:?}");
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
