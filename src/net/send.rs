//! Datagrams out, many at a time, each to its own destination.
//!
//! Datagrams in a row that differ in their payload only are given to the kernel as one, to be cut apart again on its way
//! out (UDP_SEGMENT): they pass the IP stack once. What leaves this machine is the same, and so is what fails, since a
//! run that the kernel does not take is sent again one by one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use super::sys::{self, Control, RawAddress};
use super::{BATCH, SocketErrorKind, SocketErrors, UdpSocket};
use crate::turn::IpFields;

/// The payload of a run: what one IPv4 datagram could carry.
const RUN_LEN_MAX: usize = 65_507;

/// What every kernel with UDP_SEGMENT cuts a message into at most (newer ones into twice as many).
const RUN_DATAGRAMS_MAX: usize = 64;

/// A datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'b> {
    /// Its destination.
    pub to: SocketAddr,
    /// The address of ours it leaves from, where the socket would not know: on a wildcard one. The port is ignored.
    pub source: Option<SocketAddr>,
    /// The payload.
    pub bytes: &'b [u8],
    /// IP header fields to set.
    pub ip: IpFields,
}

/// The tables of `sendmmsg`, kept to be used again.
#[derive(Debug)]
pub struct SendBatch {
    /// Owned; only ever reached through this pointer, because the kernel's headers point into it as well.
    tables: NonNull<Tables>,
}

struct Tables {
    headers: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    names: [RawAddress; BATCH],
    controls: [Control; BATCH],
}

// SAFETY: the tables are owned alone; pointers to payloads in them are not followed outside of `send`.
unsafe impl Send for SendBatch {}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// Empty tables.
    pub fn new() -> Self {
        let tables = Box::new(Tables {
            // SAFETY: `mmsghdr` consists of integers and pointers, for which zero is a value.
            headers: unsafe { std::mem::zeroed() },
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            names: [RawAddress::ZERO; BATCH],
            controls: [Control::ZERO; BATCH],
        });
        Self { tables: NonNull::new(Box::into_raw(tables)).expect("a box is not null") }
    }

    /// Sends all of them from one socket, in order and without waiting. What cannot be sent is counted and left out:
    /// a datagram is never worth holding up the next. Returns system calls made and datagrams accepted by the kernel.
    pub fn send<'b>(
        &mut self,
        socket: &UdpSocket,
        datagrams: impl IntoIterator<Item = Datagram<'b>>,
        errors: &mut SocketErrors,
    ) -> Sent {
        let mut datagrams = datagrams.into_iter().peekable();
        let mut sent = Sent::default();
        while let Some(first) = datagrams.peek() {
            // Those that may be fragmented and those that may not go in calls of their own, in order.
            let dont_fragment = first.ip.dont_fragment;
            let segment_max = socket.segment_max();
            let (mut count, mut messages) = (0, 0);
            let mut run: Option<Run> = None;
            while count < BATCH
                && let Some(datagram) = datagrams.next_if(|next| next.ip.dont_fragment == dont_fragment)
            {
                if run.as_mut().is_some_and(|run| run.takes(&datagram)) {
                    self.lengthen(messages - 1, count, &datagram);
                } else {
                    self.fill(messages, count, &datagram);
                    run = Run::beginning(&datagram, segment_max);
                    messages += 1;
                }
                count += 1;
            }
            match socket.set_df(dont_fragment) {
                Ok(()) => {
                    let headers = self.tables.as_ptr();
                    // SAFETY: `fill` has filled the first `messages` entries just now, so that what they point to is in
                    // the tables or still borrowed by the caller; nobody else uses the tables during the call.
                    unsafe { submit(socket, (&raw mut (*headers).headers).cast(), messages, errors, &mut sent) };
                }
                // TURN-8656-11.2-05: better not at all than otherwise than asked for.
                Err(error) => (0..count).for_each(|_| errors.count(&error)),
            }
        }
        sent
    }

    /// Begins a message with one datagram, whose payload the vector at `vector` leads to.
    fn fill(&mut self, index: usize, vector: usize, datagram: &Datagram<'_>) {
        assert!(index <= vector && vector < BATCH);
        let tables = self.tables.as_ptr();
        // SAFETY: both indexes are in range of every array, `tables` is owned by `self`, and only these tables are
        // written. The payload is only going to be read, though `iovec` has no way to say so.
        unsafe {
            (*tables).vectors[vector] = payload(datagram);
            let header = &raw mut (*tables).headers[index].msg_hdr;
            (*header).msg_name = (&raw mut (*tables).names[index]).cast();
            (*header).msg_namelen = (*tables).names[index].write(datagram.to);
            (*header).msg_iov = &raw mut (*tables).vectors[vector];
            (*header).msg_iovlen = 1;
            let control = &mut (*tables).controls[index];
            let len = write_control(control, datagram);
            // The kernel does not look at the pointer when the length is zero.
            (*header).msg_control = (&raw mut *control).cast();
            (*header).msg_controllen = len as _;
        }
    }

    /// Puts one more datagram into a message, whose last vector is the one before `vector`.
    fn lengthen(&mut self, index: usize, vector: usize, datagram: &Datagram<'_>) {
        assert!(index < vector && vector < BATCH);
        let tables = self.tables.as_ptr();
        // SAFETY: as in `fill`, which has filled this header before.
        unsafe {
            (*tables).vectors[vector] = payload(datagram);
            let header = &raw mut (*tables).headers[index].msg_hdr;
            if (*header).msg_iovlen == 1 {
                let segment = (*(*header).msg_iov).iov_len as u16;
                let mut len: usize = (*header).msg_controllen as _;
                append(&mut (*tables).controls[index], &mut len, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
                (*header).msg_controllen = len as _;
            }
            (*header).msg_iovlen += 1;
        }
    }
}

fn payload(datagram: &Datagram<'_>) -> libc::iovec {
    libc::iovec { iov_base: datagram.bytes.as_ptr().cast_mut().cast(), iov_len: datagram.bytes.len() }
}

/// Datagrams that leave as one message: all as long as the first, but for the last, which may be shorter.
struct Run {
    to: SocketAddr,
    source: Option<SocketAddr>,
    ip: IpFields,
    segment: usize,
    len: usize,
    count: usize,
    is_over: bool,
}

impl Run {
    /// A run needs a first datagram that is not empty and not too long to be one of many.
    fn beginning(first: &Datagram<'_>, segment_max: usize) -> Option<Self> {
        let &Datagram { to, source, bytes, ip } = first;
        let segment = bytes.len();
        (1..=segment_max).contains(&segment).then_some(Self {
            to,
            source,
            ip,
            segment,
            len: segment,
            count: 1,
            is_over: false,
        })
    }

    /// Whether the next datagram belongs to it. Then it does from now on.
    fn takes(&mut self, next: &Datagram<'_>) -> bool {
        let len = next.bytes.len();
        let takes = !self.is_over
            && (1..=self.segment).contains(&len)
            && self.len + len <= RUN_LEN_MAX
            && self.count < RUN_DATAGRAMS_MAX
            && (self.to, self.source, self.ip) == (next.to, next.source, next.ip);
        if takes {
            self.len += len;
            self.count += 1;
            self.is_over = len < self.segment;
        }
        takes
    }
}

/// Sends messages, and counts what becomes of the datagrams in them.
///
/// # Safety
/// The first `count` headers and all they point to must be as [`SendBatch::fill`] and [`SendBatch::lengthen`] leave them.
unsafe fn submit(
    socket: &UdpSocket,
    headers: *mut libc::mmsghdr,
    count: usize,
    errors: &mut SocketErrors,
    sent: &mut Sent,
) {
    // SAFETY: for an index below `count` as the caller promises. A message has one vector for each datagram.
    let datagrams = |index: usize| -> usize { unsafe { (*headers.add(index)).msg_hdr.msg_iovlen as _ } };
    let mut next = 0;
    let mut tried_again = None;
    while next < count {
        // SAFETY: passed on to the caller.
        let result = unsafe { sys::send_many(socket.as_fd(), headers.add(next), count - next) };
        sent.calls += 1;
        match result {
            Ok(accepted) => {
                sent.datagrams += (next..next + accepted).map(datagrams).sum::<usize>() as u64;
                // The call stops early before a message it could not send; the next call says why.
                next += accepted;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The send buffer is full: the rest would only hear the same.
                (0..(next..count).map(datagrams).sum()).for_each(|_| errors.count(&error));
                return;
            }
            Err(error) if datagrams(next) > 1 && is_refusal(&error) => {
                // SAFETY: passed on to the caller.
                unsafe { submit_apart(socket, *headers.add(next), errors, sent, &error) };
                next += 1;
            }
            // An error that came in for an earlier datagram is told by whatever call comes next, and then gone:
            // only a second one is about this datagram. (What is too large is told at once.)
            Err(error)
                if socket.tells_errors()
                    && tried_again != Some(next)
                    && SocketErrorKind::of(&error) != SocketErrorKind::TooLarge =>
            {
                tried_again = Some(next);
            }
            Err(error) => {
                if SocketErrorKind::of(&error) == SocketErrorKind::TooLarge {
                    // SAFETY: `next` is in range, and `fill` has let this pointer lead to an address it wrote.
                    sent.too_large = unsafe { (*(*headers.add(next)).msg_hdr.msg_name.cast::<RawAddress>()).read() };
                }
                (0..datagrams(next)).for_each(|_| errors.count(&error));
                next += 1;
            }
        }
    }
}

/// Whether the kernel may say this of a run and take its datagrams one by one: EINVAL and EMSGSIZE where they would
/// have to be fragmented, EIO where the way out cannot cut them apart.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO))
}

/// Sends the datagrams of a run that was refused one by one, and remembers not to try the like soon.
///
/// # Safety
/// As for [`submit`], for a message with more than one datagram.
unsafe fn submit_apart(
    socket: &UdpSocket,
    run: libc::mmsghdr,
    errors: &mut SocketErrors,
    sent: &mut Sent,
    refusal: &io::Error,
) {
    // SAFETY: the message has vectors for more than one datagram.
    let segment = unsafe { (*run.msg_hdr.msg_iov).iov_len };
    socket.run_refused(segment, refusal.raw_os_error() == Some(libc::EIO));
    for index in 0..run.msg_hdr.msg_iovlen as _ {
        let mut alone = run;
        // SAFETY: as many vectors as were counted are there. `lengthen` has put the length of a segment behind all
        // other control messages.
        unsafe {
            alone.msg_hdr.msg_iov = run.msg_hdr.msg_iov.add(index);
            alone.msg_hdr.msg_iovlen = 1;
            alone.msg_hdr.msg_controllen -= libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
            submit(socket, &raw mut alone, 1, errors, sent);
        }
    }
}

/// What [`SendBatch::send`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// System calls.
    pub calls: u64,
    /// Datagrams the kernel took.
    pub datagrams: u64,
    /// Where the last one should have gone that was too large.
    pub too_large: Option<SocketAddr>,
}

impl Drop for SendBatch {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new`, and nothing refers to it any more.
        drop(unsafe { Box::from_raw(self.tables.as_ptr()) });
    }
}

/// Writes the control messages the datagram needs, returns their length; most need none.
fn write_control(control: &mut Control, datagram: &Datagram<'_>) -> usize {
    let mut len = 0;
    if let Some(source) = datagram.source {
        match source {
            SocketAddr::V4(source) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: sys::in_addr(*source.ip()),
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                append(control, &mut len, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            SocketAddr::V6(source) => {
                let info =
                    libc::in6_pktinfo { ipi6_addr: sys::in6_addr(*source.ip()), ipi6_ifindex: source.scope_id() as _ };
                append(control, &mut len, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }
    if datagram.ip.traffic_class != 0 {
        let class = libc::c_int::from(datagram.ip.traffic_class);
        let (level, name) = match datagram.to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        append(control, &mut len, level, name, class);
    }
    if datagram.ip.dont_fragment && datagram.to.is_ipv6() {
        append(control, &mut len, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1 as libc::c_int);
    }
    len
}

/// Appends one control message.
fn append<T: Copy>(control: &mut Control, len: &mut usize, level: libc::c_int, kind: libc::c_int, value: T) {
    // SAFETY: arithmetic only.
    let (space, claimed) =
        unsafe { (libc::CMSG_SPACE(size_of::<T>() as u32) as usize, libc::CMSG_LEN(size_of::<T>() as u32) as usize) };
    assert!(*len + space <= Control::LEN, "control messages fit by construction");
    // SAFETY: `space` bytes from `len` on lie inside the buffer, which is aligned for `cmsghdr` there because the
    // buffer is and every space is a multiple of that alignment; the data is written unaligned.
    unsafe {
        let message = control.0.as_mut_ptr().add(*len).cast::<libc::cmsghdr>();
        (*message).cmsg_len = claimed as _;
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
    }
    *len += space;
}
