//! RFC 8489 §9.1: short-term credentials, for Binding where they are configured.

use hairpin::stun::{AttributeType, Class, Method, Seal, TransactionId, integrity};
use hairpin::turn::{Compatibility, Config, Reason, Transport};

use crate::client::{Attributes, Response, append, bare, indication, udp, write};
use crate::world::{Seen, World, config, path, path_over};

const CLIENT: &str = "192.0.2.10:40000";
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

fn with_short_term() -> World {
    World::with(short_term())
}

fn short_term() -> Config {
    let mut config = config();
    let user = |name: &str, forms: &[&str]| (name.to_owned(), forms.iter().map(|form| (*form).to_owned()).collect());
    config.credentials.binding_users = [
        user("evtj:h6vY", &[PASSWORD]),
        // As the configuration makes them: prepared, and as it was written.
        user("caf\u{e9}", &["caf\u{e9}", "cafe\u{301}"]),
    ]
    .into_iter()
    .collect();
    config
}

fn request(username: Option<&[u8]>, seal: Seal<'_>) -> Vec<u8> {
    let attributes: Attributes = username.map(|name| (AttributeType::USERNAME, name.to_vec())).into_iter().collect();
    write(Method::Binding, Class::Request, TransactionId([3; 12]), &attributes, seal, true)
}

#[track_caller]
fn exchange(username: &str, seal: Seal<'_>) -> Response {
    with_short_term().exchange(path(CLIENT), &request(Some(username.as_bytes()), seal))
}

/// The vector of RFC 5769 §2.1. It is authenticated; PRIORITY is none of our business (420).
#[test]
fn stun_8489_9_1_1_01_the_key_is_the_password() {
    let vector = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff\
                  80290008932ff9b151263b36000600096576746a3a6836765920202000080014\
                  9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
    let response = with_short_term().exchange(path(CLIENT), &hex::decode(vector).unwrap());
    assert_eq!((response.error(), response.unknown()), (420, vec![0x0024]));
    assert!(response.message().integrity_holds(PASSWORD.as_bytes()));
    let response = exchange("evtj:h6vY", Seal::Sha1(PASSWORD.as_bytes()));
    assert!(response.is_success() && response.address(AttributeType::XOR_MAPPED_ADDRESS).is_some());
}

/// STUN-8489-9.1.1-01: names and passwords beyond ASCII, prepared or not.
#[test]
fn stun_8489_9_1_1_01_names_and_passwords_are_prepared() {
    for name in ["caf\u{e9}", "cafe\u{301}"] {
        for password in ["caf\u{e9}", "cafe\u{301}"] {
            let response = exchange(name, Seal::Sha1(password.as_bytes()));
            assert!(response.message().integrity_holds(password.as_bytes()));
        }
    }
}

#[test]
fn stun_8489_9_1_3_01_incomplete_requests_are_bad_and_indications_dropped() {
    let mac = Seal::Sha1(PASSWORD.as_bytes());
    for request in [request(None, mac), request(Some(b"evtj:h6vY"), Seal::None), request(None, Seal::None)] {
        let response = with_short_term().exchange(path(CLIENT), &request);
        assert_eq!(response.error(), 400);
        assert!(!response.message().has_integrity());
    }
    let silent = with_short_term().send(path(CLIENT), &indication(Method::Binding, vec![]));
    assert_eq!(silent, Some(Seen::Dropped(Reason::UnexpectedClass)));
}

#[test]
fn stun_8489_9_1_3_02_unknown_names_and_wrong_macs_get_a_bare_401() {
    let mut answers = Vec::new();
    for (name, password) in [("nobody", PASSWORD), ("evtj:h6vY", "wrong"), ("", PASSWORD), ("alice", "s3cret")] {
        let response = exchange(name, Seal::Sha1(password.as_bytes()));
        assert_eq!(response.error(), 401);
        for absent in [AttributeType::REALM, AttributeType::NONCE, AttributeType::PASSWORD_ALGORITHMS] {
            assert!(response.first(absent).is_none());
        }
        assert!(!response.message().has_integrity() && !response.message().has_integrity_sha256());
        answers.push(response);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    let no_text = request(Some(b"\xFF\xFE"), Seal::Sha1(PASSWORD.as_bytes()));
    assert_eq!(with_short_term().exchange(path(CLIENT), &no_text).error(), 401);
}

#[test]
fn stun_8489_9_1_3_03_of_two_macs_the_sha256_one_decides() {
    for (break_sha1, break_sha256, expected) in [(true, false, 0), (false, true, 401)] {
        let attributes = vec![(AttributeType::USERNAME, b"evtj:h6vY".to_vec())];
        let key = PASSWORD.as_bytes();
        let id = TransactionId([3; 12]);
        let mut request = write(Method::Binding, Class::Request, id, &attributes, Seal::Sha1(key), false);
        *request.last_mut().unwrap() ^= u8::from(break_sha1);
        let mut mac = integrity::sha256(&request, key);
        mac[0] ^= u8::from(break_sha256);
        append(&mut request, &vec![(AttributeType::MESSAGE_INTEGRITY_SHA256, mac.to_vec())]);
        assert_eq!(with_short_term().exchange(path(CLIENT), &request).error(), expected);
    }
}

#[test]
fn stun_8489_9_1_3_04_the_response_has_the_mac_of_the_request_and_no_name() {
    for (seal, sha256) in [(Seal::Sha1(PASSWORD.as_bytes()), false), (Seal::Sha256(PASSWORD.as_bytes()), true)] {
        let response = exchange("evtj:h6vY", seal);
        let message = response.message();
        assert_eq!((message.has_integrity(), message.has_integrity_sha256()), (!sha256, sha256));
        assert!(message.integrity_holds(PASSWORD.as_bytes()) && message.has_fingerprint());
        assert!(response.first(AttributeType::USERNAME).is_none());
    }
}

/// STUN-8489-12-01: by default Binding needs nothing and looks at nothing; and TURN keeps its own credentials.
#[test]
fn stun_8489_12_01_short_term_credentials_are_off_by_default_and_concern_binding_only() {
    let wrong = request(Some(b"evtj:h6vY"), Seal::Sha1(b"wrong"));
    let response = World::new().exchange(path(CLIENT), &wrong);
    assert!(response.is_success() && !response.message().has_integrity());
    assert!(World::new().exchange(path(CLIENT), &bare(Method::Binding, vec![])).is_success());
    let mut world = with_short_term();
    let mut alice = world.alice(path(CLIENT));
    world.allocate(path(CLIENT), &mut alice, vec![]);
    assert_eq!(world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()])).error(), 401);
}

/// A request without cookie cannot show them, and so is no way around them.
#[test]
fn stun_8489_9_1_3_01_requests_without_cookie_are_dropped_where_credentials_are_wanted() {
    let compatibility = Compatibility { classic_udp: true, classic_tcp: true, ..Compatibility::default() };
    let mut world = World::with(Config { compatibility, ..short_term() });
    let mut classic = request(None, Seal::None);
    classic.truncate(20);
    classic[2..8].copy_from_slice(&[0, 0, 1, 2, 3, 4]);
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(world.send(path_over(transport, CLIENT), &classic), Some(Seen::Dropped(Reason::BadHeader)));
    }
}
