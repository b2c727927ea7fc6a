//! The oracle: RFC 8656 state in plain maps, written from the RFC and not from the server.
//!
//! It reads every message the server reads, before the server does, says what must come back, and is told what the
//! shell answered. Time is compared where it matters; nothing here knows timers, slots, pools or indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use hairpin::turn::{BindError, Clock, FiveTuple, Traffic, Transport};

use crate::expect::{Expected, Response, Seal, Success};
use crate::requests::User;
use crate::rules::Rules;

pub const SECOND: u64 = 1_000_000_000;
const PERMISSION_SECS: u64 = 300;
const CHANNEL_SECS: u64 = 600;
const REMEMBERED_SECS: u64 = 40;
const BIND_ATTEMPTS_MAX: u32 = 8;

/// A relay's name: shard and token.
pub type RelayName = (u16, u64);

#[derive(Clone, Debug)]
pub struct Live {
    pub relay: RelayName,
    pub username: String,
    pub account: String,
    pub created_by: [u8; 12],
    pub relayed: SocketAddr,
    pub expires: u64,
    pub permissions: BTreeMap<IpAddr, u64>,
    pub channels: BTreeMap<u16, (SocketAddr, u64)>,
    pub traffic: Traffic,
}

#[derive(Clone, Debug)]
pub struct Pending {
    pub path: FiveTuple,
    pub user: User,
    pub transaction_id: [u8; 12],
    pub lifetime_secs: u32,
    pub fingerprint: bool,
    pub is_ipv6: bool,
    pub relayed: SocketAddr,
    pub attempts: u32,
    pub abandoned: bool,
}

/// What the server owes its shell after the current call. Anything else it asks for is wrong.
#[derive(Debug, Default)]
pub struct Owed {
    pub bind: Option<Pending>,
    /// The same, for a relay name that is known already (another port is tried).
    pub rebind: Option<RelayName>,
    pub send: Option<(FiveTuple, Response)>,
    pub closes: BTreeSet<RelayName>,
}

#[derive(Debug)]
pub struct Nonce {
    pub issued_unix_secs: u64,
    pub client: (Transport, SocketAddr),
    pub generation: u8,
}

#[derive(Debug)]
pub struct Model {
    pub rules: Rules,
    pub shard_count: u16,
    pub live: BTreeMap<FiveTuple, Live>,
    pub pending: BTreeMap<RelayName, Pending>,
    pub nonces: BTreeMap<Vec<u8>, Nonce>,
    /// Relayed addresses that were used, and until when they rest.
    pub resting: BTreeMap<SocketAddr, u64>,
    pub deleted: Vec<(u64, FiveTuple, [u8; 12])>,
    pub draining: BTreeSet<u16>,
    pub owed: Owed,
    /// Sums of each shard.
    pub totals: BTreeMap<u16, Traffic>,
}

impl Model {
    pub fn new(rules: Rules, shard_count: u16) -> Self {
        Self {
            rules,
            shard_count,
            live: BTreeMap::new(),
            pending: BTreeMap::new(),
            nonces: BTreeMap::new(),
            resting: BTreeMap::new(),
            deleted: Vec::new(),
            draining: BTreeSet::new(),
            owed: Owed::default(),
            totals: BTreeMap::new(),
        }
    }

    pub fn owner_of(&self, port: u16) -> u16 {
        (port / 2) % self.shard_count
    }

    /// The allocation of a 5-tuple, if its time is not over.
    pub fn alive(&mut self, now: u64, path: &FiveTuple) -> Option<&mut Live> {
        self.live.get_mut(path).filter(|live| now < live.expires)
    }

    pub fn pending_at(&self, path: &FiveTuple) -> Option<&Pending> {
        self.pending.values().find(|pending| pending.path == *path && !pending.abandoned)
    }

    /// Data from a client towards a peer, before the server decides about it.
    pub fn data_to_peer(&mut self, clock: Clock, path: FiveTuple, to: SocketAddr, data: &[u8]) -> Expected {
        let now = clock.now.0;
        let Some(live) = self.alive(now, &path) else {
            return Expected::Drop;
        };
        if live.relayed.is_ipv4() != to.is_ipv4() || to.port() == 0 || !is_permitted(live, now, to.ip()) {
            return Expected::Drop;
        }
        let (relay, from) = (live.relay, live.relayed);
        let to_own_ip = self.rules.is_relay_ip(to.ip());
        if to_own_ip && !self.rules.is_relay_port(to.port()) {
            return Expected::Drop;
        }
        let live = self.live.get_mut(&path).expect("alive a moment ago");
        let totals = self.totals.entry(relay.0).or_default();
        for traffic in [&mut live.traffic, totals] {
            traffic.packets_to_peer += 1;
            traffic.bytes_to_peer += data.len() as u64;
        }
        if !to_own_ip {
            return Expected::ToPeer { relay: relay.1, to, data: data.to_vec() };
        }
        if self.owner_of(to.port()) != relay.0 {
            return Expected::ToRelay { relayed: to, from, data: data.to_vec() };
        }
        self.data_to_relayed(clock, to, from, data)
    }

    /// Data for a relayed address of this server, from another one of its own.
    pub fn data_to_relayed(&mut self, clock: Clock, to: SocketAddr, from: SocketAddr, data: &[u8]) -> Expected {
        let found = self.live.iter().find(|(_, live)| live.relayed == to && clock.now.0 < live.expires);
        match found.map(|(path, live)| (*path, live.relay)) {
            Some((_, relay)) => self.data_from_peer(clock, relay, from, data),
            None => Expected::Drop,
        }
    }

    /// A datagram at the socket of a relay.
    pub fn data_from_peer(&mut self, clock: Clock, relay: RelayName, peer: SocketAddr, data: &[u8]) -> Expected {
        let now = clock.now.0;
        let Some((path, live)) = self.live.iter_mut().find(|(_, live)| live.relay == relay) else {
            return Expected::Drop;
        };
        if now >= live.expires || !is_permitted(live, now, peer.ip()) {
            return Expected::Drop;
        }
        let channel = live.channels.iter().find(|(_, (bound, expires))| *bound == peer && now < *expires);
        let channel = channel.map(|(number, _)| *number);
        let totals = self.totals.entry(relay.0).or_default();
        for traffic in [&mut live.traffic, totals] {
            traffic.packets_to_client += 1;
            traffic.bytes_to_client += data.len() as u64;
        }
        Expected::ToClient { path: *path, channel, peer, data: data.to_vec() }
    }

    /// The shell's answer to a bind, before the server hears it.
    pub fn relay_bound(&mut self, clock: Clock, relay: RelayName, result: Result<(), BindError>) {
        let mut pending = self.pending.remove(&relay).expect("the shell answers once");
        let outcome = match result {
            Ok(()) if pending.abandoned => {
                self.rest(clock.now.0, pending.relayed);
                self.owed.closes.insert(relay);
                return;
            }
            Ok(()) => Ok(Success::Allocate {
                relayed: pending.relayed,
                mapped: pending.path.client,
                lifetime_secs: pending.lifetime_secs,
            }),
            Err(BindError::PortInUse) => {
                // Before the taken port is given back, lest it be drawn again at once.
                let others = self.ports_free(clock.now.0, relay.0, pending.is_ipv6) - {
                    let still_ours = self.is_configured(pending.relayed);
                    usize::from(still_ours)
                };
                self.rest(clock.now.0, pending.relayed);
                if !pending.abandoned && pending.attempts < BIND_ATTEMPTS_MAX && others > 0 {
                    pending.attempts += 1;
                    self.pending.insert(relay, pending);
                    self.owed.rebind = Some(relay);
                    return;
                }
                Err(508)
            }
            Err(BindError::UserQuotaReached) => Err(486),
            Err(BindError::OutOfCapacity) => Err(508),
        };
        if pending.abandoned {
            return;
        }
        if outcome.is_ok() {
            let live = Live {
                relay,
                username: pending.user.username.clone(),
                account: pending.user.account.clone(),
                created_by: pending.transaction_id,
                relayed: pending.relayed,
                expires: clock.now.0 + u64::from(pending.lifetime_secs) * SECOND,
                permissions: BTreeMap::new(),
                channels: BTreeMap::new(),
                traffic: Traffic::default(),
            };
            let before = self.live.insert(pending.path, live);
            assert!(before.is_none(), "a second allocation on {:?}", pending.path);
        }
        let response = Response {
            method: crate::wire::ALLOCATE,
            transaction_id: pending.transaction_id,
            outcome,
            seal: Some(Seal { key: pending.user.key, sha256: pending.user.sha256 }),
            fingerprint: pending.fingerprint,
        };
        self.owed.send = Some((pending.path, response));
    }

    /// A client's TCP connection is gone.
    pub fn path_closed(&mut self, clock: Clock, path: FiveTuple) {
        for pending in self.pending.values_mut().filter(|pending| pending.path == path) {
            pending.abandoned = true;
        }
        if let Some(live) = self.alive(clock.now.0, &path) {
            let relay = live.relay;
            self.owed.closes.insert(relay);
        }
    }

    pub fn shut_down(&mut self, shard: u16) {
        self.draining.insert(shard);
        for ((at, _), pending) in &mut self.pending {
            pending.abandoned |= *at == shard;
        }
        let ours = self.live.values().filter(|live| live.relay.0 == shard);
        self.owed.closes.extend(ours.map(|live| live.relay));
    }

    /// New rules: what they refuse ends at once, allocations stay.
    pub fn reload(&mut self, rules: Rules) {
        for live in self.live.values_mut() {
            live.permissions.retain(|ip, _| rules.allows(SocketAddr::new(*ip, 0)));
            live.channels.retain(|_, (peer, _)| rules.allows(*peer));
        }
        self.rules = rules;
        let mut resting = std::mem::take(&mut self.resting);
        resting.retain(|relayed, _| self.is_configured(*relayed));
        self.resting = resting;
    }

    /// A socket was closed; the allocation that had it is returned.
    pub fn closed(&mut self, clock: Clock, relay: RelayName) -> Option<(FiveTuple, Live)> {
        let path = self.live.iter().find(|(_, live)| live.relay == relay)?.0;
        let path = *path;
        let live = self.live.remove(&path)?;
        self.rest(clock.now.0, live.relayed);
        Some((path, live))
    }

    /// After timers ran: nothing may be left that expired more than a tick of the wheel ago.
    pub fn timers_ran(&self, now: u64, shard: u16) {
        const TICK: u64 = 1 << 30;
        for (path, live) in self.live.iter().filter(|(_, live)| live.relay.0 == shard) {
            assert!(live.expires + TICK > now, "{path:?} expired {} ns ago and is still there", now - live.expires);
        }
    }

    /// When the earliest allocation of a shard expires.
    pub fn earliest_expiry(&self, shard: u16) -> Option<u64> {
        let ours = self.live.values().filter(|live| live.relay.0 == shard);
        ours.map(|live| live.expires).min()
    }

    /// Relayed address, peer and end of every permission.
    pub fn permission_edges(&self) -> Vec<(SocketAddr, IpAddr, u64)> {
        let live = self.live.values();
        live.flat_map(|live| live.permissions.iter().map(|(ip, expires)| (live.relayed, *ip, *expires))).collect()
    }

    /// Ports of one family that a shard could still give out.
    pub fn ports_free(&self, now: u64, shard: u16, is_ipv6: bool) -> usize {
        let relays = self.rules.relays.iter().map(|(_, advertise)| *advertise);
        relays
            .filter(|advertise| advertise.is_ipv6() == is_ipv6)
            .flat_map(|ip| (self.rules.first_port..=self.rules.last_port).map(move |port| SocketAddr::new(ip, port)))
            .filter(|relayed| self.owner_of(relayed.port()) == shard && self.is_free(now, *relayed))
            .count()
    }

    /// Whether nobody has this relayed address and it has rested long enough.
    pub fn is_free(&self, now: u64, relayed: SocketAddr) -> bool {
        let is_used = self.live.values().any(|live| live.relayed == relayed)
            || self.pending.values().any(|pending| pending.relayed == relayed);
        !is_used && self.resting.get(&relayed).is_none_or(|until| *until <= now)
    }

    fn is_configured(&self, relayed: SocketAddr) -> bool {
        self.rules.is_relay_ip(relayed.ip()) && self.rules.is_relay_port(relayed.port())
    }

    fn rest(&mut self, now: u64, relayed: SocketAddr) {
        if self.is_configured(relayed) {
            let until = now + u64::from(self.rules.quarantine_secs) * SECOND;
            self.resting.insert(relayed, until);
        }
    }

    /// Whether a deletion by this very request is still remembered.
    pub fn was_deleted_by(&self, now: u64, path: &FiveTuple, transaction_id: [u8; 12]) -> bool {
        self.deleted.iter().any(|(until, at, by)| now < *until && at == path && *by == transaction_id)
    }

    pub fn remember_deletion(&mut self, now: u64, path: FiveTuple, transaction_id: [u8; 12]) {
        self.deleted.push((now + REMEMBERED_SECS * SECOND, path, transaction_id));
    }
}

pub fn is_permitted(live: &Live, now: u64, peer: IpAddr) -> bool {
    live.permissions.get(&peer).is_some_and(|expires| now < *expires)
}

impl Live {
    /// Permissions alive now.
    pub fn permissions_alive(&self, now: u64) -> BTreeSet<IpAddr> {
        let alive = self.permissions.iter().filter(|(_, expires)| now < **expires);
        alive.map(|(ip, _)| *ip).collect()
    }

    pub fn permit(&mut self, now: u64, peers: &BTreeSet<IpAddr>) {
        for peer in peers {
            self.permissions.insert(*peer, now + PERMISSION_SECS * SECOND);
        }
    }

    pub fn bind_channel(&mut self, now: u64, number: u16, peer: SocketAddr) {
        self.channels.insert(number, (peer, now + CHANNEL_SECS * SECOND));
    }
}
