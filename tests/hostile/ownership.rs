//! What stands behind the MAC, and whose allocation it is (abuse S8, S9).

use hairpin::turn::{FiveTuple, Transport};

use crate::corpus;
use crate::fixture::{CHANNEL, Fixture, NOT_PERMITTED, Outcome, PERMITTED, address, alices_path, key, path};
use crate::mutate::repair_length;
use crate::wire::{self, Builder, Parsed};

fn answer(fixture: &mut Fixture, path: FiveTuple, message: &[u8]) -> Parsed {
    match fixture.client_says(path, message) {
        Outcome::Reply(reply) => Parsed::parse(&reply).expect("a response must parse"),
        other => panic!("no answer but {other:?}"),
    }
}

/// Attributes that would change the outcome if they were obeyed.
fn lies() -> Vec<(u16, Vec<u8>)> {
    let peer = wire::xor(address(NOT_PERMITTED), [wire::CREATE_PERMISSION as u8; 12]);
    vec![
        (wire::LIFETIME, vec![0; 4]),
        (wire::XOR_PEER_ADDRESS, peer),
        (wire::CHANNEL_NUMBER, vec![0x3F, 0xFF, 0, 0]),
        (wire::REQUESTED_TRANSPORT, vec![6, 0, 0, 0]),
        (wire::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]),
        (wire::USERNAME, b"bob".to_vec()),
        (wire::NONCE, b"other".to_vec()),
        (0x7FFF, vec![]),
        (wire::MESSAGE_INTEGRITY, vec![0; 20]),
    ]
}

fn append(mut message: Vec<u8>, (kind, value): &(u16, Vec<u8>)) -> Vec<u8> {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    repair_length(&mut message);
    message
}

#[test]
fn s8_nothing_behind_message_integrity_is_obeyed() {
    for lie in lies() {
        for also_sha256 in [false, true] {
            let mut fixture = Fixture::with_alice();
            let path = alices_path();
            let mut say = |method: u16, attributes: &dyn Fn(Builder) -> Builder| {
                let builder = fixture.unsigned(path, method, "alice", attributes);
                let mut message = append(builder.sign(wire::MESSAGE_INTEGRITY, &key("alice")).finish(), &lie);
                if also_sha256 && lie.0 != wire::MESSAGE_INTEGRITY {
                    // A second MAC that covers the lie makes it no truer: only what stands before the first counts.
                    message = Builder::resume(message).sign(wire::MESSAGE_INTEGRITY_SHA256, &key("alice")).finish();
                }
                answer(&mut fixture, path, &message)
            };
            let refreshed = say(wire::REFRESH, &|builder| builder.u32(wire::LIFETIME, 800));
            assert_eq!((refreshed.error_code(), refreshed.get_u32(wire::LIFETIME)), (None, Some(800)), "{lie:x?}");
            let permitted = say(wire::CREATE_PERMISSION, &|builder| builder.peer(address("9.9.9.3:1")));
            assert_eq!(permitted.error_code(), None, "{lie:x?}");
            let bound = say(wire::CHANNEL_BIND, &|builder| {
                builder.u32(wire::CHANNEL_NUMBER, (u32::from(CHANNEL) + 1) << 16).peer(address("9.9.9.4:7000"))
            });
            assert_eq!(bound.error_code(), None, "{lie:x?}");
            assert!(fixture.is_permitted("9.9.9.3:7000") && fixture.is_permitted("9.9.9.4:7000"));
            assert!(!fixture.is_permitted(NOT_PERMITTED), "{lie:x?} was obeyed");
            assert_eq!(fixture.server.allocations(), 1);
        }
    }
}

#[test]
fn s8_of_duplicates_the_first_counts() {
    let mut fixture = Fixture::with_alice();
    let path = alices_path();
    let refresh = fixture
        .request(path, wire::REFRESH, "alice", |builder| builder.u32(wire::LIFETIME, 800).u32(wire::LIFETIME, 0));
    assert_eq!(answer(&mut fixture, path, &refresh).get_u32(wire::LIFETIME), Some(800));
    let bind = fixture.request(path, wire::CHANNEL_BIND, "alice", |builder| {
        builder.u32(wire::CHANNEL_NUMBER, 0x4010 << 16).peer(address("9.9.9.5:7000")).peer(address(NOT_PERMITTED))
    });
    assert_eq!(answer(&mut fixture, path, &bind).error_code(), None);
    assert!(fixture.is_permitted("9.9.9.5:7000"));
    assert!(!fixture.is_permitted(NOT_PERMITTED));
}

/// With good credentials of her own, and on alice's own 5-tuple (a NAT gave it to bob), nobody reaches her allocation.
#[test]
fn s9_another_user_never_reaches_an_allocation() {
    let mut fixture = Fixture::with_alice();
    let elsewhere = path(Transport::Udp, "198.18.0.2:2002");
    let over_tcp = path(Transport::Tcp, "198.18.0.1:1001");
    for (at, expected) in [(alices_path(), [437, 441]), (elsewhere, [0, 437]), (over_tcp, [0, 437])] {
        for message in corpus::authenticated(&mut fixture, at, "bob") {
            let request = Parsed::parse(&message);
            let outcome = fixture.client_says(at, &message);
            match request.map(|request| request.method) {
                Some(wire::ALLOCATE) if at != alices_path() => {
                    // An allocation of his own, which the shell is too busy for.
                    if let Some(hairpin::turn::Effect::BindRelay { relay, .. }) = fixture.effects().first() {
                        let busy = Err(hairpin::turn::BindError::OutOfCapacity);
                        fixture.server.relay_bound(fixture.clock, *relay, busy);
                        let refusal = fixture.effects();
                        assert!(matches!(refusal[..], [hairpin::turn::Effect::Send { .. }]), "{refusal:?}");
                    }
                }
                Some(method) if method != wire::SEND => {
                    let Outcome::Reply(reply) = outcome else {
                        panic!("no answer but {outcome:?}");
                    };
                    let code = Parsed::parse(&reply).expect("must parse").error_code();
                    let wanted = expected[usize::from(method != wire::ALLOCATE)];
                    assert_eq!(code, Some(wanted), "method {method:#x} at {at:?}");
                }
                // Data needs no credentials: it belongs to the 5-tuple, and from there it may flow where alice allowed.
                _ if at == alices_path() => {
                    assert!(matches!(&outcome, Outcome::Drop | Outcome::ToPeer(..)), "{outcome:?}");
                }
                _ => assert_eq!(outcome, Outcome::Drop),
            }
            assert_eq!(fixture.effects(), []);
            assert_eq!(fixture.server.allocations(), 1);
        }
    }
    assert!(fixture.is_permitted(PERMITTED) && !fixture.is_permitted("9.9.9.3:1"));
}
