//! Packets over a SEQPACKET socket, with at most one descriptor each. The caller decides how to wait.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

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
    // As many as a message may have: what the kernel has no room for it would close itself, in this thread.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = ancillary {
            descriptors.extend(came);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        closer::close(descriptors, ());
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is too long"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((buffer[..received.bytes].to_vec(), descriptors.pop())))
}
