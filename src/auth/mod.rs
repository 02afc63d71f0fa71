//! Who a token speaks for.
//!
//! jsonwebtoken checks the signature (HS256, the present secret or the one before). Everything else is judged here,
//! strictly and in one place: the claims are read into a map that refuses a name given twice, `exp` is required, a
//! lifetime has an upper bound, any `crit` is refused, and the user must be a name by [`User`]'s rules. An error says
//! what is wrong with the token and never repeats it.

mod claims;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use pi_gateway_helper::names::User;
use serde_json::{Value, json};

use crate::config::JwtConfig;
use claims::Claims;

/// The longest `Authorization` value that is looked at, in bytes.
const MAX_VALUE: usize = 8 << 10;
/// How far the clocks of portal and gateway may be apart, in seconds.
const LEEWAY: i64 = 30;

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: User,
    /// When the token, and every stream opened with it, ends: its `exp` and the leeway.
    pub expires_at: jiff::Timestamp,
}

/// What is wrong with a token, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum AuthError {
    #[error("There is no token. Send `Authorization: Bearer <JWT>`.")]
    Missing,
    #[error("The Authorization header is not one `Bearer <JWT>` of at most 8 KiB.")]
    Malformed,
    #[error("The token is not a JWT signed with HS256 and the shared secret.")]
    Signature,
    #[error("The token's header has `crit`, which is not supported.")]
    Critical,
    #[error("The token's claims are not valid.")]
    Claims,
    #[error("The token has no `exp`, or one that is no time.")]
    NoExpiry,
    #[error("The token has expired.")]
    Expired,
    #[error("The token is not valid yet.")]
    NotYet,
    #[error("The token lives longer than JWT_MAX_LIFETIME_S allows.")]
    Lifetime,
    #[error("The token's `iss` or `aud` is not the one that is wanted.")]
    Audience,
    #[error("The token does not name a user: 1 to 40 letters, digits and - _ . by Gitea's rules.")]
    User,
}

impl AuthError {
    /// The value of `WWW-Authenticate` (RFC 6750, section 3). Without a token there is no error to tell.
    pub fn www_authenticate(&self) -> String {
        match self {
            AuthError::Missing => "Bearer realm=\"pi-gateway\"".to_owned(),
            AuthError::Malformed => "Bearer realm=\"pi-gateway\", error=\"invalid_request\"".to_owned(),
            other => {
                // No quote or backslash is in these texts, so they are quoted strings as they are.
                let text = other.to_string().replace('`', "'");
                format!("Bearer realm=\"pi-gateway\", error=\"invalid_token\", error_description=\"{text}\"")
            }
        }
    }
}

/// Judges tokens.
pub struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
    issuer: Option<String>,
    audience: Option<String>,
    user_claim: String,
    max_lifetime: i64,
}

impl Verifier {
    /// A verifier by configuration.
    pub fn new(config: &JwtConfig) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // Judged below, with one clock and one leeway for all of them.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Verifier {
            keys: config.secrets.iter().map(|secret| DecodingKey::from_secret(secret.as_bytes())).collect(),
            validation,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            user_claim: config.user_claim.clone(),
            max_lifetime: i64::try_from(config.max_lifetime.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// Judges the value of a request's `Authorization` header; `several` says that there was more than one.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(&self, value: Option<&[u8]>, several: bool, now: jiff::Timestamp) -> Result<Caller, AuthError> {
        let value = value.ok_or(AuthError::Missing)?;
        if several || value.len() > MAX_VALUE {
            return Err(AuthError::Malformed);
        }
        let text = std::str::from_utf8(value).map_err(|_| AuthError::Malformed)?;
        let (scheme, token) = text.split_once(' ').ok_or(AuthError::Malformed)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Malformed);
        }
        let header = decode_header(token).map_err(|_| AuthError::Signature)?;
        if header.alg != Algorithm::HS256 {
            return Err(AuthError::Signature);
        }
        if header.crit.is_some() || has_crit(token) {
            return Err(AuthError::Critical);
        }
        self.judge(&self.signed(token)?, now.as_second())
    }

    /// The claims of a token that one of the secrets has signed.
    fn signed(&self, token: &str) -> Result<Claims, AuthError> {
        let mut error = AuthError::Signature;
        for key in &self.keys {
            match decode::<Claims>(token, key, &self.validation) {
                Ok(data) => return Ok(data.claims),
                Err(wrong) if matches!(wrong.kind(), jsonwebtoken::errors::ErrorKind::Json(_)) => {
                    error = AuthError::Claims;
                }
                Err(_) => {}
            }
        }
        Err(error)
    }

    fn judge(&self, claims: &Claims, now: i64) -> Result<Caller, AuthError> {
        let expires = claims.time("exp").ok_or(AuthError::NoExpiry)?.ok_or(AuthError::NoExpiry)?;
        if now >= expires.saturating_add(LEEWAY) {
            return Err(AuthError::Expired);
        }
        // A claim that is there must be a time; only its absence is fine.
        let not_before = claims.time("nbf").map(|time| time.ok_or(AuthError::Claims)).transpose()?;
        let issued = claims.time("iat").map(|time| time.ok_or(AuthError::Claims)).transpose()?;
        if not_before.into_iter().chain(issued).any(|time| time > now.saturating_add(LEEWAY)) {
            return Err(AuthError::NotYet);
        }
        // From its issue, or from now when it does not say; in either case not further than that from now.
        let from = issued.unwrap_or(now).min(now);
        if expires.saturating_sub(from) > self.max_lifetime.saturating_add(LEEWAY) {
            return Err(AuthError::Lifetime);
        }
        let issuer = self.issuer.as_ref().is_none_or(|wanted| claims.text("iss") == Some(wanted));
        let audience = self.audience.as_ref().is_none_or(|wanted| claims.holds("aud", wanted));
        if !issuer || !audience {
            return Err(AuthError::Audience);
        }
        let name = claims.text(&self.user_claim).ok_or(AuthError::User)?;
        let user = User::parse(&name.to_ascii_lowercase()).map_err(|_| AuthError::User)?;
        let expires_at =
            jiff::Timestamp::from_second(expires.saturating_add(LEEWAY)).map_err(|_| AuthError::NoExpiry)?;
        Ok(Caller { user, expires_at })
    }
}

/// Whether a token's header names `crit` at all, be it null.
fn has_crit(token: &str) -> bool {
    let header = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default();
    // An ordinary one has neither the word nor an escape that could spell it, and is not read once more.
    if !header.windows(4).any(|word| word == b"crit") && !header.contains(&b'\\') {
        return false;
    }
    serde_json::from_slice::<serde_json::Map<String, Value>>(&header).is_ok_and(|header| header.contains_key("crit"))
}

/// Signs a token for a user, for the operator and for tests.
///
/// # Errors
/// When there is no secret to sign with.
pub fn sign(config: &JwtConfig, user: &User, lifetime: Duration, now: jiff::Timestamp) -> Result<String, String> {
    let secret = config.secrets.first().ok_or("there is no JWT_SHARED_SECRET")?;
    let lifetime = i64::try_from(lifetime.min(config.max_lifetime).as_secs()).unwrap_or(i64::MAX);
    let now = now.as_second();
    let mut claims = json!({ "iat": now, "exp": now.saturating_add(lifetime) });
    claims[&config.user_claim] = Value::from(user.as_str());
    for (name, value) in [("iss", &config.issuer), ("aud", &config.audience)] {
        if let Some(value) = value {
            claims[name] = Value::from(value.as_str());
        }
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
