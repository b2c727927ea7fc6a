//! Clients of older RFCs, and what the operator may leave out: every switch off, and on.

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{Compatibility, Config, Reason, Transport};

use crate::client::{Attributes, bare, data, udp};
use crate::world::{PEER, Seen, World, config, path, path_over, send_indication};

const CLIENT: &str = "192.0.2.10:40000";
/// With bytes in the place of the cookie that are not the cookie.
const ID: [u8; 16] = *b"sixteen bytes id";

fn with(compatibility: Compatibility) -> World {
    World::with(Config { compatibility, ..config() })
}

fn classic() -> World {
    with(Compatibility { classic_udp: true, classic_tcp: true, ..Compatibility::default() })
}

/// A request as RFC 3489 had it: the same bytes, without a cookie among them.
fn request(method: Method, attributes: Attributes) -> Vec<u8> {
    let mut bytes = bare(method, attributes);
    bytes[4..20].copy_from_slice(&ID);
    bytes
}

fn answer(world: &mut World, transport: Transport, bytes: &[u8]) -> Option<Vec<u8>> {
    match world.send(path_over(transport, CLIENT), bytes) {
        Some(Seen::Response(response)) => Some(response.0),
        Some(Seen::Dropped(Reason::BadHeader)) => None,
        other => panic!("neither answered nor dropped: {other:?}"),
    }
}

/// CLASSIC-5389-12-01, CLASSIC-5389-12-02: the whole id comes back, and MAPPED-ADDRESS alone.
#[test]
fn classic_5389_12_01_a_request_without_cookie_is_answered_in_kind() {
    let mut world = classic();
    let expected = [&[0x01, 0x01, 0, 12][..], &ID, &[0, 1, 0, 8, 0, 1, 0x9C, 0x40, 192, 0, 2, 10]].concat();
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(answer(&mut world, transport, &request(Method::Binding, vec![])), Some(expected.clone()));
    }
    // The credentials of RFC 3489 are nothing to Binding here, as with a cookie.
    let attributes = vec![(AttributeType::USERNAME, b"name".to_vec()), (AttributeType(0x8000), vec![1])];
    assert_eq!(answer(&mut world, Transport::Udp, &request(Method::Binding, attributes)), Some(expected));
    let counters = world.server.counters();
    assert_eq!((counters.requests[0], counters.successes[0]), (3, 3));
}

/// CLASSIC-5389-12-03: never elsewhere, and not from elsewhere.
#[test]
fn classic_5389_12_03_change_request_and_response_address_are_unknown() {
    let mut world = classic();
    let change = (AttributeType::CHANGE_REQUEST, vec![0, 0, 0, 6]);
    let response_address = (AttributeType(0x0002), vec![0, 1, 0x1F, 0x40, 203, 0, 113, 80]);
    let refused = answer(&mut world, Transport::Udp, &request(Method::Binding, vec![change.clone()])).unwrap();
    assert_eq!((&refused[..2], &refused[4..20]), (&[0x01, 0x11][..], &ID[..]));
    // An odd number is made even by saying one twice, as there was no padding.
    assert_eq!(refused[refused.len() - 8..], [0, 0x0A, 0, 4, 0, 3, 0, 3]);
    let both = request(Method::Binding, vec![change, response_address]);
    let refused = answer(&mut world, Transport::Udp, &both).unwrap();
    assert_eq!(refused[refused.len() - 8..], [0, 0x0A, 0, 4, 0, 3, 0, 2]);
    // To want no change is no wish.
    let none = request(Method::Binding, vec![(AttributeType::CHANGE_REQUEST, vec![0; 4])]);
    assert_eq!(answer(&mut world, Transport::Udp, &none).unwrap()[..2], [0x01, 0x01]);
    // However many there are, the answer is bounded.
    let many = request(Method::Binding, (0x4000..0x4100).map(|kind| (AttributeType(kind), vec![])).collect());
    assert_eq!(answer(&mut world, Transport::Udp, &many).unwrap().len(), 20 + 28 + 4 + 32);
}

/// CLASSIC-3489-02: off by default, each transport by itself, never TURN, no FINGERPRINT.
#[test]
fn classic_3489_02_is_a_switch_and_for_binding_only() {
    let binding = request(Method::Binding, vec![]);
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        assert_eq!(answer(&mut World::new(), transport, &binding), None);
    }
    // STUN-8489-11-01: over DTLS it is refused with 500, whatever the switches.
    let refused = answer(&mut World::new(), Transport::Dtls, &binding).expect("an answer");
    assert_eq!((&refused[..2], &refused[26..28]), (&[0x01, 0x11][..], &[5, 0][..]));
    let mut udp_only = with(Compatibility { classic_udp: true, ..Compatibility::default() });
    assert!(answer(&mut udp_only, Transport::Udp, &binding).is_some());
    assert_eq!(answer(&mut udp_only, Transport::Tcp, &binding), None);
    let mut tcp_only = with(Compatibility { classic_tcp: true, ..Compatibility::default() });
    assert_eq!(answer(&mut tcp_only, Transport::Udp, &binding), None);
    let mut world = classic();
    assert_eq!(answer(&mut world, Transport::Tls, &binding), None);
    for method in Method::ALL.into_iter().filter(|method| *method != Method::Binding) {
        assert_eq!(answer(&mut world, Transport::Udp, &request(method, vec![])), None, "{method:?}");
    }
    let mut indication = binding.clone();
    indication[..2].copy_from_slice(&[0x00, 0x11]);
    let mut longer = binding.clone();
    longer.push(0);
    let mut broken = request(Method::Binding, vec![(AttributeType::USERNAME, vec![1; 4])]);
    broken[23] = 200;
    for bytes in [indication, longer, broken, vec![0; 19]] {
        assert_eq!(answer(&mut world, Transport::Udp, &bytes), None);
    }
    // FINGERPRINT is as good as any optional attribute, right or wrong, and is not mirrored.
    let fingerprint = request(Method::Binding, vec![(AttributeType::FINGERPRINT, vec![1, 2, 3, 4])]);
    assert_eq!(answer(&mut world, Transport::Udp, &fingerprint).unwrap().len(), 32);
    // With the switch on, a client of today gets what it always got.
    let modern = world.exchange(path(CLIENT), &bare(Method::Binding, vec![]));
    assert_eq!(modern.address(AttributeType::XOR_MAPPED_ADDRESS), Some(CLIENT.parse().unwrap()));
    assert_eq!(modern.first(AttributeType::MAPPED_ADDRESS), None);
}

/// CLASSIC-5766-01: channel numbers that RFC 8656 reserves.
#[test]
fn classic_5766_01_old_channel_numbers_are_a_switch() {
    let mut strict = World::new();
    let (mut alice, _) = strict.allocated(path(CLIENT));
    for number in [0x5000, 0x6123, 0x7FFE, 0x7FFF, 0x3FFF] {
        assert_eq!(strict.bind_channel(path(CLIENT), &mut alice, number, PEER), 400, "{number:#x}");
    }
    for transport in Transport::ALL {
        let mut world = with(Compatibility { rfc_5766_channels: true, ..Compatibility::default() });
        let here = path_over(transport, CLIENT);
        let (mut alice, relay) = world.allocated(here);
        for number in [0x7FFF, 0x3FFF, 0x8000, 0] {
            assert_eq!(world.bind_channel(here, &mut alice, number, PEER), 400, "{number:#x}");
        }
        for (number, port) in [(0x4000, 1), (0x4FFF, 2), (0x5000, 3), (0x6123, 4), (0x7FFE, 5)] {
            let peer = format!("198.51.100.7:{port}");
            assert_eq!(world.bind_channel(here, &mut alice, number, &peer), 0, "{number:#x}");
            let message = crate::client::channel_data(number, b"four");
            assert_eq!(world.send(here, &message).unwrap().data_at_peer(), b"four");
            assert_eq!(world.peer_sends(relay, &peer, b"back").at_client()[..2], number.to_be_bytes());
        }
    }
}

/// A08: without REQUESTED-ADDRESS-FAMILY IPv4, or the client's own family where the operator says so.
#[test]
fn a08_the_family_nobody_asked_for() {
    let own = Compatibility { own_family: true, ..Compatibility::default() };
    let family_of = |world: &mut World, client: &str, extra: Attributes| {
        let here = path(client);
        let mut alice = world.alice(here);
        let (_, response) = world.allocate(here, &mut alice, extra);
        response.address(AttributeType::XOR_RELAYED_ADDRESS).unwrap().is_ipv4()
    };
    let (v4, v6) = (CLIENT, "[2001:db8::9]:40000");
    assert!(family_of(&mut World::new(), v6, vec![]));
    let mut world = with(own);
    assert!(family_of(&mut world, v4, vec![]));
    assert!(!family_of(&mut world, v6, vec![]));
    // What is asked for counts.
    let v4_please = vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1, 0, 0, 0])];
    assert!(family_of(&mut with(own), v6, v4_please));
    let both_please = vec![(AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0])];
    assert!(family_of(&mut with(own), v6, both_please));
    // A server that has only one family gives that one.
    let mut lone = Config { compatibility: own, ..config() };
    lone.relays.truncate(1);
    assert!(family_of(&mut World::with(lone), v6, vec![]));
}

/// TURN-8656-7.2-07, TURN-8656-3.7-01: where DF cannot be set the attribute is unknown. TURN-8656-11.2-05: and what
/// wants it is not sent.
#[test]
fn turn_8656_7_2_07_dont_fragment_can_be_off() {
    let here = path(CLIENT);
    let mut world = World::with(Config { dont_fragment: false, ..config() });
    let mut alice = world.alice(here);
    let request = alice.signed(Method::Allocate, vec![udp(), (AttributeType::DONT_FRAGMENT, vec![])]);
    let refused = world.exchange(here, &request);
    assert_eq!((refused.error(), refused.unknown()), (420, vec![0x001A]));
    world.allocate(here, &mut alice, vec![]);
    assert_eq!(world.permit(here, &mut alice, &[PEER]), 0);
    let whole = send_indication(PEER, vec![data(b"x"), (AttributeType::DONT_FRAGMENT, vec![])]);
    assert_eq!(world.send(here, &whole), Some(Seen::Dropped(Reason::UnknownAttribute)));
    assert!(world.send(here, &send_indication(PEER, vec![data(b"x")])).unwrap().relayed());
}
