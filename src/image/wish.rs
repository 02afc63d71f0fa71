//! What may be asked of an image. Everything is of a closed list but the prompt, which is text.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest prompt, in characters: as much as the provider takes.
pub const MAX_PROMPT: usize = 32_000;

/// An image that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// What it shall show.
    pub prompt: String,
    /// Its size; the operator's (`OPENAI_IMAGE_SIZE`) unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// How much is spent on it; the provider's choice unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// What is behind what it shows; the provider's choice unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// The type of the file.
    #[serde(default)]
    pub output_format: Format,
}

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Size {
    /// The provider chooses.
    #[serde(rename = "auto")]
    Auto,
    /// A square.
    #[serde(rename = "1024x1024")]
    Square,
    /// Wider than high.
    #[serde(rename = "1536x1024")]
    Landscape,
    /// Higher than wide.
    #[serde(rename = "1024x1536")]
    Portrait,
}

/// How much is spent on an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Quality {
    Auto,
    Low,
    Medium,
    High,
}

/// What is behind what an image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Background {
    Auto,
    Opaque,
    Transparent,
}

/// The type of an image's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    #[default]
    Png,
    Jpeg,
    Webp,
}

impl Format {
    /// The one that a file's name ends in; None when it ends in none of them.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        let known = match extension.to_ascii_lowercase().as_str() {
            "png" => Self::Png,
            "jpg" | "jpeg" => Self::Jpeg,
            "webp" => Self::Webp,
            _ => return None,
        };
        (!stem.is_empty() && !stem.ends_with('/')).then_some(known)
    }

    /// What the name of such a file ends in.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    /// Its media type.
    #[must_use]
    pub fn mime_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

impl Wish {
    /// Whether it can be fulfilled.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without what the caller wrote.
    pub fn check(&self) -> Result<(), String> {
        if self.prompt.trim().is_empty() {
            return Err("prompt: at least one character that is not white space".to_owned());
        }
        if self.prompt.chars().count() > MAX_PROMPT {
            return Err(format!("prompt: at most {MAX_PROMPT} characters"));
        }
        if self.background == Some(Background::Transparent) && self.output_format == Format::Jpeg {
            return Err("background: a JPEG cannot be transparent".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_files_type_is_what_its_name_ends_in() {
        for (name, format) in [
            ("a.png", Some(Format::Png)),
            ("public/images/A.JPG", Some(Format::Jpeg)),
            ("x.y.jpeg", Some(Format::Jpeg)),
            ("a.webp", Some(Format::Webp)),
            ("a.svg", None),
            ("png", None),
            (".png", None),
            ("a/.png", None),
            ("a.png/", None),
        ] {
            assert_eq!(Format::of_name(name), format, "{name}");
        }
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        let wish = |text: &str| serde_json::from_str::<Wish>(text).map_err(|e| e.to_string()).and_then(|w| w.check());
        wish(r#"{"prompt": "a fox"}"#).unwrap();
        wish(r#"{"prompt": "a fox", "size": "1536x1024", "quality": "high", "background": "transparent"}"#).unwrap();
        for bad in [
            r#"{}"#,
            r#"{"prompt": " "}"#,
            r#"{"prompt": "x", "prompt": "y"}"#,
            r#"{"prompt": "x", "n": 2}"#,
            r#"{"prompt": "x", "model": "dall-e-3"}"#,
            r#"{"prompt": "x", "response_format": "url"}"#,
            r#"{"prompt": "x", "image": "https://example.org/x.png"}"#,
            r#"{"prompt": "x", "size": "9999x9999"}"#,
            r#"{"prompt": "x", "quality": "hd"}"#,
            r#"{"prompt": "x", "background": "transparent", "output_format": "jpeg"}"#,
        ] {
            wish(bad).unwrap_err();
        }
        let long = serde_json::json!({"prompt": "é".repeat(MAX_PROMPT + 1)});
        wish(&long.to_string()).unwrap_err();
    }
}
