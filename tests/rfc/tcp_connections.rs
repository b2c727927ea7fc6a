//! ConnectionAttempt, ConnectionBind, and the ends of connections (RFC 6062 §5.3 to §5.5).

use std::net::SocketAddr;

use hairpin::stun::{AttributeType, Class, Method, TransactionId};
use hairpin::turn::{
    ConnectionEnd, ConnectionId, EndReason, Event, FiveTuple, Reason, RelayId, Server, ShardIndex, Traffic, Transport,
};

use crate::client::{Client, Response, bare, lifetime, peer_for, tcp};
use crate::tcp::{connect, connected, connection_id, control, tcp_config, tcp_world};
use crate::world::{PEER, Seen, World, path_over};

/// The connection that is to carry data.
fn fresh() -> FiveTuple {
    path_over(Transport::Tcp, "198.51.100.77:5000")
}

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

/// A connection that Alice has asked for and not bound.
fn unbound() -> (World, Client, RelayId, ConnectionId) {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    let id = connection_id(&connected(&mut world, Ok(())));
    (world, alice, relay, id)
}

/// The same user on another connection of his, where he has been challenged.
fn on(world: &mut World, path: FiveTuple, username: &str, password: &str) -> Client {
    let mut client = Client::new(username, password);
    client.nonce = world.exchange(path, &bare(Method::ConnectionBind, vec![])).nonce();
    client
}

fn bind(world: &mut World, path: FiveTuple, client: &mut Client, id: ConnectionId) -> Seen {
    let attribute = (AttributeType::CONNECTION_ID, id.0.to_be_bytes().to_vec());
    let request = client.signed(Method::ConnectionBind, vec![attribute]);
    world.send(path, &request).expect("an answer")
}

/// Alice binds it on a connection of its own.
fn bind_well(world: &mut World, id: ConnectionId) {
    let mut alice = on(world, fresh(), "alice", "s3cret");
    let Seen::Bound(bound, response) = bind(world, fresh(), &mut alice, id) else { panic!("not bound") };
    assert_eq!((bound, response.error()), (id, 0));
    assert!(response.is_success() && response.message().has_integrity());
}

#[test]
fn tcp_6062_5_2_08_unbound_connections_are_closed_after_30_s() {
    let (mut world, mut alice, relay, id) = unbound();
    world.pass(29);
    assert_eq!(world.disconnected, []);
    world.pass(1);
    assert_eq!(world.disconnected, [id]);
    assert_eq!(world.server.counters().peer_connections_ended[ConnectionEnd::NeverBound as usize], 1);
    let mut again = on(&mut world, fresh(), "alice", "s3cret");
    assert_eq!(bind(&mut world, fresh(), &mut again, id).response().error(), 400);
    assert_eq!(connect(&mut world, &mut alice, PEER), None, "to try again is allowed");
    let event = world.events.iter().find(|event| matches!(event, Event::PeerDisconnected { .. })).cloned();
    let (path, why, traffic) = (control(), ConnectionEnd::NeverBound, Traffic::default());
    let session = world.server.session_of(world.clock, &path);
    assert_eq!(event, Some(Event::PeerDisconnected { session, relay, path, peer: peer(), why, traffic }));
}

/// TCP-6062-5.3-01
#[test]
fn tcp_6062_5_3_01_without_permission_a_peer_is_turned_away_unheard() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.server.peer_accepted(world.clock, relay, peer()), None);
    assert_eq!(world.drain_effects(), None);
    assert_eq!(world.server.counters().drops[Reason::NoPermission as usize], 1);
    // Nor after the permission has ended.
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    world.pass(300);
    assert_eq!(world.server.peer_accepted(world.clock, relay, peer()), None);
    // Connect asks for one peer, not for visits.
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:7501"), None);
    assert_eq!(connected(&mut world, Ok(())).error(), 0);
    assert_eq!(world.server.peer_accepted(world.clock, relay, peer()), None);
}

/// Abuse S3: the policy may have changed since.
#[test]
fn s3_policy_is_asked_again_when_a_peer_comes() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    let mut config = tcp_config();
    config.peers.allow.clear();
    world.server.configure(config.into());
    assert_eq!(world.server.peer_accepted(world.clock, relay, peer()), None);
    assert_eq!(world.server.peer_connections(), 0);
}

fn accepted(world: &mut World, relay: RelayId, peer: SocketAddr) -> (ConnectionId, Response) {
    let id = world.server.peer_accepted(world.clock, relay, peer).expect("let in");
    world.server.check_invariants();
    (id, world.drain_effects().expect("a ConnectionAttempt").response())
}

#[test]
fn tcp_6062_5_3_02_the_client_is_told_of_a_permitted_peer() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.permit(control(), &mut alice, &["198.51.100.7:1"]), 0);
    let (id, indication) = accepted(&mut world, relay, peer());
    assert_eq!(
        (indication.message().method(), indication.message().class()),
        (Method::ConnectionAttempt, Class::Indication)
    );
    assert_eq!(indication.0[..2], [0x00, 0x1C]);
    assert_eq!(indication.address(AttributeType::XOR_PEER_ADDRESS), Some(peer()));
    assert_eq!(connection_id(&indication), id);
    bind_well(&mut world, id);
}

#[test]
fn tcp_6062_5_3_04_an_accepted_peer_waits_30_s() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    let (id, _) = accepted(&mut world, relay, peer());
    world.pass(29);
    assert_eq!(world.disconnected, []);
    world.pass(1);
    assert_eq!(world.disconnected, [id]);
    assert_eq!(world.server.peer_connections(), 0);
}

/// A peer that has gone unnoticed comes again from the same port.
#[test]
fn a_returning_peer_takes_the_place_of_its_former_self() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    let (first, _) = accepted(&mut world, relay, peer());
    let (second, _) = accepted(&mut world, relay, peer());
    assert_ne!(first, second);
    assert_eq!(world.disconnected, [first]);
    bind_well(&mut world, second);
}

#[test]
fn tcp_6062_5_4_01_over_udp_nothing_is_bound() {
    let (mut world, _, _, id) = unbound();
    for transport in [Transport::Udp, Transport::Dtls] {
        let path = path_over(transport, "198.51.100.77:5000");
        let mut alice = on(&mut world, path, "alice", "s3cret");
        assert_eq!(bind(&mut world, path, &mut alice, id).response().error(), 400);
    }
    bind_well(&mut world, id);
}

#[test]
fn tcp_6062_5_4_02_missing_unknown_and_used_ids_are_400() {
    let (mut world, _, _, id) = unbound();
    let mut alice = on(&mut world, fresh(), "alice", "s3cret");
    for value in [None, Some(vec![1, 2, 3]), Some(vec![0; 8])] {
        let own = value.map(|value| (AttributeType::CONNECTION_ID, value));
        let request = alice.signed(Method::ConnectionBind, own.into_iter().collect());
        assert_eq!(world.exchange(fresh(), &request).error(), 400);
    }
    let unknown = ConnectionId(id.0.wrapping_add(1));
    assert_eq!(bind(&mut world, fresh(), &mut alice, unknown).response().error(), 400);
    bind_well(&mut world, id);
    let other = path_over(Transport::Tls, "198.51.100.77:5001");
    let mut alice = on(&mut world, other, "alice", "s3cret");
    assert_eq!(bind(&mut world, other, &mut alice, id).response().error(), 400, "already bound");
}

/// A peer that has not answered yet has nothing to be bound to.
#[test]
fn tcp_6062_5_4_02_a_connection_being_made_is_not_bound() {
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    let id = world.connects[0].connection;
    let mut alice = on(&mut world, fresh(), "alice", "s3cret");
    assert_eq!(bind(&mut world, fresh(), &mut alice, id).response().error(), 400);
}

/// Nor can the control connection of an allocation carry data.
#[test]
fn tcp_6062_5_4_02_a_control_connection_is_not_bound() {
    let (mut world, mut alice, _, id) = unbound();
    assert_eq!(bind(&mut world, control(), &mut alice, id).response().error(), 400);
    bind_well(&mut world, id);
}

/// Abuse S9: the id alone opens nothing.
#[test]
fn tcp_6062_5_4_03_only_the_owner_of_the_allocation_binds() {
    let (mut world, _, _, id) = unbound();
    let attribute = (AttributeType::CONNECTION_ID, id.0.to_be_bytes().to_vec());
    let bare = bare(Method::ConnectionBind, vec![attribute]);
    assert_eq!(world.exchange(fresh(), &bare).error(), 401);
    let mut bob = on(&mut world, fresh(), "bob", "hunter2");
    assert_eq!(bind(&mut world, fresh(), &mut bob, id).response().error(), 441);
    let mut thief = on(&mut world, fresh(), "alice", "guessed");
    assert_eq!(bind(&mut world, fresh(), &mut thief, id).response().error(), 401);
    bind_well(&mut world, id);
}

/// REST-04: an allocation outlives the time-limited name it was made with, and so do the names of its data connections.
#[test]
fn rest_04_a_name_that_expired_still_binds_for_its_allocation() {
    let mut world = World::with(tcp_config());
    let username = format!("{}:carol", crate::world::UNIX_START + 10);
    let password = hairpin::turn::TimeLimitedForm::default().password(b"north", &username);
    let mut carol = world.client(control(), &username, &password);
    let request = carol.signed(Method::Allocate, vec![tcp()]);
    assert_eq!(world.exchange(control(), &request).error(), 0);
    world.pass(11);
    assert_eq!(connect(&mut world, &mut carol, PEER), None);
    let id = connection_id(&connected(&mut world, Ok(())));
    let mut again = on(&mut world, fresh(), &username, &password);
    let elsewhere = ConnectionId(id.0.wrapping_add(1));
    assert_eq!(bind(&mut world, fresh(), &mut again, elsewhere).response().error(), 401);
    assert!(matches!(bind(&mut world, fresh(), &mut again, id), Seen::Bound(..)));
}

/// Guests have no name but their address.
#[test]
fn a_guest_binds_from_his_own_address_only() {
    let mut config = tcp_config();
    config.credentials.guests = vec!["198.51.100.64/26".parse().unwrap()];
    let mut world = World::with(config);
    let own = bare(Method::Allocate, vec![tcp()]);
    assert_eq!(world.exchange(control(), &own).error(), 0);
    let request = TransactionId([9; 12]);
    let connect = bare(Method::Connect, vec![peer_for(request, PEER)]);
    assert_eq!(world.send(control(), &connect), None);
    let id = connection_id(&connected(&mut world, Ok(())));
    let bind = bare(Method::ConnectionBind, vec![(AttributeType::CONNECTION_ID, id.0.to_be_bytes().to_vec())]);
    let other = path_over(Transport::Tcp, "198.51.100.78:5000");
    assert_eq!(world.exchange(other, &bind).error(), 441);
    assert!(matches!(world.send(fresh(), &bind), Some(Seen::Bound(..))));
}

/// Whichever shard the kernel brings the new connection to, the id says where it belongs.
#[test]
fn a_connection_bind_is_sent_to_the_shard_of_its_id() {
    let (mut world, _, _, id) = unbound();
    assert_eq!(id.shard(1), 0);
    let place = ShardIndex { index: 1, count: 3 };
    world.server = Server::new(tcp_config().into(), place, [7; 32]);
    let mut alice = on(&mut world, fresh(), "alice", "s3cret");
    for number in 0..6 {
        let seen = bind(&mut world, fresh(), &mut alice, ConnectionId(0xFFFF_FFF0 + number));
        match (0xFFFF_FFF0 + number) % 3 {
            1 => assert_eq!(seen.response().error(), 400, "its own, and unknown"),
            shard => assert_eq!(seen, Seen::NotMine { shard: shard as u16 }),
        }
    }
    // What that shard makes is its own.
    let mut alice = world.alice(control());
    let request = alice.signed(Method::Allocate, vec![tcp()]);
    assert_eq!(world.exchange(control(), &request).error(), 0);
    for port in 20_000..20_004 {
        connect(&mut world, &mut alice, &format!("198.51.100.7:{port}"));
    }
    let made = world.connects.iter().filter(|asked| asked.connection.shard(3) == 1);
    assert_eq!(made.count(), 4);
    // With an allocation a connection does not move.
    let elsewhere = ConnectionId(world.connects[0].connection.0 / 3 * 3);
    assert_eq!(bind(&mut world, control(), &mut alice, elsewhere).response().error(), 400);
}

/// TCP-6062-5.5-01: whatever ends the allocation.
#[test]
fn tcp_6062_5_5_01_with_the_allocation_end_its_connections() {
    for (why, code) in [(EndReason::Refreshed, 0), (EndReason::Expired, 1), (EndReason::PathClosed, 2)] {
        let (mut world, mut alice, _, id) = unbound();
        bind_well(&mut world, id);
        assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:7501"), None);
        assert_eq!(connected(&mut world, Ok(())).error(), 0);
        match code {
            0 => assert_eq!(world.refresh(control(), &mut alice, vec![lifetime(0)]).error(), 0),
            // Only the bound one lives that long.
            1 => world.pass(602),
            _ => {
                world.server.path_closed(world.clock, control());
                assert_eq!(world.drain_effects(), None);
            }
        }
        world.server.check_invariants();
        world.disconnected.sort();
        assert_eq!(world.disconnected.len(), 2, "{why:?}");
        assert!(world.disconnected.contains(&id));
        assert_eq!(world.server.peer_connections(), 0);
        let last = world.events.iter().rev().find(|event| matches!(event, Event::Ended { .. }));
        assert!(matches!(last, Some(Event::Ended { why: told, .. }) if *told == why));
    }
}

/// A Connect that is being worked on when the allocation ends is answered, if there is somebody to answer.
#[test]
fn tcp_6062_5_5_01_a_connect_in_progress_ends_too() {
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    world.pass_without_timers(599);
    world.server.path_closed(world.clock, control());
    assert_eq!(world.drain_effects(), None);
    let asked = world.connects.pop().unwrap();
    assert_eq!(world.disconnected, [asked.connection]);
    world.server.peer_connected(world.clock, asked.connection, Ok(()));
    assert_eq!(world.drain_effects(), None);
}

#[test]
fn what_passes_is_counted_for_the_allocation() {
    let (mut world, mut alice, relay, id) = unbound();
    bind_well(&mut world, id);
    world.server.peer_relayed(world.clock, id, 1000, 20);
    world.server.peer_relayed(world.clock, id, 1, 5);
    let traffic = Traffic { bytes_to_peer: 1001, bytes_to_client: 25, ..Traffic::default() };
    assert_eq!(world.server.traffic(relay), Some(traffic));
    assert_eq!(Traffic::total(&world.server.counters().traffic), traffic);
    world.server.peer_closed(id);
    assert_eq!(world.drain_effects(), None);
    assert_eq!(world.disconnected, [], "the shell knows already");
    let Some(Event::PeerDisconnected { why, traffic: told, .. }) = world.events.last() else { panic!("no event") };
    assert_eq!((*why, *told), (ConnectionEnd::Closed, traffic));
    assert_eq!(world.server.traffic(relay), Some(traffic));
    assert_eq!(connect(&mut world, &mut alice, PEER), None, "the peer may be connected to again");
}

/// A peer that the operator forbids meanwhile is cut off.
#[test]
fn s3_connections_end_when_policy_refuses_their_peer() {
    let (mut world, _, _, id) = unbound();
    bind_well(&mut world, id);
    let mut config = tcp_config();
    config.peers.allow.clear();
    world.server.configure(config.into());
    world.drain_effects();
    assert_eq!(world.disconnected, [id]);
    assert_eq!(world.server.counters().peer_connections_ended[ConnectionEnd::PeerRefused as usize], 1);
}
