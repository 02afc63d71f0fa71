//! The file with a ChatGPT credential, in one of two forms: Codex's own `auth.json`, and pi's.
//!
//! It is read strictly where the relay needs it and left alone elsewhere: a rotated token changes its own members, all
//! others keep their bytes. Nothing of it is in a message or in `Debug` output. Tokens are JWTs, whose claims are read
//! and not verified: root has put them there, or the issuer has sent them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::limits::{MARGIN, MAX_TOKEN};
use crate::relay::model::config::ApiKey;

/// Members of an object, their values as they stand.
type Members = BTreeMap<String, Box<RawValue>>;

/// How an operator gets a file that is good.
const REMEDY: &str = "sign in with `codex login` or pi's /login and put its auth.json there";

/// What requests need of a credential.
#[derive(Clone)]
pub struct Credential {
    /// The access token, as the header value it is sent in.
    pub bearer: ApiKey,
    /// The account, as the header value it is sent in.
    pub account: HeaderValue,
    /// The token that the next ones are given for, once.
    pub refresh: String,
    /// When the access token ends, in seconds since 1970; far away when nobody says.
    pub expires: i64,
    /// From when on it is exchanged, in seconds since 1970.
    pub renew: i64,
}

impl Credential {
    /// Whether a text from outside repeats something of it.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let account = self.account.to_str().unwrap_or_default();
        self.bearer.is_in(text) || text.contains(&self.refresh) || text.contains(account)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential(hidden, expires: {})", self.expires)
    }
}

/// What the issuer gives for a refresh token.
#[derive(Deserialize)]
pub struct Rotated {
    access_token: String,
    refresh_token: Option<String>,
    id_token: Option<String>,
    expires_in: Option<i64>,
}

impl Rotated {
    /// Whether all of it can be tokens.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        [Some(&self.access_token), self.refresh_token.as_ref(), self.id_token.as_ref()]
            .into_iter()
            .flatten()
            .all(is_token)
    }
}

/// The members that Codex's form has and the relay reads.
#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
    access_token: String,
    refresh_token: String,
    account_id: Option<String>,
}

/// The members that pi's form has and the relay reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    access: String,
    refresh: String,
    expires: Option<i64>,
    account_id: Option<String>,
}

/// Where a form keeps what it keeps.
struct Form {
    /// The member that holds all of it.
    place: &'static str,
    /// Access token, refresh token and id token in there.
    names: [&'static str; 3],
}

const CODEX: Form = Form { place: "tokens", names: ["access_token", "refresh_token", "id_token"] };
const PI: Form = Form { place: "openai-codex", names: ["access", "refresh", ""] };

fn open(content: &[u8]) -> Result<(Form, Members, Box<RawValue>), String> {
    let members: Members = serde_json::from_slice(content).map_err(|_| format!("is no JSON object; {REMEDY}"))?;
    for form in [CODEX, PI] {
        if let Some(value) = members.get(form.place).filter(|value| value.get() != "null") {
            let value = value.clone();
            return Ok((form, members, value));
        }
    }
    Err(format!("holds no ChatGPT account, neither in the form of Codex nor in that of pi; {REMEDY}"))
}

/// Reads a content.
///
/// # Errors
/// What is wrong with it, to be read behind its name, without anything that is in it.
pub fn read(content: &[u8]) -> Result<Credential, String> {
    let (form, _, value) = open(content)?;
    // serde's own words can repeat what it reads.
    let bad = |_| format!("lacks tokens in `{}`; {REMEDY}", form.place);
    let (access, refresh, id, said, account) = if form.place == CODEX.place {
        let tokens: Tokens = serde_json::from_str(value.get()).map_err(bad)?;
        (tokens.access_token, tokens.refresh_token, tokens.id_token, None, tokens.account_id)
    } else {
        let login: Login = serde_json::from_str(value.get()).map_err(bad)?;
        (login.access, login.refresh, None, login.expires.map(|milliseconds| milliseconds / 1000), login.account_id)
    };
    if !is_token(&access) || !is_token(&refresh) {
        return Err(format!("has a token in `{}` that is none; {REMEDY}", form.place));
    }
    let claimed = [Some(&access), id.as_ref()].into_iter().flatten().find_map(|token| claims(token).auth?.account);
    let account = account.filter(|account| !account.is_empty()).or(claimed).filter(is_token);
    let account = account.ok_or_else(|| format!("names no ChatGPT account; {REMEDY}"))?;
    let expires = claims(&access).exp.map(|seconds| seconds as i64).or(said).unwrap_or(i64::MAX);
    let mut account = HeaderValue::from_str(&account).map_err(|_| "has an account that is none".to_owned())?;
    account.set_sensitive(true);
    Ok(Credential { bearer: ApiKey::new(&access)?, account, refresh, expires, renew: expires.saturating_sub(MARGIN) })
}

/// The content with the tokens that the issuer gave at `now`.
///
/// # Errors
/// The content is none that can be read.
pub fn rotated(content: &[u8], new: &Rotated, now: Timestamp) -> Result<Vec<u8>, String> {
    let (form, mut members, value) = open(content)?;
    let mut inner: Members = serde_json::from_str(value.get()).map_err(|_| "is no JSON object".to_owned())?;
    let tokens = [Some(&new.access_token), new.refresh_token.as_ref(), new.id_token.as_ref()];
    for (name, token) in form.names.into_iter().zip(tokens) {
        if let Some(token) = token.filter(|_| !name.is_empty()) {
            inner.insert(name.to_owned(), raw(token)?);
        }
    }
    if form.place == PI.place {
        let seconds = claims(&new.access_token).exp.map(|seconds| seconds as i64);
        let seconds = seconds.or_else(|| Some(now.as_second().saturating_add(new.expires_in?)));
        inner.insert("expires".to_owned(), raw(&seconds.map(|seconds| seconds.saturating_mul(1000)))?);
    } else {
        members.insert("last_refresh".to_owned(), raw(&now)?);
    }
    members.insert(form.place.to_owned(), raw(&inner)?);
    serde_json::to_vec_pretty(&members).map_err(|error| error.to_string())
}

fn raw<T: Serialize>(value: &T) -> Result<Box<RawValue>, String> {
    to_raw_value(value).map_err(|error| error.to_string())
}

fn is_token(text: &(impl AsRef<str> + ?Sized)) -> bool {
    (1..=MAX_TOKEN).contains(&text.as_ref().len()) && text.as_ref().bytes().all(|byte| byte.is_ascii_graphic())
}

/// The claims of a token that the relay reads.
#[derive(Deserialize, Default)]
struct Claims {
    /// JSON knows no whole numbers; some issuers write fractions.
    exp: Option<f64>,
    #[serde(rename = "https://api.openai.com/auth")]
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(rename = "chatgpt_account_id")]
    account: Option<String>,
}

/// None of them when the token is no JWT.
fn claims(token: &str) -> Claims {
    let middle = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    middle.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::*;

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn account(id: &str) -> Value {
        json!({"https://api.openai.com/auth": {"chatgpt_account_id": id}})
    }

    fn codex() -> String {
        let access = jwt(&json!({"exp": 4_000_000_000_i64}));
        json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "unknown": {"a": 1.50},
            "tokens": {"id_token": jwt(&account("acc-1")), "access_token": access, "refresh_token": "rt-1",
                "account_id": null, "more": [1]}, "last_refresh": "2026-01-01T00:00:00Z"})
        .to_string()
        .replace("1.5", "1.50")
    }

    fn pi() -> String {
        json!({"openai": {"type": "api_key", "key": "sk-other"}, "openai-codex": {"type": "oauth",
            "access": "opaque", "refresh": "rt-1", "expires": 4_000_000_000_000_i64, "accountId": "acc-2", "x": true}})
        .to_string()
    }

    fn new(text: &Value) -> Rotated {
        serde_json::from_value(text.clone()).unwrap()
    }

    #[test]
    fn both_forms_are_read() {
        let (first, second) = (read(codex().as_bytes()).unwrap(), read(pi().as_bytes()).unwrap());
        for (found, id) in [(&first, "acc-1"), (&second, "acc-2")] {
            assert_eq!((found.account.to_str().unwrap(), found.refresh.as_str()), (id, "rt-1"));
            assert_eq!((found.expires, found.renew), (4_000_000_000, 4_000_000_000 - MARGIN));
            assert!(found.account.is_sensitive() && found.bearer.header().is_sensitive());
        }
        assert_eq!(second.bearer.header().to_str().unwrap(), "Bearer opaque");
        let shown = format!("{first:?} {second:?}");
        assert!(!["opaque", "rt-1", "acc-", "e30"].iter().any(|secret| shown.contains(secret)), "{shown}");
        assert!(second.is_in("x opaque") && second.is_in("rt-1!") && second.is_in("acc-2") && !second.is_in("acc-1"));
    }

    #[test]
    fn a_rotated_token_changes_its_own_members_and_no_other() {
        let now: Timestamp = "2026-11-25T10:00:00Z".parse().unwrap();
        let access = jwt(&json!({"exp": 4_000_000_500_i64}));
        let text = rotated(
            codex().as_bytes(),
            &new(&json!({"access_token": access, "refresh_token": "rt-2",
            "id_token": "id-2", "scope": "x"})),
            now,
        );
        let text = String::from_utf8(text.unwrap()).unwrap();
        let (after, mut before): (Value, Value) =
            (serde_json::from_str(&text).unwrap(), serde_json::from_str(&codex()).unwrap());
        before["tokens"]["access_token"] = json!(access);
        before["tokens"]["refresh_token"] = json!("rt-2");
        before["tokens"]["id_token"] = json!("id-2");
        before["last_refresh"] = json!("2026-11-25T10:00:00Z");
        assert_eq!(after, before);
        assert!(text.contains("{\"a\":1.50}"), "the bytes of other members stay: {text}");
        // What the issuer leaves out stays; in pi's form the end is said in milliseconds.
        let text = rotated(pi().as_bytes(), &new(&json!({"access_token": "a2", "expires_in": 60})), now).unwrap();
        let (after, mut before): (Value, Value) =
            (serde_json::from_slice(&text).unwrap(), serde_json::from_str(&pi()).unwrap());
        before["openai-codex"]["access"] = json!("a2");
        before["openai-codex"]["expires"] = json!((now.as_second() + 60) * 1000);
        assert_eq!(after, before);
        assert_eq!(read(&text).unwrap().refresh, "rt-1");
    }

    #[test]
    fn what_is_neither_form_is_told_without_its_content() {
        let secret = "rt-secret";
        for bad in [
            String::new(),
            "[]".to_owned(),
            format!("{{\"refresh\":\"{secret}\"}}"),
            format!("{{\"tokens\":\"{secret}\"}}"),
            format!("{{\"tokens\":{{\"access_token\":\"{secret}\"}}}}"),
            format!("{{\"OPENAI_API_KEY\":\"{secret}\",\"tokens\":null}}"),
            format!("{{\"tokens\":{{\"access_token\":\"a b\",\"refresh_token\":\"{secret}\",\"account_id\":\"x\"}}}}"),
            format!("{{\"tokens\":{{\"access_token\":\"a\",\"refresh_token\":\"{secret}\"}}}}"),
            pi().replace("\"rt-1\"", &format!("\"{}\"", secret.repeat(1000))),
        ] {
            let told = read(bad.as_bytes()).unwrap_err();
            assert!(!told.contains(secret) && told.contains("auth.json"), "{told}");
        }
    }

    #[test]
    fn only_tokens_are_taken_from_the_issuer() {
        for bad in [
            json!({"access_token": ""}),
            json!({"access_token": "a\r\nb"}),
            json!({"access_token": "a", "id_token": " "}),
        ] {
            assert!(!new(&bad).is_sound(), "{bad}");
        }
        assert!(new(&json!({"access_token": "a", "refresh_token": null})).is_sound());
    }
}
