//! Dual allocations: one IPv4 and one IPv6 relayed address for one client (RFC 8656 §7.2 step 9, §8).

use std::net::SocketAddr;

use hairpin::stun::{AttributeType, Method, read_xor_address};
use hairpin::turn::{BindError, Config, EndReason, Event, PortRange, RelayId, Transport};

use crate::client::{Attributes, Client, Response, channel_data, data, lifetime, udp};
use crate::world::{PEER, RELAY_V4, RELAY_V6, Seen, World, config, path, path_over, send_indication};

const CLIENT: &str = "192.0.2.10:40000";
const PEER_V6: &str = "[2001:db8:1::7]:7000";

fn family(value: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![value, 0, 0, 0])
}

fn additional(value: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![value, 0xFF, 0xFF, 0xFF])
}

/// Every XOR-RELAYED-ADDRESS.
fn relayed(response: &Response) -> Vec<SocketAddr> {
    let message = response.message();
    let all = message.attributes().filter(|attribute| attribute.kind == AttributeType::XOR_RELAYED_ADDRESS);
    all.map(|attribute| read_xor_address(attribute.value, message.transaction_id()).unwrap()).collect()
}

/// Family and error of ADDRESS-ERROR-CODE.
fn refused(response: &Response) -> Option<(u8, u16)> {
    let value = response.first(AttributeType::ADDRESS_ERROR_CODE)?;
    assert_eq!((value[1], value[2] & 0xF8), (0, 0), "reserved bits are zero");
    Some((value[0], u16::from(value[2]) * 100 + u16::from(value[3])))
}

#[track_caller]
fn ask(world: &mut World, attributes: Attributes) -> Response {
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, [vec![udp()], attributes].concat());
    world.exchange(path(CLIENT), &request)
}

/// Alice with a dual allocation, and its two names.
fn dual(world: &mut World) -> (Client, [RelayId; 2]) {
    let mut alice = world.alice(path(CLIENT));
    let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![additional(2)]);
    assert_eq!(relayed(&response).len(), 2);
    let names = world.events.iter().rev().map(|event| match event {
        Event::Allocated { relay, .. } => *relay,
        other => panic!("{other:?}"),
    });
    let names: Vec<RelayId> = names.take(2).collect();
    (alice, [names[1], names[0]])
}

fn ended(world: &World) -> u64 {
    world.server.counters().allocations_ended.iter().sum()
}

/// TURN-8656-7.2-18, -03: one of each family, in one allocation; the retransmission has both.
#[test]
fn turn_8656_7_2_18_both_families() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp(), additional(2)]);
    let response = world.exchange(path(CLIENT), &request);
    let addresses = relayed(&response);
    let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(ips, [RELAY_V4, RELAY_V6]);
    assert_eq!((refused(&response), response.lifetime()), (None, Some(600)));
    assert_eq!((world.binds.clone(), world.server.allocations()), (addresses.clone(), 1));
    world.pass(1);
    let again = world.exchange(path(CLIENT), &request);
    assert_eq!((relayed(&again), again.lifetime()), (addresses, Some(599)));
    assert_eq!(world.server.counters().allocations_created, 1);
}

/// TURN-8656-7.2-10, -15, 18-02.
#[test]
fn turn_8656_7_2_10_what_makes_no_sense_is_a_bad_request() {
    let short = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0]);
    for attributes in [
        vec![additional(2), family(1)],
        vec![additional(2), family(2)],
        vec![additional(1)],
        vec![additional(9)],
        vec![short],
    ] {
        assert_eq!(ask(&mut World::new(), attributes).error(), 400);
    }
}

/// TURN-8656-7.2-17: one family is better than none, and the client is told why; also when it asks again.
#[test]
fn turn_8656_7_2_17_one_family_only() {
    for (kept, expected) in [(RELAY_V4, (2, 440)), (RELAY_V6, (1, 440))] {
        let mut config = config();
        config.relays.retain(|relay| relay.bind.to_string() == kept);
        let mut world = World::with(config);
        let mut alice = world.alice(path(CLIENT));
        let request = alice.signed(Method::Allocate, vec![udp(), additional(2)]);
        for _ in 0..2 {
            let response = world.exchange(path(CLIENT), &request);
            assert_eq!((response.error(), refused(&response)), (0, Some(expected)));
            assert_eq!(relayed(&response)[0].ip().to_string(), kept);
            assert_eq!(relayed(&response).len(), 1);
        }
    }
    // Ports of one family are used up, or its sockets cannot be had.
    for (other, expected) in [(2, (2, 508)), (1, (1, 508))] {
        let ports = PortRange { first: 50_000, last: 50_000, quarantine_secs: 0 };
        let mut world = World::with(Config { ports, ..config() });
        let here = path("192.0.2.20:1");
        let mut alice = world.alice(here);
        world.allocate(here, &mut alice, vec![family(other)]);
        let response = ask(&mut world, vec![additional(2)]);
        assert_eq!((relayed(&response).len(), refused(&response)), (1, Some(expected)));
        for error in [BindError::OutOfCapacity, BindError::PortInUse] {
            let mut world = World::new();
            world.bind_answer =
                Some(Box::new(move |local| if local.is_ipv6() == (other == 2) { Err(error) } else { Ok(()) }));
            let response = ask(&mut world, vec![additional(2)]);
            assert_eq!((relayed(&response).len(), refused(&response)), (1, Some(expected)));
            assert_eq!(world.closed, []);
        }
    }
}

/// TURN-8656-7.2-16, -36: neither family; and whichever bind fails for good, nothing is left behind.
#[test]
fn turn_8656_7_2_16_neither_family() {
    for failing_from in [0, 1] {
        for (error, code) in [(BindError::UserQuotaReached, 486), (BindError::OutOfCapacity, 508)] {
            let mut world = World::new();
            for _ in 0..50 {
                let mut bound = 0;
                world.bind_answer = Some(Box::new(move |_| {
                    bound += 1;
                    if bound > failing_from { Err(error) } else { Ok(()) }
                }));
                let response = ask(&mut world, vec![additional(2)]);
                if (failing_from, code) == (1, 508) {
                    assert_eq!((response.error(), refused(&response)), (0, Some((2, 508))));
                    world.server.path_closed(world.clock, path(CLIENT));
                    world.drain_effects();
                } else {
                    assert_eq!(response.error(), code);
                }
                world.server.check_invariants();
                assert_eq!(world.server.allocations(), 0);
            }
            assert_eq!(world.closed.len(), 50 * failing_from);
        }
    }
}

/// EVEN-PORT without reservation goes with both families, and then means both.
#[test]
fn even_port_means_both_halves() {
    for _ in 0..10 {
        let response = ask(&mut World::new(), vec![additional(2), (AttributeType::EVEN_PORT, vec![0])]);
        assert!(relayed(&response).iter().all(|address| address.port() % 2 == 0));
    }
}

/// Peers of both families, by indication and channel, there and back; a channel number is one number for both.
#[test]
fn peers_of_both_families_are_reached() {
    let mut world = World::new();
    let (mut alice, names) = dual(&mut world);
    let here = path(CLIENT);
    assert_eq!(world.permit(here, &mut alice, &[PEER, PEER_V6]), 0);
    for (relay, peer) in names.into_iter().zip([PEER, PEER_V6]) {
        let seen = world.send(here, &send_indication(peer, vec![data(b"abc")]));
        let to = peer.parse().unwrap();
        assert_eq!(seen, Some(Seen::AtPeer { from: relay, to, data: b"abc".to_vec(), dont_fragment: false }));
        assert!(world.peer_sends(relay, peer, b"x").relayed());
    }
    for (number, relay, peer, taken) in [(0x4000, names[0], PEER, PEER_V6), (0x4001, names[1], PEER_V6, PEER)] {
        assert_eq!(world.bind_channel(here, &mut alice, number, peer), 0);
        assert_eq!(world.bind_channel(here, &mut alice, number, taken), 400);
        let seen = world.send(here, &channel_data(number, b"abc"));
        let to = peer.parse().unwrap();
        assert_eq!(seen, Some(Seen::AtPeer { from: relay, to, data: b"abc".to_vec(), dont_fragment: false }));
        assert_eq!(world.peer_sends(relay, peer, b"x").at_client(), channel_data(number, b"x"));
        assert_eq!(world.server.traffic(relay).unwrap().packets_to_peer, 2, "each half has its own count");
    }
}

/// TURN-8656-8.2-04: one half goes, the other stays with its permissions and channels; the last one ends it.
#[test]
fn turn_8656_8_2_04_one_half_is_deleted() {
    for gone in [0, 1] {
        let mut world = World::new();
        let (mut alice, names) = dual(&mut world);
        let here = path(CLIENT);
        let peers = [PEER, PEER_V6];
        for (number, peer) in (0x4000..).zip(peers) {
            assert_eq!(world.bind_channel(here, &mut alice, number, peer), 0);
        }
        let request = alice.signed(Method::Refresh, vec![lifetime(0), family(gone as u8 + 1)]);
        for _ in 0..2 {
            assert_eq!(world.exchange(here, &request).lifetime(), Some(0), "and again for the retransmission");
        }
        let kept = 1 - gone;
        assert_eq!((&world.closed[..], world.server.allocations(), ended(&world)), (&names[gone..=gone], 1, 0));
        assert!(!world.send(here, &channel_data(0x4000 + gone as u16, b"x")).unwrap().relayed());
        assert!(!world.peer_sends(names[gone], peers[gone], b"x").relayed());
        assert!(world.send(here, &channel_data(0x4000 + kept as u16, b"x")).unwrap().relayed());
        assert_eq!(
            world.peer_sends(names[kept], peers[kept], b"x").at_client(),
            channel_data(0x4000 + kept as u16, b"x")
        );
        assert_eq!(world.permit(here, &mut alice, &[peers[gone]]), 443);
        assert_eq!(world.bind_channel(here, &mut alice, 0x4005, peers[gone]), 443);
        assert_eq!(world.refresh(here, &mut alice, vec![family(gone as u8 + 1)]).error(), 443, "TURN-8656-8.2-03");
        assert_eq!(world.refresh(here, &mut alice, vec![family(9)]).error(), 443);
        assert_eq!(world.refresh(here, &mut alice, vec![family(kept as u8 + 1), lifetime(0)]).error(), 0);
        assert_eq!((world.closed.len(), world.server.allocations(), ended(&world)), (2, 0, 1));
        assert_eq!(world.refresh(here, &mut alice, vec![]).error(), 437);
    }
}

/// TURN-8656-8.2-04: lifetimes of their own; without a family both are meant.
#[test]
fn turn_8656_8_2_04_each_half_has_its_lifetime() {
    for longer in [0, 1] {
        let mut world = World::new();
        let (mut alice, names) = dual(&mut world);
        let here = path(CLIENT);
        let refreshed = world.refresh(here, &mut alice, vec![family(longer as u8 + 1), lifetime(1200)]);
        assert_eq!(refreshed.lifetime(), Some(1200));
        world.pass(602);
        assert_eq!((&world.closed[..], world.server.allocations()), (&names[1 - longer..2 - longer], 1));
        assert!(matches!(world.events.last(), Some(Event::Ended { why: EndReason::Expired, .. })));
        world.pass(600);
        assert_eq!((world.closed.len(), world.server.allocations(), ended(&world)), (2, 0, 1));
        assert_eq!(world.server.next_timeout(), None);
    }
    for asked in [0, 1200] {
        let mut world = World::new();
        let (mut alice, _) = dual(&mut world);
        assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![lifetime(asked)]).lifetime(), Some(asked));
        world.pass(1199);
        assert_eq!(world.closed.len(), if asked == 0 { 2 } else { 0 });
        world.pass(3);
        assert_eq!((world.closed.len(), ended(&world)), (2, 1));
    }
}

/// TURN-8656-LIFE-01, 6-05: the end of the connection, of the server and of the lifetime is the end of both.
#[test]
fn both_halves_end_together() {
    for how in 0..4 {
        let mut world = World::new();
        let here = path_over(Transport::Tcp, CLIENT);
        let mut alice = world.alice(here);
        world.allocate(here, &mut alice, vec![additional(2)]);
        match how {
            0 => world.server.path_closed(world.clock, here),
            1 => world.server.shut_down(world.clock),
            2 => world.pass(602),
            // A new Allocate before the timer has come round.
            _ => {
                world.pass_without_timers(600);
                world.allocate(here, &mut alice, vec![]);
            }
        }
        world.drain_effects();
        world.server.check_invariants();
        assert_eq!((world.closed.len(), ended(&world)), (2, 1), "{how}");
    }
}

/// The client goes away while either of the two sockets is being bound.
#[test]
fn a_client_that_leaves_during_the_binds_leaves_nothing_behind() {
    for answered in [0, 1] {
        let mut world = World::new();
        let here = path_over(Transport::Tcp, CLIENT);
        let mut alice = world.alice(here);
        world.bind_answer = None;
        let request = alice.signed(Method::Allocate, vec![udp(), additional(2)]);
        assert_eq!(world.send(here, &request), None);
        for place in 0..answered {
            world.server.relay_bound(world.clock, world.unanswered[place], Ok(()));
            world.drain_effects();
        }
        world.server.path_closed(world.clock, here);
        let last = world.unanswered[answered];
        world.server.relay_bound(world.clock, last, Ok(()));
        assert_eq!(world.drain_effects(), None);
        assert_eq!((world.unanswered.len(), world.closed.len()), (answered + 1, answered + 1));
        world.server.check_invariants();
    }
}
