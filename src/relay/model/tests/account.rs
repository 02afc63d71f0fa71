//! A ChatGPT account: a file in the launcher's hands, an upstream that takes the account's present token only, and an
//! issuer that gives the next tokens for each refresh token once.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pi_gateway_helper::launcher::Launcher;
use pi_gateway_helper::settings::Settings;
use pi_gateway_helper::uids::Registry;
use serde_json::{Value, json};

use super::fake::{COMPLETED, DELTA};
use super::own_uid;
use crate::relay::model::codex;

/// The account's id.
pub const ID: &str = "acc-of-the-gateway";

/// What the account does, and what it has seen.
#[derive(Default)]
pub struct Seen {
    /// Heads and bodies of requests to the upstream, whatever it answered.
    pub requests: Vec<(String, Vec<u8>)>,
    /// Requests that came with a token that had not been in the file.
    pub early: usize,
    /// Refresh tokens that came, in their order.
    pub exchanges: Vec<String>,
    /// The upstream takes no token at all.
    pub closed: bool,
    /// What the issuer answers instead of tokens.
    pub says: Option<(u16, String)>,
    /// How long new access tokens are good, in seconds.
    pub lifetime: i64,
    /// Called when a refresh token has come, before the answer goes out.
    pub before_answer: Option<Box<dyn FnMut() + Send>>,
    /// Access tokens that the upstream takes.
    good: HashSet<String>,
    stored: HashSet<String>,
    used: HashSet<String>,
}

/// The account.
pub struct Account {
    pub dir: tempfile::TempDir,
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// An access token that ends in so many seconds.
pub fn access(seconds: i64) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let end = jiff::Timestamp::now().as_second() + seconds;
    format!("e30.{}.at-{number}", URL_SAFE_NO_PAD.encode(json!({"exp": end}).to_string()))
}

impl Account {
    /// An account whose file holds an access token that is good for so many seconds.
    pub fn new(seconds: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen { lifetime: 3600, ..Seen::default() }));
        let account = Self { dir, port, seen };
        account.sign_in("rt-0", &access(seconds));
        account.start_launcher();
        let (seen, file) = (Arc::clone(&account.seen), account.file());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, file) = (Arc::clone(&seen), file.clone());
                std::thread::spawn(move || serve(stream, &seen, &file));
            }
        });
        account
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Refresh tokens that came, and requests that came too early.
    pub fn counts(&self) -> (usize, usize) {
        let seen = self.seen();
        (seen.exchanges.len(), seen.early)
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("codex.json")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("launcher.sock")
    }

    /// What an operator does: puts a file with these tokens there. The upstream takes the access token.
    pub fn sign_in(&self, refresh: &str, access: &str) {
        let mut seen = self.seen();
        seen.good.insert(access.to_owned());
        seen.stored.insert(access.to_owned());
        drop(seen);
        let content = json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "mine": "kept",
            "tokens": {"id_token": "i", "access_token": access, "refresh_token": refresh, "account_id": ID}});
        let new = self.dir.path().join("operator");
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).unwrap();
        file.write_all(content.to_string().as_bytes()).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// The upstream does not take the token in the file any more.
    pub fn revoke(&self) {
        self.seen().good.clear();
    }

    /// What the file holds.
    pub fn content(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap()
    }

    pub fn settings(&self) -> codex::Settings {
        codex::Settings {
            endpoint: codex::endpoint(&format!("http://127.0.0.1:{}/backend-api", self.port)).unwrap(),
            token_url: codex::token_url(&format!("http://127.0.0.1:{}/oauth/token", self.port)).unwrap(),
            launcher: self.socket(),
        }
    }

    fn start_launcher(&self) {
        let names = "BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
            PI_SANDBOX_AGENTS_PATH PI_GATEWAY_MODELS PI_GATEWAY_DEFAULT_MODEL PI_DISABLE_CONTEXT_FILES \
            SANDBOX_MEMORY_MAX SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS RUN_CANCEL_GRACE_MS \
            MAX_CONCURRENT_RUNS WORKSPACE_REMOTE_MODE WORKSPACE_FINALIZATION_TIMEOUT_MS SANDBOX_INTERNET_ENABLED";
        let text: String = names.split_whitespace().map(|name| format!("{name}=1\n")).collect();
        let settings = Settings::new(&format!("{text}PI_GATEWAY_CODEX_AUTH_FILE={}\n", self.file().display())).unwrap();
        let registry = Registry::open(&self.dir.path().join("uids")).unwrap();
        let (starting, waiting) = Default::default();
        let (front, relay) = ((own_uid() + 1, own_uid() + 1), own_uid());
        let launcher = Launcher { settings, version: 252, registry, front, relay, starting, waiting };
        let listener = UnixListener::bind(self.socket()).unwrap();
        std::thread::spawn(move || launcher.serve(&[listener]));
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>, file: &Path) {
    while let Some((head, body)) = read_request(&mut stream) {
        let answer = if head.starts_with("POST /oauth/token ") {
            exchange(&body, seen)
        } else {
            upstream(head, body, seen, file)
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn upstream(head: String, body: Vec<u8>, seen: &Mutex<Seen>, file: &Path) -> String {
    let mut seen = seen.lock().unwrap();
    let token =
        head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or_default().to_owned();
    let stored = std::fs::read_to_string(file).unwrap_or_default();
    if stored.contains(&token) {
        seen.stored.insert(token.clone());
    }
    seen.early += usize::from(!seen.stored.contains(&token));
    let good = !seen.closed && seen.good.contains(&token) && head.starts_with("POST /backend-api/codex/responses ");
    seen.requests.push((head, body));
    if good {
        let events = format!("{DELTA}{COMPLETED}");
        return format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nSet-Cookie: a=b\r\nX-Codex-Plan-Type: plus\r\nContent-Length: {}\r\n\r\n{events}",
            events.len()
        );
    }
    json_answer(401, "{\"detail\":\"Unauthorized\"}")
}

fn exchange(body: &[u8], seen: &Mutex<Seen>) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!((body["grant_type"].as_str(), body["client_id"].as_str().unwrap().len()), (Some("refresh_token"), 28));
    let refresh = body["refresh_token"].as_str().unwrap().to_owned();
    let (says, lifetime, number, hook) = {
        let mut seen = seen.lock().unwrap();
        seen.exchanges.push(refresh.clone());
        (seen.says.clone(), seen.lifetime, seen.exchanges.len(), seen.before_answer.take())
    };
    if let Some(mut hook) = hook {
        hook();
    }
    if let Some((status, body)) = says {
        return json_answer(status, &body);
    }
    let mut seen = seen.lock().unwrap();
    if !seen.used.insert(refresh) {
        return json_answer(401, "{\"error\":{\"code\":\"refresh_token_reused\",\"message\":\"used\"}}");
    }
    let access = access(lifetime);
    seen.good.insert(access.clone());
    let answer = json!({"access_token": access, "refresh_token": format!("rt-new-{number}"), "id_token": "i2", "expires_in": lifetime});
    json_answer(200, &answer.to_string())
}

fn json_answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65536]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length: usize =
                head.to_ascii_lowercase().split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                return Some((head, bytes[end + 4..end + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}
