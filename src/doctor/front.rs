//! Whether the gateway answers, and says that it can take runs.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

use super::Examination;

/// How long it may take; it asks the launcher, which may be restarting.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer, in bytes.
const MAX: u64 = 64 << 10;

/// Asks it.
pub fn look(examination: &mut Examination<'_>) {
    examination.try_out("front", |examination, values| {
        let (host, port) = (values.get("HOST"), values.get("PORT"));
        let unit = "`systemctl restart pi-gateway`, then `journalctl -u pi-gateway`";
        match ask(host, port) {
            Err(error) => examination.fail("front", format!("does not answer at {host}:{port} ({error}): {unit}")),
            Ok((200, answer)) => {
                let active = answer["active_runs"].as_u64().unwrap_or(0);
                examination.ok("front", format!("answers at {host}:{port} and takes runs; {active} are active"));
            }
            Ok((status, answer)) => {
                let parts = answer.as_object().into_iter().flatten().filter(|(_, state)| **state == "failed");
                let parts: Vec<&str> = parts.map(|(name, _)| name.as_str()).collect();
                let told = format!("answers with {status} at {host}:{port}, failed: {}", parts.join(", "));
                examination.fail(
                    "front",
                    format!(
                        "{told}: `systemctl restart pi-gateway-launcher`, then `journalctl -u pi-gateway-launcher`"
                    ),
                );
            }
        }
    });
}

fn ask(host: &str, port: &str) -> Result<(u16, Value), String> {
    let told = |error: std::io::Error| error.to_string();
    let port: u16 = port.parse().map_err(|_| "no port".to_owned())?;
    let address = (host, port).to_socket_addrs().map_err(told)?.next().ok_or("no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(told)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(told)?;
    stream.write_all(b"GET /health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(told)?;
    let mut bytes = Vec::new();
    stream.take(MAX).read_to_end(&mut bytes).map_err(told)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| "its answer is not understood".to_owned())
}

fn parse(text: &str) -> Option<(u16, Value)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_document() {
        let (status, answer) = parse("HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\n{\"disk\": \"failed\"}").unwrap();
        assert_eq!((status, answer["disk"].as_str()), (503, Some("failed")));
        assert!(parse("HTTP/1.0 200 OK\r\n\r\nno json").is_none() && parse("").is_none());
    }
}
