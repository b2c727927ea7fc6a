//! What the network, or this machine, had to say about datagrams that were sent: the error queue of a socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::UdpSocket;
use super::sys::{self, Control, RawAddress};

/// Something that happened to a datagram. It says nothing about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError {
    /// Where the datagram was to go; port 0 where the kernel does not know it any more.
    pub to: SocketAddr,
    /// The ICMP type, of the family of `to`. What this machine found too large for its own link is told as a router
    /// would have: 3 (code 4) or 2.
    pub kind: u8,
    /// The ICMP code.
    pub code: u8,
    /// The largest packet that would have passed, in bytes, where that was the trouble; else without meaning.
    pub mtu: u32,
}

impl UdpSocket {
    /// Takes the oldest error from the queue of a socket made with [`UdpSocket::relay`]. Those that are neither ICMP
    /// nor EMSGSIZE are passed over.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn next_error(&self) -> io::Result<NetworkError> {
        loop {
            let mut name = RawAddress::ZERO;
            let mut control = Control::ZERO;
            let mut header = sys::receive_error(self.as_fd(), &mut name, &mut control)?;
            // The call has left pointers to its own arguments in the header, and they are these.
            header.msg_control = (&raw mut control).cast();
            // SAFETY: the kernel has left well-formed control messages in the buffer that the header points to.
            let told = unsafe { extended_error(&header) };
            if let Some((error, to)) = told.zip(name.read())
                && let Some(error) = interpret(&error, to)
            {
                return Ok(error);
            }
        }
    }
}

fn interpret(error: &libc::sock_extended_err, to: SocketAddr) -> Option<NetworkError> {
    let mtu = error.ee_info;
    match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            Some(NetworkError { to, kind: error.ee_type, code: error.ee_code, mtu })
        }
        libc::SO_EE_ORIGIN_LOCAL if error.ee_errno == libc::EMSGSIZE as u32 => {
            let (kind, code) = if to.is_ipv4() { (3, 4) } else { (2, 0) };
            Some(NetworkError { to, kind, code, mtu })
        }
        _ => None,
    }
}

/// Finds the kernel's account of the error among the control messages.
///
/// # Safety
/// `header` must be as the kernel filled it, with its control buffer still there.
unsafe fn extended_error(header: &libc::msghdr) -> Option<libc::sock_extended_err> {
    // SAFETY: passed on to the caller; the data is read unaligned and only at the length its type has.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if matches!(
                ((*message).cmsg_level, (*message).cmsg_type),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            ) {
                return Some(libc::CMSG_DATA(message).cast::<libc::sock_extended_err>().read_unaligned());
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
        None
    }
}
