//! The memory that the program and we share, and the hash map that leads there. Has the layout of `program/flows.h`.

use std::cell::UnsafeCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::syscall;

/// What packets of a flow look like (`struct key`). Addresses are padded with zeros, everything is in network order.
/// Of Send indications the peer has a part in `local` and `local_port`, by exclusive or.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    remote: [u8; 16],
    local: [u8; 16],
    remote_port: [u8; 2],
    local_port: [u8; 2],
    channel: [u8; 2],
    family: u8,
    has_peer: u8,
}

impl Key {
    /// `None` if the addresses are of two families.
    pub(super) fn new(remote: SocketAddr, local: SocketAddr, channel: u16) -> Option<Self> {
        let family = family(remote.ip());
        (family == self::family(local.ip())).then(|| Self {
            remote: bytes(remote.ip()),
            local: bytes(local.ip()),
            remote_port: remote.port().to_be_bytes(),
            local_port: local.port().to_be_bytes(),
            channel: channel.to_be_bytes(),
            family,
            has_peer: 0,
        })
    }

    /// Of Send indications with this peer, where it was that of packets without a channel.
    pub(super) fn with_peer(mut self, peer: SocketAddr) -> Self {
        let parts = self.local.iter_mut().zip(bytes(peer.ip()));
        let ports = self.local_port.iter_mut().zip(peer.port().to_be_bytes());
        parts.chain(ports).for_each(|(local, peer)| *local ^= peer);
        Self { has_peer: 1, ..self }
    }
}

/// How data is wrapped (`enum framing`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Framing {
    /// Not at all, between relay and peer.
    Plain = 0,
    /// ChannelData.
    ChannelData = 1,
    /// Send and Data indications.
    Indication = 2,
}

impl Framing {
    /// Bytes in front of the data, where the peer's address is of this one's family.
    const fn len(self, told: SocketAddr) -> u8 {
        match (self, told) {
            (Self::Plain, _) => 0,
            (Self::ChannelData, _) => 4,
            (Self::Indication, SocketAddr::V4(_)) => 20 + 12 + 4,
            (Self::Indication, SocketAddr::V6(_)) => 20 + 24 + 4,
        }
    }

    /// What lengths of data are rounded up to, less one.
    const fn round(self) -> u8 {
        match self {
            Self::Plain | Self::ChannelData => 0,
            Self::Indication => 3,
        }
    }
}

/// What packets become: the part of `struct flow` behind `until` that the program only reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    channel: [u8; 2],
    family: u8,
    from: u8,
    to: u8,
    to_relay: u8,
    sum: [u8; 2],
    label: [u8; 4],
    told: [u8; 16],
    told_port: [u8; 2],
    from_len: u8,
    to_len: u8,
    from_round: u8,
    to_round: u8,
    zeros: [u8; 10],
}

impl Change {
    /// What packets of this key become: framing that comes in and goes out, addresses, channel going out (0: none), the
    /// label of IPv6 packets (20 bits); and, to the peer, its address as the client names it, to the client, the relayed
    /// address as clients are told it. `None` if the addresses are of two families.
    pub(super) fn new(
        key: &Key,
        framing: [Framing; 2],
        source: SocketAddr,
        destination: SocketAddr,
        channel: u16,
        label: u32,
        told: SocketAddr,
    ) -> Option<Self> {
        let family = family(source.ip());
        let change = Self {
            source: bytes(source.ip()),
            destination: bytes(destination.ip()),
            source_port: source.port().to_be_bytes(),
            destination_port: destination.port().to_be_bytes(),
            channel: channel.to_be_bytes(),
            family,
            from: framing[0] as u8,
            to: framing[1] as u8,
            to_relay: 0,
            sum: [0; 2],
            label: (6 << 28 | label & 0xF_FFFF).to_be_bytes(),
            told: bytes(told.ip()),
            told_port: told.port().to_be_bytes(),
            from_len: framing[0].len(told),
            to_len: framing[1].len(told),
            from_round: framing[0].round(),
            to_round: framing[1].round(),
            zeros: [0; 10],
        };
        let old = Sum::default().with(&key.remote).with(&key.local).with(&key.remote_port).with(&key.local_port);
        let old = old.with(&key.channel).0;
        let new = Sum::default().with(&change.source).with(&change.destination).with(&change.source_port);
        let new = new.with(&change.destination_port).with(&change.channel).0;
        let sum = Sum::default().with(&new.to_be_bytes()).with(&(!old).to_be_bytes()).0;
        (family == self::family(destination.ip())).then_some(Self { sum: sum.to_be_bytes(), ..change })
    }

    /// The same on its way to another relay of this server, which has the destination.
    pub(super) const fn to_relay(self) -> Self {
        Self { to_relay: 1, ..self }
    }
}

/// Ones' complement sum of 16-bit words in network order (RFC 1071), folded.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u16);

impl Sum {
    fn with(self, bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = u32::from(self.0) + words.sum::<u32>();
        let sum = (sum & 0xFFFF) + (sum >> 16);
        Self(((sum & 0xFFFF) + (sum >> 16)) as u16)
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 4 } else { 6 }
}

fn bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// One direction of a flow (`struct flow`).
#[repr(C)]
struct Entry {
    key: UnsafeCell<Key>,
    until: AtomicU64,
    change: UnsafeCell<Change>,
    packets: AtomicU64,
    bytes: AtomicU64,
    seen: AtomicU32,
    foreign: AtomicU32,
    tended: AtomicU64,
    zeros: [u8; 32],
}

const _: () = {
    assert!(size_of::<Key>() == 40 && align_of::<Key>() == 1);
    assert!(size_of::<Change>() == 80 && align_of::<Change>() == 1);
    assert!(size_of::<Entry>() == Memory::ENTRY_LEN);
    assert!(std::mem::offset_of!(Entry, change) == 48 && std::mem::offset_of!(Entry, packets) == 128);
};

/// What the program has counted in an entry since it was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) seen: u32,
    pub(super) foreign: u32,
}

/// All entries, and the hash map.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    entries: u32,
    places: OwnedFd,
    /// Which entries have an owner.
    claims: Mutex<Vec<Range<u32>>>,
}

// SAFETY: the mapping is shared memory for as long as `Memory` lives. Of an entry, `until` and the counters are atomics;
// the rest is read by the program alone, and written by the one owner of the entry (`Owned`).
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Length of an entry, in bytes.
    pub(super) const ENTRY_LEN: usize = 192;

    /// Maps `flows`, which has so many entries.
    ///
    /// # Errors
    /// Whatever the system says to `mmap`.
    pub(super) fn new(flows: &OwnedFd, places: OwnedFd, entries: u32) -> io::Result<Self> {
        let start = syscall::map_array(flows.as_fd(), entries as usize * Self::ENTRY_LEN)?;
        Ok(Self { start, entries, places, claims: Mutex::default() })
    }

    /// How many entries there are.
    pub(super) const fn entries(&self) -> u32 {
        self.entries
    }

    fn entry(&self, place: u32) -> &Entry {
        assert!(place < self.entries, "there is no such entry");
        // SAFETY: the mapping has this many entries, begins on a page, and lives as long as `self`. Every bit pattern is
        // an `Entry`; what may change behind this reference is atomic or in an `UnsafeCell`.
        unsafe { self.start.cast::<Entry>().add(place as usize).as_ref() }
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, Vec<Range<u32>>> {
        self.claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and every reference into it borrows `self`.
        unsafe { syscall::unmap(self.start, self.entries as usize * Self::ENTRY_LEN) };
    }
}

/// Entries of which this is the one owner.
#[derive(Debug)]
pub(super) struct Owned<M: AsRef<Memory>> {
    memory: M,
    range: Range<u32>,
}

impl<M: AsRef<Memory>> Owned<M> {
    /// Takes a range of the entries. It is cut short to none where any of it has an owner.
    pub(super) fn claim(memory: M, range: Range<u32>) -> Self {
        let this = memory.as_ref();
        let mut claims = this.claims();
        let is_free = range.end <= this.entries
            && claims.iter().all(|claim| range.end <= claim.start || claim.end <= range.start);
        let range = if is_free { range } else { 0..0 };
        claims.push(range.clone());
        drop(claims);
        Self { memory, range }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.range.len() as u32
    }

    fn entry(&self, place: u32) -> &Entry {
        assert!(place < self.len(), "an entry of somebody else");
        self.memory.as_ref().entry(self.range.start + place)
    }

    /// Begins a flow's direction in a place in which nothing has lived for a while. It does not live before
    /// [`Owned::set_until`], and is not found before [`Owned::publish`].
    pub(super) fn begin(&mut self, place: u32, key: Key, change: Change) {
        let entry = self.entry(place);
        entry.until.store(0, Ordering::Relaxed);
        // SAFETY: only the owner of an entry comes here, and he has it mutably; the program may be reading, but only to
        // find that this is not what it looked for: nothing lives here.
        unsafe {
            entry.key.get().write_volatile(key);
            entry.change.get().write_volatile(change);
        }
        for counter in [&entry.packets, &entry.bytes, &entry.tended] {
            counter.store(0, Ordering::Relaxed);
        }
        entry.seen.store(0, Ordering::Relaxed);
        entry.foreign.store(0, Ordering::Relaxed);
    }

    /// From when on nothing passes any more: CLOCK_MONOTONIC in nanoseconds; 0 is at once.
    pub(super) fn set_until(&self, place: u32, until: u64) {
        self.entry(place).until.store(until, Ordering::Release);
    }

    /// Lets the program find a place by its key.
    ///
    /// # Errors
    /// EEXIST if the key leads elsewhere already; whatever else the system says.
    pub(super) fn publish(&self, place: u32) -> io::Result<()> {
        let key = self.key(place);
        // SAFETY: keys and places have these types in `flows.h`, and no padding.
        unsafe { syscall::insert(self.memory.as_ref().places.as_fd(), &key, &(self.range.start + place)) }
    }

    /// Lets it be found no longer.
    pub(super) fn withdraw(&self, place: u32) {
        let key = self.key(place);
        // That it is not there is as good.
        // SAFETY: keys have this type in `flows.h`, and no padding.
        let _ = unsafe { syscall::remove(self.memory.as_ref().places.as_fd(), &key) };
    }

    fn key(&self, place: u32) -> Key {
        // SAFETY: only the owner writes it, and he needs `&mut self` for that.
        unsafe { *self.entry(place).key.get() }
    }

    /// What has been counted since the direction was begun.
    pub(super) fn counted(&self, place: u32) -> Counted {
        let entry = self.entry(place);
        Counted {
            packets: entry.packets.load(Ordering::Relaxed),
            bytes: entry.bytes.load(Ordering::Relaxed),
            seen: entry.seen.load(Ordering::Relaxed),
            foreign: entry.foreign.load(Ordering::Relaxed),
        }
    }

    /// Ends whatever lives here: for a new owner, who knows nothing of it. Whether anything has.
    pub(super) fn clear(&mut self, place: u32) -> bool {
        let until = self.entry(place).until.swap(0, Ordering::AcqRel);
        if self.key(place) != Key::default() {
            self.withdraw(place);
        }
        until != 0
    }
}

impl<M: AsRef<Memory>> Drop for Owned<M> {
    fn drop(&mut self) {
        let mut claims = self.memory.as_ref().claims();
        if let Some(position) = claims.iter().position(|claim| *claim == self.range) {
            claims.swap_remove(position);
        }
    }
}
