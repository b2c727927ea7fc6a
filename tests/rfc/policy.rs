//! RFC 8656 §21, abuse S1: which peers may be reached, by every method that can name one.

use hairpin::turn::{Event, PeerRefusal, Reason};

use crate::client::{Client, channel_data, data};
use crate::world::{PEER, RELAY_V4, Seen, World, config, path, send_indication};
use hairpin::stun::AttributeType;

const CLIENT: &str = "192.0.2.10:40000";

const REFUSED_V4: [&str; 22] = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.0.2.77",
    "192.88.99.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "8.8.8.8",
    "10.255.255.255",
    "172.31.0.1",
];

const REFUSED_V6: [&str; 22] = [
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "100::1",
    "2001:db8::1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.4.4",
    "5f00::1",
    "3fff::1",
];

/// Alice with an IPv4 and an IPv6 allocation.
fn world() -> (World, [(hairpin::turn::FiveTuple, Client); 2]) {
    let mut world = World::new();
    let (v4, v6) = (path(CLIENT), path("[2001:db8::9]:40000"));
    let (alice, _) = world.allocated(v4);
    let mut alice6 = world.alice(v6);
    world.allocate(v6, &mut alice6, vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0])]);
    (world, [(v4, alice), (v6, alice6)])
}

fn with_port(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// TURN-8656-21.2.2-02, -03, 21.4-01, 9-06, abuse S1: exactly 403, so that browsers give up this peer only (F07).
#[test]
fn s1_refused_peers_by_every_method() {
    let (mut world, [(v4, mut alice), (v6, mut alice6)]) = world();
    let mut check = |here, client: &mut Client, ip: &str| {
        for port in [0, 80, 7000] {
            assert_eq!(world.permit(here, client, &[&with_port(ip, port)]), 403, "permission for {ip}");
        }
        assert_eq!(world.bind_channel(here, client, 0x4000, &with_port(ip, 80)), 403, "channel to {ip}");
        let send = send_indication(&with_port(ip, 80), vec![data(b"x")]);
        assert_eq!(world.send(here, &send), Some(Seen::Dropped(Reason::NoPermission)), "data to {ip}");
    };
    for ip in REFUSED_V4 {
        check(v4, &mut alice, ip);
    }
    for ip in REFUSED_V6 {
        check(v6, &mut alice6, ip);
    }
    // And an allowed peer still works.
    assert_eq!(world.permit(v4, &mut alice, &[PEER]), 0);
    assert_eq!(world.permit(v4, &mut alice, &["9.9.9.9:1"]), 0);
    assert_eq!(world.permit(v6, &mut alice6, &["[2620:fe::fe]:1"]), 0);
}

/// TURN-8656-21.1.7-01: our own listener is no peer, though relayed addresses at the same IP are.
#[test]
fn turn_8656_21_1_7_01_own_ports_are_refused_except_relays() {
    let (mut world, [(here, mut alice), _]) = world();
    assert_eq!(world.permit(here, &mut alice, &[&with_port(RELAY_V4, 3478)]), 403);
    assert!(matches!(world.events.last(), Some(Event::PeerRefused { why: PeerRefusal::Own, .. })));
    assert_eq!(world.bind_channel(here, &mut alice, 0x4000, &with_port(RELAY_V4, 9641)), 403);
    assert_eq!(world.permit(here, &mut alice, &[&with_port(RELAY_V4, 50_500)]), 0);
    // The permission is for the address; its other ports stay closed all the same.
    let send = send_indication(&with_port(RELAY_V4, 3478), vec![data(b"x")]);
    assert_eq!(world.send(here, &send), Some(Seen::Dropped(Reason::PeerRefused)));
}

/// The machine's own other addresses can be allowed by name, for a media server beside us.
#[test]
fn own_addresses_can_be_allowed_by_name() {
    let mut config = config();
    config.peers.allow.push("192.0.2.1/32".parse().unwrap());
    config.peers.allow.push(format!("{RELAY_V4}/32").parse().unwrap());
    let mut world = World::with(config);
    let (mut alice, _) = world.allocated(path(CLIENT));
    for peer in ["192.0.2.1:10000".to_owned(), with_port(RELAY_V4, 10_000)] {
        assert_eq!(world.permit(path(CLIENT), &mut alice, &[&peer]), 0);
        assert!(world.send(path(CLIENT), &send_indication(&peer, vec![data(b"x")])).unwrap().relayed());
    }
}

/// TURN-8656-21.2.2-01, -03: a new policy takes away what it no longer allows, permissions and channels alike.
#[test]
fn turn_8656_21_2_2_03_a_new_policy_counts_at_once() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, PEER), 0);
    assert_eq!(world.permit(path(CLIENT), &mut alice, &["9.9.9.9:1"]), 0);
    let mut stricter = config();
    stricter.peers.allow.clear();
    world.server.configure(std::sync::Arc::new(stricter));
    assert_eq!(world.peer_sends(relay, PEER, b"x"), Seen::Dropped(Reason::NoPermission));
    let message = crate::client::channel_data(0x4000, b"x");
    assert_eq!(world.send(path(CLIENT), &message), Some(Seen::Dropped(Reason::NoChannel)));
    assert!(world.peer_sends(relay, "9.9.9.9:1", b"x").relayed());
    world.server.check_invariants();
}

/// A world where of 10.20.0.0/16 ports 3000 to 3999 may be reached, and of 8.8.4.4 all but 53.
fn with_port_rules() -> World {
    let mut config = config();
    config.peers.allow.push("10.20.0.0/16:3000-3999".parse().unwrap());
    config.peers.deny.push("8.8.4.4:53".parse().unwrap());
    World::with(config)
}

/// Abuse S1, S2: a permission is for an address, whatever the port it was asked with; data is for a port.
#[test]
fn s2_a_permission_opens_the_ports_that_policy_allows_and_no_others() {
    let mut world = with_port_rules();
    let here = path(CLIENT);
    let (mut alice, relay) = world.allocated(here);
    // Asked with another port, or none, the permission is granted; a port that is refused says so at once.
    assert_eq!(world.permit(here, &mut alice, &["10.20.0.1:0", "8.8.4.4:1"]), 0);
    assert_eq!(world.permit(here, &mut alice, &["10.20.0.2:80"]), 403);
    assert!(matches!(world.events.last(), Some(Event::PeerRefused { why: PeerRefusal::Port, .. })));
    let open = ["10.20.0.1:3000", "10.20.0.1:3999", "8.8.4.4:52", "8.8.4.4:54"];
    let closed = ["10.20.0.1:2999", "10.20.0.1:4000", "10.20.0.1:80", "8.8.4.4:53"];
    for peer in open {
        assert!(world.send(here, &send_indication(peer, vec![data(b"x")])).unwrap().relayed(), "to {peer}");
        assert!(world.peer_sends(relay, peer, b"x").relayed(), "from {peer}");
    }
    let refused = Reason::PeerRefused as usize;
    for (place, peer) in closed.into_iter().enumerate() {
        let sent = world.send(here, &send_indication(peer, vec![data(b"x")]));
        assert_eq!(sent, Some(Seen::Dropped(Reason::PeerRefused)), "to {peer}");
        assert_eq!(world.peer_sends(relay, peer, b"x"), Seen::Dropped(Reason::PeerRefused), "from {peer}");
        assert_eq!(world.server.counters().drops[refused], 2 * (place as u64 + 1));
        assert_eq!(world.bind_channel(here, &mut alice, 0x4001, peer), 403, "channel to {peer}");
    }
    assert_eq!(world.bind_channel(here, &mut alice, 0x4000, "10.20.0.1:3500"), 0);
    assert!(world.send(here, &channel_data(0x4000, b"x")).unwrap().relayed());
    assert!(world.peer_sends(relay, "10.20.0.1:3500", b"x").relayed());
}

/// Abuse S2: a new policy narrows permissions, widens them and ends channels at once.
#[test]
fn s2_new_port_rules_count_at_once_for_permissions_and_channels() {
    let mut world = with_port_rules();
    let here = path(CLIENT);
    let (mut alice, relay) = world.allocated(here);
    for (number, peer) in [(0x4000, "10.20.0.1:3100"), (0x4001, "10.20.0.1:3200"), (0x4002, "9.9.9.9:53")] {
        assert_eq!(world.bind_channel(here, &mut alice, number, peer), 0);
    }
    let mut stricter = config();
    stricter.peers.allow.push("10.20.0.0/16:3200".parse().unwrap());
    stricter.peers.deny.push("9.9.9.9:53".parse().unwrap());
    world.server.configure(std::sync::Arc::new(stricter));
    world.server.check_invariants();
    assert_eq!(world.send(here, &channel_data(0x4000, b"x")), Some(Seen::Dropped(Reason::NoChannel)));
    assert_eq!(world.peer_sends(relay, "10.20.0.1:3100", b"x"), Seen::Dropped(Reason::PeerRefused));
    assert!(world.send(here, &channel_data(0x4001, b"x")).unwrap().relayed());
    assert_eq!(world.send(here, &channel_data(0x4002, b"x")), Some(Seen::Dropped(Reason::NoChannel)));
    assert_eq!(world.peer_sends(relay, "9.9.9.9:53", b"x"), Seen::Dropped(Reason::PeerRefused));
    assert!(world.peer_sends(relay, "9.9.9.9:54", b"x").relayed(), "the permission lives on");
    // And the other way round.
    world.server.configure(std::sync::Arc::new(config()));
    assert!(world.peer_sends(relay, "9.9.9.9:53", b"x").relayed());
    assert_eq!(world.peer_sends(relay, "10.20.0.1:3200", b"x"), Seen::Dropped(Reason::NoPermission));
}

/// Abuse S20: a rule for all of loopback does not open the ports of the server itself, by any method.
#[test]
fn s20_the_servers_own_ports_stay_closed_whatever_is_allowed() {
    let mut config = crate::tcp::tcp_config();
    config.peers.allow.push("127.0.0.0/8".parse().unwrap());
    config.peers.listeners = vec!["127.0.0.1:9641".parse().unwrap(), "0.0.0.0:8478".parse().unwrap()];
    let config = std::sync::Arc::new(config);
    for (own, open) in [("127.0.0.1:9641", "127.0.0.1:9640"), ("127.3.3.3:8478", "127.3.3.3:8479")] {
        let mut world = World::with((*config).clone());
        let (mut alice, relay) = world.allocated(path(CLIENT));
        assert_eq!(world.permit(path(CLIENT), &mut alice, &[own]), 403);
        // A permission is for the address, all the same.
        assert_eq!(world.permit(path(CLIENT), &mut alice, &[open]), 0);
        let send = |peer| send_indication(peer, vec![data(b"there")]);
        assert_eq!(world.send(path(CLIENT), &send(own)), Some(Seen::Dropped(Reason::PeerRefused)));
        assert!(world.send(path(CLIENT), &send(open)).expect("a verdict").relayed());
        assert_eq!(world.peer_sends(relay, own, b"back"), Seen::Dropped(Reason::PeerRefused));
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, own), 403);
        assert_eq!(world.bind_channel(path(CLIENT), &mut alice, 0x4000, open), 0);
        let mut world = World::with((*config).clone());
        let (mut alice, _) = crate::tcp::tcp_allocated(&mut world);
        assert_eq!(crate::tcp::connect(&mut world, &mut alice, own), Some(403));
        assert_eq!(world.connects, []);
    }
}
