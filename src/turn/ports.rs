//! The ports of one relay address that belong to one shard (RFC 8656 §7.2; abuse S11, S12).

use std::collections::VecDeque;

use rand_core::Rng;

use super::{Now, PortRange, ShardIndex};

/// Free ports, drawn uniformly with the server's cryptographic generator (RFC 6056, TURN-8656-7.2-28).
#[derive(Debug)]
pub(super) struct PortPool {
    free: Vec<u16>,
    /// Freed ports that rest, oldest first, with the moment they may be used again.
    resting: VecDeque<(Now, u16)>,
    quarantine_secs: u32,
}

/// What kind of port an allocation wants (EVEN-PORT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Without the attribute.
    Any,
    /// R = 0.
    Even,
    /// R = 1: an even port and the one above it.
    Pair,
}

impl PortPool {
    /// The ports of `range` that this shard owns and `in_use` does not claim.
    pub(super) fn new(range: PortRange, shard: ShardIndex, in_use: impl Fn(u16) -> bool) -> Self {
        let free = (range.first..=range.last).filter(|port| shard.owns(*port) && !in_use(*port)).collect();
        Self { free, resting: VecDeque::new(), quarantine_secs: range.quarantine_secs }
    }

    /// A random free port; `None` when all that would do are taken or resting. Of a [`Wish::Pair`] the even port is
    /// returned and both are taken.
    pub(super) fn take(&mut self, now: Now, wish: Wish, random: &mut impl Rng) -> Option<u16> {
        while let Some((_, port)) = self.resting.pop_front_if(|(until, _)| *until <= now) {
            self.free.push(port);
        }
        let place = match wish {
            Wish::Any if self.free.is_empty() => return None,
            Wish::Any => random_below(self.free.len(), random),
            Wish::Even => self.random_place(random, |port| port % 2 == 0)?,
            Wish::Pair => {
                let mut is_free = [0_u64; 1024];
                self.free.iter().for_each(|port| is_free[usize::from(port / 64)] |= 1 << (port % 64));
                let is_free = |port: u16| is_free[usize::from(port / 64)] >> (port % 64) & 1 == 1;
                self.random_place(random, |port| port % 2 == 0 && is_free(port + 1))?
            }
        };
        let port = self.free.swap_remove(place);
        if wish == Wish::Pair {
            let sibling = self.free.iter().position(|other| *other == port + 1).expect("it was free a moment ago");
            self.free.swap_remove(sibling);
        }
        Some(port)
    }

    /// Where a random one of those free ports stands that will do.
    fn random_place(&self, random: &mut impl Rng, will_do: impl Fn(u16) -> bool) -> Option<usize> {
        let places = || self.free.iter().enumerate().filter(|(_, port)| will_do(**port)).map(|(place, _)| place);
        places().nth(random_below(places().count(), random))
    }

    /// Gives back a port that was in use: peers may still send to it, so it rests first.
    pub(super) fn release(&mut self, now: Now, port: u16) {
        self.resting.push_back((now.plus_secs(self.quarantine_secs), port));
    }

    /// Gives back a port that never was in use.
    pub(super) fn release_unused(&mut self, port: u16) {
        self.free.push(port);
    }

    /// After a change of the range: what rested in the old pool rests on.
    pub(super) fn keep_resting(&mut self, old: Self) {
        for (until, port) in old.resting {
            if let Some(place) = self.free.iter().position(|free| *free == port) {
                self.free.swap_remove(place);
                self.resting.push_back((until, port));
            }
        }
    }

    /// Ports free or resting.
    pub(super) fn idle(&self) -> usize {
        self.free.len() + self.resting.len()
    }
}

/// A number below `count`, or 0.
fn random_below(count: usize, random: &mut impl Rng) -> usize {
    // Multiply-shift: the bias of 2^-18 at most is far below what 16 bits of port can show.
    ((u64::from(random.next_u32()) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    const RANGE: PortRange = PortRange { first: 50_000, last: 50_099, quarantine_secs: 30 };

    #[test]
    fn shards_share_the_range_without_overlap_and_keep_pairs_together() {
        let mut all: Vec<u16> =
            (0..3).flat_map(|index| PortPool::new(RANGE, ShardIndex { index, count: 3 }, |_| false).free).collect();
        all.sort_unstable();
        assert_eq!(all, (50_000..=50_099).collect::<Vec<_>>());
        let shard = ShardIndex { index: 0, count: 3 };
        assert!((50_000..50_100).step_by(2).all(|even| shard.owner_of(even) == shard.owner_of(even + 1)));
    }

    #[test]
    fn s11_a_freed_port_rests_before_it_is_drawn_again() {
        let mut random = ChaCha8Rng::from_seed([7; 32]);
        let range = PortRange { first: 50_000, last: 50_001, quarantine_secs: 30 };
        let mut pool = PortPool::new(range, ShardIndex::SINGLE, |_| false);
        let start = Now(1);
        let mut take = |pool: &mut PortPool, now| pool.take(now, Wish::Any, &mut random);
        let first = take(&mut pool, start).unwrap();
        let second = take(&mut pool, start).unwrap();
        assert_ne!(first, second);
        assert_eq!(take(&mut pool, start), None);
        pool.release(start, first);
        assert_eq!(take(&mut pool, start.plus_secs(29)), None);
        assert_eq!(take(&mut pool, start.plus_secs(30)), Some(first));
        pool.release_unused(second);
        assert_eq!(take(&mut pool, start.plus_secs(30)), Some(second));
    }

    /// TURN-8656-7.2-14, -24, -25: only what was asked for is taken, and only while there is such.
    #[test]
    fn turn_8656_7_2_25_even_ports_and_pairs() {
        let mut random = ChaCha8Rng::from_seed([5; 32]);
        let range = PortRange { first: 50_001, last: 50_010, quarantine_secs: 0 };
        for wish in [Wish::Even, Wish::Pair] {
            // 50,010 has no sibling in the range.
            let count = if wish == Wish::Pair { 4 } else { 5 };
            let mut pool = PortPool::new(range, ShardIndex::SINGLE, |_| false);
            let taken: Vec<u16> = std::iter::from_fn(|| pool.take(Now(0), wish, &mut random)).collect();
            assert!(taken.iter().all(|port| port % 2 == 0));
            assert_eq!(taken.len(), count);
            assert_eq!(pool.idle(), if wish == Wish::Pair { 2 } else { 5 });
            let rest: Vec<u16> = std::iter::from_fn(|| pool.take(Now(0), Wish::Any, &mut random)).collect();
            assert!(rest.iter().all(|port| !taken.contains(port)), "nothing is given out twice");
        }
    }

    #[test]
    fn s11_a_freed_port_rests_on_when_the_range_changes() {
        let mut random = ChaCha8Rng::from_seed([7; 32]);
        let range = |first, last| PortRange { first, last, quarantine_secs: 30 };
        let start = Now(1);
        let mut old = PortPool::new(range(50_000, 50_001), ShardIndex::SINGLE, |_| false);
        let freed = old.take(start, Wish::Any, &mut random).unwrap();
        old.release(start, freed);
        let mut pool = PortPool::new(range(50_000, 50_003), ShardIndex::SINGLE, |_| false);
        pool.keep_resting(old);
        assert_eq!(pool.idle(), 4);
        let drawn: Vec<u16> = std::iter::from_fn(|| pool.take(start.plus_secs(29), Wish::Any, &mut random)).collect();
        assert_eq!(drawn.len(), 3);
        assert!(!drawn.contains(&freed));
        assert_eq!(pool.take(start.plus_secs(30), Wish::Any, &mut random), Some(freed));
    }

    /// TURN-8656-7.2-28: not sequential, spread over the range.
    #[test]
    fn turn_8656_7_2_28_ports_are_spread_and_not_sequential() {
        let mut random = ChaCha8Rng::from_seed([9; 32]);
        let range = PortRange { first: 49_152, last: 65_535, quarantine_secs: 0 };
        let mut pool = PortPool::new(range, ShardIndex::SINGLE, |_| false);
        let drawn: Vec<u16> = (0..1600).map(|_| pool.take(Now(0), Wish::Any, &mut random).unwrap()).collect();
        let neighbours = drawn.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(neighbours <= 6, "{neighbours} consecutive ports of 1600");
        let mut sixteenths = [0u32; 16];
        for port in &drawn {
            sixteenths[usize::from((port - 49_152) / 1024)] += 1;
        }
        // Expected 100 each, standard deviation below 10: five of them either way.
        assert!(sixteenths.iter().all(|count| (50..150).contains(count)), "{sixteenths:?}");
    }
}
