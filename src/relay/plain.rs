//! A connection over a Unix socket that a sandbox made: bytes, and no descriptors.
//!
//! A Unix socket carries descriptors beside bytes. The kernel would close those that are not received in the thread that
//! reads, for as long as their last user had them linger, so all are received: they, and what is left in a queue, are
//! closed by [`closer`], and the connection ends. So is an urgent byte (`MSG_OOB`), which a read would skip, and free with
//! what came beside it: it is had in its place. A connection inherits from its listener, which the sandbox may keep a copy
//! of, whether the kernel adds messages of its own: it is told not to.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::libc;
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::watch_handed;
use crate::closer::{self, Handed};

/// What the kernel may add to what is received: credentials and a security label, for which there is no room beside
/// as many as a message may have, and a descriptor of the sender's process, which nobody would close.
const ADDITIONS: [libc::c_int; 3] = [libc::SO_PASSCRED, libc::SO_PASSSEC, libc::SO_PASSPIDFD];

/// Has the kernel add something, or not. What it does not know it does not add.
fn add(socket: &impl AsFd, addition: libc::c_int, wanted: bool) -> io::Result<()> {
    let (value, length) = (libc::c_int::from(wanted), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the descriptor is borrowed, and the value is an integer of that length, which outlives the call.
    let done = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, addition, (&raw const value).cast(), length)
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A connection.
#[derive(Debug)]
pub struct Raw(AsyncFd<Handed>);

impl Raw {
    /// Watches a connection that was accepted.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(fd: Handed) -> io::Result<Self> {
        for addition in ADDITIONS {
            add(&fd, addition, false)?;
        }
        sockopt::set_socket_oobinline(&fd, true)?;
        Ok(Raw(watch_handed(fd)?))
    }
}

impl AsyncRead for Raw {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            if let Ok(received) = ready.try_io(|socket| receive(socket.get_ref(), into.initialize_unfilled())) {
                return Poll::Ready(received.map(|length| into.advance(length)));
            }
        }
    }
}

/// Reads what is there.
fn receive(socket: &Handed, into: &mut [u8]) -> io::Result<usize> {
    let received = closer::receive(socket, into, RecvFlags::DONTWAIT)?;
    if received.fds.is_empty() {
        return Ok(received.bytes);
    }
    closer::close(received.fds, ());
    Err(io::Error::other("a descriptor came along"))
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            let send = |socket: &AsyncFd<Handed>| {
                Ok(rustix::net::send(socket.get_ref(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
            };
            if let Ok(sent) = ready.try_io(send) {
                return Poll::Ready(sent);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(self.0.get_ref().as_fd(), Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{IoSlice, Read, Write};
    use std::mem::MaybeUninit;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;
    use crate::closer::MAX_DESCRIPTORS;

    /// Sends a byte and a descriptor beside it, as often as a message may have it.
    fn send(to: &UnixStream, fd: &impl AsFd, flags: SendFlags) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [fd.as_fd(); MAX_DESCRIPTORS];
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        rustix::net::sendmsg(to, &[IoSlice::new(b"x")], &mut control, flags).unwrap();
    }

    #[tokio::test]
    async fn bytes_pass_and_a_descriptor_beside_them_ends_the_connection_and_is_closed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        for addition in ADDITIONS {
            // As a hostile listener would hand it down; without a reset there would be no room for the descriptors.
            add(&ours, addition, true).unwrap();
        }
        let mut connection = Raw::new(Handed::from(OwnedFd::from(ours))).unwrap();
        assert!(!sockopt::socket_passcred(&connection.0).unwrap());
        theirs.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        connection.read_exact(&mut buffer).await.unwrap();
        connection.write_all(b"world").await.unwrap();
        theirs.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"world");
        let (mut kept, sent) = UnixStream::pair().unwrap();
        send(&theirs, &sent, SendFlags::empty());
        drop(sent);
        connection.read_exact(&mut buffer).await.unwrap_err();
        kept.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(kept.read(&mut buffer).unwrap(), 0, "every copy of it is closed");
    }

    #[tokio::test]
    async fn a_descriptor_that_lingers_holds_up_no_reader() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Ones that are read, and ones that are left in the queue; urgent ones would be skipped by a reader.
        let ways = [SendFlags::empty(), SendFlags::OOB].map(|flags| [(flags, true), (flags, false)]);
        for (flags, reads) in ways.into_iter().flatten() {
            let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _peer = listener.accept().unwrap();
            sockopt::set_socket_linger(&slow, Some(Duration::from_secs(30))).unwrap();
            slow.set_nonblocking(true).unwrap();
            while slow.write(&[0; 65536]).is_ok() {}
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            send(&theirs, &slow, flags);
            drop(slow);
            let mut connection = Raw::new(Handed::from(OwnedFd::from(ours))).unwrap();
            let begun = Instant::now();
            if reads {
                timeout(Duration::from_secs(20), connection.read(&mut [0; 8])).await.unwrap().unwrap_err();
            }
            drop((connection, theirs));
            assert!(begun.elapsed() < Duration::from_secs(20), "it lingers: {flags:?}, {reads}");
        }
    }
}
