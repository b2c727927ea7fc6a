//! Datagrams in, many at a time, each with room in front and behind.
//!
//! Where they come in runs the kernel hands over each run as one (UDP_GRO). It is read into slots of its own and taken
//! apart from there, because each datagram needs its room in front; copying costs little beside what is saved.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use super::merging::Advice;
use super::sys::{self, Control, Mapping, RawAddress};
use super::{BATCH, UdpSocket};
use crate::stun::stream::FRAME_LEN_MAX;
use crate::turn::{IpFields, Packet};

/// Where in its slot a message begins: the head room, rounded up to a cache line.
const MESSAGE_START: usize = Packet::HEADROOM.next_multiple_of(64);

/// Also longer than any UDP payload (65,507 bytes over IPv4, 65,527 over IPv6), so that nothing is ever cut off.
const MESSAGE_LEN_MAX: usize = FRAME_LEN_MAX;

/// From one slot to the next. Not a multiple of the page size: otherwise the headers of all slots would compete for
/// the same few lines of the first-level cache.
const STRIDE: usize = (MESSAGE_START + MESSAGE_LEN_MAX + Packet::TAILROOM).next_multiple_of(64);

/// Slots for messages, and behind them as many to read runs into.
const SLOTS: usize = 2 * BATCH;

/// What is known of a received datagram besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address of ours it was sent to; on a wildcard socket that of the datagram, not of the socket.
    pub to: SocketAddr,
    /// Its length in bytes.
    pub len: usize,
    /// Its IP header fields.
    pub ip: IpFields,
}

/// [`BATCH`] slots for messages. Datagrams are read into it by [`ReceiveBatch::receive`]; messages from elsewhere
/// (streams, other threads) are copied in by [`ReceiveBatch::insert`], so that all are treated alike from here on.
///
/// Slots fill up from the first to the last and are all emptied together by [`ReceiveBatch::clear`]; until then bytes
/// stay where they are, ready to be sent.
#[derive(Debug)]
pub struct ReceiveBatch {
    memory: Mapping,
    /// Owned; only ever reached through this pointer, because the kernel's headers point into it as well.
    tables: NonNull<Tables>,
    received: Box<[Received; SLOTS]>,
    used: usize,
    /// Slots of runs that were not taken apart yet.
    runs: Range<usize>,
    /// Bytes already taken from the first of them.
    taken: usize,
    /// Length of the datagrams in each run.
    segments: Box<[usize; BATCH]>,
    is_drained: bool,
    /// Whether sockets may ask for runs.
    may_merge: bool,
    queue_drops: Option<u32>,
}

/// What `recvmmsg` reads and writes, wired up once.
struct Tables {
    headers: [libc::mmsghdr; SLOTS],
    vectors: [libc::iovec; SLOTS],
    names: [RawAddress; SLOTS],
    controls: [Control; SLOTS],
}

// SAFETY: all pointers lead to memory that the batch owns alone.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// An empty batch. It takes some sixteen megabytes of address space; memory only as messages touch it.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> io::Result<Self> {
        let memory = Mapping::new(SLOTS * STRIDE)?;
        let tables = Box::into_raw(Box::new(Tables {
            // SAFETY: `mmsghdr` consists of integers and pointers, for which zero is a value.
            headers: unsafe { std::mem::zeroed() },
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SLOTS],
            names: [RawAddress::ZERO; SLOTS],
            controls: [Control::ZERO; SLOTS],
        }));
        for slot in 0..SLOTS {
            // SAFETY: `tables` was just allocated and nothing else refers to it; `slot` is in range of every array,
            // and each slot's message lies inside the mapping.
            unsafe {
                (*tables).vectors[slot] = libc::iovec {
                    iov_base: memory.start().as_ptr().add(slot * STRIDE + MESSAGE_START).cast(),
                    iov_len: MESSAGE_LEN_MAX,
                };
                let header = &raw mut (*tables).headers[slot].msg_hdr;
                (*header).msg_name = (&raw mut (*tables).names[slot]).cast();
                (*header).msg_iov = &raw mut (*tables).vectors[slot];
                (*header).msg_iovlen = 1;
                (*header).msg_control = (&raw mut (*tables).controls[slot]).cast();
            }
            // SAFETY: as above.
            unsafe { reset(tables, slot) };
        }
        let nobody = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let nothing = Received { from: nobody, to: nobody, len: 0, ip: IpFields::default() };
        Ok(Self {
            memory,
            tables: NonNull::new(tables).expect("a box is not null"),
            received: Box::new([nothing; SLOTS]),
            used: 0,
            runs: 0..0,
            taken: 0,
            segments: Box::new([0; BATCH]),
            is_drained: false,
            may_merge: true,
            queue_drops: None,
        })
    }

    /// Slots still empty.
    pub const fn room(&self) -> usize {
        BATCH - self.used
    }

    /// Slots in use; their indexes are below this.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Empties all slots.
    pub const fn clear(&mut self) {
        self.used = 0;
    }

    /// Reads what the socket has, as far as there is room. Returns how many slots that filled, after those in use
    /// before; fewer than there was room for means that nothing was left to read.
    ///
    /// # Errors
    /// `WouldBlock` when there was nothing; anything else is to be counted, and the socket to be read again.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let count = self.read(socket, self.used..BATCH)?;
        self.used += count;
        Ok(count)
    }

    /// The same for a socket that is always read in this way: its datagrams may come in runs, if recent ones did.
    /// What is left of them comes before anything else is read, so as long as [`ReceiveBatch::has_left`] this socket
    /// must be given again; then [`ReceiveBatch::is_drained`] tells whether the socket was empty.
    ///
    /// # Errors
    /// As for [`ReceiveBatch::receive`].
    pub fn receive_runs(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        if self.has_left() {
            return Ok(self.take_apart());
        }
        self.is_drained = true;
        let mut merging = socket.merging().get();
        if merging.is_on() {
            let wanted = merging.messages_wanted(BATCH);
            let count = self.read(socket, BATCH..BATCH + wanted)?;
            (self.runs, self.taken) = (BATCH..BATCH + count, 0);
            self.is_drained = count < wanted;
            let advice = merging.note_merged(count, self.datagrams_left());
            let advice = if self.may_merge { advice } else { Advice::End };
            socket.follow(merging, advice, self.is_drained);
            return Ok(self.take_apart());
        }
        let (first, room) = (self.used, self.room());
        let count = self.receive(socket)?;
        self.is_drained = count < room;
        let of_one_flow = |pair: &[Received; 2]| pair[0].from == pair[1].from && pair[1].len <= pair[0].len;
        let continued = self.received[first..self.used].array_windows().filter(|pair| of_one_flow(pair)).count();
        let advice = merging.note_apart(count, continued);
        let advice = if self.may_merge { advice } else { Advice::Stay };
        socket.follow(merging, advice, self.is_drained);
        Ok(count)
    }

    /// Says whether datagrams may come in runs. The kernel makes them where packets enter it, and so before whoever relays
    /// there would see each by itself. A socket that has asked for them takes it back with the next batch that empties it.
    pub const fn let_merge(&mut self, may: bool) {
        self.may_merge = may;
    }

    /// Whether datagrams of the last socket read wait for room.
    pub fn has_left(&self) -> bool {
        !self.runs.is_empty()
    }

    /// After [`ReceiveBatch::receive_runs`]: whether it left nothing in the socket.
    pub const fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// Lets go of what is left.
    pub fn forget_left(&mut self) {
        self.runs = 0..0;
    }

    /// How many datagrams a run consists of.
    fn datagrams_in(&self, run: usize) -> usize {
        self.received[run].len.div_ceil(self.segments[run - BATCH]).max(1)
    }

    fn datagrams_left(&self) -> usize {
        self.runs.clone().map(|run| self.datagrams_in(run)).sum()
    }

    /// Copies datagrams of runs into the next slots, as far as there is room.
    fn take_apart(&mut self) -> usize {
        let first = self.used;
        while self.used < BATCH && !self.runs.is_empty() {
            let run = self.runs.start;
            let whole = self.received[run];
            let len = (whole.len - self.taken).min(self.segments[run - BATCH]);
            let from = run * STRIDE + MESSAGE_START + self.taken;
            self.memory.as_mut_slice().copy_within(from..from + len, self.used * STRIDE + MESSAGE_START);
            self.received[self.used] = Received { len, ..whole };
            self.used += 1;
            self.taken += len;
            if self.taken >= whole.len {
                self.runs.start += 1;
                self.taken = 0;
            }
        }
        self.used - first
    }

    /// Reads into these slots, from the first on.
    fn read(&mut self, socket: &UdpSocket, slots: Range<usize>) -> io::Result<usize> {
        assert!(slots.end <= SLOTS);
        let first = slots.start;
        let tables = self.tables.as_ptr();
        // SAFETY: the headers from `first` on were wired up in `new` and are reset after each use; everything they
        // point to is owned by `self`, which nobody else can use during the call.
        let count = unsafe {
            let headers = (&raw mut (*tables).headers).cast::<libc::mmsghdr>().add(first);
            sys::receive_many(socket.as_fd(), headers, slots.len())?
        };
        self.queue_drops = None;
        for slot in first..first + count {
            // SAFETY: the kernel has filled this header; `tables` is ours.
            unsafe {
                self.received[slot] = self.describe(slot, socket.local_address());
                reset(tables, slot);
            }
        }
        Ok(count)
    }

    /// Copies a message into the next slot; `to` and `from` as for a datagram.
    ///
    /// # Panics
    /// If there is no room, or the message is longer than [`FRAME_LEN_MAX`].
    pub fn insert(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8], ip: IpFields) -> usize {
        assert!(self.used < BATCH, "no room in the batch");
        let slot = self.used;
        let start = slot * STRIDE + MESSAGE_START;
        self.memory.as_mut_slice()[start..start + MESSAGE_LEN_MAX][..message.len()].copy_from_slice(message);
        self.received[slot] = Received { from, to, len: message.len(), ip };
        self.used += 1;
        slot
    }

    /// What is known of the message in a slot.
    ///
    /// # Panics
    /// If the slot is not in use.
    pub fn received(&self, slot: usize) -> Received {
        assert!(slot < self.used, "slot {slot} is empty");
        self.received[slot]
    }

    /// The message in a slot, with its room.
    ///
    /// # Panics
    /// If the slot is not in use.
    pub fn packet(&mut self, slot: usize) -> Packet<'_> {
        let Received { len, ip, .. } = self.received(slot);
        Packet::new(self.slot_mut(slot), MESSAGE_START..MESSAGE_START + len, ip)
    }

    /// The message in a slot, to be read only.
    ///
    /// # Panics
    /// If the slot is not in use.
    pub fn message(&self, slot: usize) -> &[u8] {
        &self.slot(slot)[MESSAGE_START..][..self.received(slot).len]
    }

    /// Puts another message in the place of the one in a slot.
    ///
    /// # Panics
    /// If the slot is not in use, or the message is longer than [`FRAME_LEN_MAX`].
    pub fn replace(&mut self, slot: usize, message: &[u8]) {
        self.slot_mut(slot)[MESSAGE_START..][..MESSAGE_LEN_MAX][..message.len()].copy_from_slice(message);
        self.received[slot].len = message.len();
    }

    /// Takes `count` bytes off the front of the message in a slot.
    ///
    /// # Panics
    /// If the slot is not in use, or its message is shorter.
    pub fn drop_front(&mut self, slot: usize, count: usize) {
        let Received { len, .. } = self.received(slot);
        let rest = MESSAGE_START + count..MESSAGE_START + len;
        self.slot_mut(slot).copy_within(rest, MESSAGE_START);
        self.received[slot].len -= count;
    }

    /// All bytes of a slot: what a verdict's ranges refer to.
    pub fn slot(&self, slot: usize) -> &[u8] {
        &self.memory.as_slice()[slot * STRIDE..][..STRIDE]
    }

    /// The same, to write an answer where the question was.
    pub fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        &mut self.memory.as_mut_slice()[slot * STRIDE..][..STRIDE]
    }

    /// After [`ReceiveBatch::receive`]: how many datagrams the kernel has dropped since that socket was opened because
    /// its queue was full, if it said so. (It says so with a datagram that comes after the loss.)
    pub const fn queue_drops(&self) -> Option<u32> {
        self.queue_drops
    }

    /// Reads the kernel's description of a datagram.
    ///
    /// # Safety
    /// The header of `slot` must have been filled by the kernel and not been reset.
    unsafe fn describe(&mut self, slot: usize, local: SocketAddr) -> Received {
        // SAFETY: `tables` is owned by `self`; nobody writes to it now.
        let tables = unsafe { self.tables.as_ref() };
        let header = &tables.headers[slot];
        let from = tables.names[slot].read().unwrap_or(SocketAddr::new(local.ip(), 0));
        let mut received =
            Received { from, to: local, len: (header.msg_len as usize).min(MESSAGE_LEN_MAX), ip: IpFields::default() };
        let mut segment = MESSAGE_LEN_MAX;
        // SAFETY: the kernel has left well-formed control messages in the buffer that the header points to; the data
        // of each is read unaligned and only at the length its type has.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
            while !message.is_null() {
                let data = libc::CMSG_DATA(message);
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_TOS) => received.ip.traffic_class = *data,
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        received.ip.traffic_class = data.cast::<libc::c_int>().read_unaligned() as u8;
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        received.to.set_ip(IpAddr::V4(sys::from_in_addr(info.ipi_spec_dst)));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                        received.to.set_ip(IpAddr::V6(ip));
                        if let SocketAddr::V6(to) = &mut received.to {
                            // Without its interface a link-local address names nothing.
                            to.set_scope_id(if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 });
                        }
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                        self.queue_drops = Some(data.cast::<u32>().read_unaligned());
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        segment = data.cast::<libc::c_int>().read_unaligned().max(1) as usize;
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(&raw const header.msg_hdr, message);
            }
        }
        if let Some(run) = slot.checked_sub(BATCH) {
            self.segments[run] = segment;
        }
        received
    }
}

impl Drop for ReceiveBatch {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new`, and nothing refers to it any more.
        drop(unsafe { Box::from_raw(self.tables.as_ptr()) });
    }
}

/// Makes a header ready to be filled again: the kernel has put lengths in place of sizes.
///
/// # Safety
/// `tables` must be valid and `slot` below [`BATCH`].
unsafe fn reset(tables: *mut Tables, slot: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        let header = &raw mut (*tables).headers[slot].msg_hdr;
        (*header).msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
        (*header).msg_controllen = Control::LEN as _;
    }
}
