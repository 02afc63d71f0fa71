//! One connection, from a sandbox or from the front, with the limits that hold for all of them.

use std::convert::Infallible;
use std::pin::pin;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::limits::{MAX_BUFFER, MAX_HEAD, MAX_HEADERS, Waits};

/// Serves requests until the client ends the connection, breaks the rules or is too slow, or `closing` becomes true:
/// then the answer under way is finished and no further request is taken. A connection that becomes a tunnel is left to
/// whoever granted that.
pub async fn serve<S, F, A, B>(stream: S, waits: Waits, mut closing: watch::Receiver<bool>, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A + Send,
    A: Future<Output = Response<B>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(waits.head)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    // How a connection ends is the client's affair; its requests have been accounted for.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopping(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Waits until the service stops.
pub async fn stopping(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = closing.wait_for(|closing| *closing).await;
}
