//! Clients over DTLS (RFC 7350): the associations of a shard, and their datagrams.
//!
//! A client's datagrams always come to the same socket, so an association lives in the shard that the kernel has chosen
//! for it. Its handshake does not: it needs a signature, and goes to the thread of the handshakes, which has no socket.
//! So the shard passes datagrams there and flights back, and takes the association over when messages can be exchanged.
//! What comes before a good cookie is answered here, without any state (abuse S6).

mod handshakes;

use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use tracing::debug;

pub(super) use self::handshakes::{Arrival, Handshakes};
use super::counters::DtlsDrop;
use super::directory::{ConnectionHeld, ConnectionRefusal};
use super::mailbox::Label;
use super::packets::Asker;
use super::reactor::Shard;
use super::routes::Route;
use super::streams::is_binding;
use crate::net::dtls::{Association, Cookie, Cookies, Gone, Inspected, MESSAGE_LEN_MAX};
use crate::turn::{FiveTuple, IpFields, Now};

/// How much longer than a handshake may take a shard waits for news of it. It hears of every end, unless the thread of the
/// handshakes has lost its state.
const NEWS_GRACE_SECS: u32 = 5;

/// What the thread of the handshakes tells a shard.
#[derive(Debug)]
pub(super) enum News {
    /// Send these.
    Flight { route: Route, datagrams: Vec<Vec<u8>> },
    /// Messages can be exchanged.
    Established(Box<Established>),
    /// They cannot.
    Failed(FiveTuple),
}

/// An association on its way to its shard.
#[derive(Debug)]
pub(super) struct Established {
    path: FiveTuple,
    route: Route,
    association: Association,
    held: ConnectionHeld,
    binding_only: bool,
    /// The end of the handshake, for the client.
    flight: Vec<Vec<u8>>,
}

/// All associations of a shard.
pub(super) struct Associations {
    by_path: HashMap<FiveTuple, Entry, ahash::RandomState>,
    cookies: Option<Cookies>,
    /// Where records are decrypted.
    buffer: Box<[u8]>,
    /// The first message of the datagram being served.
    first: Vec<u8>,
    /// Messages that shared a datagram with another one, to be served behind the batch.
    late: Vec<Late>,
}

#[derive(Debug)]
struct Late {
    path: FiveTuple,
    route: Route,
    ip: IpFields,
    message: Vec<u8>,
}

/// DTLS-7350-3-07: a client may begin anew while its association lives; that lives until the new one does.
#[derive(Debug)]
struct Entry {
    route: Route,
    open: Option<Open>,
    /// A handshake is going on.
    pending: Option<Pending>,
}

/// A handshake on the other thread.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Of the ClientHello it began with.
    cookie: Cookie,
    /// When it is over at the latest.
    until: Now,
}

#[derive(Debug)]
struct Open {
    association: Association,
    /// When the last message came.
    last_message: Now,
    /// Allocations of this client; with one, silence is no reason to close.
    allocations: usize,
    /// Other methods than Binding are not for this client (ALPN-7443-2-04).
    binding_only: bool,
    /// Where it has come to by the name that it asked for.
    realm: Option<Arc<str>>,
    _held: ConnectionHeld,
}

impl Associations {
    /// `cookies` are missing where nobody speaks DTLS.
    pub(super) fn new(hasher: ahash::RandomState, cookie_key: Option<[u8; 32]>) -> Self {
        let room = if cookie_key.is_some() { MESSAGE_LEN_MAX } else { 0 };
        Self {
            by_path: HashMap::with_hasher(hasher),
            cookies: cookie_key.map(Cookies::new),
            buffer: vec![0; room].into_boxed_slice(),
            first: Vec::new(),
            late: Vec::new(),
        }
    }

    /// Whether there is anything to look after.
    pub(super) fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// Those in which messages can be exchanged.
    pub(super) fn open(&self) -> usize {
        self.by_path.values().filter(|entry| entry.open.is_some()).count()
    }

    /// Where this client has come to by the name that it asked for.
    pub(super) fn realm_of(&self, path: &FiveTuple) -> Option<Arc<str>> {
        if self.is_empty() {
            return None;
        }
        self.by_path.get(path)?.open.as_ref()?.realm.clone()
    }

    /// This client has one allocation more, or less.
    pub(super) fn count_allocation(&mut self, path: &FiveTuple, is_more: bool, now: Now) {
        let Some(open) = self.by_path.get_mut(path).and_then(|entry| entry.open.as_mut()) else {
            return;
        };
        if is_more {
            open.allocations += 1;
        } else {
            open.allocations = open.allocations.saturating_sub(1);
            open.last_message = now;
        }
    }
}

impl Shard<'_> {
    /// Serves a datagram whose first byte is that of a DTLS record.
    pub(super) fn serve_record(&mut self, path: FiveTuple, slot: usize, route: Route) {
        let cookies = self.associations.cookies.as_ref().expect("a listener speaks DTLS");
        let datagram = self.home.batch.message(slot);
        match cookies.inspect(datagram, path.client, path.server, self.clock.unix_secs) {
            Inspected::Nothing => self.drop_record(DtlsDrop::Malformed),
            Inspected::Answer(answer) => {
                self.home.counters.dtls_cookies += 1;
                self.queue_in_slot(route, slot, &answer, IpFields::default());
            }
            Inspected::Begin(cookie) => self.begin(path, slot, route, cookie),
            Inspected::Record => self.serve_encrypted(path, slot, route),
        }
    }

    fn drop_record(&mut self, why: DtlsDrop) {
        self.home.counters.dtls_drops[why as usize] += 1;
    }

    /// The cookie was good.
    fn begin(&mut self, path: FiveTuple, slot: usize, route: Route, cookie: Cookie) {
        let now = self.clock.now;
        let pending = self.associations.by_path.get(&path).and_then(|entry| entry.pending);
        let is_same = pending.is_some_and(|pending| pending.until > now && pending.cookie == cookie);
        let mut held = None;
        // A client that has given up and begins anew takes the place of what it had begun.
        if !is_same {
            match self.home.directory.hold_connection(path.client.ip()) {
                Ok(one) => held = Some(one),
                Err(why) => {
                    let counters = &mut self.home.counters;
                    counters.connections_refused += 1;
                    counters.connections_refused_per_address += u64::from(why == ConnectionRefusal::PerAddress);
                    counters.connections_refused_per_prefix += u64::from(why == ConnectionRefusal::PerPrefix);
                    if let Some(veil) = self.home.room_for_line(now) {
                        debug!(
                            event = "connection_refused",
                            session = %veil.key.id(&path),
                            why = why.label(),
                            transport = "dtls",
                            client = %veil.address(path.client),
                        );
                    }
                    return;
                }
            }
        }
        let is_new = held.is_some();
        if self.pass_to_handshakes(path, slot, route, held) && is_new {
            let until = now.plus_secs(self.home.handshake_secs.saturating_add(NEWS_GRACE_SECS));
            let entry = self.associations.by_path.entry(path).or_insert(Entry { route, open: None, pending: None });
            entry.pending = Some(Pending { cookie, until });
        }
    }

    /// Whether it arrived.
    fn pass_to_handshakes(
        &mut self,
        path: FiveTuple,
        slot: usize,
        route: Route,
        begin: Option<ConnectionHeld>,
    ) -> bool {
        let Some(handshakes) = &self.home.handshakes else {
            return false;
        };
        let bytes = self.home.batch.message(slot).to_vec();
        let arrived = handshakes.arrive(Arrival { shard: self.home.place.index, path, route, bytes, begin });
        if !arrived {
            self.drop_record(DtlsDrop::Overflow);
        }
        arrived
    }

    fn serve_encrypted(&mut self, path: FiveTuple, slot: usize, route: Route) {
        let now = self.clock.now;
        let Some(entry) = self.associations.by_path.get_mut(&path) else {
            return self.drop_record(DtlsDrop::NoAssociation);
        };
        // Of two generations of keys it is not known which one a record is for; the wrong one ignores it.
        if entry.pending.is_some_and(|pending| pending.until > now) {
            self.pass_to_handshakes(path, slot, route, None);
        }
        let Associations { by_path, buffer, first, late, .. } = &mut self.associations;
        let Some(Entry { route: known, open: Some(open), .. }) = by_path.get_mut(&path) else {
            return;
        };
        let ip = self.home.batch.received(slot).ip;
        let mut count = 0;
        let result = open.association.receive(self.home.batch.message(slot), buffer, |message| {
            if count == 0 {
                first.clear();
                first.extend_from_slice(message);
            } else {
                late.push(Late { path, route, ip, message: message.to_vec() });
            }
            count += 1;
        });
        if count > 0 {
            // Somebody who only claims to be the client cannot turn the answers away from it.
            *known = route;
            open.last_message = now;
        }
        if open.association.has_outgoing() {
            let flight: Vec<Vec<u8>> = open.association.outgoing().collect();
            self.send_flight(route, &flight);
        }
        if count > 0 {
            let message = mem::take(&mut self.associations.first);
            self.home.batch.replace(slot, &message);
            self.associations.first = message;
            self.serve_decrypted(path, slot, route);
        }
        if result == Err(Gone) {
            self.close_association(path);
        }
    }

    fn serve_decrypted(&mut self, path: FiveTuple, slot: usize, route: Route) {
        let entry = self.associations.by_path.get(&path).and_then(|entry| entry.open.as_ref());
        if entry.is_some_and(|open| open.binding_only) && !is_binding(self.home.batch.message(slot)) {
            self.home.counters.connections_not_binding += 1;
            if let Some(veil) = self.home.room_for_line(self.clock.now) {
                debug!(event = "not_binding", session = %veil.key.id(&path), client = %veil.address(path.client));
            }
            return self.close_association(path);
        }
        self.serve_client(path, slot, Asker::Sender(route, path));
    }

    /// Serves what shared a datagram with another message. To be called when no slot of the batch waits to be served.
    pub(super) fn serve_late(&mut self) {
        for Late { path, route, ip, message } in mem::take(&mut self.associations.late) {
            let slot = self.insert(path.client, path.server, &message, ip);
            self.serve_decrypted(path, slot, route);
        }
    }

    /// Encrypts a message that lies in a slot and queues it for the client.
    pub(super) fn relay_to_association(&mut self, to: &FiveTuple, slot: usize, bytes: Range<usize>, ip: IpFields) {
        let Some(Entry { route, open: Some(open), .. }) = self.associations.by_path.get_mut(to) else {
            match self.server.carrier_of(self.clock, to) {
                Some(shard) => self.post(shard, Label::Encrypt { path: *to }, slot, bytes, ip),
                None => self.home.counters.unsendable += 1,
            }
            return;
        };
        let route = *route;
        let sent = open.association.send(&self.home.batch.slot(slot)[bytes]);
        let mut flight: Vec<Vec<u8>> = open.association.outgoing().collect();
        let last = flight.pop();
        self.send_flight(route, &flight);
        if let Some(last) = last {
            self.queue_in_slot(route, slot, &last, ip);
        }
        match sent {
            Ok(true) => {}
            Ok(false) => self.drop_record(DtlsDrop::Oversized),
            Err(Gone) => self.close_association(*to),
        }
    }

    /// Encrypts a message that lies in no slot and sends it at once.
    pub(super) fn send_to_association(&mut self, to: &FiveTuple, message: &[u8]) {
        let Some(Entry { route, open: Some(open), .. }) = self.associations.by_path.get_mut(to) else {
            match self.server.carrier_of(self.clock, to) {
                Some(shard) => {
                    let label = Label::Encrypt { path: *to };
                    let posted = self.home.mailboxes[usize::from(shard)].post(label, IpFields::default(), message);
                    self.note_posted(shard, posted);
                }
                None => self.home.counters.unsendable += 1,
            }
            return;
        };
        let route = *route;
        let sent = open.association.send(message);
        let flight: Vec<Vec<u8>> = open.association.outgoing().collect();
        self.send_flight(route, &flight);
        if sent == Err(Gone) {
            self.close_association(*to);
        }
    }

    fn send_flight(&mut self, route: Route, datagrams: &[Vec<u8>]) {
        datagrams.iter().for_each(|datagram| self.send_by(route, datagram));
    }

    /// What the thread of the handshakes has to say.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Flight { route, datagrams } => self.send_flight(route, &datagrams),
            News::Failed(path) => {
                if let Some(entry) = self.associations.by_path.get_mut(&path) {
                    entry.pending = None;
                    if entry.open.is_none() {
                        self.associations.by_path.remove(&path);
                    }
                }
            }
            News::Established(established) => self.establish(*established),
        }
    }

    fn establish(&mut self, established: Established) {
        let Established { path, route, association, held, binding_only, flight } = established;
        let realm = association.server_name().and_then(|name| self.home.config.realm_of_server_name(name));
        let last_message = self.clock.now;
        let open = Open { association, last_message, allocations: 0, binding_only, realm: realm.clone(), _held: held };
        let entry = Entry { route, open: Some(open), pending: None };
        self.home.counters.connections_accepted += 1;
        let before = self.associations.by_path.insert(path, entry);
        if before.is_some_and(|entry| entry.open.is_some()) {
            // The client has started anew and knows nothing of what it had (TURN-8656-LIFE-01).
            self.server.path_closed(self.clock, path);
            self.drain_effects();
        }
        self.server.came_to(path, realm);
        self.send_flight(route, &flight);
    }

    /// Ends an association, and with it its allocation (TURN-8656-LIFE-01).
    fn close_association(&mut self, path: FiveTuple) {
        let Some(entry) = self.associations.by_path.get_mut(&path) else {
            return;
        };
        let route = entry.route;
        let Some(mut open) = entry.open.take() else {
            return;
        };
        if entry.pending.is_none() {
            self.associations.by_path.remove(&path);
        }
        open.association.say_goodbye();
        let flight: Vec<Vec<u8>> = open.association.outgoing().collect();
        self.send_flight(route, &flight);
        self.server.path_closed(self.clock, path);
        self.drain_effects();
    }

    /// Ends associations that are silent and have no allocation.
    pub(super) fn sweep_associations(&mut self, deadline: Now) {
        let now = self.clock.now;
        let mut idle = Vec::new();
        self.associations.by_path.retain(|path, entry| {
            entry.pending = entry.pending.filter(|pending| pending.until > now);
            if entry.open.as_ref().is_some_and(|open| open.allocations == 0 && open.last_message < deadline) {
                idle.push(*path);
            }
            entry.open.is_some() || entry.pending.is_some()
        });
        for path in idle {
            self.home.counters.connections_idle += 1;
            self.close_association(path);
        }
    }

    /// Says goodbye to all, at the end; their allocations have been ended already.
    pub(super) fn finish_associations(&mut self) {
        let mut flights = Vec::new();
        for (_, entry) in self.associations.by_path.drain() {
            let Some(mut open) = entry.open else { continue };
            open.association.say_goodbye();
            flights.push((entry.route, open.association.outgoing().collect::<Vec<_>>()));
        }
        flights.iter().for_each(|(route, flight)| self.send_flight(*route, flight));
    }
}
