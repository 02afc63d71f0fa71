//! The front's own door: a Unix socket on which it asks for images that users want over the API.
//!
//! The socket is in a directory that the front alone can enter, and the kernel is asked who each peer is. The front says
//! for which user a request is, so that it counts as his; nothing else that a sandbox may not do is possible here, but for
//! one: it can ask what the relay counts ([`METRICS`]), in which no user and nothing of a request is. These headers and
//! that path mean nothing on the doors inside sandboxes.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::agent::{Agent, Shared};
use super::failure::Failure;
use super::limits::{FRONT_CONNECTIONS, MAX_WISH};
use super::requests::{self, Answer};
use super::routes::IMAGES as PATH;
use super::{body, images};
use crate::metrics;
use crate::relay::connection::{self, stopping};
use crate::relay::handover::USERS;

/// The header with the user's uid.
pub const UID: HeaderName = HeaderName::from_static("pi-gateway-uid");
/// The header with the request's id, a UUIDv7; the request's usage is kept under it, as a run's is under the run's.
pub const REQUEST: HeaderName = HeaderName::from_static("pi-gateway-request");

/// Where the front asks what the relay counts.
pub const METRICS: &str = "/metrics";

/// The listening end.
#[derive(Debug)]
pub struct FrontDoor {
    listener: StdListener,
    /// The front's uid.
    uid: u32,
}

impl FrontDoor {
    /// Binds the socket for peers with this uid. A socket left behind by an earlier process is replaced.
    ///
    /// # Errors
    /// The path cannot be used.
    pub fn bind(path: &Path, uid: u32) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = StdListener::bind(path)?;
        // Its group is the directory's, which is the front's.
        std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, uid })
    }

    fn is_for(&self, peer: &UnixStream) -> bool {
        peer.peer_cred().is_ok_and(|peer| peer.uid() == self.uid)
    }
}

/// Serves the front until `closing` becomes true and the answers under way are finished, within the time for that.
pub async fn serve(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    let Some(door) = &shared.front else { return };
    let listener = match door.listener.try_clone().and_then(UnixListener::from_std) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the front cannot be served"),
    };
    let places = Arc::new(Semaphore::new(FRONT_CONNECTIONS));
    let mut open: JoinSet<()> = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        tokio::select! {
            biased;
            () = stopping(&mut closing) => break,
            Some(_) = open.join_next() => {}
            accepted = next => match accepted {
                Some((place, Ok((stream, _)))) if door.is_for(&stream) => {
                    let (shared, closing) = (Arc::clone(&shared), closing.clone());
                    open.spawn(async move {
                        connection(stream, shared, closing).await;
                        drop(place);
                    });
                }
                Some((_, Ok(_))) => tracing::warn!("a peer that is not the front is turned away"),
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "the front's connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None => break,
            },
        }
    }
    let drained = async { while open.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(shared.waits.relay.drain, drained).await;
    open.shutdown().await;
}

async fn connection(stream: UnixStream, shared: Arc<Shared>, closing: watch::Receiver<bool>) {
    let waits = shared.waits.relay;
    connection::serve(stream, waits, closing, move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request).await }
    })
    .await;
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let (head, incoming) = request.into_parts();
    if head.method == Method::GET && head.uri == METRICS {
        return Response::new(Either::Left(Full::new(metrics::relay::metrics().text().into())));
    }
    match admit(&head) {
        Ok((uid, id, length)) => {
            let agent = Arc::new(Agent::new(uid, id, Arc::clone(shared)));
            let read = body::read(incoming, length, [&agent.bodies, &shared.bodies], &shared.waits).await;
            let ended = match read {
                Ok(held) => images::handle(&agent, held).await,
                Err(failure) => Err(failure.into()),
            };
            requests::finish(&agent, ended)
        }
        Err(failure) => {
            tracing::warn!(code = failure.code, "a request of the front's is refused");
            failure.answer(true).map(Either::Left)
        }
    }
}

/// Checks a request's head; gives whose it is, its id, and the length of its body.
fn admit(head: &Parts) -> Result<(u32, Uuid, u64), Failure> {
    let bad = |code: &str, message: &str| Failure::refused(StatusCode::BAD_REQUEST, code, message);
    if head.method != Method::POST || head.uri != PATH {
        return Err(Failure::refused(StatusCode::NOT_FOUND, "unknown_path", format!("only POST {PATH} exists here")));
    }
    if head.headers.contains_key(TRANSFER_ENCODING) || once(&head.headers, &CONTENT_TYPE) != Some("application/json") {
        return Err(bad("content_type", "send application/json with a length"));
    }
    let uid = once(&head.headers, &UID).and_then(|text| text.parse().ok()).filter(|uid| USERS.contains(uid));
    let id = once(&head.headers, &REQUEST).and_then(|text| Uuid::try_parse(text).ok());
    let length = once(&head.headers, &CONTENT_LENGTH).and_then(|text| text.parse().ok());
    match (uid, id.filter(|id| id.get_version_num() == 7), length) {
        (Some(uid), Some(id), Some(length @ 1..=MAX_WISH)) => Ok((uid, id, length)),
        (None, ..) => Err(bad("wrong_uid", "the uid is not a user's")),
        (_, None, _) => Err(bad("wrong_request", "the request's id is no UUIDv7")),
        _ => Err(Failure::refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body has no fitting length")),
    }
}

/// A header that is there exactly once.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const ID: &str = "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d";

    fn code(method: &str, uri: &str, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        admit(&request.body(()).unwrap().into_parts().0).map_or_else(|f| f.code, |(uid, ..)| uid.to_string())
    }

    #[test]
    fn one_request_with_its_user_and_id_is_let_in() {
        let good = [
            ("content-type", "application/json"),
            ("content-length", "20"),
            ("pi-gateway-uid", "1879048193"),
            ("pi-gateway-request", ID),
        ];
        let with = |name: &str, value: &'static str| good.map(|(n, v)| (n, if n == name { value } else { v }));
        assert_eq!(code("POST", PATH, &good), "1879048193");
        for (method, uri) in
            [("GET", PATH), ("POST", "/v1/responses"), ("POST", "/v1/images/generations?x=1"), ("POST", "/")]
        {
            assert_eq!(code(method, uri, &good), "unknown_path", "{method} {uri}");
        }
        for (name, value, expected) in [
            ("pi-gateway-uid", "0", "wrong_uid"),
            ("pi-gateway-uid", "1000", "wrong_uid"),
            ("pi-gateway-uid", "alice", "wrong_uid"),
            ("pi-gateway-uid", "4294967297", "wrong_uid"),
            ("pi-gateway-request", "../../etc/passwd", "wrong_request"),
            ("pi-gateway-request", "7b9ef3ef-52a4-4a2a-9a8b-4f2f8f0f4a11", "wrong_request"),
            ("content-length", "0", "body_too_large"),
            ("content-length", "262145", "body_too_large"),
            ("content-type", "text/plain", "content_type"),
        ] {
            assert_eq!(code("POST", PATH, &with(name, value)), expected, "{name}: {value}");
        }
        let twice = [&good[..], &[("pi-gateway-uid", "1879048194")]].concat();
        assert_eq!(code("POST", PATH, &twice), "wrong_uid");
        assert_eq!(code("POST", PATH, &good[..2]), "wrong_uid");
    }

    #[tokio::test]
    async fn the_kernel_says_who_the_front_is() {
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::getuid().as_raw();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for (uid, is_front) in [(own, true), (own + 1, false)] {
            let door = FrontDoor::bind(&dir.path().join("model.sock"), uid).unwrap();
            assert_eq!(door.is_for(&ours), is_front);
        }
        let mode = std::fs::metadata(dir.path().join("model.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }
}
