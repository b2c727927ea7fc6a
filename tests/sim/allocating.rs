//! The oracle's half for allocations on their way: one relay, two of them, a pair of ports, or a port held for a token.

use std::net::SocketAddr;

use hairpin::turn::{BindError, Clock, FiveTuple, Traffic};

use crate::expect::{Response, Seal, Slip, Success};
use crate::model::{Half, Live, Model, RelayName, Reserved, SECOND};
use crate::requests::User;
use std::collections::BTreeMap;

const BIND_ATTEMPTS_MAX: u32 = 8;
/// A little more than the RFC's thirty.
const RESERVED_SECS: u64 = 40;

/// EVEN-PORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Any,
    Even,
    Pair,
}

#[derive(Clone, Debug)]
pub struct Pending {
    pub shard: u16,
    pub path: FiveTuple,
    pub user: User,
    pub transaction_id: [u8; 12],
    pub lifetime_secs: u32,
    pub fingerprint: bool,
    pub wish: Wish,
    /// The only port that will do: it was reserved.
    pub redeemed: Option<SocketAddr>,
    /// The family that is being tried.
    pub is_ipv6: bool,
    /// IPv6 is to come in addition.
    pub wants_ipv6: bool,
    /// Family and error of the half that could not be had.
    pub refused: Option<(u8, u16)>,
    pub wants_ticket: bool,
    /// What the shell is asked for now.
    pub asked: Option<(RelayName, SocketAddr)>,
    /// What it has bound.
    pub bound: Vec<(RelayName, SocketAddr)>,
    /// The port above, free for nobody else, being asked for, or bound.
    pub sibling: Option<SocketAddr>,
    pub attempts: u32,
    pub abandoned: bool,
}

impl Pending {
    /// Whether this relayed address is taken for it.
    pub fn has(&self, relayed: SocketAddr) -> bool {
        self.asked.is_some_and(|(_, asked)| asked == relayed)
            || self.bound.iter().any(|(_, bound)| *bound == relayed)
            || self.sibling == Some(relayed)
            || self.redeemed == Some(relayed)
    }

    /// The port above counts as soon as it is asked for.
    pub fn holds_a_second_slot(&self) -> bool {
        self.is_asking_for_sibling()
    }

    fn is_asking_for_sibling(&self) -> bool {
        self.wish == Wish::Pair && !self.bound.is_empty()
    }
}

impl Model {
    pub fn pending_at(&self, path: &FiveTuple) -> Option<&Pending> {
        self.pending.values().find(|pending| pending.path == *path && !pending.abandoned)
    }

    /// Who waits for this socket.
    pub fn asking_for(&self, relay: RelayName) -> &Pending {
        let mut all = self.pending.values();
        all.find(|pending| pending.asked.is_some_and(|(asked, _)| asked == relay)).expect("nobody asked for it")
    }

    /// The server asks for a socket; whether its port was drawn for it just now. Panics if nobody waits for it.
    pub fn bind_asked(&mut self, clock: Clock, relay: RelayName, relayed: SocketAddr) -> bool {
        let is_owed = self.owed.bind.take();
        let abandoned = || {
            // Whoever has gone away may be worked for a little longer.
            let mut all = self.pending.iter().filter(|(_, pending)| pending.abandoned && pending.asked.is_none());
            all.find(|(_, pending)| pending.shard == relay.0).map(|(id, _)| *id)
        };
        let id = is_owed.or_else(abandoned).expect("nobody asked for a relay");
        let mut pending = self.pending.remove(&id).expect("owed a moment ago");
        assert_eq!(pending.shard, relay.0);
        let is_new = !pending.is_asking_for_sibling() && pending.redeemed.is_none();
        if pending.is_asking_for_sibling() {
            assert_eq!(pending.sibling, Some(relayed), "not the port above");
        } else if let Some(redeemed) = pending.redeemed {
            assert_eq!(redeemed, relayed, "not the port that was reserved");
        } else {
            assert_eq!(self.owner_of(relayed.port()), relay.0, "another shard's port");
            assert!(self.is_free(clock.now.0, relayed), "{relayed} is in use, or was a moment ago");
            assert!(pending.abandoned || pending.is_ipv6 == relayed.is_ipv6());
            assert!(pending.wish == Wish::Any || relayed.port().is_multiple_of(2), "an odd port");
            if pending.wish == Wish::Pair {
                let sibling = SocketAddr::new(relayed.ip(), relayed.port() + 1);
                assert!(self.is_free(clock.now.0, sibling) && self.rules.is_relay_port(sibling.port()));
                pending.sibling = Some(sibling);
            }
        }
        pending.asked = Some((relay, relayed));
        self.pending.insert(id, pending);
        is_new
    }

    /// The shell's answer to a bind, before the server hears it.
    pub fn relay_bound(&mut self, clock: Clock, relay: RelayName, result: Result<(), BindError>) {
        let now = clock.now.0;
        let is_it = |pending: &Pending| pending.asked.is_some_and(|(asked, _)| asked == relay);
        let id = *self.pending.iter().find(|(_, pending)| is_it(pending)).expect("the shell answers once").0;
        let mut pending = self.pending.remove(&id).expect("found a moment ago");
        let was_sibling = pending.is_asking_for_sibling();
        // As long as all it has is taken.
        self.pending.insert(id, pending.clone());
        let others = self.free(now, pending.shard, pending.is_ipv6, pending.wish).len();
        self.pending.remove(&id);

        let (_, relayed) = pending.asked.take().expect("it was asked for");
        match result {
            Ok(()) => pending.bound.push((relay, relayed)),
            Err(error) => {
                if error == BindError::PortInUse {
                    // Somebody else's; ours again in a while.
                    self.rest(now, relayed);
                }
                pending.sibling = None;
                if pending.redeemed.is_some() && self.owner_of(relayed.port()) != pending.shard {
                    // It goes back to its owner, who knows no more than that.
                    self.rest(now, relayed);
                }
                if was_sibling {
                    self.owed.closes.extend(pending.bound.iter().map(|(relay, _)| *relay));
                }
            }
        }
        if pending.abandoned {
            if pending.wish == Wish::Pair && !was_sibling {
                pending.sibling = None;
            }
            self.pending.insert(id, pending);
            return;
        }
        let decision = match result {
            Ok(()) if pending.wish == Wish::Pair && !was_sibling => None,
            Ok(()) if std::mem::take(&mut pending.wants_ipv6) => {
                if self.free(now, pending.shard, true, pending.wish).is_empty() {
                    pending.refused = Some((2, self.why_none(true)));
                    Some(Ok(()))
                } else {
                    pending.is_ipv6 = true;
                    None
                }
            }
            Ok(()) => Some(Ok(())),
            Err(error) => self.after_failure(now, &mut pending, error, others),
        };
        self.pending.insert(id, pending);
        match decision {
            None => self.owed.bind = Some(id),
            Some(result) => self.conclude(clock, id, result),
        }
    }

    /// `None` for another bind, else how it ends.
    fn after_failure(
        &mut self,
        now: u64,
        pending: &mut Pending,
        error: BindError,
        others: usize,
    ) -> Option<Result<(), u16>> {
        let is_last = pending.attempts >= BIND_ATTEMPTS_MAX;
        pending.attempts += 1;
        if error == BindError::UserQuotaReached {
            return Some(Err(486));
        }
        if error == BindError::PortInUse && pending.redeemed.is_none() && !is_last && others > 0 {
            return None;
        }
        if pending.wish == Wish::Pair || pending.redeemed.is_some() {
            return Some(Err(508));
        }
        // With the other family alone, if it was wanted at all (TURN-8656-7.2-17).
        pending.refused = Some((if pending.is_ipv6 { 2 } else { 1 }, 508));
        if !pending.bound.is_empty() {
            return Some(Ok(()));
        }
        if std::mem::take(&mut pending.wants_ipv6) && !self.free(now, pending.shard, true, pending.wish).is_empty() {
            pending.is_ipv6 = true;
            return None;
        }
        Some(Err(508))
    }

    /// It is over, one way or the other: the client is told.
    fn conclude(&mut self, clock: Clock, id: u64, result: Result<(), u16>) {
        let pending = self.pending.get_mut(&id).expect("about to be concluded");
        let (path, lifetime_secs) = (pending.path, pending.lifetime_secs);
        let expires = clock.now.0 + u64::from(lifetime_secs) * SECOND;
        let mut response = Response {
            method: crate::wire::ALLOCATE,
            transaction_id: pending.transaction_id,
            outcome: result.map(|()| Success::Empty),
            seal: Some(Seal { key: pending.user.key.clone(), sha256: pending.user.sha256 }),
            fingerprint: pending.fingerprint,
            ticket: Slip::None,
            about: None,
        };
        if result.is_err() {
            // Its sockets close, unless that was owed before.
            let bound: Vec<RelayName> = pending.bound.iter().map(|(relay, _)| *relay).collect();
            pending.abandoned = true;
            self.owed.closes.extend(bound);
        } else {
            let pending = self.pending.remove(&id).expect("about to be concluded");
            let mut bound = pending.bound;
            let (username, account) = (pending.user.username, pending.user.account);
            if pending.wish == Wish::Pair {
                let (relay, relayed) = bound.pop().expect("the sibling is bound");
                let expires = clock.now.0 + RESERVED_SECS * SECOND;
                let reserved = Reserved { relayed, username: username.clone(), expires, token: Vec::new() };
                self.reserved.insert(relay, reserved);
                response.about = Some((id, Some(relay)));
            } else {
                response.about = Some((id, None));
            }
            let relayed: Vec<SocketAddr> = bound.iter().map(|(_, relayed)| *relayed).collect();
            let half = |(relay, relayed)| Half { relay, relayed, expires, traffic: Traffic::default() };
            response.outcome = Ok(Success::Allocate {
                relayed,
                mapped: path.client,
                lifetime_secs,
                refused: pending.refused,
                token: if pending.wish == Wish::Pair { Slip::New } else { Slip::None },
            });
            if pending.wants_ticket && self.rules.mobility {
                response.ticket = Slip::New;
            }
            assert!(!self.live.values().any(|live| live.has_path(&path)), "a second allocation on {path:?}");
            let live = Live {
                shard: pending.shard,
                halves: bound.into_iter().map(half).collect(),
                path,
                is_adrift: false,
                next: None,
                username,
                account,
                created_by: pending.transaction_id,
                token: None,
                refused: pending.refused,
                ticket: None,
                shown: None,
                permissions: BTreeMap::new(),
                channels: BTreeMap::new(),
                icmp: (0, 0),
            };
            self.live.insert(id, live);
        }
        self.owed.send = Some((path, response));
    }

    /// Forgets whoever has gone away and has nothing any more.
    pub fn forget_abandoned(&mut self) {
        self.pending.retain(|_, pending| !pending.abandoned || pending.asked.is_some() || !pending.bound.is_empty());
    }

    /// A socket of an allocation that will not be was closed.
    pub fn closed_early(&mut self, clock: Clock, relay: RelayName) -> bool {
        let has = |pending: &Pending| pending.abandoned && pending.bound.iter().any(|(bound, _)| *bound == relay);
        let mut all = self.pending.values_mut();
        let (found, relayed) = match all.find(|pending| has(pending) || pending.bound.iter().any(|(b, _)| *b == relay))
        {
            None => return false,
            Some(pending) => {
                let place = pending.bound.iter().position(|(bound, _)| *bound == relay).expect("found by it");
                let (_, relayed) = pending.bound.remove(place);
                if pending.sibling == Some(relayed) {
                    pending.sibling = None;
                }
                (pending.abandoned, relayed)
            }
        };
        let was_owed = self.owed.closes.remove(&relay);
        assert!(found || was_owed, "closed while somebody waits for it");
        self.rest(clock.now.0, relayed);
        true
    }

    pub fn why_none(&self, is_ipv6: bool) -> u16 {
        let is_served = self.rules.relays.iter().any(|(_, advertise)| advertise.is_ipv6() == is_ipv6);
        if is_served { 508 } else { 440 }
    }

    /// Relayed addresses of one family that a shard could still give out.
    pub fn free(&self, now: u64, shard: u16, is_ipv6: bool, wish: Wish) -> Vec<SocketAddr> {
        let relays = self.rules.relays.iter().map(|(_, advertise)| *advertise);
        let last = self.rules.last_port;
        relays
            .filter(|advertise| advertise.is_ipv6() == is_ipv6)
            .flat_map(|ip| (self.rules.first_port..=last).map(move |port| SocketAddr::new(ip, port)))
            .filter(|relayed| self.owner_of(relayed.port()) == shard && self.is_free(now, *relayed))
            .filter(|relayed| match wish {
                Wish::Any => true,
                Wish::Even => relayed.port() % 2 == 0,
                Wish::Pair => {
                    let above = SocketAddr::new(relayed.ip(), relayed.port() + 1);
                    relayed.port() % 2 == 0 && relayed.port() < last && self.is_free(now, above)
                }
            })
            .collect()
    }

    /// Whether nobody has this relayed address and it has rested long enough.
    pub fn is_free(&self, now: u64, relayed: SocketAddr) -> bool {
        let has = |live: &Live| live.halves.iter().any(|half| half.relayed == relayed);
        let is_ending = self.ending.and_then(|id| self.live.get(&id)).is_some_and(has);
        if is_ending {
            return self.rules.quarantine_secs == 0;
        }
        let is_used = self.live.values().any(has)
            || self.pending.values().any(|pending| pending.has(relayed))
            || self.reserved.values().any(|reserved| reserved.relayed == relayed);
        !is_used && self.resting.get(&relayed).is_none_or(|until| *until <= now)
    }

    pub fn is_configured(&self, relayed: SocketAddr) -> bool {
        self.rules.is_relay_ip(relayed.ip()) && self.rules.is_relay_port(relayed.port())
    }

    pub fn rest(&mut self, now: u64, relayed: SocketAddr) {
        if self.is_configured(relayed) {
            let until = now + u64::from(self.rules.quarantine_secs) * SECOND;
            self.resting.insert(relayed, until);
        }
    }
}
