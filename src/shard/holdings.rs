//! What accounts and networks have beside allocations, in all shards together.
//!
//! Two entries of the directory's table are touched when a permission, a channel or a connection to a peer comes or goes,
//! and none when data does. So counts are exact, and no shard has to give steps of them back.

use std::net::IpAddr;
use std::sync::Arc;

use super::directory::{Directory, Holder, network};
use crate::turn::{self, Held, Limit};

/// What one shard's machine knows of the directory.
#[derive(Debug)]
pub(super) struct Holdings(pub(super) Arc<Directory>);

#[derive(Debug)]
struct Holding {
    directory: Arc<Directory>,
    account: Holder,
    prefix: Holder,
    /// As in [`Held::ALL`].
    counts: [usize; Held::ALL.len()],
}

/// Its place in a tally, behind that of allocations.
const fn place(what: Held) -> usize {
    1 + what as usize
}

impl turn::Holdings for Holdings {
    fn open(&mut self, account: &Arc<str>, client: IpAddr) -> Box<dyn turn::Holding> {
        Box::new(Holding {
            directory: Arc::clone(&self.0),
            account: Holder::Account(Arc::clone(account)),
            prefix: Holder::Prefix(network(client)),
            counts: [0; Held::ALL.len()],
        })
    }
}

impl Holding {
    fn raise(&self, what: Held, by: usize) -> Result<(), Limit> {
        let (per_account, per_prefix) = self.directory.held_quotas();
        if !self.directory.raise(self.account.clone(), place(what), by, per_account.of(what)) {
            return Err(what.limit_of_account());
        }
        if !self.directory.raise(self.prefix.clone(), place(what), by, per_prefix.of(what)) {
            self.directory.lower(&self.account, place(what), by);
            return Err(what.limit_of_prefix());
        }
        Ok(())
    }

    fn lower(&self, what: Held, by: usize) {
        self.directory.lower(&self.account, place(what), by);
        self.directory.lower(&self.prefix, place(what), by);
    }
}

impl turn::Holding for Holding {
    fn set(&mut self, what: Held, count: usize) -> Result<(), Limit> {
        let before = self.counts[what as usize];
        if count < before {
            self.lower(what, before - count);
        } else if count > before {
            self.raise(what, count - before)?;
        }
        self.counts[what as usize] = count;
        Ok(())
    }
}

/// Also while a panic unwinds.
impl Drop for Holding {
    fn drop(&mut self) {
        for what in Held::ALL {
            match self.counts[what as usize] {
                0 => {}
                count => self.lower(what, count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{ConnectionLimits, HeldQuotas, Quotas};
    use crate::turn::Holdings as _;

    fn directory() -> Arc<Directory> {
        let per_account = HeldQuotas { permissions: 5, channels: 3, peer_connections: 2 };
        let per_prefix = HeldQuotas { permissions: 8, channels: 4, peer_connections: 3 };
        let quotas =
            Quotas { allocations: 9, allocations_per_account: 9, allocations_per_prefix: 9, per_account, per_prefix };
        let connections =
            ConnectionLimits { total: 0, per_address: 0, per_prefix: 0, send_buffer_bytes: 0, idle_secs: 0 };
        Arc::new(Directory::new(quotas, connections))
    }

    /// Abuse S12: what two shards count is one sum for an account, and one for a network.
    #[test]
    fn s12_accounts_and_networks_have_quotas_over_all_shards() {
        let directory = directory();
        let mut shards = [Holdings(Arc::clone(&directory)), Holdings(Arc::clone(&directory))];
        let mut open =
            |shard: usize, account: &str, client: &str| shards[shard].open(&account.into(), client.parse().unwrap());
        let quotas = [(Held::Permissions, 5, 8), (Held::Channels, 3, 4), (Held::PeerConnections, 2, 3)];
        for (what, of_account, of_prefix) in quotas {
            let mut first = open(0, "alice", "192.0.2.1");
            let mut abroad = open(1, "alice", "192.0.3.1");
            assert_eq!(first.set(what, of_account - 1), Ok(()));
            assert_eq!(abroad.set(what, 2), Err(what.limit_of_account()));
            assert_eq!(abroad.set(what, 1), Ok(()), "what was refused is counted nowhere");
            assert_eq!(first.set(what, of_account), Err(what.limit_of_account()));
            drop(abroad);
            assert_eq!(first.set(what, of_account), Ok(()), "given back");
            let mut neighbour = open(1, "bob", "192.0.2.200");
            let left = of_prefix - of_account;
            assert_eq!(neighbour.set(what, left), Ok(()));
            let mut other = open(0, "carol", "192.0.2.7");
            assert_eq!(other.set(what, 1), Err(what.limit_of_prefix()));
            assert_eq!(first.set(what, of_account - 1), Ok(()));
            assert_eq!(other.set(what, 1), Ok(()));
        }
        assert!(directory.holders.is_empty());
    }

    #[test]
    fn an_entry_of_the_table_goes_with_the_last_of_what_it_counts() {
        let directory = directory();
        let (account, client): (Arc<str>, IpAddr) = ("alice".into(), "2001:db8::1".parse().unwrap());
        let allocation = directory.hold_allocation(&account, client).unwrap();
        let mut holding = Holdings(Arc::clone(&directory)).open(&account, client);
        holding.set(Held::Channels, 2).unwrap();
        drop(allocation);
        assert_eq!(directory.holders.len(), 2);
        drop(holding);
        assert!(directory.holders.is_empty());
    }
}
