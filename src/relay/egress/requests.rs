//! Requests of one connection: judged, connected, passed on. One that is a tunnel is the connection's last.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::dial::dial;
use super::forward::{Answer, Failed, forward};
use super::line::Line;
use super::meter::Meter;
use super::peer::Peer;
use super::target;
use crate::relay::connection;
use crate::relay::failure::Failure;
use crate::relay::listener::Stream;

type Reply = Response<Either<Either<Full<Bytes>, Empty<Bytes>>, Answer>>;

/// A tunnel that has been granted.
#[derive(Debug)]
struct Tunnel {
    client: OnUpgrade,
    line: Line,
    meter: Meter,
}

/// Where a connection's tunnel is kept until its answer has been sent.
type Granted = Arc<Mutex<Option<Tunnel>>>;

/// Serves requests until the client ends the connection, breaks the rules or is too slow, or `closing` becomes true.
pub async fn connection(stream: Stream, peer: Arc<Peer>, closing: watch::Receiver<bool>) {
    let granted = Granted::default();
    let (waits, kept) = (peer.shared.limits.relay, Arc::clone(&granted));
    connection::serve(stream, waits, closing, move |request| {
        let (peer, granted) = (Arc::clone(&peer), Arc::clone(&kept));
        async move { answer(&peer, request, &granted).await.unwrap_or_else(|failure| refuse(&failure)) }
    })
    .await;
    let tunnel = granted.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Tunnel { client, mut line, mut meter }) = tunnel
        && let Ok(client) = client.await
    {
        let mut client = TokioIo::new(client);
        // How it ends is the affair of both sides; the line has noted whether it was ended here.
        if tokio::io::copy_bidirectional(&mut client, &mut line).await.is_ok() {
            meter.ends();
        }
    }
}

fn refuse(failure: &Failure) -> Reply {
    failure.answer().map(Either::Left).map(Either::Left)
}

async fn answer(peer: &Arc<Peer>, mut request: Request<Incoming>, granted: &Granted) -> Result<Reply, Failure> {
    let client = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let target = target::read(&head, &peer.shared.allowed, &peer.shared.ports)
        .inspect_err(|failure| peer.note_refusal(&head, failure))?;
    let tunnel = target.tunnel;
    let mut meter = Meter::start(Arc::clone(peer), target.clone());
    let dialled = async {
        let place = peer.place().await?;
        let (stream, address) = dial(peer, &target).await?;
        Ok::<_, Failure>((stream, address, place))
    };
    let (stream, address, place) = dialled.await.inspect_err(|failure| meter.failed(failure))?;
    meter.leads_to(address);
    let (flow, spent) = (Arc::clone(meter.flow()), Arc::clone(&peer.spent));
    let line = Line::new(stream, flow, spent, peer.shared.limits, place);
    if !tunnel {
        let forwarded = forward(head, body, line, meter).await;
        return match forwarded {
            Ok(response) => Ok(response.map(Either::Right)),
            Err(Failed { failure, mut meter }) => {
                meter.failed(&failure);
                Err(failure)
            }
        };
    }
    meter.answered(StatusCode::OK.as_u16());
    *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tunnel { client, line, meter });
    Ok(Response::new(Either::Left(Either::Right(Empty::new()))))
}
