//! Tokens, good and bad.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// Seconds since the epoch.
pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// The secret that the gateway is configured with.
pub fn secret() -> String {
    let text = std::fs::read_to_string("/etc/pi-gateway/gateway.env").unwrap();
    text.lines().find_map(|line| line.strip_prefix("JWT_SHARED_SECRET=")).unwrap().to_owned()
}

/// A token with any header and claims, signed with any secret.
pub fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

/// A good token for a user.
pub fn token_for(user: &str, lifetime: i64) -> String {
    sign(
        &json!({"alg": "HS256", "typ": "JWT"}),
        &json!({"sub": user, "iat": now(), "exp": now() + lifetime}),
        &secret(),
    )
}
