//! Which requests are let in, by their head alone: the exact table of method and path, and no ambiguity.
//!
//! hyper has already refused what is not HTTP (bare line feeds in headers, folded lines, differing or malformed
//! lengths). What it would interpret is refused here, before any of the body is read: a transfer coding (so a length
//! and a coding never meet), an upgrade, an expectation, an absolute or authority form, a second Host or
//! Authorization. Equal repeated Content-Length lines reach us as one, as RFC 9110 section 8.6 allows; the relay writes
//! its own length upstream, so nothing is carried on.

use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{StatusCode, Version};

use super::failure::Failure;
use super::routes::{self, Route};

/// Checks a request's head; gives what is asked for and the length of the body, in bytes. `offered` says what can be.
///
/// # Errors
/// What is wrong with it.
pub fn admit(head: &Parts, port: u16, offered: impl Fn(Route) -> bool) -> Result<(Route, u64), Failure> {
    let bad = |code: &str, message: &str| Failure::refused(StatusCode::BAD_REQUEST, code, message);
    if head.version != Version::HTTP_11 {
        return Err(bad("http_version", "only HTTP/1.1 is spoken here"));
    }
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        return Err(bad("absolute_form", "this is not a proxy: send the path only"));
    }
    let entry = routes::find(head.uri.path(), offered)?;
    if head.uri.query().is_some() {
        return Err(bad("query_not_allowed", "no query is accepted here"));
    }
    routes::has_method(&head.method)?;
    for name in [UPGRADE, EXPECT, TRANSFER_ENCODING] {
        if head.headers.contains_key(&name) {
            return Err(bad("header_not_allowed", &format!("the header {name} is not accepted here")));
        }
    }
    for name in [AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_LENGTH, HOST] {
        if head.headers.get_all(&name).iter().nth(1).is_some() {
            return Err(bad("header_repeated", &format!("the header {name} appears twice")));
        }
    }
    let host = text(&head.headers, &HOST);
    if host != Some(&format!("127.0.0.1:{port}")) && host != Some(&format!("localhost:{port}")) {
        return Err(bad("wrong_host", "the Host header must be 127.0.0.1 and the provider's port"));
    }
    let coding = text(&head.headers, &CONTENT_ENCODING);
    if head.headers.contains_key(CONTENT_ENCODING) && !coding.is_some_and(|coding| entry.codings.contains(&coding)) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let message = format!("a body may be {} here", entry.codings.join(" or "));
        return Err(Failure::refused(status, "content_encoding", message));
    }
    let media = text(&head.headers, &CONTENT_TYPE).and_then(|t| t.split(';').next()).unwrap_or_default();
    if !media.trim().eq_ignore_ascii_case("application/json") {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Failure::refused(status, "content_type", "send application/json"));
    }
    let length = text(&head.headers, &CONTENT_LENGTH).and_then(|t| t.parse::<u64>().ok());
    match length {
        None | Some(0) => {
            Err(Failure::refused(StatusCode::LENGTH_REQUIRED, "length_required", "send a body with Content-Length"))
        }
        Some(length) if length > entry.most => {
            let message = format!("the body may have at most {} bytes", entry.most);
            Err(Failure::refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
        }
        Some(length) => Ok((entry.route, length)),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/v1/responses";

    fn head(method: &str, uri: &str, more: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        let base = [("host", "127.0.0.1:4180"), ("content-type", "application/json"), ("content-length", "10")];
        for (name, value) in base.iter().filter(|(n, _)| !more.iter().any(|(m, v)| m == n && v.is_empty())) {
            request = request.header(*name, *value);
        }
        for (name, value) in more.iter().filter(|(_, v)| !v.is_empty()) {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(method: &str, uri: &str, more: &[(&str, &str)]) -> String {
        admit(&head(method, uri, more), 4180, |_| true).map_or_else(|f| f.code, |(_, length)| length.to_string())
    }

    #[test]
    fn one_method_is_let_in_with_each_path_of_the_table() {
        assert_eq!(admit(&head("POST", PATH, &[]), 4180, |_| true), Ok((Route::Responses, 10)));
        assert_eq!(admit(&head("POST", routes::IMAGES, &[]), 4180, |_| true), Ok((Route::Images, 10)));
        assert_eq!(code("POST", PATH, &[]), "10");
        assert_eq!(
            code("POST", PATH, &[("authorization", "Bearer placeholder"), ("content-encoding", "identity")]),
            "10"
        );
    }

    #[test]
    fn what_is_not_offered_does_not_exist_and_only_codex_bodies_come_compressed() {
        let codex = "/v1/codex/responses";
        let only = |offered| {
            move |uri, more: &[_]| {
                admit(&head("POST", uri, more), 4180, |route| route == offered)
                    .map_or_else(|f| f.code, |_| "in".to_owned())
            }
        };
        for coding in ["zstd", "identity"] {
            assert_eq!(only(Route::Codex)(codex, &[("content-encoding", coding)]), "in");
        }
        assert_eq!(only(Route::Codex)(PATH, &[]), "unknown_path");
        assert_eq!(only(Route::Responses)(codex, &[]), "unknown_path");
        assert_eq!(only(Route::Responses)(PATH, &[("content-encoding", "zstd")]), "content_encoding");
        let twice = [("content-encoding", "zstd"), ("content-encoding", "zstd")];
        assert_eq!(only(Route::Codex)(codex, &twice), "header_repeated");
        for coding in ["gzip", "zstd, zstd", "zstd,identity", "ZSTD", "br"] {
            assert_eq!(only(Route::Codex)(codex, &[("content-encoding", coding)]), "content_encoding", "{coding}");
        }
        assert_eq!(
            only(Route::Codex)(codex, &[("upgrade", "websocket"), ("connection", "upgrade")]),
            "header_not_allowed"
        );
        assert_eq!(code("GET", codex, &[("upgrade", "websocket")]), "method_not_allowed");
        for path in ["/v1/codex/responses/", "/v1/codex", "/codex/responses", "/backend-api/codex/responses"] {
            assert_eq!(code("POST", path, &[]), "unknown_path", "{path}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_its_own_code() {
        for (method, uri, more, expected) in [
            ("GET", PATH, &[][..], "method_not_allowed"),
            ("PUT", PATH, &[], "method_not_allowed"),
            ("OPTIONS", PATH, &[], "method_not_allowed"),
            ("POST", "/v1/responses/", &[], "unknown_path"),
            ("POST", "/v1/responses/resp_1/cancel", &[], "unknown_path"),
            ("POST", "/v1/Responses", &[], "unknown_path"),
            ("POST", "//v1/responses", &[], "unknown_path"),
            ("POST", "/v1/../v1/responses", &[], "unknown_path"),
            ("POST", "/v1/responses%2f", &[], "unknown_path"),
            ("POST", "/v1%2fresponses", &[], "unknown_path"),
            ("POST", "/v1/files", &[], "unknown_path"),
            ("POST", "/v1/images/edits", &[], "unknown_path"),
            ("POST", "/v1/images/variations", &[], "unknown_path"),
            ("POST", "/v1/images/generations/", &[], "unknown_path"),
            ("POST", "/images/generations", &[], "unknown_path"),
            ("GET", routes::IMAGES, &[], "method_not_allowed"),
            ("POST", routes::IMAGES, &[("content-length", ""), ("Content-Length", "262145")], "body_too_large"),
            ("POST", routes::IMAGES, &[("content-type", ""), ("Content-Type", "multipart/form-data")], "content_type"),
            ("GET", "/v1/models", &[], "unknown_path"),
            ("OPTIONS", "*", &[], "unknown_path"),
            ("POST", "/v1/responses?x=1", &[], "query_not_allowed"),
            ("POST", "/v1/responses?", &[], "query_not_allowed"),
            ("POST", "http://127.0.0.1:4180/v1/responses", &[], "absolute_form"),
            ("CONNECT", "example.org:443", &[], "absolute_form"),
            ("POST", PATH, &[("transfer-encoding", "chunked")], "header_not_allowed"),
            ("POST", PATH, &[("upgrade", "websocket")], "header_not_allowed"),
            ("POST", PATH, &[("expect", "100-continue")], "header_not_allowed"),
            ("POST", PATH, &[("host", "127.0.0.1:4180")], "header_repeated"),
            ("POST", PATH, &[("authorization", "a"), ("authorization", "b")], "header_repeated"),
            ("POST", PATH, &[("host", "")], "wrong_host"),
            ("POST", PATH, &[("host", ""), ("Host", "example.org")], "wrong_host"),
            ("POST", PATH, &[("content-type", ""), ("Content-Type", "text/plain")], "content_type"),
            ("POST", PATH, &[("content-encoding", "zstd")], "content_encoding"),
            ("POST", PATH, &[("content-length", "")], "length_required"),
            ("POST", PATH, &[("content-length", ""), ("Content-Length", "0")], "length_required"),
            ("POST", PATH, &[("content-length", ""), ("Content-Length", "33554433")], "body_too_large"),
        ] {
            assert_eq!(code(method, uri, more), expected, "{method} {uri} {more:?}");
        }
    }

    proptest! {
        #[test]
        fn no_other_path_or_method_is_let_in(method in "[A-Z]{1,8}", path in "/[a-z0-9/.%]{0,20}") {
            prop_assume!(hyper::Uri::try_from(&path).is_ok());
            let let_in = admit(&head(&method, &path, &[]), 4180, |_| true).is_ok();
            let known = routes::TABLE.iter().any(|entry| entry.path == path);
            prop_assert_eq!(let_in, method == "POST" && known);
        }
    }
}
