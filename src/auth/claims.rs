//! The claims of a token: a map that refuses a name given twice, with strict readers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// Claims by name.
pub struct Claims(BTreeMap<String, Value>);

impl Claims {
    /// A claim that must be a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A claim that must be a time: None when absent, Some(None) when it is none. Fractions are cut off, as RFC 7519
    /// allows them.
    pub fn time(&self, name: &str) -> Option<Option<i64>> {
        let value = self.0.get(name)?;
        let fraction = || value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds));
        #[allow(clippy::cast_possible_truncation, reason = "the range is checked")]
        let seconds = value.as_i64().or_else(|| fraction().map(|seconds| seconds as i64));
        // Up to the year 9999, which is as far as RFC 3339 goes.
        Some(seconds.filter(|seconds| (0..253_402_300_799).contains(seconds)))
    }

    /// Whether a claim is the wanted text, or a list that holds it.
    pub fn holds(&self, name: &str, wanted: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(wanted)),
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim is given twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Once)
    }
}
