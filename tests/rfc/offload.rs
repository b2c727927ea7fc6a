//! Somebody else who relays ([`hairpin::turn::Offload`]): what he is told, when he is told otherwise, and that what he has
//! relayed counts as if it had passed through the machine.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use hairpin::stun::{AttributeType, ChannelNumber, Method, TransactionId};
use hairpin::turn::{
    Bandwidth, Config, Direction, EndReason, Event, FiveTuple, Flow, Letter, Limits, Now, PortRange, RelayAddress,
    RelayId, ReplyBuffer, Revocation, Server, SessionFilter, ShardIndex, Traffic, Transport, Verdict, WalkPlace,
};

use crate::client::{Client, bare, channel_data, data, lifetime, tcp, udp};
use crate::mirror::{NaiveMirror, Relayed};
use crate::mobility::{AWAY, mobile, settled, ticket};
use crate::tcp::{control, tcp_config};
use crate::world::{PEER, World, config, path, path_over, read_data_indication, send_indication, with_packet};

const HERE: &str = "192.0.2.10:40000";
const OTHER_PEER: &str = "198.51.100.8:7000";

/// A world with a mirror.
fn mirrored(config: Config) -> (World, NaiveMirror) {
    let mut world = World::with(config);
    let mirror = NaiveMirror::default();
    world.server.offload(mirror.of_shard(0));
    (world, mirror)
}

/// Alice with a channel to PEER.
fn bound(config: Config) -> (World, NaiveMirror, Client, RelayId) {
    let (mut world, mirror) = mirrored(config);
    let (mut alice, relay) = world.allocated(path(HERE));
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    (world, mirror, alice, relay)
}

/// Peers, channels and seconds left of all flows.
fn flows(world: &World, mirror: &NaiveMirror) -> Vec<(String, Option<u16>, u32)> {
    let flows = mirror.state().flows(0);
    assert_eq!(flows.len(), world.server.flows_mirrored());
    let seen = |(flow, until): (Flow, Now)| {
        (flow.peer.to_string(), flow.channel.map(|number| number.get()), world.clock.now.secs_until(until))
    };
    flows.into_iter().map(seen).collect()
}

fn flow(peer: &str, channel: Option<u16>, secs: u32) -> (String, Option<u16>, u32) {
    (peer.into(), channel, secs)
}

fn relay_of(world: &World) -> SocketAddr {
    *world.binds.last().expect("an allocation")
}

/// Whether the mirror relays for alice, from each side.
#[track_caller]
fn relays(world: &World, mirror: &NaiveMirror) -> bool {
    let now = world.clock.now;
    let there = mirror.client_sends(now, path(HERE), &channel_data(0x4000, b"there"));
    let back = mirror.peer_sends(now, relay_of(world), PEER.parse().unwrap(), b"back");
    assert_eq!(there.is_some(), back.is_some());
    there.is_some()
}

fn traffic_of(event: &Event) -> Option<Traffic> {
    if let Event::Ended { traffic, .. } = event { Some(*traffic) } else { None }
}

#[test]
fn a_channel_is_mirrored_both_ways_from_its_binding_on() {
    let (world, mirror, ..) = bound(config());
    let relay = relay_of(&world);
    let peer: SocketAddr = PEER.parse().unwrap();
    let expected =
        Flow { path: path(HERE), relay, relayed: relay, peer, peer_relay: None, channel: ChannelNumber::new(0x4000) };
    assert_eq!(mirror.state().flows(0), [(expected, world.clock.now.plus_secs(300))]);
    let there = mirror.client_sends(world.clock.now, path(HERE), &channel_data(0x4000, b"there"));
    assert_eq!(there, Some(Relayed::ToPeer { from: relay, to: peer, data: b"there".to_vec() }));
    let back = mirror.peer_sends(world.clock.now, relay, peer, b"back");
    assert_eq!(back, Some(Relayed::ToClient { path: path(HERE), message: channel_data(0x4000, b"back") }));
}

/// TURN-8656-12-02, 9-02: the permission is over before the channel is.
#[test]
fn a_flow_lives_as_long_as_channel_permission_and_allocation() {
    let (mut world, mirror, mut alice, _) = bound(config());
    world.pass_without_timers(299);
    assert!(relays(&world, &mirror));
    world.pass_without_timers(1);
    assert!(!relays(&world, &mirror), "its permission is over");
    assert_eq!(world.permit(path(HERE), &mut alice, &[PEER]), 0);
    assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 300)], "it is the channel's and the permission's end");
    world.pass_without_timers(200);
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![]).error(), 0);
    assert_eq!(world.permit(path(HERE), &mut alice, &[PEER]), 0);
    assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 100)], "the channel's");
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 300)]);
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(600)]).error(), 0);
    world.pass(290);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    world.pass(290);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 20)], "the allocation's");
}

#[test]
fn collecting_takes_out_what_has_expired() {
    let (mut world, mirror, ..) = bound(config());
    world.pass(300);
    assert_eq!(world.server.flows_mirrored(), 1);
    assert!(!world.server.collect_offloaded(world.clock));
    world.server.check_invariants();
    assert_eq!((flows(&world, &mirror), mirror.state().calls), (vec![], [1, 0, 0, 1]));
}

/// Whether nobody relays for alice any more, and no number is lost, when this ends her allocation.
#[track_caller]
fn ends_at_once(why: EndReason, end: impl FnOnce(&mut World, &mut Client)) {
    let (mut world, mirror, mut alice, _) = bound(config());
    assert!(relays(&world, &mirror));
    end(&mut world, &mut alice);
    world.drain_effects();
    world.server.check_invariants();
    assert_eq!((flows(&world, &mirror), relays(&world, &mirror)), (vec![], false));
    let expected = Traffic { packets_to_peer: 1, bytes_to_peer: 5, packets_to_client: 1, bytes_to_client: 4 };
    assert_eq!(world.events.iter().rev().find_map(traffic_of), Some(expected), "{why:?}");
    assert_eq!(world.server.counters().allocations_ended[why as usize], 1);
    assert_eq!(
        (Traffic::total(&world.server.counters().traffic), world.server.counters().mirrored_traffic),
        (expected, expected)
    );
}

#[test]
fn whatever_ends_an_allocation_ends_its_flows_and_counts_them() {
    ends_at_once(EndReason::Refreshed, |world, alice| {
        assert_eq!(world.refresh(path(HERE), alice, vec![lifetime(0)]).error(), 0);
    });
    ends_at_once(EndReason::Shutdown, |world, _| world.server.shut_down(world.clock));
    ends_at_once(EndReason::Expired, |world, _| world.pass(700));
    ends_at_once(EndReason::Killed, |world, _| {
        let (from, all) = (WalkPlace::default(), SessionFilter::default());
        assert_eq!(world.server.end_sessions(world.clock, from, 100, &all, EndReason::Killed).0, 1);
    });
    ends_at_once(EndReason::Revoked, |world, _| {
        let mut without = config();
        without.credentials.users = [].into_iter().collect();
        let (old, new) = (Arc::new(config()), Arc::new(without));
        world.server.configure(Arc::clone(&new));
        let revocation = Revocation::between(&old, &new).expect("alice is gone");
        world.server.end_revoked(world.clock, WalkPlace::default(), 100, &revocation);
    });
}

/// TURN-8656-21.2.2-03.
#[test]
fn a_policy_that_refuses_the_peer_ends_its_flows_at_once() {
    let (mut world, mirror, mut alice, _) = bound(config());
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4001, "198.51.101.9:7000"), 0);
    assert!(relays(&world, &mirror));
    let mut stricter = config();
    stricter.peers.allow.clear();
    stricter.peers.deny.push("198.51.100.0/24".parse().unwrap());
    world.server.configure(Arc::new(stricter));
    world.server.check_invariants();
    assert_eq!((flows(&world, &mirror).len(), relays(&world, &mirror)), (1, false));
    assert_eq!(Traffic::total(&world.server.counters().traffic).packets_to_peer, 1, "and what has passed counts");
}

#[test]
fn an_allocation_with_a_limit_to_its_bandwidth_is_not_mirrored() {
    let (mut world, mirror, mut alice, _) = bound(config());
    let mut stricter = config();
    stricter.limits.bandwidth = Bandwidth { per_account: 1_000_000, ..Bandwidth::default() };
    world.server.configure(Arc::new(stricter));
    assert_eq!(flows(&world, &mirror), []);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    assert_eq!(flows(&world, &mirror), []);
    world.server.configure(Arc::new(config()));
    assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 300)]);
}

#[test]
fn only_clients_over_udp_are_mirrored() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let (mut world, mirror) = mirrored(config());
        let here = path_over(transport, HERE);
        let (mut alice, relay) = world.allocated(here);
        assert_eq!(world.bind_channel(here, &mut alice, 0x4000, PEER), 0);
        assert_eq!(world.permit(here, &mut alice, &[OTHER_PEER]), 0);
        assert!(world.peer_sends(relay, OTHER_PEER, b"x").relayed());
        assert_eq!(mirror.state().calls, [0; 4], "{transport:?}");
    }
}

#[test]
fn tcp_relays_are_not_mirrored() {
    let (mut world, mirror) = mirrored(tcp_config());
    let mut alice = world.alice(control());
    let request = alice.signed(Method::Allocate, vec![tcp()]);
    assert_eq!(world.exchange(control(), &request).error(), 0);
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    assert_eq!(mirror.state().calls, [0; 4]);
}

/// TURN-8656-8.2-04.
#[test]
fn one_half_of_two_ends_with_its_flows_alone() {
    let (mut world, mirror) = mirrored(config());
    let mut alice = world.alice(path(HERE));
    let both = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    world.allocate(path(HERE), &mut alice, vec![both]);
    let peer_v6 = "[2001:db8:1::7]:7000";
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4001, peer_v6), 0);
    assert_eq!(flows(&world, &mirror).len(), 2);
    let relay = world.binds[0];
    mirror.peer_sends(world.clock.now, relay, PEER.parse().unwrap(), b"four").expect("mirrored");
    mirror.client_sends(world.clock.now, path(HERE), &channel_data(0x4001, b"sixsix")).expect("mirrored");
    let family = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1, 0, 0, 0]);
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(0), family]).error(), 0);
    assert_eq!(flows(&world, &mirror), [flow(peer_v6, Some(0x4001), 300)]);
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(0)]).error(), 0);
    assert_eq!(flows(&world, &mirror), []);
    let ended: Vec<Traffic> = world.events.iter().filter_map(traffic_of).collect();
    let (to_client, to_peer) = ((1, 4), (1, 6));
    let seen = |traffic: &Traffic| {
        let Traffic { packets_to_peer, bytes_to_peer, packets_to_client, bytes_to_client } = *traffic;
        [(packets_to_peer, bytes_to_peer), (packets_to_client, bytes_to_client)]
    };
    assert_eq!(ended.iter().map(seen).collect::<Vec<_>>(), [[(0, 0), to_client], [to_peer, (0, 0)]]);
}

/// The same by its time, where no request of the client follows.
#[test]
fn one_half_of_two_expires_with_its_flows_alone() {
    let (mut world, mirror) = mirrored(config());
    let mut alice = world.alice(path(HERE));
    let both = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    world.allocate(path(HERE), &mut alice, vec![both]);
    let family = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1, 0, 0, 0]);
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(3600), family]).error(), 0);
    world.pass(500);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4001, "[2001:db8:1::7]:7000"), 0);
    assert_eq!(flows(&world, &mirror).len(), 2);
    world.pass(102);
    assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 198)]);
}

/// TURN-8656-12-07: after its time a number may have another peer.
#[test]
fn a_number_with_another_peer_is_another_flow() {
    let (mut world, mirror, mut alice, _) = bound(config());
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(3600)]).error(), 0);
    world.pass(600);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, OTHER_PEER), 0);
    assert_eq!(flows(&world, &mirror), [flow(OTHER_PEER, Some(0x4000), 300)]);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4001, PEER), 0);
    assert_eq!(flows(&world, &mirror), [flow(OTHER_PEER, Some(0x4000), 300), flow(PEER, Some(0x4001), 300)]);
}

/// TURN-8656-12.2-05 and others: a request that is refused moves nothing.
#[test]
fn requests_that_are_refused_leave_the_mirror_alone() {
    let (mut world, mirror, mut alice, _) = bound(config());
    world.pass(10);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, OTHER_PEER), 400);
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4002, "8.8.8.8:1"), 403);
    let mut eve = world.client(path(HERE), "bob", "hunter2");
    assert_eq!(world.bind_channel(path(HERE), &mut eve, 0x4000, PEER), 441);
    eve.password = "wrong".into();
    let calls = mirror.state().calls;
    assert_eq!(world.bind_channel(path(HERE), &mut eve, 0x4000, PEER), 401);
    assert_eq!((flows(&world, &mirror), calls), (vec![flow(PEER, Some(0x4000), 290)], [1, 0, 0, 0]));
}

/// Firefox knows nothing else (F03).
#[test]
fn indications_are_mirrored_once_data_has_come_by() {
    for from_peer in [false, true] {
        let (mut world, mirror) = mirrored(config());
        let (mut alice, relay) = world.allocated(path(HERE));
        assert_eq!(world.permit(path(HERE), &mut alice, &[PEER, OTHER_PEER]), 0);
        assert_eq!(flows(&world, &mirror), [], "a permission has no port");
        let sent = send_indication(PEER, vec![data(b"there")]);
        world.pass(1);
        if from_peer {
            assert!(world.peer_sends(relay, PEER, b"first").relayed());
        } else {
            assert!(world.send(path(HERE), &sent).unwrap().relayed());
        }
        assert_eq!(flows(&world, &mirror), [flow(PEER, None, 299)]);
        let bound = relay_of(&world);
        let there = mirror.client_sends(world.clock.now, path(HERE), &sent);
        let to = PEER.parse().unwrap();
        assert_eq!(there, Some(Relayed::ToPeer { from: bound, to, data: b"there".to_vec() }));
        match mirror.peer_sends(world.clock.now, bound, to, b"back") {
            Some(Relayed::ToClient { message, .. }) => {
                assert_eq!(read_data_indication(&message), (to, b"back".to_vec()));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(world.permit(path(HERE), &mut alice, &[PEER]), 0);
        assert_eq!(flows(&world, &mirror), [flow(PEER, None, 300)], "refreshed");
        assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
        assert_eq!(flows(&world, &mirror), [flow(PEER, Some(0x4000), 300)], "replaced");
        world.server.collect_offloaded(world.clock);
        let Traffic { packets_to_peer, packets_to_client, .. } = Traffic::total(&world.server.counters().traffic);
        assert_eq!(packets_to_peer + packets_to_client, 3);
    }
}

/// A channel that has run out, whose permission lives: peers are heard in Data indications again.
#[test]
fn where_a_channel_was_an_indication_may_be_mirrored() {
    let (mut world, mirror, mut alice, relay) = bound(config());
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(3600)]).error(), 0);
    world.pass(299);
    assert_eq!(world.permit(path(HERE), &mut alice, &[PEER]), 0);
    world.pass(299);
    assert_eq!(world.permit(path(HERE), &mut alice, &[PEER]), 0);
    world.pass(2);
    assert!(world.peer_sends(relay, PEER, b"x").relayed());
    assert_eq!(flows(&world, &mirror), [flow(PEER, None, 298)]);
}

#[test]
fn a_mirror_that_refuses_is_asked_again_with_the_next_request_only() {
    let (mut world, mirror, mut alice, relay) = bound(config());
    assert_eq!(world.permit(path(HERE), &mut alice, &[OTHER_PEER]), 0);
    mirror.state().is_refusing = true;
    let before = mirror.state().calls;
    for _ in 0..1000 {
        assert!(world.peer_sends(relay, OTHER_PEER, b"x").relayed());
    }
    assert_eq!((mirror.state().calls[0], world.server.counters().flows_refused), (before[0] + 1, 1));
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4001, "198.51.100.9:7"), 0);
    assert_eq!(world.server.counters().flows_refused, 2);
    mirror.state().is_refusing = false;
    assert!(world.peer_sends(relay, "198.51.100.9:7", b"x").relayed());
    assert_eq!(flows(&world, &mirror).len(), 1, "what has a channel waits for a request");
    assert_eq!(world.permit(path(HERE), &mut alice, &[OTHER_PEER]), 0);
    assert_eq!(flows(&world, &mirror).len(), 2);
    for _ in 0..256 {
        assert!(world.peer_sends(relay, OTHER_PEER, b"x").relayed());
    }
    assert_eq!(flows(&world, &mirror).len(), 3);
    assert_eq!(world.server.counters().flows_mirrored, 3);
}

#[test]
fn an_allocation_has_so_many_flows_and_channels_come_first() {
    let mut config = config();
    config.limits = Limits { mirrored_flows_per_allocation: 3, ..config.limits };
    let (mut world, mirror) = mirrored(config.clone());
    let (mut alice, relay) = world.allocated(path(HERE));
    assert_eq!(world.permit(path(HERE), &mut alice, &[PEER]), 0);
    for port in 1..=5 {
        assert!(world.peer_sends(relay, &format!("198.51.100.7:{port}"), b"x").relayed());
    }
    assert_eq!(flows(&world, &mirror).len(), 3);
    for place in 0..4 {
        let peer = format!("198.51.100.7:{}", 11 + place);
        assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000 + place, &peer), 0);
    }
    let channels: Vec<_> = flows(&world, &mirror).iter().map(|(_, channel, _)| *channel).collect();
    assert_eq!(channels, [Some(0x4000), Some(0x4001), Some(0x4002)]);
    config.limits.mirrored_flows_per_allocation = 0;
    world.server.configure(Arc::new(config));
    world.server.check_invariants();
    assert_eq!(flows(&world, &mirror), []);
}

/// What has passed elsewhere shows where everything else does, within the second.
#[test]
fn what_passed_is_counted_when_it_is_collected() {
    let (mut world, mirror, ..) = bound(config());
    let relay = relay_of(&world);
    world.events.clear();
    for _ in 0..5 {
        mirror.client_sends(world.clock.now, path(HERE), &channel_data(0x4000, &[0x80; 100])).expect("mirrored");
    }
    mirror.peer_sends(world.clock.now, relay, PEER.parse().unwrap(), b"").expect("mirrored");
    assert_eq!(
        (Traffic::total(&world.server.counters().traffic), mirror.state().uncollected(0).bytes_to_peer),
        (Traffic::default(), 500)
    );
    assert!(!world.server.collect_offloaded(world.clock));
    assert_eq!(mirror.state().uncollected(0), Traffic::default());
    world.drain_effects();
    let expected = Traffic { packets_to_peer: 5, bytes_to_peer: 500, packets_to_client: 1, bytes_to_client: 0 };
    assert_eq!(
        (Traffic::total(&world.server.counters().traffic), world.server.counters().mirrored_traffic),
        (expected, expected)
    );
    world.server.walk_sessions(world.clock, WalkPlace::default(), 10, &SessionFilter::default(), |session| {
        assert_eq!(session.relayed[0].traffic, expected);
        ControlFlow::Continue(())
    });
    let first = |event: &Event| match event {
        Event::FirstData { direction, peer, .. } => (*direction, peer.to_string()),
        other => panic!("{other:?}"),
    };
    let told: Vec<_> = world.events.drain(..).map(|event| first(&event)).collect();
    assert_eq!(told, [(Direction::ToPeer, PEER.into()), (Direction::ToClient, PEER.into())]);
    mirror.peer_sends(world.clock.now, relay, PEER.parse().unwrap(), b"more").expect("mirrored");
    world.server.collect_offloaded(world.clock);
    world.server.collect_offloaded(world.clock);
    world.drain_effects();
    assert_eq!((Traffic::total(&world.server.counters().traffic).packets_to_client, world.events.len()), (2, 0));
}

/// Abuse S15.
#[test]
fn s15_a_tunnel_through_the_mirror_is_ended_as_well() {
    let mut config = config();
    config.limits.foreign_packets_percent = 50;
    let (mut world, mirror, ..) = bound(config);
    for _ in 0..32 {
        mirror.client_sends(world.clock.now, path(HERE), &channel_data(0x4000, &[4, 0, 0, 0])).expect("mirrored");
    }
    world.server.collect_offloaded(world.clock);
    world.drain_effects();
    world.server.check_invariants();
    assert_eq!((flows(&world, &mirror), world.server.allocations()), (vec![], 0));
    let Some(Event::Ended { why: EndReason::Tunnel, traffic, hints, .. }) = world.events.last() else {
        panic!("{:?}", world.events.last());
    };
    assert_eq!((traffic.packets_to_peer, hints.seen, hints.foreign, hints.ports), (32, 32, 32, 1));
}

/// A mirror may lose what it was told: then the machine relays, and nobody sees a difference.
#[test]
fn what_the_mirror_forgets_passes_here() {
    let (mut world, mirror, mut alice, relay) = bound(config());
    mirror.state().forget(None);
    assert!(!relays(&world, &mirror));
    assert!(world.send(path(HERE), &channel_data(0x4000, b"there")).unwrap().relayed());
    assert!(world.peer_sends(relay, PEER, b"back").relayed());
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4000, PEER), 0);
    assert_eq!(world.refresh(path(HERE), &mut alice, vec![lifetime(0)]).error(), 0);
    assert_eq!(flows(&world, &mirror), []);
}

/// Both clients behind the same server: straight from one to the other, where both are mirrored.
#[test]
fn between_two_relays_of_this_server_data_needs_both_flows() {
    let mut nat = config();
    nat.relays[0] = RelayAddress { bind: "10.0.0.5".parse().unwrap(), advertise: "203.0.113.5".parse().unwrap() };
    let (mut world, mirror, mut alice, _) = bound(nat);
    let there = path("192.0.2.20:40000");
    let mut bob = world.client(there, "bob", "hunter2");
    world.allocate(there, &mut bob, vec![]);
    let advertised = |local: SocketAddr| SocketAddr::new("203.0.113.5".parse().unwrap(), local.port()).to_string();
    let relayed = [advertised(world.binds[0]), advertised(world.binds[1])];
    assert_eq!(world.bind_channel(path(HERE), &mut alice, 0x4001, &relayed[1]), 0);
    let message = channel_data(0x4001, b"hello");
    assert_eq!(mirror.client_sends(world.clock.now, path(HERE), &message), None, "bob has not permitted it");
    assert_eq!(world.permit(there, &mut bob, &[&relayed[0]]), 0);
    assert!(world.send(path(HERE), &message).unwrap().relayed());
    let peer_relays: Vec<_> = mirror.state().flows(0).iter().map(|(flow, _)| flow.peer_relay).collect();
    assert_eq!(peer_relays, [None, Some(world.binds[1]), Some(world.binds[0])]);
    match mirror.client_sends(world.clock.now, path(HERE), &message) {
        Some(Relayed::ToClient { path, message }) => {
            assert_eq!((path, read_data_indication(&message).0.to_string()), (there, relayed[0].clone()));
        }
        other => panic!("{other:?}"),
    }
    world.server.collect_offloaded(world.clock);
    let Traffic { packets_to_peer, packets_to_client, .. } = Traffic::total(&world.server.counters().traffic);
    assert_eq!((packets_to_peer, packets_to_client), (2, 2));
}

/// It can be switched on and off while calls are on.
#[test]
fn a_mirror_may_come_and_go() {
    let mut world = World::new();
    let mut clients: Vec<(FiveTuple, Client)> = Vec::new();
    for place in 0..20 {
        let here = path(&format!("192.0.2.{place}:40000"));
        let (mut alice, _) = world.allocated(here);
        assert_eq!(world.bind_channel(here, &mut alice, 0x4000, PEER), 0);
        clients.push((here, alice));
    }
    let [one, other] = [NaiveMirror::default(), NaiveMirror::default()];
    world.server.offload(one.of_shard(0));
    assert_eq!(world.server.flows_mirrored(), 0);
    assert!(!world.server.collect_offloaded(world.clock));
    assert_eq!(flows(&world, &one).len(), 20);
    one.client_sends(world.clock.now, clients[7].0, &channel_data(0x4000, b"abc")).expect("mirrored");
    world.server.offload(other.of_shard(0));
    world.server.check_invariants();
    assert_eq!((one.state().entries.len(), Traffic::total(&world.server.counters().traffic).bytes_to_peer), (0, 3));
    world.server.collect_offloaded(world.clock);
    assert_eq!(flows(&world, &other).len(), 20);
    world.server.stop_offload();
    world.server.check_invariants();
    assert_eq!((other.state().entries.len(), world.server.flows_mirrored()), (0, 0));
    assert!(world.send(clients[3].0, &channel_data(0x4000, b"abc")).unwrap().relayed());
}

/// Each call looks at so many places, and together they look at all.
#[test]
fn collecting_is_done_in_slices() {
    const COUNT: u32 = 10_000;
    let mut config = config();
    config.credentials.guests = vec!["10.0.0.0/8".parse().unwrap()];
    config.ports = PortRange { first: 1024, last: 65_535, quarantine_secs: 0 };
    config.limits = Limits { allocations: COUNT as usize, ..config.limits };
    let (mut world, mirror) = mirrored(config);
    world.may_send_several = true;
    let peer = crate::client::peer_for(TransactionId([9; 12]), PEER);
    for client in 0..COUNT {
        let here = path(&format!("{}:1", std::net::Ipv4Addr::from_bits(0x0A00_0000 + client)));
        for request in [
            bare(Method::Allocate, vec![udp()]),
            bare(Method::ChannelBind, vec![crate::client::channel(0x4000), peer.clone()]),
        ] {
            let mut reply = ReplyBuffer::new();
            let verdict =
                with_packet(&request, |packet| world.server.from_client(world.clock, here, packet, &mut reply));
            assert!(!matches!(verdict, Verdict::Drop(_)));
            world.drain_effects();
        }
    }
    assert_eq!(world.server.flows_mirrored(), COUNT as usize);
    for round in 0..2 {
        let mut calls = 1;
        while world.server.collect_offloaded(world.clock) {
            calls += 1;
            let asked = mirror.state().calls[2] - round * COUNT;
            assert!(asked <= 4096 * calls, "{asked} flows in {calls} calls");
        }
        assert_eq!((mirror.state().calls[2], calls > 2), ((round + 1) * COUNT, true));
    }
}

/// MOB-8016-3.2.2-07: until data comes from the new place, data from the old one is served, and each datagram decides.
#[test]
fn mob_8016_3_2_2_07_who_is_about_to_move_is_not_mirrored() {
    let (mut world, mirror) = mirrored(mobile());
    let (_, relay, first) = settled(&mut world, path(HERE));
    assert_eq!(flows(&world, &mirror).len(), 1);
    mirror.client_sends(world.clock.now, path(HERE), &channel_data(0x4000, b"abc")).expect("mirrored");
    let mut alice = world.alice(path(AWAY));
    assert_eq!(world.refresh(path(AWAY), &mut alice, vec![ticket(&first)]).error(), 0);
    assert_eq!(flows(&world, &mirror), []);
    assert!(world.peer_sends(relay, PEER, b"x").relayed());
    assert_eq!(world.bind_channel(path(AWAY), &mut alice, 0x4000, PEER), 0);
    assert_eq!(flows(&world, &mirror), [], "a request is no data");
    assert!(world.send(path(AWAY), &channel_data(0x4000, b"abc")).unwrap().relayed());
    assert_eq!(flows(&world, &mirror).len(), 1);
    assert_eq!(mirror.client_sends(world.clock.now, path(HERE), &channel_data(0x4000, b"abc")), None);
    assert!(mirror.client_sends(world.clock.now, path(AWAY), &channel_data(0x4000, b"abc")).is_some());
    world.server.collect_offloaded(world.clock);
    assert_eq!(Traffic::total(&world.server.counters().traffic).packets_to_peer, 3);
}

/// Datagrams are the same on the wire, whichever shard they come to. If that one does not pass them on, the client is
/// out of reach, and so it is for the mirror.
#[test]
fn whoever_comes_by_another_shard_is_mirrored_where_the_allocation_is() {
    let (mut world, mirror) = mirrored(mobile());
    world.server = Server::new(Arc::new(mobile()), ShardIndex { index: 0, count: 2 }, [1; 32]);
    world.server.offload(mirror.of_shard(0));
    let (_, _, first) = settled(&mut world, path(HERE));
    let mut alice = world.alice(path(AWAY));
    let request = alice.signed(Method::Refresh, vec![ticket(&first)]);
    assert_eq!(world.carried(1, path(AWAY), &request).unwrap().response().error(), 0);
    assert_eq!(flows(&world, &mirror), []);
    assert!(world.carried(1, path(AWAY), &channel_data(0x4000, b"abc")).unwrap().relayed());
    assert!(mirror.client_sends(world.clock.now, path(AWAY), &channel_data(0x4000, b"abc")).is_some());
    world.server.told(world.clock, 1, Letter::Refuse { path: path(AWAY) });
    world.drain_effects();
    world.server.check_invariants();
    assert_eq!((flows(&world, &mirror), world.server.allocations()), (vec![], 1));
}
