//! The machine's flows, for the program: [`Offload`] over the memory that both see.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::{Change, Counted, Framing, Key, Memory, Owned};
use crate::turn::{Flow, FlowId, Now, Offload, Passed, Transport};

/// How long a place stays empty, on the clock of this machine: a run of the program takes microseconds, so that none which
/// has found the old flow is still there when a new one comes.
const REST: Duration = Duration::from_secs(1);

/// What this machine can do for a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    /// Whether sockets of this machine give their IPv6 packets a flow label.
    pub(super) labels: bool,
}

impl Abilities {
    /// Addresses that a route can be found to and from.
    fn serves(self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_served = match ip {
            IpAddr::V4(ip) => self.ipv4 && !ip.is_broadcast(),
            IpAddr::V6(ip) => self.ipv6 && !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none(),
        };
        is_served && !ip.is_unspecified() && !ip.is_multicast() && address.port() != 0
    }
}

/// A shard's part of the flows. Flow `n` has the entries `2n`, to the peer, and `2n + 1`, to the client.
#[derive(Debug)]
pub(super) struct Mirror {
    entries: Owned<Arc<Memory>>,
    abilities: Abilities,
    /// What the machine was told of each flow that there has been.
    told: Vec<[Counted; 2]>,
    /// Places that flows have left, and since when.
    resting: VecDeque<(u32, Instant)>,
    /// Whether a flow lives, for each that there has been.
    living: Vec<bool>,
    labels: RandomState,
}

impl Mirror {
    /// Over these entries. Whatever lives in them ends.
    pub(super) fn new(mut entries: Owned<Arc<Memory>>, abilities: Abilities) -> Self {
        for place in 0..entries.len() {
            entries.clear(place);
        }
        Self {
            entries,
            abilities,
            told: Vec::new(),
            resting: VecDeque::new(),
            living: Vec::new(),
            labels: RandomState::new(),
        }
    }

    /// A place that has rested, or has not been used yet.
    fn take_place(&mut self) -> Option<u32> {
        if self.resting.front().is_some_and(|(_, since)| since.elapsed() >= REST) {
            return self.resting.pop_front().map(|(place, _)| place);
        }
        let place = self.told.len() as u32;
        if place >= self.entries.len() / 2 {
            return None;
        }
        self.told.push([Counted::default(); 2]);
        self.living.push(false);
        Some(place)
    }

    /// What packets of both directions look like, and what they become.
    fn changes(&self, flow: &Flow) -> Option<[(Key, Change); 2]> {
        let channel = flow.channel.map_or(0, |number| number.get());
        let framing = if channel == 0 { Framing::Indication } else { Framing::ChannelData };
        let Flow { path, relay, relayed, peer, peer_relay, .. } = *flow;
        let addresses = [path.client, path.server, relay, peer];
        let served = addresses.into_iter().chain(peer_relay).all(|address| self.abilities.serves(address));
        if path.transport != Transport::Udp || !served {
            return None;
        }
        let label = if self.abilities.labels { self.labels.hash_one((relay, peer)) as u32 } else { 0 };
        let key = Key::new(path.client, path.server, channel)?;
        let out = [framing, Framing::Plain];
        let change = match peer_relay {
            None => Change::new(&key, out, relay, peer, 0, label, peer)?,
            Some(other) => Change::new(&key, out, relayed, other, 0, label, peer)?.to_relay(),
        };
        let key = if channel == 0 { key.with_peer(peer) } else { key };
        let to_peer = (key, change);
        let key = Key::new(peer, relay, 0)?;
        let label = if self.abilities.labels { self.labels.hash_one((path.server, path.client)) as u32 } else { 0 };
        let back = [Framing::Plain, framing];
        let change = Change::new(&key, back, path.server, path.client, channel, label, relayed)?;
        Some([to_peer, (key, change)])
    }

    fn rest(&mut self, place: u32) {
        self.living[place as usize] = false;
        self.resting.push_back((place, Instant::now()));
    }

    fn is_living(&self, flow: FlowId) -> bool {
        self.living.get(flow.0 as usize).copied().unwrap_or(false)
    }
}

impl Offload for Mirror {
    fn mirror(&mut self, flow: &Flow, until: Now) -> Option<FlowId> {
        let changes = self.changes(flow)?;
        let place = self.take_place()?;
        self.told[place as usize] = [Counted::default(); 2];
        for (entry, (key, change)) in (2 * place..).zip(changes) {
            self.entries.begin(entry, key, change);
            self.entries.set_until(entry, until.0);
        }
        for entry in [2 * place, 2 * place + 1] {
            if self.entries.publish(entry).is_err() {
                // The first may be found already; the second leads elsewhere, and is not ours to withdraw.
                self.entries.set_until(2 * place, 0);
                self.entries.set_until(2 * place + 1, 0);
                if entry != 2 * place {
                    self.entries.withdraw(2 * place);
                }
                self.rest(place);
                return None;
            }
        }
        self.living[place as usize] = true;
        Some(FlowId(place))
    }

    fn extend(&mut self, flow: FlowId, until: Now) {
        if self.is_living(flow) {
            self.entries.set_until(2 * flow.0, until.0);
            self.entries.set_until(2 * flow.0 + 1, until.0);
        }
    }

    fn passed(&mut self, flow: FlowId) -> [Passed; 2] {
        if !self.is_living(flow) {
            return [Passed::default(); 2];
        }
        let counted = [self.entries.counted(2 * flow.0), self.entries.counted(2 * flow.0 + 1)];
        let told = std::mem::replace(&mut self.told[flow.0 as usize], counted);
        [since(counted[0], told[0]), since(counted[1], told[1])]
    }

    fn unmirror(&mut self, flow: FlowId) -> [Passed; 2] {
        if !self.is_living(flow) {
            return [Passed::default(); 2];
        }
        for entry in [2 * flow.0, 2 * flow.0 + 1] {
            self.entries.set_until(entry, 0);
        }
        for entry in [2 * flow.0, 2 * flow.0 + 1] {
            self.entries.withdraw(entry);
        }
        let passed = self.passed(flow);
        self.rest(flow.0);
        passed
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for flow in 0..self.living.len() as u32 {
            self.unmirror(FlowId(flow));
        }
    }
}

/// What was counted after the machine was told last.
fn since(counted: Counted, told: Counted) -> Passed {
    Passed {
        packets: counted.packets - told.packets,
        bytes: counted.bytes - told.bytes,
        seen: counted.seen - told.seen,
        foreign: counted.foreign - told.foreign,
    }
}
