//! A real nginx, its workers as www-data, that serves exported sites by the server block of the documents.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{User, sh, until};

/// Where it listens here.
const ADDRESS: &str = "127.0.0.1:8990";
/// Where `tests/nginx` puts it, and the document, from here.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A running nginx; it ends with this.
pub struct Nginx(Child);

impl Nginx {
    /// Starts it. www-data becomes a member of `pi-gateway-sites` as the document says.
    pub fn start() -> Self {
        let program = format!("{REPOSITORY}/.build/nginx/usr/sbin/nginx");
        assert!(Path::new(&program).exists(), "no nginx: `tests/nginx .build/nginx` gets it");
        let document = std::fs::read_to_string(format!("{REPOSITORY}/docs/platform-config-and-testing.md")).unwrap();
        let block = |kind: &str| document.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap();
        let server = block("nginx").replace("listen 80;", &format!("listen {ADDRESS};"));
        let member = document.lines().find(|line| line.contains("usermod")).unwrap();
        sh(member);
        sh("rm -rf /var/lib/test-nginx; install -d -o www-data /var/lib/test-nginx");
        let temporary = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"]
            .map(|kind| format!("{kind}_temp_path /var/lib/test-nginx/{kind};"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; user www-data; pid /run/test-nginx.pid; error_log /var/lib/test-nginx/error;\n\
             events {{ worker_connections 64; }}\nhttp {{ access_log off; {temporary}\n{server}\n}}\n"
        );
        std::fs::write("/root/test-nginx.conf", config).unwrap();
        let child = Command::new(program)
            .args(["-c", "/root/test-nginx.conf", "-p", "/var/lib/test-nginx"])
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx");
        until("nginx listens", || std::net::TcpStream::connect(ADDRESS).ok());
        Nginx(child)
    }

    /// What a browser gets of a user's site: the status and the body.
    pub fn fetch(&self, user: &User, path: &str) -> (u16, String) {
        let host = format!("Host: {}.sites.example.org", user.name);
        let text = sh(&format!("curl -s -w '\\n%{{http_code}}' --path-as-is -H '{host}' 'http://{ADDRESS}{path}'"));
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", text.as_str()));
        (status.parse().unwrap(), body.to_owned())
    }

    /// The body of a page that is there.
    pub fn page(&self, user: &User, path: &str) -> String {
        let (status, body) = self.fetch(user, path);
        assert_eq!(status, 200, "{path}: {body}\n{}", sh("cat /var/lib/test-nginx/error"));
        body.trim_end().to_owned()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its workers along.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
