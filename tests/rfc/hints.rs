//! What an allocation's traffic looks like: calls and tunnels, and the limits that end the latter (abuse S15).

use hairpin::turn::{Config, EndReason, Event, FiveTuple, ForeignShare, Hints, Limits, Reason, RelayId, Spread};

use crate::client::{Client, data, lifetime};
use crate::world::{PEER, Seen, World, config, path, send_indication};

const CLIENT: &str = "192.0.2.10:40000";

/// STUN, RTP, RTCP, and DTLS of three versions.
const OF_A_CALL: [&[u8]; 6] = [
    &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    &[0x80, 0x60, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 9],
    &[0x81, 0xC8, 0, 1, 0, 0, 0, 1],
    &[22, 0xFE, 0xFF, 0, 0],
    &[23, 0xFE, 0xFD, 0, 0],
    &[0x2C, 0x01, 0, 0],
];

/// QUIC, WireGuard, DNS, HTTP, TLS, SSH.
const OF_A_TUNNEL: [&[u8]; 6] = [
    &[0xC0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8],
    &[4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
    &[1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
    b"GET / HTTP/1.1\r\n",
    &[22, 3, 1, 0, 5],
    b"SSH-2.0-x",
];

fn permitted(config: Config) -> (World, FiveTuple, Client, RelayId) {
    let mut world = World::with(config);
    let here = path(CLIENT);
    let (mut alice, relay) = world.allocated(here);
    assert_eq!(world.permit(here, &mut alice, &[PEER, "9.9.9.9:0"]), 0);
    (world, here, alice, relay)
}

fn with(limits: Limits) -> Config {
    let config = config();
    Config { limits: Limits { effects: config.limits.effects, ..limits }, ..config }
}

/// Ends the allocation, and returns what was known of it.
fn hints(world: &mut World, here: FiveTuple, client: &mut Client) -> Hints {
    assert_eq!(world.refresh(here, client, vec![lifetime(0)]).error(), 0);
    let ended = world.events.iter().rev().find_map(|event| match event {
        Event::Ended { hints, .. } => Some(*hints),
        _ => None,
    });
    ended.expect("an event for the end")
}

#[test]
fn s15_calls_look_like_calls_and_tunnels_do_not() {
    for (packets, foreign, share) in [(OF_A_CALL, 0, ForeignShare::Little), (OF_A_TUNNEL, 60, ForeignShare::Most)] {
        let (mut world, here, mut alice, relay) = permitted(config());
        for _ in 0..5 {
            for packet in packets {
                assert!(world.send(here, &send_indication(PEER, vec![data(packet)])).unwrap().relayed());
                assert!(world.peer_sends(relay, PEER, packet).relayed());
            }
        }
        let hints = hints(&mut world, here, &mut alice);
        assert_eq!(hints, Hints { peers: 2, ports: 1, seen: 60, foreign }, "{packets:?}");
        let counters = world.server.counters();
        assert_eq!(counters.ended_foreign[share as usize], 1);
        assert_eq!(counters.ended_peers[Spread::Few as usize], 1);
        assert_eq!(counters.ended_ports[Spread::One as usize], 1);
    }
}

#[test]
fn s15_later_packets_are_looked_at_now_and_then() {
    let (mut world, here, mut alice, _) = permitted(config());
    for number in 1..=64 + 2560 {
        let packet = if number < 64 { OF_A_CALL[1] } else { OF_A_TUNNEL[3] };
        assert!(world.send(here, &send_indication(PEER, vec![data(packet)])).unwrap().relayed());
    }
    let hints = hints(&mut world, here, &mut alice);
    assert_eq!((hints.seen, hints.foreign), (63 + 10, 10));
}

#[test]
fn s15_the_fan_out_is_counted_well_for_some_hundreds() {
    for ports in [1, 2, 20, 100, 300, 1000] {
        let (mut world, here, mut alice, _) = permitted(config());
        for port in 1..=ports {
            let to = format!("9.9.9.9:{}", 20_000 + port);
            assert!(world.send(here, &send_indication(&to, vec![data(OF_A_CALL[1])])).unwrap().relayed());
        }
        let counted = hints(&mut world, here, &mut alice).ports;
        assert!(counted.abs_diff(ports) <= ports / 8 + 1, "{counted} instead of {ports}");
    }
}

fn assert_ended(world: &mut World, here: FiveTuple, alice: &mut Client) {
    let ended = world.events.iter().any(|event| matches!(event, Event::Ended { why: EndReason::Tunnel, .. }));
    assert!(ended && world.server.allocations() == 0);
    assert_eq!(world.server.counters().allocations_ended[EndReason::Tunnel as usize], 1);
    assert_eq!(world.refresh(here, alice, vec![]).error(), 437);
    world.server.check_invariants();
}

#[test]
fn s15_a_limit_ends_what_looks_like_a_tunnel() {
    let limits = Limits { foreign_packets_percent: 50, ..Limits::default() };
    let (mut world, here, mut alice, relay) = permitted(with(limits));
    for round in 0..100 {
        let packet = if round % 2 == 0 { OF_A_CALL[1] } else { OF_A_TUNNEL[0] };
        assert!(world.send(here, &send_indication(PEER, vec![data(packet)])).unwrap().relayed(), "one half is allowed");
    }
    let mut last = Seen::Dropped(Reason::NotStun);
    for _ in 0..40 {
        last = world.peer_sends(relay, PEER, OF_A_TUNNEL[3]);
    }
    world.drain_effects();
    assert_eq!(last, Seen::Dropped(Reason::NoAllocation));
    assert_ended(&mut world, here, &mut alice);
}

#[test]
fn s15_a_limit_ends_what_looks_like_a_scan() {
    let limits = Limits { peer_ports_per_allocation: 32, ..Limits::default() };
    let (mut world, here, mut alice, _) = permitted(with(limits));
    let mut passed = 0;
    for port in 1..=200 {
        let to = format!("9.9.9.9:{port}");
        passed += u32::from(world.send(here, &send_indication(&to, vec![data(OF_A_CALL[1])])).unwrap().relayed());
    }
    assert!((28..=40).contains(&passed), "{passed} ports were reached");
    assert_ended(&mut world, here, &mut alice);
}
