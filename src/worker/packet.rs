//! Packets over a SEQPACKET socket, with at most one descriptor each. The caller decides how to wait.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::message::MAX_PACKET;
use crate::closer;

/// Sends a packet whole or not at all.
///
/// # Errors
/// When the peer is gone, or (on a socket that does not block) takes nothing now.
pub fn send(socket: impl AsFd, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a packet with what came along; None when the peer has closed.
///
/// # Errors
/// When nothing comes in the socket's time, the packet is too long, or more than one descriptor came.
pub fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    // One for each thread: to clear so much for every small packet costs more than to receive it.
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; MAX_PACKET]);
    }
    BUFFER.with_borrow_mut(|buffer| receive_into(socket, buffer))
}

fn receive_into(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut received = closer::receive(socket, buffer, RecvFlags::empty())?;
    if !received.whole || received.fds.len() > 1 {
        closer::close(received.fds, ());
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is too long"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((buffer[..received.bytes].to_vec(), received.fds.pop())))
}
