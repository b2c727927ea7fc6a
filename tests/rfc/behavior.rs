//! RFC 5780: NAT behaviour discovery, as far as the machine shows it. Real sockets are in `src/shard/tests`.

use std::net::SocketAddr;

use hairpin::stun::{AttributeType, Method, read_address};
use hairpin::turn::{
    BehaviorDiscovery, Config, Effect, FiveTuple, IpFields, Packet, ReplyBuffer, ServerAddress, Transport, Verdict,
};

use crate::client::{Attributes, Response, bare};
use crate::world::{World, config};

const CLIENT: &str = "198.51.100.10:40000";
const BOUND: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const SEEN: [&str; 2] = ["203.0.113.31", "203.0.113.32"];
const PORTS: [u16; 2] = [3478, 3479];

fn discovery() -> BehaviorDiscovery {
    let pair = |ips: [(&str, &str); 2]| {
        ips.map(|(bind, advertise)| ServerAddress {
            bind: bind.parse().unwrap(),
            advertise: advertise.parse().unwrap(),
        })
    };
    BehaviorDiscovery {
        addresses: vec![
            pair([(BOUND[0], SEEN[0]), (BOUND[1], SEEN[1])]),
            pair([("2001:db8::a", "2001:db8::a"), ("2001:db8::b", "2001:db8::b")]),
        ],
        udp: Some(PORTS),
        tcp: Some(PORTS),
        tls: Some([5349, 5350]),
        change_request: true,
        response_port: true,
        padding: true,
    }
}

fn world(discovery: BehaviorDiscovery) -> World {
    World::with(Config { behavior_discovery: Some(discovery), ..config() })
}

fn path(transport: Transport, server: &str, port: u16) -> FiveTuple {
    let server = SocketAddr::new(server.parse().unwrap(), port);
    let client = if server.is_ipv4() { CLIENT } else { "[2001:db8::10]:40000" };
    FiveTuple { transport, client: client.parse().unwrap(), server }
}

fn udp(address: usize, port: usize) -> FiveTuple {
    path(Transport::Udp, BOUND[address], PORTS[port])
}

fn change(flags: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::CHANGE_REQUEST, vec![0, 0, 0, flags])
}

/// The answer, and the path it takes.
fn exchange(world: &mut World, here: FiveTuple, attributes: Attributes) -> (FiveTuple, Response) {
    let bytes = bare(Method::Binding, attributes);
    let mut buffer = vec![0; Packet::HEADROOM + bytes.len() + Packet::TAILROOM];
    let range = Packet::HEADROOM..Packet::HEADROOM + bytes.len();
    buffer[range.clone()].copy_from_slice(&bytes);
    let mut reply = ReplyBuffer::new();
    let mut packet = Packet::new(&mut buffer, range, IpFields::default());
    match world.server.from_client(world.clock, here, &mut packet, &mut reply) {
        Verdict::Reply { len } => {
            assert!(world.server.next_effect().is_none());
            (here, Response(reply[..len].to_vec()))
        }
        Verdict::Later => {
            let Some(Effect::Send { to, bytes }) = world.server.next_effect() else { panic!("nothing was sent") };
            assert!(world.server.next_effect().is_none());
            (to, Response(bytes.into()))
        }
        other => panic!("no answer: {other:?}"),
    }
}

fn plain(response: &Response, kind: AttributeType) -> Option<String> {
    response.first(kind).map(|value| read_address(&value).unwrap().to_string())
}

/// NATB-5780-6.1-02, NATB-5780-6.1-03, NATB-5780-6.1-04, NATB-5780-7.2-01: four places, four wishes.
#[test]
fn natb_5780_6_1_02_the_answer_leaves_from_where_it_was_asked_to() {
    let mut world = world(discovery());
    for (address, port) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let here = udp(address, port);
        let other = format!("{}:{}", SEEN[1 - address], PORTS[1 - port]);
        for (flags, ip, from_port) in
            [(0, address, port), (2, address, 1 - port), (4, 1 - address, port), (6, 1 - address, 1 - port)]
        {
            let (taken, response) = exchange(&mut world, here, vec![change(flags)]);
            assert_eq!(taken, FiveTuple { client: here.client, ..udp(ip, from_port) });
            let origin = format!("{}:{}", SEEN[ip], PORTS[from_port]);
            assert_eq!(plain(&response, AttributeType::RESPONSE_ORIGIN), Some(origin));
            assert_eq!(plain(&response, AttributeType::OTHER_ADDRESS), Some(other.clone()));
            assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(here.client));
        }
        // Also without CHANGE-REQUEST.
        let (taken, response) = exchange(&mut world, here, vec![]);
        assert_eq!((taken, plain(&response, AttributeType::OTHER_ADDRESS)), (here, Some(other)));
        let origin = format!("{}:{}", SEEN[address], PORTS[port]);
        assert_eq!(plain(&response, AttributeType::RESPONSE_ORIGIN), Some(origin));
    }
    // Bits that mean nothing say nothing.
    let (taken, _) = exchange(&mut world, udp(0, 0), vec![(AttributeType::CHANGE_REQUEST, vec![0xFF, 0, 0, 0x09])]);
    assert_eq!(taken, udp(0, 0));
    let (_, response) = exchange(&mut world, udp(0, 0), vec![(AttributeType::CHANGE_REQUEST, vec![6])]);
    assert_eq!(response.error(), 400);
    // The other family has its own pair.
    let (taken, response) = exchange(&mut world, path(Transport::Udp, "2001:db8::b", 3479), vec![change(6)]);
    assert_eq!(taken.server, "[2001:db8::a]:3478".parse().unwrap());
    assert_eq!(plain(&response, AttributeType::OTHER_ADDRESS), Some("[2001:db8::a]:3478".into()));
}

/// NATB-5780-6.1-01, NATB-5780-6.1-08, NATB-5780-7-01.
#[test]
fn natb_5780_6_1_01_both_mapped_addresses_are_there() {
    let mut world = world(discovery());
    let cache_timeout = (AttributeType(0x8027), vec![0, 0, 0, 9]);
    let (_, response) = exchange(&mut world, udp(0, 0), vec![cache_timeout]);
    assert!(response.is_success());
    assert_eq!(plain(&response, AttributeType::MAPPED_ADDRESS), Some(CLIENT.into()));
    assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(CLIENT.parse().unwrap()));
    assert_eq!(response.first(AttributeType::ALTERNATE_SERVER), None);
    // Off: the usual answer, which is shorter.
    let (_, response) = exchange(&mut World::new(), udp(0, 0), vec![]);
    assert_eq!(response.first(AttributeType::MAPPED_ADDRESS), None);
    assert_eq!(response.first(AttributeType::RESPONSE_ORIGIN), None);
}

/// NATB-5780-6-02: without another address there is nothing to change, and nobody is told of one.
#[test]
fn natb_5780_6_02_without_an_alternate_address() {
    let lone = BehaviorDiscovery { addresses: vec![], ..discovery() };
    for (world, here) in [
        (&mut world(lone), udp(0, 0)),
        // A third address, or a third port.
        (&mut world(discovery()), path(Transport::Udp, "192.0.2.3", 3478)),
        (&mut world(discovery()), path(Transport::Udp, BOUND[0], 3480)),
    ] {
        let (_, response) = exchange(world, here, vec![change(0)]);
        assert_eq!((response.error(), response.unknown()), (420, vec![0x0003]));
        let (_, response) = exchange(world, here, vec![]);
        assert_eq!(plain(&response, AttributeType::OTHER_ADDRESS), None);
        assert!(plain(&response, AttributeType::RESPONSE_ORIGIN).is_some());
    }
}

/// NATB-5780-10-01: all of it is off by default, and each attribute that asks something has a switch of its own.
#[test]
fn natb_5780_10_01_off_by_default_and_separately() {
    let asks = [
        change(0),
        (AttributeType::RESPONSE_PORT, 40_000_u16.to_be_bytes().to_vec()),
        (AttributeType::PADDING, vec![0; 8]),
    ];
    let off = BehaviorDiscovery { change_request: false, response_port: false, padding: false, ..discovery() };
    for (place, ask) in asks.iter().enumerate() {
        let (_, response) = exchange(&mut World::new(), udp(0, 0), vec![ask.clone()]);
        assert_eq!((response.error(), response.unknown()), (420, vec![ask.0.0]));
        let mut alone = off.clone();
        match place {
            0 => alone.change_request = true,
            1 => alone.response_port = true,
            _ => alone.padding = true,
        }
        let mut world = world(alone);
        for other in &asks {
            let (_, response) = exchange(&mut world, udp(0, 0), vec![other.clone()]);
            assert_eq!(response.error(), if other == ask { 0 } else { 420 });
        }
    }
    // To TURN they are unknown at any rate.
    let mut world = world(discovery());
    let mut alice = world.alice(udp(0, 0));
    let request = alice.signed(Method::Allocate, vec![crate::client::udp(), change(2)]);
    assert_eq!(world.exchange(udp(0, 0), &request).error(), 420);
}

/// NATB-5780-7.5-01: the same IP address, another port.
#[test]
fn natb_5780_7_5_01_the_answer_goes_to_the_response_port() {
    let mut world = world(discovery());
    for value in [vec![0x1F, 0x40], vec![0x1F, 0x40, 0, 0]] {
        let (taken, response) = exchange(&mut world, udp(0, 0), vec![(AttributeType::RESPONSE_PORT, value.clone())]);
        assert_eq!(taken.client, "198.51.100.10:8000".parse().unwrap());
        assert_eq!(taken.server, udp(0, 0).server);
        assert_eq!(plain(&response, AttributeType::MAPPED_ADDRESS), Some(CLIENT.into()));
        let (taken, _) = exchange(&mut world, udp(0, 0), vec![(AttributeType::RESPONSE_PORT, value), change(6)]);
        assert_eq!((taken.client.port(), taken.server), (8000, udp(1, 1).server));
    }
    for value in [vec![], vec![1], vec![1, 2, 3], vec![0, 0]] {
        let (taken, response) = exchange(&mut world, udp(0, 0), vec![(AttributeType::RESPONSE_PORT, value)]);
        assert_eq!((response.error(), taken), (400, udp(0, 0)));
    }
}

/// NATB-5780-6.1-06, NATB-5780-7.6-01: as large as an Ethernet frame holds, and never larger than the question.
#[test]
fn natb_5780_6_1_06_padding_is_answered_with_padding() {
    let mut world = world(discovery());
    for (asked, expected) in [(60_000, 1500), (2000, 1500), (1600, 1500), (1500, 1452), (100, 52), (40, 0), (0, 0)] {
        let request = vec![(AttributeType::PADDING, vec![0xAA; asked])];
        let len = bare(Method::Binding, request.clone()).len();
        let (taken, response) = exchange(&mut world, udp(0, 0), request);
        let padding = response.first(AttributeType::PADDING).unwrap();
        assert_eq!((taken, padding.len()), (udp(0, 0), expected), "asked for {asked}");
        assert!(padding.iter().all(|byte| *byte == 0));
        assert!(response.0.len() <= len.max(20 + 4 * 12 + 4), "no more back than there");
    }
    let (taken, response) = exchange(&mut world, udp(0, 0), vec![(AttributeType::PADDING, vec![0; 1600]), change(6)]);
    assert_eq!((taken.server, response.first(AttributeType::PADDING).unwrap().len()), (udp(1, 1).server, 1500));
}

/// NATB-5780-6.1-07.
#[test]
fn natb_5780_6_1_07_padding_and_response_port_exclude_each_other() {
    let both = vec![(AttributeType::PADDING, vec![0; 8]), (AttributeType::RESPONSE_PORT, vec![0x1F, 0x40])];
    let (taken, response) = exchange(&mut world(discovery()), udp(0, 0), both);
    assert_eq!((response.error(), taken), (400, udp(0, 0)));
}

/// NATB-5780-7.2-02, NATB-5780-6-01: streams tell of the other address, which is at another port over TLS; they have one
/// source and one destination.
#[test]
fn natb_5780_7_2_02_streams_cannot_change() {
    let mut world = world(discovery());
    for (transport, port, other) in [(Transport::Tcp, 3478, 3479), (Transport::Tls, 5350, 5349)] {
        let here = path(transport, BOUND[0], port);
        for flags in [2, 4, 6] {
            let (taken, response) = exchange(&mut world, here, vec![change(flags)]);
            assert_eq!((response.error(), taken), (400, here));
        }
        let (_, response) = exchange(&mut world, here, vec![(AttributeType::RESPONSE_PORT, vec![1, 2])]);
        assert_eq!(response.error(), 400);
        let (taken, response) = exchange(&mut world, here, vec![change(0)]);
        assert_eq!((response.error(), taken), (0, here));
        assert_eq!(plain(&response, AttributeType::OTHER_ADDRESS), Some(format!("{}:{other}", SEEN[1])));
    }
}

/// STUN-8489-7-03 holds here, too.
#[test]
fn fingerprint_is_mirrored_behind_padding() {
    use hairpin::stun::{Class, Seal, TransactionId};
    let mut world = world(discovery());
    for attributes in [vec![change(6)], vec![(AttributeType::PADDING, vec![0; 500])]] {
        let bytes = crate::client::write(
            Method::Binding,
            Class::Request,
            TransactionId([3; 12]),
            &attributes,
            Seal::None,
            true,
        );
        let response = world.exchange(udp(0, 0), &bytes);
        assert!(response.message().has_fingerprint() && response.message().fingerprint_holds());
        assert!(response.0.len() <= bytes.len().max(20 + 4 * 12 + 8));
    }
}
