//! The headers that cross the relay, in both directions. What is not listed here does not cross.
//!
//! Outward: what describes the request and pi's session, never an authorization, cookie, account, proxy or hop-by-hop
//! header of the client's. Inward: what pi needs to read the answer, nothing that tells about the gateway's account.

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, USER_AGENT,
};

use super::config::ApiKey;

/// Longest value of a client's header that is passed on, in bytes.
const MAX_VALUE: usize = 256;

/// Client headers that are passed on when they appear once, in visible ASCII and no longer than [`MAX_VALUE`].
const OUTWARD: [HeaderName; 3] =
    [USER_AGENT, HeaderName::from_static("session-id"), HeaderName::from_static("x-client-request-id")];

/// Answer headers that are passed back.
const INWARD: [HeaderName; 3] = [CONTENT_TYPE, CACHE_CONTROL, RETRY_AFTER];

/// What is sent upstream for a client's request.
#[must_use]
pub fn outward(client: &HeaderMap, key: &ApiKey) -> HeaderMap {
    let mut out = HeaderMap::new();
    OUTWARD.iter().for_each(|name| pass(client, name, &mut out));
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    out.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    // The usage is read out of the stream, so it has to come uncompressed.
    out.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    out.insert(AUTHORIZATION, key.header());
    out
}

/// Passes one header of the client's on, if it is as [`OUTWARD`] says.
pub fn pass(client: &HeaderMap, name: &HeaderName, out: &mut HeaderMap) {
    let mut values = client.get_all(name).iter();
    if let (Some(value), None) = (values.next(), values.next())
        && value.len() <= MAX_VALUE
        && value.to_str().is_ok()
    {
        out.insert(name.clone(), value.clone());
    }
}

/// What is passed back of an answer's headers.
#[must_use]
pub fn inward(upstream: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for name in INWARD {
        if let Some(value) = upstream.get(&name).filter(|v| v.len() <= MAX_VALUE) {
            out.insert(name, value.clone());
        }
    }
    out
}

/// The upstream's request id, for the log only: visible ASCII, at most 128 bytes.
#[must_use]
pub fn upstream_id(upstream: &HeaderMap) -> &str {
    upstream.get("x-request-id").and_then(|v| v.to_str().ok()).filter(|v| v.len() <= 128).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn key() -> ApiKey {
        ApiKey::new("sk-the-real-key").unwrap()
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn of_everything_pi_sends_only_the_listed_goes_out_and_the_key_replaces_the_placeholder() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer placeholder"),
            ("cookie", "a=b"),
            ("openai-organization", "org-x"),
            ("openai-project", "proj-x"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-stainless-os", "Linux"),
            ("proxy-authorization", "x"),
            ("host", "127.0.0.1:4180"),
            ("accept-encoding", "gzip"),
            ("accept", "application/json"),
            ("content-type", "application/json; x=y"),
            ("user-agent", "pi/1.5.2"),
            ("session-id", "s"),
            ("x-client-request-id", "s"),
        ] {
            client.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let out = outward(&client, &key());
        let expected = [
            "accept",
            "accept-encoding",
            "authorization",
            "content-type",
            "session-id",
            "user-agent",
            "x-client-request-id",
        ];
        assert_eq!(names(&out), expected);
        assert_eq!(out[AUTHORIZATION], "Bearer sk-the-real-key");
        assert!(out[AUTHORIZATION].is_sensitive());
        assert_eq!(out[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn repeated_overlong_and_binary_values_are_left_out() {
        let mut client = HeaderMap::new();
        client.append("session-id", HeaderValue::from_static("a"));
        client.append("session-id", HeaderValue::from_static("b"));
        client.insert("x-client-request-id", HeaderValue::from_bytes(b"\xff").unwrap());
        client.insert(USER_AGENT, HeaderValue::from_str(&"x".repeat(MAX_VALUE + 1)).unwrap());
        let out = outward(&client, &key());
        assert_eq!(names(&out), ["accept", "accept-encoding", "authorization", "content-type"]);
    }

    #[test]
    fn nothing_about_the_account_comes_back() {
        let mut upstream = HeaderMap::new();
        for name in [
            "set-cookie",
            "openai-organization",
            "openai-project",
            "x-ratelimit-limit-tokens",
            "x-request-id",
            "content-type",
            "retry-after",
            "cache-control",
            "transfer-encoding",
            "connection",
            "content-length",
        ] {
            upstream.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        assert_eq!(names(&inward(&upstream)), ["cache-control", "content-type", "retry-after"]);
        assert_eq!(upstream_id(&upstream), "1");
    }

    proptest! {
        #[test]
        fn no_other_header_crosses(name in "[a-z][a-z0-9-]{0,30}", value in "[ -~]{0,40}") {
            let header = HeaderName::try_from(name).unwrap();
            let mut map = HeaderMap::new();
            map.insert(header.clone(), HeaderValue::from_str(&value).unwrap());
            let fixed = names(&outward(&HeaderMap::new(), &key())).len();
            prop_assert_eq!(outward(&map, &key()).len() > fixed, OUTWARD.contains(&header));
            prop_assert_eq!(!inward(&map).is_empty(), INWARD.contains(&header));
        }
    }
}
