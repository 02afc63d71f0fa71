//! Which requests are let in, by their head alone: three requests of one repository, and no ambiguity.
//!
//! The path is compared with the only three that exist, byte by byte, so there is nothing to decode, to normalise or to
//! get around. hyper has already refused what is not HTTP; what it would interpret is refused here: an upgrade, an
//! expectation, an absolute or authority form, a repeated header. Lengths and codings are only read for a limit: the
//! relay frames what it sends upstream by itself.

use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};

use super::failure::Failure;
use super::limits::{MAX_COMPRESSED, MAX_FETCH_REQUEST};
use crate::relay::listener::Place;

/// The client's wish for a version of the protocol.
pub const GIT_PROTOCOL: HeaderName = HeaderName::from_static("git-protocol");

/// One of git's two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Fetching.
    UploadPack,
    /// Pushing.
    ReceivePack,
}

impl Service {
    /// Its name, as paths, queries and media types have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// A request that is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Which service.
    pub service: Service,
    /// Whether it is the question for the list of refs, which has no body.
    pub asks_for_refs: bool,
    /// The version of the protocol that it wants, as it stands in the header.
    pub version: Option<&'static str>,
    /// The length of its body, in bytes, if it is told.
    pub length: Option<u64>,
    /// Whether the body is compressed.
    pub compressed: bool,
}

/// What is there for a user.
#[derive(Debug, Clone, Copy)]
pub struct Realm<'a> {
    /// `/<user>/<repository>.git`.
    pub repository: &'a str,
    /// Where his listener is.
    pub place: Place,
    /// Largest pack, in bytes.
    pub max_pack: u64,
}

/// Checks a request's head.
///
/// # Errors
/// What is wrong with it.
pub fn admit(head: &Parts, realm: Realm<'_>) -> Result<Call, Failure> {
    if head.version != Version::HTTP_11 {
        return Err(Failure::bad("http_version", "only HTTP/1.1 is spoken here"));
    }
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        return Err(Failure::bad("absolute_form", "this is not a proxy: send the path only"));
    }
    let (service, asks_for_refs) = target(head, realm.repository)?;
    judge_headers(&head.headers, realm.place)?;
    let headers = &head.headers;
    let version = match headers.get(GIT_PROTOCOL).map(HeaderValue::as_bytes) {
        None => None,
        Some(b"version=1") => Some("version=1"),
        Some(b"version=2") => Some("version=2"),
        Some(_) => return Err(Failure::bad("git_protocol", "Git-Protocol is version=1, version=2 or absent")),
    };
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    if chunked && text(headers, &TRANSFER_ENCODING) != Some("chunked") {
        return Err(Failure::bad("transfer_encoding", "a body is chunked or has a length"));
    }
    let length = text(headers, &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if asks_for_refs {
        if chunked || length.unwrap_or(0) > 0 || headers.contains_key(CONTENT_ENCODING) {
            return Err(Failure::bad("body_not_allowed", "this request has no body"));
        }
        return Ok(Call { service, asks_for_refs, version, length: Some(0), compressed: false });
    }
    let media = format!("application/x-{}-request", service.name());
    if text(headers, &CONTENT_TYPE) != Some(&media) {
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", format!("send {media}")));
    }
    let compressed = match (headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes), service) {
        (None | Some(b"identity"), _) => false,
        (Some(b"gzip"), Service::UploadPack) => true,
        _ => {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Failure::new(status, "content_encoding", "only the request of a fetch may be compressed"));
        }
    };
    if length.is_none() && !chunked {
        return Err(Failure::new(StatusCode::LENGTH_REQUIRED, "length_required", "send a length, or a chunked body"));
    }
    let most = match (service, compressed) {
        (_, true) => MAX_COMPRESSED,
        (Service::UploadPack, _) => MAX_FETCH_REQUEST,
        (Service::ReceivePack, _) => realm.max_pack,
    };
    match length {
        Some(length) if length > most => Err(too_large(most)),
        _ => Ok(Call { service, asks_for_refs, version, length: length.filter(|_| !chunked), compressed }),
    }
}

/// What is said of a body with more than `most` bytes.
#[must_use]
pub fn too_large(most: u64) -> Failure {
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body may have at most {most} bytes"))
}

/// The service, and whether its refs are asked for.
fn target(head: &Parts, repository: &str) -> Result<(Service, bool), Failure> {
    let path = head.uri.path().strip_prefix(repository);
    let (wanted, query) = (path.unwrap_or_default(), head.uri.query());
    let found = match wanted {
        "/info/refs" => (None, Method::GET),
        "/git-upload-pack" => (Some(Service::UploadPack), Method::POST),
        "/git-receive-pack" => (Some(Service::ReceivePack), Method::POST),
        _ => {
            let message = format!("only {repository} is here, by git's smart protocol");
            return Err(Failure::new(StatusCode::NOT_FOUND, "path_not_allowed", message));
        }
    };
    if head.method != found.1 {
        let message = format!("this is asked for with {}", found.1);
        return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
    }
    match (found.0, query) {
        (None, Some("service=git-upload-pack")) => Ok((Service::UploadPack, true)),
        (None, Some("service=git-receive-pack")) => Ok((Service::ReceivePack, true)),
        (Some(service), None) => Ok((service, false)),
        _ => Err(Failure::bad("query_not_allowed", "the only query is service=, of info/refs")),
    }
}

fn judge_headers(headers: &HeaderMap, place: Place) -> Result<(), Failure> {
    for name in [UPGRADE, EXPECT, TE, TRAILER] {
        if headers.contains_key(&name) {
            return Err(Failure::bad("header_not_allowed", format!("the header {name} is not accepted here")));
        }
    }
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING, HOST, GIT_PROTOCOL] {
        if headers.get_all(&name).iter().nth(1).is_some() {
            return Err(Failure::bad("header_repeated", format!("the header {name} appears twice")));
        }
    }
    let hosts = match place {
        Place::Port(port) => vec![format!("127.0.0.1:{port}"), format!("localhost:{port}")],
        Place::Name(_) => vec!["localhost".to_owned()],
    };
    if !hosts.iter().any(|host| text(headers, &HOST) == Some(host)) {
        return Err(Failure::bad("wrong_host", format!("the Host header must be {}", hosts[0])));
    }
    Ok(())
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

    const REFS: &str = "/alice/workspace.git/info/refs?service=git-upload-pack";
    const FETCH: &str = "/alice/workspace.git/git-upload-pack";
    const PUSH: &str = "/alice/workspace.git/git-receive-pack";
    const REALM: Realm<'_> = Realm { repository: "/alice/workspace.git", place: Place::Port(4181), max_pack: 1000 };

    /// A head as git sends it, with headers added, or replaced, or (without a value) left out.
    fn head(method: &str, uri: &str, more: &[(&str, &str)]) -> Parts {
        let mut base = vec![("host", "127.0.0.1:4181")];
        if uri.starts_with(FETCH) {
            base.extend([("content-type", "application/x-git-upload-pack-request"), ("content-length", "10")]);
        } else if uri.starts_with(PUSH) {
            base.extend([("content-type", "application/x-git-receive-pack-request"), ("content-length", "10")]);
        }
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in base.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name)) {
            request = request.header(*name, *value);
        }
        for (name, value) in more.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(method: &str, uri: &str, more: &[(&str, &str)]) -> String {
        admit(&head(method, uri, more), REALM).map_or_else(|f| f.code.to_owned(), |call| format!("{call:?}"))
    }

    #[test]
    fn the_three_requests_of_the_users_own_repository_are_let_in() {
        let call = admit(&head("GET", REFS, &[("git-protocol", "version=2")]), REALM).unwrap();
        assert_eq!((call.service, call.asks_for_refs, call.version), (Service::UploadPack, true, Some("version=2")));
        let call = admit(&head("GET", &REFS.replace("upload", "receive"), &[]), REALM).unwrap();
        assert_eq!((call.service, call.asks_for_refs, call.length), (Service::ReceivePack, true, Some(0)));
        let call = admit(&head("POST", FETCH, &[("content-encoding", "gzip")]), REALM).unwrap();
        assert_eq!((call.service, call.compressed, call.length), (Service::UploadPack, true, Some(10)));
        let chunked = [("content-length", ""), ("transfer-encoding", "chunked")];
        let call = admit(&head("POST", PUSH, &chunked), REALM).unwrap();
        assert_eq!((call.service, call.compressed, call.length), (Service::ReceivePack, false, None));
    }

    #[test]
    fn everything_else_is_refused_by_its_own_code() {
        let gzip = ("content-encoding", "gzip");
        for (method, uri, more, expected) in [
            ("GET", "/bob/workspace.git/info/refs?service=git-upload-pack", &[][..], "path_not_allowed"),
            ("POST", "/bob/workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/other.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/Alice/workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "//alice/workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice//workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git//git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git/git-upload-pack/", &[], "path_not_allowed"),
            ("POST", "/alice/../bob/workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git/../../bob/workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/./workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/%61lice/workspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice%2fworkspace.git/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git%2fgit-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git/git%2dupload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git;x/git-upload-pack", &[], "path_not_allowed"),
            ("POST", "/alice/workspace.git/git-upload-archive", &[], "path_not_allowed"),
            ("GET", "/alice/workspace.git/HEAD", &[], "path_not_allowed"),
            ("GET", "/alice/workspace.git/objects/info/packs", &[], "path_not_allowed"),
            ("GET", "/alice/workspace.git/info/lfs/locks", &[], "path_not_allowed"),
            ("GET", "/alice/workspace.git", &[], "path_not_allowed"),
            ("GET", "/api/v1/user", &[], "path_not_allowed"),
            ("GET", "/", &[], "path_not_allowed"),
            ("OPTIONS", "*", &[], "path_not_allowed"),
            ("HEAD", REFS, &[], "method_not_allowed"),
            ("POST", REFS, &[], "method_not_allowed"),
            ("GET", FETCH, &[], "method_not_allowed"),
            ("PUT", PUSH, &[], "method_not_allowed"),
            ("DELETE", PUSH, &[], "method_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs", &[], "query_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs?", &[], "query_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs?service=git-upload-archive", &[], "query_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs?service=git-upload-pack&x=1", &[], "query_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs?x=1&service=git-upload-pack", &[], "query_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs?service=git%2dupload-pack", &[], "query_not_allowed"),
            ("GET", "/alice/workspace.git/info/refs?SERVICE=git-upload-pack", &[], "query_not_allowed"),
            ("POST", "/alice/workspace.git/git-upload-pack?service=git-receive-pack", &[], "query_not_allowed"),
            ("POST", "/alice/workspace.git/git-receive-pack?", &[], "query_not_allowed"),
            ("POST", "http://127.0.0.1:4181/alice/workspace.git/git-upload-pack", &[], "absolute_form"),
            ("POST", "http://example.org/alice/workspace.git/git-upload-pack", &[], "absolute_form"),
            ("CONNECT", "example.org:443", &[], "absolute_form"),
            ("GET", REFS, &[("host", "example.org")], "wrong_host"),
            ("GET", REFS, &[("host", "127.0.0.1")], "wrong_host"),
            ("GET", REFS, &[("host", "127.0.0.1:4180")], "wrong_host"),
            ("GET", REFS, &[("host", "")], "wrong_host"),
            ("GET", REFS, &[("host", "127.0.0.1:4181"), ("host", "example.org")], "header_repeated"),
            ("GET", REFS, &[("upgrade", "h2c")], "header_not_allowed"),
            ("GET", REFS, &[("te", "trailers")], "header_not_allowed"),
            ("POST", PUSH, &[("expect", "100-continue")], "header_not_allowed"),
            ("POST", PUSH, &[("trailer", "x")], "header_not_allowed"),
            ("GET", REFS, &[("git-protocol", "version=3")], "git_protocol"),
            ("GET", REFS, &[("git-protocol", "version=0")], "git_protocol"),
            ("GET", REFS, &[("git-protocol", "version=2:x=y")], "git_protocol"),
            ("GET", REFS, &[("git-protocol", "version=2"), ("git-protocol", "version=2")], "header_repeated"),
            ("GET", REFS, &[("content-length", "3")], "body_not_allowed"),
            ("GET", REFS, &[("transfer-encoding", "chunked")], "body_not_allowed"),
            ("POST", PUSH, &[("content-length", "")], "length_required"),
            ("POST", PUSH, &[("content-length", "1001")], "body_too_large"),
            ("POST", FETCH, &[("content-length", "4194305")], "body_too_large"),
            ("POST", FETCH, &[("content-length", "1048577"), gzip], "body_too_large"),
            ("POST", PUSH, &[gzip], "content_encoding"),
            ("POST", FETCH, &[("content-encoding", "br")], "content_encoding"),
            ("POST", FETCH, &[gzip, gzip], "header_repeated"),
            ("POST", FETCH, &[("transfer-encoding", "gzip, chunked")], "transfer_encoding"),
            ("POST", FETCH, &[("content-type", "application/x-git-receive-pack-request")], "content_type"),
            ("POST", PUSH, &[("content-type", "text/plain")], "content_type"),
            ("POST", PUSH, &[("content-type", "")], "content_type"),
        ] {
            assert_eq!(code(method, uri, more), expected, "{method} {uri} {more:?}");
        }
    }

    proptest! {
        #[test]
        fn no_other_path_is_let_in(
            before in "[a-z/.%2f]{0,6}", user in "(alice|bob|%61lice)", between in "[/.%2f]{1,3}", end in "[a-z/.-]{0,24}",
        ) {
            let path = format!("/{before}{user}{between}workspace.git/{end}");
            prop_assume!(hyper::Uri::try_from(&path).is_ok());
            let let_in = admit(&head("POST", &path, &[
                ("content-type", "application/x-git-upload-pack-request"), ("content-length", "10"),
            ]), REALM).is_ok();
            prop_assert_eq!(let_in, path == FETCH);
        }
    }
}
