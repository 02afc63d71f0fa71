//! How the provider is asked for an image, and where in its answer the image is: by the Images API, or as a tool of a
//! model of the Responses API (`OPENAI_RESPONSES_MODEL`).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::image::picture;
use crate::image::wish::{Format, Wish};
use crate::relay::model::sse::{Tokens, Wire};

/// How images are made: the operator's choice.
#[derive(Debug, Clone)]
pub struct Images {
    /// Where requests go.
    pub endpoint: Url,
    /// The model that is asked.
    pub model: String,
    /// Whether that is a model of the Responses API, which has the image made by its tool.
    pub by_tool: bool,
    /// The size of an image unless asked otherwise.
    pub size: String,
}

#[derive(Deserialize)]
struct Made<'a> {
    #[serde(borrow)]
    data: Vec<Datum<'a>>,
    usage: Option<Wire>,
}

#[derive(Deserialize)]
struct Datum<'a> {
    #[serde(borrow)]
    b64_json: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    output: Vec<Item<'a>>,
    usage: Option<Wire>,
    tool_usage: Option<ToolUsage>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    result: Option<Text<'a>>,
}

/// What tools of the provider used beside the model.
#[derive(Deserialize)]
struct ToolUsage {
    image_gen: Option<Wire>,
}

/// A string, borrowed when it needs no unescaping.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What an answer holds: one image in base64, or why it holds none.
type Found = Result<String, &'static str>;

impl Images {
    /// The body of the request for one image.
    #[must_use]
    pub fn request(&self, wish: &Wish) -> Value {
        let mut asked = json!({"output_format": wish.output_format});
        asked["size"] = wish.size.map_or_else(|| json!(self.size), |size| json!(size));
        let chosen = [("quality", wish.quality.map(|q| json!(q))), ("background", wish.background.map(|b| json!(b)))];
        for (name, value) in chosen {
            if let Some(value) = value {
                asked[name] = value;
            }
        }
        if self.by_tool {
            asked["type"] = json!("image_generation");
            let choice = json!({"type": "image_generation"});
            return json!({"model": self.model, "input": wish.prompt, "store": false, "tools": [asked],
                "tool_choice": choice});
        }
        asked["model"] = json!(self.model);
        asked["prompt"] = json!(wish.prompt);
        asked["n"] = json!(1);
        asked
    }

    /// What the provider counted, and the one image of this type in its answer.
    pub fn image(&self, answer: &[u8], format: Format) -> (Option<Tokens>, Found) {
        let (tokens, found) = if self.by_tool { by_tool(answer) } else { by_images(answer) };
        (tokens, found.and_then(|text| checked(text, format)))
    }
}

fn by_images(answer: &[u8]) -> (Option<Tokens>, Result<Cow<'_, str>, &'static str>) {
    let Ok(made) = serde_json::from_slice::<Made<'_>>(answer) else {
        return (None, Err("it is not what was expected"));
    };
    let tokens = made.usage.map(Tokens::from);
    let mut all = made.data.into_iter();
    match (all.next().and_then(|datum| datum.b64_json), all.next()) {
        (Some(Text(text)), None) => (tokens, Ok(text)),
        _ => (tokens, Err("it is not exactly one")),
    }
}

fn by_tool(answer: &[u8]) -> (Option<Tokens>, Result<Cow<'_, str>, &'static str>) {
    let Ok(answered) = serde_json::from_slice::<Answered<'_>>(answer) else {
        return (None, Err("it is not what was expected"));
    };
    let tool = answered.tool_usage.and_then(|usage| usage.image_gen).map(Tokens::from).unwrap_or_default();
    let tokens = answered.usage.map(Tokens::from).map(|model| Tokens {
        input: model.input.saturating_add(tool.input),
        output: model.output.saturating_add(tool.output),
        ..model
    });
    let mut calls = answered.output.into_iter().filter(|item| item.kind.0 == "image_generation_call");
    match (calls.next().and_then(|call| call.result), calls.next()) {
        (Some(Text(text)), None) => (tokens, Ok(text)),
        _ => (tokens, Err("it is not exactly one")),
    }
}

/// The text, when it is an image in base64. What is passed on stands between quotes: base64 has none.
fn checked(text: Cow<'_, str>, format: Format) -> Found {
    let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| "it is not whole, or no base64")?;
    picture::check(&bytes, format)?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::image::picture::tests::PNG;
    use crate::image::wish::{Background, Quality, Size};

    fn images(by_tool: bool) -> Images {
        let endpoint = "http://127.0.0.1:1/v1/x".parse().unwrap();
        Images { endpoint, model: "the-model".to_owned(), by_tool, size: "1024x1024".to_owned() }
    }

    #[test]
    fn either_way_asks_for_one_image_and_for_nothing_that_was_not_said() {
        let plain: Wish = serde_json::from_value(json!({"prompt": "a fox"})).unwrap();
        let chosen = Wish {
            size: Some(Size::Landscape),
            quality: Some(Quality::High),
            background: Some(Background::Transparent),
            output_format: Format::Webp,
            ..plain.clone()
        };
        let mut body =
            json!({"model": "the-model", "prompt": "a fox", "n": 1, "size": "1024x1024", "output_format": "png"});
        assert_eq!(images(false).request(&plain), body);
        for (name, value) in
            [("size", "1536x1024"), ("quality", "high"), ("background", "transparent"), ("output_format", "webp")]
        {
            body[name] = json!(value);
        }
        assert_eq!(images(false).request(&chosen), body);
        let tool = json!({"type": "image_generation", "size": "1024x1024", "output_format": "png"});
        let body = json!({"model": "the-model", "input": "a fox", "store": false, "tools": [tool],
            "tool_choice": {"type": "image_generation"}});
        assert_eq!(images(true).request(&plain), body);
    }

    #[test]
    fn the_image_is_found_with_what_it_cost() {
        let usage = json!({"input_tokens": 10, "output_tokens": 200});
        let answer = json!({"created": 1, "data": [{"b64_json": PNG}], "usage": usage}).to_string();
        let (tokens, found) = images(false).image(answer.as_bytes(), Format::Png);
        assert_eq!((tokens.unwrap().input, tokens.unwrap().output, found.unwrap().as_str()), (10, 200, PNG));
        let answer = json!({"id": "resp_1", "usage": usage, "tool_usage": {"image_gen": {"input_tokens": 3, "output_tokens": 50}},
            "output": [{"type": "reasoning", "summary": []}, {"type": "image_generation_call", "result": PNG}]});
        let (tokens, found) = images(true).image(answer.to_string().as_bytes(), Format::Png);
        assert_eq!((tokens.unwrap().input, tokens.unwrap().output, found.unwrap().as_str()), (13, 250, PNG));
    }

    #[test]
    fn an_answer_that_is_no_single_image_is_told_from_one() {
        let html = STANDARD.encode("<!doctype html><html></html>");
        for data in [
            json!([]),
            json!([{"b64_json": PNG}, {"b64_json": PNG}]),
            json!([{"url": "https://example.org/image.png"}]),
            json!([{"b64_json": ""}]),
            json!([{"b64_json": &PNG[..PNG.len() - 5]}]),
            json!([{"b64_json": &PNG[..PNG.len() - 8]}]),
            json!([{"b64_json": format!("data:image/png;base64,{PNG}")}]),
            json!([{"b64_json": html}]),
            json!([{"b64_json": 1}]),
        ] {
            let answer = json!({"data": data}).to_string();
            assert!(images(false).image(answer.as_bytes(), Format::Png).1.is_err(), "{answer}");
            assert!(images(true).image(answer.as_bytes(), Format::Png).1.is_err(), "the other way's answer");
        }
        for output in [
            json!([]),
            json!([{"type": "message", "content": "I cannot do that"}]),
            json!([{"type": "image_generation_call", "result": null}]),
            json!([{"type": "image_generation_call", "result": PNG}, {"type": "image_generation_call", "result": PNG}]),
        ] {
            let answer = json!({"output": output}).to_string();
            assert!(images(true).image(answer.as_bytes(), Format::Png).1.is_err(), "{answer}");
        }
        for bad in [&b""[..], b"<html>", b"{\"data\":", b"\xff\xfe", b"[1]"] {
            assert!(images(false).image(bad, Format::Png).1.is_err());
            assert!(images(true).image(bad, Format::Png).1.is_err());
        }
        let answer = json!({"data": [{"b64_json": PNG}]}).to_string();
        assert!(images(false).image(answer.as_bytes(), Format::Jpeg).1.is_err(), "another type than asked for");
    }
}
