//! What can be asked for: a table of exact paths, all of them with POST. Nothing else exists here.
//!
//! What a route asks of a request's head beyond the rules for all of them stands in its entry.

use hyper::{Method, StatusCode};

use super::failure::Failure;
use super::limits::{MAX_BODY, MAX_WISH};

/// One thing that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// An answer of the provider's Responses API.
    Responses,
    /// The same of a ChatGPT account's models.
    Codex,
    /// An image.
    Images,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The path, compared byte by byte.
    pub path: &'static str,
    /// What it is.
    pub route: Route,
    /// The codings a body may come in, beside none at all.
    pub codings: &'static [&'static str],
    /// The most bytes of a body.
    pub most: u64,
}

/// The table.
pub const TABLE: [Entry; 3] = [
    Entry { path: "/v1/responses", route: Route::Responses, codings: &["identity"], most: MAX_BODY },
    Entry { path: "/v1/codex/responses", route: Route::Codex, codings: &["identity", "zstd"], most: MAX_BODY },
    Entry { path: IMAGES, route: Route::Images, codings: &["identity"], most: MAX_WISH },
];
/// Where images are asked for, also on the front's own door.
pub const IMAGES: &str = "/v1/images/generations";

/// The entry of a path; `offered` says which of them there are in this configuration.
///
/// # Errors
/// There is none.
pub fn find(path: &str, offered: impl Fn(Route) -> bool) -> Result<&'static Entry, Failure> {
    let entry = TABLE.iter().find(|entry| entry.path == path && offered(entry.route));
    entry.ok_or_else(|| Failure::refused(StatusCode::NOT_FOUND, "unknown_path", only()))
}

/// Sees that the method is the one that all entries have.
///
/// # Errors
/// It is another.
pub fn has_method(method: &Method) -> Result<(), Failure> {
    if method == Method::POST {
        return Ok(());
    }
    Err(Failure::refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", only()))
}

fn only() -> String {
    let paths: Vec<&str> = TABLE.iter().map(|entry| entry.path).collect();
    format!("only POST {} exists here", paths.join(", "))
}
