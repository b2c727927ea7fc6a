//! RFC 8656 §11.5: what the network says about datagrams is told to the client.

use std::net::SocketAddr;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{Config, Reason, RelayId};

use crate::client::Response;
use crate::world::{PEER, World, config, path};

const CLIENT: &str = "192.0.2.10:40000";
const PEER_V6: &str = "[2001:db8:1::7]:7000";

/// A message arrives; what the client is told.
fn icmp(world: &mut World, relay: RelayId, peer: &str, (kind, code, mtu): (u8, u8, u32)) -> Option<Response> {
    world.server.from_icmp(world.clock, relay, peer.parse().unwrap(), kind, code, mtu);
    world.drain_effects().map(|seen| seen.response())
}

/// The address and the ICMP attribute of a Data indication that has nothing else.
#[track_caller]
fn read(response: &Response) -> (SocketAddr, Vec<u8>) {
    assert_eq!((response.message().method(), &response.0[..2]), (Method::Data, &[0x00, 0x17][..]));
    assert_eq!(response.message().attributes().count(), 2, "no DATA");
    let peer = response.address(AttributeType::XOR_PEER_ADDRESS).expect("a peer");
    (peer, response.first(AttributeType::ICMP).expect("ICMP"))
}

fn dropped(world: &World, reason: Reason) -> u64 {
    world.server.counters().drops[reason as usize]
}

/// Alice with a relay of either family, each permitted to its peer.
fn both_families() -> (World, [(RelayId, &'static str); 2]) {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.permit(path(CLIENT), &mut alice, &[PEER]), 0);
    let here = path("[2001:db8::9]:1");
    let mut alice = world.alice(here);
    let v6 = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    let (relay6, _) = world.allocate(here, &mut alice, vec![v6]);
    assert_eq!(world.permit(here, &mut alice, &[PEER_V6]), 0);
    (world, [(relay, PEER), (relay6, PEER_V6)])
}

/// TURN-8656-11.5-01, TURN-8656-11.5-03, TURN-8656-11.5-04, TURN-8656-18.13-01 (A09): which types are told, in which
/// form, and that the MTU stands only where there is one.
#[test]
fn turn_8656_11_5_01_icmp_is_told_in_a_data_indication() {
    let told: [&[(u8, u8)]; 2] = [&[(3, 0), (3, 3), (3, 4), (11, 0)], &[(1, 4), (2, 0), (3, 0)]];
    let ignored: [&[(u8, u8)]; 2] = [&[(0, 0), (4, 0), (5, 1), (8, 0), (12, 0)], &[(0, 0), (4, 1), (128, 0), (137, 0)]];
    let (mut world, relays) = both_families();
    for (place, (relay, peer)) in relays.into_iter().enumerate() {
        for (kind, code) in told[place] {
            world.pass(1);
            let response = icmp(&mut world, relay, peer, (*kind, *code, 1400)).expect("an indication");
            let mtu = if matches!((place, kind, code), (0, 3, 4) | (1, 2, 0)) { 1400_u32 } else { 0 };
            let value = [&[0, 0, *kind, *code][..], &mtu.to_be_bytes()].concat();
            assert_eq!(read(&response), (peer.parse().unwrap(), value));
        }
        for (kind, code) in ignored[place] {
            assert_eq!(icmp(&mut world, relay, peer, (*kind, *code, 1400)), None);
        }
    }
    assert_eq!(dropped(&world, Reason::IcmpIgnored), 9);
}

/// TURN-8656-11.5-02, -04: what counts is the permission for the peer, whoever complained; an unknown port is 0.
#[test]
fn turn_8656_11_5_02_the_permission_is_the_peers() {
    let (mut world, [(relay, _), _]) = both_families();
    assert_eq!(icmp(&mut world, relay, "198.51.100.8:7000", (3, 3, 0)), None);
    assert_eq!(dropped(&world, Reason::NoPermission), 1);
    let response = icmp(&mut world, relay, "198.51.100.7:0", (3, 1, 0)).expect("an indication");
    assert_eq!(read(&response).0, "198.51.100.7:0".parse().unwrap());
    world.pass(301);
    assert_eq!(icmp(&mut world, relay, PEER, (3, 3, 0)), None, "the permission is over");
    world.pass(301);
    assert_eq!(icmp(&mut world, relay, PEER, (3, 3, 0)), None, "the allocation is over");
    assert_eq!(dropped(&world, Reason::NoAllocation), 1);
}

#[test]
fn turn_8656_11_5_05_a_channel_does_not_carry_icmp() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, PEER), 0);
    let response = icmp(&mut world, relay, PEER, (3, 3, 0)).expect("an indication");
    assert_eq!(read(&response), (PEER.parse().unwrap(), vec![0, 0, 3, 3, 0, 0, 0, 0]));
}

/// TURN-8656-11.5-06: a bounded number in a second for each allocation, and none where it is switched off.
#[test]
fn turn_8656_11_5_06_icmp_is_rate_limited_and_switchable() {
    let (mut world, relays) = both_families();
    for (relay, peer) in relays {
        let unreachable = if peer == PEER { (3, 3, 0) } else { (1, 4, 0) };
        for _ in 0..2 {
            world.pass(1);
            let told = (0..100).filter(|_| icmp(&mut world, relay, peer, unreachable).is_some()).count();
            assert_eq!(told, 8);
        }
    }
    assert_eq!(dropped(&world, Reason::IcmpRateLimited), 4 * 92);
    world.pass(1);
    world.server.configure(std::sync::Arc::new(Config { icmp: false, ..config() }));
    assert_eq!(icmp(&mut world, relays[0].0, PEER, (3, 3, 0)), None);
}
