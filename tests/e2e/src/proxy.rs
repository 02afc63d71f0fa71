//! Real reverse proxies, with the configurations of docs/operations.md, a certificate of their own, and what a client sees
//! through them.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::{User, sh, until};

/// The name in the document's configurations.
pub const NAME: &str = "gateway.example.org";
/// Where `tests/nginx` and `tests/caddy` put them, and the document, from here.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Certificate and key, made here.
const CERTIFICATE: &str = "/var/lib/test-proxy/certificate.pem";
const KEY: &str = "/var/lib/test-proxy/key.pem";

/// A running proxy; it ends with this.
pub struct Proxy {
    /// Which.
    pub kind: &'static str,
    port: u16,
    child: Child,
}

/// What a client gets.
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

/// The block of the document whose kind is this.
fn block(kind: &str) -> String {
    let document = std::fs::read_to_string(format!("{REPOSITORY}/docs/operations.md")).unwrap();
    document.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// A text with one part of it replaced, which must be there.
fn replaced(text: &str, what: &str, by: &str) -> String {
    assert!(text.contains(what), "{what} is not in\n{text}");
    text.replace(what, by)
}

impl Proxy {
    /// Debian's nginx, which listens on 443.
    pub fn nginx() -> Self {
        prepare();
        let site = replaced(&block("nginx"), "/etc/ssl/certs/gateway.example.org.pem", CERTIFICATE);
        let site = replaced(&site, "/etc/ssl/private/gateway.example.org.key", KEY);
        let temporary = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"]
            .map(|kind| format!("{kind}_temp_path /var/lib/test-proxy/{kind};"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; user www-data; pid /run/test-proxy.pid; error_log /var/lib/test-proxy/error;\n\
             events {{ worker_connections 1024; }}\nhttp {{ access_log off; {temporary}\n{site}\n}}\n"
        );
        std::fs::write("/root/test-proxy.conf", config).unwrap();
        let mut command = Command::new(format!("{REPOSITORY}/.build/nginx/usr/sbin/nginx"));
        command.args(["-c", "/root/test-proxy.conf", "-p", "/var/lib/test-proxy"]);
        Self::start("nginx", 443, command)
    }

    /// Debian's Caddy, which listens on 8443 here, because 443 is nginx's.
    pub fn caddy() -> Self {
        prepare();
        let site = replaced(
            &block("caddy"),
            &format!("{NAME} {{"),
            &format!("https://{NAME}:8443 {{\n\ttls {CERTIFICATE} {KEY}"),
        );
        let config = format!(
            "{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system /var/lib/test-proxy\n}}\n{site}"
        );
        std::fs::write("/root/test-proxy.caddy", config).unwrap();
        let mut command = Command::new(format!("{REPOSITORY}/.build/caddy/usr/bin/caddy"));
        command.args(["run", "--adapter", "caddyfile", "--config", "/root/test-proxy.caddy"]);
        command.env("HOME", "/var/lib/test-proxy");
        Self::start("caddy", 8443, command)
    }

    fn start(kind: &'static str, port: u16, mut command: Command) -> Self {
        let log = std::fs::File::create(format!("/var/lib/test-proxy/{kind}.log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{kind}: {error}; `tests/{kind} .build/{kind}` gets it"));
        until("the proxy listens", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{kind}: {status}\n{}", sh(&format!("cat /var/lib/test-proxy/{kind}.log")));
            }
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Proxy { kind, port, child }
    }

    /// curl for a path, with what every request needs.
    pub fn curl(&self, path: &str, more: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "-N", "--max-time", "120", "--cacert", CERTIFICATE]);
        command.args(["--resolve", &format!("{NAME}:{}:127.0.0.1", self.port)]);
        command.args(more).arg(format!("https://{NAME}:{}{path}", self.port));
        command
    }

    /// One request, which must be answered.
    pub fn fetch(&self, path: &str, more: &[&str]) -> Answer {
        self.try_fetch(path, more).unwrap_or_else(|| panic!("{}: no answer for {path}", self.kind))
    }

    /// One request; None when the connection breaks before it is answered.
    pub fn try_fetch(&self, path: &str, more: &[&str]) -> Option<Answer> {
        let more = [&["-D", "-", "-w", "\n%{http_code}"], more].concat();
        let output = self.curl(path, &more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (text, status) = text.rsplit_once('\n')?;
        // Before the answer there may be a 100.
        let (headers, body) = text.rsplit_once("\r\n\r\n")?;
        let status = status.parse().ok().filter(|status| *status >= 200)?;
        Some(Answer { status, headers: headers.to_lowercase(), body: body.to_owned() })
    }

    /// The lines of a run's stream, as they come.
    pub fn follow(&self, user: &User, run: &str) -> Lines {
        let mut command = self.curl(&format!("/runs/{run}/events"), &["-H", &bearer(user)]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Lines { child, lines }
    }
}

/// The header with a user's token.
pub fn bearer(user: &User) -> String {
    format!("Authorization: Bearer {}", user.token)
}

fn prepare() {
    sh(&format!(
        "[ -e {KEY} ] || {{ install -d -m 0755 /var/lib/test-proxy; openssl req -quiet -x509 -newkey rsa:2048 -nodes -days 1 \
         -subj /CN={NAME} -addext subjectAltName=DNS:{NAME} -keyout {KEY} -out {CERTIFICATE} 2>/dev/null || \
         openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME} \
         -keyout {KEY} -out {CERTIFICATE} 2>/dev/null; }}"
    ));
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its workers along.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A stream as a client sees it.
pub struct Lines {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).ok()? > 0).then_some(line)
    }
}

impl Drop for Lines {
    /// A client that hangs up.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
