//! Each limit is reached by somebody, who hears the right word, and is counted under its own name (abuse S12).

use hairpin::turn::{BindError, Config, Limit, PortRange};

use crate::client::udp;
use crate::holdings::Counted;
use crate::tcp::{connect, tcp_allocated, tcp_config};
use crate::world::{World, config, path};
use hairpin::stun::Method;

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.20:40000";

/// Alice has an allocation, and Bob asks for one.
fn bob_allocates(world: &mut World) -> u16 {
    world.allocated(path(CLIENT));
    let mut bob = world.client(path(OTHER), "bob", "hunter2");
    let request = bob.signed(Method::Allocate, vec![udp()]);
    world.exchange(path(OTHER), &request).error()
}

/// The shell counts, and refuses Bob.
fn the_shell_refuses(world: &mut World, error: BindError) -> u16 {
    let mut first = true;
    world.bind_answer = Some(Box::new(move |_| if std::mem::take(&mut first) { Ok(()) } else { Err(error) }));
    bob_allocates(world)
}

fn alice_permits(world: &mut World) -> u16 {
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["9.9.9.9:1"]), 0);
    world.permit(path(CLIENT), &mut alice, &["9.9.9.10:1"])
}

fn alice_binds_channels(world: &mut World) -> u16 {
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, "9.9.9.9:1"), 0);
    world.bind_channel(path(CLIENT), &mut alice, 0x4001, "9.9.9.9:2")
}

/// The shell counts, and refuses a second one of anything.
fn alice_permits_what_is_counted(world: &mut World, limit: Limit) -> u16 {
    Counted::with(limit, 1).share(world);
    alice_permits(world)
}

fn alice_binds_what_is_counted(world: &mut World, limit: Limit) -> u16 {
    Counted::with(limit, 1).share(world);
    alice_binds_channels(world)
}

/// Alice has a TCP allocation, and asks for as many connections as it takes.
fn alice_connects(world: &mut World) -> u16 {
    let (mut alice, _) = tcp_allocated(world);
    let peers = (1..9).map(|host| format!("198.51.100.{host}:7000"));
    peers.into_iter().find_map(|peer| connect(world, &mut alice, &peer)).expect("refused in the end")
}

fn alice_connects_what_is_counted(world: &mut World, limit: Limit) -> u16 {
    Counted::with(limit, 1).share(world);
    alice_connects(world)
}

fn with_tcp_relays(config: &mut Config) {
    config.relay_transports = tcp_config().relay_transports;
}

/// One row a limit: what is configured, what somebody does, and what he is answered.
type Row = (Limit, fn(&mut Config), fn(&mut World) -> u16, u16);

#[test]
fn s12_each_limit_is_reached_answered_and_counted_by_its_name() {
    let rows: [Row; 21] = [
        (Limit::Allocations, |config| config.limits.allocations = 1, bob_allocates, 508),
        (Limit::Allocations, |_| {}, |world| the_shell_refuses(world, BindError::OutOfCapacity), 508),
        (Limit::AllocationsPerUser, |_| {}, |world| the_shell_refuses(world, BindError::UserQuotaReached), 486),
        (Limit::AllocationsPerPrefix, |_| {}, |world| the_shell_refuses(world, BindError::PrefixQuotaReached), 486),
        (Limit::AllocationsPerRealm, |_| {}, |world| the_shell_refuses(world, BindError::RealmQuotaReached), 486),
        (
            Limit::RelayPorts,
            |config| config.ports = PortRange { first: 50_000, last: 50_000, quarantine_secs: 0 },
            bob_allocates,
            508,
        ),
        (Limit::PermissionsPerAllocation, |config| config.limits.permissions_per_allocation = 1, alice_permits, 508),
        (
            Limit::PermissionsPerUser,
            |_| {},
            |world| alice_permits_what_is_counted(world, Limit::PermissionsPerUser),
            508,
        ),
        (
            Limit::PermissionsPerPrefix,
            |_| {},
            |world| alice_permits_what_is_counted(world, Limit::PermissionsPerPrefix),
            508,
        ),
        (
            Limit::PermissionsPerRealm,
            |_| {},
            |world| alice_permits_what_is_counted(world, Limit::PermissionsPerRealm),
            508,
        ),
        (Limit::Permissions, |_| {}, |world| alice_permits_what_is_counted(world, Limit::Permissions), 508),
        (Limit::ChannelsPerRealm, |_| {}, |world| alice_binds_what_is_counted(world, Limit::ChannelsPerRealm), 508),
        (Limit::Channels, |_| {}, |world| alice_binds_what_is_counted(world, Limit::Channels), 508),
        (
            Limit::PeerConnectionsPerRealm,
            with_tcp_relays,
            |world| alice_connects_what_is_counted(world, Limit::PeerConnectionsPerRealm),
            508,
        ),
        (Limit::ChannelsPerUser, |_| {}, |world| alice_binds_what_is_counted(world, Limit::ChannelsPerUser), 508),
        (Limit::ChannelsPerPrefix, |_| {}, |world| alice_binds_what_is_counted(world, Limit::ChannelsPerPrefix), 508),
        (Limit::PeerConnectionsPerAllocation, with_tcp_relays, alice_connects, 508),
        (
            Limit::PeerConnectionsPerUser,
            with_tcp_relays,
            |world| alice_connects_what_is_counted(world, Limit::PeerConnectionsPerUser),
            508,
        ),
        (
            Limit::PeerConnectionsPerPrefix,
            with_tcp_relays,
            |world| alice_connects_what_is_counted(world, Limit::PeerConnectionsPerPrefix),
            508,
        ),
        (Limit::ChannelsPerAllocation, |config| config.limits.channels_per_allocation = 1, alice_binds_channels, 508),
        (
            Limit::PendingEffects,
            |_| {},
            |world| {
                let mut full = config();
                full.limits.effects = 0;
                world.allocated(path(CLIENT));
                world.server.configure(std::sync::Arc::new(full));
                let mut bob = world.client(path(OTHER), "bob", "hunter2");
                let request = bob.signed(Method::Allocate, vec![udp()]);
                world.exchange(path(OTHER), &request).error()
            },
            508,
        ),
    ];
    for (limit, change, act, code) in rows {
        let mut config = config();
        change(&mut config);
        let mut world = World::with(config);
        assert_eq!(act(&mut world), code, "{}", limit.label());
        for other in Limit::ALL {
            let counted = world.server.counters().limits[*other as usize];
            assert_eq!(counted, u64::from(*other == limit), "{} while {} was reached", other.label(), limit.label());
        }
    }
    let reached: Vec<Limit> = rows.iter().map(|row| row.0).collect();
    // That of look-ups is reached where those are: `look_ups.rs`.
    let mut here = Limit::ALL.iter().filter(|limit| **limit != Limit::LookUpsWaiting);
    assert!(here.all(|limit| reached.contains(limit)), "a limit has no row");
}
