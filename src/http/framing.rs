//! Requests that could be understood in two ways, by this server and by a proxy before it.
//!
//! hyper refuses what it cannot parse and closes a connection whose body ends in doubt. What it lets through is refused
//! here: 400 `ambiguous_request`, and the connection is closed, so that nothing behind such a request is ever taken for a
//! further one.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, Version, header};
use axum::response::{IntoResponse, Response};

use super::problem::{AMBIGUOUS_REQUEST, Problem};

/// Headers that are read as one value; a second one would be read by somebody else.
const ONCE: [&str; 7] =
    ["host", "transfer-encoding", "content-type", "expect", "idempotency-key", "last-event-id", "x-request-id"];

/// The refusal of an ambiguous request; None for an ordinary one.
pub fn refuse(request: &Request) -> Option<Response> {
    let detail = ambiguity(request)?;
    let problem = Problem::new(AMBIGUOUS_REQUEST, detail);
    Some(problem.with_header(header::CONNECTION, HeaderValue::from_static("close")).into_response())
}

fn ambiguity(request: &Request) -> Option<&'static str> {
    let headers = request.headers();
    if ONCE.iter().any(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        return Some("A header that may be there once was given twice.");
    }
    let host = headers.get(header::HOST);
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Some("HTTP/1.1 requires the header Host.");
    }
    if request.method() == Method::CONNECT {
        return Some("This is no proxy.");
    }
    if let Some(authority) = request.uri().authority()
        && host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
    {
        return Some("The request line and the header Host name different hosts.");
    }
    match headers.get(header::TRANSFER_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Some("Transfer-Encoding: chunked, or none.")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::body::Body;

    fn judged(uri: &str, version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        refuse(&request.body(Body::empty()).unwrap()).is_none()
    }

    #[test]
    fn what_is_ambiguous_is_refused_and_its_plain_form_is_not() {
        let (http10, http11) = (Version::HTTP_10, Version::HTTP_11);
        assert!(judged("/x", http11, &[("host", "a")]));
        assert!(judged("/x", http10, &[]));
        assert!(!judged("/x", http11, &[]));
        assert!(!judged("/x", http11, &[("host", "a"), ("host", "a")]));
        assert!(judged("http://a/x", http11, &[("host", "A")]));
        assert!(!judged("http://b/x", http11, &[("host", "a")]));
        assert!(judged("/x", http11, &[("host", "a"), ("transfer-encoding", "Chunked")]));
        for odd in ["gzip, chunked", "chunked, chunked", "identity", "xchunked"] {
            assert!(!judged("/x", http11, &[("host", "a"), ("transfer-encoding", odd)]), "{odd}");
        }
    }
}
