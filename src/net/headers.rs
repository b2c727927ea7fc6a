//! For tests: what the IP header of a datagram was, as a plain socket is told, and how one sends in runs.

use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};

use super::sys::{self, Control};

/// Fields of an IPv4 or IPv6 header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpHeader {
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// TTL or hop limit.
    pub(crate) hops: u8,
}

/// Makes the kernel tell them.
pub(crate) fn tell_headers(socket: &UdpSocket) {
    let options = match socket.local_addr().unwrap().is_ipv4() {
        true => [(libc::IPPROTO_IP, libc::IP_RECVTOS), (libc::IPPROTO_IP, libc::IP_RECVTTL)],
        false => [(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS), (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)],
    };
    for (level, name) in options {
        sys::set_option(socket.as_fd(), level, name, 1).unwrap();
    }
}

/// Waits for the next datagram.
pub(crate) fn receive_with_header(socket: &UdpSocket) -> (Vec<u8>, IpHeader) {
    let mut bytes = vec![0; 65_536];
    let mut control = Control::ZERO;
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: `msghdr` consists of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = Control::LEN as _;
    // SAFETY: every pointer in the header is valid for writes of the length beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    assert!(len >= 0, "{}", std::io::Error::last_os_error());
    bytes.truncate(len as usize);
    let mut header = IpHeader::default();
    // SAFETY: the kernel has left well-formed control messages in the buffer; each is read at the length its type has.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(&raw const message);
        while !part.is_null() {
            let data = libc::CMSG_DATA(part);
            match ((*part).cmsg_level, (*part).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TOS) => header.traffic_class = *data,
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    header.hops = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    header.traffic_class = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                _ => {}
            }
            part = libc::CMSG_NXTHDR(&raw const message, part);
        }
    }
    (bytes, header)
}

/// Makes one long `send` leave as datagrams of this length, in a run.
pub(crate) fn send_in_runs(socket: &UdpSocket, len: usize) {
    sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, len as libc::c_int).unwrap();
}
