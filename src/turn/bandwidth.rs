//! How much data may pass: token buckets of allocations, of accounts and of the whole server.
//!
//! What exceeds a rate is dropped, not delayed: a relay that queues makes calls late. Each direction has buckets of its
//! own. A bucket is one moment, up to which its bytes have been paid for; it is allowed to lie [`BURST_NANOS`] back, and
//! whoever comes when it lies ahead is refused. So any datagram fits, however slow the rate, and the sum is exact.
//!
//! Accounts and the server share their buckets with other shards, behind [`Budgets`]. They are not asked for each packet:
//! each takes a slice of [`SLICES_A_SECOND`] at a time, and packets are paid from that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;

use super::{Now, Reason, RelayId, Server};

/// Of a rate, what may pass at once if nothing has passed before: that of 40 ms.
pub const BURST_NANOS: u64 = 40_000_000;

/// A shard takes the bytes of one part in so many of a second at a time.
const SLICES_A_SECOND: u64 = 200;

/// Rates in bytes a second, for each direction alone. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of one allocation.
    pub per_allocation: u64,
    /// Of all allocations of one account.
    pub per_account: u64,
    /// Of all allocations.
    pub total: u64,
}

/// Which way data goes; each has rates of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From client to peer.
    ToPeer,
    /// From peer to client.
    ToClient,
}

impl Direction {
    /// The word used in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ToPeer => "to_peer",
            Self::ToClient => "to_client",
        }
    }
}

/// Takes bytes out of a bucket that is paid up to `paid`: how far it is paid then.
///
/// # Errors
/// The moment from which there will be some.
pub fn take_from_bucket(paid: Now, rate: u64, bytes: u64, now: Now) -> Result<Now, Now> {
    if now < paid { Err(paid) } else { Ok(pay(paid, rate, bytes, now)) }
}

/// The same for bytes that have passed already.
fn pay(paid: Now, rate: u64, bytes: u64, now: Now) -> Now {
    let from = paid.0.max(now.0.saturating_sub(BURST_NANOS));
    let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    Now(from.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// A pair of buckets that several shards may share, one for each direction.
pub trait Budget: fmt::Debug + Send {
    /// [`take_from_bucket`] from the bucket of this direction.
    ///
    /// # Errors
    /// The moment from which there will be some.
    fn take(&mut self, direction: Direction, rate: u64, bytes: u64, now: Now) -> Result<(), Now>;
}

/// Where shared buckets come from. Each is full when it is made.
pub trait Budgets: fmt::Debug + Send {
    /// That of an account, which every shard finds by the same name for as long as one of them keeps it.
    fn of_account(&mut self, account: &Arc<str>) -> Box<dyn Budget>;

    /// That of the server.
    fn of_server(&mut self) -> Box<dyn Budget>;
}

/// For a machine that shares with nobody.
#[derive(Debug)]
pub(super) struct Unshared;

#[derive(Debug, Default)]
struct OwnBudget([Now; 2]);

impl Budgets for Unshared {
    fn of_account(&mut self, _: &Arc<str>) -> Box<dyn Budget> {
        Box::new(OwnBudget::default())
    }

    fn of_server(&mut self) -> Box<dyn Budget> {
        Box::new(OwnBudget::default())
    }
}

impl Budget for OwnBudget {
    fn take(&mut self, direction: Direction, rate: u64, bytes: u64, now: Now) -> Result<(), Now> {
        let paid = &mut self.0[direction as usize];
        *paid = take_from_bucket(*paid, rate, bytes, now)?;
        Ok(())
    }
}

/// What is measured of one allocation.
#[derive(Debug, Default)]
pub(super) struct Meter {
    paid: [Now; 2],
    /// Its place among the accounts, if those have a rate.
    account: Option<usize>,
}

/// What this shard has taken from a shared pair of buckets and not spent.
#[derive(Debug)]
struct Slices {
    budget: Box<dyn Budget>,
    /// Below zero: spent before anybody could know (TCP).
    left: [i64; 2],
    ask_again: [Now; 2],
}

impl Slices {
    fn new(budget: Box<dyn Budget>) -> Self {
        Self { budget, left: [0; 2], ask_again: [Now(0); 2] }
    }

    /// Makes sure that `bytes` can be spent.
    fn provide(&mut self, direction: Direction, rate: u64, bytes: u64, now: Now) -> Result<(), Now> {
        let place = direction as usize;
        let missing = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_sub(self.left[place]);
        if missing <= 0 {
            return Ok(());
        }
        if now < self.ask_again[place] {
            return Err(self.ask_again[place]);
        }
        let wanted = missing.unsigned_abs().max(rate / SLICES_A_SECOND);
        match self.budget.take(direction, rate, wanted, now) {
            Ok(()) => {
                self.left[place] = self.left[place].saturating_add_unsigned(wanted);
                Ok(())
            }
            Err(when) => {
                self.ask_again[place] = when;
                Err(when)
            }
        }
    }

    fn spend(&mut self, direction: Direction, bytes: u64) {
        let left = &mut self.left[direction as usize];
        *left = left.saturating_sub_unsigned(bytes);
    }
}

#[derive(Debug)]
struct Account {
    name: Arc<str>,
    slices: Slices,
    allocations: usize,
}

/// All meters of a shard that are not an allocation's own.
#[derive(Debug)]
pub(super) struct Meters {
    rates: Bandwidth,
    budgets: Box<dyn Budgets>,
    server: Slices,
    accounts: Vec<Option<Account>>,
    free: Vec<usize>,
    by_name: HashMap<Arc<str>, usize, RandomState>,
}

impl Meters {
    pub(super) fn new(rates: Bandwidth, mut budgets: Box<dyn Budgets>, hashes: RandomState) -> Self {
        let server = Slices::new(budgets.of_server());
        let by_name = HashMap::with_hasher(hashes);
        Self { rates, budgets, server, accounts: Vec::new(), free: Vec::new(), by_name }
    }

    fn hashes(&self) -> RandomState {
        self.by_name.hasher().clone()
    }

    /// Forgets everybody; whoever still has an allocation joins again.
    pub(super) fn restart(&mut self, rates: Bandwidth) {
        self.rates = rates;
        self.accounts.clear();
        self.free.clear();
        self.by_name.clear();
    }

    /// What is to be measured of a new allocation of this account, if anything is.
    pub(super) fn join(&mut self, account: &Arc<str>) -> Option<Box<Meter>> {
        if self.rates == Bandwidth::default() {
            return None;
        }
        let account = (self.rates.per_account > 0).then(|| self.join_account(account));
        Some(Box::new(Meter { account, ..Meter::default() }))
    }

    fn join_account(&mut self, name: &Arc<str>) -> usize {
        let place = self.by_name.get(name).copied().unwrap_or_else(|| {
            let place = self.free.pop().unwrap_or(self.accounts.len());
            if place == self.accounts.len() {
                self.accounts.push(None);
            }
            let slices = Slices::new(self.budgets.of_account(name));
            self.accounts[place] = Some(Account { name: name.clone(), slices, allocations: 0 });
            self.by_name.insert(name.clone(), place);
            place
        });
        self.accounts[place].as_mut().expect("indexed by name").allocations += 1;
        place
    }

    /// The allocation that this was measured of has ended.
    pub(super) fn leave(&mut self, meter: &Meter) {
        let Some(place) = meter.account else { return };
        let Some(account) = &mut self.accounts[place] else { return };
        account.allocations -= 1;
        if account.allocations == 0 {
            self.by_name.remove(&account.name);
            self.accounts[place] = None;
            self.free.push(place);
        }
    }

    /// Spends the bytes of a datagram.
    ///
    /// # Errors
    /// Why it is to be dropped; nothing is spent then.
    // Kept out of the path of those that no meter counts.
    #[inline(never)]
    pub(super) fn spend(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        bytes: u64,
        now: Now,
    ) -> Result<(), Reason> {
        let Bandwidth { per_allocation, per_account, total } = self.rates;
        let paid = match per_allocation {
            0 => None,
            rate => Some(
                take_from_bucket(meter.paid[direction as usize], rate, bytes, now)
                    .map_err(|_| Reason::BandwidthPerAllocation)?,
            ),
        };
        if let Some(account) = meter.account.and_then(|place| self.accounts[place].as_mut()) {
            let provided = account.slices.provide(direction, per_account, bytes, now);
            provided.map_err(|_| Reason::BandwidthPerUser)?;
        }
        if total > 0 {
            self.server.provide(direction, total, bytes, now).map_err(|_| Reason::BandwidthTotal)?;
            self.server.spend(direction, bytes);
        }
        if let Some(account) = meter.account.and_then(|place| self.accounts[place].as_mut()) {
            account.slices.spend(direction, bytes);
        }
        if let Some(paid) = paid {
            meter.paid[direction as usize] = paid;
        }
        Ok(())
    }

    /// Spends bytes that have passed already. Before the moment that comes back no more are to be taken from whoever
    /// they came from.
    pub(super) fn spend_afterwards(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        bytes: u64,
        now: Now,
    ) -> Option<Now> {
        let Bandwidth { per_allocation, per_account, total } = self.rates;
        let mut wait: Option<Now> = None;
        if per_allocation > 0 {
            let paid = &mut meter.paid[direction as usize];
            *paid = pay(*paid, per_allocation, bytes, now);
            wait = (*paid > now).then_some(*paid);
        }
        let mut pay = |slices: &mut Slices, rate: u64| {
            slices.spend(direction, bytes);
            if let Err(when) = slices.provide(direction, rate, 0, now) {
                wait = wait.max(Some(when));
            }
        };
        if let Some(account) = meter.account.and_then(|place| self.accounts[place].as_mut()) {
            pay(&mut account.slices, per_account);
        }
        if total > 0 {
            pay(&mut self.server, total);
        }
        wait
    }

    /// Panics where accounts are miscounted.
    pub(super) fn check_invariants<'m>(&self, meters: impl Iterator<Item = &'m Meter>) {
        let mut counts = vec![0; self.accounts.len()];
        meters.filter_map(|meter| meter.account).for_each(|place| counts[place] += 1);
        for (account, count) in self.accounts.iter().zip(counts) {
            assert_eq!(account.as_ref().map_or(0, |account| account.allocations), count, "an account is miscounted");
        }
        assert_eq!(self.by_name.len() + self.free.len(), self.accounts.len(), "the index of accounts has strays");
    }
}

/// What the shell has to do with it.
impl Server {
    /// Shares the bandwidth of accounts and of the server with other shards. To be called before anything else: until
    /// then this machine believes to be alone.
    pub fn share_bandwidth(&mut self, budgets: Box<dyn Budgets>) {
        self.meters = Meters::new(self.config.limits.bandwidth, budgets, self.meters.hashes());
    }

    /// Whether each packet of this relay has to be measured, so that nobody else may relay for it.
    pub fn is_metered(&mut self, relay: RelayId) -> bool {
        self.allocations.get_mut(relay).is_some_and(|allocation| allocation.meter.is_some())
    }

    /// After a change of rates everybody begins anew, with full buckets.
    pub(super) fn configure_bandwidth(&mut self) {
        let rates = self.config.limits.bandwidth;
        if rates == self.meters.rates {
            return;
        }
        self.meters.restart(rates);
        for (_, allocation) in self.allocations.iter_mut() {
            allocation.meter = self.meters.join(&allocation.owner.account);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Over any second or more a bucket lets through its rate, one burst and one packet, and with enough demand not
        /// less.
        #[test]
        fn a_bucket_is_exact(rate in 1_000..2_000_000_000_u64, len in 1..1500_u64, excess in 2..20_u64) {
            // No more steps than a test has time for.
            let len = len.max(rate * excess / 50_000);
            let interval = len * 1_000_000_000 / (rate * excess);
            let (mut paid, mut passed, start) = (Now(0), 0, 10_000_000_000);
            let mut now = start;
            while now < start + 2_000_000_000 {
                if let Ok(after) = take_from_bucket(paid, rate, len, Now(now)) {
                    paid = after;
                    passed += len;
                }
                now += interval;
            }
            let fair = rate * 2;
            prop_assert!(passed <= fair + fair / 50 + 2 * len, "{} of {}", passed, fair);
            prop_assert!(passed + 2 * len >= fair - fair / 100, "{} of {}", passed, fair);
        }
    }

    #[test]
    fn a_slow_bucket_lets_a_large_datagram_through_and_is_paid_for_it() {
        let paid = take_from_bucket(Now(0), 1_000, 65_000, Now(1_000_000_000)).unwrap();
        assert_eq!(paid, Now(1_000_000_000 - BURST_NANOS + 65_000_000_000));
        assert_eq!(take_from_bucket(paid, 1_000, 1, Now(60_000_000_000)), Err(paid));
        assert!(take_from_bucket(paid, 1_000, 1, paid).is_ok());
    }

    #[test]
    fn accounts_come_and_go() {
        let rates = Bandwidth { per_account: 1_000, ..Bandwidth::default() };
        let mut meters = Meters::new(rates, Box::new(Unshared), RandomState::with_seeds(1, 2, 3, 4));
        let names: [Arc<str>; 2] = ["alice".into(), "bob".into()];
        let first = meters.join(&names[0]).unwrap();
        let second = meters.join(&names[0]).unwrap();
        let other = meters.join(&names[1]).unwrap();
        meters.check_invariants([&*first, &*second, &*other].into_iter());
        meters.leave(&first);
        meters.check_invariants([&*second, &*other].into_iter());
        meters.leave(&second);
        meters.leave(&other);
        meters.check_invariants([].into_iter());
        assert!(meters.join(&names[0]).is_some());
        meters.restart(Bandwidth::default());
        assert!(meters.join(&names[0]).is_none());
    }
}
