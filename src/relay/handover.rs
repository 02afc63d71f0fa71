//! The door: a socket in every sandbox where an agent's first process hands its listener over.
//!
//! Whoever can connect may be hostile, so everything is bounded: who (the kernel's word on the uid), how many at a
//! time, how long, how large. One message, `1 <kind> <run id>`, with exactly one descriptor; the answer is `ok` or a
//! sentence saying why not. Nothing of the message is repeated or logged.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::limits::{MAX_MESSAGE, MAX_PENDING, MAX_PENDING_PER_USER};
use super::listener::{self, Place};
use super::watch::{ended, events, watch, watch_handed};
use crate::closer::{self, Handed, Received};

/// The uids of users, as the launcher gives them out: from the first one to the last a 31-bit number holds.
pub const USERS: RangeInclusive<u32> = 1_879_048_193..=2_147_483_646;

/// The listening end.
#[derive(Debug)]
pub struct Door {
    socket: AsyncFd<OwnedFd>,
    users: RangeInclusive<u32>,
    pending: Arc<Mutex<HashMap<u32, usize>>>,
}

/// A connection whose peer may hand something over.
#[derive(Debug)]
pub struct Visitor {
    connection: AsyncFd<Handed>,
    uid: u32,
    pid: Pid,
    slot: Slot,
}

/// A checked listener, and the process it belongs to.
#[derive(Debug)]
pub struct Offer {
    /// The user, by the kernel's word.
    pub uid: u32,
    /// The run it is for, by the peer's word.
    pub run: Uuid,
    /// The listening socket.
    pub listener: OwnedFd,
    /// The process that connected.
    pub pidfd: OwnedFd,
}

/// The connection of an offer, to answer on.
#[derive(Debug)]
pub struct Reply {
    connection: AsyncFd<Handed>,
    slot: Slot,
}

/// One of the places for hand-overs under way, given back on drop.
#[derive(Debug)]
struct Slot {
    uid: u32,
    pending: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pending = lock(&self.pending);
        if let Some(count) = pending.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.uid);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Binds the socket, for peers with these uids. A socket left behind by an earlier process is replaced; anything
    /// else at the path is left alone and is an error.
    ///
    /// # Errors
    /// The path cannot be used.
    pub fn bind(path: &Path, users: RangeInclusive<u32>) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Every user's sandbox has it; who may use it is decided by SO_PEERCRED.
        std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
        rustix::net::listen(&socket, 128)?;
        Ok(Self { socket: watch(socket)?, users, pending: Arc::default() })
    }

    /// The next peer worth listening to; others are turned away here.
    ///
    /// # Errors
    /// The socket fails, or no descriptor is free; the caller pauses before it tries again.
    pub async fn next(&self) -> io::Result<Visitor> {
        loop {
            let mut ready = self.socket.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let connection = match ready.try_io(|s| Ok(rustix::net::accept_with(s, flags)?)) {
                Err(_) => continue,
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                // Turned away or not, what waits in its queue may be slow to close.
                Ok(connection) => Handed::from(connection?),
            };
            match self.admit(&connection) {
                Ok((uid, pid, slot)) => {
                    return Ok(Visitor { connection: watch_handed(connection)?, uid, pid, slot });
                }
                Err(sentence) => {
                    let _ = rustix::net::send(&connection, sentence.as_bytes(), SendFlags::NOSIGNAL);
                }
            }
            // However many come: whoever waits beside this gets his turn.
            tokio::task::consume_budget().await;
        }
    }

    fn admit(&self, connection: &Handed) -> Result<(u32, Pid, Slot), &'static str> {
        let peer = getsockopt(connection, PeerCredentials).map_err(|_| "your credentials cannot be read")?;
        let uid = peer.uid();
        if !self.users.contains(&uid) {
            return Err("only the gateway's users may hand over a listener");
        }
        let pid = Pid::from_raw(peer.pid()).ok_or("your process is not visible from here")?;
        let mut pending = lock(&self.pending);
        let all: usize = pending.values().sum();
        let own = pending.entry(uid).or_default();
        if all >= MAX_PENDING || *own >= MAX_PENDING_PER_USER {
            if *own == 0 {
                pending.remove(&uid);
            }
            return Err("too many hand-overs are under way; try again");
        }
        *own += 1;
        Ok((uid, pid, Slot { uid, pending: Arc::clone(&self.pending) }))
    }
}

impl Visitor {
    /// The peer's uid.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Waits for the message and checks everything in it. A refusal has been answered when this returns.
    ///
    /// # Errors
    /// Why the hand-over was refused.
    pub async fn offer(self, kind: &str, place: Place, wait: Duration) -> Result<(Offer, Reply), &'static str> {
        let Self { connection, uid, pid, slot } = self;
        let received = tokio::time::timeout(wait, receive(&connection, kind)).await;
        let received = received.unwrap_or_else(|_| Err(("no message came in time", Vec::new())));
        let checked = received.and_then(|(run, fd)| match identify(&connection, pid, &fd, place) {
            Ok(pidfd) => Ok((run, fd, pidfd)),
            Err(sentence) => Err((sentence, vec![fd])),
        });
        let reply = Reply { connection, slot };
        match checked {
            Ok((run, listener, pidfd)) => Ok((Offer { uid, run, listener, pidfd }, reply)),
            Err((sentence, fds)) => {
                reply.refuse(fds, sentence);
                Err(sentence)
            }
        }
    }
}

impl Reply {
    /// Tells the peer that its listener is served. Whether it reads that is its own affair.
    pub fn accept(self) {
        let _ = rustix::net::send(self.connection.get_ref(), b"ok", SendFlags::NOSIGNAL);
    }

    /// Refuses. The place for hand-overs is given back when everything that came is closed, so that a peer whose
    /// sockets are slow to close only holds up its own next attempts.
    pub fn refuse(self, fds: Vec<OwnedFd>, sentence: &str) {
        let _ = rustix::net::send(self.connection.get_ref(), sentence.as_bytes(), SendFlags::NOSIGNAL);
        if !fds.is_empty() {
            closer::close(fds, self.slot);
        }
    }
}

/// A sentence for the peer, and what came with its message.
type Refusal = (&'static str, Vec<OwnedFd>);

async fn receive(connection: &AsyncFd<Handed>, kind: &str) -> Result<(Uuid, OwnedFd), Refusal> {
    let failed = || ("the connection failed", Vec::new());
    loop {
        let mut ready = connection.readable().await.map_err(|_| failed())?;
        if let Ok(outcome) = ready.try_io(|c| receive_now(c.get_ref(), kind)) {
            return outcome.unwrap_or_else(|_| Err(failed()));
        }
    }
}

/// Reads one message, if there is one.
fn receive_now(connection: &Handed, kind: &str) -> io::Result<Result<(Uuid, OwnedFd), Refusal>> {
    let mut buffer = [0u8; MAX_MESSAGE];
    let Received { bytes, whole, mut fds } = closer::receive(connection, &mut buffer, RecvFlags::DONTWAIT)?;
    let sentence = match (parse(kind, &buffer[..bytes]), fds.len(), whole) {
        (Some(run), 1, true) => match fds.pop() {
            Some(fd) => return Ok(Ok((run, fd))),
            None => "no descriptor came with the message",
        },
        (None, _, _) => "the message must be `1 <kind> <run id>`, of the kind that this relay is",
        (_, 0, _) => "no descriptor came with the message",
        _ => "exactly one descriptor must come with the message",
    };
    Ok(Err((sentence, fds)))
}

fn parse(kind: &str, message: &[u8]) -> Option<Uuid> {
    let rest = std::str::from_utf8(message).ok()?.strip_prefix("1 ")?;
    parse_run(rest.strip_prefix(kind)?.strip_prefix(' ')?)
}

/// A run id: a UUID of version 7 in its canonical, lower-case text.
#[must_use]
pub fn parse_run(text: &str) -> Option<Uuid> {
    Uuid::try_parse(pi_gateway_helper::names::Run::parse(text).ok()?.as_str()).ok()
}

/// Checks the listener, and takes hold of the peer's process.
fn identify(connection: &AsyncFd<Handed>, pid: Pid, fd: &OwnedFd, place: Place) -> Result<OwnedFd, &'static str> {
    listener::check(fd.as_fd(), place)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| "your process has ended")?;
    // The number could have passed to another process before it was opened, but not while the process that
    // connected still holds its end; and the process must not have ended in between.
    if hung_up(connection.get_ref()) || ended(&pidfd) {
        return Err("your process has ended");
    }
    Ok(pidfd)
}

fn hung_up(connection: &Handed) -> bool {
    events(connection, PollFlags::RDHUP).intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_canonical_version_7_ids_in_the_exact_form_are_read() {
        let run = Uuid::now_v7();
        assert_eq!(parse("model", format!("1 model {run}").as_bytes()), Some(run));
        assert_eq!(parse("git", format!("1 git {run}").as_bytes()), Some(run));
        for bad in [
            format!("1 model {run}\n"),
            format!("1 model  {run}"),
            format!("2 model {run}"),
            format!("1 git {run}"),
            format!("1 model {}", run.simple()),
            format!("1 model {}", run.to_string().to_uppercase()),
            format!("1 model {{{run}}}"),
            "1 model 6ba7b810-9dad-41d1-80b4-00c04fd430c8".to_owned(),
            "1 model ".to_owned(),
            String::new(),
        ] {
            assert_eq!(parse("model", bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_exactly_what_would_be_written(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(run) = parse("model", &bytes) {
                prop_assert_eq!(format!("1 model {run}").into_bytes(), bytes);
            }
        }
    }
}
