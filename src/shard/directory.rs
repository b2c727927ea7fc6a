//! What really is shared between shards: who has how much.
//!
//! Counts, and the addresses of TCP relays, touched only when an allocation or a connection begins or ends, never by a packet. Each count is held by a
//! value ([`AllocationHeld`], [`ConnectionHeld`], …) and given back when that value is dropped, so that a shard that
//! panics gives back what it held while it unwinds. Entries vanish at zero: the maps are as large as what is alive.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arrayvec::ArrayVec;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::budgets::Table;
use super::{ConnectionLimits, Quotas};
use crate::turn::{BindError, Held, HeldQuotas, Realm, realm_of_account};

#[derive(Debug)]
pub(super) struct Directory {
    limits: RwLock<Limits>,
    /// By name, those that have limits of their own.
    realms: RwLock<HashMap<Arc<str>, RealmQuota>>,
    allocations: AtomicUsize,
    /// What there is, by who has it.
    pub(super) holders: DashMap<Holder, Tally>,
    connections: AtomicUsize,
    addresses: DashMap<IpAddr, usize>,
    /// Connections by the client's network.
    networks: DashMap<IpAddr, usize>,
    peer_connections: AtomicUsize,
    /// Where the TCP relays of all shards listen.
    tcp_relays: DashMap<SocketAddr, ()>,
    pub(super) bandwidth: Table,
}

/// Who has what. Each has a quota, and an allocation counts for one of each kind; allocations of the server are an atomic
/// count instead, because all shards meet there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Account(Arc<str>),
    /// The first address of a client's network.
    Prefix(IpAddr),
    Realm(Arc<str>),
    Server,
}

impl Holder {
    /// How many it may have, and what to say beyond.
    const fn quota(&self, quotas: &Quotas) -> (usize, BindError) {
        match self {
            Self::Account(_) => (quotas.allocations_per_account, BindError::UserQuotaReached),
            Self::Prefix(_) => (quotas.allocations_per_prefix, BindError::PrefixQuotaReached),
            Self::Realm(_) => (quotas.allocations, BindError::RealmQuotaReached),
            Self::Server => (quotas.allocations, BindError::OutOfCapacity),
        }
    }
}

/// What one of them has: allocations, and what is told of them, as in [`Held::ALL`].
pub(super) type Tally = [usize; 1 + Held::ALL.len()];

/// The place of allocations in it.
const ALLOCATIONS: usize = 0;

/// What the users of one realm may have, instead of what those of the server may.
#[derive(Clone, Copy, Debug)]
struct RealmQuota {
    allocations: usize,
    allocations_per_account: usize,
    held: HeldQuotas,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    quotas: Quotas,
    connections: ConnectionLimits,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRefusal {
    /// There are as many as allowed altogether.
    Total,
    /// There are as many as allowed from this address.
    PerAddress,
    /// There are as many as allowed from this network.
    PerPrefix,
}

impl ConnectionRefusal {
    /// The word in logs: the key of the limit.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Total => "connections",
            Self::PerAddress => "connections_per_address",
            Self::PerPrefix => "connections_per_prefix",
        }
    }
}

/// One allocation, counted.
#[derive(Debug)]
pub(super) struct AllocationHeld {
    directory: Arc<Directory>,
    holders: ArrayVec<Holder, 3>,
    /// It counts for the server as well.
    is_complete: bool,
}

/// One connection, counted.
#[derive(Debug)]
pub(super) struct ConnectionHeld {
    directory: Arc<Directory>,
    /// Missing as long as a proxy has not said whose it is.
    client: Option<IpAddr>,
}

/// One connection of a peer, counted.
#[derive(Debug)]
pub(super) struct PeerConnectionHeld(Arc<Directory>);

/// A TCP relay, listed.
#[derive(Debug)]
pub(super) struct RelayListed {
    directory: Arc<Directory>,
    local: SocketAddr,
}

impl Directory {
    pub(super) fn new(quotas: Quotas, limits: ConnectionLimits) -> Self {
        Self {
            limits: RwLock::new(Limits { quotas, connections: limits }),
            realms: RwLock::default(),
            allocations: AtomicUsize::new(0),
            holders: DashMap::new(),
            connections: AtomicUsize::new(0),
            addresses: DashMap::new(),
            networks: DashMap::new(),
            peer_connections: AtomicUsize::new(0),
            tcp_relays: DashMap::new(),
            bandwidth: Table::default(),
        }
    }

    /// From now on. Whoever is above stays.
    pub(super) fn set_limits(&self, quotas: Quotas, connections: ConnectionLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Limits { quotas, connections };
    }

    /// From now on. Whoever is above stays.
    pub(super) fn set_realms(&self, realms: &[Realm]) {
        let quota = |realm: &Realm| {
            let Realm { allocations, allocations_per_account, held, .. } = *realm;
            (Arc::clone(&realm.name), RealmQuota { allocations, allocations_per_account, held })
        };
        *self.realms.write().unwrap_or_else(PoisonError::into_inner) = realms.iter().map(quota).collect();
    }

    fn realm_of(&self, account: &str) -> Option<(Arc<str>, RealmQuota)> {
        let realms = self.realms.read().unwrap_or_else(PoisonError::into_inner);
        if realms.is_empty() {
            return None;
        }
        realms.get_key_value(realm_of_account(account)?).map(|(name, quota)| (Arc::clone(name), *quota))
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocations alive, in all shards.
    pub(super) fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Counts an allocation (abuse S12).
    pub(super) fn hold_allocation(
        self: &Arc<Self>,
        account: &Arc<str>,
        client: IpAddr,
    ) -> Result<AllocationHeld, BindError> {
        let quotas = self.limits().quotas;
        let directory = Arc::clone(self);
        let realm = self.realm_of(account);
        let of_users = realm.as_ref().map_or(quotas, |(_, realm)| Quotas {
            allocations: realm.allocations,
            allocations_per_account: realm.allocations_per_account,
            ..quotas
        });
        let realm = realm.map(|(name, _)| Holder::Realm(name));
        // Returning early gives back what was counted until then.
        let mut held = AllocationHeld { directory, holders: ArrayVec::new(), is_complete: false };
        for holder in [Holder::Account(Arc::clone(account)), Holder::Prefix(network(client))].into_iter().chain(realm) {
            let (quota, refusal) = holder.quota(&of_users);
            if !self.raise(holder.clone(), ALLOCATIONS, 1, quota) {
                return Err(refusal);
            }
            held.holders.push(holder);
        }
        if !increment_total(&self.allocations, quotas.allocations) {
            return Err(BindError::OutOfCapacity);
        }
        held.is_complete = true;
        Ok(held)
    }

    /// Counts a connection (STUN-8489-6.2.2-05).
    pub(super) fn hold_connection(self: &Arc<Self>, client: IpAddr) -> Result<ConnectionHeld, ConnectionRefusal> {
        self.count_client(client)?;
        if !increment_total(&self.connections, self.limits().connections.total) {
            self.discount_client(client);
            return Err(ConnectionRefusal::Total);
        }
        Ok(ConnectionHeld { directory: Arc::clone(self), client: Some(client) })
    }

    /// Counts a connection for its address and for its network.
    fn count_client(&self, client: IpAddr) -> Result<(), ConnectionRefusal> {
        let limits = self.limits().connections;
        if !increment_below(&self.addresses, site(client), limits.per_address) {
            return Err(ConnectionRefusal::PerAddress);
        }
        if !increment_below(&self.networks, network(client), limits.per_prefix) {
            decrement(&self.addresses, &site(client));
            return Err(ConnectionRefusal::PerPrefix);
        }
        Ok(())
    }

    fn discount_client(&self, client: IpAddr) {
        decrement(&self.addresses, &site(client));
        decrement(&self.networks, &network(client));
    }

    /// Counts more of something, unless that were more than the quota.
    pub(super) fn raise(&self, holder: Holder, place: usize, by: usize, quota: usize) -> bool {
        let mut entry = match self.holders.entry(holder) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) if by <= quota => entry.insert_entry(Tally::default()),
            Entry::Vacant(_) => return false,
        };
        let count = &mut entry.get_mut()[place];
        let is_below = count.checked_add(by).is_some_and(|sum| sum <= quota);
        *count += if is_below { by } else { 0 };
        is_below
    }

    /// Counts less of it.
    pub(super) fn lower(&self, holder: &Holder, place: usize, by: usize) {
        self.holders.remove_if_mut(holder, |_, tally| {
            // Never below zero: an entry exists only while somebody holds what it counts.
            debug_assert!(tally[place] >= by);
            tally[place] -= by;
            *tally == Tally::default()
        });
    }

    /// The realm of an account, if that has quotas of its own.
    pub(super) fn realm_holder(&self, account: &str) -> Option<Holder> {
        self.realm_of(account).map(|(name, _)| Holder::Realm(name))
    }

    /// How many of these it may have now.
    pub(super) fn held_quota(&self, holder: &Holder, what: Held) -> usize {
        let quotas = match holder {
            Holder::Realm(name) => {
                let realms = self.realms.read().unwrap_or_else(PoisonError::into_inner);
                // A realm that is no more has no quotas either.
                realms.get(name).map_or(HeldQuotas::UNLIMITED, |realm| realm.held)
            }
            Holder::Account(_) => self.limits().quotas.per_account,
            Holder::Prefix(_) => self.limits().quotas.per_prefix,
            Holder::Server => self.limits().quotas.in_all,
        };
        quotas.of(what)
    }

    /// Counts a connection of which it is not known yet whose it is.
    pub(super) fn hold_unnamed(self: &Arc<Self>) -> Result<ConnectionHeld, ConnectionRefusal> {
        if !increment_total(&self.connections, self.limits().connections.total) {
            return Err(ConnectionRefusal::Total);
        }
        Ok(ConnectionHeld { directory: Arc::clone(self), client: None })
    }
}

impl ConnectionHeld {
    /// Counts it for this client from now on.
    pub(super) fn name(&mut self, client: IpAddr) -> Result<(), ConnectionRefusal> {
        debug_assert!(self.client.is_none(), "a connection has one client");
        self.directory.count_client(client)?;
        self.client = Some(client);
        Ok(())
    }
}

/// TCP relays.
impl Directory {
    /// Counts a connection of a peer, unless there are `limit` already.
    pub(super) fn hold_peer_connection(self: &Arc<Self>, limit: usize) -> Option<PeerConnectionHeld> {
        increment_total(&self.peer_connections, limit).then(|| PeerConnectionHeld(Arc::clone(self)))
    }

    /// Lists the socket of a TCP relay, which no other has.
    pub(super) fn list_relay(self: &Arc<Self>, local: SocketAddr) -> RelayListed {
        self.tcp_relays.insert(local, ());
        RelayListed { directory: Arc::clone(self), local }
    }

    /// Whether a TCP relay of some shard listens there.
    pub(super) fn is_listed(&self, local: SocketAddr) -> bool {
        self.tcp_relays.contains_key(&local)
    }
}

impl Drop for PeerConnectionHeld {
    fn drop(&mut self) {
        self.0.peer_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for RelayListed {
    fn drop(&mut self) {
        self.directory.tcp_relays.remove(&self.local);
    }
}

impl Drop for AllocationHeld {
    fn drop(&mut self) {
        if self.is_complete {
            self.directory.allocations.fetch_sub(1, Ordering::Relaxed);
        }
        self.holders.iter().for_each(|holder| self.directory.lower(holder, ALLOCATIONS, 1));
    }
}

impl Drop for ConnectionHeld {
    fn drop(&mut self) {
        self.directory.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.client {
            self.directory.discount_client(client);
        }
    }
}

/// Who shares the bound for one address: an IPv4 address, or an IPv6 /64, of which one client has all addresses.
fn site(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(client) => IpAddr::V6(Ipv6Addr::from_bits(client.to_bits() >> 64 << 64)),
    }
}

/// The network a client is in, as everywhere: a /24, or an IPv6 /56, of which one customer has all addresses.
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(client) => IpAddr::V4((client.to_bits() >> 8 << 8).into()),
        IpAddr::V6(client) => IpAddr::V6((client.to_bits() >> 72 << 72).into()),
    }
}

fn increment_total(total: &AtomicUsize, limit: usize) -> bool {
    total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then_some(count + 1)).is_ok()
}

fn increment_below<K: Eq + Hash>(map: &DashMap<K, usize>, key: K, limit: usize) -> bool {
    match map.entry(key) {
        Entry::Occupied(mut entry) if *entry.get() < limit => *entry.get_mut() += 1,
        Entry::Vacant(entry) if limit > 0 => drop(entry.insert(1)),
        _ => return false,
    }
    true
}

fn decrement<K: Eq + Hash>(map: &DashMap<K, usize>, key: &K) {
    let gone = map.remove_if_mut(key, |_, count| {
        // Never below zero: an entry exists only while somebody holds one of its counts.
        debug_assert!(*count > 0);
        *count -= 1;
        *count == 0
    });
    debug_assert!(gone.is_none_or(|(_, count)| count == 0));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::turn::{Credentials, RealmChoice};

    const fn quotas() -> Quotas {
        let (per_account, per_prefix, in_all) = (HeldQuotas::UNLIMITED, HeldQuotas::UNLIMITED, HeldQuotas::UNLIMITED);
        let (allocations, allocations_per_account, allocations_per_prefix) = (100, 100, 1000);
        Quotas { allocations, allocations_per_account, allocations_per_prefix, per_account, per_prefix, in_all }
    }

    fn directory(allocations: usize, per_account: usize, total: usize, per_address: usize) -> Arc<Directory> {
        Arc::new(Directory::new(
            Quotas { allocations, allocations_per_account: per_account, ..quotas() },
            ConnectionLimits { total, per_address, per_prefix: 1000, send_buffer_bytes: 0, idle_secs: 0 },
        ))
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn assert_empty(directory: &Directory) {
        assert_eq!(directory.allocations(), 0);
        assert_eq!(directory.connections.load(Ordering::Relaxed), 0);
        assert!(directory.holders.is_empty());
        assert!(directory.addresses.is_empty() && directory.networks.is_empty());
    }

    #[test]
    fn s12_account_and_server_have_their_own_answers() {
        let directory = directory(3, 2, 0, 0);
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        let first = directory.hold_allocation(&alice, CLIENT).expect("the first");
        let _second = directory.hold_allocation(&alice, CLIENT).expect("the second");
        assert_eq!(directory.hold_allocation(&alice, CLIENT).unwrap_err(), BindError::UserQuotaReached);
        let _third = directory.hold_allocation(&bob, CLIENT).expect("somebody else");
        assert_eq!(directory.hold_allocation(&bob, CLIENT).unwrap_err(), BindError::OutOfCapacity);
        drop(first);
        let _again = directory.hold_allocation(&bob, CLIENT).expect("one place became free");
        assert_eq!(directory.hold_allocation(&alice, CLIENT).unwrap_err(), BindError::OutOfCapacity);
        assert_eq!(directory.allocations(), 3);
    }

    /// Abuse S12: many accounts in one network have its quota together, and their neighbours have their own.
    #[test]
    fn s12_a_network_has_a_quota_of_its_own() {
        let quotas = Quotas { allocations_per_account: 2, allocations_per_prefix: 3, ..quotas() };
        let connections =
            ConnectionLimits { total: 0, per_address: 0, per_prefix: 0, send_buffer_bytes: 0, idle_secs: 0 };
        let directory = Arc::new(Directory::new(quotas, connections));
        let hold = |account: &str, client: &str| directory.hold_allocation(&account.into(), client.parse().unwrap());
        for (inside, outside) in [
            (["192.0.2.1", "192.0.2.200", "::ffff:192.0.2.9"], "192.0.3.1"),
            (["2001:db8:0:100::1", "2001:db8:0:1ff::1", "2001:db8:0:123::1"], "2001:db8:0:200::1"),
        ] {
            let held: Vec<_> =
                ["a", "b", "c"].into_iter().zip(inside).map(|(account, ip)| hold(account, ip).unwrap()).collect();
            assert_eq!(hold("d", inside[0]).unwrap_err(), BindError::PrefixQuotaReached);
            let _neighbour = hold("d", outside).expect("another network");
            drop(held);
            let first = hold("a", inside[0]).unwrap();
            let _second = hold("a", inside[1]).unwrap();
            assert_eq!(hold("a", inside[2]).unwrap_err(), BindError::UserQuotaReached);
            drop(first);
        }
        assert_empty(&directory);
    }

    /// The users of a realm have its quotas, all and each; those of another have nothing to do with it.
    #[test]
    fn s12_a_realm_has_quotas_of_its_own() {
        let directory = directory(100, 5, 0, 0);
        let mut realm = Realm::new("a", RealmChoice::Credentials, Credentials::default());
        (realm.allocations, realm.allocations_per_account) = (3, 2);
        directory.set_realms(std::slice::from_ref(&realm));
        let hold = |account: &str| directory.hold_allocation(&account.into(), CLIENT);
        let held = ["alice@a", "alice@a", "bob@a"].map(|account| hold(account).expect("within the quotas"));
        assert_eq!(hold("alice@a").unwrap_err(), BindError::UserQuotaReached);
        assert_eq!(hold("bob@a").unwrap_err(), BindError::RealmQuotaReached);
        let mut namesakes = Vec::new();
        for _ in 0..5 {
            namesakes.push(hold("alice@b").expect("the server's quota"));
        }
        assert_eq!(hold("alice@b").unwrap_err(), BindError::UserQuotaReached);
        drop(held);
        let again = hold("bob@a").expect("given back");
        // Whoever is there when the realm goes is given back all the same.
        directory.set_realms(&[]);
        drop(again);
        assert!(!directory.holders.contains_key(&Holder::Realm("a".into())));
    }

    #[test]
    fn one_ipv6_site_is_one_address() {
        let directory = directory(0, 0, 10, 1);
        let hold = |ip: &str| directory.hold_connection(ip.parse().unwrap());
        let _first = hold("2001:db8:1:2::1").expect("the first");
        assert_eq!(hold("2001:db8:1:2:ffff::2").unwrap_err(), ConnectionRefusal::PerAddress);
        let _other_site = hold("2001:db8:1:3::1").expect("another /64");
        let _v4 = hold("192.0.2.1").expect("the first");
        let _v4_neighbour = hold("192.0.2.2").expect("another address");
        assert_eq!(hold("192.0.2.1").unwrap_err(), ConnectionRefusal::PerAddress);
    }

    /// Many addresses of one network have its bound together, and what is refused is counted nowhere.
    #[test]
    fn s12_connections_of_one_network_are_bounded() {
        let connections =
            ConnectionLimits { total: 5, per_address: 2, per_prefix: 3, send_buffer_bytes: 0, idle_secs: 0 };
        let directory = Arc::new(Directory::new(quotas(), connections));
        let hold = |ip: &str| directory.hold_connection(ip.parse().unwrap());
        for (inside, outside) in [
            (["192.0.2.1", "192.0.2.200", "192.0.2.201"], "192.0.3.1"),
            (["2001:db8:0:100::1", "2001:db8:0:1ff::1", "2001:db8:0:123::1"], "2001:db8:0:200::1"),
        ] {
            let held = inside.map(|ip| hold(ip).expect("within the bounds"));
            assert_eq!(hold(inside[0]).unwrap_err(), ConnectionRefusal::PerPrefix);
            let mut unnamed = directory.hold_unnamed().expect("one of five");
            assert_eq!(unnamed.name(inside[1].parse().unwrap()), Err(ConnectionRefusal::PerPrefix));
            drop(unnamed);
            let neighbour = hold(outside).expect("another network");
            drop(held);
            let _again = (hold(inside[0]).unwrap(), hold(inside[0]).unwrap());
            assert_eq!(hold(inside[0]).unwrap_err(), ConnectionRefusal::PerAddress);
            drop(neighbour);
        }
        assert_empty(&directory);
    }

    #[test]
    fn counts_are_given_back_while_unwinding() {
        let directory = directory(10, 10, 10, 10);
        let held = Arc::clone(&directory);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _allocation = held.hold_allocation(&"alice".into(), CLIENT).unwrap();
            let _connection = held.hold_connection("192.0.2.1".parse().unwrap()).unwrap();
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
        assert!(panic.is_err());
        assert_empty(&directory);
    }

    #[test]
    fn threads_never_exceed_a_quota() {
        let directory = directory(1000, 7, 0, 0);
        let account: Arc<str> = "alice".into();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let held: Vec<_> = (0..3).map(|_| directory.hold_allocation(&account, CLIENT)).collect();
                        let holder = Holder::Account(Arc::clone(&account));
                        assert!(directory.holders.get(&holder).is_none_or(|tally| tally[ALLOCATIONS] <= 7));
                        drop(held);
                    }
                });
            }
        });
        assert_empty(&directory);
    }

    proptest! {
        /// Any order of beginnings and ends: counts equal what is held, bounds hold, and nothing is left behind.
        #[test]
        fn counts_follow_a_naive_model(steps in proptest::collection::vec((0..4_u8, any::<bool>(), any::<u16>()), 0..200)) {
            let directory = directory(12, 5, 12, 5);
            let mut allocations = Vec::new();
            let mut connections = Vec::new();
            for (who, begin, pick) in steps {
                let account: Arc<str> = format!("user{who}").into();
                let address = IpAddr::from([192, 0, 2, who]);
                if begin {
                    let mine = allocations.iter().filter(|(name, _)| *name == account).count();
                    match directory.hold_allocation(&account, CLIENT) {
                        Ok(held) => {
                            prop_assert!(mine < 5 && allocations.len() < 12);
                            allocations.push((account, held));
                        }
                        Err(BindError::UserQuotaReached) => prop_assert_eq!(mine, 5),
                        Err(error) => {
                            prop_assert_eq!(error, BindError::OutOfCapacity);
                            prop_assert_eq!(allocations.len(), 12);
                        }
                    }
                    let mine = connections.iter().filter(|(ip, _)| *ip == address).count();
                    match directory.hold_connection(address) {
                        Ok(held) => connections.push((address, held)),
                        Err(ConnectionRefusal::PerAddress) => prop_assert_eq!(mine, 5),
                        Err(ConnectionRefusal::PerPrefix) => prop_assert!(false, "there is room for all"),
                        Err(ConnectionRefusal::Total) => prop_assert_eq!(connections.len(), 12),
                    }
                } else {
                    if !allocations.is_empty() {
                        allocations.swap_remove(usize::from(pick) % allocations.len());
                    }
                    if !connections.is_empty() {
                        connections.swap_remove(usize::from(pick) % connections.len());
                    }
                }
                prop_assert_eq!(directory.allocations(), allocations.len());
                let listed: usize = directory.holders.iter().map(|entry| entry.value()[ALLOCATIONS]).sum();
                prop_assert_eq!(listed, 2 * allocations.len(), "each for an account and a network");
                prop_assert!(directory.holders.iter().all(|entry| *entry.value() != Tally::default()));
            }
            drop((allocations, connections));
            assert_empty(&directory);
        }
    }
}
