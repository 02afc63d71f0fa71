//! From a host to a connection: every address of it is judged, and the connection goes to one that was.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use hyper::StatusCode;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::limits::{MAX_ADDRESSES, MAX_TRIES};
use super::peer::{Peer, busy};
use super::target::{Host, Target};
use crate::relay::failure::Failure;

fn gateway(code: &'static str, message: String) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, code, message)
}

/// Connects to a target that may be reached.
///
/// # Errors
/// It may not, its name has no address, or nobody answers.
pub async fn dial(peer: &Peer, target: &Target) -> Result<(TcpStream, IpAddr), Failure> {
    let shared = &peer.shared;
    let addresses = match &target.host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => resolve(peer, name, target.port).await?,
    };
    // One that is not permitted spoils the name: who gives it such an address is not to be trusted with the others. Which
    // it is would tell an agent of the network here.
    if !addresses.iter().all(|address| (shared.permitted)(*address)) {
        let message = format!("{} is not on the internet", target.host);
        return Err(Failure::new(StatusCode::FORBIDDEN, "address_not_allowed", message));
    }
    let tries = addresses.len().min(MAX_TRIES);
    let share = shared.limits.connect / u32::try_from(tries).unwrap_or(1).max(1);
    let mut late = false;
    for address in addresses.into_iter().take(tries) {
        match timeout(share, TcpStream::connect(SocketAddr::new(address, target.port))).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(_)) => {}
            Err(_) => late = true,
        }
    }
    if late {
        let message = format!("{} did not answer in time", target.host);
        return Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, "connect_timeout", message));
    }
    Err(gateway("host_unreachable", format!("{} takes no connection", target.host)))
}

/// The addresses of a name, by this machine's own resolver. The place is given back when the resolver has ended, however
/// long that takes, so that slow names cost their own user only.
async fn resolve(peer: &Peer, name: &str, port: u16) -> Result<Vec<IpAddr>, Failure> {
    let own = Arc::clone(&peer.resolving).try_acquire_owned().map_err(|_| busy("names of yours"))?;
    let one_of_all = Arc::clone(&peer.shared.resolving).try_acquire_owned().map_err(|_| busy("names of all users"))?;
    let asked = name.to_owned();
    let resolving = tokio::task::spawn_blocking(move || {
        let _places = (own, one_of_all);
        let found = (asked.as_str(), port).to_socket_addrs()?;
        Ok::<_, io::Error>(found.map(|address| address.ip()).take(MAX_ADDRESSES + 1).collect::<Vec<_>>())
    });
    let Ok(resolved) = timeout(peer.shared.limits.resolve, resolving).await else {
        let message = format!("{name} was not resolved in time");
        return Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, "resolve_timeout", message));
    };
    let mut addresses = resolved.ok().and_then(Result::ok).unwrap_or_default();
    addresses.dedup();
    match addresses.len() {
        0 => Err(gateway("name_not_found", format!("{name} has no address"))),
        1..=MAX_ADDRESSES => Ok(addresses),
        _ => Err(gateway("name_not_found", format!("{name} has more than {MAX_ADDRESSES} addresses"))),
    }
}
