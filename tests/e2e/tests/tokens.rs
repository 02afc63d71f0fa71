//! Tokens over the wire: what is refused is refused before anything exists.

use pi_gateway_e2e::host::{listing, uid_of};
use pi_gateway_e2e::tokens::{now, secret, sign, token_for};
use pi_gateway_e2e::{User, request, send, testhost};
use serde_json::{Value, json};

#[test]
fn every_bad_token_is_401_and_creates_nothing() {
    testhost();
    let (hs, key) = (json!({"alg": "HS256"}), secret());
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({"sub": "intruder", "iat": now(), "exp": now() + 600});
        change(&mut claims);
        claims
    };
    let good = claims(&|_| {});
    let sub = |sub: &str| sign(&hs, &claims(&|claims| claims["sub"] = sub.into()), &key);
    let none = sign(&json!({"alg": "none"}), &good, &key);
    let bad = [
        none.rsplit_once('.').unwrap().0.to_owned() + ".",
        sign(&json!({"alg": "RS256"}), &good, &key),
        sign(&hs, &good, "another-key-another-key-another-key-1"),
        sign(&hs, &claims(&|claims| claims["exp"] = (now() - 60).into()), &key),
        sign(&hs, &claims(&|claims| drop(claims.as_object_mut().unwrap().remove("exp"))), &key),
        sign(&hs, &claims(&|claims| claims["exp"] = (now() + 864_000).into()), &key),
        sign(&hs, &claims(&|claims| claims["nbf"] = (now() + 600).into()), &key),
        sign(&json!({"alg": "HS256", "crit": ["x"]}), &good, &key),
        sub(".."),
        sub("a/b"),
        sub("%i"),
        sub(""),
        sub(&"a".repeat(10 << 10)),
        sub("a..b"),
        sub("-a"),
        "nonsense".to_owned(),
    ];
    let state = || {
        ["/var/lib/pi-gateway", "/run/pi-gateway", "/run/userdb"].map(|directory| {
            // Other tests run beside this one; theirs have users of other names.
            listing(directory).lines().filter(|line| line.contains("intruder") || line.contains("/a")).count()
        })
    };
    let before = state();
    for token in &bad {
        for (method, path) in [("POST", "/runs"), ("GET", "/runs")] {
            let headers = [("Content-Type", "application/json")];
            let response = request(method, path, Some(token), &headers, Some(b"{\"prompt\":\"x\"}"));
            response.is_problem(401, "unauthorized");
            assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"), "{response:?}");
        }
    }
    request("GET", "/runs", None, &[], None).is_problem(401, "unauthorized");
    let twice = format!(
        "GET /runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n\r\n",
        token_for("intruder", 60)
    );
    send(twice.as_bytes()).is_problem(401, "unauthorized");
    let in_url = format!("/runs?access_token={}", token_for("intruder", 60));
    request("GET", &in_url, None, &[], None).is_problem(401, "unauthorized");
    assert_eq!(state(), before);
}

#[test]
fn an_upper_case_name_is_the_same_user() {
    testhost();
    let user = User::new("case");
    let id = user.run("hello")["id"].as_str().unwrap().to_owned();
    let upper = User { token: token_for(&user.name.to_uppercase(), 600), name: user.name.clone() };
    assert_eq!(upper.get(&format!("/runs/{id}")).json()["id"], id.as_str());
    let uid = uid_of(&user.name);
    assert_eq!(upper.run("again")["status"], "succeeded");
    assert_eq!(uid_of(&user.name), uid);
    assert!(!std::path::Path::new(&format!("/var/lib/pi-gateway/workspaces/{}", user.name.to_uppercase())).exists());
}

#[test]
fn health_needs_no_token_and_ids_of_requests_come_back() {
    testhost();
    let health = request("GET", "/health", None, &[("X-Request-Id", "abc-1")], None);
    assert_eq!((health.status, health.header("x-request-id")), (200, Some("abc-1")));
    let odd = request("GET", "/health", None, &[("X-Request-Id", "a b\u{7f}")], None);
    assert_ne!(odd.header("x-request-id"), Some("a b\u{7f}"));
    let ready = request("GET", "/health/ready", None, &[], None);
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    let document = request("GET", "/openapi.json", None, &[], None).json();
    assert_eq!(document["openapi"], "3.1.0");
}
