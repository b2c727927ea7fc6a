//! What an allocation's traffic looks like, so that tunnels stand out among calls (abuse S15).
//!
//! A call has a few peers, a few ports, and carries RTP, RTCP, DTLS and STUN. Somebody who scans has many ports, somebody
//! who carries a VPN or a proxy through the relay has packets of another look. None of it proves anything: it is counted
//! when an allocation ends, and ends one early only where the operator says so.
//!
//! The cost for a packet is a comparison. Its bytes are looked at only among the first [`LOOKED_AT_FIRST`] of a direction, and of
//! the later ones at one in [`LOOKED_AT_LATER`].

use std::net::IpAddr;

use super::{Clock, EndReason, ForeignShare, Limits, RelayId, Server, Spread};

/// Packets of each direction whose bytes are looked at from the start on.
const LOOKED_AT_FIRST: u64 = 64;
/// Later one in so many.
const LOOKED_AT_LATER: u64 = 256;

/// Sees of so few packets say nothing.
const TELLING: u32 = 32;

/// The magic cookie (RFC 8489 §5).
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// What is known about the traffic of an allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Peers that there were permissions for. Above some hundreds an estimate.
    pub peers: u32,
    /// Ports of peers that data was sent to. Above some hundreds an estimate.
    pub ports: u32,
    /// Packets that were looked at, both ways.
    pub seen: u32,
    /// Those of them that look like neither RTP, RTCP, DTLS nor STUN.
    pub foreign: u32,
}

impl Hints {
    /// How many of the packets seen are foreign, of a hundred; `None` if there were too few.
    pub fn foreign_percent(&self) -> Option<u32> {
        (self.seen >= TELLING).then(|| (u64::from(self.foreign) * 100 / u64::from(self.seen)) as u32)
    }
}

/// Gathers [`Hints`].
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    peers: Bits<4>,
    ports: Bits<8>,
    /// The port that the latest data went to, which is set already; 0 is none.
    last_port: u16,
    seen: u32,
    foreign: u32,
}

impl Watch {
    /// There is a permission for this peer.
    pub(super) fn permitted(&mut self, peer: IpAddr) {
        let bits = match peer {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
        };
        self.peers.set(bits);
    }

    /// Data goes to a peer at this port.
    #[inline]
    pub(super) fn sent_to(&mut self, port: u16) {
        if port != self.last_port {
            self.last_port = port;
            self.ports.set(u64::from(port));
        }
    }

    /// The `number`th packet of a direction has these bytes. Whether anything was learnt.
    #[inline]
    pub(super) fn look(&mut self, number: u64, data: &[u8]) -> bool {
        if number >= LOOKED_AT_FIRST && !number.is_multiple_of(LOOKED_AT_LATER) {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        self.foreign += u32::from(!looks_like_a_call(data)).min(u32::MAX - self.foreign);
        true
    }

    /// So many packets were looked at elsewhere in the same way.
    pub(super) fn seen_elsewhere(&mut self, seen: u32, foreign: u32) {
        self.seen = self.seen.saturating_add(seen);
        self.foreign = self.foreign.saturating_add(foreign);
    }

    pub(super) fn hints(&self) -> Hints {
        Hints { peers: self.peers.count(), ports: self.ports.count(), seen: self.seen, foreign: self.foreign }
    }

    /// Whether limits end such an allocation.
    pub(super) fn exceeds(&self, limits: &Limits) -> bool {
        let hints = self.hints();
        let (ports, percent) = (limits.peer_ports_per_allocation, limits.foreign_packets_percent);
        ports > 0 && hints.ports > ports || percent > 0 && hints.foreign_percent().is_some_and(|share| share > percent)
    }
}

impl Limits {
    /// Whether any allocation is ended for what it looks like.
    pub(super) const fn end_tunnels(&self) -> bool {
        self.peer_ports_per_allocation > 0 || self.foreign_packets_percent > 0
    }
}

impl Server {
    /// Where [`Limits::end_tunnels`]: ends an allocation that looks as the operator does not want it to, now that something was learnt about it.
    #[cold]
    pub(super) fn end_tunnel(&mut self, clock: Clock, relay: RelayId) -> bool {
        let limits = &self.config.limits;
        let is_tunnel = self.allocations.get_mut(relay).is_some_and(|allocation| allocation.watch.exceeds(limits));
        if is_tunnel {
            self.end(clock, relay, EndReason::Tunnel);
            self.end(clock, relay.other_half(), EndReason::Tunnel);
        }
        is_tunnel
    }

    /// An allocation has ended.
    pub(super) fn count_hints(&mut self, hints: Hints) {
        self.counters.ended_peers[Spread::of(hints.peers) as usize] += 1;
        self.counters.ended_ports[Spread::of(hints.ports) as usize] += 1;
        self.counters.ended_foreign[ForeignShare::of(hints.foreign_percent()) as usize] += 1;
    }
}

impl Spread {
    const fn of(count: u32) -> Self {
        match count {
            0 => Self::None,
            1 => Self::One,
            2..=4 => Self::Few,
            5..=16 => Self::Several,
            17..=64 => Self::Many,
            65.. => Self::Crowd,
        }
    }
}

impl ForeignShare {
    const fn of(percent: Option<u32>) -> Self {
        match percent {
            None => Self::Unknown,
            Some(0..=9) => Self::Little,
            Some(10..=49) => Self::Some,
            Some(50..) => Self::Most,
        }
    }
}

/// Whether these bytes begin as those of a call do (RFC 7983): STUN, DTLS, or RTP and RTCP, encrypted or not.
fn looks_like_a_call(data: &[u8]) -> bool {
    match data {
        // Empty datagrams keep NATs open.
        [] => true,
        [0..=3, ..] => data.get(4..8) == Some(&MAGIC_COOKIE[..]),
        // ChangeCipherSpec, alert, handshake, application data, heartbeat, CID; version 1.0, 1.2, or one byte of 1.3.
        [20..=25, 0xFE, 0xFD | 0xFF, ..] | [32..=63, ..] => true,
        [128..=191, ..] => data.len() >= 8,
        _ => false,
    }
}

/// Counts different values by the bits they fall on: exact in effect while there are few, an estimate later.
#[derive(Clone, Copy, Debug)]
struct Bits<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Default for Bits<WORDS> {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl<const WORDS: usize> Bits<WORDS> {
    fn set(&mut self, value: u64) {
        // Neighbours must fall as by chance, or the estimate is wrong (the end of SplitMix64).
        let mixed = (value ^ value >> 30).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 32;
        self.0[(mixed / 64) as usize % WORDS] |= 1 << (mixed % 64);
    }

    fn count(&self) -> u32 {
        let size = f64::from(WORDS as u32 * 64);
        let ones = self.0.iter().map(|word| word.count_ones()).sum::<u32>();
        // So few have nothing to correct, and nearly all allocations have so few.
        if ones * ones < WORDS as u32 * 64 {
            return ones;
        }
        // A full table tells of no more than it can.
        let empty = (size - f64::from(ones)).max(1.0);
        (size * (size / empty).ln()).round() as u32
    }
}
