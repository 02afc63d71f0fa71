//! Answers that are errors, in the shape OpenAI's clients read: `{"error":{"message","type","code"}}`.
//!
//! Our own refusals are made here, and so is what is left of the upstream's errors: their texts can hold parts of the
//! key, the organisation and the project, so the text is scrubbed and the credential's own failures (401, 403) are
//! replaced. pi decides by status and wording whether to try again, so 429 and 5xx keep both and 401 stays 401.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::config::ApiKey;

/// Longest error text that is passed on, in characters.
const MAX_MESSAGE: usize = 2000;

/// A request that ends with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable word for programs and the log.
    pub code: String,
    /// OpenAI's class of error.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
    /// After how many seconds another try may help.
    pub retry_after: Option<u64>,
}

impl Failure {
    /// A refusal of the client's request.
    #[must_use]
    pub fn refused(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let kind = "invalid_request_error".to_owned();
        Self { status, code: code.to_owned(), kind, message: message.into(), retry_after: None }
    }

    /// A failure on this side or upstream, worth another try.
    #[must_use]
    pub fn trouble(status: StatusCode, code: &str, message: &str) -> Self {
        let kind = "server_error".to_owned();
        Self { status, code: code.to_owned(), kind, message: message.to_owned(), retry_after: None }
    }

    /// The user's token budget is used up. "quota exceeded" is what keeps pi from trying again.
    #[must_use]
    pub fn exhausted(until: Timestamp, now: Timestamp) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "budget_exhausted".to_owned(),
            kind: "insufficient_quota".to_owned(),
            message: format!("The user's token budget of 24 hours is used up (quota exceeded) until {until}."),
            retry_after: u64::try_from(until.duration_since(now).as_secs()).ok().map(|seconds| seconds + 1),
        }
    }

    /// Requests under way may use up what is left of the user's token budget.
    #[must_use]
    pub fn set_aside() -> Self {
        let message = "Other requests of the user may use up what is left of the token budget (rate limit).";
        let failure = Self::trouble(StatusCode::TOO_MANY_REQUESTS, "budget_set_aside", message);
        Self { retry_after: Some(10), ..failure }
    }

    /// What the client learns of an upstream error with this status and body.
    #[must_use]
    pub fn upstream(status: StatusCode, body: &[u8], key: &ApiKey) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::upstream_credential(status),
            status if status.is_client_error() || status.is_server_error() => Self::passed_on(status, body, key),
            _ => Self::trouble(
                StatusCode::BAD_GATEWAY,
                "upstream_unexpected",
                "The model provider answered in a way the gateway does not understand (server error).",
            ),
        }
    }

    /// What the client learns when the upstream does not accept the gateway's credential.
    #[must_use]
    pub fn upstream_credential(status: StatusCode) -> Self {
        Self {
            status,
            code: "gateway_credential_refused".to_owned(),
            kind: "authentication_error".to_owned(),
            message: "The model provider does not accept the gateway's credential for this request. Trying again does \
                      not help; the operator of the gateway has to look into it."
                .to_owned(),
            retry_after: None,
        }
    }

    fn passed_on(status: StatusCode, body: &[u8], key: &ApiKey) -> Self {
        let said = serde_json::from_slice::<Said>(body).ok().map(|s| s.error).unwrap_or_default();
        let message = said
            .message
            .filter(|text| !text.is_empty() && !key.is_in(text))
            .map_or_else(|| own_sentence(status), |text| scrub(&text));
        Self {
            status,
            code: said.code.filter(|c| is_word(c)).unwrap_or_default(),
            kind: said.kind.filter(|k| is_word(k)).unwrap_or_else(|| "upstream_error".to_owned()),
            message,
            retry_after: None,
        }
    }

    /// The answer. `close` ends the connection, for requests whose body was not read.
    #[must_use]
    pub fn answer(&self, close: bool) -> Response<Full<Bytes>> {
        let code = if self.code.is_empty() { None } else { Some(&self.code) };
        let body = json!({"error": {"message": self.message, "type": self.kind, "param": null, "code": code}});
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// An upstream's `Retry-After` goes with its error.
pub fn keep_retry_after(from: &HeaderMap, to: &mut HeaderMap) {
    if let Some(value) = super::headers::inward(from).remove(RETRY_AFTER) {
        to.insert(RETRY_AFTER, value);
    }
}

#[derive(Deserialize)]
struct Said {
    error: Error,
}

#[derive(Deserialize, Default)]
struct Error {
    #[serde(default)]
    message: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// What is told of an error whose own words are not.
pub(super) fn own_sentence(status: StatusCode) -> String {
    match status.as_u16() {
        429 => "The model provider reports too many requests (rate limit).".to_owned(),
        500.. => "The model provider reports a server error.".to_owned(),
        _ => "The model provider does not accept this request.".to_owned(),
    }
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Takes out what names the account: keys, organisations, projects, users and request ids.
fn scrub(text: &str) -> String {
    const PREFIXES: [&str; 9] = ["sk-", "org-", "proj_", "proj-", "user-", "req_", "sess-", "key_", "svcacct"];
    let part = |c: char| c.is_ascii_alphanumeric() || "-_*.".contains(c);
    let mut out = String::new();
    let mut rest: &str = text;
    while let Some(c) = rest.chars().next() {
        let run = rest.find(|c| !part(c)).unwrap_or(rest.len());
        if run == 0 {
            out.push(if c.is_control() { ' ' } else { c });
            rest = &rest[c.len_utf8()..];
        } else {
            let word = &rest[..run];
            let lower = word.to_ascii_lowercase();
            out.push_str(if PREFIXES.iter().any(|p| lower.contains(p)) { "[hidden]" } else { word });
            rest = &rest[run..];
        }
    }
    out.chars().take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    fn key() -> ApiKey {
        ApiKey::new("sk-proj-AbCdEf123456").unwrap()
    }

    fn upstream(status: u16, body: &str) -> Failure {
        Failure::upstream(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &key())
    }

    #[test]
    fn a_refused_key_is_told_in_our_own_words() {
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-proj-*****3456.","type":"x","code":"invalid_api_key"}}"#;
        for status in [401, 403] {
            let failure = upstream(status, body);
            assert_eq!(failure.status.as_u16(), status);
            assert!(!format!("{failure:?}").contains("sk-"), "{failure:?}");
            // Words that would make pi try again.
            for word in ["rate limit", "timeout", "terminated", "overloaded", "connection", "server error"] {
                assert!(!failure.message.to_lowercase().contains(word), "{word}");
            }
        }
    }

    #[test]
    fn retryable_errors_keep_status_and_sense_without_the_account() {
        let body = r#"{"error":{"message":"Rate limit reached for gpt-6-sol in organization org-AbC123 on tokens per min, project proj_x9. Please try again in 1s.","type":"tokens","code":"rate_limit_exceeded"}}"#;
        let failure = upstream(429, body);
        assert_eq!((failure.status.as_u16(), failure.code.as_str()), (429, "rate_limit_exceeded"));
        assert_eq!(
            failure.message,
            "Rate limit reached for gpt-6-sol in organization [hidden] on tokens per min, project [hidden] Please try again in 1s."
        );
        let failure = upstream(
            400,
            r#"{"error":{"message":"Your input exceeds the context window of this model.","code":"context_length_exceeded"}}"#,
        );
        assert!(failure.message.contains("exceeds the context window"));
        assert_eq!(failure.code, "context_length_exceeded");
    }

    #[test]
    fn pages_odd_statuses_and_repeated_keys_become_our_own_sentences() {
        assert!(upstream(500, "<html>nginx at 10.1.2.3</html>").message.contains("server error"));
        assert!(upstream(429, "").message.contains("rate limit"));
        assert_eq!(upstream(302, "").status, StatusCode::BAD_GATEWAY);
        assert_eq!(upstream(204, "").status, StatusCode::BAD_GATEWAY);
        let echoed = upstream(
            500,
            r#"{"error":{"message":"header was Bearer sk-proj-AbCdEf123456","type":"A B","code":"x y"}}"#,
        );
        assert!(!format!("{echoed:?}").contains("AbCdEf"));
        assert_eq!((echoed.code.as_str(), echoed.kind.as_str()), ("", "upstream_error"));
        assert!(upstream(500, &format!(r#"{{"error":{{"message":"{}"}}}}"#, "x".repeat(9000))).message.len() <= 2000);
    }

    #[tokio::test]
    async fn the_body_has_the_shape_clients_read() {
        let answer = Failure::refused(StatusCode::NOT_FOUND, "unknown_path", "no").answer(true);
        assert_eq!(answer.headers()[CONNECTION], "close");
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["error"]["code"], "unknown_path");
        assert_eq!(value["error"]["type"], "invalid_request_error");
        assert_eq!(value["error"]["message"], "no");
    }

    proptest! {
        #[test]
        fn no_error_text_carries_an_account_name(before in "[ a-z:'(]{0,10}", prefix in "(sk-|org-|proj_|req_|SK-)", secret in "[A-Z0-9]{6,20}", after in "[ .,)]{0,4}") {
            let body = json!({"error": {"message": format!("{before}{prefix}{secret}{after}")}}).to_string();
            let failure = upstream(500, &body);
            prop_assert!(!failure.message.contains(&secret), "{}", failure.message);
        }
    }
}
