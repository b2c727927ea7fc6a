//! TURN-8656-7.2-01, DISC-8155-9-01: allocations without credentials, for configured prefixes only.

use hairpin::stun::{AttributeType, Method, TransactionId};
use hairpin::turn::{Config, Event};

use crate::client::{Response, append, bare, channel, channel_data, lifetime, peer_for, udp};
use crate::world::{PEER, World, config, path};

const GUEST: &str = "10.1.2.3:40000";
const STRANGER: &str = "192.0.2.10:40000";

fn with_guests() -> World {
    let mut config: Config = config();
    config.credentials.guests = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:77::/48".parse().unwrap()];
    World::with(config)
}

fn allocate(world: &mut World, at: &str) -> Response {
    world.exchange(path(at), &bare(Method::Allocate, vec![udp()]))
}

/// TURN-8656-7.2-01: the whole life of an allocation, and no response is signed.
#[test]
fn turn_8656_7_2_01_guests_need_no_credentials() {
    let mut world = with_guests();
    let allocated = allocate(&mut world, GUEST);
    assert!(allocated.is_success() && allocated.address(AttributeType::XOR_RELAYED_ADDRESS).is_some());
    let peer = || peer_for(TransactionId([9; 12]), PEER);
    let responses = [
        allocated,
        world.exchange(path(GUEST), &bare(Method::CreatePermission, vec![peer()])),
        world.exchange(path(GUEST), &bare(Method::ChannelBind, vec![channel(0x4000), peer()])),
        world.exchange(path(GUEST), &bare(Method::Refresh, vec![lifetime(1200)])),
    ];
    for response in responses {
        let message = response.message();
        assert!(response.is_success() && !message.has_integrity() && !message.has_integrity_sha256());
    }
    let sent = world.send(path(GUEST), &channel_data(0x4000, b"abc")).unwrap();
    assert_eq!(sent.data_at_peer(), b"abc");
    assert_eq!(world.exchange(path(GUEST), &bare(Method::Refresh, vec![lifetime(0)])).lifetime(), Some(0));
    // Errors are unsigned, too, and 437 is no 401.
    let error = world.exchange(path(GUEST), &bare(Method::CreatePermission, vec![peer()]));
    assert_eq!((error.error(), error.message().has_integrity()), (437, false));
    let unknown = bare(Method::Allocate, vec![udp(), (AttributeType(0x7FFF), vec![])]);
    assert_eq!(world.exchange(path(GUEST), &unknown).error(), 420);
}

#[test]
fn disc_8155_9_01_outside_the_prefixes_nobody_is_a_guest() {
    for at in [STRANGER, "11.0.0.1:40000", "[2001:db8:78::1]:40000", "[2001:db8::1]:40000"] {
        assert_eq!(allocate(&mut with_guests(), at).error(), 401, "{at}");
    }
    for at in [GUEST, "10.255.255.255:1", "[2001:db8:77:1::1]:40000", "[::ffff:10.1.2.3]:40000"] {
        assert_eq!(allocate(&mut with_guests(), at).error(), 0, "{at}");
        assert_eq!(allocate(&mut World::new(), at).error(), 401, "off by default");
    }
}

/// Quotas go by address and /64.
#[test]
fn disc_8155_9_01_the_account_of_a_guest_is_its_address() {
    for (at, account) in [
        (GUEST, "guest 10.1.2.3/32"),
        ("10.1.2.3:40001", "guest 10.1.2.3/32"),
        ("10.1.2.4:40000", "guest 10.1.2.4/32"),
        ("[2001:db8:77:1::1]:40000", "guest 2001:db8:77:1::/64"),
        ("[2001:db8:77:1:ffff::2]:40000", "guest 2001:db8:77:1::/64"),
    ] {
        let mut world = with_guests();
        allocate(&mut world, at);
        let Some(Event::Allocated { account: counted, .. }) = world.events.last() else { panic!() };
        assert_eq!(&**counted, account);
    }
}

/// Whoever signs is held to it, also where guests may come; and neither kind gets at the other's allocation.
#[test]
fn turn_8656_7_2_01_credentials_count_where_guests_are_admitted() {
    let mut world = with_guests();
    // A guest is not challenged, so the nonce comes with the first refusal.
    let mut wrong = crate::client::Client::new("alice", "wrong");
    let request = wrong.signed(Method::Allocate, vec![udp()]);
    let challenge = world.exchange(path(GUEST), &request);
    assert_eq!(challenge.error(), 401);
    let mut alice = crate::client::Client::new("alice", "s3cret");
    alice.nonce = challenge.nonce();
    let (_, response) = world.allocate(path(GUEST), &mut alice, vec![]);
    assert!(response.message().integrity_holds(&alice.key()));
    assert_eq!(world.exchange(path(GUEST), &bare(Method::Refresh, vec![lifetime(0)])).error(), 441);

    assert!(allocate(&mut world, "10.1.2.3:40001").is_success());
    let stale = alice.signed(Method::Refresh, vec![]);
    alice.nonce = world.exchange(path("10.1.2.3:40001"), &stale).nonce();
    assert_eq!(world.refresh(path("10.1.2.3:40001"), &mut alice, vec![]).error(), 441);
    // A broken FINGERPRINT spoils a guest's request like any other.
    let mut request = bare(Method::Refresh, vec![lifetime(1200)]);
    append(&mut request, &vec![(AttributeType::FINGERPRINT, vec![0; 4])]);
    assert!(matches!(world.send(path("10.1.2.3:40001"), &request), Some(crate::world::Seen::Dropped(_))));
}
