//! RFC 8656 §9, §10: permissions.

use hairpin::stun::{AttributeType, Method, TransactionId};
use hairpin::turn::Reason;

use crate::client::{Attributes, data, peer_for};
use crate::world::{PEER, Seen, World, path, send_indication, signed_with_peers};

const CLIENT: &str = "192.0.2.10:40000";

/// TURN-8656-7.2-21, 9-03 (abuse S16): nothing passes without one.
#[test]
fn turn_8656_9_03_without_permission_nothing_passes() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.peer_sends(relay, PEER, b"x"), Seen::Dropped(Reason::NoPermission));
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.8:0"]), 0);
    assert_eq!(world.peer_sends(relay, PEER, b"x"), Seen::Dropped(Reason::NoPermission));
}

#[test]
fn turn_8656_9_01_a_permission_is_for_an_address_whatever_the_port() {
    for named in ["198.51.100.7:7000", "198.51.100.7:0"] {
        let mut world = World::new();
        let (mut alice, relay) = world.allocated(path(CLIENT));
        assert_eq!(world.permit(path(CLIENT), &mut alice, &[named]), 0);
        assert!(world.peer_sends(relay, "198.51.100.7:7001", b"x").relayed());
    }
}

/// TURN-8656-9-02, 9-04 (F04): exactly 300 s, whatever flows; reset by asking again.
#[test]
fn turn_8656_9_02_a_permission_lives_300_seconds() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    world.permit(path(CLIENT), &mut alice, &[PEER]);
    for _ in 0..299 {
        world.pass(1);
        assert!(world.peer_sends(relay, PEER, b"x").relayed());
        assert!(world.send(path(CLIENT), &send_indication(PEER, vec![data(b"x")])).unwrap().relayed());
    }
    world.pass(1);
    assert_eq!(world.peer_sends(relay, PEER, b"x"), Seen::Dropped(Reason::NoPermission));
    let send = send_indication(PEER, vec![data(b"x")]);
    assert_eq!(world.send(path(CLIENT), &send), Some(Seen::Dropped(Reason::NoPermission)));
    world.permit(path(CLIENT), &mut alice, &[PEER]);
    world.refresh(path(CLIENT), &mut alice, vec![]);
    world.pass(200);
    world.permit(path(CLIENT), &mut alice, &[PEER]);
    world.pass(299);
    assert!(world.peer_sends(relay, PEER, b"x").relayed());
}

#[test]
fn turn_8656_9_05_permissions_of_one_allocation_are_no_others() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    let (_, other) = world.allocated(path("192.0.2.10:40001"));
    world.permit(path(CLIENT), &mut alice, &[PEER]);
    assert!(!world.peer_sends(other, PEER, b"x").relayed());
}

#[test]
fn turn_8656_10_2_01_a_missing_or_malformed_peer_is_a_bad_request() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(world.permit(path(CLIENT), &mut alice, &[]), 400);
    let good = peer_for(TransactionId([1; 12]), PEER).1;
    let other_family = [&[0, 7], &good[2..]].concat();
    let v4_with_v6_length = [&good[..], &[0; 12]].concat();
    for value in [other_family, v4_with_v6_length, vec![], vec![0, 1], good[..7].to_vec()] {
        let attributes: Attributes = vec![(AttributeType::XOR_PEER_ADDRESS, value)];
        let request = alice.signed(Method::CreatePermission, attributes);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 400);
    }
}

/// TURN-8656-10.2-02, and 5-11: asked twice, one effect.
#[test]
fn turn_8656_10_2_02_several_peers_in_one_request() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    let peers: Vec<String> = (1..=10).map(|last| format!("198.51.100.{last}:0")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    let request = signed_with_peers(&mut alice, Method::CreatePermission, vec![], &peers);
    let first = world.exchange(path(CLIENT), &request);
    assert!(first.is_success());
    assert_eq!(world.exchange(path(CLIENT), &request), first);
    for last in 1..=10 {
        assert!(world.peer_sends(relay, &format!("198.51.100.{last}:9"), b"x").relayed());
    }
}

/// TURN-8656-10.2-03: all or nothing, for every kind of refusal.
#[test]
fn turn_8656_10_2_03_one_refused_peer_refuses_all() {
    for (bad, code) in [("127.0.0.1:1", 403), ("[2001:db8:1::1]:1", 443)] {
        for peers in [[PEER, bad], [bad, PEER]] {
            let mut world = World::new();
            let (mut alice, relay) = world.allocated(path(CLIENT));
            assert_eq!(world.permit(path(CLIENT), &mut alice, &peers), code);
            assert!(!world.peer_sends(relay, PEER, b"x").relayed());
        }
    }
}

/// TURN-8656-10.2-06 (abuse S12): the configured number, refreshes not counted, the dead not counted.
#[test]
fn turn_8656_10_2_06_too_many_permissions_are_insufficient_capacity() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    for last in 1..=12 {
        let peer = format!("198.51.100.{last}:0");
        assert_eq!(world.permit(path(CLIENT), &mut alice, &[&peer]), 0);
    }
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.13:0"]), 508);
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.12:0", "198.51.100.13:0"]), 508);
    assert!(!world.peer_sends(relay, "198.51.100.13:1", b"x").relayed());
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.12:0"]), 0);
    world.pass(299);
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.12:0"]), 0);
    world.pass(1);
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["198.51.100.13:0"]), 0, "eleven have expired");
    let many: Vec<String> = (20..40).map(|last| format!("198.51.100.{last}:0")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(world.permit(path(CLIENT), &mut alice, &many), 508);
}
