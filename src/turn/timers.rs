//! A timer wheel with lazy re-arming: refreshing an allocation costs nothing here.
//!
//! The wheel only decides when tables are cleaned up. Whether something has expired is decided by comparing its
//! deadline with the clock at the moment of use, so that a wheel that turns late changes no answer.

use super::Now;

/// 2^30 ns, a little over a second: the slack with which expired allocations give their port back.
const TICK_NANOS: u64 = 1 << 30;
/// About 73 minutes; deadlines beyond go round again.
const SLOTS: u64 = 4096;
const WORDS: usize = SLOTS as usize / 64;

/// Deadlines and what they belong to. Entries are never removed: whoever is woken checks whether it still matters.
#[derive(Debug)]
pub(super) struct Timers<T> {
    slots: Vec<Vec<(Now, T)>>,
    /// One bit a slot, so that a quiet wheel is skipped 64 slots at a time.
    occupied: [u64; WORDS],
    /// The last tick that was handled.
    cursor: u64,
    /// The earliest tick with an entry.
    next: Option<u64>,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: [0; WORDS], cursor: 0, next: None }
    }

    /// Wakes `what` at `deadline` or up to a tick later.
    pub(super) fn arm(&mut self, now: Now, deadline: Now, what: T) {
        if self.next.is_none() {
            self.cursor = now.0 / TICK_NANOS;
        }
        self.insert(deadline, what);
    }

    fn insert(&mut self, deadline: Now, what: T) {
        let tick = deadline.0.div_ceil(TICK_NANOS).clamp(self.cursor + 1, self.cursor + SLOTS - 1);
        let slot = (tick % SLOTS) as usize;
        self.slots[slot].push((deadline, what));
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.next = Some(self.next.map_or(tick, |next| next.min(tick)));
    }

    /// Deadlines held.
    pub(super) fn len(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }

    /// When [`Timers::expire`] wants to be called next.
    pub(super) fn next(&self) -> Option<Now> {
        self.next.map(|tick| Now(tick * TICK_NANOS))
    }

    /// Takes out everything whose deadline has come. Afterwards [`Timers::next`] is later than `now`.
    pub(super) fn expire(&mut self, now: Now, mut woken: impl FnMut(Now, T)) {
        let target = now.0 / TICK_NANOS;
        let mut far = Vec::new();
        while let Some(tick) = self.next.filter(|tick| *tick <= target) {
            let slot = (tick % SLOTS) as usize;
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            self.cursor = tick;
            for (deadline, what) in std::mem::take(&mut self.slots[slot]) {
                if deadline <= now {
                    woken(deadline, what);
                } else {
                    far.push((deadline, what));
                }
            }
            self.next = self.first_occupied_after(tick);
        }
        self.cursor = self.cursor.max(target);
        for (deadline, what) in far {
            self.insert(deadline, what);
        }
    }

    fn first_occupied_after(&self, tick: u64) -> Option<u64> {
        let start = ((tick + 1) % SLOTS) as usize;
        // The first word again at the end: its lower bits belong to the far end of the horizon.
        for step in 0..=WORDS {
            let word = (start / 64 + step) % WORDS;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            if bits != 0 {
                let slot = (word * 64) as u64 + u64::from(bits.trailing_zeros());
                return Some(tick + 1 + (slot + SLOTS - start as u64) % SLOTS);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Nothing wakes early, nothing is lost, nothing waits longer than a tick, and the law of `next` holds:
        /// against a plain list, with steps from nanoseconds to days.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0u64..5_000_000_000_000, 0u64..10_000_000_000_000), 1..200)) {
            let mut timers = Timers::new();
            let mut waiting: Vec<(Now, usize)> = Vec::new();
            let mut now = Now(123_456_789_012_345);
            for (id, (step, ahead)) in steps.into_iter().enumerate() {
                let deadline = Now(now.0 + ahead);
                timers.arm(now, deadline, id);
                waiting.push((deadline, id));
                now = Now(now.0 + step);
                timers.expire(now, |deadline, id| {
                    let place = waiting.iter().position(|entry| *entry == (deadline, id)).expect("woken twice");
                    waiting.swap_remove(place);
                    assert!(deadline <= now, "woken early");
                });
                prop_assert!(timers.next().is_none_or(|next| next > now));
                for (deadline, _) in &waiting {
                    prop_assert!(deadline.0 + TICK_NANOS > now.0, "overdue by more than a tick");
                }
                prop_assert_eq!(timers.next().is_none(), waiting.is_empty());
            }
        }
    }
}
