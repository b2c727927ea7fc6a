//! How much data may pass: of one allocation, of one account, of the server; exact to 5 %, and each direction alone.

use std::sync::Arc;

use hairpin::turn::{
    Bandwidth, Config, Credentials, FiveTuple, Limits, Realm, RealmChoice, Reason, RelayId, StaticUser, Traffic,
};

use crate::client::{channel_data, data};
use crate::tcp::{connect, connected, connection_id, tcp_config, tcp_world};
use crate::world::{PEER, REALM, Seen, World, config, path, send_indication};

const CLIENTS: [&str; 3] = ["192.0.2.10:40000", "192.0.2.20:40000", "192.0.2.30:40000"];
/// Bytes a second.
const RATE: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

fn with(bandwidth: Bandwidth) -> World {
    let mut config = config();
    config.limits = Limits { bandwidth, ..config.limits };
    World::with(config)
}

/// Two of Alice and one of Bob, each with a permission and a channel.
fn clients(world: &mut World) -> [(FiveTuple, RelayId); 3] {
    let users = [("alice", "s3cret"), ("alice", "s3cret"), ("bob", "hunter2")];
    std::array::from_fn(|place| {
        let here = path(CLIENTS[place]);
        let mut client = world.client(here, users[place].0, users[place].1);
        let (relay, _) = world.allocate(here, &mut client, vec![]);
        assert_eq!(world.bind_channel(here, &mut client, 0x4000, PEER), 0);
        (here, relay)
    })
}

/// What passed of each client's data to its peer, in bytes, when all of them send 1000 bytes so many times a second.
fn flood(world: &mut World, clients: &[(FiveTuple, RelayId)], a_second: u64, secs: u64, why: Reason) -> Vec<u64> {
    let mut passed = vec![0; clients.len()];
    for step in 0..a_second * secs {
        world.clock.now.0 += SECOND / a_second;
        for (place, (here, _)) in clients.iter().enumerate() {
            let message = if step % 2 == 0 {
                channel_data(0x4000, &[7; 1000])
            } else {
                send_indication(PEER, vec![data(&[7; 1000])])
            };
            match world.send(*here, &message) {
                Some(Seen::AtPeer { .. }) => passed[place] += 1000,
                other => assert_eq!(other, Some(Seen::Dropped(why))),
            }
        }
    }
    passed
}

#[track_caller]
fn assert_exact(passed: u64, expected: u64) {
    assert!((expected * 95..=expected * 105).contains(&(passed * 100)), "{passed} bytes instead of {expected}");
}

#[test]
fn an_allocation_relays_its_rate_and_no_more() {
    for secs in [1, 2, 5] {
        let mut world = with(Bandwidth { per_allocation: RATE, ..Bandwidth::default() });
        let clients = clients(&mut world);
        assert!(clients.iter().all(|(_, relay)| world.server.is_metered(*relay)));
        for passed in flood(&mut world, &clients, 3000, secs, Reason::BandwidthPerAllocation) {
            assert_exact(passed, RATE * secs);
        }
        let dropped = world.server.counters().drops[Reason::BandwidthPerAllocation as usize];
        assert_exact(dropped * 1000, 3 * 2 * RATE * secs);
        assert_exact(Traffic::total(&world.server.counters().traffic).bytes_to_peer, 3 * RATE * secs);
    }
}

#[test]
fn an_account_shares_its_rate_and_others_have_theirs() {
    let mut world = with(Bandwidth { per_account: RATE, ..Bandwidth::default() });
    let clients = clients(&mut world);
    let passed = flood(&mut world, &clients, 3000, 2, Reason::BandwidthPerUser);
    assert_exact(passed[0] + passed[1], 2 * RATE);
    assert_exact(passed[2], 2 * RATE);
    // With one of the two gone the other has all of it.
    world.server.shut_down(world.clock);
    world.server.check_invariants();
}

#[test]
fn the_server_shares_its_rate_among_all() {
    let mut world = with(Bandwidth { total: RATE, ..Bandwidth::default() });
    let clients = clients(&mut world);
    let passed = flood(&mut world, &clients, 3000, 2, Reason::BandwidthTotal);
    assert_exact(passed.iter().sum(), 2 * RATE);
}

/// Alice is of the shop and has two allocations, Bob is of the server.
fn of_a_realm(server: Bandwidth, shop: Bandwidth) -> Config {
    let mut config = config();
    config.limits.bandwidth = server;
    let alice = config.credentials.users.get("alice").expect("Alice").clone();
    let users = [("alice".to_owned(), alice)].into();
    let mut realm = Realm::new("shop", RealmChoice::Credentials, Credentials { users, ..Credentials::default() });
    realm.bandwidth = shop;
    config.realms = vec![realm];
    config.credentials.users = [("bob".to_owned(), StaticUser::from_password("bob", REALM, "hunter2"))].into();
    config
}

#[test]
fn a_realm_shares_its_rate_and_others_have_theirs() {
    let mut world = World::with(of_a_realm(Bandwidth::default(), Bandwidth { total: RATE, ..Bandwidth::default() }));
    let clients = clients(&mut world);
    assert!(world.server.is_metered(clients[0].1) && !world.server.is_metered(clients[2].1));
    let passed = flood(&mut world, &clients, 3000, 2, Reason::BandwidthPerRealm);
    assert_exact(passed[0] + passed[1], 2 * RATE);
    assert_eq!(passed[2], 6 * RATE, "nobody counts what is not of the realm");
    // The total of the server holds beside it, whichever is smaller.
    let total = |total| Bandwidth { total, ..Bandwidth::default() };
    for (server, shop, why) in [(RATE, 3 * RATE, Reason::BandwidthTotal), (3 * RATE, RATE, Reason::BandwidthPerRealm)] {
        let mut world = World::with(of_a_realm(total(server), total(shop)));
        let clients = self::clients(&mut world);
        let passed = flood(&mut world, &clients[..2], 3000, 2, why);
        assert_exact(passed.iter().sum(), 2 * RATE);
        world.server.check_invariants();
    }
}

#[test]
fn a_realm_has_rates_of_its_own_for_users_and_allocations() {
    let server = Bandwidth { per_account: RATE, ..Bandwidth::default() };
    let mut world = World::with(of_a_realm(server, Bandwidth { per_account: 2 * RATE, ..Bandwidth::default() }));
    let clients = clients(&mut world);
    let passed = flood(&mut world, &clients, 3000, 2, Reason::BandwidthPerUser);
    assert_exact(passed[0] + passed[1], 4 * RATE);
    assert_exact(passed[2], 2 * RATE);
    let of_each = Bandwidth { per_allocation: RATE, ..Bandwidth::default() };
    let mut world = World::with(of_a_realm(Bandwidth::default(), of_each));
    let clients = self::clients(&mut world);
    let passed = flood(&mut world, &clients, 3000, 2, Reason::BandwidthPerAllocation);
    passed[..2].iter().for_each(|passed| assert_exact(*passed, 2 * RATE));
    assert_eq!(passed[2], 6 * RATE);
    // A reload that takes them away.
    world.server.configure(Arc::new(of_a_realm(Bandwidth::default(), Bandwidth::default())));
    world.server.check_invariants();
    assert!(!world.server.is_metered(clients[0].1));
}

/// A packet that one of the rates refuses costs the others nothing.
#[test]
fn the_smallest_rate_counts() {
    let bandwidth = Bandwidth { per_allocation: RATE, per_account: 10 * RATE, total: 10 * RATE };
    let mut world = with(bandwidth);
    let clients = clients(&mut world);
    let passed = flood(&mut world, &clients, 3000, 1, Reason::BandwidthPerAllocation);
    passed.into_iter().for_each(|passed| assert_exact(passed, RATE));
}

#[test]
fn whoever_stays_below_loses_nothing() {
    let mut world = with(Bandwidth { per_allocation: RATE, per_account: 2 * RATE, total: 3 * RATE });
    let clients = clients(&mut world);
    let passed = flood(&mut world, &clients, 950, 3, Reason::BandwidthTotal);
    assert_eq!(passed, [950 * 3 * 1000; 3]);
}

#[test]
fn each_direction_has_the_whole_rate() {
    let mut world = with(Bandwidth { per_allocation: RATE, per_account: RATE, total: RATE });
    let (here, relay) = clients(&mut world)[0];
    let mut passed = [0_u64; 2];
    for _ in 0..4000 {
        world.clock.now.0 += SECOND / 2000;
        let sent = world.send(here, &channel_data(0x4000, &[7; 1000])).unwrap();
        let answered = world.peer_sends(relay, PEER, &[7; 1000]);
        passed[0] += 1000 * u64::from(sent.relayed());
        passed[1] += 1000 * u64::from(answered.relayed());
    }
    passed.into_iter().for_each(|passed| assert_exact(passed, 2 * RATE));
}

#[test]
fn a_reload_switches_it_on_and_off_and_off_costs_no_meter() {
    let mut world = World::new();
    let clients = clients(&mut world);
    assert!(!world.server.is_metered(clients[0].1));
    let free = flood(&mut world, &clients[..1], 3000, 1, Reason::BandwidthTotal);
    assert_eq!(free, [3_000_000]);
    let mut stricter = config();
    stricter.limits.bandwidth.per_account = RATE;
    world.server.configure(Arc::new(stricter));
    world.server.check_invariants();
    assert!(world.server.is_metered(clients[0].1));
    let passed = flood(&mut world, &clients, 3000, 2, Reason::BandwidthPerUser);
    assert_exact(passed[0] + passed[1], 2 * RATE);
    world.server.configure(Arc::new(config()));
    assert!(!world.server.is_metered(clients[0].1));
    assert_eq!(flood(&mut world, &clients[..1], 3000, 1, Reason::BandwidthTotal), [3_000_000]);
    world.server.check_invariants();
}

/// Bytes of a TCP connection have passed when the machine hears of them: it says how long to leave the next unread.
#[test]
fn a_tcp_relay_is_slowed_down_to_its_rate() {
    let mut config = tcp_config();
    config.limits.bandwidth.per_allocation = RATE;
    config.limits.bandwidth.total = 2 * RATE;
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    let id = connection_id(&connected(&mut world, Ok(())));
    assert_eq!(world.server.peer_relayed(world.clock, id, 1 << 20, 0), None, "off");
    world.server.configure(Arc::new(config));
    let start = world.clock.now.0;
    let mut passed = 0;
    while world.clock.now.0 < start + 3 * SECOND {
        passed += 65_536;
        match world.server.peer_relayed(world.clock, id, 65_536, 0) {
            Some(until) => world.clock.now = world.clock.now.max(until),
            None => world.clock.now.0 += 1000,
        }
    }
    assert_exact(passed, 3 * RATE);
}
