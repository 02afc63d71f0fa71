//! Pages for people: the API's description at `/docs`, and the console at `/console` with `CONSOLE_ENABLED=true`.
//!
//! They are plain files in this program, need no other server, and hold no secret: what they show comes from the API, with
//! the reader's own token. Their policy lets them load nothing but these files, talk to nothing but this origin, run no
//! inline script and, where the browser knows trusted types, make no markup out of text: what an agent wrote stays text.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::App;

/// A file of a page.
#[derive(Clone, Copy)]
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($path:literal, $content_type:expr, $file:literal) => {
        File { path: $path, content_type: $content_type, text: include_str!(concat!("pages/", $file)) }
    };
}

const DOCS: &[File] = &[
    file!("/pages/base.css", CSS, "base.css"),
    file!("/pages/icon.svg", SVG, "icon.svg"),
    file!("/docs", HTML, "docs.html"),
    file!("/docs/docs.css", CSS, "docs/docs.css"),
    file!("/docs/docs.js", JS, "docs/docs.js"),
    file!("/docs/schema.js", JS, "docs/schema.js"),
];

const CONSOLE: &[File] = &[
    file!("/console", HTML, "console.html"),
    file!("/console/console.css", CSS, "console/console.css"),
    file!("/console/app.js", JS, "console/app.js"),
    file!("/console/api.js", JS, "console/api.js"),
    file!("/console/dom.js", JS, "console/dom.js"),
    file!("/console/editor.js", JS, "console/editor.js"),
    file!("/console/events.js", JS, "console/events.js"),
    file!("/console/files.js", JS, "console/files.js"),
    file!("/console/runs.js", JS, "console/runs.js"),
    file!("/console/transcript.js", JS, "console/transcript.js"),
];

/// `blob:` is for pictures of the workspace, which the console has fetched with the token.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// The routes of the pages.
pub fn routes(console: bool) -> Router<App> {
    let consoles = if console { CONSOLE } else { &[] };
    let serve = |router: Router<App>, file: &File| {
        let file = *file;
        router.route(file.path, get(move || async move { answer(&file) }))
    };
    DOCS.iter().chain(consoles).fold(Router::new(), serve)
}

fn answer(file: &File) -> Response {
    let plain = HeaderValue::from_static;
    let headers = [
        (header::CONTENT_TYPE, plain(file.content_type)),
        (header::CONTENT_SECURITY_POLICY, plain(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, plain("nosniff")),
        (header::X_FRAME_OPTIONS, plain("DENY")),
        (header::REFERRER_POLICY, plain("no-referrer")),
        (header::HeaderName::from_static("cross-origin-opener-policy"), plain("same-origin")),
        (header::HeaderName::from_static("cross-origin-resource-policy"), plain("same-origin")),
        // Another version of the gateway has other files under the same names.
        (header::CACHE_CONTROL, plain("no-store")),
    ];
    (headers, file.text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What makes markup out of text, or code.
    const FORBIDDEN: [&str; 11] = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "createContextualFragment",
        "DOMParser",
        "setHTML",
        "eval(",
        "new Function",
        "srcdoc",
        "localStorage",
    ];

    #[test]
    fn no_file_has_inline_code_or_makes_markup_of_text() {
        for file in DOCS.iter().chain(CONSOLE) {
            for word in FORBIDDEN {
                assert!(!file.text.contains(word), "{}: {word}", file.path);
            }
            if file.content_type == HTML {
                assert!(!file.text.contains("<style") && !file.text.contains(" style="), "{}", file.path);
                assert!(!file.text.contains("javascript:"), "{}", file.path);
                let tags = file.text.split('<').skip(1).filter_map(|rest| rest.split('>').next());
                for tag in tags {
                    assert!(!tag.starts_with("script") || tag.contains(" src="), "{}: {tag}", file.path);
                    let handler = tag.split_whitespace().find(|word| word.starts_with("on") && word.contains('='));
                    assert_eq!(handler, None, "{}", file.path);
                }
            }
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_all_that_is_loaded_is_there() {
        for (page, files) in [("/docs", DOCS), ("/console", CONSOLE)] {
            let known = |path: &str| files.iter().chain(DOCS).any(|file| file.path == path);
            for file in files {
                for mark in ["src=\"", "href=\"", "from './", "import './"] {
                    for rest in file.text.split(mark).skip(1) {
                        let Some(target) = rest.split(['"', '\'']).next() else { continue };
                        if target.starts_with('#') {
                            continue;
                        }
                        let path = if mark.ends_with("./") { format!("{page}/{target}") } else { format!("/{target}") };
                        assert!(known(&path), "{}: {target}", file.path);
                    }
                }
                assert!(!file.text.contains("https://"), "{}", file.path);
            }
        }
    }
}
