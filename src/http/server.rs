//! Connections: accepting, their deadlines and their end.
//!
//! hyper's own builder, because `axum::serve` sets no deadline on headers: a client that says nothing, or one byte at a
//! time, would stay for ever. One that does not read is closed as well. HTTP/1.1 only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::limits;
use super::transport::{Outbox, Transport};

/// The wait after a failed accept: descriptors may become free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` becomes true, then lets requests end within 5 s.
pub async fn serve(listener: TcpListener, router: Router, mut shutdown: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = shutdown.wait_for(|ending| *ending) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let outbox = Outbox::default();
        let stream = match prepare(stream, outbox.clone()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection ended before it was served");
                continue;
            }
        };
        let inner = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(outbox.clone());
            inner.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEAD_DEADLINE)
            .max_header_size(limits::HEAD_BYTES)
            .max_buf_size(limits::BUFFER)
            .max_headers(limits::HEADERS)
            // Copied together, a placeholder would be sent as what it is: zeros.
            .writev(true)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // What a client does wrong on the wire is its own affair; hyper has answered what can be answered.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits::GRACE, graceful.shutdown()).await.is_err() {
        tracing::info!("some requests did not end in time");
    }
}

fn prepare(stream: TcpStream, outbox: Outbox) -> io::Result<Pin<Box<TimeoutStream<Transport>>>> {
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &limits::UNACKNOWLEDGED_MS)?;
    let mut stream = TimeoutStream::new(Transport::new(stream, outbox));
    stream.set_write_timeout(Some(limits::WRITE_STALL));
    Ok(Box::pin(stream))
}
