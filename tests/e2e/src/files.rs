//! A user's files, over the API.

use crate::http::{Response, request};
use crate::user::User;

/// A path as a query has it.
pub fn encode(path: &[u8]) -> String {
    path.iter().map(|byte| format!("%{byte:02x}")).collect()
}

fn content(path: &[u8]) -> String {
    format!("/workspace/files/content?path={}", encode(path))
}

impl User {
    /// A request with any method and body.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response {
        request(method, path, Some(&self.token), headers, body)
    }

    /// Writes a file.
    pub fn put(&self, path: &[u8], headers: &[(&str, &str)], bytes: &[u8]) -> Response {
        self.ask("PUT", &content(path), headers, Some(bytes))
    }

    /// Reads a file.
    pub fn read(&self, path: &[u8], headers: &[(&str, &str)]) -> Response {
        self.ask("GET", &content(path), headers, None)
    }

    /// Removes a file.
    pub fn remove(&self, path: &[u8], headers: &[(&str, &str)]) -> Response {
        self.ask("DELETE", &content(path), headers, None)
    }

    /// All entries below a directory, page by page.
    pub fn tree(&self, path: &[u8], limit: u32) -> Vec<serde_json::Value> {
        self.pages(&format!("/workspace/files?path={}&recursive=true&limit={limit}", encode(path)))
    }

    /// Where the workspace is on the disk.
    pub fn workspace(&self) -> String {
        format!("/var/lib/pi-gateway/workspaces/{}", self.name)
    }
}
