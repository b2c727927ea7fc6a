//! Ports held for a RESERVATION-TOKEN (RFC 8656 §7.2, steps 5 and 8), and lending them to other shards.
//!
//! A reservation has a socket and counts for its account as an allocation does: its port is held against everybody,
//! and nobody can hold more ports than he may have allocations (abuse S12).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand_core::Rng;

use super::allocation::{Owner, Relay};
use super::{BindError, Clock, Effect, Letter, Now, PeerTransport, RelayId, Server};
use crate::stun::ErrorCode;

/// How long a port is held, from the response on (TURN-8656-7.2-26). A little more than the RFC's 30 s, which the
/// client counts from the moment it has the response.
const RESERVATION_SECS: u32 = 40;

/// The odd port above that of a live or pending allocation.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) relay: Relay,
    /// Only the same user may redeem it (TURN-8656-7.2-23).
    pub(super) owner: Owner,
    pub(super) token: u64,
    /// Until when it is held.
    pub(super) expires: Now,
    /// The pending allocation that is answered when the socket is there.
    pub(super) awaited_by: Option<RelayId>,
}

impl Server {
    /// Asks for a socket for the port above the one that `pending` has; it was drawn together with that one.
    pub(super) fn reserve_sibling(&mut self, pending: RelayId, relay: Relay, owner: Owner, client: IpAddr) {
        let relay = Relay { port: relay.port + 1, ..relay };
        let account = Arc::clone(&owner.account);
        let token = self.new_token();
        let reservation = Reservation { relay, owner, token, expires: Now(u64::MAX), awaited_by: Some(pending) };
        let name = self.allocations.hold(reservation);
        let (local, transport) = (relay.local(), PeerTransport::Udp);
        self.effects.push_back(Effect::BindRelay { relay: name, local, transport, account, client });
    }

    /// 64 random bits. Their remainder tells whose it is, which helps nobody who has to guess all of them
    /// (TURN-8656-7.2-23).
    fn new_token(&mut self) -> u64 {
        loop {
            let token = self.random.next_u64();
            if self.owner_of_token(token) == self.shard.index && self.allocations.reservation_of(token).is_none() {
                return token;
            }
        }
    }

    pub(super) fn owner_of_token(&self, token: u64) -> u16 {
        (token % u64::from(self.shard.count)) as u16
    }

    /// The answer to the bind of a reserved port.
    pub(super) fn on_reservation_bound(&mut self, clock: Clock, name: RelayId, result: Result<(), BindError>) {
        let Some(reservation) = self.allocations.reservation_mut(name) else {
            return;
        };
        let Some(pending) = reservation.awaited_by.take() else {
            return;
        };
        if result.is_ok() {
            reservation.expires = clock.now.plus_secs(RESERVATION_SECS);
            let token = reservation.token;
            self.arm(clock, name);
            if !self.finish_allocation(clock, pending, Some(token)) {
                self.end_reservation(clock, name);
            }
            return;
        }
        let error = result.expect_err("checked above");
        let refused = self.allocations.release_hold(name).expect("it was there a moment ago").relay;
        self.reservation_failed(clock, pending, error);
        self.release_refused(clock, refused, error);
    }

    /// Lets go of a reserved port that nobody came for.
    pub(super) fn end_reservation(&mut self, clock: Clock, name: RelayId) {
        if let Some(reservation) = self.allocations.release_hold(name) {
            self.release_port(clock, reservation.relay);
            self.effects.push_back(Effect::CloseRelay { relay: name, account: reservation.owner.account });
        }
    }

    /// Takes the port of a token out of the table, once; it stays taken in the pool.
    pub(super) fn redeem(&mut self, clock: Clock, token: u64, username: &str) -> Option<Relay> {
        let name = self.allocations.reservation_of(token)?;
        let reservation = self.allocations.reservation_mut(name)?;
        let is_bound = reservation.awaited_by.is_none();
        if !is_bound || reservation.expires <= clock.now || *reservation.owner.username != *username {
            return None;
        }
        let Reservation { relay, owner, .. } = self.allocations.release_hold(name)?;
        // Closed first and bound again by whoever redeems it: one way for all, whichever shard that is.
        self.effects.push_back(Effect::CloseRelay { relay: name, account: owner.account });
        Some(relay)
    }

    pub(super) fn on_letter(&mut self, clock: Clock, from: u16, letter: Letter) {
        match letter {
            Letter::Redeem { token, username, asker } => {
                let port = self.redeem(clock, token, &username);
                if let Some(relay) = port {
                    self.lent.insert(relay.relayed(), (from, relay));
                }
                let port = port.map(|relay| (relay.address, relay.port));
                self.effects.push_back(Effect::Tell { shard: from, letter: Letter::Lend { asker, token, port } });
            }
            Letter::Lend { asker, token, port } => {
                let relay = port.map(|(address, port)| Relay { address, port });
                self.on_lent(clock, asker, token, relay);
            }
            Letter::Carry { path } => self.on_carry(clock, from, path),
            Letter::Stop { path } => self.elsewhere.forget(&path, from),
            Letter::Refuse { path } => self.on_refuse(clock, from, path),
            Letter::Return { address, port } => {
                let relayed = SocketAddr::new(address.advertise, port);
                // Whoever was restarted meanwhile has nothing lent any more, and what it had was taken back.
                if self.lent.get(&relayed).is_some_and(|(borrower, _)| *borrower == from) {
                    let (_, relay) = self.lent.remove(&relayed).expect("it was there a moment ago");
                    self.release_port(clock, relay);
                }
            }
        }
    }

    /// The owner's answer to a token that was shown here.
    fn on_lent(&mut self, clock: Clock, asker: RelayId, token: u64, relay: Option<Relay>) {
        let pending = self.allocations.pending_mut(asker).filter(|pending| pending.redeeming == Some(token));
        match (pending, relay) {
            (Some(pending), Some(relay)) if !pending.abandoned => {
                pending.redeeming = None;
                self.bind_pending(asker, relay);
            }
            (Some(_), relay) => {
                self.refuse_pending(clock, asker, ErrorCode::InsufficientCapacity);
                relay.into_iter().for_each(|relay| self.release_port(clock, relay));
            }
            (None, relay) => relay.into_iter().for_each(|relay| self.release_port(clock, relay)),
        }
    }

    pub(super) fn on_shard_restarted(&mut self, clock: Clock, shard: u16) {
        let lost: Vec<SocketAddr> =
            self.lent.iter().filter(|(_, (borrower, _))| *borrower == shard).map(|(relayed, _)| *relayed).collect();
        for relayed in lost {
            let (_, relay) = self.lent.remove(&relayed).expect("it was there a moment ago");
            self.release_port(clock, relay);
        }
        let waiting: Vec<RelayId> = self
            .allocations
            .iter_pending()
            .filter(|(_, pending)| pending.redeeming.is_some_and(|token| self.owner_of_token(token) == shard))
            .map(|(name, _)| name)
            .collect();
        for name in waiting {
            self.refuse_pending(clock, name, ErrorCode::InsufficientCapacity);
        }
    }
}
