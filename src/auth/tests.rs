#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

const SECRET: &str = "q3VtN0m1c2ZLw8Jx5RbYtPzKdHfGsAeUiOp";
const BEFORE: &str = "Zt7RkW2pXc9VbN4mQ1sLd6FgHjK8oPiUyTe";
const NOW: i64 = 1_795_395_423;

fn config() -> JwtConfig {
    JwtConfig {
        secrets: vec![SECRET.into(), BEFORE.into()],
        issuer: None,
        audience: None,
        user_claim: "sub".into(),
        max_lifetime: Duration::from_secs(86_400),
    }
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(NOW).unwrap()
}

fn token_with(header: &dyn std::fmt::Display, claims: &str, secret: &str) -> String {
    use base64::Engine;
    let encode = |text: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.as_bytes()));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn token(claims: &Value) -> String {
    token_with(&json!({"alg": "HS256", "typ": "JWT"}), &claims.to_string(), SECRET)
}

fn verify_with(config: &JwtConfig, token: &str) -> Result<Caller, AuthError> {
    Verifier::new(config).verify(Some(format!("Bearer {token}").as_bytes()), false, now())
}

fn verify(token: &str) -> Result<Caller, AuthError> {
    verify_with(&config(), token)
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({"sub": "alice", "iat": NOW, "exp": NOW + 3600});
    change(&mut claims);
    claims
}

#[test]
fn a_good_token_names_its_user_folded_to_lower_case() {
    for (sub, user) in [("alice", "alice"), ("Alice", "alice"), ("A-b_C.9", "a-b_c.9")] {
        let caller = verify(&token(&claims(|claims| claims["sub"] = sub.into()))).unwrap();
        assert_eq!((caller.user.as_str(), caller.expires_at.as_second()), (user, NOW + 3600 + LEEWAY));
    }
    let rotated = token_with(&json!({"alg": "HS256"}), &claims(|_| {}).to_string(), BEFORE);
    assert!(verify(&rotated).is_ok());
    let made = sign(&config(), &User::parse("bob").unwrap(), Duration::from_secs(60), now()).unwrap();
    assert_eq!(verify(&made).unwrap().user.as_str(), "bob");
}

#[test]
fn headers_that_are_no_bearer_token_are_refused() {
    let good = token(&claims(|_| {}));
    let verifier = Verifier::new(&config());
    let lower = format!("bearer {good}");
    assert!(verifier.verify(Some(lower.as_bytes()), false, now()).is_ok());
    assert_eq!(verifier.verify(None, false, now()), Err(AuthError::Missing));
    assert_eq!(verifier.verify(Some(lower.as_bytes()), true, now()), Err(AuthError::Malformed));
    let long = format!("Bearer {}", "a".repeat(MAX_VALUE));
    for (value, error) in [
        (good.clone(), AuthError::Malformed),
        (format!("Basic {good}"), AuthError::Malformed),
        (long, AuthError::Malformed),
        ("Bearer ".into(), AuthError::Signature),
        (format!("Bearer  {good}"), AuthError::Signature),
        (format!("Bearer {good} "), AuthError::Signature),
        ("Bearer a.b.c".into(), AuthError::Signature),
    ] {
        assert_eq!(verifier.verify(Some(value.as_bytes()), false, now()), Err(error), "{value}");
    }
    assert_eq!(verifier.verify(Some(b"Bearer \xff"), false, now()), Err(AuthError::Malformed));
}

#[test]
fn signatures_that_are_not_ours_are_refused() {
    let body = claims(|_| {}).to_string();
    let hs = json!({"alg": "HS256"});
    let good = token_with(&hs, &body, SECRET);
    let unsigned = |alg: &str| {
        let signed = token_with(&json!({"alg": alg}), &body, SECRET);
        format!("{}.", signed.rsplit_once('.').unwrap().0)
    };
    for (bad, error) in [
        (unsigned("none"), AuthError::Signature),
        (unsigned("None"), AuthError::Signature),
        (token_with(&json!({"alg": "RS256"}), &body, SECRET), AuthError::Signature),
        (token_with(&json!({"alg": "HS384"}), &body, SECRET), AuthError::Signature),
        (token_with(&json!({}), &body, SECRET), AuthError::Signature),
        (token_with(&hs, &body, "another-key-another-key-another-key!"), AuthError::Signature),
        (token_with(&hs, &body, ""), AuthError::Signature),
        (token_with(&json!({"alg": "HS256", "crit": ["exp"]}), &body, SECRET), AuthError::Critical),
        (token_with(&json!({"alg": "HS256", "crit": []}), &body, SECRET), AuthError::Critical),
        (token_with(&json!({"alg": "HS256", "crit": null}), &body, SECRET), AuthError::Critical),
        (token_with(&r#"{"alg": "HS256", "\u0063rit": null}"#, &body, SECRET), AuthError::Critical),
        (format!("{good}A"), AuthError::Signature),
        (good.replacen('.', "..", 1), AuthError::Signature),
    ] {
        assert_eq!(verify(&bad), Err(error), "{bad}");
    }
}

#[test]
fn times_that_do_not_fit_are_refused() {
    let with = |name: &'static str, value: Value| claims(move |claims| claims[name] = value);
    let without_exp = claims(|claims| drop(claims.as_object_mut().unwrap().remove("exp")));
    for (bad, error) in [
        (without_exp, AuthError::NoExpiry),
        (with("exp", json!("1795399999")), AuthError::NoExpiry),
        (with("exp", json!(null)), AuthError::NoExpiry),
        (with("exp", json!(-1)), AuthError::NoExpiry),
        (with("exp", json!(1e300)), AuthError::NoExpiry),
        (with("exp", json!(i64::MAX)), AuthError::NoExpiry),
        (with("exp", json!(NOW - 31)), AuthError::Expired),
        (with("exp", json!(NOW - 30)), AuthError::Expired),
        (with("exp", json!(NOW + 86_400 + 31)), AuthError::Lifetime),
        (with("exp", json!(253_402_300_000_i64)), AuthError::Lifetime),
        (with("iat", json!(NOW - 90_000)), AuthError::Lifetime),
        (with("nbf", json!(NOW + 31)), AuthError::NotYet),
        (with("nbf", json!("soon")), AuthError::Claims),
        (with("iat", json!(NOW + 31)), AuthError::NotYet),
    ] {
        assert_eq!(verify(&token(&bad)), Err(error), "{bad}");
    }
    let no_issue = claims(|claims| drop(claims.as_object_mut().unwrap().remove("iat")));
    for good in [with("exp", json!(NOW - 29)), with("nbf", json!(NOW + 30)), with("exp", json!(NOW + 60)), no_issue] {
        assert!(verify(&token(&good)).is_ok(), "{good}");
    }
}

#[test]
fn issuer_and_audience_count_when_they_are_configured() {
    let wanted = JwtConfig { issuer: Some("portal".into()), audience: Some("pi-gateway".into()), ..config() };
    let made = |iss: Value, aud: Value| {
        token(&claims(|claims| {
            claims["iss"] = iss;
            claims["aud"] = aud;
        }))
    };
    assert!(verify_with(&wanted, &made("portal".into(), "pi-gateway".into())).is_ok());
    assert!(verify_with(&wanted, &made("portal".into(), json!(["x", "pi-gateway"]))).is_ok());
    for (iss, aud) in [
        (json!("other"), json!("pi-gateway")),
        (json!("portal"), json!("other")),
        (json!("portal"), json!([])),
        (json!(["portal"]), json!("pi-gateway")),
        (json!(null), json!(null)),
    ] {
        assert_eq!(verify_with(&wanted, &made(iss, aud)), Err(AuthError::Audience));
    }
    assert!(verify(&made("anybody".into(), "anything".into())).is_ok());
}

#[test]
fn whatever_is_no_name_is_refused() {
    let long = "a".repeat(41);
    let huge = "a".repeat(5000);
    for bad in [
        json!(""),
        json!("."),
        json!(".."),
        json!("../../etc"),
        json!("a/b"),
        json!("%i"),
        json!("a%2fb"),
        json!("a.."),
        json!("alice."),
        json!("-alice"),
        json!("a--b"),
        json!("a._b"),
        json!("a b"),
        json!(" alice"),
        json!("alice\n"),
        json!("alice\u{0}"),
        json!("al\u{0131}ce"),
        json!("аlice"),
        json!("alice\u{200b}"),
        json!("K\u{212a}"),
        json!("$HOME"),
        json!("root:x"),
        json!(long),
        json!(huge),
        json!(1),
        json!(null),
        json!(["alice"]),
        json!({"name": "alice"}),
        json!(true),
    ] {
        let bad = claims(|claims| claims["sub"] = bad);
        // What is no text at all may be refused before it is looked at as a name.
        let refused = matches!(verify(&token(&bad)), Err(AuthError::User | AuthError::Claims));
        assert!(refused, "{bad}");
    }
    let without = claims(|claims| drop(claims.as_object_mut().unwrap().remove("sub")));
    assert_eq!(verify(&token(&without)), Err(AuthError::User));
    let ten_kib = claims(|claims| claims["sub"] = "a".repeat(10 << 10).into());
    assert_eq!(verify(&token(&ten_kib)), Err(AuthError::Malformed));
}

#[test]
fn claims_that_are_ambiguous_are_refused() {
    let hs = json!({"alg": "HS256"});
    for bad in [
        format!("{{\"sub\":\"alice\",\"sub\":\"bob\",\"exp\":{}}}", NOW + 60),
        format!("{{\"exp\":{},\"sub\":\"alice\",\"exp\":{}}}", NOW + 60, NOW + 90),
        "[]".into(),
        "null".into(),
        "\"alice\"".into(),
        "not json".into(),
    ] {
        assert_eq!(verify(&token_with(&hs, &bad, SECRET)), Err(AuthError::Claims), "{bad}");
    }
}

#[test]
fn another_claim_can_name_the_user() {
    let by_name = JwtConfig { user_claim: "preferred_username".into(), ..config() };
    let both = token(&claims(|claims| claims["preferred_username"] = "Carol".into()));
    assert_eq!(verify_with(&by_name, &both).unwrap().user.as_str(), "carol");
    assert_eq!(verify_with(&by_name, &token(&claims(|_| {}))), Err(AuthError::User));
}

#[test]
fn what_is_told_is_a_valid_header_and_repeats_no_token() {
    for error in [AuthError::Missing, AuthError::Malformed, AuthError::Signature, AuthError::NoExpiry, AuthError::User]
    {
        let told = error.www_authenticate();
        assert!(axum::http::HeaderValue::from_str(&told).is_ok(), "{told}");
        assert_eq!(told.matches('"').count() % 2, 0, "{told}");
    }
}

proptest! {
    #[test]
    fn nothing_that_is_sent_panics(value in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Verifier::new(&config()).verify(Some(&value), false, now());
    }

    #[test]
    fn no_signed_claims_panic_and_every_user_is_a_name(sub in any::<String>(), exp in any::<i64>(), iat in any::<f64>()) {
        let claims = json!({"sub": sub, "exp": exp, "iat": iat});
        if let Ok(caller) = verify(&token(&claims)) {
            prop_assert_eq!(User::parse(caller.user.as_str()).unwrap(), caller.user);
        }
    }
}
