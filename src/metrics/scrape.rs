//! Asking the model relay what it counts: HTTP over the Unix socket on which the front asks for images.
//!
//! What comes is shown to others as part of the front's own answer, so it is looked at: it has a length and a time, and
//! every line is about a metric of the relay's. Otherwise there is none.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::relay::PREFIX;
use crate::relay::model::front::METRICS as PATH;

/// How long the relay may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer, in bytes: 64 models have 100 KiB.
const MAX: usize = 512 << 10;

/// What the relay on this socket counts; None when it does not say so in time and in order.
pub async fn relay(socket: &Path) -> Option<String> {
    let text = timeout(PATIENCE, ask(socket)).await.ok()??;
    is_the_relays(&text).then_some(text)
}

async fn ask(socket: &Path) -> Option<String> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(PATH).header(HOST, "model-relay").body(Empty::<Bytes>::new()).ok()?;
    let read = async {
        let response = sender.send_request(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX).collect().await.ok()?;
        String::from_utf8(body.to_bytes().into()).ok()
    };
    let text = read.await;
    connection.abort();
    text
}

/// Whether each line is about a metric of the relay's, and the last one whole.
fn is_the_relays(text: &str) -> bool {
    let named = |line: &str| line.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('_'));
    let of =
        |line: &str| ["# HELP ", "# TYPE ", "# UNIT "].iter().any(|mark| line.strip_prefix(mark).is_some_and(named));
    (text.is_empty() || text.ends_with('\n')) && text.lines().all(|line| named(line) || of(line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_line_about_anything_else_is_not_shown() {
        crate::metrics::relay::metrics().refused("unknown_path");
        let good = crate::metrics::relay::metrics().text();
        assert!(good.contains("unknown_path") && is_the_relays(&good) && is_the_relays(""));
        for bad in [
            "pi_gateway_runs{status=\"running\"} 9\n",
            "# EOF\n",
            "\n",
            "pi_gateway_model_relayx 1\n",
            "# TYPE pi_gateway_runs gauge\n",
            "pi_gateway_model_relay_requests_total 1",
        ] {
            assert!(!is_the_relays(&format!("{good}{bad}")), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_relay_that_says_something_else_or_nothing_has_told_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("model.sock");
        assert_eq!(relay(&socket).await, None);
        let listener = UnixListener::bind(&socket).unwrap();
        let answers = std::thread::spawn(move || {
            for body in ["pi_gateway_model_relay_x 1\n", "pi_gateway_x 1\n"] {
                let (mut peer, _) = listener.accept().unwrap();
                let read = peer.read(&mut [0; 4096]).unwrap();
                assert!(read > 0);
                write!(peer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
        });
        assert_eq!(relay(&socket).await.unwrap(), "pi_gateway_model_relay_x 1\n");
        assert_eq!(relay(&socket).await, None);
        answers.join().unwrap();
    }
}
