//! RFC 8656 §12: channels.

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{Reason, Transport};

use crate::client::{Client, channel, channel_data, data};
use crate::world::{PEER, Seen, World, path, path_over, read_data_indication, send_indication, signed_with_peers};

const CLIENT: &str = "192.0.2.10:40000";

fn bound(world: &mut World) -> (Client, hairpin::turn::RelayId) {
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, PEER), 0);
    (alice, relay)
}

#[test]
fn turn_8656_12_01_usable_numbers() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    for number in [0x0000, 0x3FFF, 0x5000, 0x7FFF, 0xFFFF] {
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, number, PEER), 400, "{number:#06x}");
    }
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, PEER), 0);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4FFF, "198.51.100.7:7001"), 0);
}

/// TURN-8656-12-02, TURN-8656-12-05 and TURN-8656-12.6-04: 600 s, with the permission kept alive separately; then number and peer are free.
#[test]
fn turn_8656_12_02_a_binding_lives_600_seconds() {
    let mut world = World::new();
    let (mut alice, relay) = bound(&mut world);
    let message = channel_data(0x4001, b"abc");
    for _ in 0..2 {
        world.pass(299);
        world.permit(path(CLIENT), &mut alice, &[PEER]);
        world.refresh(path(CLIENT), &mut alice, vec![]);
        assert!(world.send(path(CLIENT), &message).unwrap().relayed());
    }
    world.pass(1);
    assert!(world.send(path(CLIENT), &message).unwrap().relayed(), "at 599 s");
    world.pass(1);
    assert_eq!(world.send(path(CLIENT), &message), Some(Seen::Dropped(Reason::NoChannel)), "at 600 s");
    read_data_indication(&world.peer_sends(relay, PEER, b"x").at_client());
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "198.51.100.8:1"), 0);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4002, PEER), 0);
}

#[test]
fn turn_8656_12_2_01_number_and_peer_must_be_there() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    let no_number = signed_with_peers(&mut alice, Method::ChannelBind, vec![], &[PEER]);
    let no_peer = signed_with_peers(&mut alice, Method::ChannelBind, vec![channel(0x4000)], &[]);
    let short = signed_with_peers(
        &mut alice,
        Method::ChannelBind,
        vec![(AttributeType::CHANNEL_NUMBER, vec![0x40, 0])],
        &[PEER],
    );
    let port_zero = signed_with_peers(&mut alice, Method::ChannelBind, vec![channel(0x4000)], &["198.51.100.7:0"]);
    for request in [no_number, no_peer, short, port_zero] {
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 400);
    }
}

/// TURN-8656-18-01: the lower half of CHANNEL-NUMBER is reserved.
#[test]
fn turn_8656_18_01_reserved_half_of_channel_number_is_ignored() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    let number = (AttributeType::CHANNEL_NUMBER, vec![0x40, 0x00, 0xFF, 0xFF]);
    let request = signed_with_peers(&mut alice, Method::ChannelBind, vec![number], &[PEER]);
    assert!(world.exchange(path(CLIENT), &request).is_success());
}

/// TURN-8656-12.2-03, TURN-8656-12.2-04, TURN-8656-12.2-09: a refused rebind changes neither binding nor timer.
#[test]
fn turn_8656_12_2_03_a_taken_number_or_peer_is_a_bad_request() {
    let mut world = World::new();
    let (mut alice, _) = bound(&mut world);
    world.pass(200);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "198.51.100.8:1"), 400);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4002, PEER), 400);
    let message = channel_data(0x4001, b"abc");
    assert!(world.send(path(CLIENT), &message).unwrap().relayed());
    world.pass(100);
    assert!(!world.send(path(CLIENT), &message).unwrap().relayed(), "the permission was not renewed");
}

#[test]
fn turn_8656_12_2_05_family_mismatch() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "[2001:db8:1::1]:1"), 443);
}

#[test]
fn turn_8656_12_2_06_forbidden_peer() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "127.0.0.1:80"), 403);
}

/// TURN-8656-12.2-07: the channel table and the permission table each have their bound.
#[test]
fn turn_8656_12_2_07_too_many_channels_are_insufficient_capacity() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    for port in 1..=8u16 {
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000 + port, &format!("198.51.100.7:{port}")), 0);
    }
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4100, "198.51.100.7:9"), 508);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "198.51.100.7:1"), 0, "a refresh is no new one");

    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    for last in 1..=12 {
        world.permit(path(CLIENT), &mut alice, &[&format!("198.51.100.{last}:0")]);
    }
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, "198.51.100.77:9"), 508);
    assert_eq!(world.send(path(CLIENT), &channel_data(0x4001, b"x")), Some(Seen::Dropped(Reason::NoChannel)));
}

/// TURN-8656-12.2-08 (L14): the channel brings its permission, and its refresh renews it.
#[test]
fn turn_8656_12_2_08_a_channel_brings_its_permission() {
    let mut world = World::new();
    let (mut alice, relay) = bound(&mut world);
    assert!(world.peer_sends(relay, "198.51.100.7:1", b"x").relayed());
    world.pass(240);
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4001, PEER), 0);
    world.pass(299);
    assert!(world.peer_sends(relay, PEER, b"x").relayed());
    world.pass(1);
    assert!(!world.peer_sends(relay, PEER, b"x").relayed());
}

/// TURN-8656-12.6-05 (A12): the channel lives to 600 s, but without permission nothing passes in either direction.
#[test]
fn turn_8656_12_6_05_channel_data_needs_a_live_permission() {
    let mut world = World::new();
    let (mut alice, relay) = bound(&mut world);
    world.pass(300);
    let message = channel_data(0x4001, b"abc");
    assert_eq!(world.send(path(CLIENT), &message), Some(Seen::Dropped(Reason::NoPermission)));
    assert_eq!(world.peer_sends(relay, PEER, b"x"), Seen::Dropped(Reason::NoPermission));
    world.permit(path(CLIENT), &mut alice, &[PEER]);
    assert_eq!(world.send(path(CLIENT), &message).unwrap().data_at_peer(), b"abc");
}

/// TURN-8656-12.5-01, 11.3-02: ChannelData for exactly the bound address and port, Data indication for any other.
#[test]
fn turn_8656_11_3_02_channel_data_for_the_bound_peer_alone() {
    let mut world = World::new();
    let (_, relay) = bound(&mut world);
    assert_eq!(world.peer_sends(relay, PEER, b"abc").at_client(), channel_data(0x4001, b"abc"));
    let other = world.peer_sends(relay, "198.51.100.7:7001", b"abc").at_client();
    assert_eq!(read_data_indication(&other), ("198.51.100.7:7001".parse().unwrap(), b"abc".to_vec()));
}

/// TURN-8656-12.5-02, -03: padded on streams, not over UDP.
#[test]
fn turn_8656_12_5_02_padding_on_streams_only() {
    for len in 0..9 {
        let payload = vec![7; len];
        let mut world = World::new();
        let (_, relay) = bound(&mut world);
        assert_eq!(world.peer_sends(relay, PEER, &payload).at_client(), channel_data(0x4001, &payload));

        let here = path_over(Transport::Tcp, CLIENT);
        let (mut alice, relay) = world.allocated(here);
        world.bind_channel(here, &mut alice, 0x4001, PEER);
        let mut padded = channel_data(0x4001, &payload);
        padded.resize(padded.len().next_multiple_of(4), 0);
        assert_eq!(world.peer_sends(relay, PEER, &payload).at_client(), padded);
        assert_eq!(world.send(here, &padded).unwrap().data_at_peer(), payload);
    }
}

/// TURN-8656-12.6-01, -02, -03, -06.
#[test]
fn turn_8656_12_6_01_lengths_and_numbers() {
    let mut world = World::new();
    bound(&mut world);
    let mut too_long = channel_data(0x4001, b"0123456789");
    too_long[3] = 100;
    assert_eq!(world.send(path(CLIENT), &too_long), Some(Seen::Dropped(Reason::BadChannelData)));
    assert_eq!(world.send(path(CLIENT), &[0x40, 0x01, 0]), Some(Seen::Dropped(Reason::BadChannelData)));
    let extra = [channel_data(0x4001, b"abc"), vec![9; 5]].concat();
    assert_eq!(world.send(path(CLIENT), &extra).unwrap().data_at_peer(), b"abc");
    for number in [0x4ABC, 0x5000, 0x7FFF] {
        assert_eq!(world.send(path(CLIENT), &channel_data(number, b"x")), Some(Seen::Dropped(Reason::NoChannel)));
    }
    assert_eq!(world.send(path(CLIENT), &channel_data(0x4001, b"")).unwrap().data_at_peer(), b"");
}

/// TURN-8656-9-05: the same number and peer on two allocations are two channels.
#[test]
fn turn_8656_9_05_channels_of_one_allocation_are_no_others() {
    let mut world = World::new();
    let (_, first) = bound(&mut world);
    let here = path("192.0.2.10:40001");
    let (mut alice, second) = world.allocated(here);
    assert_eq!(world.send(here, &channel_data(0x4001, b"x")), Some(Seen::Dropped(Reason::NoChannel)));
    world.bind_channel(here, &mut alice, 0x4001, PEER);
    for (from, expected) in [(path(CLIENT), first), (here, second)] {
        let Some(Seen::AtPeer { from, .. }) = world.send(from, &channel_data(0x4001, b"x")) else { panic!() };
        assert_eq!(from, expected);
    }
}

/// A client may go on with Send indications although a channel is bound.
#[test]
fn send_indications_work_beside_channels() {
    let mut world = World::new();
    bound(&mut world);
    let send = send_indication(PEER, vec![data(b"abc")]);
    assert_eq!(world.send(path(CLIENT), &send).unwrap().data_at_peer(), b"abc");
}
