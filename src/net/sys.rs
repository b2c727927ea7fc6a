//! Thin covers over the C library: memory, clocks, options, addresses and the two batch calls.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use libc::{c_int, c_void};

/// Anonymous zeroed memory. Pages that were never touched do not exist.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Mapping` owns its pages alone, as a `Box<[u8]>` does its bytes.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        assert!(len > 0, "an empty mapping");
        // SAFETY: a new anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A huge page would make the first datagram commit two megabytes. A kernel without them says EINVAL: fine.
        // SAFETY: advice about exactly the pages mapped above; it changes no contents.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let start = NonNull::new(start.cast()).expect("mmap does not return null");
        Ok(Self { start, len })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` readable bytes that live and stay put as long as `self`; writers need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the pages mapped in `new`; all references to them borrow `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A clock in nanoseconds.
pub(super) fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec through a valid pointer.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "a clock every Linux has");
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps until this moment of CLOCK_MONOTONIC. A signal may end it early.
pub(super) fn sleep_until(nanos: u64) {
    let until = libc::timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ };
    // SAFETY: reads one timespec through a valid pointer; with an absolute time nothing is written.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const until, ptr::null_mut()) };
}

/// Sets the timer slack of this thread to a microsecond.
pub(super) fn fine_timers() {
    // SAFETY: a plain number; where it is refused, sleeps are as they were.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000 as libc::c_ulong) };
}

/// Sets an option whose value is an int.
pub(super) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int through a valid pointer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `recvmmsg` that does not wait.
///
/// # Safety
/// Every pointer in the first `count` headers must be valid for writes of the length beside it.
pub(super) unsafe fn receive_many(
    socket: BorrowedFd<'_>,
    headers: *mut libc::mmsghdr,
    count: usize,
) -> io::Result<usize> {
    // SAFETY: passed on to the caller.
    retry_interrupted(|| unsafe {
        libc::recvmmsg(socket.as_raw_fd(), headers, count as libc::c_uint, libc::MSG_DONTWAIT as _, ptr::null_mut())
    })
}

/// Reads one entry of the error queue, without waiting and without the datagram it is about. The returned header's
/// lengths say what the kernel has filled in; its pointers are to be set again before they are followed.
pub(super) fn receive_error(
    socket: BorrowedFd<'_>,
    name: &mut RawAddress,
    control: &mut Control,
) -> io::Result<libc::msghdr> {
    // SAFETY: `msghdr` consists of integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut *name).cast();
    header.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
    header.msg_control = (&raw mut *control).cast();
    header.msg_controllen = Control::LEN as _;
    // SAFETY: every pointer in the header is valid for writes of the length beside it; there is no room for a payload.
    retry_interrupted(|| unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) as c_int
    })?;
    Ok(header)
}

/// `sendmmsg` that does not wait.
///
/// # Safety
/// Every pointer in the first `count` headers must be valid for reads of the length beside it.
pub(super) unsafe fn send_many(socket: BorrowedFd<'_>, headers: *mut libc::mmsghdr, count: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if count == 1 {
        // The same for less.
        // SAFETY: passed on to the caller.
        return retry_interrupted(|| unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const (*headers).msg_hdr, flags) as c_int
        })
        .map(|_| 1);
    }
    // SAFETY: passed on to the caller.
    retry_interrupted(|| unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count as libc::c_uint, flags as _) })
}

/// Whether something can be read, or an error waits.
pub(super) fn is_readable(socket: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry, written back in place.
    unsafe { libc::poll(&raw mut entry, 1, 0) != 0 }
}

fn retry_interrupted(mut call: impl FnMut() -> c_int) -> io::Result<usize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// An IPv4 or IPv6 address and port as the kernel writes them.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    pub(super) const ZERO: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Writes the address, returns its length.
    pub(super) fn write(&mut self, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: in_addr(*address.ip()),
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: in6_addr(*address.ip()),
                    sin6_scope_id: address.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    /// Reads what the kernel has written. The flow label is left out: it is no part of who somebody is.
    pub(super) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: all variants begin with the family, and every bit pattern is a valid value of every variant.
        unsafe {
            match c_int::from(self.family) {
                libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(
                    from_in_addr(self.v4.sin_addr),
                    u16::from_be(self.v4.sin_port),
                ))),
                libc::AF_INET6 => Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(self.v6.sin6_addr.s6_addr),
                    u16::from_be(self.v6.sin6_port),
                    0,
                    self.v6.sin6_scope_id,
                ))),
                _ => None,
            }
        }
    }
}

pub(super) const fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

pub(super) const fn from_in_addr(raw: libc::in_addr) -> Ipv4Addr {
    let [a, b, c, d] = raw.s_addr.to_ne_bytes();
    Ipv4Addr::new(a, b, c, d)
}

pub(super) const fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: ip.octets() }
}

/// Room for the control messages of one datagram, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; Self::LEN]);

impl Control {
    /// Packet information (IPv6: 40 bytes), traffic class (24), dropped datagrams or DF (24), and the length of
    /// segments (24).
    pub(super) const LEN: usize = 128;
    pub(super) const ZERO: Self = Self([0; Self::LEN]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_format() {
        for text in ["192.0.2.1:3478", "[2001:db8::1]:5349", "[fe80::1%7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut raw = RawAddress::ZERO;
            let len = raw.write(address);
            assert_eq!(raw.read(), Some(address));
            assert_eq!(len as usize, if address.is_ipv4() { 16 } else { 28 });
        }
        assert_eq!(RawAddress::ZERO.read(), None);
    }

    #[test]
    fn mappings_are_zero_and_writable() {
        let mut mapping = Mapping::new(1 << 20).unwrap();
        assert!(mapping.as_slice().iter().all(|&byte| byte == 0));
        mapping.as_mut_slice()[123_456] = 7;
        assert_eq!(mapping.as_slice()[123_456], 7);
    }
}
