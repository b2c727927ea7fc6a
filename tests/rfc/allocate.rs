//! RFC 8656 §5–§7: Allocate.

use std::collections::HashSet;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{BindError, Config, EndReason, Event, PortRange, Reason, RelayAddress, Transport};

use crate::client::{Attributes, lifetime, udp};
use crate::world::{RELAY_V4, RELAY_V6, Seen, World, config, path, path_over};

const CLIENT: &str = "192.0.2.10:40000";

fn family(value: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![value, 0, 0, 0])
}

/// The error of a signed Allocate with exactly these attributes, with the server unchanged by a refusal.
#[track_caller]
fn error_of(world: &mut World, attributes: Attributes) -> u16 {
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, attributes);
    let response = world.exchange(path(CLIENT), &request);
    assert!(response.message().integrity_holds(&alice.key()), "STUN-8489-6.3.1.1-03");
    response.error()
}

/// TURN-8656-7.2-31 (L06), 6-04, STUN-8489-9.2.4-20.
#[test]
fn turn_8656_7_2_31_success_has_relayed_mapped_and_lifetime() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![]);
    let relayed = response.address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
    assert_eq!(relayed.ip().to_string(), RELAY_V4);
    assert!((50_000..=50_999).contains(&relayed.port()));
    assert_eq!(world.binds, [relayed]);
    assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(CLIENT.parse().unwrap()));
    assert_eq!(response.lifetime(), Some(600));
    assert!(response.first(AttributeType::NONCE).is_none());
}

/// TURN-8656-7.2-02: another Allocate on the 5-tuple is a mismatch and leaves the first alone.
#[test]
fn turn_8656_7_2_02_a_second_allocate_is_a_mismatch() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 437);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).error(), 0);
}

/// TURN-8656-7.2-03, 5-11: the same bytes get the same relay.
#[test]
fn turn_8656_7_2_03_a_retransmission_gets_the_same_relay() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp()]);
    let first = world.exchange(path(CLIENT), &request);
    world.pass(5);
    let again = world.exchange(path(CLIENT), &request);
    let relayed = AttributeType::XOR_RELAYED_ADDRESS;
    assert_eq!(again.address(relayed), first.address(relayed));
    assert_eq!(again.lifetime(), Some(595));
    assert_eq!((world.server.allocations(), world.binds.len()), (1, 1));
}

/// While the socket is being bound a retransmission waits for the one answer; another request is a mismatch.
#[test]
fn turn_8656_5_11_a_retransmission_during_the_bind_is_answered_once() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    world.bind_answer = None;
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.send(path(CLIENT), &request), None);
    let pending = Seen::Dropped(Reason::RetransmissionPending);
    assert_eq!(world.send(path(CLIENT), &request), Some(pending));
    let other = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path(CLIENT), &other).error(), 437);
    world.server.relay_bound(world.clock, world.unanswered[0], Ok(()));
    assert!(world.drain_effects().unwrap().response().is_success());
}

/// TURN-8656-7.2-05, 18-02.
#[test]
fn turn_8656_7_2_05_requested_transport_must_be_there_and_well_formed() {
    let transport = AttributeType::REQUESTED_TRANSPORT;
    for attributes in [vec![], vec![(transport, vec![17])], vec![(transport, vec![17, 0, 0, 0, 0])]] {
        assert_eq!(error_of(&mut World::new(), attributes), 400);
    }
}

/// TURN-8656-7.2-06, TCP-6062-5.1-01 (TCP relays are off).
#[test]
fn turn_8656_7_2_06_other_protocols_are_unsupported() {
    for protocol in [0, 6, 132] {
        let attributes = vec![(AttributeType::REQUESTED_TRANSPORT, vec![protocol, 0, 0, 0])];
        assert_eq!(error_of(&mut World::new(), attributes), 442);
    }
}

/// TURN-8656-18-01: reserved bytes are ignored.
#[test]
fn turn_8656_18_01_reserved_bytes_are_ignored() {
    let attributes = vec![
        (AttributeType::REQUESTED_TRANSPORT, vec![17, 0xFF, 0xFF, 0xFF]),
        (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1, 0xFF, 0xFF, 0xFF]),
    ];
    assert_eq!(error_of(&mut World::new(), attributes), 0);
}

/// TURN-8656-7.2-07, 18-02: DONT-FRAGMENT is supported, for both families, and has no value.
#[test]
fn turn_8656_7_2_07_dont_fragment_is_supported() {
    let df = AttributeType::DONT_FRAGMENT;
    for attributes in [vec![udp(), (df, vec![])], vec![udp(), family(2), (df, vec![])]] {
        assert_eq!(error_of(&mut World::new(), attributes), 0);
    }
    assert_eq!(error_of(&mut World::new(), vec![udp(), (df, vec![0])]), 400);
}

/// IANA-01: what is not implemented is an unknown attribute, not a silent success (ACCESS-TOKEN, CONNECTION-ID).
#[test]
fn iana_01_unimplemented_attributes_are_refused_by_name() {
    for kind in [AttributeType(0x001B), AttributeType(0x0030)] {
        let mut world = World::new();
        let mut alice = world.alice(path(CLIENT));
        let request = alice.signed(Method::Allocate, vec![udp(), (kind, vec![])]);
        let response = world.exchange(path(CLIENT), &request);
        assert_eq!((response.error(), response.unknown()), (420, vec![kind.0]));
        assert!(response.message().integrity_holds(&alice.key()));
    }
}

/// TURN-8656-7.2-11, -12; IPV6-6156-01.
#[test]
fn turn_8656_7_2_11_families() {
    for (client, attributes, expected) in [
        (CLIENT, vec![udp()], RELAY_V4),
        (CLIENT, vec![udp(), family(1)], RELAY_V4),
        (CLIENT, vec![udp(), family(2)], RELAY_V6),
        ("[2001:db8::9]:1", vec![udp()], RELAY_V4),
        ("[2001:db8::9]:1", vec![udp(), family(2)], RELAY_V6),
    ] {
        let mut world = World::new();
        let mut alice = world.alice(path(client));
        let request = alice.signed(Method::Allocate, attributes);
        let response = world.exchange(path(client), &request);
        assert_eq!(response.address(AttributeType::XOR_RELAYED_ADDRESS).unwrap().ip().to_string(), expected);
    }
    assert_eq!(error_of(&mut World::new(), vec![udp(), family(9)]), 440);
    assert_eq!(error_of(&mut World::new(), vec![udp(), (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1])]), 400);
    for (kept, asked) in [(RELAY_V4, family(2)), (RELAY_V6, family(1))] {
        let mut config = config();
        config.relays.retain(|relay| relay.bind.to_string() == kept);
        assert_eq!(error_of(&mut World::with(config), vec![udp(), asked]), 440);
    }
}

/// TURN-8656-7.2-29, -30, A15.
#[test]
fn turn_8656_7_2_29_lifetime_is_bounded_below_and_above() {
    for (asked, granted) in
        [(0, 600), (60, 600), (600, 600), (1200, 1200), (3600, 3600), (7200, 3600), (u32::MAX, 3600)]
    {
        let mut world = World::new();
        let mut alice = world.alice(path(CLIENT));
        let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![lifetime(asked)]);
        assert_eq!(response.lifetime(), Some(granted), "asked for {asked}");
    }
    assert_eq!(error_of(&mut World::new(), vec![udp(), (AttributeType::LIFETIME, vec![0, 0, 1])]), 400);
}

/// TURN-8656-7.2-35: behind 1:1 NAT the public address is told and the private one bound.
#[test]
fn turn_8656_7_2_35_the_advertised_address_is_told() {
    let relay = RelayAddress { bind: "10.0.0.5".parse().unwrap(), advertise: RELAY_V4.parse().unwrap() };
    let mut world = World::with(Config { relays: vec![relay], ..config() });
    let mut alice = world.alice(path(CLIENT));
    let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![]);
    let relayed = response.address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
    assert_eq!(relayed.ip().to_string(), RELAY_V4);
    assert_eq!(world.binds, [format!("10.0.0.5:{}", relayed.port()).parse().unwrap()]);
}

/// TURN-8656-6-01, 7.2-33: addresses are unique, and when the ports are used up the answer is 508.
#[test]
fn turn_8656_7_2_33_no_ports_left_is_insufficient_capacity() {
    let ports = PortRange { first: 50_000, last: 50_019, quarantine_secs: 0 };
    let mut world = World::with(Config { ports, ..config() });
    let mut seen = HashSet::new();
    for port in 1..=20 {
        let here = path(&format!("192.0.2.10:{port}"));
        let mut alice = world.alice(here);
        let (_, response) = world.allocate(here, &mut alice, vec![]);
        assert!(seen.insert(response.address(AttributeType::XOR_RELAYED_ADDRESS)));
    }
    assert_eq!(error_of(&mut world, vec![udp()]), 508);
    world.pass(602);
    assert_eq!(error_of(&mut world, vec![udp()]), 0);
}

/// The table of allocations has its own bound.
#[test]
fn the_limit_on_allocations_is_insufficient_capacity() {
    let mut config = config();
    config.limits.allocations = 2;
    let mut world = World::with(config);
    for port in 1..=2 {
        let here = path(&format!("192.0.2.10:{port}"));
        world.allocated(here);
    }
    assert_eq!(error_of(&mut world, vec![udp()]), 508);
}

/// The queue towards the shell has its own bound; the answer is the same.
#[test]
fn the_limit_on_effects_is_insufficient_capacity() {
    let mut config = config();
    config.limits.effects = 0;
    assert_eq!(error_of(&mut World::with(config), vec![udp()]), 508);
}

/// TURN-8656-7.2-19, -36: the shell's refusals become 486 and 508, and leave nothing behind.
#[test]
fn turn_8656_7_2_36_a_failed_allocate_leaves_nothing_behind() {
    let mut world = World::new();
    for (refusal, code) in
        [(BindError::UserQuotaReached, 486), (BindError::OutOfCapacity, 508), (BindError::PortInUse, 508)]
    {
        world.bind_answer = Some(Box::new(move |_| Err(refusal)));
        for _ in 0..2000 {
            assert_eq!(error_of(&mut world, vec![udp()]), code);
        }
    }
    for attributes in [vec![], vec![udp(), family(9)], vec![(AttributeType::REQUESTED_TRANSPORT, vec![6, 0, 0, 0])]] {
        assert_ne!(error_of(&mut world, attributes), 0);
    }
    world.server.check_invariants();
    assert_eq!((world.server.allocations(), world.closed.len()), (0, 0));
    world.bind_answer = Some(Box::new(|_| Ok(())));
    assert_eq!(error_of(&mut world, vec![udp()]), 0);
}

/// A port that another program sits on is passed over; each try is another port.
#[test]
fn a_port_in_use_is_passed_over() {
    let mut world = World::new();
    let mut refusals = 3;
    world.bind_answer = Some(Box::new(move |_| {
        refusals -= 1;
        if refusals < 0 { Ok(()) } else { Err(BindError::PortInUse) }
    }));
    assert_eq!(error_of(&mut world, vec![udp()]), 0);
    assert_eq!(world.binds.iter().collect::<HashSet<_>>().len(), 4);
}

/// TURN-8656-5-04: the transport is part of the 5-tuple.
#[test]
fn turn_8656_5_04_each_transport_has_an_allocation_of_its_own() {
    let mut world = World::new();
    for transport in Transport::ALL {
        world.allocated(path_over(transport, CLIENT));
    }
    assert_eq!(world.server.allocations(), Transport::ALL.len());
}

/// TURN-8656-6-05, 6-03: traffic does not keep it alive, and expiry frees everything.
#[test]
fn turn_8656_6_05_expiry_frees_everything() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    world.pass(301);
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.7:0"]), 0);
    world.pass(298);
    assert!(world.peer_sends(relay, "198.51.100.7:7000", b"x").relayed(), "at 599 s");
    // Not even a timer that comes late lets a packet through.
    world.pass_without_timers(1);
    assert_eq!(world.peer_sends(relay, "198.51.100.7:7000", b"x"), Seen::Dropped(Reason::NoAllocation));
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).error(), 437);
    world.pass(2);
    assert_eq!((world.server.allocations(), &world.closed[..]), (0, &[relay][..]));
    assert!(matches!(world.events.last(), Some(Event::Ended { why: EndReason::Expired, .. })));
    assert_eq!(world.server.next_timeout(), None);
}

/// An Allocate that arrives after the expiry but before the timer finds a free 5-tuple.
#[test]
fn allocate_right_after_expiry_succeeds() {
    let mut world = World::new();
    let (mut alice, first) = world.allocated(path(CLIENT));
    world.pass_without_timers(600);
    let (second, _) = world.allocate(path(CLIENT), &mut alice, vec![]);
    assert_ne!(first, second);
    assert_eq!(world.closed, [first]);
}

/// TURN-8656-LIFE-01, 8.2-08: the connection closes, the allocation ends; also while its socket is being bound.
#[test]
fn turn_8656_life_01_a_closed_connection_ends_its_allocation() {
    let here = path_over(Transport::Tcp, CLIENT);
    let mut world = World::new();
    let (_, relay) = world.allocated(here);
    world.server.path_closed(world.clock, here);
    world.drain_effects();
    assert_eq!((world.server.allocations(), &world.closed[..]), (0, &[relay][..]));

    let mut alice = world.alice(here);
    world.bind_answer = None;
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.send(here, &request), None);
    world.server.path_closed(world.clock, here);
    let pending = world.unanswered[0];
    world.server.relay_bound(world.clock, pending, Ok(()));
    assert_eq!(world.drain_effects(), None, "nobody is left to answer");
    assert_eq!(world.closed, [relay, pending]);
    world.server.check_invariants();
}

/// Draining: what exists lives on, nothing new starts.
#[test]
fn draining_refuses_new_allocations_and_keeps_the_old() {
    let mut world = World::new();
    let here = path("192.0.2.10:1");
    let (mut alice, _) = world.allocated(here);
    world.server.drain();
    assert_eq!(error_of(&mut world, vec![udp()]), 508);
    assert_eq!(world.refresh(here, &mut alice, vec![]).error(), 0);
    world.server.shut_down(world.clock);
    world.drain_effects();
    assert_eq!((world.server.allocations(), world.closed.len()), (0, 1));
}

/// TURN-8656-21.4-01: clients at tunnel addresses are refused.
#[test]
fn turn_8656_21_4_01_clients_at_tunnel_addresses_are_refused() {
    for client in ["[2002:c000:20a::1]:1", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:1"] {
        let mut world = World::new();
        let mut alice = world.alice(path(client));
        let request = alice.signed(Method::Allocate, vec![udp()]);
        assert_eq!(world.exchange(path(client), &request).error(), 403);
    }
}
