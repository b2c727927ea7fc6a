//! What every answer is like, whatever was asked: addresses, protections, lengths, and that asking twice is no more.

use hairpin::stun::{AttributeType, Class, Method, Seal, TransactionId, read_address, read_u32, read_xor_address};
use hairpin::turn::{Config, Transport};

use crate::client::{Attributes, Client, bare, channel, lifetime, udp, write};
use crate::world::{PEER, World, config, path, path_over, signed_with_peers};

const CLIENT: &str = "192.0.2.10:40000";
const CLIENT_V6: &str = "[2001:db8::9]:40000";

/// Every attribute in the order it stands in, protections included: type, value, and where it begins.
fn layout(bytes: &[u8]) -> Vec<(u16, Vec<u8>, usize)> {
    let (mut at, mut all) = (20, Vec::new());
    while at < bytes.len() {
        let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        all.push((u16::from_be_bytes([bytes[at], bytes[at + 1]]), bytes[at + 4..at + 4 + len].to_vec(), at));
        at += 4 + len.next_multiple_of(4);
    }
    all
}

/// STUN-8489-12-02: over UDP, over TCP, and over TLS as well. STUN-8489-6.3.1.1-06: the address of the connection.
#[test]
fn stun_8489_12_02_binding_over_every_transport() {
    let mut world = World::new();
    for transport in Transport::ALL {
        for client in [CLIENT, CLIENT_V6] {
            let response = world.exchange(path_over(transport, client), &bare(Method::Binding, vec![]));
            assert!(response.is_success());
            assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(client.parse().unwrap()));
        }
    }
}

/// STUN-8489-14.2-01: the port with the top of the cookie, IPv4 with the cookie, IPv6 with cookie and transaction id.
#[test]
fn stun_8489_14_2_01_xored_addresses_byte_for_byte() {
    let mut world = World::new();
    let value = |world: &mut World, client| {
        let response = world.exchange(path(client), &bare(Method::Binding, vec![]));
        response.first(AttributeType::XOR_MAPPED_ADDRESS).unwrap()
    };
    let port = (40_000_u16 ^ 0x2112).to_be_bytes();
    let v4 = [&[0, 1][..], &port, &[192 ^ 0x21, 0x12, 2 ^ 0xA4, 10 ^ 0x42]].concat();
    assert_eq!(value(&mut world, CLIENT), v4);
    let ip = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9_u8];
    let mask = [&[0x21, 0x12, 0xA4, 0x42][..], &[9; 12]].concat();
    let ip: Vec<u8> = ip.iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
    let v6 = [&[0, 2][..], &port, &ip].concat();
    assert_eq!(value(&mut world, CLIENT_V6), v6);
    // And back; without the XOR it is another address.
    assert_eq!(read_xor_address(&v6, TransactionId([9; 12])), Ok(CLIENT_V6.parse().unwrap()));
    assert_ne!(read_address(&v6), Ok(CLIENT_V6.parse().unwrap()));
}

/// STUN-8489-7-02: nobody has to send FINGERPRINT.
#[test]
fn stun_8489_7_02_fingerprint_is_not_required() {
    let mut world = World::new();
    let response = world.exchange(path(CLIENT), &bare(Method::Binding, vec![]));
    assert!(response.is_success() && !response.message().has_fingerprint());
    let mut alice = world.alice(path(CLIENT));
    assert!(!alice.fingerprint);
    let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![]);
    assert!(!response.message().has_fingerprint());
}

/// STUN-8489-14.7-01: the last attribute, computed over everything before it, MACs included, with its length counted.
#[test]
fn stun_8489_14_7_01_fingerprint_is_computed_last() {
    let mut world = World::new();
    let request = write(Method::Binding, Class::Request, TransactionId([4; 12]), &vec![], Seal::None, true);
    let plain = world.exchange(path(CLIENT), &request);
    let mut alice = world.alice(path(CLIENT));
    alice.fingerprint = true;
    let (_, sealed) = world.allocate(path(CLIENT), &mut alice, vec![]);
    for response in [&plain, &sealed] {
        let bytes = &response.0;
        let all = layout(bytes);
        let (kind, value, at) = all.last().unwrap();
        assert_eq!((*kind, *at), (0x8028, bytes.len() - 8));
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 20);
        // The polynomial of ISO 3309, bit by bit.
        let crc = !bytes[..*at].iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
        });
        assert_eq!(read_u32(value), Ok(crc ^ 0x5354_554E));
    }
    let kinds: Vec<u16> = layout(&sealed.0).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds[kinds.len() - 2..], [0x0008, 0x8028]);
    assert!(sealed.message().integrity_holds(&alice.key()));
}

/// STUN-8489-14.13-01: a list of 16 bits each, padded like everything else and not by saying one twice.
#[test]
fn stun_8489_14_13_01_unknown_attributes_are_padded_with_zeros() {
    let mut world = World::new();
    for (kinds, expected) in [
        (vec![0x7001], vec![0, 0x0A, 0, 2, 0x70, 0x01, 0, 0]),
        (vec![0x7001, 0x7002], vec![0, 0x0A, 0, 4, 0x70, 0x01, 0x70, 0x02]),
    ] {
        let attributes = kinds.into_iter().map(|kind| (AttributeType(kind), vec![])).collect();
        let response = world.exchange(path(CLIENT), &bare(Method::Binding, attributes));
        assert_eq!((response.error(), &response.0[response.0.len() - 8..]), (420, &expected[..]));
    }
}

/// STUN-8489-6.1-01: with the longest realm and software there may be, an unauthenticated answer fits an IPv4 packet of
/// 576 bytes, and a sealed one an IPv6 packet of 1280.
#[test]
fn stun_8489_6_1_01_answers_stay_below_the_smallest_mtu() {
    let realm = "r".repeat(128);
    let mut world = World::with(Config { realm: realm.clone(), software: Some("s".repeat(128)), ..config() });
    let request = write(
        Method::Allocate,
        Class::Request,
        TransactionId([5; 12]),
        &vec![udp(), (AttributeType::USERNAME, vec![b'u'; 508])],
        Seal::None,
        true,
    );
    let challenge = world.exchange(path(CLIENT), &request);
    assert_eq!(challenge.error(), 401);
    assert!(challenge.0.len() <= 576 - 28, "{}", challenge.0.len());
    let mut bob = Client::new("1800000100:bob", "");
    bob.realm = realm;
    bob.password = hairpin::turn::TimeLimitedForm::default().password(b"north", &bob.username);
    bob.nonce = challenge.nonce();
    let stale = [bob.nonce.clone(), vec![b'x']].concat();
    bob.fingerprint = true;
    let mut stranger = bob.clone();
    stranger.nonce = stale;
    let stale = stranger.signed(Method::Allocate, vec![udp()]);
    assert!(world.exchange(path(CLIENT), &stale).0.len() <= 576 - 28);
    let both = vec![udp(), (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0])];
    let request = bob.signed(Method::Allocate, both);
    let longest = world.exchange(path(CLIENT), &request);
    assert!(longest.is_success() && longest.0.len() <= 576 - 28, "{}", longest.0.len());
}

/// STUN-8489-6.3.1-03: whatever arrives twice leaves everything as once, and gets the same answer.
#[test]
fn stun_8489_6_3_1_03_a_retransmission_changes_nothing() {
    let here = path(CLIENT);
    let mut world = World::new();
    let mut alice = world.alice(here);
    let peers = |client: &mut Client, method, own: Attributes| signed_with_peers(client, method, own, &[PEER]);
    let requests = [
        bare(Method::Binding, vec![]),
        alice.signed(Method::Allocate, vec![udp()]),
        alice.signed(Method::Refresh, vec![lifetime(1200)]),
        peers(&mut alice, Method::CreatePermission, vec![]),
        peers(&mut alice, Method::ChannelBind, vec![channel(0x4001)]),
        alice.signed(Method::Refresh, vec![lifetime(0)]),
    ];
    for request in &requests {
        let first = world.exchange(here, request);
        let (alive, made, bound) =
            (world.server.allocations(), world.server.counters().allocations_created, world.binds.len());
        assert_eq!(first.error(), 0);
        let again = world.exchange(here, request);
        assert_eq!(again, first);
        let after = (world.server.allocations(), world.server.counters().allocations_created, world.binds.len());
        assert_eq!(after, (alive, made, bound));
    }
    assert_eq!((world.server.counters().allocations_created, world.server.allocations()), (1, 0));
}

/// STUN-8489-6.3.1.1-04: SOFTWARE says what is configured, to whoever has logged in, and nothing if nothing is.
#[test]
fn stun_8489_6_3_1_1_04_software_is_configurable() {
    for software in [None, Some("hairpin".to_owned())] {
        let mut world = World::with(Config { software: software.clone(), ..config() });
        let expected = software.map(String::into_bytes);
        let mut alice = world.alice(path(CLIENT));
        let (_, allocated) = world.allocate(path(CLIENT), &mut alice, vec![]);
        let refreshed = world.refresh(path(CLIENT), &mut alice, vec![]);
        for response in [allocated, refreshed] {
            assert_eq!(response.first(AttributeType::SOFTWARE), expected);
        }
        // To strangers it would only make answers longer (abuse S4).
        let binding = world.exchange(path(CLIENT), &bare(Method::Binding, vec![]));
        assert_eq!(binding.first(AttributeType::SOFTWARE), None);
    }
}

/// TURN-8656-7.2-27: ports come from all of the range and from nowhere else.
#[test]
fn turn_8656_7_2_27_relay_ports_are_spread_over_the_range() {
    let mut config = config();
    (config.ports.first, config.ports.last) = (49_152, 65_535);
    config.limits.allocations = 2_000;
    let mut world = World::with(config);
    let mut quarters = [0; 4];
    for number in 0..1_000 {
        let here = path(&format!("192.0.2.10:{}", 10_000 + number));
        let mut alice = world.alice(here);
        let (_, response) = world.allocate(here, &mut alice, vec![]);
        let port = response.address(AttributeType::XOR_RELAYED_ADDRESS).unwrap().port();
        assert!(port >= 49_152);
        quarters[usize::from((port - 49_152) / 4_096)] += 1;
    }
    // 250 each; one in a billion worlds is further off.
    assert!(quarters.iter().all(|count| (165..=335).contains(count)), "{quarters:?}");
}

/// STUN-7982-3-01 may be left out, and is: to count the answers to a transaction is to remember somebody who has shown
/// nothing yet. TRANSACTION_TRANSMIT_COUNTER is ignored, by which a client knows that it is not counted.
#[test]
fn stun_7982_3_01_the_transmit_counter_is_ignored() {
    let counter = AttributeType(0x8025);
    let mut world = World::new();
    let request = bare(Method::Binding, vec![(counter, vec![0, 0, 2, 0])]);
    let plain = world.exchange(path(CLIENT), &bare(Method::Binding, vec![]));
    for _ in 0..2 {
        assert_eq!(world.exchange(path(CLIENT), &request), plain);
    }
}
