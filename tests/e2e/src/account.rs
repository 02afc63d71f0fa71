//! A ChatGPT account of the tests: the operator's part (its file, the configuration) and what its issuer was asked
//! (`tests/upstream/src/account.rs` says what that does).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::host::{until_ready, upstream_log};
use crate::{User, sh, until};

/// The account's file.
pub const FILE: &str = "/etc/pi-gateway/credentials/codex.json";
/// The account's id.
pub const ID: &str = "account-of-the-gateway";
/// The model that is asked in its name.
pub const MODEL: &str = "gpt-codex";
/// The operator's list of models.
const MODELS: &str = "/etc/pi-gateway/models.json";
const KEY: &str = "/etc/pi-gateway/credentials/OPENAI_API_KEY";

/// An access token that ends in so many seconds. The upstream refuses one whose `mark` begins with `revoked`.
pub fn access(seconds: i64, mark: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"exp": now.checked_add_signed(seconds).unwrap(), "https://api.openai.com/auth": {"chatgpt_account_id": ID}});
    format!("e30.{}.{mark}", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// What an operator does with the auth.json that `codex login` has made.
pub fn sign_in(refresh: &str, access: &str) {
    let content = json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "tokens": {"id_token": access,
        "access_token": access, "refresh_token": refresh, "account_id": ID}, "last_refresh": "2026-01-01T00:00:00Z"});
    std::fs::write("/root/auth.json", content.to_string()).unwrap();
    sh(&format!("install -D -m 0600 /root/auth.json {FILE}.put && mv {FILE}.put {FILE}; rm /root/auth.json"));
}

/// The tokens in the file.
pub fn tokens() -> Value {
    serde_json::from_slice::<Value>(&std::fs::read(FILE).unwrap()).unwrap()["tokens"].clone()
}

/// The refresh tokens that were given to the issuer, with the status of its answer (0: none yet), of those whose names
/// begin with `name`.
pub fn exchanges(name: &str) -> Vec<(String, u64)> {
    let log = upstream_log();
    let ours = log.iter().filter_map(|line| {
        let refresh = line["refresh_token"].as_str().filter(|refresh| refresh.starts_with(name))?;
        let end = log.iter().find(|other| other["n"] == line["n"] && other["end"].is_string());
        Some((refresh.to_owned(), end.and_then(|end| end["status"].as_u64()).unwrap_or(0)))
    });
    ours.collect()
}

/// A gateway with an account, put back as it was when it is dropped.
pub struct Account {
    _kept: crate::operator::Restore,
}

impl Account {
    /// Configures it, with `more` lines beside; `only` is for a gateway without a key of OpenAI's.
    pub fn configured(more: &str, only: bool) -> Self {
        let account = Account { _kept: crate::operator::Restore::new() };
        sh(&format!("cp -a {KEY} /root/account.key"));
        let text = std::fs::read_to_string("/usr/lib/pi-gateway/trusted/models.json").unwrap();
        let mut models: Vec<Value> = serde_json::from_str(&text).unwrap();
        let mut own = models[0].clone();
        own["id"] = json!(MODEL);
        own["provider"] = json!("codex");
        if only {
            models.clear();
            sh(&format!("rm {KEY}"));
        }
        models.push(own);
        std::fs::write(MODELS, serde_json::to_string(&models).unwrap()).unwrap();
        let default = if only { format!("PI_GATEWAY_DEFAULT_MODEL={MODEL}\n") } else { String::new() };
        let base = "http://127.0.0.1:9180";
        let lines = format!(
            "PI_GATEWAY_MODELS={MODELS}\nPI_GATEWAY_CODEX_AUTH_FILE={FILE}\n\
             PI_GATEWAY_CODEX_UPSTREAM_BASE_URL={base}/backend-api\nPI_GATEWAY_CODEX_TOKEN_URL={base}/oauth/token\n{default}{more}"
        );
        std::fs::write("/root/account.env", lines).unwrap();
        sh(&format!("cat /root/account.env >> {}; chmod 644 {MODELS}", crate::operator::FILE));
        sh("systemctl restart pi-gateway-launcher pi-gateway");
        until_ready();
        account
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Its key first; the configuration goes back behind this.
        sh(&format!("cp -a /root/account.key {KEY}"));
    }
}

/// Starts a run of the account's model; gives its id.
pub fn start(user: &User, prompt: &str) -> String {
    let response = user.post("/runs", &[], &json!({"prompt": prompt, "model": MODEL}));
    assert_eq!(response.status, 202, "{}", String::from_utf8_lossy(&response.body));
    response.json()["id"].as_str().unwrap().to_owned()
}

/// Runs a prompt with the account's model; gives the run.
pub fn run(user: &User, prompt: &str) -> Value {
    user.finished(&start(user, prompt))
}

/// How the account stands by `/health/ready`.
pub fn standing() -> String {
    let ready = crate::request("GET", "/health/ready", None, &[], None);
    assert_eq!(ready.status, 200, "the gateway is ready all the same");
    ready.json()["codex"].as_str().unwrap_or("null").to_owned()
}

/// Waits until the account stands like this.
pub fn until_standing(state: &str) {
    until(&format!("the account is {state}"), || (standing() == state).then_some(()));
}
