//! UDP sockets, set up for serving clients or for being a relayed transport address.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::merging::{Advice, Merging};
use super::sys;

/// A nonblocking UDP socket of one address family.
///
/// It tells the traffic class of what arrives and lets big datagrams be fragmented unless a datagram forbids it: a relay carries what it is given
/// (TURN-8656-11.3-05), and refusing with EMSGSIZE what the sender's own path let through would be a black hole.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
    /// Whether IPv4 datagrams now leave with DF; IPv6 is told with each one.
    sets_df: Cell<bool>,
    /// Whether [`UdpSocket::next_error`] has anything to tell.
    tells_errors: bool,
    /// Datagrams up to this long may leave in runs.
    segment_max: Cell<u16>,
    /// How many more batches that holds for, where a refusal has lowered it.
    refusal_batches: Cell<u16>,
    /// Whether datagrams may come in runs.
    merging: Cell<Merging>,
}

/// How long a refused run is remembered: paths change, and one client's narrow one is not everybody's.
const REFUSAL_BATCHES: u16 = 1024;

/// How long nothing may come in before datagrams come one by one again.
const QUIET_NANOS: u64 = 30_000;

/// Whether this kernel knows UDP_SEGMENT (Linux 4.18). One that does not would not refuse it in a control message, but
/// send a run as one datagram.
fn cuts_runs() -> bool {
    static CUTS_RUNS: OnceLock<bool> = OnceLock::new();
    *CUTS_RUNS.get_or_init(|| {
        Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
            .and_then(|socket| sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0))
            .is_ok()
    })
}

impl UdpSocket {
    /// The first socket for clients at this address; fails when anybody else has it, even somebody who would share.
    /// [`UdpSocket::join`] adds further ones, over which the kernel then spreads the clients (SO_REUSEPORT).
    ///
    /// On a wildcard address it tells where each datagram was sent to, so that the answer can leave from there
    /// (STUN-8489-6.3.1.2-01). `buffer_bytes` are asked for in each direction.
    ///
    /// # Errors
    /// Whatever the system says to `socket`, `setsockopt` or `bind`.
    pub fn listener(address: SocketAddr, buffer_bytes: usize) -> io::Result<Self> {
        let this = Self::unbound(address, buffer_bytes)?;
        this.forget_path_mtus()?;
        let this = this.bound(address)?;
        this.tell_destinations()?;
        // Only now: with the option set before, `bind` would quietly share the port with another server of the same
        // user, and a port of 0 could even be given the port of one.
        this.socket.set_reuse_port(true)?;
        Ok(this)
    }

    /// A further socket for clients at the address of a [`UdpSocket::listener`].
    ///
    /// # Errors
    /// As for the first.
    pub fn join(first: &Self, buffer_bytes: usize) -> io::Result<Self> {
        let this = Self::unbound(first.local, buffer_bytes)?;
        this.forget_path_mtus()?;
        this.socket.set_reuse_port(true)?;
        let this = this.bound(first.local)?;
        this.tell_destinations()?;
        Ok(this)
    }

    /// A relayed transport address. It shares its port with nobody. With `tells_errors` it collects for
    /// [`UdpSocket::next_error`] what happens to its datagrams.
    ///
    /// # Errors
    /// Whatever the system says; EADDRINUSE when somebody has the port.
    pub fn relay(address: SocketAddr, buffer_bytes: usize, tells_errors: bool) -> io::Result<Self> {
        let mut this = Self::unbound(address, buffer_bytes)?;
        if tells_errors {
            let (level, name) = match address {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
            };
            sys::set_option(this.as_fd(), level, name, 1)?;
            this.tells_errors = true;
        }
        this.switch_df(false)?;
        this.bound(address)
    }

    /// Sets DF, or not, in what is sent from now on. Costs a system call where that is a change, and nothing for IPv6,
    /// where each datagram says it for itself.
    pub(super) fn set_df(&self, dont_fragment: bool) -> io::Result<()> {
        if self.sets_df.get() == dont_fragment { Ok(()) } else { self.switch_df(dont_fragment) }
    }

    /// With DF this machine's memory of path MTUs does not count (PROBE): the client asked what the path can carry,
    /// and whoever on it has the narrow link is to say so. Without DF routers fragment, so that memory does not count
    /// either (OMIT); unlike DONT that still lets a late "fragmentation needed" for a datagram before reach us.
    fn switch_df(&self, dont_fragment: bool) -> io::Result<()> {
        if self.local.is_ipv4() {
            let mode = if dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_OMIT };
            sys::set_option(self.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)?;
            self.sets_df.set(dont_fragment);
        }
        Ok(())
    }

    fn unbound(address: SocketAddr, buffer_bytes: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        let fd = socket.as_fd();
        match address {
            SocketAddr::V4(_) => sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?,
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
                sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            }
        }
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, buffer_bytes)?;
        set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, buffer_bytes)?;
        Ok(Self {
            socket,
            local: address,
            sets_df: Cell::new(false),
            tells_errors: false,
            segment_max: Cell::new(if cuts_runs() { u16::MAX } else { 0 }),
            refusal_batches: Cell::new(0),
            merging: Cell::default(),
        })
    }

    fn bound(mut self, address: SocketAddr) -> io::Result<Self> {
        self.socket.bind(&address.into())?;
        if address.port() == 0 {
            self.local = self.socket.local_addr()?.as_socket().unwrap_or(address);
        }
        Ok(self)
    }

    /// Lets routers fragment what is sent to clients over IPv4.
    fn forget_path_mtus(&self) -> io::Result<()> {
        match self.local {
            SocketAddr::V4(_) => {
                sys::set_option(self.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
            }
            SocketAddr::V6(_) => Ok(()),
        }
    }

    fn tell_destinations(&self) -> io::Result<()> {
        match self.local {
            _ if !self.is_wildcard() => Ok(()),
            SocketAddr::V4(_) => sys::set_option(self.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
            SocketAddr::V6(_) => sys::set_option(self.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
        }
    }

    /// The longest datagram that may be one of a run in the next batch.
    pub(super) fn segment_max(&self) -> usize {
        match self.refusal_batches.get() {
            0 => {}
            1 => {
                self.refusal_batches.set(0);
                self.segment_max.set(u16::MAX);
            }
            more => self.refusal_batches.set(more - 1),
        }
        self.segment_max.get().into()
    }

    /// The kernel has not taken a run of datagrams of this length; `for_good` if it is not about the length.
    pub(super) fn run_refused(&self, segment: usize, for_good: bool) {
        if for_good {
            self.segment_max.set(0);
            self.refusal_batches.set(0);
        } else if self.segment_max.get() > 0 {
            self.segment_max.set((segment - 1) as u16);
            self.refusal_batches.set(REFUSAL_BATCHES);
        }
    }

    /// What is known of runs that come in here.
    pub(super) const fn merging(&self) -> &Cell<Merging> {
        &self.merging
    }

    /// Does what the past suggests; `is_empty` if nothing was left to read a moment ago.
    pub(super) fn follow(&self, mut merging: Merging, advice: Advice, is_empty: bool) {
        match advice {
            Advice::Begin if self.set_merging(true) => merging.switched(true),
            Advice::End if is_empty && self.end_merging() => merging.switched(false),
            _ => {}
        }
        self.merging.set(merging);
    }

    fn set_merging(&self, is_on: bool) -> bool {
        sys::set_option(self.as_fd(), libc::SOL_UDP, libc::UDP_GRO, is_on.into()).is_ok()
    }

    /// What waits in the queue in runs could not be told from long datagrams with the option off. So nothing may wait
    /// there, nor be on its way into it through another core, which takes a microsecond: the queue is watched for many
    /// times as long. Otherwise it stays on, until the next attempt.
    fn end_merging(&self) -> bool {
        if !self.set_merging(false) {
            return false;
        }
        let until = sys::clock_nanos(libc::CLOCK_MONOTONIC) + QUIET_NANOS;
        loop {
            if sys::is_readable(self.as_fd()) {
                assert!(self.set_merging(true), "it was on before");
                return false;
            }
            if sys::clock_nanos(libc::CLOCK_MONOTONIC) >= until {
                return true;
            }
        }
    }

    /// Whether a call may fail because of an error that came in for an earlier datagram.
    pub(super) const fn tells_errors(&self) -> bool {
        self.tells_errors
    }

    /// The address it is bound to, with the actual port.
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Whether it takes datagrams for every address of this machine, so that each answer must name its source.
    pub const fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// With CAP_NET_ADMIN beyond net.core.rmem_max and wmem_max, else as far as these go (the kernel clamps silently).
fn set_buffer(socket: BorrowedFd<'_>, force: i32, plain: i32, bytes: usize) -> io::Result<()> {
    // Asked once: whether a process may does not change, and each relay has two buffers.
    static MAY_FORCE: AtomicBool = AtomicBool::new(true);
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    if MAY_FORCE.load(Ordering::Relaxed) {
        if sys::set_option(socket, libc::SOL_SOCKET, force, bytes).is_ok() {
            return Ok(());
        }
        MAY_FORCE.store(false, Ordering::Relaxed);
    }
    sys::set_option(socket, libc::SOL_SOCKET, plain, bytes)
}
