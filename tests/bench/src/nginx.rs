//! nginx, as a rival in moving files and in passing requests on: its own configuration, sendfile, a line of log for each request as
//! we have one.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use pi_gateway_e2e::{sh, until};

use crate::route::rss;

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1:8989";
/// What it serves and takes; on the same file system as the workspaces.
pub const ROOT: &str = "/var/lib/bench-nginx";

/// A running nginx; it ends with this.
pub struct Nginx(Child);

impl Nginx {
    /// Starts it with so many workers, more for its configuration of HTTP, and what it does with each request. None when there
    /// is no nginx.
    pub fn start(workers: u8, more: &str, location: &str) -> Option<Self> {
        let program = std::env::var("NGINX").unwrap_or_default();
        if !std::path::Path::new(&program).exists() {
            return None;
        }
        sh(&format!("rm -rf {ROOT}; install -d -o www-data {ROOT} {ROOT}/files {ROOT}/tmp"));
        let mut config = std::fs::File::create("/root/bench-nginx.conf").ok()?;
        write!(
            config,
            "daemon off; worker_processes {workers}; user www-data; pid /run/bench-nginx.pid; error_log /dev/null;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log {ROOT}/access.log; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;\n\
             client_max_body_size 300m; client_body_temp_path {ROOT}/tmp;\n\
             fastcgi_temp_path {ROOT}/tmp/f; proxy_temp_path {ROOT}/tmp/p; scgi_temp_path {ROOT}/tmp/s; uwsgi_temp_path {ROOT}/tmp/u;\n\
             {more} server {{ listen {ADDRESS}; root {ROOT}/files; location / {{ {location} }} }} }}\n"
        )
        .ok()?;
        let child = Command::new(program)
            .args(["-c", "/root/bench-nginx.conf", "-p", ROOT])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        until("nginx listens", || std::net::TcpStream::connect(ADDRESS).ok());
        Some(Nginx(child))
    }

    /// Resident memory of its workers, in bytes.
    pub fn resident(&self) -> f64 {
        let master = self.0.id();
        let workers = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).expect("its workers");
        workers.split_whitespace().map(rss).sum()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its workers along.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
