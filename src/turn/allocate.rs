//! Allocate (RFC 8656 §7.2), answered only when its relay socket is bound.

use std::net::{IpAddr, SocketAddr};

use rand_core::Rng;

use super::allocation::{Allocation, Owner, Relay};
use super::allocations::Found;
use super::authenticate::{Authenticated, Sealing};
use super::request::{Answering, Outcome, Success};
use super::{BindError, Clock, Effect, Event, FiveTuple, Lifetimes, Reason, RelayId, ReplyBuffer, Server};
use crate::stun::{AddressFamily, AttributeType, ErrorCode};

/// Ports tried before Allocate is answered 508, when other programs sit in our range.
const BIND_ATTEMPTS_MAX: u8 = 8;
const PROTOCOL_UDP: u8 = 17;

/// An allocation whose socket the shell is binding.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) path: FiveTuple,
    pub(super) relay: Relay,
    /// The client went away meanwhile.
    pub(super) abandoned: bool,
    owner: Owner,
    answering: Answering,
    sealing: Sealing,
    lifetime_secs: u32,
    attempts: u8,
}

impl Lifetimes {
    /// min(asked, maximum), and never less than the default (TURN-8656-7.2-29).
    pub(super) fn grant(&self, asked_secs: Option<u32>) -> u32 {
        asked_secs.unwrap_or(0).min(self.allocation_max_secs).max(self.allocation_default_secs)
    }
}

impl Server {
    pub(super) fn on_allocate(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
        answering: Answering,
    ) -> Outcome {
        match self.allocations.find(clock.now, &path) {
            Found::Live(_, allocation)
                if allocation.created_by == request.transaction_id() && allocation.owner == *request.owner() =>
            {
                return Outcome::Success(Success::Allocate {
                    relayed: allocation.relay.relayed(),
                    mapped: path.client,
                    lifetime_secs: clock.now.secs_until(allocation.expires),
                });
            }
            Found::Pending(pending) if pending.answering.transaction_id == request.transaction_id() => {
                return Outcome::Drop(Reason::RetransmissionPending);
            }
            Found::Live(..) | Found::Pending(_) => return Outcome::Failure(ErrorCode::AllocationMismatch),
            // What expired since the wheel last turned must not hold the 5-tuple.
            Found::Nothing => self.end_expired_at(clock, &path),
        }
        match self.start_allocation(clock, path, request, answering) {
            Ok(()) => Outcome::Later,
            Err(code) => Outcome::Failure(code),
        }
    }

    fn start_allocation(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
        answering: Answering,
    ) -> Result<(), ErrorCode> {
        let transport = request.first_u32(AttributeType::REQUESTED_TRANSPORT)?.ok_or(ErrorCode::BadRequest)?;
        let family = request.first_u32(AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let lifetime_secs = self.config.lifetimes.grant(request.first_u32(AttributeType::LIFETIME)?);
        // The first byte counts, the other three are reserved and ignored (TURN-8656-18-01).
        if transport.to_be_bytes()[0] != PROTOCOL_UDP {
            return Err(ErrorCode::UnsupportedTransportProtocol);
        }
        // Every platform this runs on can set DF, so the attribute needs no more than its form (A19, TURN-8656-7.2-07).
        if request.first(AttributeType::DONT_FRAGMENT).is_some_and(|value| !value.is_empty()) {
            return Err(ErrorCode::BadRequest);
        }
        let family = match family.map(|value| value.to_be_bytes()[0]) {
            // Without the attribute IPv4, also for IPv6 clients (TURN-8656-7.2-12, A08).
            None | Some(0x01) => AddressFamily::Ipv4,
            Some(0x02) => AddressFamily::Ipv6,
            Some(_) => return Err(ErrorCode::AddressFamilyNotSupported),
        };
        if !self.config.relays.iter().any(|relay| relay.family() == family) {
            return Err(ErrorCode::AddressFamilyNotSupported);
        }
        if is_tunnelled(path.client.ip()) {
            return Err(ErrorCode::Forbidden);
        }
        if self.draining
            || self.allocations.taken() >= self.config.limits.allocations
            || self.effects.len() >= self.config.limits.effects
        {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let relay = self.draw_port(clock, family).ok_or(ErrorCode::InsufficientCapacity)?;
        let owner = request.owner().clone();
        let account = owner.account.clone();
        let sealing = request.sealing().clone();
        let pending = Pending { path, relay, abandoned: false, owner, answering, sealing, lifetime_secs, attempts: 1 };
        let name = self.allocations.reserve(pending);
        self.effects.push_back(Effect::BindRelay { relay: name, local: relay.local(), account });
        Ok(())
    }

    /// A free port at one of the relay addresses of this family, starting at a random one.
    fn draw_port(&mut self, clock: Clock, family: AddressFamily) -> Option<Relay> {
        let count = self.pools.len();
        let start = self.random.next_u32() as usize % count.max(1);
        for place in (start..count).chain(0..start) {
            let (address, pool) = &mut self.pools[place];
            if address.family() == family
                && let Some(port) = pool.take(clock.now, &mut self.random)
            {
                return Some(Relay { address: *address, port });
            }
        }
        None
    }

    pub(super) fn on_relay_bound(&mut self, clock: Clock, relay: RelayId, result: Result<(), BindError>) {
        match result {
            Ok(()) => self.finish_allocation(clock, relay),
            Err(BindError::PortInUse) => self.try_another_port(clock, relay),
            Err(BindError::UserQuotaReached) => self.fail_allocation(relay, ErrorCode::AllocationQuotaReached),
            Err(BindError::OutOfCapacity) => self.fail_allocation(relay, ErrorCode::InsufficientCapacity),
        }
    }

    fn finish_allocation(&mut self, clock: Clock, relay: RelayId) {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return;
        };
        if pending.abandoned {
            let pending = self.allocations.take_pending(relay).expect("it was there a moment ago");
            self.release_port(clock, pending.relay);
            self.effects.push_back(Effect::CloseRelay { relay, account: pending.owner.account });
            return;
        }
        let path = pending.path;
        let lifetime_secs = pending.lifetime_secs;
        let (answering, sealing) = (pending.answering, pending.sealing.clone());
        let expires = clock.now.plus_secs(lifetime_secs);
        let allocation = Allocation::new(path, pending.owner.clone(), answering.transaction_id, pending.relay, expires);
        let relayed = allocation.relay.relayed();
        let account = allocation.owner.account.clone();
        self.allocations.promote(relay, allocation);
        self.arm(clock, relay);
        self.counters.allocations_created += 1;
        self.record(Event::Allocated { relay, path, relayed, account, lifetime_secs });
        let success = Success::Allocate { relayed, mapped: path.client, lifetime_secs };
        self.send_response(path, answering, Ok(success), &sealing);
    }

    fn try_another_port(&mut self, clock: Clock, relay: RelayId) {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return;
        };
        let taken = pending.relay;
        let family = taken.address.family();
        let give_up = pending.abandoned || pending.attempts >= BIND_ATTEMPTS_MAX;
        pending.attempts += 1;
        let account = pending.owner.account.clone();
        // Draw before giving the taken one back, so as not to draw it again.
        let next = if give_up { None } else { self.draw_port(clock, family) };
        self.release_port(clock, taken);
        match next {
            Some(next) => {
                self.allocations.pending_mut(relay).expect("it was there a moment ago").relay = next;
                self.effects.push_back(Effect::BindRelay { relay, local: next.local(), account });
            }
            None => self.refuse_pending(relay, ErrorCode::InsufficientCapacity),
        }
    }

    fn fail_allocation(&mut self, relay: RelayId, code: ErrorCode) {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return;
        };
        let unused = pending.relay;
        if let Some(pool) = self.pool_mut(unused) {
            pool.release_unused(unused.port);
        }
        self.refuse_pending(relay, code);
    }

    /// Ends a pending allocation whose port was given back already, and tells its client.
    fn refuse_pending(&mut self, relay: RelayId, code: ErrorCode) {
        let Some(pending) = self.allocations.take_pending(relay) else {
            return;
        };
        if !pending.abandoned {
            self.send_response(pending.path, pending.answering, Err(code), &pending.sealing);
        }
    }

    fn send_response(
        &mut self,
        to: FiveTuple,
        answering: Answering,
        result: Result<Success, ErrorCode>,
        sealing: &Sealing,
    ) {
        let mut reply = ReplyBuffer::new();
        let len = self.respond(&mut reply, answering, result, Some(sealing));
        self.effects.push_back(Effect::Send { to, bytes: reply[..len].into() });
    }
}

/// Teredo and 6to4 addresses are not accepted as clients (TURN-8656-21.4-01).
fn is_tunnelled(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.segments()[0] == 0x2002 || ip.segments()[..2] == [0x2001, 0],
    }
}

/// The relayed transport address that an address names, with everything but IP and port removed.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}
