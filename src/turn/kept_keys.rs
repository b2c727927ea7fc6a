//! Keys of users that are kept elsewhere, remembered for a while.
//!
//! Two tables of bounded size: who was found, and who was not, so that made-up names cannot push out real ones. When one
//! is full, whoever was not asked about since the last round makes way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use super::{Now, StaticUser};

/// Keys by name.
#[derive(Debug)]
pub(super) struct KeptKeys {
    found: Table<Kept>,
    not_found: Table<Now>,
}

/// Keys, and until when they count.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) user: Arc<StaticUser>,
    /// When the back end was asked.
    pub(super) asked: Now,
    /// They count without another question until then.
    pub(super) fresh_until: Now,
    /// They count until then if the back end does not answer.
    pub(super) stale_until: Now,
}

impl KeptKeys {
    pub(super) fn new(hashes: &RandomState) -> Self {
        Self { found: Table::new(hashes.clone()), not_found: Table::new(hashes.clone()) }
    }

    /// The keys of this user, fresh ones or not.
    pub(super) fn get(&mut self, now: Now, name: &str) -> Option<&mut Kept> {
        self.found.get(name).filter(|kept| now < kept.stale_until.max(kept.fresh_until))
    }

    /// Whether there was no such user a moment ago.
    pub(super) fn is_nobody(&mut self, now: Now, name: &str) -> bool {
        self.not_found.get(name).is_some_and(|until| now < *until)
    }

    pub(super) fn found(&mut self, limit: usize, name: &Arc<str>, kept: Kept) {
        self.not_found.remove(name);
        self.found.insert(limit, name, kept);
    }

    pub(super) fn not_found(&mut self, limit: usize, name: &Arc<str>, until: Now) {
        self.found.remove(name);
        self.not_found.insert(limit, name, until);
    }

    /// From now on all are to be asked about again; those found still count if the back end does not answer.
    pub(super) fn expire(&mut self) {
        self.not_found.clear();
        self.found.entries.values_mut().for_each(|entry| entry.value.fresh_until = Now(0));
    }

    pub(super) fn clear(&mut self) {
        self.found.clear();
        self.not_found.clear();
    }
}

#[derive(Debug)]
struct Table<T> {
    entries: HashMap<Arc<str>, Entry<T>, RandomState>,
    /// Names in the order in which they are looked at when one has to go; some may be gone already.
    order: VecDeque<Arc<str>>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    is_used: bool,
}

impl<T> Table<T> {
    fn new(hashes: RandomState) -> Self {
        Self { entries: HashMap::with_hasher(hashes), order: VecDeque::new() }
    }

    fn get(&mut self, name: &str) -> Option<&mut T> {
        self.entries.get_mut(name).map(|entry| {
            entry.is_used = true;
            &mut entry.value
        })
    }

    fn insert(&mut self, limit: usize, name: &Arc<str>, value: T) {
        if let Some(entry) = self.entries.get_mut(&**name) {
            entry.value = value;
            return;
        }
        while self.entries.len() >= limit.max(1) {
            self.evict();
        }
        // Names that were removed leave their place in the order behind.
        if self.order.len() >= 2 * limit.max(1) {
            let entries = &self.entries;
            self.order.retain(|name| entries.contains_key(name));
        }
        self.entries.insert(Arc::clone(name), Entry { value, is_used: false });
        self.order.push_back(Arc::clone(name));
    }

    fn evict(&mut self) {
        while let Some(name) = self.order.pop_front() {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            if !std::mem::take(&mut entry.is_used) {
                self.entries.remove(&name);
                return;
            }
            self.order.push_back(name);
        }
        // Every entry has its place in the order.
        debug_assert!(self.entries.is_empty(), "entries without an order");
        self.entries.clear();
    }

    fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> KeptKeys {
        KeptKeys::new(&RandomState::with_seeds(1, 2, 3, 4))
    }

    fn kept(fresh_until: u64, stale_until: u64) -> Kept {
        let user = Arc::new(StaticUser::from_keys("alice", "example.org", Some([1; 16]), None));
        Kept { user, asked: Now(0), fresh_until: Now(fresh_until), stale_until: Now(stale_until) }
    }

    #[test]
    fn who_is_asked_about_stays_when_others_push_in() {
        let mut keys = table();
        keys.found(100, &"alice".into(), kept(1_000, 1_000));
        for number in 0..10_000 {
            assert!(keys.get(Now(1), "alice").is_some(), "pushed out by {number}");
            keys.found(100, &format!("user {number}").into(), kept(1_000, 1_000));
            keys.not_found(100, &format!("nobody {number}").into(), Now(1_000));
            // Found, and gone again: what is left of it in the order must not grow.
            keys.found(100, &format!("gone {number}").into(), kept(1_000, 1_000));
            keys.not_found(100, &format!("gone {number}").into(), Now(1_000));
        }
        assert!(keys.found.entries.len() <= 100 && keys.not_found.entries.len() <= 100);
        assert!(keys.found.order.len() <= 200 && keys.not_found.order.len() <= 200);
    }

    #[test]
    fn entries_end_when_they_are_neither_fresh_nor_stale() {
        let mut keys = table();
        keys.found(10, &"alice".into(), kept(10, 20));
        keys.not_found(10, &"bob".into(), Now(10));
        assert!(keys.get(Now(19), "alice").is_some() && keys.get(Now(20), "alice").is_none());
        assert!(keys.is_nobody(Now(9), "bob") && !keys.is_nobody(Now(10), "bob"));
        keys.not_found(10, &"alice".into(), Now(10));
        assert!(keys.get(Now(1), "alice").is_none() && keys.is_nobody(Now(1), "alice"));
        keys.found(10, &"alice".into(), kept(10, 20));
        keys.expire();
        assert_eq!(keys.get(Now(5), "alice").map(|kept| kept.fresh_until), Some(Now(0)));
        assert!(!keys.is_nobody(Now(5), "bob"));
        keys.clear();
        assert!(keys.found.entries.is_empty() && keys.not_found.entries.is_empty());
    }
}
