//! Which 5-tuples that the kernel gives to this shard belong to an allocation of another one (RFC 8016).
//!
//! A client that has moved keeps its allocation, and the allocation its shard; but the kernel hashes the client's new
//! address to whichever shard it likes. That shard is asked here what it passes on, for UDP only (a connection moves
//! as a whole), and only after its own table has missed.

use std::collections::HashMap;

use ahash::RandomState;

use super::{FiveTuple, Now};

/// How long an entry stays that its allocation's shard says nothing about: as long as a client repeats a request.
const UNCONFIRMED_SECS: u32 = 40;

#[derive(Debug)]
pub(super) struct Elsewhere {
    paths: HashMap<FiveTuple, Entry, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    shard: u16,
    /// `None` once that shard has said that the path is its own.
    until: Option<Now>,
}

/// There are as many entries as allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Elsewhere {
    pub(super) fn new(hashes: RandomState) -> Self {
        Self { paths: HashMap::with_hasher(hashes) }
    }

    /// The shard that a 5-tuple belongs to.
    pub(super) fn get(&self, now: Now, path: &FiveTuple) -> Option<u16> {
        // Nearly always empty: who sends to no allocation costs no hashing.
        if self.paths.is_empty() {
            return None;
        }
        self.paths.get(path).filter(|entry| entry.lives(now)).map(|entry| entry.shard)
    }

    /// An authenticated client has shown a ticket of that shard's: what else it sends goes there as well, for a while
    /// or until the shard says more. Nobody else may have the path.
    pub(super) fn expect(&mut self, now: Now, path: FiveTuple, shard: u16, limit: usize) -> Result<(), Full> {
        self.insert(now, path, Entry { shard, until: Some(now.plus_secs(UNCONFIRMED_SECS)) }, limit)
    }

    /// That shard says the path is its own.
    pub(super) fn confirm(&mut self, now: Now, path: FiveTuple, shard: u16, limit: usize) -> Result<(), Full> {
        self.insert(now, path, Entry { shard, until: None }, limit)
    }

    fn insert(&mut self, now: Now, path: FiveTuple, entry: Entry, limit: usize) -> Result<(), Full> {
        if self.paths.len() >= limit && !self.paths.contains_key(&path) {
            self.paths.retain(|_, entry| entry.lives(now));
            if self.paths.len() >= limit {
                return Err(Full);
            }
        }
        self.paths.insert(path, entry);
        Ok(())
    }

    /// The path is not that shard's any more.
    pub(super) fn forget(&mut self, path: &FiveTuple, shard: u16) {
        if self.paths.get(path).is_some_and(|entry| entry.shard == shard) {
            self.paths.remove(path);
        }
    }

    /// That shard has lost all it had.
    pub(super) fn forget_shard(&mut self, shard: u16) {
        self.paths.retain(|_, entry| entry.shard != shard);
    }

    /// Entries, those included whose time is over.
    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }
}

impl Entry {
    fn lives(&self, now: Now) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Transport;

    fn path(port: u16) -> FiveTuple {
        let client = std::net::SocketAddr::new("192.0.2.1".parse().unwrap(), port);
        FiveTuple { transport: Transport::Udp, client, server: "192.0.2.2:3478".parse().unwrap() }
    }

    #[test]
    fn entries_are_bounded_and_those_nobody_confirms_make_room() {
        let mut elsewhere = Elsewhere::new(RandomState::with_seeds(1, 2, 3, 4));
        let start = Now(5);
        assert_eq!(elsewhere.get(start, &path(1)), None);
        elsewhere.expect(start, path(1), 1, 2).unwrap();
        elsewhere.expect(start, path(2), 2, 2).unwrap();
        elsewhere.confirm(start, path(2), 2, 2).unwrap();
        assert_eq!(elsewhere.expect(start, path(3), 1, 2), Err(Full));
        assert_eq!(elsewhere.confirm(start, path(1), 1, 2), Ok(()), "it is there already");
        elsewhere.expect(start, path(1), 1, 2).unwrap();
        assert_eq!(elsewhere.get(start.plus_secs(39), &path(1)), Some(1));
        let later = start.plus_secs(40);
        assert_eq!(elsewhere.get(later, &path(1)), None);
        assert_eq!(elsewhere.expect(later, path(3), 1, 2), Ok(()));
        assert_eq!((elsewhere.get(later, &path(2)), elsewhere.len()), (Some(2), 2));
    }

    #[test]
    fn a_shard_takes_back_only_what_is_its_own() {
        let mut elsewhere = Elsewhere::new(RandomState::with_seeds(1, 2, 3, 4));
        let now = Now(5);
        for port in 1..=4 {
            elsewhere.confirm(now, path(port), port % 2, 10).unwrap();
        }
        elsewhere.forget(&path(1), 0);
        assert_eq!(elsewhere.get(now, &path(1)), Some(1));
        elsewhere.forget(&path(1), 1);
        assert_eq!(elsewhere.get(now, &path(1)), None);
        elsewhere.forget_shard(0);
        assert_eq!((elsewhere.len(), elsewhere.get(now, &path(3))), (1, Some(1)));
    }
}
