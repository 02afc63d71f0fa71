//! A listener made inside a user's sandbox: whether it is one, and accepting on it.
//!
//! The sandbox may keep a copy of the socket, and with it its options and status flags: it can take away O_NONBLOCK
//! between our poll and our accept, or set SO_LINGER for every connection to inherit. So accepting happens on a
//! thread of its own, where blocking holds up nobody else, and what is inherited is reset on each connection. What a
//! Unix socket can carry beside bytes is for [`super::plain`] to take.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_io_timeout::TimeoutStream;
use tokio_util::either::Either;

use super::plain::Raw;
use crate::closer::{self, Handed};

/// Where the listeners of one kind of relay are inside the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A TCP port of 127.0.0.1.
    Port(u16),
    /// An abstract name of a Unix socket, which is one of the network namespace as well.
    Name(&'static str),
}

/// What is wrong: the family, the type, the place.
const TCP: [&str; 3] = [
    "the descriptor is not an IPv4 socket",
    "the descriptor is not a TCP socket",
    "the socket does not listen on 127.0.0.1 and the right port",
];
const UNIX: [&str; 3] = [
    "the descriptor is not a Unix socket",
    "the descriptor is not a stream socket",
    "the socket does not listen with the right name",
];

/// A connection from a sandbox.
pub type Stream = Either<TcpStream, Pin<Box<TimeoutStream<Raw>>>>;

/// Whether `fd` listens at this place.
///
/// # Errors
/// A sentence for the peer.
pub fn check(fd: BorrowedFd<'_>, place: Place) -> Result<(), &'static str> {
    let is = |answer: Result<bool, Errno>| answer.unwrap_or(false);
    let (domain, protocol, [family, kind, at]) = match place {
        Place::Port(_) => (AddressFamily::INET, Some(ipproto::TCP), TCP),
        Place::Name(_) => (AddressFamily::UNIX, None, UNIX),
    };
    if !is(sockopt::socket_domain(fd).map(|found| found == domain)) {
        return Err(family);
    }
    if !is(sockopt::socket_type(fd).map(|found| found == SocketType::STREAM))
        || !is(sockopt::socket_protocol(fd).map(|found| found == protocol))
    {
        return Err(kind);
    }
    if !is(sockopt::socket_acceptconn(fd)) {
        return Err("the socket does not listen");
    }
    let address = rustix::net::getsockname(fd).ok();
    let there = address.is_some_and(|address| match place {
        Place::Port(port) => SocketAddrV4::try_from(address) == Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
        Place::Name(name) => {
            SocketAddrUnix::try_from(address).is_ok_and(|a| a.abstract_name() == Some(name.as_bytes()))
        }
    });
    if there { Ok(()) } else { Err(at) }
}

/// An accepted connection. `stall` is how long a client may leave an answer unread: of TCP the kernel counts it.
///
/// # Errors
/// The connection cannot be watched.
pub fn stream(fd: Handed, stall: Duration) -> io::Result<Stream> {
    if sockopt::socket_domain(&fd)? == AddressFamily::INET {
        return TcpStream::from_std(fd.into_fd().into()).map(Either::Left);
    }
    let mut stream = TimeoutStream::new(Raw::new(fd)?);
    stream.set_write_timeout(Some(stall));
    Ok(Either::Right(Box::pin(stream)))
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
    pub fn start(listener: Arc<OwnedFd>, stall: Duration, out: mpsc::Sender<Handed>) -> io::Result<Self> {
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

fn accept(listener: &OwnedFd, stop: &OwnedFd, stall: Duration, out: &mpsc::Sender<Handed>) {
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
                // Whatever is left in the queue of a Unix socket may be slow to close.
                let fd = Handed::from(fd);
                if prepare(&fd, stall).is_ok() && out.blocking_send(fd).is_err() {
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
fn prepare(fd: &Handed, stall: Duration) -> Result<(), Errno> {
    if sockopt::socket_domain(fd)? == AddressFamily::UNIX {
        return Ok(());
    }
    // With SO_LINGER a close would block for as long as the sandbox chose.
    sockopt::set_socket_linger(fd, None)?;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_tcp_user_timeout(fd, u32::try_from(stall.as_millis()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_a_tcp_listener_on_the_right_loopback_address_passes() {
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = good.local_addr().unwrap().port();
        assert_eq!(check(good.as_fd(), Place::Port(port)), Ok(()));
        assert!(check(good.as_fd(), Place::Port(port ^ 1)).is_err());

        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(check(any.as_fd(), Place::Port(any.local_addr().unwrap().port())).is_err());
        let other = TcpListener::bind("127.0.0.2:0").unwrap();
        assert!(check(other.as_fd(), Place::Port(other.local_addr().unwrap().port())).is_err());
        let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        assert!(check(udp.as_fd(), Place::Port(port)).is_err());
        let connected = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let own = connected.local_addr().unwrap().port();
        assert!(check(connected.as_fd(), Place::Port(own)).is_err());
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(check(unix.as_fd(), Place::Port(port)).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(check(file.as_fd(), Place::Port(port)).is_err());
        if let Ok(six) = TcpListener::bind("[::1]:0") {
            assert!(check(six.as_fd(), Place::Port(six.local_addr().unwrap().port())).is_err());
        }
    }

    #[test]
    fn only_a_unix_stream_listener_of_the_right_abstract_name_passes() {
        let name: &'static str = format!("listener-{}", std::process::id()).leak();
        let of = |name: &str| SocketAddr::from_abstract_name(name).unwrap();
        let good = UnixListener::bind_addr(&of(name)).unwrap();
        assert_eq!(check(good.as_fd(), Place::Name(name)), Ok(()));
        assert!(check(good.as_fd(), Place::Name("another")).is_err());
        assert!(check(good.as_fd(), Place::Port(80)).is_err());
        let longer = UnixListener::bind_addr(&of(&format!("{name}-x"))).unwrap();
        assert!(check(longer.as_fd(), Place::Name(name)).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = UnixListener::bind(dir.path().join(name)).unwrap();
        assert!(check(path.as_fd(), Place::Name(name)).is_err());
        let connected = UnixStream::connect_addr(&of(name)).unwrap();
        assert!(check(connected.as_fd(), Place::Name(name)).is_err());
        drop((good, connected));
        let datagrams = UnixDatagram::bind_addr(&of(name)).unwrap();
        assert!(check(datagrams.as_fd(), Place::Name(name)).is_err());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(check(tcp.as_fd(), Place::Name(name)).is_err());
    }

    #[tokio::test]
    async fn a_client_behind_a_unix_listener_that_reads_nothing_is_given_up() {
        use tokio::io::AsyncWriteExt;
        let name = format!("stall-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let (out, mut connections) = mpsc::channel(1);
        let acceptor = Acceptor::start(Arc::new(listener.into()), Duration::from_secs(9), out).unwrap();
        let _client = UnixStream::connect_addr(&address).unwrap();
        let mut server = stream(connections.recv().await.unwrap(), Duration::from_millis(50)).unwrap();
        let writing = async { while server.write_all(&[0; 65536]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), writing).await.unwrap();
        acceptor.close().await;
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
        let mut server = TcpStream::from(connections.recv().await.unwrap().into_fd());
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
