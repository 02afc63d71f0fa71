//! The server: who asks, what he may do, and what he is told.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::backend;
use crate::fault::{Fault, present};
use crate::repository::{Access, access};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is given each line of the log.
type Log = Box<dyn FnMut(&str) + Send>;

/// The server's state.
pub struct Gitea {
    root: PathBuf,
    accounts: Vec<(String, String)>,
    log: Mutex<Log>,
}

impl fmt::Debug for Gitea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gitea({})", self.root.display())
    }
}

impl Gitea {
    /// A server for the repositories below `root`, with these accounts and their tokens. `log` is given a line for each
    /// request: method, path, account or `-`, status.
    pub fn new(root: PathBuf, accounts: Vec<(String, String)>, log: impl FnMut(&str) + Send + 'static) -> Self {
        Self { root, accounts, log: Mutex::new(Box::new(log)) }
    }

    /// The account whose name and token a request has.
    fn account(&self, head: &Parts) -> Option<&str> {
        let given = head.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
        let given = String::from_utf8(STANDARD.decode(given).ok()?).ok()?;
        let known = self.accounts.iter().find(|(name, token)| format!("{name}:{token}") == given);
        known.map(|(name, _)| name.as_str())
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let response = self.judge(&head, body).await;
        let (account, status) = (self.account(&head).unwrap_or("-"), response.status().as_u16());
        let line = format!("{} {} {account} {status}", head.method, head.uri);
        self.log.lock().unwrap_or_else(PoisonError::into_inner)(&line);
        response
    }

    async fn judge(&self, head: &Parts, body: Incoming) -> Response<Body> {
        let fault = present(&self.root);
        match &fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(wait)) => tokio::time::sleep(*wait).await,
            Some(Fault::Status(status)) => return told(*status, "a fault"),
            Some(Fault::Redirect(status, place)) => {
                let mut response = told(*status, "elsewhere");
                if let Ok(place) = HeaderValue::from_str(place) {
                    response.headers_mut().insert(LOCATION, place);
                }
                return response;
            }
            Some(Fault::Cut) | None => {}
        }
        let Some(account) = self.account(head) else {
            let mut response = told(401, "Unauthorized");
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Gitea\""));
            return response;
        };
        let parts: Vec<&str> = head.uri.path().split('/').collect();
        if let ["", "api", "v1", "repos", owner, name] = parts.as_slice() {
            let path = self.root.join(owner).join(format!("{name}.git"));
            let plain = !owner.starts_with('.') && !name.starts_with('.') && path.join("HEAD").exists();
            return match access(&path, owner, account) {
                right if plain && right != Access::None => {
                    told(200, &format!("{{\"permissions\": {{\"pull\": true, \"push\": {}}}}}", right == Access::Write))
                }
                _ => told(404, "{}"),
            };
        }
        let ["", owner, name, rest @ ..] = parts.as_slice() else { return told(404, "Not found") };
        let plain = |part: &str| !part.starts_with('.') && !part.contains(['%', '\\']);
        let push = head.uri.query() == Some("service=git-receive-pack") || rest == ["git-receive-pack"];
        let path = self.root.join(owner).join(name);
        if !plain(owner) || !plain(name) || !name.ends_with(".git") || !path.join("HEAD").exists() {
            let created = push && name.ends_with(".git");
            return if created {
                told(403, "Push to create is not enabled for users.")
            } else {
                told(404, "Repository not found")
            };
        }
        let right = access(&path, owner, account);
        if right == Access::None {
            return told(404, "Repository not found");
        }
        if push && path.join("archived").exists() {
            return told(403, "This repo is archived.");
        }
        if head.method != Method::GET && head.method != Method::POST {
            return told(405, "Method not allowed");
        }
        let right = if right == Access::Write { "write" } else { "read" };
        let answered = backend::answer(&self.root, account, right, head, body, fault == Some(Fault::Cut)).await;
        answered.unwrap_or_else(|error| told(500, &error.to_string()))
    }
}

/// A body of text.
pub fn text(text: &str) -> Body {
    let full = Full::new(Bytes::from(text.to_owned()));
    full.map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn told(status: u16, sentence: &str) -> Response<Body> {
    let mut response = Response::new(text(sentence));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Serves for ever.
///
/// # Errors
/// There is no runtime to be had.
pub fn serve(listener: TcpListener, gitea: Gitea) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let gitea = Arc::new(gitea);
        loop {
            let (stream, _) = listener.accept().await?;
            let gitea = Arc::clone(&gitea);
            tokio::spawn(async move {
                let service = service_fn(|request| async { Ok::<_, Infallible>(gitea.answer(request).await) });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
