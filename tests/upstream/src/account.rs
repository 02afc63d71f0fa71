//! A ChatGPT account: which tokens its API takes, and what they are exchanged for.
//!
//! `POST /backend-api/codex/responses` takes an access token that has not ended, unless its last part begins with
//! `revoked`, with the account's id; `POST /oauth/token` takes each refresh token once and gives one of the same name with
//! a number behind it. A refresh token that begins with `rt-refused` is refused for good, one with `rt-slow` is answered
//! after a second and a half; nothing has happened to it when its client goes away before.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use serde_json::{Value, json};

use crate::journal::Journal;

/// The account's id, in tokens and in each request's header.
const ID: &str = "account-of-the-gateway";
/// How long an access token is good, in seconds.
const LIFETIME: u64 = 3600;
/// What `rt-slow` waits.
const SLOW: Duration = Duration::from_millis(1500);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether a request comes in the account's name.
pub fn takes(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = value("authorization").trim_start_matches("Bearer ").split('.').skip(1);
    let claims = parts.next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let revoked = parts.next().is_none_or(|last| last.starts_with("revoked"));
    value("chatgpt-account-id") == ID && !revoked && claims["exp"].as_u64().is_some_and(|end| end > now().as_secs())
}

/// Exchanges a refresh token; gives the answer's status and body.
pub async fn exchange(request: &[u8], journal: &Journal) -> (u16, Value) {
    let request: Value = serde_json::from_slice(request).unwrap_or_default();
    let refresh = request["refresh_token"].as_str().unwrap_or_default();
    let refused = |code: &str| (401, json!({"error": {"code": code, "message": "Your session has ended."}}));
    if refresh.is_empty() || request["grant_type"] != "refresh_token" {
        return (400, json!({"error": "invalid_request"}));
    }
    if refresh.starts_with("rt-slow") {
        tokio::time::sleep(SLOW).await;
    }
    if refresh.starts_with("rt-refused") {
        return refused("refresh_token_invalidated");
    }
    if !journal.is_first(refresh) {
        return refused("refresh_token_reused");
    }
    let (name, number) = refresh.rsplit_once('.').unwrap_or((refresh, "0"));
    let next = format!("{}.{}", name.replace("rt-slow", "rt"), number.parse::<u32>().unwrap_or(0) + 1);
    let claims = json!({"exp": now().as_secs() + LIFETIME, "https://api.openai.com/auth": {"chatgpt_account_id": ID}});
    let access = format!("e30.{}.signed{}", URL_SAFE_NO_PAD.encode(claims.to_string()), now().as_nanos());
    (200, json!({"access_token": access, "refresh_token": next, "id_token": access, "expires_in": LIFETIME}))
}
