//! The oracle's half for requests: who may ask, and what must be answered.

use std::collections::BTreeSet;

use hairpin::turn::{Clock, FiveTuple, TimeLimitedForm};

use crate::allocating::{Pending, Wish};
use crate::expect::{Expected, Response, Seal, Slip, Success};
use crate::model::{Half, Live, Model, REMEMBERED_SECS, RelayName, Reserved, SECOND};
use crate::rules::{REALM, SECRET, TTL_SECS_MAX};
use crate::wire::{self, Class, Parsed};

/// Somebody whose password was right.
#[derive(Clone, Debug)]
pub struct User {
    pub username: String,
    pub account: String,
    pub key: Vec<u8>,
    pub sha256: bool,
}

/// Attribute types below 0x8000 that Hairpin knows.
const KNOWN: [u16; 20] = [
    0x01, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x0D, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x19, 0x1C, 0x1D, 0x20,
    // DONT-FRAGMENT, EVEN-PORT, RESERVATION-TOKEN.
    0x1A, 0x18, 0x22,
];

/// From username, realm and password.
type DeriveKey = fn(&str, &str, &str) -> Vec<u8>;

enum Answer {
    Now(Result<Success, u16>),
    /// A success with a ticket, and the allocation that a new one is for.
    Told(Success, Slip, Option<u64>),
    /// An error, at once or when another shard was asked.
    Refused(u16),
    Later,
    Silence,
}

impl From<Result<Success, u16>> for Answer {
    fn from(result: Result<Success, u16>) -> Self {
        Self::Now(result)
    }
}

impl Model {
    /// What must become of a message from a client.
    pub fn message_from_client(&mut self, clock: Clock, shard: u16, path: FiveTuple, bytes: &[u8]) -> Expected {
        match bytes.first() {
            Some(0x40..=0x7F) => self.channel_data(clock, path, bytes),
            Some(0x00..=0x03) => self.stun(clock, shard, path, bytes),
            _ => Expected::Drop,
        }
    }

    fn channel_data(&mut self, clock: Clock, path: FiveTuple, bytes: &[u8]) -> Expected {
        let now = clock.now.0;
        let Some(length) = bytes.get(2..4) else {
            return Expected::Drop;
        };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let number = u16::from_be_bytes([bytes[0], bytes[1]]);
        let bound = self.alive(now, &path).and_then(|live| live.channels.get(&number));
        match (bound, bytes.get(4..4 + length)) {
            (Some((peer, expires)), Some(data)) if now < *expires => {
                let peer = *peer;
                self.data_to_peer(clock, path, peer, data)
            }
            _ => Expected::Drop,
        }
    }

    fn stun(&mut self, clock: Clock, shard: u16, path: FiveTuple, bytes: &[u8]) -> Expected {
        let Some(message) = Parsed::parse(bytes).filter(Parsed::fingerprint_is_right) else {
            return Expected::Drop;
        };
        match (message.class, message.method) {
            (Class::Indication, wire::SEND) => self.send_indication(clock, path, &message),
            (
                Class::Request,
                wire::BINDING | wire::ALLOCATE | wire::REFRESH | wire::CREATE_PERMISSION | wire::CHANNEL_BIND,
            ) => self.request(clock, shard, path, &message),
            _ => Expected::Drop,
        }
    }

    fn send_indication(&mut self, clock: Clock, path: FiveTuple, message: &Parsed) -> Expected {
        match (message.get_xor_address(wire::XOR_PEER_ADDRESS), message.get(wire::DATA)) {
            (Some(peer), Some(data)) if !has_unknown(message) => self.data_to_peer(clock, path, peer, data),
            _ => Expected::Drop,
        }
    }

    fn request(&mut self, clock: Clock, shard: u16, path: FiveTuple, message: &Parsed) -> Expected {
        let mut response = Response {
            method: message.method,
            transaction_id: message.transaction_id,
            outcome: Err(420),
            seal: None,
            fingerprint: message.has(wire::FINGERPRINT),
            ticket: Slip::None,
            about: None,
        };
        if message.method == wire::BINDING {
            if !has_unknown(message) {
                response.outcome = Ok(Success::Binding { mapped: path.client });
            }
            return Expected::Reply(response);
        }
        let user = match self.authenticate(clock, shard, path, message) {
            Ok(user) => user,
            Err(code) => {
                response.outcome = Err(code);
                return Expected::Reply(response);
            }
        };
        response.seal = Some(Seal { key: user.key.clone(), sha256: user.sha256 });
        if has_unknown(message) {
            return Expected::Reply(response);
        }
        let answer = match message.method {
            wire::ALLOCATE => self.allocate(clock, shard, path, user, message),
            wire::REFRESH => self.refresh(clock, shard, path, &user, message),
            wire::CREATE_PERMISSION => self.create_permission(clock, path, &user, message).into(),
            _ => self.channel_bind(clock, path, &user, message).into(),
        };
        match answer {
            Answer::Now(outcome) => {
                response.outcome = outcome;
                Expected::Reply(response)
            }
            Answer::Told(success, ticket, about) => {
                response.outcome = Ok(success);
                response.ticket = ticket;
                response.about = about.map(|id| (id, None));
                Expected::Reply(response)
            }
            Answer::Refused(code) => {
                response.outcome = Err(code);
                Expected::Refusal(response)
            }
            Answer::Later => Expected::Later,
            Answer::Silence => Expected::Drop,
        }
    }

    fn authenticate(&mut self, clock: Clock, shard: u16, path: FiveTuple, message: &Parsed) -> Result<User, u16> {
        // Whether a name may be older than allowed, only the shard knows where the allocation lives. Whoever passes a
        // ticket on to it looks at everything else before.
        let is_free = self.alive(clock.now.0, &path).is_none() && self.pending_at(&path).is_none();
        let here = self.at(&path).map_or(shard, |id| self.live[&id].shard);
        let ticket = message.get(wire::MOBILITY_TICKET).filter(|_| message.method == wire::REFRESH);
        let owner = ticket.and_then(|ticket| self.tickets.get(ticket));
        if self.rules.mobility && is_free && owner.is_some_and(|owner| *owner != here) {
            self.authenticate_as(clock, path, message, true)?;
        }
        self.authenticate_as(clock, path, message, false)
    }

    fn authenticate_as(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        message: &Parsed,
        is_presumed: bool,
    ) -> Result<User, u16> {
        if !message.has(wire::MESSAGE_INTEGRITY) && !message.has(wire::MESSAGE_INTEGRITY_SHA256) {
            return Err(401);
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (message.get(wire::USERNAME), message.get(wire::REALM), message.get(wire::NONCE))
        else {
            return Err(400);
        };
        let (key, knows_sha256): (DeriveKey, bool) =
            match (message.get(wire::PASSWORD_ALGORITHM), message.get(wire::PASSWORD_ALGORITHMS)) {
                (None, None) => (wire::key_md5, false),
                (Some([0, 1, 0, 0]), Some([0, 2, 0, 0, 0, 1, 0, 0])) => (wire::key_md5, true),
                (Some([0, 2, 0, 0]), Some([0, 2, 0, 0, 0, 1, 0, 0])) => (wire::key_sha256, true),
                _ => return Err(400),
            };
        if realm != REALM.as_bytes() {
            return Err(401);
        }
        let username = std::str::from_utf8(username).map_err(|_| 401u16)?.to_string();
        let lives = match self.alive(clock.now.0, &path) {
            _ if is_presumed => true,
            Some(live) => live.username == username,
            None => self.names_one_of(clock.now.0, &username, message),
        };
        let (password, account) = self.password(clock.unix_secs, &username, lives).ok_or(401u16)?;
        let key = key(&username, REALM, &password);
        if !message.verifies(&key) {
            return Err(401);
        }
        self.check_nonce(clock, path, message, nonce)?;
        Ok(User { username, account, key, sha256: knows_sha256 || message.has(wire::MESSAGE_INTEGRITY_SHA256) })
    }

    /// Whether a Refresh comes with the ticket of an allocation that this user name has.
    fn names_one_of(&self, now: u64, username: &str, message: &Parsed) -> bool {
        let Some(ticket) = message.get(wire::MOBILITY_TICKET).filter(|_| message.method == wire::REFRESH) else {
            return false;
        };
        let has = |live: &Live| {
            let before = live.shown.as_ref().map(|(.., before)| before.as_slice());
            live.ticket.as_deref() == Some(ticket) || before == Some(ticket)
        };
        self.rules.mobility
            && self.live.values().any(|live| live.is_alive(now) && live.username == username && has(live))
    }

    /// Password and account of a user name, if there is such a user now.
    fn password(&self, unix_secs: u64, username: &str, lives: bool) -> Option<(String, String)> {
        if let Some(password) = self.rules.users.get(username) {
            return Some((password.clone(), username.to_string()));
        }
        let (expiry, userid) = username.split_once(':').unwrap_or((username, ""));
        let expires: u64 = expiry.parse().ok()?;
        if (!lives && expires < unix_secs) || expires > unix_secs + TTL_SECS_MAX {
            return None;
        }
        let account = if userid.is_empty() { username } else { userid };
        Some((TimeLimitedForm::default().password(SECRET, username), account.to_string()))
    }

    fn check_nonce(&self, clock: Clock, path: FiveTuple, message: &Parsed, nonce: &[u8]) -> Result<(), u16> {
        let known = self.nonces.get(nonce).ok_or(438u16)?;
        let generation = self.rules.nonce_generation;
        if known.client != (path.transport, path.client) || known.generation + 1 < generation {
            return Err(438);
        }
        let is_deletion = message.method == wire::REFRESH && message.get_u32(wire::LIFETIME) == Some(0);
        let is_old = clock.unix_secs > known.issued_unix_secs + u64::from(self.rules.nonce_lifetime_secs);
        if is_old && !is_deletion { Err(438) } else { Ok(()) }
    }

    fn allocate(&mut self, clock: Clock, shard: u16, path: FiveTuple, user: User, message: &Parsed) -> Answer {
        let now = clock.now.0;
        if let Some(live) = self.alive(now, &path) {
            let is_retransmission = live.created_by == message.transaction_id && live.username == user.username;
            if !is_retransmission {
                return Answer::Now(Err(437));
            }
            let halves: Vec<_> = live.halves.iter().filter(|half| now < half.expires).collect();
            let expires = halves.iter().map(|half| half.expires).min().expect("it lives");
            let same = |slip: &Option<Vec<u8>>| slip.clone().map_or(Slip::None, Slip::Same);
            let success = Success::Allocate {
                relayed: halves.iter().map(|half| half.relayed).collect(),
                mapped: path.client,
                lifetime_secs: (expires - now).div_ceil(SECOND) as u32,
                refused: live.refused,
                token: same(&live.token),
            };
            let ticket =
                if self.rules.mobility { self.alive(now, &path).and_then(|live| live.ticket.clone()) } else { None };
            return Answer::Told(success, same(&ticket), None);
        }
        if let Some(pending) = self.pending_at(&path) {
            return if pending.transaction_id == message.transaction_id {
                Answer::Silence
            } else {
                Answer::Now(Err(437))
            };
        }
        // One whose time is over may still be in the tables: it makes room, whatever else comes of this request. But if
        // the kernel brings its path to another shard, that one has to learn first that it is over.
        self.ending = self.at(&path);
        if let Some(live) = self.ending.and_then(|id| self.live.get(&id)) {
            if live.shard != shard {
                self.ending = None;
                return Answer::Silence;
            }
            self.owed.closes.extend(live.halves.iter().map(|half| half.relay));
        }
        let answer = self.start_allocation(clock, shard, path, user, message);
        self.ending = None;
        answer
    }

    fn start_allocation(&mut self, clock: Clock, shard: u16, path: FiveTuple, user: User, message: &Parsed) -> Answer {
        let now = clock.now.0;
        let Some(transport) = message.get_u32(wire::REQUESTED_TRANSPORT) else {
            return Answer::Now(Err(400));
        };
        if transport >> 24 != 17 {
            return Answer::Now(Err(442));
        }
        let wants_ticket = match message.get(wire::MOBILITY_TICKET) {
            None => false,
            Some([]) if self.rules.mobility => true,
            Some([]) => return Answer::Now(Err(405)),
            Some(_) => return Answer::Now(Err(400)),
        };
        let family = message.get_u32(wire::REQUESTED_ADDRESS_FAMILY).map(|value| value >> 24);
        let additional = message.get_u32(wire::ADDITIONAL_ADDRESS_FAMILY).map(|value| value >> 24);
        let even = message.get(wire::EVEN_PORT);
        let token = message.get(wire::RESERVATION_TOKEN);
        let is_contradictory = token.is_some_and(|token| token.len() != 8)
            || token.is_some() && (family.is_some() || additional.is_some() || even.is_some())
            || additional.is_some() && (family.is_some() || additional != Some(2))
            || even.is_some_and(|even| even.len() != 1 || even[0] & 0x80 != 0 && additional.is_some());
        if is_contradictory {
            return Answer::Now(Err(400));
        }
        let wish = match even {
            None => Wish::Any,
            Some(flags) if flags[0] & 0x80 == 0 => Wish::Even,
            Some(_) => Wish::Pair,
        };
        let mut is_ipv6 = match family {
            None | Some(1) => false,
            Some(2) => true,
            Some(_) => return Answer::Now(Err(440)),
        };
        if token.is_none() && additional.is_none() && self.why_none(is_ipv6) == 440 {
            return Answer::Now(Err(440));
        }
        let mut taken = self.live.iter().filter(|(id, live)| live.shard == shard && self.ending != Some(**id)).count();
        taken += self.pending.values().filter(|pending| pending.shard == shard).count();
        taken +=
            self.pending.values().filter(|pending| pending.shard == shard && pending.holds_a_second_slot()).count();
        taken += self.reserved.keys().filter(|(at, _)| *at == shard).count();
        let wanted = if wish == Wish::Pair { 2 } else { 1 };
        if self.draining.contains(&shard) || taken + wanted > self.rules.allocations_max {
            return Answer::Now(Err(508));
        }
        let mut redeemed = None;
        let mut refused = None;
        let mut wants_ipv6 = additional.is_some();
        if let Some(token) = token {
            let is_good = |reserved: &Reserved| {
                reserved.token == token && now < reserved.expires && reserved.username == user.username
            };
            let Some((relay, reserved)) = self.reserved.iter().find(|(_, reserved)| is_good(reserved)) else {
                return Answer::Refused(508);
            };
            redeemed = Some(reserved.relayed);
            self.owed.closes.insert(*relay);
        } else if self.free(now, shard, is_ipv6, wish).is_empty() {
            if !wants_ipv6 || self.free(now, shard, true, wish).is_empty() {
                return Answer::Now(Err(508));
            }
            refused = Some((1, self.why_none(false)));
            (is_ipv6, wants_ipv6) = (true, false);
        }
        self.count += 1;
        let pending = Pending {
            shard,
            path,
            user,
            transaction_id: message.transaction_id,
            lifetime_secs: self.grant(message),
            fingerprint: message.has(wire::FINGERPRINT),
            wish,
            redeemed,
            is_ipv6,
            wants_ipv6,
            refused,
            wants_ticket,
            asked: None,
            bound: Vec::new(),
            sibling: None,
            attempts: 1,
            abandoned: false,
        };
        self.pending.insert(self.count, pending);
        self.owed.bind = Some(self.count);
        Answer::Later
    }

    fn grant(&self, message: &Parsed) -> u32 {
        let asked = message.get_u32(wire::LIFETIME).unwrap_or(0);
        asked.min(self.rules.lifetime_max_secs).max(self.rules.lifetime_default_secs)
    }

    fn refresh(&mut self, clock: Clock, shard: u16, path: FiveTuple, user: &User, message: &Parsed) -> Answer {
        let now = clock.now.0;
        if self.was_deleted_by(now, &path, message.transaction_id) {
            return Answer::Now(Ok(Success::Refresh { lifetime_secs: 0 }));
        }
        let id = match message.get(wire::MOBILITY_TICKET) {
            None => match self.owned(now, &path, user) {
                Ok(_) => Ok(self.at(&path).expect("it is owned")),
                Err(code) => Err(code),
            },
            Some(ticket) => match self.shown(now, shard, &path, user, message.transaction_id, ticket) {
                Ok(id) => Ok(id),
                Err(None) => return Answer::Silence,
                Err(Some(code)) => Err(code),
            },
        };
        let id = match id {
            Ok(id) => id,
            Err(code) => return Answer::Now(Err(code)),
        };
        let lifetime_secs = self.grant(message);
        let family = message.get_u32(wire::REQUESTED_ADDRESS_FAMILY).map(|value| value >> 24 == 2);
        let live = self.live.get_mut(&id).expect("found a moment ago");
        let is_meant =
            |half: &&mut Half| now < half.expires && family.is_none_or(|ipv6| half.relayed.is_ipv6() == ipv6);
        let meant: Vec<&mut Half> = live.halves.iter_mut().filter(is_meant).collect();
        if meant.is_empty() {
            return Answer::Now(Err(443));
        }
        let mut lifetime = lifetime_secs;
        let mut is_over = false;
        if message.get_u32(wire::LIFETIME) == Some(0) {
            lifetime = 0;
            let relays: Vec<RelayName> = meant.iter().map(|half| half.relay).collect();
            is_over = relays.len() == live.halves.len();
            self.owed.closes.extend(relays);
            self.owed.was_at = Some((id, live.path));
            self.remember_deletion(now, path, message.transaction_id);
        } else {
            meant.into_iter().for_each(|half| half.expires = now + u64::from(lifetime_secs) * SECOND);
        }
        let success = Success::Refresh { lifetime_secs: lifetime };
        match message.get(wire::MOBILITY_TICKET) {
            Some(ticket) if !is_over => self.arrive(now, id, path, message.transaction_id, ticket, success),
            _ => Answer::Now(Ok(success)),
        }
    }

    /// Which allocation a ticket is good for, here and for this user; `None` for a request that nobody answers.
    fn shown(
        &mut self,
        now: u64,
        shard: u16,
        path: &FiveTuple,
        user: &User,
        transaction_id: [u8; 12],
        ticket: &[u8],
    ) -> Result<u64, Option<u16>> {
        if !self.rules.mobility {
            return Err(Some(405));
        }
        let Some(owner) = self.tickets.get(ticket).copied() else {
            return Err(Some(400));
        };
        let named =
            self.live.iter().find(|(_, live)| live.is_alive(now) && live.is_named_by(now, ticket, transaction_id));
        let named = named.map(|(id, _)| *id);
        let here = self.at(path);
        let is_here_alive = here.is_some_and(|id| self.live[&id].is_alive(now));
        if self.pending_at(path).is_some() || is_here_alive && here != named {
            return Err(Some(437));
        }
        if let Some(over) = here.filter(|_| !is_here_alive).and_then(|id| self.live.get(&id)) {
            if over.shard != shard && owner != over.shard {
                return Err(None); // carried there, and no further
            }
            // It makes room where it is met.
            self.owed.closes.extend(over.halves.iter().map(|half| half.relay));
        }
        if here.is_none_or(|_| !is_here_alive) && owner != shard && self.moved.contains(path) {
            return Err(None); // a connection moves once
        }
        let id = named.ok_or(Some(437))?;
        let live = &self.live[&id];
        let is_repeated = live.ticket.as_deref() != Some(ticket);
        if is_repeated && live.latest() != Some(*path) {
            return Err(Some(437));
        }
        if live.username != user.username {
            return Err(Some(441));
        }
        if !is_repeated && live.latest() == Some(*path) {
            return Err(Some(400));
        }
        Ok(id)
    }

    /// The client is here now, and gets another ticket; the same one for the same request.
    fn arrive(
        &mut self,
        now: u64,
        id: u64,
        path: FiveTuple,
        transaction_id: [u8; 12],
        ticket: &[u8],
        success: Success,
    ) -> Answer {
        let live = self.live.get_mut(&id).expect("found a moment ago");
        if live.latest() == Some(path) {
            return Answer::Told(success, Slip::Same(live.ticket.clone().expect("it has been shown")), None);
        }
        if live.is_adrift {
            (live.path, live.is_adrift) = (path, false);
        } else if live.path == path {
            live.next = None;
        } else {
            live.next = Some(path);
        }
        live.shown = Some((now + REMEMBERED_SECS * SECOND, transaction_id, ticket.to_vec()));
        Answer::Told(success, Slip::New, Some(id))
    }

    fn create_permission(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        user: &User,
        message: &Parsed,
    ) -> Result<Success, u16> {
        let now = clock.now.0;
        let (rules, limit) = (self.rules.clone(), self.rules.permissions_max);
        let live = self.owned(now, &path, user)?;
        let mut peers = BTreeSet::new();
        for peer in message.peers() {
            if live.half_for(now, peer.ip()).is_none() {
                return Err(443);
            }
            if !rules.allows(peer) {
                return Err(403);
            }
            peers.insert(peer.ip());
            if peers.len() > limit {
                return Err(508);
            }
        }
        if peers.is_empty() {
            return Err(400);
        }
        if live.permissions_alive(now).union(&peers).count() > limit {
            return Err(508);
        }
        live.permit(now, &peers);
        Ok(Success::Empty)
    }

    fn channel_bind(&mut self, clock: Clock, path: FiveTuple, user: &User, message: &Parsed) -> Result<Success, u16> {
        let now = clock.now.0;
        let rules = self.rules.clone();
        let live = self.owned(now, &path, user)?;
        let number = (message.get_u32(wire::CHANNEL_NUMBER).ok_or(400u16)? >> 16) as u16;
        let peer = message.get_xor_address(wire::XOR_PEER_ADDRESS).ok_or(400u16)?;
        if !(0x4000..=0x4FFF).contains(&number) || peer.port() == 0 {
            return Err(400);
        }
        if live.half_for(now, peer.ip()).is_none() {
            return Err(443);
        }
        live.channels.retain(|_, (_, expires)| now < *expires);
        let is_taken = live.channels.iter().any(|(other, (bound, _))| (*other == number) != (*bound == peer));
        if is_taken {
            return Err(400);
        }
        if !rules.allows(peer) {
            return Err(403);
        }
        let is_new = !live.channels.contains_key(&number);
        let peers = BTreeSet::from([peer.ip()]);
        if is_new && live.channels.len() >= rules.channels_max
            || live.permissions_alive(now).union(&peers).count() > rules.permissions_max
        {
            return Err(508);
        }
        live.permit(now, &peers);
        live.bind_channel(now, number, peer);
        Ok(Success::Empty)
    }

    fn owned(&mut self, now: u64, path: &FiveTuple, user: &User) -> Result<&mut crate::model::Live, u16> {
        match self.alive(now, path) {
            None => Err(437),
            Some(live) if live.username != user.username => Err(441),
            Some(live) => Ok(live),
        }
    }
}

fn has_unknown(message: &Parsed) -> bool {
    let kinds = message.attributes.iter().map(|(kind, _)| *kind);
    kinds.into_iter().any(|kind| kind < 0x8000 && !KNOWN.contains(&kind))
}
