//! Where tokens are exchanged: one URL, one form of request, and answers that are bounded and not believed.

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::{Value, json};

use super::file::Rotated;
use crate::relay::model::limits::Waits;
use crate::relay::model::upstream::error_body;

/// Codex's own name at the issuer; sign-ins of Codex and pi are made under it.
const CLIENT: &str = "app_EMoamEEZ73f0CkXaXp7hrann";
/// What an issuer says when a refresh token is of no use any more, ever.
const ENDED: [&str; 5] =
    ["refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated", "token_revoked", "invalid_grant"];

/// Why there is no new token.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The refresh token is of no use any more; the issuer's word for it.
    Ended(&'static str),
    /// Anything else, in words for the log: it may be another time.
    Unclear(String),
}

/// The issuer.
#[derive(Debug)]
pub struct Issuer {
    client: Client,
    url: Url,
    waits: Waits,
}

impl Issuer {
    /// Makes the client.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(url: Url, waits: &Waits) -> reqwest::Result<Self> {
        let client = Client::builder()
            .https_only(url.scheme() == "https")
            .http1_only()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(waits.connect)
            .timeout(waits.codex.issuer)
            // Hours lie between two exchanges.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client, url, waits: *waits })
    }

    /// Gives a refresh token for the next tokens.
    ///
    /// # Errors
    /// There are none.
    pub async fn exchange(&self, refresh: &str) -> Result<Rotated, Refused> {
        let body = json!({"client_id": CLIENT, "grant_type": "refresh_token", "refresh_token": refresh});
        let json = HeaderValue::from_static("application/json");
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, &json).header(ACCEPT, &json);
        let answer = request.body(body.to_string()).send().await;
        let answer = answer.map_err(|error| Refused::Unclear(error.without_url().to_string()))?;
        let status = answer.status().as_u16();
        let body = error_body(answer, &self.waits).await;
        if status != 200 {
            return Err(refused(status, &body));
        }
        let rotated = serde_json::from_slice::<Rotated>(&body).ok().filter(Rotated::is_sound);
        rotated.ok_or_else(|| Refused::Unclear("it answered 200 without tokens".to_owned()))
    }
}

/// Both forms that errors come in: a word and a description, or an object with a code.
#[derive(Deserialize)]
struct Said {
    error: Value,
}

fn refused(status: u16, body: &[u8]) -> Refused {
    let said = serde_json::from_slice::<Said>(body).map(|said| said.error).unwrap_or_default();
    let word = said.as_str().or_else(|| said["code"].as_str()).unwrap_or_default();
    match ENDED.iter().find(|ended| **ended == word) {
        Some(ended) if matches!(status, 400 | 401 | 403) => Refused::Ended(ended),
        _ => Refused::Unclear(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_the_issuers_own_words_end_a_sign_in() {
        for (status, body, ended) in [
            (401, r#"{"error":{"code":"refresh_token_reused","message":"x"}}"#, true),
            (401, r#"{"error":{"code":"token_revoked"}}"#, true),
            (400, r#"{"error":"invalid_grant","error_description":"x"}"#, true),
            (500, r#"{"error":"invalid_grant"}"#, false),
            (401, r#"{"error":{"code":"rate_limited"}}"#, false),
            (401, "<html>", false),
            (403, "", false),
            (429, r#"{"error":null}"#, false),
        ] {
            assert_eq!(matches!(refused(status, body.as_bytes()), Refused::Ended(_)), ended, "{status} {body}");
        }
    }
}
