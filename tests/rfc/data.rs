//! RFC 8656 §11: Send and Data indications; relay to relay.

use std::collections::HashSet;
use std::net::SocketAddr;

use hairpin::stun::{AttributeType, Method, TransactionId};
use hairpin::turn::{Config, Reason, RelayAddress, Server, ShardIndex, Traffic, Transport};

use crate::client::{Client, Response, bare, channel_data, data, indication, lifetime, peer_for};
use crate::world::{PEER, Seen, World, config, path, path_over, read_data_indication, send_indication};

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.20:40000";

fn permitted(world: &mut World) -> (Client, hairpin::turn::RelayId) {
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.permit(path(CLIENT), &mut alice, &[PEER]), 0);
    (alice, relay)
}

/// TURN-8656-5-06: without an allocation there is nobody to complain to.
#[test]
fn turn_8656_5_06_data_without_an_allocation_is_dropped() {
    let mut world = World::new();
    let send = send_indication(PEER, vec![data(b"abc")]);
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::NoAllocation)));
}

#[test]
fn turn_8656_11_2_01_send_needs_peer_and_data() {
    let mut world = World::new();
    permitted(&mut world);
    let no_data = send_indication(PEER, vec![]);
    let no_peer = indication(hairpin::stun::Method::Send, vec![data(b"abc")]);
    let bad_peer =
        indication(hairpin::stun::Method::Send, vec![(AttributeType::XOR_PEER_ADDRESS, vec![0; 5]), data(b"abc")]);
    let port_zero = send_indication("198.51.100.7:0", vec![data(b"abc")]);
    for message in [no_data, no_peer, bad_peer, port_zero] {
        assert_eq!(world.send(path(CLIENT), &message), Some(Seen::Dropped(Reason::BadIndication)));
    }
}

/// TURN-8656-11.2-02, -07, and every length around the padding.
#[test]
fn turn_8656_11_2_07_exactly_the_data_leaves_from_the_relay() {
    let mut world = World::new();
    let (_, relay) = permitted(&mut world);
    for len in (0..9).chain([1199, 1200, 65_000]) {
        let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        let seen = world.send(path(CLIENT), &send_indication(PEER, vec![data(&payload)]));
        assert_eq!(
            seen,
            Some(Seen::AtPeer { from: relay, to: PEER.parse().unwrap(), data: payload, dont_fragment: false })
        );
    }
}

/// TURN-8656-11.2-03, -04: sending makes no permission.
#[test]
fn turn_8656_11_2_04_send_makes_no_permission() {
    let mut world = World::new();
    let (_, relay) = world.allocated(path(CLIENT));
    let send = send_indication(PEER, vec![data(b"abc")]);
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::NoPermission)));
    assert!(!world.peer_sends(relay, PEER, b"x").relayed());
}

/// TURN-8656-14-03, TURN-8656-15-01, TURN-8656-13-02: DONT-FRAGMENT of Send is carried out, except between datagrams
/// of the other family.
#[test]
fn turn_8656_14_03_dont_fragment_is_carried_out_where_it_applies() {
    let dont_fragment = (AttributeType::DONT_FRAGMENT, vec![]);
    let (udp, tcp) = (Transport::Udp, Transport::Tcp);
    let (v4, v6) = (CLIENT, "[2001:db8::9]:1");
    for (transport, client, peer, expected) in [
        (udp, v4, PEER, true),
        (udp, v6, "[2001:db8:1::7]:7000", true),
        (udp, v6, PEER, false),
        (udp, v4, "[2001:db8:1::7]:7000", false),
        (tcp, v4, PEER, true),
        (tcp, v6, PEER, true),
        (tcp, v4, "[2001:db8:1::7]:7000", true),
    ] {
        let mut world = World::new();
        let here = path_over(transport, client);
        let mut alice = world.alice(here);
        let family = if peer.starts_with('[') { 2 } else { 1 };
        world.allocate(here, &mut alice, vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0])]);
        assert_eq!(world.permit(here, &mut alice, &[peer]), 0);
        for (extra, expected) in [(vec![], false), (vec![dont_fragment.clone()], expected)] {
            let send = send_indication(peer, [vec![data(b"abc")], extra].concat());
            let Some(Seen::AtPeer { dont_fragment, data, .. }) = world.send(here, &send) else { panic!("not relayed") };
            assert_eq!((dont_fragment, &data[..]), (expected, &b"abc"[..]), "{transport:?} {client} {peer}");
        }
    }
}

/// TURN-8656-18-02: DONT-FRAGMENT with a value is no DONT-FRAGMENT.
#[test]
fn turn_8656_18_02_dont_fragment_with_a_value_is_dropped() {
    let mut world = World::new();
    permitted(&mut world);
    let send = send_indication(PEER, vec![data(b"abc"), (AttributeType::DONT_FRAGMENT, vec![0])]);
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::BadIndication)));
}

/// STUN-8489-6.3.2-01: with an attribute that must be understood and is not.
#[test]
fn stun_8489_6_3_2_01_send_with_an_unknown_attribute_is_dropped() {
    let mut world = World::new();
    permitted(&mut world);
    for unknown in [AttributeType(0x7FFF), AttributeType(0x0024)] {
        let send = send_indication(PEER, vec![data(b"abc"), (unknown, vec![])]);
        assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::UnknownAttribute)));
    }
}

/// F01: Firefox sends FINGERPRINT with every indication; a wrong one is dropped.
#[test]
fn f01_send_with_fingerprint() {
    use hairpin::stun::{Class, Method, Seal};
    let mut world = World::new();
    permitted(&mut world);
    let attributes = vec![peer_for(TransactionId([8; 12]), PEER), data(b"abc")];
    let mut send =
        crate::client::write(Method::Send, Class::Indication, TransactionId([8; 12]), &attributes, Seal::None, true);
    assert_eq!(world.send(path(CLIENT), &send).unwrap().data_at_peer(), b"abc");
    *send.last_mut().unwrap() ^= 1;
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::BadFingerprint)));
}

/// TURN-8656-11.3-01, -03: true source, exact data, zero padding, for both families and every length.
#[test]
fn turn_8656_11_3_01_a_data_indication_has_peer_and_data() {
    let mut world = World::new();
    let (_, relay) = permitted(&mut world);
    let here = path("[2001:db8::9]:1");
    let mut alice = world.alice(here);
    let v6 = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    let (relay6, _) = world.allocate(here, &mut alice, vec![v6]);
    assert_eq!(world.permit(here, &mut alice, &["[2001:db8:1::7]:0"]), 0);
    for (relay, peer) in [(relay, PEER), (relay6, "[2001:db8:1::7]:7000")] {
        for len in (0..9).chain([1200]) {
            let payload = vec![0xAB; len];
            let message = world.peer_sends(relay, peer, &payload).at_client();
            assert_eq!(read_data_indication(&message), (peer.parse::<SocketAddr>().unwrap(), payload.clone()));
            let padding = len.next_multiple_of(4) - len;
            assert!(message[message.len() - padding..].iter().all(|byte| *byte == 0), "abuse S18");
        }
    }
}

/// TURN-8656-11.3-04: what a peer sends is opaque.
#[test]
fn turn_8656_11_3_04_stun_from_a_peer_is_relayed_not_answered() {
    let mut world = World::new();
    let (_, relay) = permitted(&mut world);
    let request = bare(hairpin::stun::Method::Binding, vec![]);
    let message = world.peer_sends(relay, PEER, &request).at_client();
    assert_eq!(read_data_indication(&message).1, request);
}

/// TURN-8656-11.3-05: large datagrams pass whole; what no framing can hold is dropped and counted.
#[test]
fn turn_8656_11_3_05_large_datagrams() {
    let mut world = World::new();
    let (mut alice, relay) = permitted(&mut world);
    let large = vec![0x55; 65_000];
    assert_eq!(read_data_indication(&world.peer_sends(relay, PEER, &large).at_client()).1, large);
    let largest = vec![0x55; 65_507];
    assert_eq!(world.peer_sends(relay, PEER, &largest), Seen::Dropped(Reason::TooLarge));
    world.bind_channel(path(CLIENT), &mut alice, 0x4000, PEER);
    assert_eq!(world.peer_sends(relay, PEER, &largest), Seen::Dropped(Reason::TooLarge));
    assert_eq!(world.peer_sends(relay, PEER, &largest[4..]).at_client(), channel_data(0x4000, &largest[4..]));

    let here = path_over(Transport::Tcp, CLIENT);
    let (mut alice, relay) = world.allocated(here);
    world.bind_channel(here, &mut alice, 0x4000, PEER);
    assert_eq!(world.peer_sends(relay, PEER, &largest).at_client().len(), 4 + 65_508);
}

/// STUN-8489-5-08: transaction ids of indications are drawn, not counted.
#[test]
fn stun_8489_5_08_transaction_ids_are_random() {
    let mut world = World::new();
    let (_, relay) = permitted(&mut world);
    let mut seen = HashSet::new();
    let mut ones = 0;
    for _ in 0..10_000 {
        let id = Response(world.peer_sends(relay, PEER, b"x").at_client()).message().transaction_id();
        ones += id.0.iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert!(seen.insert(id));
    }
    // 960,000 fair bits: the standard deviation is 490.
    assert!(ones.abs_diff(480_000) < 5 * 490, "{ones}");
}

/// Each datagram is counted once, under the transport it came over and the family of the relayed address.
#[test]
fn counters_tell_transports_and_families_apart() {
    for (place, transport) in Transport::ALL.into_iter().enumerate() {
        let mut world = World::new();
        let path = path_over(transport, CLIENT);
        for (family, peer) in ["198.51.100.7:7000", "[2001:db8:1::7]:7000"].into_iter().enumerate() {
            let mut alice = world.alice(path);
            let (relay, _) = world.allocate(
                path,
                &mut alice,
                vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1 + family as u8, 0, 0, 0])],
            );
            assert_eq!(world.permit(path, &mut alice, &[peer]), 0);
            assert!(world.send(path, &send_indication(peer, vec![data(&[1; 100])])).expect("a verdict").relayed());
            assert!(world.peer_sends(relay, peer, &[1; 30]).relayed());
            let traffic = Traffic { packets_to_peer: 1, bytes_to_peer: 100, packets_to_client: 1, bytes_to_client: 30 };
            assert_eq!(world.server.counters().traffic[place][family], traffic, "{transport:?} {peer}");
            let request = alice.signed(Method::Refresh, vec![lifetime(0)]);
            assert_eq!(world.exchange(path, &request).error(), 0);
        }
        let total = Traffic::total(&world.server.counters().traffic);
        assert_eq!((total.packets_to_peer, total.packets_to_client), (2, 2));
    }
}

/// Counted is what was relayed, without framing; the sums agree with the allocation's own.
#[test]
fn counters_count_application_data() {
    let mut world = World::new();
    let (_, relay) = permitted(&mut world);
    world.send(path(CLIENT), &send_indication(PEER, vec![data(&[1; 100])]));
    let _ = world.peer_sends(relay, PEER, &[1; 30]);
    let _ = world.peer_sends(relay, "198.51.100.9:1", &[1; 30]);
    let traffic = world.server.traffic(relay).unwrap();
    assert_eq!((traffic.packets_to_peer, traffic.bytes_to_peer), (1, 100));
    assert_eq!((traffic.packets_to_client, traffic.bytes_to_client), (1, 30));
    assert_eq!(Traffic::total(&world.server.counters().traffic), traffic);
    assert_eq!(world.server.counters().drops[Reason::NoPermission as usize], 1);
}

/// Two clients of one server: the packet goes straight from relay to relay, under both clients' permissions.
#[test]
fn relay_to_relay_stays_inside() {
    let relay = RelayAddress { bind: "10.0.0.5".parse().unwrap(), advertise: "203.0.113.5".parse().unwrap() };
    let mut world = World::with(Config { relays: vec![relay], ..config() });
    let relayed = AttributeType::XOR_RELAYED_ADDRESS;
    let mut alice = world.alice(path(CLIENT));
    let a = world.allocate(path(CLIENT), &mut alice, vec![]).1.address(relayed).unwrap();
    let mut bob = world.client(path(OTHER), "bob", "hunter2");
    let b = world.allocate(path(OTHER), &mut bob, vec![]).1.address(relayed).unwrap();
    assert_eq!(world.permit(path(CLIENT), &mut alice, &[&b.to_string()]), 0);

    let send = send_indication(&b.to_string(), vec![data(b"abc")]);
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::NoPermission)), "Bob has not agreed");
    assert_eq!(world.bind_channel(path(OTHER), &mut bob, 0x4000, &a.to_string()), 0);
    let seen = world.send(path(CLIENT), &send);
    assert_eq!(seen, Some(Seen::AtClient { to: path(OTHER), message: channel_data(0x4000, b"abc") }));
    let Some(Seen::AtClient { to, message }) = world.send(path(OTHER), &channel_data(0x4000, b"defgh")) else {
        panic!()
    };
    assert_eq!((to, read_data_indication(&message)), (path(CLIENT), (b, b"defgh".to_vec())));

    let nobody = SocketAddr::new(b.ip(), if b.port() == 50_000 { 50_001 } else { b.port() - 1 });
    let nobody = if nobody == a { SocketAddr::new(b.ip(), 50_999) } else { nobody };
    let send = send_indication(&nobody.to_string(), vec![data(b"abc")]);
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::NoSuchRelay)));
}

/// Two shards: the verdict names the owner of the port, which delivers under its own client's permissions.
#[test]
fn relay_to_relay_across_shards() {
    let shard = |index| ShardIndex { index, count: 2 };
    let mut worlds = [World::new(), World::new()];
    for (index, world) in worlds.iter_mut().enumerate() {
        world.server = Server::new(std::sync::Arc::new(config()), shard(index as u16), [index as u8; 32]);
    }
    let [first, second] = &mut worlds;
    let relayed = AttributeType::XOR_RELAYED_ADDRESS;
    let mut alice = first.alice(path(CLIENT));
    let a = first.allocate(path(CLIENT), &mut alice, vec![]).1.address(relayed).unwrap();
    let mut bob = second.client(path(OTHER), "bob", "hunter2");
    let b = second.allocate(path(OTHER), &mut bob, vec![]).1.address(relayed).unwrap();
    assert_eq!((shard(0).owner_of(a.port()), shard(0).owner_of(b.port())), (0, 1));
    assert_eq!(first.bind_channel(path(CLIENT), &mut alice, 0x4000, &b.to_string()), 0);

    let seen = first.send(path(CLIENT), &channel_data(0x4000, b"abc"));
    assert_eq!(seen, Some(Seen::AtOtherShard { shard: 1, relayed: b, from: a, data: b"abc".to_vec() }));
    assert_eq!(second.relay_sends(b, a, b"abc"), Seen::Dropped(Reason::NoPermission));
    assert_eq!(second.bind_channel(path(OTHER), &mut bob, 0x4001, &a.to_string()), 0);
    let seen = second.relay_sends(b, a, b"abc");
    assert_eq!(seen, Seen::AtClient { to: path(OTHER), message: channel_data(0x4001, b"abc") });
}
