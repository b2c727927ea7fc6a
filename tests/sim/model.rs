//! The oracle: RFC 8656 and RFC 8016 state in plain maps, written from the RFCs and not from the server.
//!
//! It reads every message the server reads, before the server does, says what must come back, and is told what the
//! shell answered. Time is compared where it matters; nothing here knows timers, slots, pools, indexes, or which shard
//! keeps what. How an allocation comes to its ports is in `allocating.rs`, what requests do in `requests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use hairpin::turn::{Clock, FiveTuple, Traffic, Transport};

use crate::allocating::Pending;
use crate::expect::{Expected, Response};
use crate::rules::Rules;
use crate::wire::{self, Parsed};

pub const SECOND: u64 = 1_000_000_000;
const PERMISSION_SECS: u64 = 300;
const CHANNEL_SECS: u64 = 600;
pub const REMEMBERED_SECS: u64 = 40;
const ICMP_PER_SECOND: u64 = 8;

/// A relay's name: shard and token.
pub type RelayName = (u16, u64);

/// One relayed address of an allocation.
#[derive(Clone, Debug)]
pub struct Half {
    pub relay: RelayName,
    pub relayed: SocketAddr,
    pub expires: u64,
    pub traffic: Traffic,
}

#[derive(Clone, Debug)]
pub struct Live {
    pub shard: u16,
    pub halves: Vec<Half>,
    /// Where its client is, or was.
    pub path: FiveTuple,
    /// That path leads nowhere any more.
    pub is_adrift: bool,
    /// Where the client has shown its ticket and sent no data yet.
    pub next: Option<FiveTuple>,
    pub username: String,
    pub account: String,
    pub created_by: [u8; 12],
    pub token: Option<Vec<u8>>,
    pub refused: Option<(u8, u16)>,
    /// The ticket that is good now; empty until the response with it was seen.
    pub ticket: Option<Vec<u8>>,
    /// The last showing: until when it is remembered, the request, the ticket before.
    pub shown: Option<(u64, [u8; 12], Vec<u8>)>,
    pub permissions: BTreeMap<IpAddr, u64>,
    pub channels: BTreeMap<u16, (SocketAddr, u64)>,
    /// A second, and how often its client was told of ICMP in it.
    pub icmp: (u64, u64),
}

/// A port held for a token.
#[derive(Clone, Debug)]
pub struct Reserved {
    pub relayed: SocketAddr,
    pub username: String,
    pub expires: u64,
    /// Known when the response was seen.
    pub token: Vec<u8>,
}

/// What the server owes its shell after the current call. Anything else it asks for is wrong.
#[derive(Debug, Default)]
pub struct Owed {
    /// A relay for this pending allocation.
    pub bind: Option<u64>,
    pub send: Option<(FiveTuple, Response)>,
    pub closes: BTreeSet<RelayName>,
    /// Where the client of an allocation was when a half of it was deleted; it may have moved by the same request.
    pub was_at: Option<(u64, FiveTuple)>,
    /// To whom, about which peer, and the value of the ICMP attribute.
    pub icmp: Option<(FiveTuple, SocketAddr, Vec<u8>)>,
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
    pub live: BTreeMap<u64, Live>,
    pub pending: BTreeMap<u64, Pending>,
    pub reserved: BTreeMap<RelayName, Reserved>,
    /// One whose time is over and that is about to make room.
    pub ending: Option<u64>,
    /// How many allocations were asked for; their names here.
    pub count: u64,
    pub nonces: BTreeMap<Vec<u8>, Nonce>,
    /// Every ticket there ever was, and the shard it leads to.
    pub tickets: BTreeMap<Vec<u8>, u16>,
    /// Relayed addresses that were used, and until when they rest.
    pub resting: BTreeMap<SocketAddr, u64>,
    /// Connections that went from one shard to another, which they do once.
    pub moved: BTreeSet<FiveTuple>,
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
            reserved: BTreeMap::new(),
            ending: None,
            count: 0,
            nonces: BTreeMap::new(),
            tickets: BTreeMap::new(),
            resting: BTreeMap::new(),
            moved: BTreeSet::new(),
            deleted: Vec::new(),
            draining: BTreeSet::new(),
            owed: Owed::default(),
            totals: BTreeMap::new(),
        }
    }

    pub fn owner_of(&self, port: u16) -> u16 {
        (port / 2) % self.shard_count
    }

    /// The allocation that has a 5-tuple, even if its time is over.
    pub fn at(&self, path: &FiveTuple) -> Option<u64> {
        self.live.iter().find(|(_, live)| live.has_path(path)).map(|(id, _)| *id)
    }

    /// The allocation of a 5-tuple, if its time is not over.
    pub fn alive(&mut self, now: u64, path: &FiveTuple) -> Option<&mut Live> {
        let id = self.at(path)?;
        self.live.get_mut(&id).filter(|live| live.is_alive(now))
    }

    /// Data from a client towards a peer, before the server decides about it.
    pub fn data_to_peer(&mut self, clock: Clock, path: FiveTuple, to: SocketAddr, data: &[u8]) -> Expected {
        let now = clock.now.0;
        let is_closed = self.is_closed(to);
        let Some(live) = self.alive(now, &path) else {
            return Expected::Drop;
        };
        if to.port() == 0 || !is_permitted(live, now, to.ip()) {
            return Expected::Drop;
        }
        let Some(half) = live.half_for(now, to.ip()) else {
            return Expected::Drop;
        };
        if is_closed {
            return Expected::Drop;
        }
        let (relay, from) = (half.relay, half.relayed);
        if live.next == Some(path) {
            // The client is where its data comes from, and nowhere else (MOB-8016-3.2.2-07).
            (live.path, live.next) = (path, None);
        }
        let to_own_ip = self.rules.is_relay_ip(to.ip());
        let live = self.alive(now, &path).expect("alive a moment ago");
        let half = live.half_for(now, to.ip()).expect("it was there a moment ago");
        half.traffic.packets_to_peer += 1;
        half.traffic.bytes_to_peer += data.len() as u64;
        let totals = self.totals.entry(relay.0).or_default();
        totals.packets_to_peer += 1;
        totals.bytes_to_peer += data.len() as u64;
        if !to_own_ip {
            return Expected::ToPeer { relay: relay.1, to, data: data.to_vec() };
        }
        let is_here = self.live.values().any(|live| live.shard == relay.0 && live.half_at(now, to).is_some());
        if !is_here && self.owner_of(to.port()) != relay.0 {
            return Expected::ToRelay { relayed: to, from, data: data.to_vec() };
        }
        self.data_to_relayed(clock, relay.0, to, from, data)
    }

    /// Data for a relayed address of this server, from another one of its own.
    pub fn data_to_relayed(
        &mut self,
        clock: Clock,
        at: u16,
        to: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) -> Expected {
        let mut here = self.live.values().filter(|live| live.shard == at);
        if let Some(relay) = here.find_map(|live| Some(live.half_at(clock.now.0, to)?.relay)) {
            return self.data_from_peer(clock, relay, from, data);
        }
        // Whoever reserved a port passes on what is for the one that has redeemed it.
        let has = |live: &Live| live.halves.iter().any(|half| half.relayed == to);
        let is_lent = self.live.values().any(|live| live.shard != at && has(live))
            || self.pending.values().any(|pending| pending.shard != at && pending.has(to));
        if is_lent && self.owner_of(to.port()) == at {
            return Expected::ToRelay { relayed: to, from, data: data.to_vec() };
        }
        Expected::Drop
    }

    /// A datagram at the socket of a relay.
    pub fn data_from_peer(&mut self, clock: Clock, relay: RelayName, peer: SocketAddr, data: &[u8]) -> Expected {
        let now = clock.now.0;
        let is_closed = self.is_closed(peer);
        let Some(live) = self.with_relay(now, relay) else {
            return Expected::Drop;
        };
        if !is_permitted(live, now, peer.ip()) || is_closed || live.is_adrift {
            return Expected::Drop;
        }
        let path = live.path;
        let channel = live.channels.iter().find(|(_, (bound, expires))| *bound == peer && now < *expires);
        let channel = channel.map(|(number, _)| *number);
        let half = live.halves.iter_mut().find(|half| half.relay == relay).expect("it lives");
        half.traffic.packets_to_client += 1;
        half.traffic.bytes_to_client += data.len() as u64;
        let totals = self.totals.entry(relay.0).or_default();
        totals.packets_to_client += 1;
        totals.bytes_to_client += data.len() as u64;
        Expected::ToClient { path, channel, peer, data: data.to_vec() }
    }

    /// Of a relay address only the relay ports are open, to data in both directions.
    pub fn is_closed(&self, peer: SocketAddr) -> bool {
        self.rules.is_relay_ip(peer.ip()) && !self.rules.is_relay_port(peer.port())
    }

    fn with_relay(&mut self, now: u64, relay: RelayName) -> Option<&mut Live> {
        self.live.values_mut().find(|live| live.halves.iter().any(|half| half.relay == relay && now < half.expires))
    }

    /// ICMP about a datagram from a relay to a peer.
    pub fn icmp(&mut self, clock: Clock, relay: RelayName, peer: SocketAddr, kind: u8, code: u8, mtu: u32) {
        let is_ipv6 = relay.1 & 1 == 1;
        let is_told = if is_ipv6 { (1..=3).contains(&kind) } else { kind == 3 || kind == 11 };
        let now = clock.now.0;
        let Some(live) = self.with_relay(now, relay) else { return };
        if !is_told || !is_permitted(live, now, peer.ip()) || live.is_adrift {
            return;
        }
        if live.icmp.0 != now / SECOND {
            live.icmp = (now / SECOND, 0);
        }
        if live.icmp.1 >= ICMP_PER_SECOND {
            return;
        }
        live.icmp.1 += 1;
        // "Fragmentation needed" and "packet too big" come with an MTU, nothing else with anything.
        let has_mtu = if is_ipv6 { kind == 2 } else { (kind, code) == (3, 4) };
        let mut value = vec![0, 0, kind, code];
        value.extend(if has_mtu { mtu } else { 0 }.to_be_bytes());
        self.owed.icmp = Some((live.path, peer, value));
    }

    /// A client's TCP connection is gone.
    pub fn path_closed(&mut self, clock: Clock, path: FiveTuple) {
        for pending in self.pending.values_mut().filter(|pending| pending.path == path) {
            pending.abandoned = true;
        }
        let may_wait = self.rules.mobility;
        let Some(live) = self.alive(clock.now.0, &path) else { return };
        if live.next == Some(path) {
            live.next = None;
        } else if let Some(next) = live.next.take() {
            live.path = next;
        } else if live.ticket.is_some() && may_wait {
            live.is_adrift = true;
        } else {
            let halves: Vec<RelayName> = live.halves.iter().map(|half| half.relay).collect();
            self.owed.closes.extend(halves);
        }
    }

    pub fn shut_down(&mut self, shard: u16) {
        self.draining.insert(shard);
        for pending in self.pending.values_mut().filter(|pending| pending.shard == shard) {
            pending.abandoned = true;
        }
        let halves = self.live.values().filter(|live| live.shard == shard).flat_map(|live| &live.halves);
        self.owed.closes.extend(halves.map(|half| half.relay));
        self.owed.closes.extend(self.reserved.keys().filter(|(at, _)| *at == shard));
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

    /// A socket was closed; what it was of an allocation is returned.
    pub fn closed(&mut self, clock: Clock, relay: RelayName) -> Option<(FiveTuple, String, Half)> {
        let now = clock.now.0;
        if let Some(reserved) = self.reserved.remove(&relay) {
            // Not if it is redeemed: then somebody is about to have it.
            let is_redeemed = self.pending.values().any(|pending| pending.has(reserved.relayed));
            if !is_redeemed {
                self.rest(now, reserved.relayed);
            }
            return None;
        }
        let (id, live) = self.live.iter_mut().find(|(_, live)| live.halves.iter().any(|half| half.relay == relay))?;
        let place = live.halves.iter().position(|half| half.relay == relay)?;
        let half = live.halves.remove(place);
        let (id, path, account) = (*id, live.path, live.account.clone());
        let families: Vec<bool> = live.halves.iter().map(|half| half.relayed.is_ipv6()).collect();
        live.permissions.retain(|ip, _| families.contains(&ip.is_ipv6()));
        live.channels.retain(|_, (peer, _)| families.contains(&peer.is_ipv6()));
        if families.is_empty() {
            self.live.remove(&id);
        }
        self.rest(now, half.relayed);
        let path = self.owed.was_at.filter(|(of, _)| *of == id).map_or(path, |(_, before)| before);
        Some((path, account, half))
    }

    /// What the server has made up is known from its response.
    pub fn learn(&mut self, about: Option<(u64, Option<RelayName>)>, message: &Parsed) {
        let Some((id, reservation)) = about else { return };
        let live = self.live.get_mut(&id).expect("it was just answered");
        if let Some(ticket) = message.get(wire::MOBILITY_TICKET) {
            assert!(!ticket.contains(&0) && ticket.len() <= 32, "coturn's client could not keep it");
            live.ticket = Some(ticket.to_vec());
            let before = self.tickets.insert(ticket.to_vec(), live.shard);
            assert_eq!(before, None, "a ticket was given out twice");
        }
        if let Some(token) = message.get(wire::RESERVATION_TOKEN) {
            live.token = Some(token.to_vec());
            let reserved = reservation.and_then(|relay| self.reserved.get_mut(&relay)).expect("it was just made");
            reserved.token = token.to_vec();
        }
    }

    /// When a relayed address, or the reservation of one, is over.
    pub fn expiry_of(&self, relay: RelayName) -> Option<u64> {
        let mut halves = self.live.values().flat_map(|live| &live.halves);
        let half = halves.find(|half| half.relay == relay).map(|half| half.expires);
        half.or(self.reserved.get(&relay).map(|reserved| reserved.expires))
    }

    /// After timers ran: nothing may be left that expired more than a tick of the wheel ago.
    pub fn timers_ran(&self, now: u64, shard: u16) {
        const TICK: u64 = 1 << 30;
        for expires in self.expiries(shard) {
            assert!(expires + TICK > now, "something expired {} ns ago and is still there", now - expires);
        }
    }

    /// When the earliest thing of a shard expires.
    pub fn earliest_expiry(&self, shard: u16) -> Option<u64> {
        self.expiries(shard).min()
    }

    fn expiries(&self, shard: u16) -> impl Iterator<Item = u64> {
        let halves = self.live.values().filter(move |live| live.shard == shard).flat_map(|live| &live.halves);
        let reserved = self.reserved.iter().filter(move |((at, _), _)| *at == shard);
        halves.map(|half| half.expires).chain(reserved.map(|(_, reserved)| reserved.expires))
    }

    /// Relayed address, peer and end of every permission.
    pub fn permission_edges(&self) -> Vec<(SocketAddr, IpAddr, u64)> {
        let all = self.live.values().flat_map(|live| {
            live.permissions.iter().filter_map(|(ip, expires)| {
                let half = live.halves.iter().find(|half| half.relayed.is_ipv6() == ip.is_ipv6())?;
                Some((half.relayed, *ip, *expires))
            })
        });
        all.collect()
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
    pub fn is_alive(&self, now: u64) -> bool {
        self.halves.iter().any(|half| now < half.expires)
    }

    pub fn has_path(&self, path: &FiveTuple) -> bool {
        (self.path == *path && !self.is_adrift) || self.next == Some(*path)
    }

    /// Where the client was heard of last.
    pub fn latest(&self) -> Option<FiveTuple> {
        self.next.or((!self.is_adrift).then_some(self.path))
    }

    /// Whether a ticket is the one that is good now, or that this very request has shown before.
    pub fn is_named_by(&self, now: u64, ticket: &[u8], transaction_id: [u8; 12]) -> bool {
        let was_shown =
            |(until, by, before): &(u64, [u8; 12], Vec<u8>)| now < *until && *by == transaction_id && before == ticket;
        self.ticket.as_deref() == Some(ticket) || self.shown.as_ref().is_some_and(was_shown)
    }

    /// The living half that can reach a peer.
    pub fn half_for(&mut self, now: u64, peer: IpAddr) -> Option<&mut Half> {
        self.halves.iter_mut().find(|half| now < half.expires && half.relayed.is_ipv6() == peer.is_ipv6())
    }

    /// The living half at a relayed address.
    pub fn half_at(&self, now: u64, relayed: SocketAddr) -> Option<&Half> {
        self.halves.iter().find(|half| now < half.expires && half.relayed == relayed)
    }

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
