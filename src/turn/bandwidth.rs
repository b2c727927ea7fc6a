//! How much data may pass: token buckets of allocations, of accounts, of realms and of the whole server.
//!
//! What exceeds a rate is dropped, not delayed: a relay that queues makes calls late. Each direction has buckets of its
//! own. A bucket is one moment, up to which its bytes have been paid for; it is allowed to lie [`BURST_NANOS`] back, and
//! whoever comes when it lies ahead is refused. So any datagram fits, however slow the rate, and the sum is exact.
//!
//! Accounts, realms and the server share their buckets with other shards, behind [`Budgets`]. They are not asked for each packet:
//! each takes a slice of [`SLICES_A_SECOND`] at a time, and packets are paid from that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;

use super::allocation::Owner;
use super::{Config, Now, Realm, Reason, RelayId, Server};

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
    /// Of all allocations together, or all of a realm.
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
    /// Both.
    pub const ALL: [Self; 2] = [Self::ToPeer, Self::ToClient];

    /// The word used in metrics and logs.
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

    /// That of a realm, found in the same way.
    fn of_realm(&mut self, realm: &Arc<str>) -> Box<dyn Budget>;

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

    fn of_realm(&mut self, _: &Arc<str>) -> Box<dyn Budget> {
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
    /// Of the allocation alone.
    rate: u64,
    /// Its place among the accounts, if those of its realm have a rate.
    account: Option<usize>,
    /// Its place among the realms, if its own has a rate.
    realm: Option<usize>,
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

/// What several allocations have in common.
#[derive(Debug)]
struct Share {
    name: Arc<str>,
    rate: u64,
    slices: Slices,
    allocations: usize,
}

impl Share {
    fn provide(&mut self, direction: Direction, bytes: u64, now: Now) -> Result<(), Now> {
        self.slices.provide(direction, self.rate, bytes, now)
    }
}

/// Shares of one kind, each there as long as one of its allocations.
#[derive(Debug)]
struct Shares {
    table: Vec<Option<Share>>,
    free: Vec<usize>,
    by_name: HashMap<Arc<str>, usize, RandomState>,
}

impl Shares {
    fn new(hashes: RandomState) -> Self {
        Self { table: Vec::new(), free: Vec::new(), by_name: HashMap::with_hasher(hashes) }
    }

    fn clear(&mut self) {
        self.table.clear();
        self.free.clear();
        self.by_name.clear();
    }

    /// Counts an allocation more; the place of its share.
    fn join(&mut self, name: &Arc<str>, rate: u64, budget: impl FnOnce(&Arc<str>) -> Box<dyn Budget>) -> usize {
        let place = self.by_name.get(name).copied().unwrap_or_else(|| {
            let place = self.free.pop().unwrap_or(self.table.len());
            if place == self.table.len() {
                self.table.push(None);
            }
            let slices = Slices::new(budget(name));
            self.table[place] = Some(Share { name: name.clone(), rate, slices, allocations: 0 });
            self.by_name.insert(name.clone(), place);
            place
        });
        self.table[place].as_mut().expect("indexed by name").allocations += 1;
        place
    }

    fn leave(&mut self, place: Option<usize>) {
        let Some(place) = place else { return };
        let Some(share) = &mut self.table[place] else { return };
        share.allocations -= 1;
        if share.allocations == 0 {
            self.by_name.remove(&share.name);
            self.table[place] = None;
            self.free.push(place);
        }
    }

    fn get_mut(&mut self, place: Option<usize>) -> Option<&mut Share> {
        self.table[place?].as_mut()
    }

    /// Panics unless these are the places of its allocations.
    fn check_invariants(&self, places: impl Iterator<Item = usize>) {
        let mut counts = vec![0; self.table.len()];
        places.for_each(|place| counts[place] += 1);
        for (share, count) in self.table.iter().zip(counts) {
            assert_eq!(share.as_ref().map_or(0, |share| share.allocations), count, "a share is miscounted");
        }
        assert_eq!(self.by_name.len() + self.free.len(), self.table.len(), "the index of shares has strays");
    }
}

/// All rates of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rates {
    server: Bandwidth,
    /// Of the users of realms, instead of those of the server, whose total holds for them as well.
    realms: HashMap<Arc<str>, Bandwidth>,
}

impl Rates {
    pub(super) fn of(config: &Config) -> Self {
        let rates = |realm: &Realm| (Arc::clone(&realm.name), realm.bandwidth);
        Self { server: config.limits.bandwidth, realms: config.realms.iter().map(rates).collect() }
    }
}

/// All meters of a shard that are not an allocation's own.
#[derive(Debug)]
pub(super) struct Meters {
    rates: Rates,
    budgets: Box<dyn Budgets>,
    server: Slices,
    accounts: Shares,
    realms: Shares,
}

impl Meters {
    pub(super) fn new(rates: Rates, mut budgets: Box<dyn Budgets>, hashes: RandomState) -> Self {
        let server = Slices::new(budgets.of_server());
        Self { rates, budgets, server, accounts: Shares::new(hashes.clone()), realms: Shares::new(hashes) }
    }

    fn hashes(&self) -> RandomState {
        self.accounts.by_name.hasher().clone()
    }

    /// Forgets everybody; whoever still has an allocation joins again.
    pub(super) fn restart(&mut self, rates: Rates) {
        self.rates = rates;
        self.accounts.clear();
        self.realms.clear();
    }

    /// What is to be measured of a new allocation of this owner, if anything is.
    pub(super) fn join(&mut self, owner: &Owner) -> Option<Box<Meter>> {
        let of_realm = owner.realm.as_ref().and_then(|name| Some((name, *self.rates.realms.get(name)?)));
        let Bandwidth { per_allocation, per_account, .. } = of_realm.map_or(self.rates.server, |(_, rates)| rates);
        let of_realm = of_realm.map(|(name, rates)| (name, rates.total)).filter(|(_, total)| *total > 0);
        if per_allocation == 0 && per_account == 0 && of_realm.is_none() && self.rates.server.total == 0 {
            return None;
        }
        let Self { budgets, accounts, realms, .. } = self;
        let account = (per_account > 0)
            .then(|| accounts.join(&owner.account, per_account, |account| budgets.of_account(account)));
        let realm = of_realm.map(|(name, total)| realms.join(name, total, |realm| budgets.of_realm(realm)));
        Some(Box::new(Meter { paid: [Now(0); 2], rate: per_allocation, account, realm }))
    }

    /// The allocation that this was measured of has ended.
    pub(super) fn leave(&mut self, meter: &Meter) {
        self.accounts.leave(meter.account);
        self.realms.leave(meter.realm);
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
        let total = self.rates.server.total;
        let paid = match meter.rate {
            0 => None,
            rate => Some(
                take_from_bucket(meter.paid[direction as usize], rate, bytes, now)
                    .map_err(|_| Reason::BandwidthPerAllocation)?,
            ),
        };
        let (mut account, mut realm) = (self.accounts.get_mut(meter.account), self.realms.get_mut(meter.realm));
        if let Some(account) = &mut account {
            account.provide(direction, bytes, now).map_err(|_| Reason::BandwidthPerUser)?;
        }
        if let Some(realm) = &mut realm {
            realm.provide(direction, bytes, now).map_err(|_| Reason::BandwidthPerRealm)?;
        }
        if total > 0 {
            self.server.provide(direction, total, bytes, now).map_err(|_| Reason::BandwidthTotal)?;
            self.server.spend(direction, bytes);
        }
        account.into_iter().chain(realm).for_each(|share| share.slices.spend(direction, bytes));
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
        let total = self.rates.server.total;
        let mut wait: Option<Now> = None;
        if meter.rate > 0 {
            let paid = &mut meter.paid[direction as usize];
            *paid = pay(*paid, meter.rate, bytes, now);
            wait = (*paid > now).then_some(*paid);
        }
        let mut pay = |slices: &mut Slices, rate: u64| {
            slices.spend(direction, bytes);
            if let Err(when) = slices.provide(direction, rate, 0, now) {
                wait = wait.max(Some(when));
            }
        };
        let shares = self.accounts.get_mut(meter.account).into_iter().chain(self.realms.get_mut(meter.realm));
        shares.for_each(|share| pay(&mut share.slices, share.rate));
        if total > 0 {
            pay(&mut self.server, total);
        }
        wait
    }

    /// Panics where accounts or realms are miscounted.
    pub(super) fn check_invariants<'m>(&self, meters: impl Iterator<Item = &'m Meter>) {
        let (accounts, realms): (Vec<_>, Vec<_>) = meters.map(|meter| (meter.account, meter.realm)).unzip();
        self.accounts.check_invariants(accounts.into_iter().flatten());
        self.realms.check_invariants(realms.into_iter().flatten());
    }
}

/// What the shell has to do with it.
impl Server {
    /// Shares the bandwidth of accounts and of the server with other shards. To be called before anything else: until
    /// then this machine believes to be alone.
    pub fn share_bandwidth(&mut self, budgets: Box<dyn Budgets>) {
        self.meters = Meters::new(Rates::of(&self.config), budgets, self.meters.hashes());
    }

    /// Whether each packet of this relay has to be measured, so that nobody else may relay for it.
    pub fn is_metered(&mut self, relay: RelayId) -> bool {
        self.allocations.get_mut(relay).is_some_and(|allocation| allocation.meter.is_some())
    }

    /// After a change of rates everybody begins anew, with full buckets.
    pub(super) fn configure_bandwidth(&mut self) {
        let rates = Rates::of(&self.config);
        if rates == self.meters.rates {
            return;
        }
        self.meters.restart(rates);
        for (_, allocation) in self.allocations.iter_mut() {
            allocation.meter = self.meters.join(&allocation.owner);
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

    fn owner(account: &str, realm: Option<&str>) -> Owner {
        Owner { username: account.into(), realm: realm.map(Into::into), account: account.into(), grant: None }
    }

    #[test]
    fn accounts_and_realms_come_and_go() {
        let of_realm = Bandwidth { total: 5_000, ..Bandwidth::default() };
        let server = Bandwidth { per_account: 1_000, ..Bandwidth::default() };
        let rates = Rates { server, realms: [("shop".into(), of_realm)].into() };
        let mut meters = Meters::new(rates, Box::new(Unshared), RandomState::with_seeds(1, 2, 3, 4));
        let owners =
            [owner("alice", None), owner("alice", None), owner("bob", None), owner("carol@shop", Some("shop"))];
        let [first, second, other, shop] = owners.map(|owner| meters.join(&owner).unwrap());
        assert_eq!((shop.account, shop.realm.is_some(), other.realm), (None, true, None), "each has its own rates");
        meters.check_invariants([&*first, &*second, &*other, &*shop].into_iter());
        meters.leave(&first);
        meters.check_invariants([&*second, &*other, &*shop].into_iter());
        meters.leave(&shop);
        meters.leave(&second);
        meters.leave(&other);
        meters.check_invariants([].into_iter());
        assert!(meters.join(&owner("alice", None)).is_some());
        meters.restart(Rates { server: Bandwidth::default(), realms: [("shop".into(), of_realm)].into() });
        assert!(meters.join(&owner("alice", None)).is_none());
        assert!(meters.join(&owner("carol@shop", Some("shop"))).is_some());
    }
}
