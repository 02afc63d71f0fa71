//! Portkey's gateway, as a rival in passing model requests on: its npm package (`tests/bench/portkey/fetch`), run by the node
//! that pi runs with.

use std::process::{Child, Command, Stdio};

use pi_gateway_e2e::until;

use crate::route::rss;

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1:9191";
/// What it is called in the rows.
pub const NAME: &str = "Portkey 1.15.2";

/// A running gateway; it ends with this.
pub struct Portkey(Child);

impl Portkey {
    /// Starts it; why not, otherwise.
    pub fn start() -> Result<Self, String> {
        let program = format!("{}/build/start-server.js", std::env::var("PORTKEY").unwrap_or_default());
        if !std::path::Path::new(&program).exists() {
            return Err("it could not be fetched from npm (tests/bench/portkey/fetch says why)".into());
        }
        let child = Command::new("/usr/lib/pi-gateway/runtime/1.5.2/node")
            .args([program.as_str(), "--port=9191", "--headless"])
            .env_clear()
            .env("NODE_ENV", "production")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("its node: {error}"))?;
        let portkey = Portkey(child);
        until("Portkey's gateway listens", || std::net::TcpStream::connect(ADDRESS).ok());
        Ok(portkey)
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> f64 {
        rss(&self.0.id().to_string())
    }
}

impl Drop for Portkey {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
