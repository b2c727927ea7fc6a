//! The machine itself: its state, the calls of the contract, and what several methods share.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::allocation::{Allocation, Relay};
use super::allocations::{Allocations, Removed};
use super::answer_limit::AnswerLimit;
use super::authenticate::Authenticated;
use super::bandwidth::{Meters, Rates, Unshared};
use super::deleted::Deleted;
use super::elsewhere::Elsewhere;
use super::holdings::{Holdings, Uncounted};
use super::look_up::LookUps;
use super::mirror::{Ask, Mirror};
use super::peer_connections::PeerConnections;
use super::ports::PortPool;
use super::realms::Places;
use super::timers::Timers;
use super::{
    BindError, Clock, Config, Counters, Effect, EndReason, Event, FiveTuple, Letter, Limit, Now, Packet, PortSet,
    Reason, RelayAddress, RelayId, RelayedAddresses, ReplyBuffer, SessionId, ShardIndex, Traffic, Verdict,
};
use crate::stun::ErrorCode;

/// The machine of one shard.
#[derive(Debug)]
pub struct Server {
    pub(super) config: Arc<Config>,
    pub(super) shard: ShardIndex,
    pub(super) random: ChaCha8Rng,
    pub(super) allocations: Allocations,
    /// Between TCP relays and peers.
    pub(super) connections: PeerConnections,
    /// The ports of this shard at each relay address.
    pub(super) pools: Vec<(RelayAddress, PortPool)>,
    /// Wakes slots of the table of allocations.
    pub(super) timers: Timers<u32>,
    pub(super) deleted: Deleted,
    pub(super) answer_limit: AnswerLimit,
    /// How much data accounts and the server may still relay.
    pub(super) meters: Meters,
    pub(super) holdings: Box<dyn Holdings>,
    /// If somebody else relays what is bound.
    pub(super) mirror: Option<Mirror>,
    /// Users whose keys are kept elsewhere.
    pub(super) look_ups: LookUps,
    /// Reserved ports of ours that other shards have redeemed: by relayed address, to whom and what.
    pub(super) lent: HashMap<SocketAddr, (u16, Relay), ahash::RandomState>,
    /// 5-tuples that the kernel gives to this shard and that belong to others.
    pub(super) elsewhere: Elsewhere,
    /// To which realms clients have come that asked for one.
    pub(super) places: Places,
    /// The shard that passed on the datagram being served, if one did.
    pub(super) carrier: Option<u16>,
    pub(super) effects: VecDeque<Effect>,
    pub(super) draining: bool,
    /// The bound that the request being served has run into.
    pub(super) reached: Option<Limit>,
    pub(super) counters: Counters,
}

impl Server {
    /// An empty server. `seed` feeds everything here that must not be guessed: ports, transaction ids, hash order.
    pub fn new(config: Arc<Config>, shard: ShardIndex, seed: [u8; 32]) -> Self {
        let mut random = ChaCha8Rng::from_seed(seed);
        let mut key = || random.next_u64();
        let hashes = ahash::RandomState::with_seeds(key(), key(), key(), key());
        let look_ups = LookUps::new(&hashes, random.next_u64());
        let pools =
            config.relays.iter().map(|address| (*address, PortPool::new(config.ports, shard, |_| false))).collect();
        let rates = Rates::of(&config);
        Self {
            config,
            shard,
            random,
            allocations: Allocations::new(hashes.clone()),
            answer_limit: AnswerLimit::new(hashes.clone()),
            meters: Meters::new(rates, Box::new(Unshared), hashes.clone()),
            holdings: Box::new(Uncounted),
            mirror: None,
            look_ups,
            connections: PeerConnections::new(hashes.clone()),
            pools,
            timers: Timers::new(),
            deleted: Deleted::default(),
            lent: HashMap::with_hasher(hashes.clone()),
            elsewhere: Elsewhere::new(hashes.clone()),
            places: Places::new(hashes),
            carrier: None,
            effects: VecDeque::new(),
            draining: false,
            reached: None,
            counters: Counters::default(),
        }
    }

    /// A message from a client: a whole datagram, or one frame of its stream.
    pub fn from_client(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        packet: &mut Packet<'_>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        let verdict = match packet.message().first() {
            // Streams carry reserved channel numbers to here too, to be dropped without losing sync.
            Some(0x40..=0x7F) => self.on_channel_data(clock, path, packet),
            Some(0x00..=0x03) => self.on_stun(clock, path, packet, reply),
            _ => Verdict::Drop(Reason::NotStun),
        };
        self.count_drop(&verdict);
        verdict
    }

    /// A datagram from a client that the kernel gave to another shard, `carrier`, and that belongs to this one
    /// ([`Verdict::NotMine`]).
    pub fn from_carrier(
        &mut self,
        clock: Clock,
        carrier: u16,
        path: FiveTuple,
        packet: &mut Packet<'_>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        self.carrier = Some(carrier);
        let verdict = self.from_client(clock, path, packet, reply);
        self.carrier = None;
        self.places.forget(&path);
        self.stop_carrier(clock, carrier, path);
        verdict
    }

    /// A datagram from a peer, at the socket of one of our relays.
    pub fn from_peer(&mut self, clock: Clock, relay: RelayId, peer: SocketAddr, packet: &mut Packet<'_>) -> Verdict {
        let bytes = packet.range();
        let verdict = self.forward_to_client(clock, relay, peer, packet, bytes);
        self.count_drop(&verdict);
        verdict
    }

    /// A packet for one of our relays that another shard's relay sent ([`Verdict::ToRelay`]).
    pub fn from_relay(
        &mut self,
        clock: Clock,
        relayed: SocketAddr,
        from: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let bytes = packet.range();
        let verdict = self.forward_from_relay(clock, relayed, from, packet, bytes);
        self.count_drop(&verdict);
        verdict
    }

    /// ICMP about a datagram that was sent from the socket of a relay to `peer`, or this machine's own word for the
    /// same: `kind` and `code` are the ICMP type and code of the relay's family, `mtu` counts only where they are about
    /// size. The port of `peer` is 0 where it is not known (TURN-8656-11.5-04). An [`Effect::Send`] tells the client.
    pub fn from_icmp(&mut self, clock: Clock, relay: RelayId, peer: SocketAddr, kind: u8, code: u8, mtu: u32) {
        if let Err(reason) = self.on_icmp(clock, relay, peer, kind, code, mtu) {
            self.counters.drops[reason as usize] += 1;
        }
    }

    /// The answer to [`Effect::BindRelay`]. After an error nothing is bound and nothing counted.
    pub fn relay_bound(&mut self, clock: Clock, relay: RelayId, result: Result<(), BindError>) {
        self.on_relay_bound(clock, relay, result);
    }

    /// A client's TCP connection is gone, and its allocation with it unless it has a ticket (TURN-8656-LIFE-01).
    pub fn path_closed(&mut self, clock: Clock, path: FiveTuple) {
        self.allocations.abandon(&path);
        self.look_ups.path_closed(&path);
        self.places.forget(&path);
        if let Some((relay, _)) = self.allocations.live_by_path(clock.now, &path)
            && !self.lose_path(clock, relay, &path)
        {
            self.end(clock, relay, EndReason::PathClosed);
            self.end(clock, relay.other_half(), EndReason::PathClosed);
        }
    }

    /// A [`Letter`] from another shard ([`Effect::Tell`]).
    pub fn told(&mut self, clock: Clock, from: u16, letter: Letter) {
        self.on_letter(clock, from, letter);
    }

    /// Another shard has lost everything it had and starts again: what it owes us will not come any more. To be called
    /// after all letters of its former life, and before any of the new one.
    pub fn shard_restarted(&mut self, clock: Clock, shard: u16) {
        self.on_shard_restarted(clock, shard);
        self.on_carrier_restarted(shard);
    }

    /// From now on new allocations are answered 508; those that exist live on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// From now on new allocations are granted again.
    pub fn undrain(&mut self) {
        self.draining = false;
    }

    /// Ends every allocation, and accepts no new one.
    pub fn shut_down(&mut self, clock: Clock) {
        self.draining = true;
        self.look_ups.shut_down();
        let pending: Vec<FiveTuple> = self.allocations.iter_pending().map(|(_, pending)| pending.path).collect();
        for path in &pending {
            self.allocations.abandon(path);
        }
        // Those whose socket is still being bound end with the allocation that waits for them, when the shell answers.
        for name in self.allocations.bound_reservations() {
            self.end_reservation(clock, name);
        }
        let relays: Vec<RelayId> = self.allocations.iter_mut().map(|(relay, _)| relay).collect();
        for relay in relays {
            self.end(clock, relay, EndReason::Shutdown);
            self.end(clock, relay.other_half(), EndReason::Shutdown);
        }
    }

    /// Replaces the configuration. Relay addresses and ports of existing allocations stay as they are; permissions
    /// and channels that the new peer policy refuses end at once.
    pub fn configure(&mut self, config: Arc<Config>) {
        let mut old_pools = std::mem::take(&mut self.pools);
        let same_ports = config.ports == self.config.ports;
        let source = |config: &Config| config.credentials.look_ups.as_ref().map(|look_ups| look_ups.source);
        self.look_ups.configure(source(&config) == source(&self.config) && config.realm == self.config.realm);
        self.config = config;
        for address in self.config.relays.clone() {
            // A pool is known by what peers see: `bind` may change under allocations that stay at the old one.
            let advertise = address.advertise;
            let place = old_pools.iter().position(|(old, _)| old.advertise == advertise);
            let pool = match place.map(|place| old_pools.swap_remove(place).1) {
                Some(pool) if same_ports => pool,
                old => {
                    let used: Vec<u16> = self.ports_out(advertise).collect();
                    let mut pool = PortPool::new(self.config.ports, self.shard, |port| used.contains(&port));
                    if let Some(old) = old {
                        pool.keep_resting(old);
                    }
                    pool
                }
            };
            self.pools.push((address, pool));
        }
        let config = Arc::clone(&self.config);
        for (_, allocation) in self.allocations.iter_mut() {
            allocation.revise(|peer| config.peer_ports(peer).ok());
        }
        self.close_refused_connections();
        self.configure_bandwidth();
        self.remirror_all();
    }

    /// When [`Server::handle_timeout`] wants to be called next. O(1).
    pub fn next_timeout(&self) -> Option<Now> {
        [self.timers.next(), self.connections.next_deadline(), self.look_ups.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends what has expired. Law: afterwards `next_timeout()` is `None` or later than `clock.now`.
    pub fn handle_timeout(&mut self, clock: Clock) {
        self.end_overdue_connections(clock);
        self.end_overdue_look_ups(clock);
        if self.timers.next().is_none_or(|next| next > clock.now) {
            return;
        }
        let mut woken = Vec::new();
        self.timers.expire(clock.now, |deadline, slot| woken.push((deadline, slot)));
        for (deadline, slot) in woken {
            match self.allocations.woken(slot, deadline) {
                Some((name, due)) if due <= clock.now => {
                    // It is one of the two, or its permissions and channels.
                    self.end_reservation(clock, name);
                    self.allocations.sweep(clock.now, name);
                    self.remirror(clock.now, name, Ask::Nothing);
                    self.end_expired_half(clock, name);
                    self.end_expired_half(clock, name.other_half());
                    self.arm(clock, name);
                }
                // Refreshed meanwhile, or another one than it was armed for.
                Some((relay, _)) => self.arm(clock, relay),
                None => {}
            }
        }
    }

    /// The next piece of indirect work, until `None`.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Allocations alive now.
    pub fn allocations(&self) -> usize {
        self.allocations.live()
    }

    /// Relayed addresses alive now.
    pub fn relayed_addresses(&self) -> RelayedAddresses {
        self.allocations.relayed()
    }

    /// Deadlines in the timer wheel: at most a few for each slot that was ever used. Looks at the whole wheel.
    pub fn timers_armed(&self) -> usize {
        self.timers.len()
    }

    /// 5-tuples, of clients of other shards, from which datagrams are passed on.
    pub fn paths_carried(&self) -> usize {
        self.elsewhere.len()
    }

    /// Connections to peers: open, and being made.
    pub fn peer_connections(&self) -> usize {
        self.connections.len()
    }

    /// Sums since this server was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What one relayed address has relayed so far.
    pub fn traffic(&mut self, relay: RelayId) -> Option<Traffic> {
        let allocation = self.allocations.get_mut(relay)?;
        allocation.halves().iter().find(|half| half.family() == relay.family).map(|half| half.traffic)
    }

    /// Panics where the tables contradict each other; the simulation calls it after every step.
    pub fn check_invariants(&mut self) {
        self.allocations.check_invariants();
        self.connections.check_invariants();
        let meters = self.allocations.iter_mut().filter_map(|(_, allocation)| allocation.meter.as_deref());
        self.meters.check_invariants(meters);
        self.look_ups.check_invariants();
        let limits = self.config.limits;
        for (_, allocation) in self.allocations.iter_mut() {
            allocation.check_invariants(limits.permissions_per_allocation, limits.channels_per_allocation);
        }
        self.check_mirror();
        let ports = self.config.ports;
        let owned = (ports.first..=ports.last).filter(|port| self.shard.owns(*port)).count();
        for (address, pool) in &self.pools {
            // Allocations keep a port that the configuration has dropped since; the pool knows nothing of it.
            let used = self.ports_out(address.advertise).filter(|port| ports.contains(*port)).count();
            assert_eq!(pool.idle() + used, owned, "a port of {} was lost or given out twice", address.bind);
        }
    }
}

/// What several rooms of the machine share.
impl Server {
    /// The allocation of this 5-tuple, if the requester owns it.
    pub(super) fn own_allocation(
        &mut self,
        clock: Clock,
        path: &FiveTuple,
        request: &Authenticated<'_, '_>,
    ) -> Result<(RelayId, &mut Allocation), ErrorCode> {
        match self.allocations.live_by_path(clock.now, path) {
            None => Err(ErrorCode::AllocationMismatch),
            // By name, so that a fresh time-limited name of the same person is another user, as the RFC has it.
            Some((_, allocation)) if !allocation.owner.is_same_user(request.owner()) => {
                Err(ErrorCode::WrongCredentials)
            }
            Some(found) => Ok(found),
        }
    }

    /// Asks the peer policy, and puts a refusal on record. The ports of the peer that may be reached.
    pub(super) fn check_peer(
        &mut self,
        session: SessionId,
        path: FiveTuple,
        peer: SocketAddr,
    ) -> Result<PortSet, ErrorCode> {
        self.config.check_peer(peer).map_err(|why| {
            self.record(Event::PeerRefused { session, path, peer, why });
            ErrorCode::Forbidden
        })
    }

    /// Tells another shard, from which a message of this 5-tuple has come, to pass on no more, unless it has an
    /// allocation here or may get one.
    pub(super) fn stop_carrier(&mut self, clock: Clock, carrier: u16, path: FiveTuple) {
        if self.allocations.live_by_path(clock.now, &path).is_none() && !self.look_ups.waits(&path) {
            self.effects.push_back(Effect::Tell { shard: carrier, letter: Letter::Stop { path } });
        }
    }

    /// Has the timer wheel come round in time for this allocation or reservation.
    pub(super) fn arm(&mut self, clock: Clock, relay: RelayId) {
        if let Some(deadline) = self.allocations.deadline_to_arm(relay) {
            self.timers.arm(clock.now, deadline, relay.slot);
        }
    }

    /// Ends the relayed address of this name, if there is one, and gives back all it held. With the last one the
    /// allocation ends.
    pub(super) fn end(&mut self, clock: Clock, relay: RelayId, why: EndReason) {
        self.close_connections(relay, why == EndReason::PathClosed);
        self.unmirror_half(relay);
        let Some((half, rest)) = self.allocations.remove(relay) else {
            return;
        };
        self.counters.allocations_ended[why as usize] += u64::from(matches!(rest, Removed::All(_)));
        let (session, path) = (rest.session, rest.path);
        let (account, realm) = (Arc::clone(&rest.owner.account), rest.owner.told_realm(&self.config));
        let (relayed, traffic) = (half.relay.relayed(), half.traffic);
        let unpermitted = rest.unpermitted.map(|dropped| dropped.count);
        let paths = if let Removed::All(all) = &rest { all.paths() } else { ArrayVec::new() };
        let hints = rest.watch.hints();
        let has_ended = matches!(rest, Removed::All(_));
        if let Some(meter) = rest.meter.as_ref().filter(|_| has_ended) {
            self.meters.leave(meter);
        }
        if has_ended {
            self.count_hints(hints);
        }
        self.release_port(clock, half.relay);
        self.effects.push_back(Effect::CloseRelay { relay, account: Arc::clone(&account) });
        for (path, carrier) in paths {
            let tell = |shard| Effect::Tell { shard, letter: Letter::Stop { path } };
            self.effects.extend(carrier.map(tell));
        }
        // Whoever bills counts on it: never left out, and never more than there are sockets to close.
        let ended = Event::Ended { session, relay, path, relayed, account, realm, why, traffic, hints, unpermitted };
        self.effects.push_back(Effect::Record(ended));
    }

    /// Ends the allocation of this 5-tuple if its time is over but the wheel has not come round yet.
    pub(super) fn end_expired_at(&mut self, clock: Clock, path: &FiveTuple) {
        if let Some(relay) = self.allocations.expired_at(clock.now, path) {
            self.end(clock, relay, EndReason::Expired);
            self.end(clock, relay.other_half(), EndReason::Expired);
        }
    }

    fn end_expired_half(&mut self, clock: Clock, relay: RelayId) {
        let half = self.allocations.get_mut(relay).map(|allocation| *allocation.first_to_end());
        if half.is_some_and(|half| half.family() == relay.family && half.expires <= clock.now) {
            self.end(clock, relay, EndReason::Expired);
        }
    }

    /// Gives back a port that was in use, to whomever it belongs.
    pub(super) fn release_port(&mut self, clock: Clock, relay: Relay) {
        if !self.shard.owns(relay.port) {
            let letter = Letter::Return { address: relay.address, port: relay.port };
            self.effects.push_back(Effect::Tell { shard: self.shard.owner_of(relay.port), letter });
        } else if let Some(pool) = self.pool_mut(relay) {
            pool.release(clock.now, relay.port);
        }
    }

    /// Gives back a port that never was in use.
    pub(super) fn release_unused(&mut self, clock: Clock, relay: Relay) {
        if !self.shard.owns(relay.port) {
            self.release_port(clock, relay);
        } else if let Some(pool) = self.pool_mut(relay) {
            pool.release_unused(relay.port);
        }
    }

    /// Ports of ours at this advertised address that are not in the pool.
    fn ports_out(&self, advertise: IpAddr) -> impl Iterator<Item = u16> {
        let lent = self.lent.values().map(|(_, relay)| *relay);
        let relays = self.allocations.relays().chain(lent).filter(move |relay| relay.address.advertise == advertise);
        relays.map(|relay| relay.port).filter(|port| self.shard.owns(*port))
    }

    /// The pool a port came from, unless the configuration has dropped it since.
    pub(super) fn pool_mut(&mut self, relay: Relay) -> Option<&mut PortPool> {
        if !self.config.ports.contains(relay.port) {
            return None;
        }
        let advertise = relay.address.advertise;
        self.pools.iter_mut().find(|(address, _)| address.advertise == advertise).map(|(_, pool)| pool)
    }

    /// Queues an event. Events are for people: when the shell is behind they are what is left out.
    pub(super) fn record(&mut self, event: Event) {
        if self.effects.len() < self.config.limits.effects {
            self.effects.push_back(Effect::Record(event));
        }
    }

    fn count_drop(&mut self, verdict: &Verdict) {
        if let Verdict::Drop(reason) = verdict {
            self.counters.drops[*reason as usize] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::{AttributeType, Class, MessageWriter, Method, Seal, TransactionId, integrity};
    use crate::turn::{Credentials, IpFields, Lifetimes, Limits, NonceKeys, PortRange, StaticUser, Transport};

    fn config(first: u16, last: u16, bind: &str) -> Arc<Config> {
        let user = StaticUser::from_password("alice", "example.org", "s3cret");
        let nonces = NonceKeys { current: [1; 32], previous: None, lifetime_secs: 600 };
        Arc::new(Config {
            realm: "example.org".into(),
            software: None,
            credentials: Credentials { users: [("alice".to_string(), user)].into(), ..Credentials::default() },
            relays: vec![RelayAddress { bind: bind.parse().unwrap(), advertise: "203.0.113.9".parse().unwrap() }],
            ports: PortRange { first, last, quarantine_secs: 30 },
            lifetimes: Lifetimes { allocation_default_secs: 600, allocation_max_secs: 3600 },
            limits: Limits {
                allocations: 10,
                permissions_per_allocation: 10,
                channels_per_allocation: 10,
                effects: 100,
                ..Limits::default()
            },
            ..Config::new(nonces)
        })
    }

    const CLOCK: Clock = Clock { now: Now(1), unix_secs: 1_800_000_000 };

    fn client(port: u16) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: SocketAddr::new("192.0.2.1".parse().unwrap(), port),
            server: "192.0.2.2:3478".parse().unwrap(),
        }
    }

    /// Allocates, and returns the local address the shell was asked to bind.
    fn allocate(server: &mut Server, path: FiveTuple) -> SocketAddr {
        let mut buffer = [0; 512];
        let room = &mut buffer[Packet::HEADROOM..];
        let id = TransactionId([path.client.port() as u8; 12]);
        let mut writer = MessageWriter::new(room, Method::Allocate, Class::Request, id);
        writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
        writer.attribute(AttributeType::USERNAME, b"alice");
        writer.attribute(AttributeType::REALM, b"example.org");
        let nonce = server.config.nonces.issue(server.config.credentials.offer(), CLOCK.unix_secs, &path);
        writer.attribute(AttributeType::NONCE, nonce.as_bytes());
        let key = integrity::long_term_key_md5("alice", "example.org", "s3cret");
        let len = writer.finish(Seal::Sha1(&key), false);
        let range = Packet::HEADROOM..Packet::HEADROOM + len;
        let mut packet = Packet::new(&mut buffer, range, IpFields::default());
        let verdict = server.from_client(CLOCK, path, &mut packet, &mut ReplyBuffer::new());
        assert_eq!(verdict, Verdict::Later);
        let Some(Effect::BindRelay { relay, local, .. }) = server.next_effect() else {
            panic!("a bind must be asked for");
        };
        server.relay_bound(CLOCK, relay, Ok(()));
        server.check_invariants();
        while server.next_effect().is_some() {}
        local
    }

    /// Found by the simulation: a range that no longer holds the ports of live allocations is no contradiction.
    #[test]
    fn configure_with_another_port_range_keeps_the_accounts_of_ports() {
        let mut server = Server::new(config(50_000, 50_003, "10.0.0.1"), ShardIndex::SINGLE, [1; 32]);
        for port in 1..=4 {
            allocate(&mut server, client(port));
        }
        server.configure(config(50_002, 50_005, "10.0.0.1"));
        server.check_invariants();
        assert!(allocate(&mut server, client(5)).port() >= 50_004);
        server.shut_down(CLOCK);
        server.check_invariants();
    }

    /// Found by the simulation: behind the same advertised address the same port would be two allocations at once.
    #[test]
    fn configure_with_another_bind_address_gives_no_relayed_address_out_twice() {
        let mut server = Server::new(config(50_000, 50_001, "10.0.0.1"), ShardIndex::SINGLE, [1; 32]);
        let first = allocate(&mut server, client(1));
        server.configure(config(50_000, 50_001, "10.0.0.2"));
        server.check_invariants();
        let second = allocate(&mut server, client(2));
        assert_eq!(second.ip().to_string(), "10.0.0.2");
        assert_ne!(first.port(), second.port());
    }
}
