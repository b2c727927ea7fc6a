//! Datagrams: from a socket through the machine and, at the end of the batch, out again.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use super::counters::DtlsDrop;
use super::listeners::Kind;
use super::mailbox::{Label, Overflow};
use super::reactor::Shard;
use super::routes::Route;
use crate::net::proxy_protocol::{self, Carrier};
use crate::net::{BATCH, Datagram, ProxyRefusal, clock};
use crate::stun::FirstByte;
use crate::turn::{FiveTuple, IpFields, Packet, RelayId, Transport, Verdict};

/// With less room than this a batch is sent before more is read, so that no socket is read in crumbs.
const ROOM_MIN: usize = BATCH / 4;

/// Entries taken from the error queue of one socket in one turn.
const ERRORS_PER_TURN: usize = 16;

/// Packets taken from the mailbox in one turn.
const PARCELS_PER_TURN: usize = 2 * BATCH;

/// A datagram to send at the end of the batch.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    via: Via,
    to: SocketAddr,
    /// Set where the socket does not know its own address.
    source: Option<SocketAddr>,
    slot: usize,
    bytes: Range<usize>,
    ip: IpFields,
}

/// The socket that sends. The order means nothing but brings datagrams of one socket together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    Listener(usize),
    Relay(RelayId),
}

/// Who gets the reply, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    /// The sender of a datagram, and whom the machine knows it as.
    Sender(Route, FiveTuple),
    /// The sender of a datagram that another shard, `carrier`, has read.
    Elsewhere { route: Route, path: FiveTuple, carrier: u16 },
    /// The client of this connection.
    Connection(usize),
    /// Peers and other relays are never answered.
    Nobody,
}

impl Shard<'_> {
    /// Reads a batch from a listener; whether there may be more.
    pub(super) fn read_listener(&mut self, index: usize) -> bool {
        loop {
            let has_more = self.read_listened(index);
            if !self.home.batch.has_left() {
                return has_more;
            }
        }
    }

    fn read_listened(&mut self, index: usize) -> bool {
        self.make_room();
        let first = self.home.batch.used();
        let listener = self.home.listeners.get_mut(index);
        let Kind::Udp(socket) = &listener.kind else {
            unreachable!("connections are accepted elsewhere");
        };
        let count = match self.home.batch.receive_runs(socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.home.counters.socket_errors.count(&error);
                return true;
            }
        };
        let drops = self.home.batch.queue_drops();
        self.home.counters.receive_queue_drops += new_drops(&mut listener.queue_drops, drops);
        let listen = listener.listen;
        let speaks_dtls = listen.speaks_dtls();
        self.begin_batch(count);
        for slot in first..first + count {
            let received = self.home.batch.received(slot);
            let path = FiveTuple { transport: Transport::Udp, client: received.from, server: received.to };
            let route = Route { listener: index, to: received.from, from: received.to };
            let path = match listen.options.proxy_protocol {
                false => path,
                true => match self.proxied_path(path, slot, route) {
                    Ok(path) => path,
                    Err(refusal) => {
                        self.home.counters.proxy_refusals[refusal as usize] += 1;
                        continue;
                    }
                },
            };
            if speaks_dtls && self.is_record(slot) {
                self.serve_record(FiveTuple { transport: Transport::Dtls, ..path }, slot, route);
            } else if listen.transport == Transport::Udp {
                self.serve_client(path, slot, Asker::Sender(route, path));
            } else {
                self.home.counters.dtls_drops[DtlsDrop::NotDtls as usize] += 1;
            }
        }
        if speaks_dtls {
            self.serve_late();
        }
        !self.home.batch.is_drained()
    }

    /// MUX-7983-7-01, DTLS-7350-3-05
    fn is_record(&self, slot: usize) -> bool {
        self.home.batch.message(slot).first().is_some_and(|first| FirstByte::classify(*first) == FirstByte::Dtls)
    }

    /// Takes the proxy's header off; the path of the client that it names.
    fn proxied_path(&mut self, path: FiveTuple, slot: usize, route: Route) -> Result<FiveTuple, ProxyRefusal> {
        if !self.home.proxies.include(route.to.ip()) {
            return Err(ProxyRefusal::Untrusted);
        }
        let header = proxy_protocol::parse(self.home.batch.message(slot), Carrier::Datagram)?;
        let header = header.ok_or(ProxyRefusal::Missing)?;
        self.home.batch.drop_front(slot, header.len);
        let path = match header.addresses {
            Some(addresses) => FiveTuple { client: addresses.client, server: addresses.server, ..path },
            None => path,
        };
        self.routes.learn(path, route);
        Ok(path)
    }

    /// The way to a client over UDP.
    pub(super) fn route_to(&self, path: &FiveTuple) -> Option<Route> {
        if self.home.listeners.has_proxies()
            && let Some(route) = self.routes.get(path)
        {
            return Some(route);
        }
        let listener = self.home.listeners.udp_for(path.server)?;
        Some(Route { listener, to: path.client, from: path.server })
    }

    /// Tells the machine what became of datagrams that a relay has sent; whether there may be more to tell.
    fn read_errors(&mut self, index: usize, generation: u32) -> bool {
        self.clock = clock::read();
        for _ in 0..ERRORS_PER_TURN {
            let Some(relay) = self.relays.by_token(index, generation) else {
                return false;
            };
            let mut error = match relay.socket.next_error() {
                Ok(error) => error,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    relay.has_errors = false;
                    return false;
                }
                Err(error) => {
                    self.home.counters.socket_errors.count(&error);
                    continue;
                }
            };
            if error.to.port() == 0
                && let Some(to) = relay.too_large.take_if(|to| to.ip() == error.to.ip())
            {
                error.to = to;
            }
            let id = relay.id;
            self.server.from_icmp(self.clock, id, error.to, error.kind, error.code, error.mtu);
            self.drain_effects();
        }
        true
    }

    /// Reads a batch from the socket of a relay, errors first; whether there may be more.
    pub(super) fn read_relay(&mut self, index: usize, generation: u32) -> bool {
        let has_errors = self.relays.by_token(index, generation).is_some_and(|relay| relay.has_errors);
        let has_more_errors = has_errors && self.read_errors(index, generation);
        loop {
            let has_more = self.read_relayed(index, generation);
            if !self.home.batch.has_left() {
                return has_more || has_more_errors;
            }
        }
    }

    fn read_relayed(&mut self, index: usize, generation: u32) -> bool {
        self.make_room();
        let first = self.home.batch.used();
        let Some(relay) = self.relays.by_token(index, generation) else {
            // The rest was for nobody any more.
            self.home.batch.forget_left();
            return false;
        };
        let count = match self.home.batch.receive_runs(&relay.socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.home.counters.socket_errors.count(&error);
                return true;
            }
        };
        let id = relay.id;
        let drops = self.home.batch.queue_drops();
        self.home.counters.receive_queue_drops += new_drops(&mut relay.queue_drops, drops);
        self.begin_batch(count);
        for slot in first..first + count {
            let received = self.home.batch.received(slot);
            let mut packet = self.home.batch.packet(slot);
            let verdict = self.server.from_peer(self.clock, id, received.from, &mut packet);
            self.carry_out(verdict, slot, Asker::Nobody);
            self.drain_effects();
        }
        !self.home.batch.is_drained()
    }

    /// Reads packets that other shards have left here; whether there may be more.
    pub(super) fn read_mailbox(&mut self) -> bool {
        self.clock = clock::read();
        for _ in 0..PARCELS_PER_TURN {
            let Some(parcel) = self.home.mailbox().next_parcel() else {
                return false;
            };
            match parcel.label {
                Label::Relayed { relayed, from } => {
                    let slot = self.insert(from, relayed, &parcel.bytes, parcel.ip);
                    let mut packet = self.home.batch.packet(slot);
                    let verdict = self.server.from_relay(self.clock, relayed, from, &mut packet);
                    self.carry_out(verdict, slot, Asker::Nobody);
                    self.drain_effects();
                }
                Label::Client { path, carrier, route, realm } => {
                    if realm.is_some() {
                        self.server.came_to(path, realm);
                    }
                    if self.home.listeners.has_proxies() {
                        self.routes.learn(path, route);
                    }
                    let slot = self.insert(path.client, path.server, &parcel.bytes, parcel.ip);
                    let mut packet = self.home.batch.packet(slot);
                    let (clock, reply) = (self.clock, &mut self.reply);
                    let verdict = self.server.from_carrier(clock, carrier, path, &mut packet, reply);
                    self.carry_out(verdict, slot, Asker::Elsewhere { route, path, carrier });
                    self.drain_effects();
                }
                Label::Encrypt { path } => {
                    let slot = self.insert(path.server, path.client, &parcel.bytes, parcel.ip);
                    let bytes = self.home.batch.packet(slot).range();
                    self.relay_to_association(&path, slot, bytes, parcel.ip);
                }
            }
            self.home.mailbox().give_back(parcel.bytes);
        }
        self.home.mailbox().has_parcels()
    }

    /// Hands a message in a slot to the machine and does what it says.
    pub(super) fn serve_client(&mut self, path: FiveTuple, slot: usize, asker: Asker) {
        let mut packet = self.home.batch.packet(slot);
        let verdict = self.server.from_client(self.clock, path, &mut packet, &mut self.reply);
        self.carry_out(verdict, slot, asker);
        self.drain_effects();
    }

    /// Copies a message into the batch, which is sent first if it is full.
    pub(super) fn insert(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8], ip: IpFields) -> usize {
        if self.home.batch.room() == 0 {
            self.send_datagrams();
            self.home.batch.clear();
        }
        self.home.batch.insert(from, to, message, ip)
    }

    fn begin_batch(&mut self, count: usize) {
        self.clock = clock::read();
        self.home.counters.receive_batches += 1;
        self.home.counters.datagrams_received += count as u64;
    }

    fn make_room(&mut self) {
        if self.home.batch.room() < ROOM_MIN {
            self.send_datagrams();
            self.home.batch.clear();
        }
    }

    fn carry_out(&mut self, verdict: Verdict, slot: usize, asker: Asker) {
        match verdict {
            Verdict::ToPeer { from, to, bytes, ip } => {
                self.outgoing.push(Outgoing { via: Via::Relay(from), to, source: None, slot, bytes, ip })
            }
            Verdict::ToClient { to, bytes, ip } if to.transport == Transport::Udp => match self.route_to(&to) {
                Some(route) => self.queue_to_client(route, slot, bytes, ip),
                None => self.home.counters.unsendable += 1,
            },
            Verdict::ToClient { to, bytes, ip } if to.transport == Transport::Dtls => {
                self.relay_to_association(&to, slot, bytes, ip);
            }
            Verdict::ToClient { to, bytes, .. } => self.relay_to_stream(&to, slot, bytes),
            Verdict::ToRelay { shard, relayed, from, bytes, ip } => {
                self.post(shard, Label::Relayed { relayed, from }, slot, bytes, ip);
            }
            Verdict::NotMine { shard } => match asker {
                // Also from a DTLS client: its association stays in the shard that the kernel has chosen for it.
                Asker::Sender(route, path) => {
                    let packet = self.home.batch.packet(slot);
                    let (bytes, ip) = (packet.range(), packet.ip());
                    let carrier = self.home.place.index;
                    let realm = self.associations.realm_of(&path);
                    self.post(shard, Label::Client { path, carrier, route, realm }, slot, bytes, ip);
                }
                Asker::Connection(index) => self.send_away(index, shard),
                Asker::Elsewhere { .. } | Asker::Nobody => self.home.counters.unsendable += 1,
            },
            Verdict::Reply { len } => match asker {
                Asker::Sender(_, path) if path.transport == Transport::Dtls => {
                    // The question is not needed any more; its slot keeps the answer until it is encrypted and sent.
                    let bytes = self.reply_in_slot(slot, len);
                    self.relay_to_association(&path, slot, bytes, IpFields::default());
                }
                Asker::Elsewhere { path, carrier, .. } if path.transport == Transport::Dtls => {
                    let bytes = self.reply_in_slot(slot, len);
                    self.post(carrier, Label::Encrypt { path }, slot, bytes, IpFields::default());
                }
                Asker::Sender(route, _) | Asker::Elsewhere { route, .. } => {
                    let bytes = self.reply_in_slot(slot, len);
                    self.queue_to_client(route, slot, bytes, IpFields::default());
                }
                Asker::Connection(index) => self.answer_stream(index, len),
                Asker::Nobody => {}
            },
            Verdict::Bound { len, connection } => match asker {
                Asker::Connection(index) => self.answer_and_join(index, len, connection),
                _ => unreachable!("only streams are bound"),
            },
            Verdict::Later | Verdict::Drop(_) => {}
        }
    }

    /// Leaves bytes of a slot in the mailbox of another shard.
    pub(super) fn post(&mut self, shard: u16, label: Label, slot: usize, bytes: Range<usize>, ip: IpFields) {
        let posted = self.home.mailboxes[usize::from(shard)].post(label, ip, &self.home.batch.slot(slot)[bytes]);
        self.note_posted(shard, posted);
    }

    /// Wakes the shard at the end of the batch, or counts what its mailbox did not take.
    pub(super) fn note_posted(&mut self, shard: u16, posted: Result<(), Overflow>) {
        match posted {
            Ok(()) if self.to_wake.contains(&shard) => {}
            Ok(()) => self.to_wake.push(shard),
            Err(Overflow) => self.home.counters.mailbox_overflows += 1,
        }
    }

    fn reply_in_slot(&mut self, slot: usize, len: usize) -> Range<usize> {
        let bytes = Packet::HEADROOM..Packet::HEADROOM + len;
        self.home.batch.slot_mut(slot)[bytes.clone()].copy_from_slice(&self.reply[..len]);
        bytes
    }

    /// Puts a datagram into a slot and queues it.
    #[cfg_attr(not(feature = "dtls"), expect(dead_code, reason = "only DTLS needs it"))]
    pub(super) fn queue_in_slot(&mut self, route: Route, slot: usize, datagram: &[u8], ip: IpFields) {
        self.home.batch.slot_mut(slot)[..datagram.len()].copy_from_slice(datagram);
        self.queue_to_client(route, slot, 0..datagram.len(), ip);
    }

    fn queue_to_client(&mut self, route: Route, slot: usize, bytes: Range<usize>, ip: IpFields) {
        self.outgoing.push(Outgoing {
            via: Via::Listener(route.listener),
            to: route.to,
            source: self.source_at(route),
            slot,
            bytes,
            ip,
        });
    }

    /// STUN-8489-6.3.1.2-01: what to tell the socket so that the datagram leaves from where it was sent to.
    fn source_at(&self, route: Route) -> Option<SocketAddr> {
        match &self.home.listeners.get(route.listener).kind {
            Kind::Udp(socket) if socket.is_wildcard() => Some(route.from),
            _ => None,
        }
    }

    /// Sends a message that lies in no slot, at once.
    pub(super) fn send_now(&mut self, to: FiveTuple, bytes: &[u8]) {
        let Some(route) = self.route_to(&to) else {
            self.home.counters.unsendable += 1;
            return;
        };
        self.send_by(route, bytes);
    }

    /// The same by a way that is known.
    pub(super) fn send_by(&mut self, route: Route, bytes: &[u8]) {
        let datagram = Datagram { to: route.to, source: self.source_at(route), bytes, ip: IpFields::default() };
        if let Kind::Udp(socket) = &self.home.listeners.get(route.listener).kind {
            let counters = &mut self.home.counters;
            let sent = self.sender.send(socket, [datagram], &mut counters.socket_errors);
            counters.send_batches += sent.calls;
            counters.datagrams_sent += sent.datagrams;
        }
    }

    /// Ends a batch: everything leaves, and the slots are free again.
    pub(super) fn flush(&mut self) {
        self.send_datagrams();
        self.write_connections();
        // Closing a connection that could not be written to may have brought more.
        self.send_datagrams();
        self.home.batch.clear();
        for owner in self.to_wake.drain(..) {
            self.home.mailboxes[usize::from(owner)].wake();
        }
    }

    /// Whether datagrams wait for the socket of this relay.
    pub(super) fn is_sending_from(&self, relay: RelayId) -> bool {
        self.outgoing.iter().any(|outgoing| outgoing.via == Via::Relay(relay))
    }

    /// Sends what has been collected, in one or more calls for each socket.
    pub(super) fn send_datagrams(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        // Each slot sends at most once and slots fill up in order, so this keeps the order within a socket.
        self.outgoing.sort_unstable_by_key(|outgoing| (outgoing.via, outgoing.slot));
        for group in self.outgoing.chunk_by(|left, right| left.via == right.via) {
            let socket = match group[0].via {
                Via::Listener(index) => match &self.home.listeners.get(index).kind {
                    Kind::Udp(socket) => Some(socket),
                    Kind::Tcp(_) => None,
                },
                Via::Relay(id) => self.relays.get(id).map(|relay| &relay.socket),
            };
            let counters = &mut self.home.counters;
            let Some(socket) = socket else {
                counters.unsendable += group.len() as u64;
                continue;
            };
            let datagrams = group.iter().map(|outgoing| Datagram {
                to: outgoing.to,
                source: outgoing.source,
                bytes: &self.home.batch.slot(outgoing.slot)[outgoing.bytes.clone()],
                ip: outgoing.ip,
            });
            let sent = self.sender.send(socket, datagrams, &mut counters.socket_errors);
            counters.send_batches += sent.calls;
            counters.datagrams_sent += sent.datagrams;
            if sent.too_large.is_some()
                && let Via::Relay(id) = group[0].via
                && let Some(relay) = self.relays.get_mut(id)
            {
                relay.too_large = sent.too_large;
            }
        }
        self.outgoing.clear();
    }
}

/// What is new in the kernel's running count of a socket.
fn new_drops(known: &mut u32, told: Option<u32>) -> u64 {
    let Some(told) = told else { return 0 };
    u64::from(told.wrapping_sub(std::mem::replace(known, told)))
}
