//! What of the tables somebody else relays ([`Offload`]), and what has passed there.
//!
//! One rule keeps the mirror true: whatever may change what passes between an allocation's client and its peers ends in
//! [`Server::remirror`], before the call returns in which it happened. It compares what is to be mirrored with what is, so
//! that nobody has to know what exactly has changed: each authenticated request of the client, a move to another 5-tuple, a
//! new configuration. A relayed address that ends takes its flows along ([`Server::unmirror_half`]), and what expires ends at
//! its moment by itself, since each flow is mirrored until then.
//!
//! Mirrored is what passes without a decision: data of a UDP client that is not about to move, of an allocation without a
//! limit to its bandwidth, to and from the peers of its channels; and peers without a channel from when data of theirs
//! comes by here. Which shard a client's datagrams come to is no matter: they are the same on the wire.

use std::net::SocketAddr;

use super::allocation::Allocation;
use super::{
    Clock, Config, Direction, Event, Flow, FlowId, Now, Offload, Passed, PeerTransport, RelayId, Server, Transport,
};
use crate::stun::{AddressFamily, ChannelNumber};

/// Places of the table, and flows, that one [`Server::collect_offloaded`] looks at: some 100 µs.
const COLLECTED_AT_ONCE: usize = 4096;

/// Who mirrors, and how much.
#[derive(Debug)]
pub(super) struct Mirror {
    offload: Box<dyn Offload>,
    /// Of all allocations.
    flows: usize,
    /// The latest time told: a new configuration comes without one, and has to be held to nothing that expires.
    latest: Now,
    /// The place of the table where collecting goes on.
    next_place: u32,
    /// What was bound before has not been looked through: collecting does.
    is_new: bool,
}

/// The flows of an allocation that are mirrored.
#[derive(Debug, Default)]
pub(super) struct Mirrored {
    flows: Vec<MirroredFlow>,
    /// A flow without a channel was refused since the client's last request: packets do not ask again and again.
    is_refused: bool,
}

#[derive(Debug)]
struct MirroredFlow {
    flow: Flow,
    until: Now,
    id: FlowId,
}

/// What may be mirrored that was not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Whatever is to be.
    All,
    /// Only what passes between the client and this peer, without a channel if it has none.
    Peer(SocketAddr),
    Nothing,
}

impl Allocation {
    /// Whether each of its packets passes as the one before did, if at all.
    fn may_be_mirrored(&self) -> bool {
        self.path.transport == Transport::Udp
            && self.transport == PeerTransport::Udp
            && self.meter.is_none()
            && self.is_settled()
    }

    /// What is to be mirrored, each until when. Channels come first where there is a limit.
    fn flows_to_mirror(&self, now: Now, config: &Config, ask: Ask) -> Vec<(Flow, Now)> {
        let mut wanted: Vec<(Flow, Now)> = Vec::new();
        if !self.may_be_mirrored() {
            return wanted;
        }
        let limit = config.limits.mirrored_flows_per_allocation;
        let bound = self.live_channels(now).map(|(number, peer)| (peer, Some(number)));
        let held = self.mirrored.iter().flat_map(|held| &held.flows).map(|held| &held.flow);
        let heard = if let Ask::Peer(peer) = ask { Some(peer) } else { None };
        let unbound = held.filter(|flow| flow.channel.is_none()).map(|flow| flow.peer).chain(heard);
        for (peer, channel) in bound.chain(unbound.map(|peer| (peer, None))) {
            if wanted.len() < limit
                && !wanted.iter().any(|(flow, _)| flow.peer == peer)
                && let Some(wish) = self.flow(now, config, peer, channel)
            {
                wanted.push(wish);
            }
        }
        wanted
    }

    /// What passes between client and peer, and until when, if nothing changes.
    fn flow(&self, now: Now, config: &Config, peer: SocketAddr, channel: Option<ChannelNumber>) -> Option<(Flow, Now)> {
        let (relay, until) = self.passes_until(now, peer, channel)?;
        let peer_relay = config.is_relayed(peer).then(|| config.to_bound(peer));
        let flow = Flow { path: self.path, relay: relay.local(), relayed: relay.relayed(), peer, peer_relay, channel };
        Some((flow, until))
    }
}

impl Server {
    /// Has somebody else relay what is bound, from now on; whoever did before ends. Flows of allocations that are there
    /// already begin with [`Server::collect_offloaded`].
    pub fn offload(&mut self, offload: Box<dyn Offload>) {
        self.stop_offload();
        self.mirror = Some(Mirror { offload, flows: 0, latest: Now::default(), next_place: 0, is_new: true });
    }

    /// Ends what somebody else relays. All packets come here again.
    pub fn stop_offload(&mut self) {
        if self.mirror.is_none() {
            return;
        }
        for relay in self.mirrored_allocations() {
            self.unmirror_half(relay);
            self.unmirror_half(relay.other_half());
            if let Some(allocation) = self.allocations.get_mut(relay) {
                allocation.mirrored = None;
            }
        }
        self.mirror = None;
    }

    /// Flows mirrored now.
    pub fn flows_mirrored(&self) -> usize {
        self.mirror.as_ref().map_or(0, |mirror| mirror.flows)
    }

    /// Takes account of what somebody else has relayed since the last time, for some thousands of flows; whether there are
    /// more. To be called about once a second, and again until there are none.
    pub fn collect_offloaded(&mut self, clock: Clock) -> bool {
        let Some(mirror) = &mut self.mirror else { return false };
        mirror.latest = mirror.latest.max(clock.now);
        let is_new = mirror.is_new;
        let mut place = if is_new || mirror.flows > 0 { mirror.next_place } else { u32::MAX };
        let mut left = COLLECTED_AT_ONCE;
        while left > 0 && place < self.allocations.places() {
            left = left.saturating_sub(1 + self.collect_at(clock, place, is_new));
            place += 1;
        }
        let has_more = place < self.allocations.places();
        if let Some(mirror) = &mut self.mirror {
            mirror.next_place = if has_more { place } else { 0 };
            mirror.is_new &= has_more;
        }
        has_more
    }

    /// How many flows were asked.
    fn collect_at(&mut self, clock: Clock, place: u32, is_new: bool) -> usize {
        let Some((relay, allocation)) = self.allocations.in_slot(place) else { return 0 };
        let is_live = allocation.is_live(clock.now);
        if is_new {
            self.remirror(clock.now, relay, Ask::All);
        }
        let Some(allocation) = self.allocations.get_mut(relay) else { return 0 };
        let (Some(held), Some(mirror)) = (allocation.mirrored.take(), &mut self.mirror) else { return 0 };
        let passed: Vec<[Passed; 2]> = held.flows.iter().map(|held| mirror.offload.passed(held.id)).collect();
        let peers = held.flows.iter().map(|held| held.flow.peer).zip(passed);
        let is_over = held.flows.iter().any(|held| held.until <= clock.now);
        for (peer, passed) in peers {
            self.count_passed(relay, peer, passed);
        }
        let count = held.flows.len();
        if let Some(allocation) = self.allocations.get_mut(relay) {
            allocation.mirrored = Some(held);
        }
        if is_over {
            self.remirror(clock.now, relay, Ask::Nothing);
        }
        if is_live && self.config.limits.end_tunnels() {
            self.end_tunnel(clock, relay);
        }
        count
    }

    /// Data between the client and this peer came by here.
    #[cold]
    #[inline(never)]
    pub(super) fn mirror_heard(&mut self, now: Now, relay: RelayId, peer: SocketAddr) {
        let Some(allocation) = self.allocations.get_mut(relay) else { return };
        let is_mirrored = |held: &MirroredFlow| held.flow.peer == peer && now < held.until;
        let is_settled = |held: &Mirrored| held.is_refused || held.flows.iter().any(is_mirrored);
        if allocation.channel_to(now, peer).is_none() && !allocation.mirrored.as_deref().is_some_and(is_settled) {
            self.remirror(now, relay, Ask::Peer(peer));
        }
    }

    /// [`Server::remirror`], after a request from this 5-tuple.
    pub(super) fn remirror_at(&mut self, clock: Clock, path: &super::FiveTuple) {
        if self.mirror.is_some()
            && let Some((relay, _)) = self.allocations.live_by_path(clock.now, path)
        {
            self.remirror(clock.now, relay, Ask::All);
        }
    }

    /// Makes the mirror say what the tables say of this allocation.
    pub(super) fn remirror(&mut self, now: Now, relay: RelayId, ask: Ask) {
        let Some(mirror) = &mut self.mirror else { return };
        mirror.latest = mirror.latest.max(now);
        let Some(allocation) = self.allocations.get_mut(relay) else { return };
        let wanted = allocation.flows_to_mirror(now, &self.config, ask);
        if wanted.is_empty() && allocation.mirrored.is_none() {
            return;
        }
        let mut held = allocation.mirrored.take().unwrap_or_default();
        held.is_refused &= ask != Ask::All;
        let mut ended = Vec::new();
        held.flows.retain_mut(|held| {
            let Some((_, until)) = wanted.iter().find(|(flow, _)| *flow == held.flow) else {
                ended.push((held.flow.peer, mirror.offload.unmirror(held.id)));
                return false;
            };
            if *until != held.until {
                held.until = *until;
                mirror.offload.extend(held.id, *until);
            }
            true
        });
        mirror.flows -= ended.len();
        for (flow, until) in wanted {
            let is_asked = ask == Ask::All || ask == Ask::Peer(flow.peer);
            if !is_asked || held.flows.iter().any(|held| held.flow == flow) {
                continue;
            }
            match mirror.offload.mirror(&flow, until) {
                Some(id) => {
                    held.flows.push(MirroredFlow { flow, until, id });
                    mirror.flows += 1;
                    self.counters.flows_mirrored += 1;
                }
                None => {
                    held.is_refused |= flow.channel.is_none();
                    self.counters.flows_refused += 1;
                }
            }
        }
        allocation.mirrored = (!held.flows.is_empty() || held.is_refused).then_some(held);
        for (peer, passed) in ended {
            self.count_passed(relay, peer, passed);
        }
    }

    /// The configuration has changed.
    pub(super) fn remirror_all(&mut self) {
        let Some(latest) = self.mirror.as_ref().map(|mirror| mirror.latest) else { return };
        let relays: Vec<RelayId> = self.allocations.iter_mut().map(|(relay, _)| relay).collect();
        for relay in relays {
            self.remirror(latest, relay, Ask::All);
        }
    }

    /// A relayed address ends: nobody else relays for it any more, and what has passed is counted.
    pub(super) fn unmirror_half(&mut self, relay: RelayId) {
        let Some(mirror) = &mut self.mirror else { return };
        let Some(held) = self.allocations.get_mut(relay).and_then(|allocation| allocation.mirrored.as_mut()) else {
            return;
        };
        let is_its = |held: &mut MirroredFlow| AddressFamily::of(held.flow.peer.ip()) == relay.family;
        let ended = held.flows.extract_if(.., is_its).map(|held| (held.flow.peer, mirror.offload.unmirror(held.id)));
        let ended: Vec<_> = ended.collect();
        mirror.flows -= ended.len();
        for (peer, passed) in ended {
            self.count_passed(relay, peer, passed);
        }
    }

    /// Counts what somebody else has relayed as if it had passed here.
    fn count_passed(&mut self, relay: RelayId, peer: SocketAddr, passed: [Passed; 2]) {
        let relay = relay.of_family(AddressFamily::of(peer.ip()));
        for (direction, passed) in [Direction::ToPeer, Direction::ToClient].into_iter().zip(passed) {
            if passed.packets == 0 {
                continue;
            }
            let Some(allocation) = self.allocations.get_mut(relay) else { continue };
            let (session, path) = (allocation.session, allocation.path);
            allocation.watch.seen_elsewhere(passed.seen, passed.foreign);
            if direction == Direction::ToPeer {
                allocation.watch.sent_to(peer.port());
            }
            let half = allocation.half_mut(relay.family);
            let Passed { packets, bytes, .. } = passed;
            let is_first = half.is_some_and(|half| half.traffic.count_several(direction, packets, bytes) == packets);
            let sums = &mut self.counters.traffic[path.transport as usize][relay.family.index()];
            sums.count_several(direction, packets, bytes);
            self.counters.mirrored_traffic.count_several(direction, packets, bytes);
            if is_first {
                self.record(Event::FirstData { session, path, direction, peer });
            }
        }
    }

    fn mirrored_allocations(&mut self) -> Vec<RelayId> {
        let all = self.allocations.iter_mut();
        all.filter(|(_, allocation)| allocation.mirrored.is_some()).map(|(relay, _)| relay).collect()
    }

    /// Panics where the mirror says what the tables do not.
    pub(super) fn check_mirror(&mut self) {
        let mut count = 0;
        let config = &self.config;
        for (_, allocation) in self.allocations.iter_mut() {
            let Some(held) = &allocation.mirrored else { continue };
            let flows = &held.flows;
            count += flows.len();
            assert!(flows.len() <= config.limits.mirrored_flows_per_allocation, "too many flows are mirrored");
            for (place, held) in flows.iter().enumerate() {
                let Flow { peer, channel, .. } = held.flow;
                assert!(allocation.may_be_mirrored(), "mirrored, though each packet takes a decision");
                assert!(flows[..place].iter().all(|other| other.flow.peer != peer), "a peer is mirrored twice");
                // Just before its end, so that one that is over by now counts as well.
                let then = Now(held.until.0 - 1);
                let bound = channel.or(allocation.channel_to(then, peer));
                let found = allocation.flow(then, config, peer, bound);
                assert_eq!(found, Some((held.flow, held.until)), "mirrored is what does not pass");
            }
        }
        assert_eq!(count, self.flows_mirrored(), "mirrored flows are miscounted");
    }
}
