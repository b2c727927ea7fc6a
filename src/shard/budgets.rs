//! Bandwidth that shards share: buckets that all of them take slices from, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::directory::Directory;
use crate::turn::{self, Direction, Now, take_from_bucket};

/// As many entries of accounts that are gone may stay before somebody looks.
const FORGOTTEN_MAX: usize = 1024;

/// Up to when each direction has been paid for, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Shared([AtomicU64; 2]);

/// All there are: those of accounts and realms live as long as one of their allocations.
#[derive(Debug, Default)]
pub(super) struct Table {
    server: Arc<Shared>,
    accounts: ByName,
    realms: ByName,
}

#[derive(Debug, Default)]
struct ByName(DashMap<Arc<str>, Weak<Shared>>);

impl ByName {
    fn get(&self, name: &Arc<str>) -> Arc<Shared> {
        if self.0.len() >= FORGOTTEN_MAX && self.0.len().is_power_of_two() {
            self.0.retain(|_, shared| shared.strong_count() > 0);
        }
        let mut entry = self.0.entry(Arc::clone(name)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let shared = Arc::default();
            *entry = Arc::downgrade(&shared);
            shared
        })
    }
}

/// What one shard's machine knows of them.
#[derive(Debug)]
pub(super) struct Budgets(pub(super) Arc<Directory>);

#[derive(Debug)]
struct Budget(Arc<Shared>);

impl turn::Budgets for Budgets {
    fn of_account(&mut self, account: &Arc<str>) -> Box<dyn turn::Budget> {
        Box::new(Budget(self.0.bandwidth.accounts.get(account)))
    }

    fn of_realm(&mut self, realm: &Arc<str>) -> Box<dyn turn::Budget> {
        Box::new(Budget(self.0.bandwidth.realms.get(realm)))
    }

    fn of_server(&mut self) -> Box<dyn turn::Budget> {
        Box::new(Budget(Arc::clone(&self.0.bandwidth.server)))
    }
}

impl turn::Budget for Budget {
    fn take(&mut self, direction: Direction, rate: u64, bytes: u64, now: Now) -> Result<(), Now> {
        let paid = &self.0.0[direction as usize];
        let mut refused = Now(0);
        let taken = paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
            take_from_bucket(Now(paid), rate, bytes, now).map(|after| after.0).map_err(|when| refused = when).ok()
        });
        taken.map(drop).map_err(|_| refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{ConnectionLimits, Quotas};
    use crate::turn::Budgets as _;
    use crate::turn::HeldQuotas;

    fn budgets() -> Budgets {
        let (per_account, per_prefix, in_all) = (HeldQuotas::UNLIMITED, HeldQuotas::UNLIMITED, HeldQuotas::UNLIMITED);
        let quotas = Quotas {
            allocations: 1,
            allocations_per_account: 1,
            allocations_per_prefix: 1,
            per_account,
            per_prefix,
            in_all,
        };
        let connections =
            ConnectionLimits { total: 0, per_address: 0, per_prefix: 0, send_buffer_bytes: 0, idle_secs: 0 };
        Budgets(Arc::new(Directory::new(quotas, connections)))
    }

    type ShareOf = dyn Fn(&mut Budgets) -> Box<dyn turn::Budget> + Sync;

    /// Four shards that want twenty times what there is get what there is, to 5 %.
    #[test]
    fn several_shards_share_one_bucket_exactly() {
        let of_account = |budgets: &mut Budgets| budgets.of_account(&"alice".into());
        let of_realm = |budgets: &mut Budgets| budgets.of_realm(&"shop".into());
        let shares: [&ShareOf; 2] = [&of_account, &of_realm];
        shares.into_iter().for_each(assert_exact);
    }

    fn assert_exact(share: &ShareOf) {
        let shared = budgets();
        let (rate, slice, start) = (10_000_000, 50_000, 1_000_000_000_u64);
        // Time is a count that the shards move on together.
        let clock = AtomicU64::new(start);
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut budget = share(&mut Budgets(Arc::clone(&shared.0)));
                    loop {
                        let now = clock.fetch_add(250_000, Ordering::Relaxed);
                        if now >= start + 2_000_000_000 {
                            break;
                        }
                        if budget.take(Direction::ToPeer, rate, slice, Now(now)).is_ok() {
                            passed.fetch_add(slice, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let passed = passed.into_inner();
        assert!((19_000_000..=21_000_000).contains(&passed), "{passed}");
    }

    #[test]
    fn accounts_share_by_name_and_are_forgotten() {
        let mut shared = budgets();
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        let now = Now(1_000_000_000);
        let mut first = shared.of_account(&alice);
        let mut second = shared.of_account(&alice);
        assert_eq!(first.take(Direction::ToPeer, 1000, 1000, now), Ok(()));
        assert!(second.take(Direction::ToPeer, 1000, 1, now).is_err(), "one bucket");
        assert_eq!(second.take(Direction::ToClient, 1000, 1, now), Ok(()), "each direction alone");
        assert_eq!(shared.of_account(&bob).take(Direction::ToPeer, 1000, 1, now), Ok(()));
        assert_eq!(shared.of_realm(&alice).take(Direction::ToPeer, 1000, 1, now), Ok(()), "a realm is no account");
        drop((first, second));
        assert_eq!(shared.of_account(&alice).take(Direction::ToPeer, 1000, 1, now), Ok(()), "a new one");
        for number in 0..10 * FORGOTTEN_MAX {
            drop(shared.of_account(&format!("user {number}").into()));
        }
        assert!(shared.0.bandwidth.accounts.0.len() <= FORGOTTEN_MAX);
    }
}
