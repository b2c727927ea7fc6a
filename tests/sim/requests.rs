//! The oracle's half for requests: who may ask, and what must be answered.

use std::collections::BTreeSet;

use hairpin::turn::{Clock, FiveTuple, TimeLimitedForm};

use crate::expect::{Expected, Response, Seal, Success};
use crate::model::{Model, Pending, SECOND};
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
    // DONT-FRAGMENT, EVEN-PORT, RESERVATION-TOKEN. The clients here send only the first.
    0x1A, 0x18, 0x22,
];

/// From username, realm and password.
type DeriveKey = fn(&str, &str, &str) -> Vec<u8>;

enum Answer {
    Now(Result<Success, u16>),
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
        };
        if message.method == wire::BINDING {
            if !has_unknown(message) {
                response.outcome = Ok(Success::Binding { mapped: path.client });
            }
            return Expected::Reply(response);
        }
        let user = match self.authenticate(clock, path, message) {
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
            wire::REFRESH => self.refresh(clock, path, &user, message).into(),
            wire::CREATE_PERMISSION => self.create_permission(clock, path, &user, message).into(),
            _ => self.channel_bind(clock, path, &user, message).into(),
        };
        match answer {
            Answer::Now(outcome) => {
                response.outcome = outcome;
                Expected::Reply(response)
            }
            Answer::Later => Expected::Later,
            Answer::Silence => Expected::Drop,
        }
    }

    fn authenticate(&mut self, clock: Clock, path: FiveTuple, message: &Parsed) -> Result<User, u16> {
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
        let lives = self.alive(clock.now.0, &path).is_some_and(|live| live.username == username);
        let (password, account) = self.password(clock.unix_secs, &username, lives).ok_or(401u16)?;
        let key = key(&username, REALM, &password);
        if !message.verifies(&key) {
            return Err(401);
        }
        self.check_nonce(clock, path, message, nonce)?;
        Ok(User { username, account, key, sha256: knows_sha256 || message.has(wire::MESSAGE_INTEGRITY_SHA256) })
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
            return Answer::Now(if is_retransmission {
                Ok(Success::Allocate {
                    relayed: live.relayed,
                    mapped: path.client,
                    lifetime_secs: (live.expires - now).div_ceil(SECOND) as u32,
                })
            } else {
                Err(437)
            });
        }
        if let Some(pending) = self.pending_at(&path) {
            return if pending.transaction_id == message.transaction_id {
                Answer::Silence
            } else {
                Answer::Now(Err(437))
            };
        }
        match self.start_allocation(clock, shard, path, user, message) {
            Ok(()) => Answer::Later,
            Err(code) => Answer::Now(Err(code)),
        }
    }

    fn start_allocation(
        &mut self,
        clock: Clock,
        shard: u16,
        path: FiveTuple,
        user: User,
        message: &Parsed,
    ) -> Result<(), u16> {
        // One whose time is over may still be in the tables: it makes room, whatever else comes of this request.
        let expired = self.live.get(&path).map(|live| live.relay);
        self.owed.closes.extend(expired);
        let transport = message.get_u32(wire::REQUESTED_TRANSPORT).ok_or(400u16)?;
        if transport >> 24 != 17 {
            return Err(442);
        }
        let is_ipv6 = match message.get_u32(wire::REQUESTED_ADDRESS_FAMILY).map(|value| value >> 24) {
            None | Some(1) => false,
            Some(2) => true,
            Some(_) => return Err(440),
        };
        let is_served = self.rules.relays.iter().any(|(_, advertise)| advertise.is_ipv6() == is_ipv6);
        if !is_served {
            return Err(440);
        }
        let here = |relay: &(u16, u64)| relay.0 == shard;
        let mut taken = self.live.values().filter(|live| here(&live.relay)).count();
        taken += self.pending.keys().filter(|relay| here(relay)).count();
        taken -= usize::from(expired.is_some());
        // The expired one's port rests from now on.
        let mut freed = 0;
        if let Some(live) = self.live.get(&path)
            && self.rules.quarantine_secs == 0
            && live.relayed.is_ipv6() == is_ipv6
            && self.rules.is_relay_ip(live.relayed.ip())
            && self.rules.is_relay_port(live.relayed.port())
        {
            freed = 1;
        }
        if self.draining.contains(&shard)
            || taken >= self.rules.allocations_max
            || self.ports_free(clock.now.0, shard, is_ipv6) + freed == 0
        {
            return Err(508);
        }
        self.owed.bind = Some(Pending {
            path,
            user,
            transaction_id: message.transaction_id,
            lifetime_secs: self.grant(message),
            fingerprint: message.has(wire::FINGERPRINT),
            is_ipv6,
            relayed: path.client, // not known yet
            attempts: 1,
            abandoned: false,
        });
        Ok(())
    }

    fn grant(&self, message: &Parsed) -> u32 {
        let asked = message.get_u32(wire::LIFETIME).unwrap_or(0);
        asked.min(self.rules.lifetime_max_secs).max(self.rules.lifetime_default_secs)
    }

    fn refresh(&mut self, clock: Clock, path: FiveTuple, user: &User, message: &Parsed) -> Result<Success, u16> {
        let now = clock.now.0;
        if self.was_deleted_by(now, &path, message.transaction_id) {
            return Ok(Success::Refresh { lifetime_secs: 0 });
        }
        let lifetime_secs = self.grant(message);
        let live = self.owned(now, &path, user)?;
        if let Some(family) = message.get_u32(wire::REQUESTED_ADDRESS_FAMILY)
            && family >> 24 != if live.relayed.is_ipv6() { 2 } else { 1 }
        {
            return Err(443);
        }
        if message.get_u32(wire::LIFETIME) == Some(0) {
            let relay = live.relay;
            self.owed.closes.insert(relay);
            self.remember_deletion(now, path, message.transaction_id);
            return Ok(Success::Refresh { lifetime_secs: 0 });
        }
        live.expires = now + u64::from(lifetime_secs) * SECOND;
        Ok(Success::Refresh { lifetime_secs })
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
            if peer.is_ipv6() != live.relayed.is_ipv6() {
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
        if peer.is_ipv6() != live.relayed.is_ipv6() {
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
