//! A socket that users' workers connect to; the kernel says whose each is.
//!
//! What connects and is not asked for goes again after [`Door::clear`]. Of one user the last connection counts, and only
//! as long as its other end is there: a worker that was stopped before anybody took its connection is none.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::closer::Handed;

/// A listening socket and who has come.
pub struct Door {
    socket: AsyncFd<OwnedFd>,
    /// Connections that nobody has taken yet, by uid, and when they came.
    arrived: Mutex<HashMap<u32, (Handed, Instant)>>,
    arrival: Notify,
}

impl Door {
    /// Binds a socket. One left behind by an earlier process is replaced.
    ///
    /// # Errors
    /// When the path cannot be used.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // It is mounted into workers only; whose worker it is, the kernel says.
        std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
        rustix::net::listen(&socket, 128)?;
        let socket = crate::relay::watch::watch(socket)?;
        let door = Arc::new(Door { socket, arrived: Mutex::default(), arrival: Notify::new() });
        tokio::spawn(accept(door.clone()));
        Ok(door)
    }

    /// The next connection of a uid.
    pub async fn arrival_of(&self, uid: u32) -> Handed {
        loop {
            let arrival = self.arrival.notified();
            let arrived = lock(&self.arrived).remove(&uid);
            match arrived {
                Some((socket, _)) if !has_hung_up(&socket) => return socket,
                Some(_) => {}
                None => arrival.await,
            }
        }
    }

    /// Forgets a connection that came too late.
    pub fn forget(&self, uid: u32) {
        lock(&self.arrived).remove(&uid);
    }

    /// Forgets who has waited for so long.
    pub fn clear(&self, waited: Duration) {
        lock(&self.arrived).retain(|_, (_, came)| came.elapsed() < waited);
    }
}

/// Takes connections for ever and keeps the last of each uid until it is asked for.
async fn accept(door: Arc<Door>) {
    loop {
        // However many come: others get their turn.
        tokio::task::consume_budget().await;
        let Ok(mut ready) = door.socket.readable().await else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match ready.try_io(|socket| Ok(rustix::net::accept_with(socket, flags)?)) {
            Err(_) => {}
            Ok(Ok(socket)) => {
                let socket = Handed::from(socket);
                if let Ok(peer) = getsockopt(&socket, PeerCredentials) {
                    lock(&door.arrived).insert(peer.uid(), (socket, Instant::now()));
                    door.arrival.notify_waiters();
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a worker's connection could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whether the other end is gone. What cannot be asked is taken for gone.
fn has_hung_up(socket: &Handed) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut asked, Some(&now)), Ok(0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::Poll;

    use super::*;

    fn connect(path: &Path) -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        socket
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_before_it_is_asked_for_is_not_taken_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.sock");
        let door = Door::open(&path).unwrap();
        let uid = nix::unistd::getuid().as_raw();
        drop(connect(&path));
        while !lock(&door.arrived).contains_key(&uid) {
            tokio::task::yield_now().await;
        }
        let arrival = door.arrival_of(uid);
        tokio::pin!(arrival);
        // The control: it is there, and nobody gets it.
        let waits = std::future::poll_fn(|context| Poll::Ready(arrival.as_mut().poll(context).is_pending())).await;
        assert!(waits);
        assert!(lock(&door.arrived).is_empty());
        let next = connect(&path);
        let taken = arrival.await;
        rustix::net::send(&next, b"I am here", rustix::net::SendFlags::empty()).unwrap();
        let mut heard = [0; 16];
        let (length, _) = rustix::net::recv(&taken, &mut heard, rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(&heard[..length], b"I am here");
    }
}
