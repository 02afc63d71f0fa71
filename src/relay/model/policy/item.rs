//! One element of a request's `input`, and the tools.
//!
//! Rules go by the name of a member, not by the element's `type`, so that they hold whatever order the members come
//! in. What names something stored at the provider (an item, a file, an earlier answer) is refused: storage there is
//! shared by all users of the gateway's key. What makes the provider fetch from the network is refused as well.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::json::{Names, Plain, only_null};

const ITEM_TYPES: [&str; 8] = [
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    "additional_tools",
    "configuration_update",
];
const PART_TYPES: [&str; 8] =
    ["input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text", "input_image", "input_file"];
/// Members a rule exists for. In another case they are refused, since some servers match names without case.
const RULED: [&str; 10] =
    ["type", "content", "output", "summary", "tools", "image_url", "file_url", "file_id", "id", "role"];

/// The `input` of a request: bare text, or a list of items. Holds the bytes of its `data:` URLs.
#[derive(Debug, Default, Clone, Copy)]
pub struct Input {
    /// Bytes in `data:` URLs, which are not text.
    pub data_bytes: usize,
}

#[derive(Debug, Default)]
struct Item(usize);
#[derive(Debug, Default)]
struct Content(usize);
#[derive(Debug, Default)]
struct Part(usize);

/// A `data:` URL and its length; `null` counts as none.
struct DataUrl(usize);

/// A list of tools that run in the sandbox.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tools;

#[derive(Debug)]
struct Tool;

fn name<E: Error>(name: String, names: &mut Names) -> Result<String, E> {
    if let Some(ruled) = RULED.iter().find(|r| r.eq_ignore_ascii_case(&name) && **r != name) {
        return Err(E::custom(format!("`{ruled}` is written in another case")));
    }
    names.add(name.clone())?;
    Ok(name)
}

fn one_of<'de, A: MapAccess<'de>>(map: &mut A, what: &str, allowed: &[&str]) -> Result<(), A::Error> {
    let value: Cow<'de, str> = map.next_value::<Text<'de>>()?.0;
    if allowed.contains(&value.as_ref()) {
        return Ok(());
    }
    Err(A::Error::custom(format!("this {what} is not offered here; allowed: {}", allowed.join(", "))))
}

/// A string, borrowed when it needs no unescaping.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

const STORED: &str = "things stored at the provider cannot be referred to; send them inline";

/// Visitors differ only in what they accept, so one macro writes the part around it.
macro_rules! deserialize {
    ($type:ty, $visitor:ident, $expected:literal, { $($body:tt)* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                input.deserialize_any($visitor)
            }
        }

        struct $visitor;

        impl<'de> Visitor<'de> for $visitor {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expected)
            }

            $($body)*
        }
    };
}

deserialize!(Input, InputVisitor, "text or a list of items", {
    fn visit_str<E: Error>(self, _: &str) -> Result<Input, E> {
        Ok(Input::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
        let mut data_bytes = 0;
        while let Some(item) = seq.next_element::<Item>()? {
            data_bytes += item.0;
        }
        Ok(Input { data_bytes })
    }
});

deserialize!(Item, ItemVisitor, "an input item", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let mut names = Names::default();
        let (mut data_bytes, mut typed, mut message) = (0, false, false);
        while let Some(key) = map.next_key::<String>()? {
            match name::<A::Error>(key, &mut names)?.as_str() {
                "type" => {
                    one_of(&mut map, "type of input item", &ITEM_TYPES)?;
                    typed = true;
                }
                "role" => {
                    one_of(&mut map, "role", &["user", "assistant", "system", "developer"])?;
                    message = true;
                }
                "content" | "output" | "summary" => {
                    data_bytes += map.next_value::<Option<Content>>()?.unwrap_or_default().0;
                }
                "tools" => {
                    map.next_value::<Option<Tools>>()?;
                }
                "image_url" | "file_url" | "file_id" => only_null(&mut map, STORED)?,
                _ => {
                    map.next_value::<Plain>()?;
                }
            }
        }
        // An element of nothing but an id is the short form of a reference to a stored item.
        if typed || message { Ok(Item(data_bytes)) } else { Err(A::Error::custom(STORED)) }
    }
});

deserialize!(Content, ContentVisitor, "text or a list of content parts", {
    fn visit_str<E: Error>(self, _: &str) -> Result<Content, E> {
        Ok(Content::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut data_bytes = 0;
        while let Some(part) = seq.next_element::<Part>()? {
            data_bytes += part.0;
        }
        Ok(Content(data_bytes))
    }
});

deserialize!(Part, PartVisitor, "a content part", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        let mut names = Names::default();
        let (mut data_bytes, mut typed) = (0, false);
        while let Some(key) = map.next_key::<String>()? {
            match name::<A::Error>(key, &mut names)?.as_str() {
                "type" => {
                    one_of(&mut map, "type of content", &PART_TYPES)?;
                    typed = true;
                }
                "image_url" | "file_url" => data_bytes += map.next_value::<DataUrl>()?.0,
                "file_id" => only_null(&mut map, STORED)?,
                _ => {
                    map.next_value::<Plain>()?;
                }
            }
        }
        if typed { Ok(Part(data_bytes)) } else { Err(A::Error::custom("a content part has no type")) }
    }
});

deserialize!(DataUrl, DataUrlVisitor, "a data: URL", {
    fn visit_str<E: Error>(self, url: &str) -> Result<DataUrl, E> {
        if url.starts_with("data:") {
            Ok(DataUrl(url.len()))
        } else {
            Err(E::custom("only data: URLs are accepted for images and files"))
        }
    }

    fn visit_unit<E: Error>(self) -> Result<DataUrl, E> {
        Ok(DataUrl(0))
    }
});

deserialize!(Tools, ToolsVisitor, "a list of tools", {
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tools, A::Error> {
        while seq.next_element::<Tool>()?.is_some() {}
        Ok(Tools)
    }
});

deserialize!(Tool, ToolVisitor, "a tool", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tool, A::Error> {
        let mut names = Names::default();
        let mut typed = false;
        while let Some(key) = map.next_key::<String>()? {
            match name::<A::Error>(key, &mut names)?.as_str() {
                "type" => {
                    one_of(&mut map, "type of tool", &["function", "custom"])?;
                    typed = true;
                }
                "tools" => only_null(&mut map, "tools cannot hold tools")?,
                _ => {
                    map.next_value::<Plain>()?;
                }
            }
        }
        if typed { Ok(Tool) } else { Err(A::Error::custom("a tool has no type")) }
    }
});
