//! Mobility (RFC 8016): a client whose address changes keeps its allocation by showing a ticket in a Refresh.
//!
//! A ticket is for one showing. It is sealed with a key that only the server has, the same in all shards, and says
//! where the allocation lives: shard, slot, and the serial number that the allocation now expects. To show it one
//! must be the allocation's owner besides (441), so that a ticket that was overheard is worth nothing.
//!
//! Until the client sends data from its new 5-tuple, the old one is served as before; requests are taken from both.
//! A connection that closes takes nothing along but itself: the allocation waits for its ticket, at most until its
//! lifetime is over, and counts for its account as long.

use aes_siv::siv::Aes128Siv;
use aes_siv::{KeyInit, Tag};
use arrayvec::ArrayVec;
use rand_core::Rng;
use std::fmt;
use std::sync::Arc;

use super::allocation::{Allocation, Owner};
use super::allocations::Found;
use super::authenticate::Authenticated;
use super::mirror::Ask;
use super::realms::Scope;
use super::{
    Clock, Config, Effect, Event, FiveTuple, Letter, MobilityKey, Now, Reason, RelayId, Server, ShardIndex, Verdict,
};
use crate::stun::{AttributeType, ErrorCode, Message, Method, TransactionId};

/// As much as coturn's client has room for.
const TICKET_LEN: usize = 32;
/// The synthetic initialization vector, which authenticates the rest.
const TAG_LEN: usize = 16;

/// How long a showing is remembered, so that the same Refresh again gets the same answer again (MOB-8016-3.2.2-09).
const REMEMBERED_SECS: u32 = 40;

/// MOBILITY-TICKET as the client has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket([u8; TICKET_LEN]);

impl Ticket {
    pub(super) const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// What a ticket says to whoever has the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    shard: u16,
    slot: u32,
    serial: u64,
}

impl MobilityKey {
    /// AES-SIV (RFC 5297) needs no nonce, only contents that differ, which the serial number sees to; and the same
    /// contents give the same ticket again, so that nobody has to keep it.
    fn seal(&self, contents: Shown) -> Ticket {
        let mut ticket = [0; TICKET_LEN];
        let (tag, sealed) = ticket.split_at_mut(TAG_LEN);
        sealed[..2].copy_from_slice(&contents.shard.to_be_bytes());
        sealed[2..6].copy_from_slice(&contents.slot.to_be_bytes());
        sealed[6..14].copy_from_slice(&contents.serial.to_be_bytes());
        let made = Aes128Siv::new(&self.0.into())
            .encrypt_inout_detached(std::iter::empty::<&[u8]>(), sealed.into())
            .expect("a few bytes and no headers");
        tag.copy_from_slice(&made);
        Ticket(ticket)
    }

    /// The contents, if this is a ticket that [`MobilityKey::seal`] has made.
    fn open(&self, ticket: &[u8]) -> Option<Shown> {
        let mut ticket = <[u8; TICKET_LEN]>::try_from(ticket).ok()?;
        let (tag, sealed) = ticket.split_at_mut(TAG_LEN);
        let tag = Tag::try_from(&*tag).expect("as long as a tag");
        Aes128Siv::new(&self.0.into())
            .decrypt_inout_detached(std::iter::empty::<&[u8]>(), (&mut *sealed).into(), &tag)
            .ok()?;
        let (shard, rest) = sealed.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (serial, _) = rest.split_first_chunk()?;
        Some(Shown {
            shard: u16::from_be_bytes(*shard),
            slot: u32::from_be_bytes(*slot),
            serial: u64::from_be_bytes(*serial),
        })
    }
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This shard.
    Ours,
    /// That shard, whatever is asked: its allocation has the 5-tuple.
    Carried(u16),
    /// That shard, if the client may show its ticket at all.
    Shown(u16),
}

/// Whom the client of another shard's allocation says he is. Where it lives, a user name may be older than allowed
/// (REST-04), which nobody knows here.
pub(super) fn presumed_owner(scope: Scope<'_>, message: &Message<'_>) -> Option<Owner> {
    let username = std::str::from_utf8(message.first(AttributeType::USERNAME)?).ok()?;
    let realm = scope.presumed_realm(username.as_bytes());
    Some(Owner { username: username.into(), realm, account: username.into(), grant: None })
}

/// What an allocation has besides if its client may move.
#[derive(Debug)]
pub(super) struct Mobile {
    /// That of the ticket that is good now.
    serial: u64,
    /// The shard that is given the datagrams of [`Allocation::path`], if that is another one.
    carrier: Option<u16>,
    /// [`Allocation::path`] was a connection that is closed, or is somebody else's: the client is out of reach.
    is_adrift: bool,
    /// Where the client has shown its ticket but not yet sent data from, and that 5-tuple's carrier.
    next: Option<(FiveTuple, Option<u16>)>,
    last_showing: Option<Showing>,
}

#[derive(Clone, Copy, Debug)]
struct Showing {
    by: TransactionId,
    /// The ticket's.
    serial: u64,
    until: Now,
}

impl Mobile {
    pub(super) const fn new(serial: u64) -> Self {
        Self { serial, carrier: None, is_adrift: false, next: None, last_showing: None }
    }
}

impl Allocation {
    /// Where data for the client goes; `None` while it is out of reach.
    pub(super) fn client(&self) -> Option<FiveTuple> {
        self.is_in_reach().then_some(self.path)
    }

    /// Whether the client is at [`Allocation::path`].
    pub(super) fn is_in_reach(&self) -> bool {
        !self.mobile.as_ref().is_some_and(|mobile| mobile.is_adrift)
    }

    /// Whether the client is at [`Allocation::path`] and has not announced to go elsewhere.
    pub(super) fn is_settled(&self) -> bool {
        !self.mobile.as_ref().is_some_and(|mobile| mobile.is_adrift || mobile.next.is_some())
    }

    /// The 5-tuples that requests are taken from, with the shard that passes on what comes from there.
    pub(super) fn paths(&self) -> ArrayVec<(FiveTuple, Option<u16>), 2> {
        let carrier = self.mobile.as_ref().and_then(|mobile| mobile.carrier);
        let next = self.mobile.as_ref().and_then(|mobile| mobile.next);
        self.client().map(|path| (path, carrier)).into_iter().chain(next).collect()
    }

    /// Where the client was heard of last.
    fn latest_path(&self) -> Option<FiveTuple> {
        self.paths().last().map(|(path, _)| *path)
    }

    /// Whether the ticket with this serial has been shown by this very request before, and worked.
    fn has_heard(&self, now: Now, path: &FiveTuple, by: TransactionId, serial: u64) -> bool {
        let showing = self.mobile.as_ref().and_then(|mobile| mobile.last_showing);
        showing.is_some_and(|showing| showing.by == by && showing.serial == serial && now < showing.until)
            && self.latest_path() == Some(*path)
    }
}

/// The ticket with this serial.
pub(super) fn ticket(config: &Config, shard: ShardIndex, relay: RelayId, serial: u64) -> Option<Ticket> {
    let key = config.mobility.as_ref()?;
    Some(key.seal(Shown { shard: shard.index, slot: relay.slot, serial }))
}

/// The ticket that an allocation's client should have now.
pub(super) fn current_ticket(
    config: &Config,
    shard: ShardIndex,
    relay: RelayId,
    allocation: &Allocation,
) -> Option<Ticket> {
    ticket(config, shard, relay, allocation.mobile.as_ref()?.serial)
}

/// Before authentication: the ticket of a Refresh, if it is one of ours.
pub(super) fn shown_ticket(config: &Config, message: &Message<'_>) -> Option<Shown> {
    if message.method() != Method::Refresh {
        return None;
    }
    config.mobility.as_ref()?.open(message.first(AttributeType::MOBILITY_TICKET)?)
}

impl Server {
    /// The shard to which the kernel gives what this client sends, if the client has an allocation here and that is another
    /// one ([`Verdict::NotMine`]).
    pub fn carrier_of(&mut self, clock: Clock, path: &FiveTuple) -> Option<u16> {
        let (_, allocation) = self.allocations.live_by_path(clock.now, path)?;
        allocation.paths().into_iter().find(|(one, _)| one == path)?.1
    }

    /// Whether the client of an Allocate is to have a ticket (RFC 8016 §3.1.2).
    pub(super) fn wants_ticket(&self, request: &Authenticated<'_, '_>) -> Result<bool, ErrorCode> {
        match request.first(AttributeType::MOBILITY_TICKET) {
            None => Ok(false),
            // Guests have nothing to prove that a ticket is theirs (MOB-8016-5-01).
            Some([]) if self.config.mobility.is_none() || request.is_guest() => Err(ErrorCode::MobilityForbidden),
            Some([]) => Ok(true),
            Some(_) => Err(ErrorCode::BadRequest),
        }
    }

    /// A serial number that nobody can guess, of a ticket without a zero byte: coturn's client keeps it as a C string.
    pub(super) fn new_serial(&mut self, relay: RelayId) -> u64 {
        loop {
            let serial = self.random.next_u64();
            let ticket = ticket(&self.config, self.shard, relay, serial);
            if ticket.is_none_or(|ticket| !ticket.bytes().contains(&0)) {
                return serial;
            }
        }
    }

    /// The owner of the allocation that a 5-tuple has, or else of the one that a ticket names, now or until it was shown
    /// last.
    pub(super) fn live_owner(&mut self, clock: Clock, path: &FiveTuple, shown: Option<Shown>) -> Option<&Owner> {
        let relay = self.allocations.live_by_path(clock.now, path).map(|(relay, _)| relay);
        let shown = shown.filter(|shown| shown.shard == self.shard.index);
        let slot = relay.map(|relay| relay.slot).or(shown.map(|shown| shown.slot))?;
        let (_, allocation) = self.allocations.live_in_slot(clock.now, slot)?;
        let is_named_by = |shown: Shown| {
            let mobile = allocation.mobile.as_ref();
            let before = mobile.and_then(|mobile| mobile.last_showing).map(|showing| showing.serial);
            before == Some(shown.serial) || mobile.is_some_and(|mobile| mobile.serial == shown.serial)
        };
        (relay.is_some() || shown.is_some_and(is_named_by)).then_some(&allocation.owner)
    }

    /// Who has to answer a request from a 5-tuple with this ticket, if it has one. Our own allocation there comes first,
    /// since a 5-tuple cannot have two.
    pub(super) fn whose(&mut self, clock: Clock, path: &FiveTuple, shown: Option<Shown>) -> Whose {
        if !matches!(self.allocations.find(clock.now, path), Found::Nothing) {
            return Whose::Ours;
        }
        if let Some(shard) = self.elsewhere.get(clock.now, path) {
            return Whose::Carried(shard);
        }
        let shard = shown.map_or(self.shard.index, |shown| shown.shard);
        if shard != self.shard.index && shard < self.shard.count { Whose::Shown(shard) } else { Whose::Ours }
    }

    /// Passes a request with another shard's ticket on to it, authenticated, so that it may cost something: with it goes
    /// what comes from the same 5-tuple next. Connections move as a whole.
    pub(super) fn pass_on(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        shard: u16,
        request: &Authenticated<'_, '_>,
    ) -> Result<Verdict, ErrorCode> {
        if self.carrier.is_some() {
            // Carried here for an allocation whose time is over. Repeated, it will not come here again.
            return Ok(Verdict::Drop(Reason::Stray));
        }
        if request.is_guest() {
            return Err(ErrorCode::WrongCredentials);
        }
        self.end_expired_at(clock, &path);
        if !path.transport.is_stream() {
            let limit = self.config.limits.allocations;
            let expected = self.elsewhere.expect(clock.now, path, shard, limit);
            expected.map_err(|_| ErrorCode::InsufficientCapacity)?;
        }
        Ok(Verdict::NotMine { shard })
    }

    /// The allocation that a ticket names, if it may be shown by this client from here (RFC 8016 §3.2.2).
    pub(super) fn allocation_of_ticket(
        &mut self,
        clock: Clock,
        path: &FiveTuple,
        request: &Authenticated<'_, '_>,
        ticket: &[u8],
    ) -> Result<(RelayId, &mut Allocation), ErrorCode> {
        let key = self.config.mobility.as_ref().ok_or(ErrorCode::MobilityForbidden)?;
        let shown = key.open(ticket).ok_or(ErrorCode::BadRequest)?;
        let at_path = match self.allocations.find(clock.now, path) {
            Found::Nothing => None,
            Found::Pending(_) => return Err(ErrorCode::AllocationMismatch),
            Found::Live(relay, _) => Some(relay.slot),
        };
        if at_path.is_some_and(|slot| (self.shard.index, slot) != (shown.shard, shown.slot)) {
            // The 5-tuple has an allocation, and it is not this one.
            return Err(ErrorCode::AllocationMismatch);
        }
        self.end_expired_at(clock, path);
        let by = request.transaction_id();
        let (relay, allocation) =
            self.allocations.live_in_slot(clock.now, shown.slot).ok_or(ErrorCode::AllocationMismatch)?;
        let is_repeated = allocation.has_heard(clock.now, path, by, shown.serial);
        if !is_repeated && allocation.mobile.as_ref().is_none_or(|mobile| mobile.serial != shown.serial) {
            // Another one lives there now, or the ticket has been shown before.
            return Err(ErrorCode::AllocationMismatch);
        }
        if !allocation.owner.is_same_user(request.owner()) {
            return Err(ErrorCode::WrongCredentials);
        }
        if !is_repeated && allocation.latest_path() == Some(*path) {
            return Err(ErrorCode::BadRequest);
        }
        Ok((relay, allocation))
    }

    /// An allocation's client has shown its ticket from `path`, rightly: the next ticket, if any of it still lives.
    pub(super) fn arrive(
        &mut self,
        clock: Clock,
        relay: RelayId,
        path: FiveTuple,
        by: TransactionId,
    ) -> Option<Ticket> {
        let serial = self.new_serial(relay);
        let carrier = self.carrier;
        let allocation = self.allocations.get_mut(relay)?;
        let from = allocation.latest_path();
        if from == Some(path) {
            // The same request again: nothing else is let through from here.
            return current_ticket(&self.config, self.shard, relay, allocation);
        }
        let (session, account) = (allocation.session, Arc::clone(&allocation.owner.account));
        let mobile = allocation.mobile.as_mut()?;
        let until = clock.now.plus_secs(REMEMBERED_SECS);
        mobile.last_showing = Some(Showing { by, serial: mobile.serial, until });
        mobile.serial = serial;
        let left = mobile.next.take();
        let is_new = if mobile.is_adrift {
            (mobile.is_adrift, mobile.carrier) = (false, carrier);
            allocation.set_path(path);
            true
        } else if allocation.path == path {
            false
        } else {
            mobile.next = Some((path, carrier));
            true
        };
        if let Some((left, carrier)) = left {
            self.leave(left, carrier);
        }
        if is_new {
            self.allocations.attach(path, relay);
            if let Some(shard) = carrier {
                self.effects.push_back(Effect::Tell { shard, letter: Letter::Carry { path } });
            }
        }
        self.record(Event::Moved { session, relay, from, to: Some(path), account });
        ticket(&self.config, self.shard, relay, serial)
    }

    /// Data from the client: if it came from its new 5-tuple the old one is left (MOB-8016-3.2.2-07).
    pub(super) fn settle(&mut self, clock: Clock, relay: RelayId, path: &FiveTuple) {
        let Some(allocation) = self.allocations.get_mut(relay) else { return };
        let Some(mobile) = &mut allocation.mobile else { return };
        let Some((next, carrier)) = mobile.next.take_if(|(next, _)| next == path) else { return };
        let old_carrier = std::mem::replace(&mut mobile.carrier, carrier);
        let old = allocation.set_path(next);
        self.leave(old, old_carrier);
        self.remirror(clock.now, relay, Ask::All);
    }

    /// A 5-tuple of a mobile allocation is gone; whether the allocation can do without.
    pub(super) fn lose_path(&mut self, clock: Clock, relay: RelayId, path: &FiveTuple) -> bool {
        let may_wait = self.config.mobility.is_some();
        let Some(allocation) = self.allocations.get_mut(relay) else { return true };
        let is_next = allocation.path != *path;
        let (session, account) = (allocation.session, Arc::clone(&allocation.owner.account));
        let from = allocation.latest_path();
        let Some(mobile) = &mut allocation.mobile else { return false };
        let carrier = match mobile.next.take() {
            Some((_, carrier)) if is_next => carrier,
            Some((next, carrier)) => {
                let carrier = std::mem::replace(&mut mobile.carrier, carrier);
                allocation.set_path(next);
                carrier
            }
            None if may_wait => {
                mobile.is_adrift = true;
                mobile.carrier.take()
            }
            None => return false,
        };
        let to = allocation.latest_path();
        self.leave(*path, carrier);
        self.remirror(clock.now, relay, Ask::All);
        if to != from {
            self.record(Event::Moved { session, relay, from, to, account });
        }
        true
    }

    /// Data from a 5-tuple that has no allocation here.
    pub(super) fn data_without_allocation(&self, clock: Clock, path: &FiveTuple) -> Verdict {
        match self.elsewhere.get(clock.now, path) {
            Some(shard) => Verdict::NotMine { shard },
            None => Verdict::Drop(Reason::NoAllocation),
        }
    }

    fn leave(&mut self, path: FiveTuple, carrier: Option<u16>) {
        self.allocations.detach(&path);
        if let Some(shard) = carrier {
            self.effects.push_back(Effect::Tell { shard, letter: Letter::Stop { path } });
        }
    }

    /// Another shard says that the datagrams of a 5-tuple are its own.
    pub(super) fn on_carry(&mut self, clock: Clock, from: u16, path: FiveTuple) {
        self.end_expired_at(clock, &path);
        let is_own = !matches!(self.allocations.find(clock.now, &path), Found::Nothing);
        let is_others = self.elsewhere.get(clock.now, &path).is_some_and(|shard| shard != from);
        let limit = self.config.limits.allocations;
        if is_own || is_others || self.elsewhere.confirm(clock.now, path, from, limit).is_err() {
            self.effects.push_back(Effect::Tell { shard: from, letter: Letter::Refuse { path } });
        }
    }

    /// Another shard will not pass on the datagrams of a 5-tuple.
    pub(super) fn on_refuse(&mut self, clock: Clock, from: u16, path: FiveTuple) {
        if let Some((relay, allocation)) = self.allocations.live_by_path(clock.now, &path)
            && allocation.paths().contains(&(path, Some(from)))
        {
            self.lose_path(clock, relay, &path);
        }
    }

    /// A shard that starts again knows neither whose datagrams it is to pass on, nor what was its own.
    pub(super) fn on_carrier_restarted(&mut self, shard: u16) {
        self.elsewhere.forget_shard(shard);
        let carried: Vec<FiveTuple> = self
            .allocations
            .iter_mut()
            .flat_map(|(_, allocation)| allocation.paths())
            .filter(|(_, carrier)| *carrier == Some(shard))
            .map(|(path, _)| path)
            .collect();
        for path in carried {
            self.effects.push_back(Effect::Tell { shard, letter: Letter::Carry { path } });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: Shown = Shown { shard: 3, slot: 70_000, serial: 0x1234_5678_9ABC_DEF0 };

    /// MOB-8016-5-01.
    #[test]
    fn mob_8016_5_01_any_flipped_bit_makes_a_ticket_worthless() {
        let key = MobilityKey([7; 32]);
        let ticket = key.seal(SHOWN);
        assert_eq!(key.open(ticket.bytes()), Some(SHOWN));
        assert_eq!(key.seal(SHOWN), ticket, "the same again");
        for bit in 0..8 * TICKET_LEN {
            let mut forged = ticket.0;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&forged), None, "bit {bit}");
        }
        for length in (0..TICKET_LEN).chain([TICKET_LEN + 1, 1000]) {
            let mut other = ticket.0.to_vec();
            other.resize(length, 0);
            assert_eq!(key.open(&other), None, "{length} bytes");
        }
        assert_eq!(MobilityKey([8; 32]).open(ticket.bytes()), None, "another server's");
    }

    /// Nothing of the contents shows: tickets for neighbouring slots have nothing in common.
    #[test]
    fn mob_8016_5_01_tickets_are_encrypted() {
        let key = MobilityKey([7; 32]);
        let one = key.seal(SHOWN).0;
        let other = key.seal(Shown { slot: SHOWN.slot + 1, ..SHOWN }).0;
        let differing: u32 = one.iter().zip(other).map(|(left, right)| (left ^ right).count_ones()).sum();
        assert!((80..176).contains(&differing), "128 of 256 bits, six standard deviations: {differing}");
    }
}
