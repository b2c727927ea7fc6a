//! TCP allocations and Connect (RFC 6062 §5.1, §5.2).

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    Config, ConnectError, ConnectionEnd, ConnectionId, Event, FiveTuple, MobilityKey, PeerPorts, PeerTransport, Reason,
    RelayId, RelayTransports, TcpRelays, Transport,
};

use crate::client::{Attributes, Client, Response, channel_data, data, lifetime, tcp, udp};
use crate::world::{PEER, RELAY_V4, Seen, World, config, path_over, send_indication, signed_with_peers};

/// As [`config`], with TCP relays.
pub fn tcp_config() -> Config {
    let tcp = TcpRelays { ports: PeerPorts::default(), connect_timeout_secs: 30, connections_per_allocation: 4 };
    Config { relay_transports: RelayTransports { udp: true, tcp: Some(tcp) }, ..config() }
}

/// The control connection of most tests.
pub fn control() -> FiveTuple {
    path_over(Transport::Tcp, "198.51.100.77:4000")
}

/// Alice with a TCP allocation.
pub fn tcp_world() -> (World, Client, RelayId) {
    let mut world = World::with(tcp_config());
    let (alice, relay) = tcp_allocated(&mut world);
    (world, alice, relay)
}

/// The same in a world that is there.
pub fn tcp_allocated(world: &mut World) -> (Client, RelayId) {
    let mut alice = world.alice(control());
    assert_eq!(ask_tcp(world, control(), &mut alice, vec![]), 0);
    let Some(Event::Allocated { relay, .. }) = world.events.last() else { panic!("no event for the allocation") };
    (alice, *relay)
}

/// The error of an Allocate for TCP.
fn ask_tcp(world: &mut World, path: FiveTuple, client: &mut Client, extra: Attributes) -> u16 {
    let request = client.signed(Method::Allocate, [vec![tcp()], extra].concat());
    world.exchange(path, &request).error()
}

/// What comes of a Connect at once: its error, if it is not worked on.
pub fn connect(world: &mut World, client: &mut Client, peer: &str) -> Option<u16> {
    let request = signed_with_peers(client, Method::Connect, vec![], &[peer]);
    world.send(control(), &request).map(|seen| seen.response().error())
}

/// The shell's answer, and the response to the client.
pub fn connected(world: &mut World, result: Result<(), ConnectError>) -> Response {
    let asked = world.connects.pop().expect("a connection was asked for");
    world.server.peer_connected(world.clock, asked.connection, result);
    world.server.check_invariants();
    world.drain_effects().expect("a response").response()
}

/// CONNECTION-ID of a message.
pub fn connection_id(message: &Response) -> ConnectionId {
    let value = message.first(AttributeType::CONNECTION_ID).expect("CONNECTION-ID");
    ConnectionId(u32::from_be_bytes(value.try_into().expect("32 bits")))
}

#[test]
fn tcp_6062_5_1_01_other_transports_are_refused_and_tcp_where_it_is_off() {
    let mut world = World::with(tcp_config());
    let mut alice = world.alice(control());
    let request = alice.signed(Method::Allocate, vec![(AttributeType::REQUESTED_TRANSPORT, vec![132, 0, 0, 0])]);
    assert_eq!(world.exchange(control(), &request).error(), 442);
    let mut off = World::new();
    let mut alice = off.alice(control());
    assert_eq!(ask_tcp(&mut off, control(), &mut alice, vec![]), 442);
}

#[test]
fn tcp_6062_5_1_02_udp_forbidden_by_policy_is_403() {
    let mut config = tcp_config();
    config.relay_transports.udp = false;
    let mut world = World::with(config);
    let mut alice = world.alice(control());
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(control(), &request).error(), 403);
    assert_eq!(ask_tcp(&mut world, control(), &mut alice, vec![]), 0);
}

#[test]
fn tcp_6062_5_1_03_a_tcp_relay_is_asked_for_over_a_stream() {
    let mut world = World::with(tcp_config());
    for transport in [Transport::Udp, Transport::Dtls] {
        let path = path_over(transport, "192.0.2.9:1");
        let mut alice = world.alice(path);
        assert_eq!(ask_tcp(&mut world, path, &mut alice, vec![]), 400);
    }
    let tls = path_over(Transport::Tls, "192.0.2.9:1");
    let mut alice = world.alice(tls);
    assert_eq!(ask_tcp(&mut world, tls, &mut alice, vec![]), 0);
}

#[test]
fn tcp_6062_5_1_04_what_is_about_datagrams_is_refused() {
    for (kind, value) in [
        (AttributeType::DONT_FRAGMENT, vec![]),
        (AttributeType::EVEN_PORT, vec![0]),
        (AttributeType::EVEN_PORT, vec![0x80]),
        (AttributeType::RESERVATION_TOKEN, vec![7; 8]),
    ] {
        let mut world = World::with(tcp_config());
        let mut alice = world.alice(control());
        assert_eq!(ask_tcp(&mut world, control(), &mut alice, vec![(kind, value)]), 400, "{kind:?}");
        assert_eq!(world.binds, []);
    }
}

/// That it listens, `src/shard` shows.
#[test]
fn tcp_6062_5_1_05_the_relay_is_tcp_and_comes_without_a_token() {
    let mut world = World::with(tcp_config());
    let mut alice = world.alice(control());
    let response = world.exchange(control(), &alice.signed(Method::Allocate, vec![tcp(), lifetime(700)]));
    assert_eq!((response.error(), response.lifetime()), (0, Some(700)));
    assert_eq!(response.first(AttributeType::RESERVATION_TOKEN), None);
    assert_eq!(response.address(AttributeType::XOR_RELAYED_ADDRESS), Some(world.binds[0]));
    assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(control().client));
    assert_eq!(world.transports, [PeerTransport::Tcp]);

    // Both families, as RFC 8656 adds them.
    let other = path_over(Transport::Tcp, "198.51.100.77:4001");
    let mut alice = world.alice(other);
    let both = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    assert_eq!(ask_tcp(&mut world, other, &mut alice, vec![both]), 0);
    assert_eq!(world.transports, [PeerTransport::Tcp; 3]);
}

/// RFC 8016 and RFC 6062 do not mention each other: a control connection takes its data connections along.
#[test]
fn tcp_6062_5_5_01_a_tcp_allocation_does_not_move() {
    let mut config = tcp_config();
    config.mobility = Some(MobilityKey([5; 32]));
    let mut world = World::with(config);
    let mut alice = world.alice(control());
    let ticket = (AttributeType::MOBILITY_TICKET, vec![]);
    assert_eq!(ask_tcp(&mut world, control(), &mut alice, vec![ticket]), 405);
    assert_eq!(ask_tcp(&mut world, control(), &mut alice, vec![]), 0);
}

#[test]
fn tcp_6062_5_2_01_connect_without_an_allocation_is_437() {
    let mut world = World::with(tcp_config());
    let mut alice = world.alice(control());
    assert_eq!(connect(&mut world, &mut alice, PEER), Some(437));
    // With one whose relay speaks UDP there is nothing to connect from.
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(control(), &request).error(), 0);
    assert_eq!(connect(&mut world, &mut alice, PEER), Some(403));
}

/// Abuse S9.
#[test]
fn s9_connect_of_another_user_is_441() {
    let (mut world, alice, _) = tcp_world();
    let mut bob = Client::new("bob", "hunter2");
    bob.nonce = alice.nonce;
    assert_eq!(connect(&mut world, &mut bob, PEER), Some(441));
    assert_eq!(world.connects, []);
}

#[test]
fn tcp_6062_5_2_02_a_second_connect_to_a_peer_is_446() {
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    assert_eq!(connect(&mut world, &mut alice, PEER), Some(446), "while it is being worked on");
    assert_eq!(connected(&mut world, Ok(())).error(), 0);
    assert_eq!(connect(&mut world, &mut alice, PEER), Some(446), "while it waits");
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:7501"), None, "another port is another peer");
    assert_eq!(connected(&mut world, Err(ConnectError::Failed)).error(), 447);
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:7501"), None, "it failed, so it may be tried again");
}

#[test]
fn tcp_6062_5_2_03_a_missing_or_invalid_peer_is_400() {
    let (mut world, mut alice, _) = tcp_world();
    let request = alice.signed(Method::Connect, vec![]);
    assert_eq!(world.exchange(control(), &request).error(), 400);
    let request = alice.signed(Method::Connect, vec![(AttributeType::XOR_PEER_ADDRESS, vec![0, 1, 2])]);
    assert_eq!(world.exchange(control(), &request).error(), 400);
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:0"), Some(400));
}

/// Abuse S1, S3: by address and by port, and a wrong family is 443.
#[test]
fn tcp_6062_5_2_04_peers_that_policy_forbids_are_403() {
    let (mut world, mut alice, _) = tcp_world();
    for peer in [
        "127.0.0.1:7000",
        "10.0.0.1:7000",
        "169.254.169.254:7000",
        "0.0.0.0:7000",
        "8.8.8.8:7000",
        "192.0.2.1:3478",
        "198.51.100.7:22",
        "198.51.100.7:80",
        "198.51.100.7:1023",
        "198.51.100.7:6379",
        "198.51.100.7:5432",
        "198.51.100.7:3306",
        "198.51.100.7:11211",
        "203.0.113.5:80",
    ] {
        assert_eq!(connect(&mut world, &mut alice, peer), Some(403), "{peer}");
    }
    assert_eq!(connect(&mut world, &mut alice, "[2001:db8:1::1]:7000"), Some(443));
    assert_eq!(world.connects, []);
    s1_of_ipv6();

    let mut config = tcp_config();
    let listed = config.relay_transports.tcp.as_mut().expect("on");
    listed.ports = PeerPorts { allow: vec![5432..=5432], deny: vec![7000..=7000] };
    world.server.configure(config.into());
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:5432"), None);
    assert_eq!(connect(&mut world, &mut alice, PEER), Some(403));
}

/// Every way to write an address that must not be reached, for a relay that could reach it.
fn s1_of_ipv6() {
    let mut world = World::with(tcp_config());
    let mut alice = world.alice(control());
    let ipv6 = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    assert_eq!(ask_tcp(&mut world, control(), &mut alice, vec![ipv6]), 0);
    for peer in
        ["::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.4.4", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fc00::1"]
    {
        assert_eq!(connect(&mut world, &mut alice, &format!("[{peer}]:7000")), Some(403), "{peer}");
    }
    assert_eq!(connect(&mut world, &mut alice, "[2001:db8:1::1]:7000"), None);
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:7000"), Some(443));
}

/// Abuse S3: without TCP relays in the configuration nothing more is connected.
#[test]
fn s3_switching_tcp_relays_off_stops_connect() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    world.server.configure(config().into());
    assert_eq!(connect(&mut world, &mut alice, PEER), Some(403));
    assert_eq!(world.server.peer_accepted(world.clock, relay, PEER.parse().unwrap()), None);
}

#[test]
fn tcp_6062_5_2_05_the_connection_leaves_from_the_relayed_address() {
    let (mut world, mut alice, _) = tcp_world();
    let local = world.binds[0];
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    let asked = world.connects[0];
    assert_eq!((asked.local, asked.to, asked.relays_only), (local, PEER.parse().unwrap(), false));
}

/// Two clients of this server: where it is bound, whatever peers see, and nothing else of this machine.
#[test]
fn a_relayed_address_of_our_own_is_connected_where_it_is_bound() {
    let mut config = tcp_config();
    config.relays[0].bind = "10.1.2.3".parse().unwrap();
    let mut world = World::with(config);
    let mut alice = world.alice(control());
    let response = world.exchange(control(), &alice.signed(Method::Allocate, vec![tcp()]));
    let own = response.address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
    let Some(Event::Allocated { relay, .. }) = world.events.last() else { panic!("no event for the allocation") };
    let relay = *relay;
    let other = if own.port() == 50_500 { 50_501 } else { 50_500 };

    assert_eq!(connect(&mut world, &mut alice, &format!("{RELAY_V4}:{other}")), None);
    let asked = world.connects[0];
    assert_eq!(asked.to, format!("10.1.2.3:{other}").parse().unwrap());
    assert!(asked.relays_only);
    assert_eq!(
        connect(&mut world, &mut alice, &own.to_string()),
        Some(403),
        "with itself nobody needs to be connected"
    );

    // And the other way round.
    let third = if own.port() == 50_600 { 50_601 } else { 50_600 };
    assert_eq!(world.permit(control(), &mut alice, &["203.0.113.5:0"]), 0);
    let from = format!("10.1.2.3:{third}").parse().unwrap();
    assert!(world.server.peer_accepted(world.clock, relay, from).is_some());
    let indication = world.drain_effects().expect("a ConnectionAttempt").response();
    let advertised = format!("{RELAY_V4}:{third}").parse().unwrap();
    assert_eq!(indication.address(AttributeType::XOR_PEER_ADDRESS), Some(advertised));
}

#[test]
fn tcp_6062_5_2_06_failure_and_timeout_are_447() {
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    assert_eq!(connected(&mut world, Err(ConnectError::Failed)).error(), 447);
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    assert_eq!(connected(&mut world, Err(ConnectError::OutOfCapacity)).error(), 508);

    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    let asked = world.connects.pop().unwrap();
    world.pass(29);
    assert_eq!(world.disconnected, []);
    let response = world.pass_and_see(1).expect("an answer").response();
    assert_eq!(response.error(), 447);
    assert_eq!(world.disconnected, [asked.connection]);
    // The shell's own answer may have been on its way.
    world.server.peer_connected(world.clock, asked.connection, Ok(()));
    assert_eq!(world.drain_effects(), None);
    assert_eq!(world.server.peer_connections(), 0);
    let ended = world.server.counters().peer_connections_ended;
    assert_eq!(ended[ConnectionEnd::ConnectFailed as usize], 2);
    assert_eq!(ended[ConnectionEnd::ConnectTimeout as usize], 1);
    assert_eq!(world.server.counters().peer_connections_begun, 3);
}

#[test]
fn tcp_6062_5_2_07_connection_ids_are_unique_and_random() {
    let mut config = tcp_config();
    config.relay_transports.tcp.as_mut().unwrap().connections_per_allocation = 500;
    let mut world = World::with(config);
    let mut alice = world.alice(control());
    assert_eq!(ask_tcp(&mut world, control(), &mut alice, vec![]), 0);
    let mut ids = Vec::new();
    for port in 20_000..20_200 {
        assert_eq!(connect(&mut world, &mut alice, &format!("198.51.100.7:{port}")), None);
        let response = connected(&mut world, Ok(()));
        assert_eq!(response.error(), 0);
        assert!(response.message().has_integrity());
        ids.push(connection_id(&response).0);
    }
    // Nobody finds the next one by looking at the last: every bit is as often set as not, about.
    for bit in 0..32 {
        let set = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
        assert!((60..140).contains(&set), "bit {bit} is set {set} times of 200");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

/// TCP-6062-5.2-09: nothing waits for the peer.
#[test]
fn tcp_6062_5_2_09_other_requests_are_answered_while_one_connects() {
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(connect(&mut world, &mut alice, PEER), None);
    assert_eq!(world.refresh(control(), &mut alice, vec![lifetime(800)]).lifetime(), Some(800));
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:7501"), None);
    assert_eq!(connected(&mut world, Ok(())).error(), 0);
}

/// Abuse S12: reached, told, and free again.
#[test]
fn s12_connections_of_one_allocation_are_limited() {
    let (mut world, mut alice, relay) = tcp_world();
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    let answers = [20_000, 20_001, 20_002, 20_003, 20_004, 20_005]
        .map(|port| connect(&mut world, &mut alice, &format!("198.51.100.7:{port}")));
    assert_eq!(answers, [None, None, None, None, Some(508), Some(508)]);
    assert_eq!(world.server.peer_connections(), 4);
    assert_eq!(world.server.peer_accepted(world.clock, relay, PEER.parse().unwrap()), None);
    assert_eq!(world.server.counters().drops[Reason::TooManyConnections as usize], 1);
    assert_eq!(connected(&mut world, Err(ConnectError::Failed)).error(), 447);
    assert!(world.server.peer_accepted(world.clock, relay, PEER.parse().unwrap()).is_some());
    world.drain_effects();
    assert_eq!(connect(&mut world, &mut alice, "198.51.100.7:20100"), Some(508));
}

#[test]
fn tcp_6062_5_5_03_datagram_methods_do_not_work_on_a_tcp_allocation() {
    let (mut world, mut alice, _) = tcp_world();
    assert_eq!(world.bind_channel(control(), &mut alice, 0x4000, PEER), 403);
    assert_eq!(world.permit(control(), &mut alice, &[PEER]), 0);
    let sent = world.send(control(), &send_indication(PEER, vec![data(b"hello")]));
    assert_eq!(sent, Some(Seen::Dropped(Reason::TcpRelay)));
    let sent = world.send(control(), &channel_data(0x4000, b"hello"));
    assert_eq!(sent, Some(Seen::Dropped(Reason::NoChannel)));
    // Nor does a datagram from another relay of this server come through.
    let relayed = world.binds[0];
    assert_eq!(world.relay_sends(relayed, PEER.parse().unwrap(), b"hello"), Seen::Dropped(Reason::TcpRelay));
}
