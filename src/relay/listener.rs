//! A listener made inside a user's sandbox: whether it is one, and accepting on it.
//!
//! The sandbox may keep a copy of the socket, and with it its options and status flags: it can take away O_NONBLOCK
//! between our poll and our accept, or set SO_LINGER for every connection to inherit. So accepting happens on a
//! thread of its own, where blocking holds up nobody else, and what is inherited is reset on each connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};
use tokio::sync::mpsc;

use crate::closer;

/// Whether `fd` listens on 127.0.0.1:`port` with TCP over IPv4.
///
/// # Errors
/// A sentence for the peer.
pub fn check(fd: BorrowedFd<'_>, port: u16) -> Result<(), &'static str> {
    let is = |answer: Result<bool, Errno>| answer.unwrap_or(false);
    if !is(sockopt::socket_domain(fd).map(|d| d == AddressFamily::INET)) {
        return Err("the descriptor is not an IPv4 socket");
    }
    if !is(sockopt::socket_type(fd).map(|t| t == SocketType::STREAM))
        || !is(sockopt::socket_protocol(fd).map(|p| p == Some(ipproto::TCP)))
    {
        return Err("the descriptor is not a TCP socket");
    }
    if !is(sockopt::socket_acceptconn(fd)) {
        return Err("the socket does not listen");
    }
    let address = rustix::net::getsockname(fd).ok().and_then(|a| SocketAddrV4::try_from(a).ok());
    if address != Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        return Err("the socket does not listen on 127.0.0.1 and the right port");
    }
    Ok(())
}

/// The accepting thread of one listener.
#[derive(Debug)]
pub struct Acceptor {
    listener: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Starts the thread. It ends when the receiver of `out` is gone or the socket listens no more; `out` is closed
    /// then. `stall` is how long a client may leave an answer unread.
    ///
    /// # Errors
    /// No descriptor or thread is to be had.
    pub fn start(listener: Arc<OwnedFd>, stall: Duration, out: mpsc::Sender<TcpStream>) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (socket, signal) = (Arc::clone(&listener), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("accept".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || accept(&socket, &signal, stall, &out))?;
        Ok(Self { listener, stop, thread })
    }

    /// Stops accepting and leaves the socket as it is, for the service's next start.
    pub fn pause(&self) {
        // The counter cannot overflow, and a full one wakes the thread as well.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Stops accepting for good, and waits until the thread has ended.
    pub async fn close(self) {
        self.pause();
        // A thread blocked in accept is woken by the shutdown; a sandbox that listens again at once only makes us
        // do it again. Until then the user's place stays taken, so it cannot collect threads.
        let mut wait = Duration::from_millis(1);
        while !self.thread.is_finished() {
            let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        // The accepting thread's copy is gone, so this is the last one.
        if let Some(listener) = Arc::into_inner(self.listener) {
            closer::close(vec![listener], ());
        }
    }
}

fn accept(listener: &OwnedFd, stop: &OwnedFd, stall: Duration, out: &mpsc::Sender<TcpStream>) {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if poll(&mut fds, None).is_err_and(|e| e != Errno::INTR) || !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            return;
        }
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => {
                if prepare(&fd, stall).is_ok() && out.blocking_send(TcpStream::from(fd)).is_err() {
                    return;
                }
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // Wait for descriptors to come free, or for the stop.
                let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&pause));
            }
            Err(_) => return,
        }
    }
}

/// Resets what a connection inherits from the sandbox's socket and could hurt us with.
fn prepare(fd: &OwnedFd, stall: Duration) -> Result<(), Errno> {
    // With SO_LINGER a close would block for as long as the sandbox chose.
    sockopt::set_socket_linger(fd, None)?;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_tcp_user_timeout(fd, u32::try_from(stall.as_millis()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_a_tcp_listener_on_the_right_loopback_address_passes() {
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = good.local_addr().unwrap().port();
        assert_eq!(check(good.as_fd(), port), Ok(()));
        assert!(check(good.as_fd(), port ^ 1).is_err());

        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(check(any.as_fd(), any.local_addr().unwrap().port()).is_err());
        let other = TcpListener::bind("127.0.0.2:0").unwrap();
        assert!(check(other.as_fd(), other.local_addr().unwrap().port()).is_err());
        let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        assert!(check(udp.as_fd(), port).is_err());
        let connected = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let own = connected.local_addr().unwrap().port();
        assert!(check(connected.as_fd(), own).is_err());
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(check(unix.as_fd(), port).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(check(file.as_fd(), port).is_err());
        if let Ok(six) = TcpListener::bind("[::1]:0") {
            assert!(check(six.as_fd(), six.local_addr().unwrap().port()).is_err());
        }
    }

    #[tokio::test]
    async fn a_blocking_listener_whose_connection_is_stolen_can_still_be_closed() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ours.local_addr().unwrap();
        let theirs = ours.try_clone().unwrap();
        theirs.set_nonblocking(false).unwrap();
        let (out, mut connections) = mpsc::channel(1);
        let acceptor = Acceptor::start(Arc::new(ours.into()), Duration::from_secs(9), out).unwrap();
        // Both sides race for each connection; whoever loses blocks in accept.
        let thief = std::thread::spawn(move || while theirs.accept().is_ok() {});
        for _ in 0..50 {
            let _ = TcpStream::connect(address);
            let _ = connections.try_recv();
        }
        tokio::time::timeout(Duration::from_secs(10), acceptor.close()).await.unwrap();
        thief.join().unwrap();
    }

    #[tokio::test]
    async fn inherited_linger_is_reset_so_that_close_returns_at_once() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_linger(&socket, Some(Duration::from_secs(600))).unwrap();
        let address = socket.local_addr().unwrap();
        let (out, mut connections) = mpsc::channel(1);
        let acceptor = Acceptor::start(Arc::new(socket.into()), Duration::from_secs(7), out).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let mut server = connections.recv().await.unwrap();
        assert_eq!(sockopt::socket_linger(&server).unwrap(), None);
        // Fill the buffers, so that a lingering close would wait for the client.
        while io::Write::write(&mut server, &[0; 65536]).is_ok() {}
        let started = Instant::now();
        drop(server);
        assert!(started.elapsed() < Duration::from_secs(5));
        drop(client);
        acceptor.close().await;
    }

    #[tokio::test]
    async fn pausing_leaves_the_socket_usable() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = socket.try_clone().unwrap();
        let (out, mut connections) = mpsc::channel(1);
        let acceptor = Acceptor::start(Arc::new(socket.into()), Duration::from_secs(9), out).unwrap();
        acceptor.pause();
        assert!(connections.recv().await.is_none());
        let _client = TcpStream::connect(copy.local_addr().unwrap()).unwrap();
        assert!(copy.accept().is_ok());
    }
}
