//! What accounts and networks have beside allocations: told when it comes, when it goes, and at no other time (abuse S12).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use hairpin::turn::{ConnectError, Event, Held, Holding, Holdings, Limit, Reason};

use crate::client::{channel_data, data, lifetime};
use crate::tcp::{connect, connected, control, tcp_allocated, tcp_config};
use crate::world::{PEER, World, config, path, send_indication};
use hairpin::stun::Method;

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.20:40000";

/// Counts for all allocations together, up to one limit, as the shell of a single account would.
#[derive(Clone, Debug)]
pub struct Counted {
    limit: Limit,
    max: usize,
    counts: Arc<Mutex<BTreeMap<usize, usize>>>,
    /// How often anything was told.
    told: Arc<Mutex<usize>>,
}

impl Counted {
    pub fn with(limit: Limit, max: usize) -> Self {
        Self { limit, max, counts: Arc::default(), told: Arc::default() }
    }

    /// Lets the machine of this world, which has done nothing yet, be counted for.
    pub fn share(&self, world: &mut World) {
        world.server.share_holdings(Box::new(self.clone()));
    }

    fn of(&self, what: Held) -> usize {
        self.counts.lock().unwrap().get(&(what as usize)).copied().unwrap_or(0)
    }

    fn all(&self) -> [usize; 3] {
        Held::ALL.map(|what| self.of(what))
    }
}

impl Holdings for Counted {
    fn open(&mut self, account: &Arc<str>, client: IpAddr) -> Box<dyn Holding> {
        assert!(!account.is_empty() && !client.is_unspecified());
        Box::new(One { all: self.clone(), own: [0; 3] })
    }
}

#[derive(Debug)]
struct One {
    all: Counted,
    own: [usize; 3],
}

impl Holding for One {
    fn set(&mut self, what: Held, count: usize) -> Result<(), Limit> {
        *self.all.told.lock().unwrap() += 1;
        let sum = self.all.of(what) + count - self.own[what as usize];
        let limits = [Some(what.limit_of_account()), Some(what.limit_of_prefix()), Some(what.limit_of_realm())];
        let is_limited =
            limits.into_iter().chain([what.limit_of_server()]).flatten().any(|limit| limit == self.all.limit);
        if count > self.own[what as usize] && is_limited && sum > self.all.max {
            return Err(self.all.limit);
        }
        self.all.counts.lock().unwrap().insert(what as usize, sum);
        self.own[what as usize] = count;
        Ok(())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        Held::ALL.into_iter().for_each(|what| self.set(what, 0).unwrap());
    }
}

/// A world whose machine is counted for.
fn counted(limit: Limit, max: usize) -> (World, Counted) {
    let mut world = World::with(config());
    let counted = Counted::with(limit, max);
    counted.share(&mut world);
    (world, counted)
}

/// Two allocations share the quota of their account, and what one gives back the other may have.
#[test]
fn s12_permissions_of_two_allocations_are_one_account() {
    let (mut world, counted) = counted(Limit::PermissionsPerUser, 3);
    let (mut first, _) = world.allocated(path(CLIENT));
    let (mut second, _) = world.allocated(path(OTHER));
    assert_eq!(world.permit(path(CLIENT), &mut first, &["9.9.9.1:1", "9.9.9.2:1"]), 0);
    assert_eq!(world.permit(path(OTHER), &mut second, &["9.9.9.1:1", "9.9.9.2:1"]), 508, "all or none");
    assert_eq!(counted.all(), [2, 0, 0]);
    assert_eq!(world.permit(path(OTHER), &mut second, &["9.9.9.1:1"]), 0);
    assert_eq!(world.permit(path(OTHER), &mut second, &["9.9.9.1:2"]), 0, "it has that one");
    let refused = world.events.iter().filter(|event| matches!(event, Event::RequestRefused { limit: Some(_), .. }));
    assert_eq!(refused.count(), 1);
    let request = first.signed(Method::Refresh, vec![lifetime(0)]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 0);
    assert_eq!(counted.all(), [1, 0, 0]);
    assert_eq!(world.permit(path(OTHER), &mut second, &["9.9.9.2:1", "9.9.9.3:1"]), 0);
    assert_eq!(counted.all(), [3, 0, 0]);
}

/// A channel that may not be leaves no permission behind, and no more does a permission a channel.
#[test]
fn s12_a_channel_and_its_permission_are_counted_together_or_not_at_all() {
    for (limit, told) in [(Limit::ChannelsPerUser, [1, 1, 0]), (Limit::PermissionsPerPrefix, [1, 1, 0])] {
        let (mut world, counted) = counted(limit, 1);
        let (mut alice, _) = world.allocated(path(CLIENT));
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, "9.9.9.1:1"), 0);
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "9.9.9.2:1"), 508);
        assert_eq!(counted.all(), told, "{}", limit.label());
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, "9.9.9.1:1"), 0, "to refresh is allowed");
        assert_eq!(counted.all(), told, "{}", limit.label());
    }
}

/// Whoever is silent gives back what expires, so that another allocation of his may have it.
#[test]
fn s12_what_expires_is_given_back_without_a_request() {
    let (mut world, counted) = counted(Limit::PermissionsPerUser, 2);
    let (mut first, _) = world.allocated(path(CLIENT));
    let (mut second, _) = world.allocated(path(OTHER));
    assert_eq!(world.bind_channel(path(CLIENT), &mut first, 0x4000, "9.9.9.1:1"), 0);
    world.pass(100);
    assert_eq!(world.permit(path(CLIENT), &mut first, &["9.9.9.2:1"]), 0);
    assert_eq!(world.permit(path(OTHER), &mut second, &["9.9.9.3:1"]), 508);
    world.pass(205);
    assert_eq!(counted.all(), [1, 1, 0]);
    assert_eq!(world.permit(path(OTHER), &mut second, &["9.9.9.3:1"]), 0);
    world.pass(100);
    assert_eq!(counted.all(), [1, 1, 0]);
    world.pass(194);
    // The channel has lived 600 s by now, and so has the allocation.
    world.pass(2);
    assert_eq!(counted.all(), [0, 0, 0]);
}

/// A policy that takes peers away, and the end of an allocation, give back too.
#[test]
fn s12_a_new_policy_and_the_end_give_back() {
    let (mut world, counted) = counted(Limit::ChannelsPerUser, 9);
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, "9.9.9.1:1"), 0);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "9.9.8.1:1"), 0);
    assert_eq!(counted.all(), [2, 2, 0]);
    let mut narrower = config();
    narrower.peers.deny.push("9.9.8.0/24".parse().unwrap());
    world.server.configure(narrower.into());
    assert_eq!(counted.all(), [1, 1, 0]);
    world.server.shut_down(world.clock);
    assert_eq!(counted.all(), [0, 0, 0]);
}

/// Data is nobody's count.
#[test]
fn s12_data_costs_no_count() {
    let (mut world, counted) = counted(Limit::PermissionsPerUser, 9);
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, PEER), 0);
    let told = *counted.told.lock().unwrap();
    for _ in 0..10 {
        for message in [send_indication(PEER, vec![data(b"there")]), channel_data(0x4000, b"there")] {
            assert!(world.send(path(CLIENT), &message).expect("a verdict").relayed());
        }
        assert!(world.peer_sends(relay, PEER, b"back").relayed());
    }
    assert_eq!(*counted.told.lock().unwrap(), told);
}

/// Connections to peers: asked for, failed, come and gone.
#[test]
fn s12_connections_to_peers_are_counted_from_connect_to_close() {
    let mut world = World::with(tcp_config());
    let counted = Counted::with(Limit::PeerConnectionsPerUser, 2);
    counted.share(&mut world);
    let (mut alice, relay) = tcp_allocated(&mut world);
    assert_eq!(world.permit(control(), &mut alice, &["198.51.100.9:1"]), 0);
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    assert_eq!(counted.of(Held::PeerConnections), 1);
    assert_eq!(connected(&mut world, Err(ConnectError::Failed)).error(), 447);
    assert_eq!(counted.of(Held::PeerConnections), 0);
    let first = world.server.peer_accepted(world.clock, relay, "198.51.100.9:1".parse().unwrap()).expect("let in");
    world.may_send_several = true;
    world.drain_effects();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.8:7000"), Some(508));
    assert_eq!(world.server.peer_accepted(world.clock, relay, "198.51.100.9:2".parse().unwrap()), None);
    assert_eq!(world.server.counters().drops[Reason::TooManyConnections as usize], 1);
    assert_eq!(world.server.counters().limits[Limit::PeerConnectionsPerUser as usize], 2);
    world.server.peer_closed(first);
    assert_eq!(counted.of(Held::PeerConnections), 1);
    let request = alice.signed(Method::Refresh, vec![lifetime(0)]);
    assert_eq!(world.exchange(control(), &request).error(), 0);
    assert_eq!(counted.all(), [0, 0, 0]);
}
