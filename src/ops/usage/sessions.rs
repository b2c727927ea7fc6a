//! Which relayed addresses live, and which records come of what shards tell.
//!
//! What was dropped before it got here is made up for as far as possible: looking through a shard's allocations shows
//! beginnings and ends that nobody told of. An end is believed when two looks in a row have not found the address, for
//! the first may have come between the end of its lifetime and its removal.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::record::{Kind, Record, ends, random_id};
use crate::shard::SessionsPage;
use crate::turn::{Event, FiveTuple, Hints, Session, SessionId, Traffic};

/// One that lives.
struct Live {
    shard: u16,
    /// As it was last told.
    record: Record,
    /// The look in which it was last seen, or during which it began.
    seen: u64,
}

/// Relayed addresses that live, by what peers see: no two have the same at the same time.
pub(super) struct Sessions {
    live: HashMap<SocketAddr, Live>,
    client_addresses: bool,
    /// Looks begun, of each shard.
    looks: Vec<u64>,
    /// What ended while a look went on: pages of it may still show it.
    ended: HashSet<(SocketAddr, SessionId)>,
    looking: Option<u16>,
}

impl Sessions {
    pub(super) fn new(shards: u16, client_addresses: bool) -> Self {
        Self {
            live: HashMap::new(),
            client_addresses,
            looks: vec![0; usize::from(shards)],
            ended: HashSet::new(),
            looking: None,
        }
    }

    /// All that live, as lines of a checkpoint.
    pub(super) fn checkpoint(&self, lines: &mut Vec<u8>) {
        for live in self.live.values() {
            Record { kind: Kind::Live, ..live.record.clone() }.write(lines);
        }
    }

    /// What a shard has told.
    pub(super) fn hear(&mut self, shard: u16, event: &Event, at: u64, mut write: impl FnMut(&Record)) {
        match event {
            Event::Allocated { session, path, relayed, account, realm, .. } => {
                // Its predecessor at the same address must have ended, even if nobody said so.
                self.stop(*relayed, at, ends::UNKNOWN, None, &mut write);
                self.start(shard, *session, path, *relayed, (account, realm.as_deref()), at, &mut write);
            }
            Event::Ended { session, path, relayed, account, realm, why, traffic, hints, .. } => {
                let is_known = self.live.get(relayed).is_some_and(|live| live.record.session_id() == Some(*session));
                if !is_known {
                    // The beginning was dropped: when it was is not known any more.
                    self.stop(*relayed, at, ends::UNKNOWN, None, &mut write);
                    self.start(shard, *session, path, *relayed, (account, realm.as_deref()), at, &mut write);
                }
                self.stop(*relayed, at, why.label(), Some((traffic, hints)), &mut write);
                if self.looking == Some(shard) {
                    self.ended.insert((*relayed, *session));
                }
            }
            _ => {}
        }
    }

    /// Everything of a shard ends at once.
    pub(super) fn shard_restarted(&mut self, shard: u16, at: u64, mut write: impl FnMut(&Record)) {
        let of_shard = self.live.iter().filter(|(_, live)| live.shard == shard).map(|(relayed, _)| *relayed);
        for relayed in of_shard.collect::<Vec<_>>() {
            self.stop(relayed, at, ends::SHARD, None, &mut write);
        }
    }

    /// Everything that is left ends.
    pub(super) fn end_all(&mut self, at: u64, mut write: impl FnMut(&Record)) {
        for relayed in self.live.keys().copied().collect::<Vec<_>>() {
            self.stop(relayed, at, ends::SERVER, None, &mut write);
        }
    }

    /// A look through a shard begins.
    pub(super) fn begin_look(&mut self, shard: u16) {
        self.looks[usize::from(shard)] += 1;
        self.looking = Some(shard);
        self.ended.clear();
    }

    /// A part of it. `interim`: whether each address gets a record.
    pub(super) fn see(
        &mut self,
        shard: u16,
        page: &SessionsPage,
        interim: bool,
        at: u64,
        mut write: impl FnMut(&Record),
    ) {
        let look = self.looks[usize::from(shard)];
        for session in &page.sessions {
            for relay in &session.relayed {
                let Session { id, path, account, realm, permissions, age_secs, .. } = session;
                if self.ended.contains(&(relay.address, *id)) {
                    continue;
                }
                let is_known = |live: &Live| live.record.session_id() == Some(*id);
                if !self.live.get(&relay.address).is_some_and(is_known) {
                    let began = at.saturating_sub(u64::from(*age_secs) * 1_000);
                    self.stop(relay.address, at, ends::UNKNOWN, None, &mut write);
                    // As events have it: only where the account names it.
                    let names_realm = account.strip_suffix(&**realm).is_some_and(|name| name.ends_with('@'));
                    let whose = (account, names_realm.then_some(&**realm));
                    self.start(shard, *id, path, relay.address, whose, began, &mut write);
                }
                let Some(live) = self.live.get_mut(&relay.address) else { continue };
                live.seen = look;
                let peers = *permissions as u64;
                live.record.peers = Some(live.record.peers.map_or(peers, |most| most.max(peers)));
                live.record.set_traffic(&relay.traffic);
                live.record.duration_ms = at.saturating_sub(live.record.started_unix_ms);
                if interim {
                    live.record.advance(Kind::Interim, at);
                    write(&live.record);
                }
            }
        }
    }

    /// The look is over, and has found all there was.
    pub(super) fn end_look(&mut self, shard: u16, at: u64, mut write: impl FnMut(&Record)) {
        let look = self.looks[usize::from(shard)];
        let is_gone = |live: &Live| live.shard == shard && live.seen + 1 < look;
        let gone = self.live.iter().filter(|(_, live)| is_gone(live)).map(|(relayed, _)| *relayed);
        for relayed in gone.collect::<Vec<_>>() {
            self.stop(relayed, at, ends::UNKNOWN, None, &mut write);
        }
        self.give_up_look();
    }

    /// It is over without a result.
    pub(super) fn give_up_look(&mut self) {
        self.looking = None;
        self.ended.clear();
    }

    #[allow(clippy::too_many_arguments, reason = "what an event has")]
    fn start(
        &mut self,
        shard: u16,
        session: SessionId,
        path: &FiveTuple,
        relayed: SocketAddr,
        (account, realm): (&Arc<str>, Option<&str>),
        at: u64,
        write: &mut impl FnMut(&Record),
    ) {
        let record = Record {
            kind: Kind::Start,
            id: random_id(),
            usage: random_id(),
            sequence: 0,
            time_unix_ms: at,
            session: session.to_string(),
            account: account.to_string(),
            realm: realm.map(str::to_owned),
            transport: path.transport.label().to_owned(),
            family: if path.client.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned(),
            client: self.client_addresses.then_some(path.client),
            relayed,
            started_unix_ms: at,
            duration_ms: 0,
            bytes_to_peer: 0,
            bytes_to_client: 0,
            packets_to_peer: 0,
            packets_to_client: 0,
            peers: None,
            reason: None,
        };
        write(&record);
        let seen = self.looks[usize::from(shard)];
        self.live.insert(relayed, Live { shard, record, seen });
    }

    /// Nothing happens if nobody lives there.
    fn stop(
        &mut self,
        relayed: SocketAddr,
        at: u64,
        why: &str,
        last: Option<(&Traffic, &Hints)>,
        write: &mut impl FnMut(&Record),
    ) {
        let Some(Live { mut record, .. }) = self.live.remove(&relayed) else { return };
        if let Some((traffic, hints)) = last {
            record.set_traffic(traffic);
            record.peers = Some(record.peers.unwrap_or_default().max(hints.peers.into()));
            record.duration_ms = at.saturating_sub(record.started_unix_ms);
        }
        stop_record(&mut record, at, why);
        write(&record);
    }
}

/// Turns what was last known into the record of the end.
pub(super) fn stop_record(record: &mut Record, at: u64, why: &str) {
    record.advance(Kind::Stop, at);
    record.reason = Some(why.to_owned());
}
