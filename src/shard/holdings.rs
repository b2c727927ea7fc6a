//! What accounts, networks, realms and the server have beside allocations, in all shards together.
//!
//! Three or four entries of the directory's table are touched when a permission, a channel or a connection to a peer comes or goes,
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
    account: Arc<str>,
    prefix: IpAddr,
    /// If it has quotas of its own.
    realm: Option<Holder>,
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
            account: Arc::clone(account),
            prefix: network(client),
            realm: self.0.realm_holder(account),
            counts: [0; Held::ALL.len()],
        })
    }
}

impl Holding {
    /// Whom it counts for: connections to peers count for the server where their sockets are.
    fn holders(&self, what: Held) -> impl Iterator<Item = Holder> {
        let server = what.limit_of_server().map(|_| Holder::Server);
        let own = [Holder::Account(Arc::clone(&self.account)), Holder::Prefix(self.prefix)];
        own.into_iter().chain(self.realm.clone()).chain(server)
    }

    fn raise(&self, what: Held, by: usize) -> Result<(), Limit> {
        for (counted, holder) in self.holders(what).enumerate() {
            let quota = self.directory.held_quota(&holder, what);
            if !self.directory.raise(holder.clone(), place(what), by, quota) {
                self.holders(what).take(counted).for_each(|holder| self.directory.lower(&holder, place(what), by));
                return Err(limit(&holder, what));
            }
        }
        Ok(())
    }

    fn lower(&self, what: Held, by: usize) {
        self.holders(what).for_each(|holder| self.directory.lower(&holder, place(what), by));
    }
}

/// The limit that one of them stands for.
fn limit(holder: &Holder, what: Held) -> Limit {
    match holder {
        Holder::Account(_) => what.limit_of_account(),
        Holder::Prefix(_) => what.limit_of_prefix(),
        Holder::Realm(_) => what.limit_of_realm(),
        Holder::Server => what.limit_of_server().expect("only what is counted for it has a limit there"),
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
    use crate::shard::{ConnectionLimits, Quotas};
    use crate::turn::{Credentials, HeldQuotas, Holdings as _, Realm, RealmChoice};

    fn directory() -> Arc<Directory> {
        let per_account = HeldQuotas { permissions: 5, channels: 3, peer_connections: 2 };
        let per_prefix = HeldQuotas { permissions: 8, channels: 4, peer_connections: 3 };
        let in_all = HeldQuotas { permissions: 12, channels: 6, peer_connections: 0 };
        let quotas = Quotas {
            allocations: 9,
            allocations_per_account: 9,
            allocations_per_prefix: 9,
            per_account,
            per_prefix,
            in_all,
        };
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
        assert_eq!(directory.holders.len(), 3, "account, network, server");
        drop(holding);
        assert!(directory.holders.is_empty());
    }

    /// Abuse S12: many accounts and networks together have what the server may have, and connections are counted elsewhere.
    #[test]
    fn s12_the_server_has_quotas_for_all_of_them() {
        let directory = directory();
        let mut holdings = Holdings(Arc::clone(&directory));
        for (what, each, in_all) in [(Held::Permissions, 4, 12), (Held::Channels, 2, 6)] {
            let open = |number: usize| {
                let (account, client) = (format!("user {number}"), format!("198.51.{number}.1"));
                holdings.open(&account.into(), client.parse().unwrap())
            };
            let mut all: Vec<_> = (0..4).map(open).collect();
            all[..3].iter_mut().for_each(|holding| holding.set(what, each).unwrap());
            assert_eq!(each * 3, in_all);
            assert_eq!(all[3].set(what, 1), Err(what.limit_of_server().unwrap()));
            all[0].set(what, each - 1).unwrap();
            assert_eq!(all[3].set(what, 1), Ok(()));
        }
        holdings.open(&"alice".into(), "192.0.2.1".parse().unwrap()).set(Held::PeerConnections, 2).unwrap();
        assert!(directory.holders.is_empty());
    }

    /// Abuse S12: the users of a realm have its quotas together, those of others are not counted there, and a new
    /// configuration counts from the next one on.
    #[test]
    fn s12_a_realm_has_quotas_of_its_own() {
        let directory = directory();
        let realm = |permissions, channels, peer_connections| {
            let held = HeldQuotas { permissions, channels, peer_connections };
            let mut realm = Realm::new("shop", RealmChoice::Credentials, Credentials::default());
            realm.held = held;
            realm
        };
        directory.set_realms(&[realm(2, 2, 2)]);
        let mut holdings = Holdings(Arc::clone(&directory));
        let mut open = |account: &str, client: &str| holdings.open(&account.into(), client.parse().unwrap());
        for what in Held::ALL {
            directory.set_realms(&[realm(2, 2, 2)]);
            let (mut alice, mut bob) = (open("alice@shop", "192.0.2.1"), open("bob@shop", "192.0.3.1"));
            assert_eq!(alice.set(what, 2), Ok(()));
            assert_eq!(bob.set(what, 1), Err(what.limit_of_realm()));
            assert_eq!(open("alice@hairpin", "192.0.4.1").set(what, 1), Ok(()), "another realm");
            directory.set_realms(&[realm(3, 3, 3)]);
            assert_eq!(bob.set(what, 1), Ok(()));
            directory.set_realms(&[]);
            assert_eq!(bob.set(what, 2), Ok(()), "what it counts for is no more");
        }
        assert!(directory.holders.is_empty());
    }
}
