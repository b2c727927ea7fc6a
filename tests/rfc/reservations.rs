//! RFC 8656 §7.2, steps 5 and 8: EVEN-PORT and RESERVATION-TOKEN.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{BindError, Config, FiveTuple, PortRange, Server, ShardIndex, Transport};

use crate::client::{Attributes, Client, Response, channel_data, lifetime, udp};
use crate::world::{Seen, World, config, path, path_over};

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.20:40000";

fn even(flags: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::EVEN_PORT, vec![flags])
}

fn token(value: &[u8]) -> (AttributeType, Vec<u8>) {
    (AttributeType::RESERVATION_TOKEN, value.to_vec())
}

fn relayed(response: &Response) -> SocketAddr {
    response.address(AttributeType::XOR_RELAYED_ADDRESS).expect("a relayed address")
}

fn token_of(response: &Response) -> Vec<u8> {
    let token = response.first(AttributeType::RESERVATION_TOKEN).expect("a token");
    assert_eq!(token.len(), 8);
    token
}

/// Alice's Allocate on this path, whatever becomes of it.
#[track_caller]
fn ask(world: &mut World, here: FiveTuple, extra: Attributes) -> Response {
    let mut alice = world.alice(here);
    let request = alice.signed(Method::Allocate, [vec![udp()], extra].concat());
    world.exchange(here, &request)
}

/// A pair reserved by Alice: the allocation's address and the token.
#[track_caller]
fn reserve(world: &mut World, here: FiveTuple) -> (SocketAddr, Vec<u8>) {
    let response = ask(world, here, vec![even(0x80)]);
    assert_eq!(response.error(), 0);
    (relayed(&response), token_of(&response))
}

fn small(count: u16) -> Config {
    Config { ports: PortRange { first: 50_000, last: 50_000 + count - 1, quarantine_secs: 0 }, ..config() }
}

#[test]
fn turn_8656_7_2_24_even_port_is_even_and_reserves_nothing() {
    let mut world = World::new();
    for port in 1..=50 {
        // Reserved bits are ignored (TURN-8656-18-01).
        let response = ask(&mut world, path(&format!("192.0.2.10:{port}")), vec![even(0x7F)]);
        assert_eq!(relayed(&response).port() % 2, 0);
        assert_eq!(response.first(AttributeType::RESERVATION_TOKEN), None);
    }
    assert_eq!(world.binds.len(), 50);
    for value in [vec![], vec![0, 0]] {
        assert_eq!(ask(&mut world, path(CLIENT), vec![(AttributeType::EVEN_PORT, value)]).error(), 400);
    }
}

/// Abuse S12: whoever keeps asking for even ports does not use up the odd ones.
#[test]
fn s12_even_port_without_reservation_leaves_the_pool_intact() {
    let mut world = World::with(small(20));
    let here = path_over(Transport::Tcp, CLIENT);
    let mut alice = world.alice(here);
    let request = alice.signed(Method::Allocate, vec![udp(), even(0)]);
    for _ in 0..100_000 {
        assert_eq!(world.exchange(here, &request).error(), 0);
        world.server.path_closed(world.clock, here);
    }
    world.drain_effects();
    for port in 1..=20 {
        assert_eq!(ask(&mut world, path(&format!("192.0.2.10:{port}")), vec![]).error(), 0);
    }
}

/// TURN-8656-7.2-22, -25, -03: from any 5-tuple and transport; the retransmission has the token as well.
#[test]
fn turn_8656_7_2_25_the_token_gets_the_port_above() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp(), even(0xFF)]);
    let first = world.exchange(path(CLIENT), &request);
    let address = relayed(&first);
    assert_eq!(address.port() % 2, 0);
    let above = SocketAddr::new(address.ip(), address.port() + 1);
    assert_eq!(world.binds, [address, above], "really held");
    assert_eq!(token_of(&world.exchange(path(CLIENT), &request)), token_of(&first));

    let here = path_over(Transport::Tcp, OTHER);
    let response = ask(&mut world, here, vec![token(&token_of(&first))]);
    assert_eq!(relayed(&response), above);
    assert_eq!((world.server.allocations(), world.closed.len()), (2, 1), "the holder's socket made room");
    assert_eq!(ask(&mut world, path(OTHER), vec![token(&token_of(&first))]).error(), 508, "once");
}

/// TURN-8656-7.2-26, -09: held for thirty seconds and more against everybody, then given back.
#[test]
fn turn_8656_7_2_26_the_port_is_held() {
    let mut world = World::with(small(4));
    let (address, kept) = reserve(&mut world, path(CLIENT));
    for port in 1..=2 {
        let other = relayed(&ask(&mut world, path(&format!("192.0.2.10:{port}")), vec![]));
        assert_ne!(other.port(), address.port() + 1);
    }
    assert_eq!(ask(&mut world, path(OTHER), vec![]).error(), 508);
    world.pass(30);
    assert_eq!(ask(&mut world, path(OTHER), vec![]).error(), 508);
    assert_eq!(relayed(&ask(&mut world, path(OTHER), vec![token(&kept)])).port(), address.port() + 1);

    for timers in [true, false] {
        let mut world = World::with(small(2));
        let (_, late) = reserve(&mut world, path(CLIENT));
        if timers {
            world.pass(42)
        } else {
            world.pass_without_timers(42)
        }
        assert_eq!(ask(&mut world, path(OTHER), vec![token(&late)]).error(), 508);
        world.pass(2);
        assert_eq!(ask(&mut world, path(OTHER), vec![]).error(), 0, "somebody else has it now");
    }
}

/// TURN-8656-7.2-08, -09, -13, 18-02.
#[test]
fn turn_8656_7_2_08_what_does_not_go_with_a_token() {
    let mut world = World::new();
    let (_, good) = reserve(&mut world, path(CLIENT));
    let family = |kind| (kind, vec![1, 0, 0, 0]);
    for other in [
        even(0),
        even(0x80),
        family(AttributeType::REQUESTED_ADDRESS_FAMILY),
        family(AttributeType::ADDITIONAL_ADDRESS_FAMILY),
    ] {
        assert_eq!(ask(&mut world, path(OTHER), vec![token(&good), other]).error(), 400);
    }
    let additional = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    assert_eq!(ask(&mut world, path(OTHER), vec![even(0x80), additional]).error(), 400);
    for length in [0, 7, 9] {
        assert_eq!(ask(&mut world, path(OTHER), vec![token(&vec![1; length])]).error(), 400);
    }
    assert_eq!(ask(&mut world, path(OTHER), vec![token(&[1; 8])]).error(), 508, "nobody's");
    assert_eq!(ask(&mut world, path(OTHER), vec![token(&good)]).error(), 0, "none of that has used it up");
}

/// TURN-8656-7.2-23: another user's token is no better than a made-up one, and keeps its worth.
#[test]
fn turn_8656_7_2_23_a_token_is_its_users() {
    let mut world = World::new();
    let (address, kept) = reserve(&mut world, path(CLIENT));
    let mut bob = world.client(path(OTHER), "bob", "hunter2");
    let request = bob.signed(Method::Allocate, vec![udp(), token(&kept)]);
    assert_eq!(world.exchange(path(OTHER), &request).error(), 508);
    assert_eq!(relayed(&ask(&mut world, path(OTHER), vec![token(&kept)])).port(), address.port() + 1);

    let tokens: HashSet<Vec<u8>> =
        (1..40).map(|port| reserve(&mut world, path(&format!("192.0.2.30:{port}"))).1).collect();
    assert_eq!(tokens.len(), 39);
    let ones: u32 = tokens.iter().flatten().map(|byte| byte.count_ones()).sum();
    assert!(ones.abs_diff(39 * 32) < 150, "64 random bits each, six standard deviations: {ones}");
}

/// TURN-8656-7.2-14: no pair, no reservation; no even port, no allocation.
#[test]
fn turn_8656_7_2_14_what_cannot_be_had_is_insufficient_capacity() {
    let ports = PortRange { first: 50_001, last: 50_002, quarantine_secs: 0 };
    let mut world = World::with(Config { ports, ..config() });
    assert_eq!(ask(&mut world, path(CLIENT), vec![even(0x80)]).error(), 508);
    assert_eq!(relayed(&ask(&mut world, path(CLIENT), vec![even(0)])).port(), 50_002);
    assert_eq!(ask(&mut world, path(OTHER), vec![even(0)]).error(), 508);
    let mut config = config();
    config.limits.allocations = 1;
    assert_eq!(ask(&mut World::with(config), path(CLIENT), vec![even(0x80)]).error(), 508);
}

/// TURN-8656-7.2-36: whichever of the two binds fails, both ports are there again; a port in use means another pair.
#[test]
fn turn_8656_7_2_36_a_failed_pair_leaves_nothing_behind() {
    for failing in [0, 1] {
        for (error, code) in
            [(BindError::UserQuotaReached, 486), (BindError::OutOfCapacity, 508), (BindError::PortInUse, 508)]
        {
            let mut world = World::with(small(2));
            world.bind_answer =
                Some(Box::new(move |local| if local.port() % 2 == failing { Err(error) } else { Ok(()) }));
            for _ in 0..100 {
                assert_eq!(ask(&mut world, path(CLIENT), vec![even(0x80)]).error(), code);
            }
            assert_eq!(world.closed.len(), if failing == 1 { 100 } else { 0 });
            world.bind_answer = Some(Box::new(|_| Ok(())));
            reserve(&mut world, path(CLIENT));
        }
        let mut world = World::new();
        let mut failures = 3;
        world.bind_answer = Some(Box::new(move |local| {
            let fails = local.port() % 2 == failing && failures > 0;
            failures -= u16::from(fails);
            if fails { Err(BindError::PortInUse) } else { Ok(()) }
        }));
        let (address, _) = reserve(&mut world, path(CLIENT));
        assert_eq!(world.binds[world.binds.len() - 2..], [address, SocketAddr::new(address.ip(), address.port() + 1)]);
    }
}

/// The client goes away while one of the two sockets is being bound; and a server that ends lets go of all ports.
#[test]
fn a_reservation_ends_with_who_asked_for_it_or_with_the_server() {
    for answered in [0, 1] {
        let mut world = World::with(small(2));
        let here = path_over(Transport::Tcp, CLIENT);
        let mut alice = world.alice(here);
        world.bind_answer = None;
        let request = alice.signed(Method::Allocate, vec![udp(), even(0x80)]);
        assert_eq!(world.send(here, &request), None);
        for place in 0..answered {
            world.server.relay_bound(world.clock, world.unanswered[place], Ok(()));
            world.drain_effects();
        }
        world.server.path_closed(world.clock, here);
        let last = world.unanswered[answered];
        world.server.relay_bound(world.clock, last, Ok(()));
        assert_eq!(world.drain_effects(), None);
        world.server.check_invariants();
        assert_eq!(world.closed.len(), answered + 1);
        world.bind_answer = Some(Box::new(|_| Ok(())));
        reserve(&mut world, path(CLIENT));
        world.server.shut_down(world.clock);
        world.drain_effects();
        assert_eq!(world.closed.len(), answered + 3);
        world.server.check_invariants();
    }
}

/// Two shards of one server.
fn shards() -> [World; 2] {
    [0, 1].map(|index| {
        let mut world = World::new();
        world.server = Server::new(Arc::new(config()), ShardIndex { index, count: 2 }, [index as u8; 32]);
        world
    })
}

/// Carries letters until there are none; the message that was sent, if one was.
fn deliver(worlds: &mut [World; 2]) -> Option<Response> {
    let mut sent = None;
    while let Some(from) = worlds.iter().position(|world| !world.letters.is_empty()) {
        let (to, letter) = worlds[from].letters.remove(0);
        let world = &mut worlds[usize::from(to)];
        world.server.told(world.clock, from as u16, letter);
        let seen = world.drain_effects().map(Seen::response);
        assert!(sent.is_none() || seen.is_none());
        sent = sent.or(seen);
        worlds.iter_mut().for_each(|world| world.server.check_invariants());
    }
    sent
}

/// Alice shows a token at the second shard; nothing is delivered yet.
fn show(worlds: &mut [World; 2], name: &str, password: &str, value: &[u8]) -> Client {
    let mut client = worlds[1].client(path(OTHER), name, password);
    let request = client.signed(Method::Allocate, vec![udp(), token(value)]);
    assert_eq!(worlds[1].send(path(OTHER), &request), None, "the owner is asked");
    client
}

/// TURN-8656-7.2-22: the kernel decides which shard a client meets, so a token is good at any of them.
#[test]
fn turn_8656_7_2_22_a_token_is_redeemed_at_another_shard() {
    let mut worlds = shards();
    let (address, kept) = reserve(&mut worlds[0], path(CLIENT));
    let above = SocketAddr::new(address.ip(), address.port() + 1);
    for (name, password, expected) in [("bob", "hunter2", 508), ("alice", "s3cret", 0)] {
        show(&mut worlds, name, password, &kept);
        assert_eq!(deliver(&mut worlds).expect("an answer").error(), expected, "{name}");
    }
    assert_eq!(ask(&mut worlds[0], path(OTHER), vec![token(&kept)]).error(), 508, "once, and at its owner too");
    assert_eq!(worlds[1].binds, [above]);

    // Other relays of either shard reach it, and it reaches them.
    let mut alice = worlds[0].alice(path("192.0.2.10:7"));
    let (_, third) = worlds[0].allocate(path("192.0.2.10:7"), &mut alice, vec![]);
    let third = relayed(&third);
    assert_eq!(worlds[0].bind_channel(path("192.0.2.10:7"), &mut alice, 0x4000, &above.to_string()), 0);
    let seen = worlds[0].send(path("192.0.2.10:7"), &channel_data(0x4000, b"abc"));
    assert_eq!(seen, Some(Seen::AtOtherShard { shard: 1, relayed: above, from: third, data: b"abc".to_vec() }));
    let mut alice = worlds[1].alice(path(OTHER));
    alice.transaction_id();
    assert_eq!(worlds[1].bind_channel(path(OTHER), &mut alice, 0x4001, &third.to_string()), 0);
    let seen = worlds[1].relay_sends(above, third, b"abc");
    assert_eq!(seen, Seen::AtClient { to: path(OTHER), message: channel_data(0x4001, b"abc") });

    // The end gives the port back to its owner, once.
    assert_eq!(worlds[1].refresh(path(OTHER), &mut alice, vec![lifetime(0)]).error(), 0);
    assert_eq!(worlds[1].letters.len(), 1);
    let again = worlds[1].letters[0].clone();
    worlds[1].letters.push(again);
    assert_eq!(deliver(&mut worlds), None);
    assert_eq!(worlds[1].relay_sends(above, third, b"abc"), Seen::Dropped(hairpin::turn::Reason::NoSuchRelay));
}

/// The client is gone, or the port cannot be bound, when the port has been lent: it goes back.
#[test]
fn a_lent_port_that_is_not_used_goes_back() {
    for gone in [true, false] {
        let mut worlds = shards();
        let (_, kept) = reserve(&mut worlds[0], path(CLIENT));
        show(&mut worlds, "alice", "s3cret", &kept);
        if gone {
            worlds[1].server.path_closed(worlds[1].clock, path(OTHER));
        } else {
            worlds[1].bind_answer = Some(Box::new(|_| Err(BindError::PortInUse)));
        }
        let answer = deliver(&mut worlds);
        assert_eq!(answer.map(|response| response.error()), if gone { None } else { Some(508) });
        assert_eq!(worlds[1].server.allocations(), 0);
        let world = &mut worlds[0];
        world.server.configure(Arc::new(small(2)));
        world.server.check_invariants();
    }
}

/// A shard that starts again owes nothing and is owed nothing.
#[test]
fn a_shard_that_restarts_leaves_nobody_waiting_and_no_port_lost() {
    // The owner dies with the question in its hands.
    let mut worlds = shards();
    let (_, kept) = reserve(&mut worlds[0], path(CLIENT));
    show(&mut worlds, "alice", "s3cret", &kept);
    worlds[1].letters.clear();
    let world = &mut worlds[1];
    world.server.shard_restarted(world.clock, 0);
    assert_eq!(world.drain_effects().expect("an answer").response().error(), 508);
    world.server.check_invariants();

    // The borrower dies with the port; what it may still say afterwards changes nothing.
    let mut worlds = shards();
    let (_, kept) = reserve(&mut worlds[0], path(CLIENT));
    let mut alice = show(&mut worlds, "alice", "s3cret", &kept);
    assert_eq!(deliver(&mut worlds).expect("an answer").error(), 0);
    let world = &mut worlds[0];
    world.server.shard_restarted(world.clock, 1);
    world.server.check_invariants();
    assert_eq!(worlds[1].refresh(path(OTHER), &mut alice, vec![lifetime(0)]).error(), 0);
    assert_eq!(deliver(&mut worlds), None);
}
