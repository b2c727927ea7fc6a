//! The table of allocations: slots with generations, found by 5-tuple, by relay, and by relayed address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;

use ahash::RandomState;

use super::allocate::Pending;
use super::allocation::{Allocation, Half, Relay};
use super::reservations::Reservation;
use super::{FiveTuple, Now, RelayId, RelayedAddresses};
use crate::stun::AddressFamily;

/// Slots are reserved when a bind is asked for, so that the socket's name is known before the socket is.
#[derive(Debug)]
pub(super) struct Allocations {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_path: HashMap<FiveTuple, u32, RandomState>,
    by_relayed: HashMap<SocketAddr, u32, RandomState>,
    by_token: HashMap<u64, u32, RandomState>,
    live: usize,
    relayed: RelayedAddresses,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// The earliest deadline that the timer wheel holds for this slot, whoever it was armed for: who deletes and
    /// allocates again and again must not fill the wheel.
    armed: Option<Now>,
    state: State,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all slots are live: a box would cost each a second block")]
enum State {
    Free,
    /// The shell is binding the socket; boxed, because it is rare and large.
    Pending(Box<Pending>),
    Live(Allocation),
    /// No allocation yet: a port held for a token.
    Reserved(Box<Reservation>),
}

/// What is left of an allocation that has lost a relayed address.
pub(super) enum Removed<'a> {
    /// The other half.
    Half(&'a Allocation),
    /// Nothing: it ended.
    All(Box<Allocation>),
}

impl Deref for Removed<'_> {
    type Target = Allocation;

    fn deref(&self) -> &Allocation {
        match self {
            Self::Half(allocation) => allocation,
            Self::All(allocation) => allocation,
        }
    }
}

impl State {
    /// When this ends by itself, or is to be swept, and at which of its relays.
    fn due(&self) -> Option<(AddressFamily, Now)> {
        match self {
            Self::Free | Self::Pending(_) => None,
            Self::Live(allocation) => {
                let half = allocation.first_to_end();
                Some((half.family(), allocation.sweep.map_or(half.expires, |sweep| sweep.min(half.expires))))
            }
            Self::Reserved(reservation) => Some((reservation.relay.address.family(), reservation.expires)),
        }
    }
}

/// What a 5-tuple has.
pub(super) enum Found<'a> {
    Nothing,
    Pending(&'a Pending),
    Live(RelayId, &'a mut Allocation),
}

impl Allocations {
    pub(super) fn new(hashes: RandomState) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_path: HashMap::with_hasher(hashes.clone()),
            by_relayed: HashMap::with_hasher(hashes.clone()),
            by_token: HashMap::with_hasher(hashes),
            live: 0,
            relayed: RelayedAddresses::default(),
        }
    }

    /// Relayed addresses alive.
    pub(super) const fn relayed(&self) -> RelayedAddresses {
        self.relayed
    }

    /// Allocations alive.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// Slots there are, taken or not.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("slots are limited by configuration")
    }

    /// Slots taken, by live allocations, pending ones and reserved ports.
    pub(super) fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Reserves a slot. The 5-tuple must be free.
    pub(super) fn reserve(&mut self, pending: Pending) -> RelayId {
        let path = pending.path;
        // While a port is yet to be lent by another shard its family is not known.
        let family = pending.relay.map_or(AddressFamily::Ipv4, |relay| relay.address.family());
        let name = self.take_slot(State::Pending(Box::new(pending))).of_family(family);
        let before = self.by_path.insert(path, name.slot);
        debug_assert!(before.is_none(), "the 5-tuple was taken");
        name
    }

    /// Holds a port. Its token must be new.
    pub(super) fn hold(&mut self, reservation: Reservation) -> RelayId {
        let (token, family) = (reservation.token, reservation.relay.address.family());
        let name = self.take_slot(State::Reserved(Box::new(reservation))).of_family(family);
        let before = self.by_token.insert(token, name.slot);
        debug_assert!(before.is_none(), "the token was taken");
        name
    }

    fn take_slot(&mut self, state: State) -> RelayId {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize].state = state;
                slot
            }
            None => {
                self.slots.push(Slot { generation: 0, armed: None, state });
                u32::try_from(self.slots.len() - 1).expect("slots are limited by configuration")
            }
        };
        RelayId { slot, generation: self.slots[slot as usize].generation, family: AddressFamily::Ipv4 }
    }

    /// The name of the reservation with this token.
    pub(super) fn reservation_of(&self, token: u64) -> Option<RelayId> {
        let index = *self.by_token.get(&token)?;
        let slot = &self.slots[index as usize];
        let State::Reserved(reservation) = &slot.state else { return None };
        let family = reservation.relay.address.family();
        Some(RelayId { slot: index, generation: slot.generation, family })
    }

    /// The reservation of this name.
    pub(super) fn reservation_mut(&mut self, name: RelayId) -> Option<&mut Reservation> {
        match self.slot_mut(name)? {
            State::Reserved(reservation) => Some(reservation),
            _ => None,
        }
    }

    /// Frees the slot of a reservation.
    pub(super) fn release_hold(&mut self, name: RelayId) -> Option<Reservation> {
        let slot = self.slots.get_mut(name.slot as usize).filter(|slot| slot.generation == name.generation)?;
        // Whatever ends is asked: an allocation is not to be moved out and back for that.
        if !matches!(slot.state, State::Reserved(_)) {
            return None;
        }
        let State::Reserved(reservation) = std::mem::replace(&mut slot.state, State::Free) else { return None };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(name.slot);
        self.by_token.remove(&reservation.token);
        Some(*reservation)
    }

    /// The names of all reservations whose socket is there.
    pub(super) fn bound_reservations(&self) -> Vec<RelayId> {
        let is_bound = |name: &RelayId| {
            let State::Reserved(reservation) = &self.slots[name.slot as usize].state else { return false };
            reservation.awaited_by.is_none()
        };
        self.by_token.keys().filter_map(|token| self.reservation_of(*token)).filter(is_bound).collect()
    }

    /// Every port that is bound or about to be: of live and pending allocations and of reservations.
    pub(super) fn relays(&self) -> impl Iterator<Item = Relay> {
        self.slots
            .iter()
            .flat_map(|slot| match &slot.state {
                State::Free => [None, None],
                State::Pending(pending) => [pending.relay, pending.unreserved_sibling().or(pending.first_half)],
                State::Live(live) => [0, 1].map(|place| live.halves().get(place).map(|half| half.relay)),
                State::Reserved(reservation) => [Some(reservation.relay), None],
            })
            .flatten()
    }

    /// The pending allocation of this name.
    pub(super) fn pending_mut(&mut self, relay: RelayId) -> Option<&mut Pending> {
        match self.slot_mut(relay)? {
            State::Pending(pending) => Some(pending),
            _ => None,
        }
    }

    /// Turns a pending allocation into a live one.
    pub(super) fn promote(&mut self, relay: RelayId, allocation: Allocation) {
        for half in allocation.halves() {
            self.by_relayed.insert(half.relay.relayed(), relay.slot);
            self.relayed[allocation.made_over as usize][half.family().index()] += 1;
        }
        let slot = &mut self.slots[relay.slot as usize];
        debug_assert!(matches!(slot.state, State::Pending(_)));
        slot.state = State::Live(allocation);
        self.live += 1;
    }

    /// Frees the slot of a pending allocation. Its 5-tuple is freed unless that was done before.
    pub(super) fn take_pending(&mut self, relay: RelayId) -> Option<Pending> {
        let slot = self.slots.get_mut(relay.slot as usize).filter(|slot| slot.generation == relay.generation)?;
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Pending(pending) => {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(relay.slot);
                if !pending.abandoned {
                    self.by_path.remove(&pending.path);
                }
                Some(*pending)
            }
            other => {
                slot.state = other;
                None
            }
        }
    }

    /// The client of a pending allocation is gone: its 5-tuple is free, the slot waits for the shell's answer.
    pub(super) fn abandon(&mut self, path: &FiveTuple) {
        if let Some(&slot) = self.by_path.get(path)
            && let State::Pending(pending) = &mut self.slots[slot as usize].state
        {
            pending.abandoned = true;
            self.by_path.remove(path);
        }
    }

    /// Takes a relayed address out of its allocation. With the last one the allocation ends, and comes along.
    pub(super) fn remove(&mut self, relay: RelayId) -> Option<(Half, Removed<'_>)> {
        let allocation = self.get_mut(relay)?;
        if allocation.halves().len() > 1 {
            let half = allocation.remove_half(relay.family)?;
            let made_over = allocation.made_over;
            self.by_relayed.remove(&half.relay.relayed());
            self.relayed[made_over as usize][half.family().index()] -= 1;
            return Some((half, Removed::Half(self.get_mut(relay)?)));
        }
        let half = *allocation.halves().first().filter(|half| half.family() == relay.family)?;
        Some((half, Removed::All(self.remove_all(relay)?)))
    }

    fn remove_all(&mut self, relay: RelayId) -> Option<Box<Allocation>> {
        let slot = self.slots.get_mut(relay.slot as usize).filter(|slot| slot.generation == relay.generation)?;
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Live(allocation) => {
                let allocation = Box::new(allocation);
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(relay.slot);
                for (path, _) in allocation.paths() {
                    self.by_path.remove(&path);
                }
                for half in allocation.halves() {
                    self.by_relayed.remove(&half.relay.relayed());
                    self.relayed[allocation.made_over as usize][half.family().index()] -= 1;
                }
                self.live -= 1;
                Some(allocation)
            }
            other => {
                slot.state = other;
                None
            }
        }
    }

    /// What this 5-tuple has. An allocation whose time is over counts as nothing, but still holds its 5-tuple: callers
    /// that want to replace it run the timers first.
    pub(super) fn find(&mut self, now: Now, path: &FiveTuple) -> Found<'_> {
        let Some(&index) = self.by_path.get(path) else {
            return Found::Nothing;
        };
        let slot = &mut self.slots[index as usize];
        match &mut slot.state {
            State::Pending(pending) => Found::Pending(pending),
            State::Live(allocation) if allocation.is_live(now) => {
                let family = allocation.first_to_end().family();
                Found::Live(RelayId { slot: index, generation: slot.generation, family }, allocation)
            }
            _ => Found::Nothing,
        }
    }

    /// The live allocation of this 5-tuple.
    #[inline]
    pub(super) fn live_by_path(&mut self, now: Now, path: &FiveTuple) -> Option<(RelayId, &mut Allocation)> {
        let index = *self.by_path.get(path)?;
        self.live_in_slot(now, index)
    }

    /// The live allocation in this slot, whoever it is.
    #[inline]
    pub(super) fn live_in_slot(&mut self, now: Now, index: u32) -> Option<(RelayId, &mut Allocation)> {
        let slot = self.slots.get_mut(index as usize)?;
        match &mut slot.state {
            State::Live(allocation) if allocation.is_live(now) => {
                let family = allocation.first_to_end().family();
                Some((RelayId { slot: index, generation: slot.generation, family }, allocation))
            }
            _ => None,
        }
    }

    /// The allocation in this slot, even when its time is over.
    pub(super) fn in_slot(&mut self, index: u32) -> Option<(RelayId, &mut Allocation)> {
        let slot = self.slots.get_mut(index as usize)?;
        let State::Live(allocation) = &mut slot.state else { return None };
        let family = allocation.first_to_end().family();
        Some((RelayId { slot: index, generation: slot.generation, family }, allocation))
    }

    /// A live allocation has this 5-tuple as well. It must be free.
    pub(super) fn attach(&mut self, path: FiveTuple, relay: RelayId) {
        let before = self.by_path.insert(path, relay.slot);
        debug_assert!(before.is_none(), "the 5-tuple was taken");
    }

    /// A live allocation has this 5-tuple no more.
    pub(super) fn detach(&mut self, path: &FiveTuple) {
        self.by_path.remove(path);
    }

    /// The allocation of this name, if that relayed address lives.
    pub(super) fn live_by_relay(&mut self, now: Now, relay: RelayId) -> Option<&mut Allocation> {
        match self.slot_mut(relay)? {
            State::Live(allocation) if allocation.has(now, relay.family) => Some(allocation),
            _ => None,
        }
    }

    /// When the timer wheel has to wake the slot of an allocation or a reservation, unless it will do so early enough already.
    pub(super) fn deadline_to_arm(&mut self, relay: RelayId) -> Option<Now> {
        let slot = &mut self.slots[relay.slot as usize];
        let (_, expires) = slot.state.due()?;
        if slot.armed.is_some_and(|armed| armed <= expires) {
            return None;
        }
        slot.armed = Some(expires);
        Some(expires)
    }

    /// Takes what has expired out of an allocation, if it is time for that.
    pub(super) fn sweep(&mut self, now: Now, relay: RelayId) {
        if let Some(allocation) = self.get_mut(relay).filter(|one| one.sweep.is_some_and(|sweep| sweep <= now)) {
            allocation.remove_expired(now);
        }
    }

    /// The timer wheel has woken a slot: who lives there and until when, if this is the deadline that stands for it.
    pub(super) fn woken(&mut self, slot: u32, deadline: Now) -> Option<(RelayId, Now)> {
        let entry = &mut self.slots[slot as usize];
        entry.armed.take_if(|armed| *armed == deadline)?;
        let (family, due) = entry.state.due()?;
        Some((RelayId { slot, generation: entry.generation, family }, due))
    }

    /// The allocation of this name, even when its time is over.
    pub(super) fn get_mut(&mut self, relay: RelayId) -> Option<&mut Allocation> {
        match self.slot_mut(relay)? {
            State::Live(allocation) => Some(allocation),
            _ => None,
        }
    }

    /// The live allocation at this relayed transport address, as advertised.
    pub(super) fn live_by_relayed(&mut self, now: Now, relayed: SocketAddr) -> Option<(RelayId, &mut Allocation)> {
        let index = *self.by_relayed.get(&relayed)?;
        let slot = &mut self.slots[index as usize];
        match &mut slot.state {
            State::Live(allocation) if allocation.has(now, family(relayed)) => {
                Some((RelayId { slot: index, generation: slot.generation, family: family(relayed) }, allocation))
            }
            _ => None,
        }
    }

    /// The name of this 5-tuple's allocation if its time is over.
    pub(super) fn expired_at(&self, now: Now, path: &FiveTuple) -> Option<RelayId> {
        let index = *self.by_path.get(path)?;
        let slot = &self.slots[index as usize];
        match &slot.state {
            State::Live(allocation) if !allocation.is_live(now) => {
                let family = allocation.first_to_end().family();
                Some(RelayId { slot: index, generation: slot.generation, family })
            }
            _ => None,
        }
    }

    /// Every allocation and its name, expired ones included.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (RelayId, &mut Allocation)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| match &mut slot.state {
            State::Live(allocation) => {
                let family = allocation.first_to_end().family();
                Some((RelayId { slot: index as u32, generation: slot.generation, family }, allocation))
            }
            _ => None,
        })
    }

    /// Every pending allocation.
    pub(super) fn iter_pending(&self) -> impl Iterator<Item = (RelayId, &Pending)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match &slot.state {
            State::Pending(pending) => {
                let family = pending.relay.map_or(AddressFamily::Ipv4, |relay| relay.address.family());
                Some((RelayId { slot: index as u32, generation: slot.generation, family }, &**pending))
            }
            _ => None,
        })
    }

    fn slot_mut(&mut self, relay: RelayId) -> Option<&mut State> {
        let slot = self.slots.get_mut(relay.slot as usize)?;
        (slot.generation == relay.generation).then_some(&mut slot.state)
    }

    /// Panics where the indexes and the slots contradict each other.
    pub(super) fn check_invariants(&self) {
        let mut relayed = RelayedAddresses::default();
        let (mut live, mut halves, mut paths, mut taken, mut tokens) = (0, 0, 0, 0, 0);
        for (index, slot) in self.slots.iter().enumerate() {
            let index = Some(index as u32);
            match &slot.state {
                State::Free => continue,
                State::Pending(pending) if pending.abandoned => {}
                State::Pending(pending) => {
                    paths += 1;
                    assert_eq!(self.by_path.get(&pending.path).copied(), index, "a pending 5-tuple is not indexed");
                }
                State::Reserved(reservation) => {
                    tokens += 1;
                    assert_eq!(self.by_token.get(&reservation.token).copied(), index, "a token is not indexed");
                }
                State::Live(allocation) => {
                    let (_, due) = slot.state.due().expect("what lives ends");
                    let in_time = slot.armed.is_some_and(|armed| armed <= due);
                    assert!(in_time, "the timer wheel would come too late");
                    live += 1;
                    for (path, _) in allocation.paths() {
                        paths += 1;
                        assert_eq!(self.by_path.get(&path).copied(), index, "a 5-tuple is not indexed");
                    }
                    for half in allocation.halves() {
                        halves += 1;
                        relayed[allocation.made_over as usize][half.family().index()] += 1;
                        let indexed = self.by_relayed.get(&half.relay.relayed()).copied();
                        assert_eq!(indexed, index, "a relayed address is not indexed");
                    }
                }
            }
            taken += 1;
        }
        assert_eq!(live, self.live, "live allocations are miscounted");
        assert_eq!(relayed, self.relayed, "relayed addresses are miscounted");
        assert_eq!(paths, self.by_path.len(), "the index of 5-tuples has strays");
        assert_eq!(halves, self.by_relayed.len(), "the index of relayed addresses has strays");
        assert_eq!(tokens, self.by_token.len(), "the index of tokens has strays");
        assert_eq!(taken, self.taken(), "the free list is wrong");
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    AddressFamily::of(address.ip())
}
