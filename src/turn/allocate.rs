//! Allocate (RFC 8656 §7.2), answered only when its relay socket is bound.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use rand_core::Rng;

use super::allocation::{Allocation, Half, Owner, Relay, Told};
use super::allocations::Found;
use super::authenticate::{Authenticated, Sealing};
use super::mobility::{Mobile, current_ticket};
use super::ports::Wish;
use super::request::{Answering, Outcome, Success};
use super::revocation::key_print;
use super::{
    BindError, Clock, Effect, Event, FiveTuple, Letter, Lifetimes, Limit, PeerTransport, Reason, RelayId, ReplyBuffer,
    Server,
};
use crate::stun::{AddressFamily, AttributeType, ErrorCode};

/// Ports tried before Allocate is answered 508, when other programs sit in our range.
const BIND_ATTEMPTS_MAX: u8 = 8;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_TCP: u8 = 6;

/// An allocation whose socket the shell is binding.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) path: FiveTuple,
    transport: PeerTransport,
    /// `None` while another shard is asked for it.
    pub(super) relay: Option<Relay>,
    /// Of a dual allocation, what is bound already while `relay` is the second.
    pub(super) first_half: Option<Relay>,
    /// Of a dual allocation, the family that is tried after `relay`.
    second_family: Option<AddressFamily>,
    /// Of a dual allocation, the family that could not be had.
    refused: Option<(AddressFamily, ErrorCode)>,
    /// The token that another shard was shown for it.
    pub(super) redeeming: Option<u64>,
    /// Its response is to have a ticket.
    wants_ticket: bool,
    /// The client went away meanwhile.
    pub(super) abandoned: bool,
    owner: Owner,
    answering: Answering,
    sealing: Sealing,
    /// Whom this server has no capacity for may go elsewhere.
    may_redirect: bool,
    lifetime_secs: u32,
    wish: Wish,
    /// The port came with a token: no other will do.
    is_redeemed: bool,
    /// The port above is a [`Reservation`](super::reservations::Reservation) by now.
    is_reserved: bool,
    attempts: u8,
}

impl Pending {
    /// The port drawn together with its own, as long as nobody else has it.
    pub(super) fn unreserved_sibling(&self) -> Option<Relay> {
        let relay = self.relay.filter(|_| self.wish == Wish::Pair && !self.is_reserved)?;
        Some(Relay { port: relay.port + 1, ..relay })
    }
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
            Found::Live(relay, allocation)
                if allocation.created_by == request.transaction_id() && allocation.owner == *request.owner() =>
            {
                let told = allocation.told;
                let ticket = current_ticket(&self.config, self.shard, relay, allocation);
                let live: ArrayVec<Half, 2> = allocation.live_halves(clock.now).map(|half| *half).collect();
                let expires = live.iter().map(|half| half.expires).min().unwrap_or(clock.now);
                return Outcome::Success(Success::Allocate {
                    relayed: [0, 1].map(|place| live.get(place).map(|half| half.relay.relayed())),
                    mapped: path.client,
                    lifetime_secs: clock.now.secs_until(expires),
                    told,
                    ticket,
                });
            }
            Found::Pending(pending) if pending.answering.transaction_id == request.transaction_id() => {
                return Outcome::Drop(Reason::RetransmissionPending);
            }
            Found::Live(..) | Found::Pending(_) => return Outcome::Failure(ErrorCode::AllocationMismatch),
            // Whoever passed it on is about to hear that nothing lives here, and serves the next one itself.
            Found::Nothing if self.carrier.is_some() => return Outcome::Drop(Reason::Stray),
            // What expired since the wheel last turned must not hold the 5-tuple.
            Found::Nothing => self.end_expired_at(clock, &path),
        }
        match self.start_allocation(clock, path, request, answering) {
            Ok(()) => Outcome::Later,
            // 508 for a token means the token (TURN-8656-7.2-09).
            Err(ErrorCode::InsufficientCapacity)
                if request.first(AttributeType::RESERVATION_TOKEN).is_none()
                    && self.redirects_excess(clock, &path, request) =>
            {
                Outcome::Failure(ErrorCode::TryAlternate)
            }
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
        let asked_family = request.first_u32(AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let lifetime_secs = self.config.lifetimes.grant(request.first_u32(AttributeType::LIFETIME)?);
        let lifetime_secs = self.config.cap_lifetime(clock, request.owner(), lifetime_secs);
        let transport = self.requested_transport(path, request, transport)?;
        // Every platform this runs on can set DF, so the attribute needs no more than its form (A19, TURN-8656-7.2-07).
        if request.first(AttributeType::DONT_FRAGMENT).is_some_and(|value| !value.is_empty()) {
            return Err(ErrorCode::BadRequest);
        }
        let wants_ticket = self.wants_ticket(request)?;
        // With its control connection a TCP allocation loses its data connections (TCP-6062-5.5-01): nothing could move.
        if wants_ticket && transport == PeerTransport::Tcp {
            return Err(ErrorCode::MobilityForbidden);
        }
        let has = |kind| request.first(kind).is_some();
        let token = request.first(AttributeType::RESERVATION_TOKEN).map(<[u8; 8]>::try_from).transpose();
        let token = token.map_err(|_| ErrorCode::BadRequest)?.map(u64::from_be_bytes);
        let additional = request.first_u32(AttributeType::ADDITIONAL_ADDRESS_FAMILY)?;
        let has_family = asked_family.is_some() || additional.is_some();
        if token.is_some() && (has_family || has(AttributeType::EVEN_PORT)) {
            return Err(ErrorCode::BadRequest);
        }
        // Only IPv6 can come in addition, and only to IPv4 (TURN-8656-7.2-10, -15).
        if additional.is_some_and(|value| asked_family.is_some() || value.to_be_bytes()[0] != AddressFamily::Ipv6 as u8)
        {
            return Err(ErrorCode::BadRequest);
        }
        let wish = match request.first(AttributeType::EVEN_PORT) {
            None => Wish::Any,
            // The top bit counts, the others are reserved and ignored (TURN-8656-18-01).
            Some([flags]) if flags & 0x80 == 0 => Wish::Even,
            // Only one port could be reserved, and the client could not know of which family (TURN-8656-7.2-13).
            Some([_]) if additional.is_some() => return Err(ErrorCode::BadRequest),
            Some([_]) => Wish::Pair,
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        let family = match asked_family.map(|value| value.to_be_bytes()[0]) {
            // Without the attribute IPv4, also for IPv6 clients, unless the operator sees it otherwise (TURN-8656-7.2-12,
            // A08).
            None if self.config.compatibility.own_family
                && additional.is_none()
                && self.has_family(AddressFamily::of(path.client.ip())) =>
            {
                AddressFamily::of(path.client.ip())
            }
            None | Some(0x01) => AddressFamily::Ipv4,
            Some(0x02) => AddressFamily::Ipv6,
            Some(_) => return Err(ErrorCode::AddressFamilyNotSupported),
        };
        if token.is_none() && additional.is_none() && !self.has_family(family) {
            return Err(ErrorCode::AddressFamilyNotSupported);
        }
        if is_tunnelled(path.client.ip()) || self.config.is_denied_client(path.client.ip()) {
            return Err(ErrorCode::Forbidden);
        }
        if self.redirects_all(clock, &path, request) {
            return Err(ErrorCode::TryAlternate);
        }
        let slots = if wish == Wish::Pair { 2 } else { 1 };
        if self.draining {
            return Err(ErrorCode::InsufficientCapacity);
        }
        if self.allocations.taken() + slots > self.config.limits.allocations {
            return Err(self.no_capacity(Limit::Allocations));
        }
        if self.effects.len() >= self.config.limits.effects {
            return Err(self.no_capacity(Limit::PendingEffects));
        }
        let owner = request.owner().clone();
        let lender = token.map(|token| self.owner_of_token(token)).filter(|shard| *shard != self.shard.index);
        let mut second_family = additional.map(|_| AddressFamily::Ipv6);
        let mut refused = None;
        let relay = match token {
            None => match self.draw_port(clock, family, wish) {
                None if additional.is_some() => {
                    refused = Some((family, self.why_none(family)));
                    second_family = None;
                    // Neither of them: TURN-8656-7.2-16.
                    Some(self.draw_port(clock, AddressFamily::Ipv6, wish).ok_or(ErrorCode::InsufficientCapacity)?)
                }
                drawn => Some(drawn.ok_or(ErrorCode::InsufficientCapacity)?),
            },
            Some(_) if lender.is_some() => None,
            // Not ours, another user's, redeemed or too late: all the same to whoever shows it (TURN-8656-7.2-09).
            Some(token) => Some(self.redeem(clock, token, &owner.username).ok_or(ErrorCode::InsufficientCapacity)?),
        };
        let username = owner.username.clone();
        let name = self.allocations.reserve(Pending {
            path,
            transport,
            relay,
            first_half: None,
            second_family,
            refused,
            redeeming: token.filter(|_| lender.is_some()),
            wants_ticket,
            abandoned: false,
            owner,
            answering,
            sealing: request.sealing().clone(),
            may_redirect: token.is_none() && self.redirects_excess(clock, &path, request),
            lifetime_secs,
            wish,
            is_redeemed: token.is_some(),
            is_reserved: false,
            attempts: 1,
        });
        match (relay, token.zip(lender)) {
            (_, Some((token, shard))) => {
                let letter = Letter::Redeem { token, username, asker: name };
                self.effects.push_back(Effect::Tell { shard, letter });
            }
            (Some(relay), None) => self.bind_pending(name, relay),
            (None, None) => unreachable!("without a port there is somebody to lend one"),
        }
        Ok(())
    }

    /// What a relay is to speak.
    fn requested_transport(
        &self,
        path: FiveTuple,
        request: &Authenticated<'_, '_>,
        requested: u32,
    ) -> Result<PeerTransport, ErrorCode> {
        let allowed = &self.config.relay_transports;
        // The first byte counts, the other three are reserved and ignored (TURN-8656-18-01).
        match requested.to_be_bytes()[0] {
            PROTOCOL_UDP if !allowed.udp => Err(ErrorCode::Forbidden),
            PROTOCOL_UDP => Ok(PeerTransport::Udp),
            PROTOCOL_TCP if allowed.tcp.is_none() => Err(ErrorCode::UnsupportedTransportProtocol),
            PROTOCOL_TCP => {
                let datagrams_only =
                    [AttributeType::DONT_FRAGMENT, AttributeType::EVEN_PORT, AttributeType::RESERVATION_TOKEN];
                // TCP-6062-5.1-03, 5.1-04
                if !path.transport.is_stream() || datagrams_only.iter().any(|kind| request.first(*kind).is_some()) {
                    return Err(ErrorCode::BadRequest);
                }
                Ok(PeerTransport::Tcp)
            }
            _ => Err(ErrorCode::UnsupportedTransportProtocol),
        }
    }

    /// Gives a pending allocation its port, and asks for the socket.
    pub(super) fn bind_pending(&mut self, name: RelayId, relay: Relay) {
        let pending = self.allocations.pending_mut(name).expect("only called for a pending one");
        pending.relay = Some(relay);
        let (transport, account, client) = (pending.transport, pending.owner.account.clone(), pending.path.client.ip());
        let name = name.of_family(relay.address.family());
        self.effects.push_back(Effect::BindRelay { relay: name, local: relay.local(), transport, account, client });
    }

    fn has_family(&self, family: AddressFamily) -> bool {
        self.config.relays.iter().any(|relay| relay.family() == family)
    }

    /// Why no port of this family can be drawn.
    fn why_none(&self, family: AddressFamily) -> ErrorCode {
        if self.has_family(family) { ErrorCode::InsufficientCapacity } else { ErrorCode::AddressFamilyNotSupported }
    }

    /// A free port at one of the relay addresses of this family, starting at a random one.
    fn draw_port(&mut self, clock: Clock, family: AddressFamily, wish: Wish) -> Option<Relay> {
        let count = self.pools.len();
        let start = self.random.next_u32() as usize % count.max(1);
        for place in (start..count).chain(0..start) {
            let (address, pool) = &mut self.pools[place];
            if address.family() == family
                && let Some(port) = pool.take(clock.now, wish, &mut self.random)
            {
                return Some(Relay { address: *address, port });
            }
        }
        if self.has_family(family) {
            self.reached(Limit::RelayPorts);
        }
        None
    }

    pub(super) fn on_relay_bound(&mut self, clock: Clock, relay: RelayId, result: Result<(), BindError>) {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return self.on_reservation_bound(clock, relay, result);
        };
        let Some(bound) = pending.relay else {
            return;
        };
        match result {
            Ok(()) if pending.wish == Wish::Pair && !pending.abandoned => {
                pending.is_reserved = true;
                let (owner, client) = (pending.owner.clone(), pending.path.client.ip());
                self.reserve_sibling(relay, bound, owner, client);
            }
            Ok(()) => match pending.second_family.take().filter(|_| !pending.abandoned) {
                Some(family) => self.bind_second_half(clock, relay, family),
                None => {
                    self.finish_allocation(clock, relay, None);
                }
            },
            Err(error) => {
                let sibling = pending.unreserved_sibling();
                self.try_another_port(clock, relay, error);
                self.release_refused(clock, bound, error);
                sibling.into_iter().for_each(|sibling| self.release_unused(clock, sibling));
            }
        }
    }

    /// The IPv4 half of a dual allocation is bound: now the other. Without that one it is served, too (TURN-8656-7.2-17).
    fn bind_second_half(&mut self, clock: Clock, relay: RelayId, family: AddressFamily) {
        let wish = self.allocations.pending_mut(relay).expect("it was there a moment ago").wish;
        let drawn = self.draw_port(clock, family, wish);
        let why_none = self.why_none(family);
        let pending = self.allocations.pending_mut(relay).expect("it was there a moment ago");
        match drawn {
            Some(second) => {
                pending.first_half = pending.relay.take();
                self.bind_pending(relay, second);
            }
            None => {
                pending.refused = Some((family, why_none));
                self.finish_allocation(clock, relay, None);
            }
        }
    }

    /// One half of a dual allocation could not be had: on with the other, if there still is one.
    fn go_on_without(&mut self, clock: Clock, relay: RelayId) -> bool {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return false;
        };
        pending.refused = Some((relay.family, ErrorCode::InsufficientCapacity));
        if let Some(first) = pending.first_half.take() {
            pending.relay = Some(first);
            self.finish_allocation(clock, relay.of_family(first.address.family()), None);
            return true;
        }
        let (wish, second_family) = (pending.wish, pending.second_family.take());
        match second_family.and_then(|family| self.draw_port(clock, family, wish)) {
            Some(second) => {
                self.bind_pending(relay, second);
                true
            }
            None => false,
        }
    }

    /// The allocation has its socket, but the port above could not be had.
    pub(super) fn reservation_failed(&mut self, clock: Clock, relay: RelayId, error: BindError) {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return;
        };
        pending.is_reserved = false;
        let bound = pending.relay.take();
        self.effects.push_back(Effect::CloseRelay { relay, account: pending.owner.account.clone() });
        self.try_another_port(clock, relay, error);
        bound.into_iter().for_each(|bound| self.release_port(clock, bound));
    }

    /// Makes a pending allocation a live one and answers; whether there was still somebody to answer.
    pub(super) fn finish_allocation(&mut self, clock: Clock, relay: RelayId, token: Option<u64>) -> bool {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return false;
        };
        let bound = pending.relay.expect("its socket is bound");
        if pending.abandoned {
            let sibling = pending.unreserved_sibling();
            let pending = self.allocations.take_pending(relay).expect("it was there a moment ago");
            self.close_first_half(clock, relay, &pending);
            self.release_port(clock, bound);
            sibling.into_iter().for_each(|sibling| self.release_unused(clock, sibling));
            self.effects.push_back(Effect::CloseRelay { relay, account: pending.owner.account });
            return false;
        }
        let path = pending.path;
        let lifetime_secs = pending.lifetime_secs;
        let (answering, sealing) = (pending.answering, pending.sealing.clone());
        let expires = clock.now.plus_secs(lifetime_secs);
        let told = Told { token, refused: pending.refused };
        let relays = pending.first_half.into_iter().chain([bound]);
        let halves: ArrayVec<Half, 2> = relays.map(|relay| Half::new(relay, expires)).collect();
        let (owner, transport) = (pending.owner.clone(), pending.transport);
        let session = self.config.session_key.id(&path);
        let created_by = answering.transaction_id;
        let mut allocation = Allocation::new(session, path, owner, transport, created_by, halves.clone(), told);
        allocation.holding = self.holdings.open(&allocation.owner.account, path.client.ip());
        allocation.created = clock.now;
        allocation.key_print = key_print(self.lent.hasher(), &sealing);
        // It may have been switched off meanwhile.
        if pending.wants_ticket && self.config.mobility.is_some() {
            allocation.mobile = Some(Box::new(Mobile::new(self.new_serial(relay))));
        }
        let ticket = current_ticket(&self.config, self.shard, relay, &allocation);
        let (account, realm) = (allocation.owner.account.clone(), allocation.owner.told_realm(&self.config));
        allocation.meter = self.meters.join(&allocation.owner);
        self.allocations.promote(relay, allocation);
        self.arm(clock, relay);
        self.counters.allocations_created += 1;
        for half in &halves {
            let (relay, relayed) = (relay.of_family(half.family()), half.relay.relayed());
            let (account, realm) = (account.clone(), realm.clone());
            // As with its end, never left out.
            let event = Event::Allocated { session, relay, path, relayed, account, realm, lifetime_secs };
            self.effects.push_back(Effect::Record(event));
        }
        let relayed = [0, 1].map(|place| halves.get(place).map(|half| half.relay.relayed()));
        let success = Success::Allocate { relayed, mapped: path.client, lifetime_secs, told, ticket };
        self.send_response(path, answering, Ok(success), &sealing);
        true
    }

    /// After a bind that failed: another port, or the end. Those it had until now are for the caller to give back, but
    /// only afterwards, so that they are not drawn again.
    fn try_another_port(&mut self, clock: Clock, relay: RelayId, error: BindError) {
        let Some(pending) = self.allocations.pending_mut(relay) else {
            return;
        };
        let code = match error {
            BindError::UserQuotaReached | BindError::PrefixQuotaReached | BindError::RealmQuotaReached => {
                ErrorCode::AllocationQuotaReached
            }
            BindError::PortInUse | BindError::OutOfCapacity => ErrorCode::InsufficientCapacity,
        };
        let give_up = pending.abandoned || pending.is_redeemed || pending.attempts >= BIND_ATTEMPTS_MAX;
        pending.attempts += 1;
        let wish = pending.wish;
        match error {
            BindError::UserQuotaReached => self.reached(Limit::AllocationsPerUser),
            BindError::PrefixQuotaReached => self.reached(Limit::AllocationsPerPrefix),
            BindError::RealmQuotaReached => self.reached(Limit::AllocationsPerRealm),
            BindError::OutOfCapacity => self.reached(Limit::Allocations),
            BindError::PortInUse => {}
        }
        let is_in_use = error == BindError::PortInUse;
        match if is_in_use && !give_up { self.draw_port(clock, relay.family, wish) } else { None } {
            Some(next) => self.bind_pending(relay, next),
            None if code != ErrorCode::AllocationQuotaReached && self.go_on_without(clock, relay) => {}
            None => self.refuse_pending(clock, relay, code),
        }
    }

    /// Gives back a port that could not be bound. One that somebody else uses rests like one of our own.
    pub(super) fn release_refused(&mut self, clock: Clock, relay: Relay, error: BindError) {
        match error {
            BindError::PortInUse => self.release_port(clock, relay),
            BindError::UserQuotaReached
            | BindError::PrefixQuotaReached
            | BindError::RealmQuotaReached
            | BindError::OutOfCapacity => {
                self.release_unused(clock, relay);
            }
        }
    }

    /// Ends a pending allocation whose port the caller gives back, and tells its client.
    pub(super) fn refuse_pending(&mut self, clock: Clock, relay: RelayId, code: ErrorCode) {
        let Some(pending) = self.allocations.take_pending(relay) else {
            return;
        };
        self.close_first_half(clock, relay, &pending);
        let account = Some(Arc::clone(&pending.owner.account));
        let may_redirect = pending.may_redirect && self.can_redirect(&pending.path);
        if !pending.abandoned && code == ErrorCode::InsufficientCapacity && may_redirect {
            let mut reply = ReplyBuffer::new();
            self.request_refused(clock, pending.path, pending.answering.method, ErrorCode::TryAlternate, account);
            let len = self.redirect(clock, pending.path, &mut reply, pending.answering, Some(&pending.sealing));
            self.effects.push_back(Effect::Send { to: pending.path, bytes: reply[..len].into() });
        } else if !pending.abandoned {
            self.request_refused(clock, pending.path, pending.answering.method, code, account);
            self.send_response(pending.path, pending.answering, Err(code), &pending.sealing);
        }
    }

    fn close_first_half(&mut self, clock: Clock, relay: RelayId, pending: &Pending) {
        if let Some(first) = pending.first_half {
            let relay = relay.of_family(first.address.family());
            self.release_port(clock, first);
            self.effects.push_back(Effect::CloseRelay { relay, account: pending.owner.account.clone() });
        }
    }

    pub(super) fn send_response(
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
