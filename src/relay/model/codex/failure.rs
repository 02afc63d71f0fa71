//! Errors for pi's Codex client. It shows its user an error's message and nothing else of it, so the message begins as
//! those of pi's other client do, `… API error (STATUS)`: pi's rules for trying again and the codes of runs go by that.
//! And whatever comes with 429 it takes for the plan's limit and does not try again; so only that limit is told as one.

use hyper::StatusCode;
use serde::Deserialize;

use super::file::Credential;
use super::state::State;
use crate::relay::model::failure::{Failure, own_sentence};

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The issuer gives none any more.
    SignedOut,
    /// The file holds none.
    Unreadable,
    /// Launcher or issuer do not answer as they should.
    Unavailable,
    /// The upstream refuses the one that was just exchanged for.
    Refused,
}

impl Trouble {
    /// What the front is told.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::SignedOut => State::SignedOut,
            Self::Unreadable => State::Unreadable,
            Self::Unavailable => State::Unavailable,
            // The token is as it should be.
            Self::Refused => State::Ok,
        }
    }
}

/// What a client is told when there is no token.
#[must_use]
pub fn told(trouble: Trouble) -> Failure {
    let (status, code, message) = match trouble {
        Trouble::SignedOut | Trouble::Unreadable => (
            StatusCode::FORBIDDEN,
            "codex_signed_out",
            "The gateway is not signed in to ChatGPT any more. Trying again does not help; the operator of the gateway has \
             to sign in.",
        ),
        Trouble::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "codex_unavailable",
            "The gateway cannot renew its sign-in to ChatGPT at the moment (service unavailable).",
        ),
        Trouble::Refused => return Failure::upstream_credential(StatusCode::UNAUTHORIZED),
    };
    Failure { kind: "authentication_error".to_owned(), ..Failure::trouble(status, code, message) }
}

#[derive(Deserialize)]
struct Said {
    error: Limit,
}

#[derive(Deserialize)]
struct Limit {
    #[serde(default)]
    code: String,
    #[serde(default, rename = "type")]
    kind: String,
    resets_in_seconds: Option<f64>,
}

/// What the client learns of an upstream error with this status and body.
#[must_use]
pub fn upstream(status: StatusCode, body: &[u8], credential: &Credential) -> Failure {
    let said = serde_json::from_slice::<Said>(body).ok().map(|said| said.error);
    let limit = said.filter(|limit| {
        [&limit.code, &limit.kind]
            .iter()
            .any(|word| ["usage_limit_reached", "usage_not_included"].contains(&word.as_str()))
    });
    if let Some(limit) = limit {
        let minutes = limit.resets_in_seconds.map(|seconds| (seconds / 60.0).ceil().clamp(1.0, 100_000.0));
        let when = minutes.map_or(String::new(), |minutes| format!(" It is lifted in {minutes} min."));
        let message = format!("The ChatGPT plan of the gateway is used up.{when}");
        return Failure::refused(StatusCode::FORBIDDEN, "codex_usage_limit", message);
    }
    let mut failure = Failure::upstream(status, body, &credential.bearer);
    if credential.is_in(&failure.message) {
        failure.message = own_sentence(status);
    }
    failure
}

/// What another try does not help against, told by its code instead of a status.
const OWN: [&str; 3] = ["codex_signed_out", "codex_usage_limit", "budget_exhausted"];

/// A failure in the words that pi's Codex client passes on as they should be.
#[must_use]
pub fn worded(mut failure: Failure) -> Failure {
    let own = Some(&failure.code).filter(|code| OWN.contains(&code.as_str()));
    let own_words = own.is_some();
    let what = own.cloned().unwrap_or_else(|| failure.status.as_u16().to_string());
    failure.message = format!("Codex API error ({what}): {}", failure.message);
    if own_words {
        failure.status = StatusCode::FORBIDDEN;
    } else if failure.status == StatusCode::TOO_MANY_REQUESTS {
        failure.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    // By this word as well.
    if failure.code == "rate_limit_exceeded" {
        "too_many_requests".clone_into(&mut failure.code);
    }
    failure
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::file;
    use super::*;

    fn seen(status: u16, body: &str) -> Failure {
        let content =
            r#"{"tokens":{"access_token":"at-secret","refresh_token":"rt-secret","account_id":"acc-secret"}}"#;
        let credential = file::read(content.as_bytes()).unwrap();
        worded(upstream(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &credential))
    }

    #[test]
    fn messages_begin_with_what_retries_and_codes_go_by() {
        let rate = r#"{"error":{"message":"Rate limit reached, slow down","code":"rate_limit_exceeded"}}"#;
        for (status, body, begins, shown, code) in [
            (429, rate, "Codex API error (429): Rate limit reached", 503, "too_many_requests"),
            (500, "<html>", "Codex API error (500): The model provider reports a server error", 500, ""),
            (401, r#"{"detail":"Unauthorized"}"#, "Codex API error (401): ", 401, "gateway_credential_refused"),
            (400, r#"{"detail":"x"}"#, "Codex API error (400): The model provider does not", 400, ""),
        ] {
            let failure = seen(status, body);
            assert!(failure.message.starts_with(begins), "{failure:?}");
            assert_eq!((failure.status.as_u16(), failure.code.as_str()), (shown, code));
        }
    }

    #[test]
    fn the_plans_limit_is_told_as_one_without_the_plan() {
        for body in [
            r#"{"error":{"type":"usage_limit_reached","message":"x","plan_type":"plus","resets_in_seconds":1741.5}}"#,
            r#"{"error":{"code":"usage_limit_reached","resets_in_seconds":1741}}"#,
        ] {
            let failure = seen(429, body);
            assert_eq!(
                failure.message,
                "Codex API error (codex_usage_limit): The ChatGPT plan of the gateway is used up. It is lifted in 30 min."
            );
            assert_eq!(failure.status, StatusCode::FORBIDDEN);
        }
    }

    #[test]
    fn nothing_of_the_credential_comes_back() {
        for secret in ["at-secret", "rt-secret", "acc-secret"] {
            let failure = seen(500, &format!(r#"{{"error":{{"message":"server error for {secret}"}}}}"#));
            assert!(!format!("{failure:?}").contains(secret), "{failure:?}");
        }
    }

    #[test]
    fn a_sign_in_that_has_ended_is_not_tried_again() {
        let failure = worded(told(Trouble::SignedOut));
        assert!(failure.message.starts_with("Codex API error (codex_signed_out): "), "{failure:?}");
        for word in ["rate limit", "timeout", "overloaded", "connection", "server error", "unavailable", "50"] {
            assert!(!failure.message.contains(word), "{word}");
        }
        assert!(worded(told(Trouble::Unavailable)).message.starts_with("Codex API error (503): "));
        assert!(worded(told(Trouble::Refused)).message.starts_with("Codex API error (401): "));
    }
}
