//! Takes what comes from a sandbox, and closes it where that cannot hold anybody up.
//!
//! Closing the last copy of a TCP socket with SO_LINGER blocks for as long as its owner likes, and so does closing a Unix
//! socket whose queue holds such a one: whoever can connect can leave it there. The kernel does not wait in a thread that
//! ends, so what is to be closed is closed there: a thread takes a copy of the table of descriptors (`unshare`), the
//! originals are closed, which are not the last ones then, and the thread ends.

use std::io::{self, IoSliceMut};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

use nix::sched::{CloneFlags, unshare};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

/// The stack of a thread that does nothing, in bytes.
const STACK: usize = 64 << 10;
/// Most descriptors that the kernel lets one message have.
pub const MAX_DESCRIPTORS: usize = 253;

/// Descriptors to close, and what is given back behind that.
type Load = (Vec<OwnedFd>, Box<dyn Send>);

/// Closes descriptors, then drops `after`. Returns at once.
pub fn close<A: Send + 'static>(fds: Vec<OwnedFd>, after: A) {
    static QUEUE: OnceLock<Sender<Load>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (queue, loads) = channel();
        // Without a thread the receiver is gone, and what is sent is dropped here: later, if need be, than never.
        let _ = Builder::new().name("close".to_owned()).stack_size(STACK).spawn(move || work(&loads));
        queue
    });
    let _ = queue.send((fds, Box::new(after)));
}

/// What was received.
pub struct Received {
    /// How many bytes.
    pub bytes: usize,
    /// Whether there was room for all of it.
    pub whole: bool,
    /// What came beside them.
    pub fds: Vec<OwnedFd>,
}

/// Receives bytes with every descriptor that comes beside them, for whom it concerns or to be closed here. There is room
/// for as many as a message may have: what there is none for the kernel would close itself, in this thread.
///
/// # Errors
/// When nothing comes, or the peer is gone.
pub fn receive(socket: impl AsFd, into: &mut [u8], flags: RecvFlags) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    let whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { bytes: received.bytes, whole, fds })
}

fn work(loads: &Receiver<Load>) {
    while let Ok(first) = loads.recv() {
        let all = std::iter::once(first).chain(loads.try_iter());
        let (fds, after): (Vec<_>, Vec<_>) = all.unzip();
        release(fds.into_iter().flatten().collect());
        drop(after);
    }
}

fn release(fds: Vec<OwnedFd>) {
    let (copying, copied) = channel();
    let (closing, closed) = channel::<()>();
    let last = Builder::new().name("last".to_owned()).stack_size(STACK).spawn(move || {
        let _ = copying.send(unshare(CloneFlags::CLONE_FILES).is_ok());
        let _ = closed.recv();
    });
    let own = last.is_ok() && copied.recv() == Ok(true);
    if own {
        drop(fds);
    } else {
        // Blocks nobody but itself, if at all.
        let _ = Builder::new().name("slow".to_owned()).stack_size(STACK).spawn(move || drop(fds));
    }
    drop(closing);
    if let Ok(last) = last {
        let _ = last.join();
    }
}

/// A socket to a sandbox: it is closed as this module does it.
#[derive(Debug)]
pub struct Handed(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Handed {
    fn from(fd: OwnedFd) -> Self {
        Handed(ManuallyDrop::new(fd))
    }
}

impl Handed {
    /// The socket, for whoever knows that it does not linger.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it is taken here only: what it is taken from is neither used nor dropped again.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl AsFd for Handed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Handed {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        // SAFETY: it is taken here only, and nothing uses it after its drop.
        close(vec![unsafe { ManuallyDrop::take(&mut self.0) }], ());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};

    use super::*;

    /// A socket that takes a minute to close, and its peer, that reads nothing.
    fn slow() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        sockopt::set_socket_linger(&slow, Some(Duration::from_secs(60))).unwrap();
        slow.set_nonblocking(true).unwrap();
        while slow.write(&[0; 65536]).is_ok() {}
        (slow.into(), peer)
    }

    fn closed_within(fds: Vec<OwnedFd>, limit: Duration) -> bool {
        let (after, closed) = channel::<()>();
        close(fds, after);
        let begun = Instant::now();
        let _ = closed.recv_timeout(limit);
        begun.elapsed() < limit
    }

    #[test]
    fn what_lingers_is_closed_at_once_also_in_a_queue() {
        // The control: by itself it blocks.
        let (fd, peer) = slow();
        let closing = std::thread::spawn(move || drop(fd));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!closing.is_finished(), "nothing lingers here: the attack is none");
        drop(peer);
        closing.join().unwrap();

        let (fd, _peer) = slow();
        assert!(closed_within(vec![fd], Duration::from_secs(20)));

        let (fd, _second) = slow();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [fd.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        rustix::net::sendmsg(&theirs, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        drop((fd, theirs));
        assert!(closed_within(vec![ours.into()], Duration::from_secs(20)));
        let (left, mut right) = UnixStream::pair().unwrap();
        drop(Handed::from(OwnedFd::from(left)));
        assert_eq!(std::io::Read::read(&mut right, &mut [0]).unwrap(), 0, "it is closed all the same");
    }
}
