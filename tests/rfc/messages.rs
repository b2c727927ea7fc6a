//! RFC 8489 §5–§7, §14: what is a message, what is ignored, what is refused.

use hairpin::stun::{AttributeType, Class, Method, Seal, TransactionId};
use hairpin::turn::{Reason, Transport};

use crate::client::{append, bare, channel, indication, lifetime, udp, write};
use crate::world::{Seen, World, path, path_over};

const CLIENT: &str = "192.0.2.10:40000";

#[track_caller]
fn assert_dropped(bytes: &[u8], reason: Reason) {
    let seen = World::new().send(path(CLIENT), bytes);
    assert_eq!(seen, Some(Seen::Dropped(reason)));
}

fn binding() -> Vec<u8> {
    bare(Method::Binding, vec![])
}

#[test]
fn stun_8489_5_01_top_bits_other_than_zero_are_not_stun() {
    for first in [0x80, 0xC0] {
        let mut request = binding();
        request[0] = first;
        assert_dropped(&request, Reason::NotStun);
    }
    let mut request = binding();
    request[0] = 0x40;
    assert_dropped(&request, Reason::NoAllocation);
}

/// MUX-7983-7-01 and -02: STUN and ChannelData are looked at, all other first bytes dropped.
#[test]
fn mux_7983_7_02_other_first_bytes_are_dropped() {
    for first in (4..=63).chain(128..=255) {
        let mut request = binding();
        request[0] = first;
        assert_dropped(&request, Reason::NotStun);
    }
    assert_dropped(&[], Reason::NotStun);
}

/// MUX-9443-3-01: a stranger's ChannelData gets nothing.
#[test]
fn mux_9443_3_01_channel_data_from_a_stranger_is_dropped() {
    assert_dropped(&crate::client::channel_data(0x4000, b"x"), Reason::NoAllocation);
}

#[test]
fn stun_8489_5_02_a_short_header_is_dropped() {
    for len in 1..20 {
        assert_dropped(&binding()[..len], Reason::BadHeader);
    }
}

/// STUN-8489-5-03: and methods of the reserved range are nobody's.
#[test]
fn stun_8489_5_03_goog_ping_is_not_taken_for_another_method() {
    let mut request = binding();
    request[..2].copy_from_slice(&0x0200u16.to_be_bytes());
    assert_dropped(&request, Reason::BadHeader);
}

/// Also CLASSIC-3489-02 and TURN-8656-5-10: without the cookie it is RFC 3489, which is off.
#[test]
fn stun_8489_5_04_another_cookie_is_dropped() {
    for method in [Method::Binding, Method::Allocate] {
        let mut request = bare(method, vec![]);
        request[4..8].fill(0);
        assert_dropped(&request, Reason::BadHeader);
    }
}

#[test]
fn stun_8489_5_05_a_length_that_is_no_multiple_of_four_is_dropped() {
    for length in [2u8, 7] {
        let mut request = binding();
        request[3] = length;
        request.resize(20 + usize::from(length), 0);
        assert_dropped(&request, Reason::BadHeader);
    }
}

#[test]
fn stun_8489_5_06_the_length_must_agree_with_the_datagram() {
    let mut longer = binding();
    longer[3] = 4;
    assert_dropped(&longer, Reason::BadHeader);
    let mut shorter = binding();
    shorter.extend([0; 4]);
    assert_dropped(&shorter, Reason::BadHeader);
}

#[test]
fn stun_8489_5_07_a_response_echoes_method_and_transaction_id() {
    let mut world = World::new();
    let response = world.exchange(path(CLIENT), &binding());
    assert_eq!(response.0[..2], [0x01, 0x01]);
    assert_eq!(response.message().transaction_id(), TransactionId([9; 12]));
    let refused = world.exchange(path(CLIENT), &bare(Method::Refresh, vec![]));
    assert_eq!(refused.0[..2], [0x01, 0x14]);
    assert_eq!(refused.message().transaction_id(), TransactionId([9; 12]));
}

#[test]
fn stun_8489_6_3_01_unknown_methods_and_classes_are_dropped() {
    let mut unknown = binding();
    unknown[..2].copy_from_slice(&0x01EFu16.to_be_bytes()); // method 0x07F, request
    unknown[0] = 0x01;
    unknown[1] = 0xEF;
    assert_dropped(&unknown, Reason::BadHeader);
    assert_dropped(&bare(Method::Send, vec![]), Reason::UnexpectedClass);
    assert_dropped(&bare(Method::Data, vec![]), Reason::UnexpectedClass);
    assert_dropped(&indication(Method::Data, vec![]), Reason::UnexpectedClass);
}

#[test]
fn stun_8489_6_3_02_responses_are_dropped() {
    for class in [Class::Success, Class::Error] {
        let response = write(Method::Binding, class, TransactionId([1; 12]), &vec![], Seal::None, false);
        assert_dropped(&response, Reason::UnexpectedClass);
    }
}

#[test]
fn stun_8489_6_3_03_authentication_comes_before_unknown_attributes() {
    let request = bare(Method::Allocate, vec![udp(), (AttributeType(0x7FFF), vec![])]);
    assert_eq!(World::new().exchange(path(CLIENT), &request).error(), 401);
}

/// Also IANA-03: every registered comprehension-optional number.
#[test]
fn stun_8489_6_3_04_unknown_optional_attributes_are_ignored() {
    let registered = [0x8025, 0x8027, 0x8029, 0x802A, 0x802D, 0x802F, 0xFFFE];
    for number in (0xC000..=0xC071).chain(registered) {
        let request = bare(Method::Binding, vec![(AttributeType(number), vec![1, 2, 3])]);
        assert!(World::new().exchange(path(CLIENT), &request).is_success(), "{number:#06x}");
    }
}

#[test]
fn stun_8489_6_3_05_known_attributes_that_make_no_sense_are_ignored() {
    let request = bare(Method::Binding, vec![lifetime(60), channel(0x4000)]);
    assert!(World::new().exchange(path(CLIENT), &request).is_success());
}

/// STUN-8489-6.3.1-01, -02 and 14.13-01: all of them, each once, with ordinary padding.
#[test]
fn stun_8489_6_3_1_02_every_unknown_attribute_is_listed_once() {
    let unknown = |number| (AttributeType(number), vec![]);
    let one = World::new().exchange(path(CLIENT), &bare(Method::Binding, vec![unknown(0x7FFF)]));
    assert_eq!((one.error(), one.unknown()), (420, vec![0x7FFF]));
    assert_eq!(one.first(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().len(), 2);
    let three = vec![unknown(0x7FFE), unknown(0x7FFF), unknown(0x7FFE)];
    assert_eq!(World::new().exchange(path(CLIENT), &bare(Method::Binding, three)).unknown(), [0x7FFE, 0x7FFF]);
}

/// IANA-01, IANA-02: registered or reserved, but not implemented here.
#[test]
fn iana_02_reserved_numbers_are_unknown() {
    for number in [0x0002, 0x0004, 0x0005, 0x0007, 0x000B, 0x0010, 0x0021, 0x0024, 0x0025] {
        let request = bare(Method::Binding, vec![(AttributeType(number), vec![0; 4])]);
        assert_eq!(World::new().exchange(path(CLIENT), &request).unknown(), [number]);
    }
}

#[test]
fn stun_8489_6_3_1_04_the_same_request_gets_the_same_answer() {
    let mut world = World::new();
    let first = world.exchange(path(CLIENT), &binding());
    assert_eq!(world.exchange(path(CLIENT), &binding()), first);
}

/// STUN-8489-6.3.1.1-05, -06 and 12-01: source as seen, no credentials, either family, either transport.
#[test]
fn stun_8489_6_3_1_1_05_binding_tells_the_source_address() {
    for client in ["192.0.2.10:40000", "192.0.2.10:40001", "[2001:db8::9]:1"] {
        for transport in Transport::ALL {
            let response = World::new().exchange(path_over(transport, client), &binding());
            assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(client.parse().unwrap()));
            assert_eq!(response.first(AttributeType::SOFTWARE), None, "unauthenticated answers are minimal");
        }
    }
}

#[test]
fn stun_8489_6_3_2_02_indications_are_never_answered() {
    assert_dropped(&indication(Method::Binding, vec![]), Reason::UnexpectedClass);
    assert_dropped(&indication(Method::Allocate, vec![]), Reason::UnexpectedClass);
    assert_dropped(&indication(Method::Send, vec![(AttributeType(0x7FFF), vec![])]), Reason::UnknownAttribute);
}

#[test]
fn stun_8489_7_01_a_wrong_fingerprint_is_dropped() {
    let mut request = write(Method::Binding, Class::Request, TransactionId([9; 12]), &vec![], Seal::None, true);
    *request.last_mut().unwrap() ^= 1;
    assert_dropped(&request, Reason::BadFingerprint);
}

#[test]
fn stun_8489_7_03_responses_mirror_fingerprint() {
    for fingerprint in [false, true] {
        let request = write(Method::Binding, Class::Request, TransactionId([9; 12]), &vec![], Seal::None, fingerprint);
        let response = World::new().exchange(path(CLIENT), &request);
        assert_eq!(response.message().has_fingerprint(), fingerprint);
        assert!(response.message().fingerprint_holds());
    }
}

#[test]
fn stun_8489_14_01_padding_is_zero_and_not_counted() {
    let challenge = World::new().exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    let realm = [&[0x00, 0x14, 0x00, 11][..], b"example.org", &[0]].concat();
    assert!(challenge.0.windows(realm.len()).any(|window| window == realm));
}

#[test]
fn stun_8489_14_02_padding_is_ignored_on_receipt() {
    let mut request = bare(Method::Binding, vec![(AttributeType(0x8022), b"abc".to_vec())]);
    *request.last_mut().unwrap() = 0xFF;
    assert!(World::new().exchange(path(CLIENT), &request).is_success());
}

/// STUN-8489-14-03: a request is told, an indication is not.
#[test]
fn stun_8489_14_03_an_attribute_past_the_end_is_a_bad_request() {
    let mut request = bare(Method::Allocate, vec![udp()]);
    request[22..24].fill(0xFF);
    assert_eq!(World::new().exchange(path(CLIENT), &request).error(), 400);
    let mut send = indication(Method::Send, vec![crate::client::data(b"abcd")]);
    send[22..24].fill(0xFF);
    assert_dropped(&send, Reason::MalformedAttribute);
}

#[test]
fn stun_8489_14_7_03_what_follows_fingerprint_changes_nothing() {
    let mut request = write(Method::Binding, Class::Request, TransactionId([9; 12]), &vec![], Seal::None, true);
    append(&mut request, &vec![(AttributeType(0x7FFF), vec![])]);
    assert!(World::new().exchange(path(CLIENT), &request).is_success());
}

#[test]
fn stun_8489_14_8_01_error_code_has_class_number_and_reason() {
    let response = World::new().exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    let value = response.first(AttributeType::ERROR_CODE).unwrap();
    assert_eq!((&value[..4], &value[4..]), (&[0, 0, 4, 1][..], &b"Unauthenticated"[..]));
}
