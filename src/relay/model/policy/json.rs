//! JSON that is walked and not kept: strict about what the relay forwards, without building a tree of it.
//!
//! The relay forwards the very bytes it has checked, so it must read them as every other parser would. Two members
//! of one name in an object are refused anywhere in the document, because parsers differ in which one they take.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Any JSON value in which no object repeats a name.
#[derive(Debug, Default, Clone, Copy)]
pub struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Plain, A::Error> {
        while seq.next_element::<Plain>()?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
        let mut names = Names::default();
        while let Some(name) = map.next_key::<String>()? {
            names.add::<A::Error>(name)?;
            map.next_value::<Plain>()?;
        }
        Ok(Plain)
    }
}

/// The names of one object, each allowed once.
#[derive(Debug, Default)]
pub struct Names(HashSet<String>);

impl Names {
    /// Takes the next name.
    ///
    /// # Errors
    /// The name was there already.
    pub fn add<E: Error>(&mut self, name: String) -> Result<(), E> {
        match self.0.replace(name) {
            None => Ok(()),
            Some(_) => Err(E::custom("an object names a member twice")),
        }
    }
}

/// `null`, and nothing else.
///
/// # Errors
/// `sentence`, when the member has another value.
pub fn only_null<'de, A: MapAccess<'de>>(map: &mut A, sentence: &str) -> Result<(), A::Error> {
    match map.next_value::<Option<IgnoredAny>>()? {
        None => Ok(()),
        Some(_) => Err(A::Error::custom(sentence)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn ok(text: &str) -> bool {
        serde_json::from_str::<Plain>(text).is_ok()
    }

    #[test]
    fn a_repeated_name_is_refused_at_any_depth_and_in_any_spelling() {
        assert!(ok(r#"{"a":1,"b":[{"a":2},{"a":null,"A":1.5}]}"#));
        assert!(!ok(r#"{"a":1,"a":1}"#));
        assert!(!ok(r#"[{"x":{"a":1,"b":2,"\u0061":3}}]"#));
    }

    #[test]
    fn depth_is_bounded() {
        assert!(ok(&format!("{}{}", "[".repeat(120), "]".repeat(120))));
        assert!(!ok(&format!("{}{}", "[".repeat(200_000), "]".repeat(200_000))));
    }

    proptest! {
        #[test]
        fn accepts_exactly_what_a_tree_parser_accepts_without_repeated_names(text in r#"[\[\]{}",:0-9a-c \\-]{0,24}"#) {
            if ok(&text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            }
        }

        #[test]
        fn every_value_a_tree_can_hold_is_accepted(keys in proptest::collection::hash_map("[a-z]{1,4}", any::<i64>(), 0..8)) {
            prop_assert!(ok(&serde_json::to_string(&keys).unwrap()));
        }
    }
}
