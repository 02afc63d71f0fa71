//! `GET /metrics` on a socket of its own, which systemd passes (pi-gateway-metrics.socket): a loopback port, or a Unix
//! socket. Without one nothing is shown, and the public socket never has it.
//!
//! One request a connection, a few connections at a time: a scraper needs no more, and one that hangs holds up no user.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::{front, scrape};
use crate::http::App;

/// The unit whose socket it is; systemd passes it under this name.
pub const UNIT: &str = "pi-gateway-metrics.socket";
/// Connections at the same time; a further one waits in the socket's queue.
const CONNECTIONS: usize = 8;
/// How long a request's head may take, and a connection in all.
const HEAD: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(15);
/// The wait after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// The listening end.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    /// Takes over what systemd has passed.
    ///
    /// # Errors
    /// When it is no listener.
    pub fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Listener::Tcp)
    }

    /// The same of a Unix socket.
    ///
    /// # Errors
    /// When it is no listener.
    pub fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Listener::Unix)
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves until `shutdown` becomes true. `relay` is the model relay's socket.
pub async fn serve(listener: Listener, app: App, relay: PathBuf, mut shutdown: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let relay = Arc::new(relay);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = shutdown.wait_for(|ending| *ending) => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept on {UNIT}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (app, relay) = (app.clone(), relay.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (app, relay) = (app.clone(), relay.clone());
                async move { Ok::<_, Infallible>(answer(&request, &app, &relay).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // How it ends is the scraper's affair.
            let _ = tokio::time::timeout(WHOLE, connection).await;
            drop(place);
        });
    }
}

async fn answer(request: &Request<Incoming>, app: &App, relay: &std::path::Path) -> Response<Full<Bytes>> {
    let wanted = request.uri().path() == "/metrics" && [Method::GET, Method::HEAD].contains(request.method());
    let mut response = if wanted {
        let relay = scrape::relay(relay).await;
        Response::new(Full::new(front::metrics().text(app, relay.as_deref()).into()))
    } else {
        let mut refusal = Response::new(Full::new(Bytes::from_static(b"only GET /metrics exists here\n")));
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        refusal
    };
    let media = if wanted { super::CONTENT_TYPE } else { "text/plain" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
