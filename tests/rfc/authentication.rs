//! RFC 8489 §9: the long-term credential mechanism, and time-limited credentials.

use hairpin::stun::{AttributeType, Method, Seal, TransactionId, integrity};
use hairpin::turn::TimeLimitedForm;

use crate::client::{Attributes, Client, Signing, append, bare, lifetime, udp};
use crate::world::{REALM, UNIX_START, World, config, path};

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.10:40001";

/// The error of one signed Allocate.
#[track_caller]
fn allocate(world: &mut World, client: &mut Client) -> u16 {
    let request = client.signed(Method::Allocate, vec![udp()]);
    world.exchange(path(CLIENT), &request).error()
}

/// STUN-8489-9.2.4-01, 9.2-01, 9.2.1-01, 9.2.4-03, 9.2.4-05, 14.11-01, TURN-8656-5-01, 7.2-01.
#[test]
fn stun_8489_9_2_4_01_a_bare_request_is_challenged() {
    for method in [Method::Allocate, Method::Refresh, Method::CreatePermission, Method::ChannelBind] {
        let challenge = World::new().exchange(path(CLIENT), &bare(method, vec![udp()]));
        assert_eq!(challenge.error(), 401);
        assert_eq!(challenge.first(AttributeType::REALM).unwrap(), REALM.as_bytes());
        assert!(challenge.nonce().starts_with(b"obMatJos2gAAA"));
        assert_eq!(challenge.first(AttributeType::PASSWORD_ALGORITHMS).unwrap(), [0, 2, 0, 0, 0, 1, 0, 0]);
        assert!(challenge.first(AttributeType::USERNAME).is_none());
        assert!(!challenge.message().has_integrity() && !challenge.message().has_integrity_sha256());
    }
}

#[test]
fn stun_8489_9_2_4_02_a_nonce_is_of_no_use_to_another_client() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let elsewhere = world.alice(path(OTHER));
    assert_ne!(alice.nonce, elsewhere.nonce);
    alice.nonce = elsewhere.nonce;
    assert_eq!(allocate(&mut world, &mut alice), 438);
}

/// STUN-8489-9.2.4-06 and -07: one of three is missing.
#[test]
fn stun_8489_9_2_4_06_incomplete_credentials_are_a_bad_request() {
    for missing in [AttributeType::USERNAME, AttributeType::REALM, AttributeType::NONCE] {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let mut attributes: Attributes = alice.credentials();
        attributes.retain(|(kind, _)| *kind != missing);
        let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
        let response = world.exchange(path(CLIENT), &request);
        assert_eq!(response.error(), 400);
        for absent in [AttributeType::USERNAME, AttributeType::REALM, AttributeType::NONCE] {
            assert!(response.first(absent).is_none());
        }
        assert!(!response.message().has_integrity());
    }
}

/// STUN-8489-9.2.4-08 and -19: RFC 5389 clients work, and never see MESSAGE-INTEGRITY-SHA256 (L04).
#[test]
fn stun_8489_9_2_4_19_a_classic_client_is_answered_in_kind() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![]);
    let message = response.message();
    assert!(message.has_integrity() && !message.has_integrity_sha256());
    assert!(message.integrity_holds(&alice.key()));
}

/// STUN-8489-9.2.4-18, -21, 18.5.1-01, 9.1.3-04: an RFC 8489 client gets MESSAGE-INTEGRITY-SHA256 alone, whichever key.
#[test]
fn stun_8489_9_2_4_18_a_modern_client_is_answered_in_kind() {
    for signing in [Signing::Sha256, Signing::Md5WithSha256Mac] {
        let mut world = World::new();
        let mut alice = world.alice(path(CLIENT));
        alice.signing = signing;
        let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![]);
        let message = response.message();
        assert!(!message.has_integrity() && message.has_integrity_sha256());
        assert!(message.integrity_holds(&alice.key()));
        for absent in [AttributeType::USERNAME, AttributeType::REALM, AttributeType::NONCE] {
            assert!(response.first(absent).is_none(), "STUN-8489-9.2.4-20");
        }
    }
}

/// STUN-8489-9.2.4-22: the algorithm attributes with the old MAC are accepted and answered with the new one.
#[test]
fn stun_8489_9_2_4_22_algorithms_with_the_old_mac_are_accepted() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    alice.signing = Signing::Sha256;
    let attributes: Attributes = [vec![udp()], alice.credentials()].concat();
    let id = TransactionId([1; 12]);
    let key = alice.key();
    let class = hairpin::stun::Class::Request;
    let request = crate::client::write(Method::Allocate, class, id, &attributes, Seal::Sha1(&key), false);
    let response = world.exchange(path(CLIENT), &request);
    assert!(response.is_success() && response.message().has_integrity_sha256());
}

/// STUN-8489-9.2.4-09, -10, -11.
#[test]
fn stun_8489_9_2_4_10_algorithms_must_come_back_as_they_were_sent() {
    let (one, list) = (AttributeType::PASSWORD_ALGORITHM, AttributeType::PASSWORD_ALGORITHMS);
    let sent = vec![0, 2, 0, 0, 0, 1, 0, 0];
    let cases: [Attributes; 6] = [
        vec![(one, vec![0, 2, 0, 0])],
        vec![(list, sent.clone())],
        vec![(list, vec![0, 1, 0, 0, 0, 2, 0, 0]), (one, vec![0, 1, 0, 0])],
        vec![(list, vec![0, 1, 0, 0]), (one, vec![0, 1, 0, 0])],
        vec![(list, sent.clone()), (one, vec![0, 3, 0, 0])],
        vec![(list, sent), (one, vec![0, 1])],
    ];
    for case in cases {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let attributes: Attributes = [vec![udp()], alice.credentials(), case].concat();
        let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 400);
    }
}

/// STUN-8489-9.2.4-12, -13, -17: unknown name, wrong password and wrong realm cannot be told apart.
#[test]
fn stun_8489_9_2_4_17_failures_look_alike() {
    let mut answers = Vec::new();
    for (name, password, realm) in
        [("nobody", "s3cret", REALM), ("alice", "wrong", REALM), ("alice", "s3cret", "other.example")]
    {
        let mut world = World::new();
        let mut client = world.client(path(CLIENT), name, password);
        client.realm = realm.into();
        let request = client.signed(Method::Allocate, vec![udp()]);
        let response = world.exchange(path(CLIENT), &request);
        assert_eq!(response.error(), 401, "STUN-8489-9.2.4-25: also for a wrong realm");
        assert_eq!(response.first(AttributeType::REALM).unwrap(), REALM.as_bytes());
        assert!(!response.message().has_integrity(), "nobody was authenticated");
        answers.push(response);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

/// STUN-8489-9.2.4-14, -15: the MAC is checked before the nonce; a fresh nonce works at once.
#[test]
fn stun_8489_9_2_4_14_mac_is_checked_before_the_nonce() {
    let mut world = World::new();
    let mut wrong = world.client(path(CLIENT), "alice", "wrong");
    let mut right = world.alice(path(CLIENT));
    world.pass(3601);
    assert_eq!(allocate(&mut world, &mut wrong), 401);
    let request = right.signed(Method::Allocate, vec![udp()]);
    let stale = world.exchange(path(CLIENT), &request);
    assert_eq!(stale.error(), 438);
    assert_eq!(stale.first(AttributeType::REALM).unwrap(), REALM.as_bytes());
    assert!(stale.first(AttributeType::PASSWORD_ALGORITHMS).is_some());
    right.nonce = stale.nonce();
    assert_eq!(allocate(&mut world, &mut right), 0);
}

/// TURN-8656-5-02 and L12: a nonce dies within the hour, but a genuine old one may still delete.
#[test]
fn l12_an_expired_nonce_may_still_delete() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    world.allocate(path(CLIENT), &mut alice, vec![lifetime(3600)]);
    world.pass(1800);
    world.refresh(path(CLIENT), &mut alice, vec![lifetime(3600)]);
    world.pass(1801);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).error(), 438);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![lifetime(0)]).lifetime(), Some(0));
    assert_eq!(world.server.allocations(), 0);
}

/// STUN-8489-16.1.3-01, 9.2.4-23.
#[test]
fn stun_8489_16_1_3_01_a_nonce_with_edited_feature_bits_is_not_valid() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    alice.nonce[9..13].copy_from_slice(b"AAAA");
    assert_eq!(allocate(&mut world, &mut alice), 438);
}

/// STUN-8489-9-01 (L02, abuse S8): what follows MESSAGE-INTEGRITY is neither obeyed nor complained about.
#[test]
fn stun_8489_9_01_attributes_behind_message_integrity_are_ignored() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let mut request = alice.signed(Method::Allocate, vec![udp()]);
    append(
        &mut request,
        &vec![(AttributeType(0x7FFF), vec![]), lifetime(3600), (AttributeType(0xFF05), b"log-id".to_vec())],
    );
    let response = world.exchange(path(CLIENT), &request);
    assert_eq!(response.lifetime(), Some(600));
}

/// STUN-8489-9-02: nor what follows MESSAGE-INTEGRITY-SHA256, a late MESSAGE-INTEGRITY included.
#[test]
fn stun_8489_9_02_attributes_behind_message_integrity_sha256_are_ignored() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    alice.signing = Signing::Sha256;
    let mut request = alice.signed(Method::Allocate, vec![udp()]);
    append(
        &mut request,
        &vec![(AttributeType::EVEN_PORT, vec![0x80]), (AttributeType::MESSAGE_INTEGRITY, vec![0; 20])],
    );
    assert!(world.exchange(path(CLIENT), &request).is_success());
}

/// STUN-8489-9.1.3-03, 14.6-02 (A20): of two MACs the SHA-256 one decides, and covers the other.
#[test]
fn stun_8489_14_6_02_of_two_macs_the_sha256_one_decides() {
    for (break_sha1, break_sha256, expected) in [(true, false, 0), (false, true, 401)] {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let attributes: Attributes = [vec![udp()], alice.credentials()].concat();
        let mut request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
        if break_sha1 {
            *request.last_mut().unwrap() ^= 1;
        }
        let mut mac = integrity::sha256(&request, &alice.key());
        mac[0] ^= u8::from(break_sha256);
        append(&mut request, &vec![(AttributeType::MESSAGE_INTEGRITY_SHA256, mac.to_vec())]);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), expected);
    }
}

/// STUN-8489-14.5-02, 14.6-01: a MAC of another length never verifies.
#[test]
fn stun_8489_14_5_02_a_mac_of_the_wrong_length_is_a_wrong_mac() {
    for (kind, len) in [
        (AttributeType::MESSAGE_INTEGRITY, 0),
        (AttributeType::MESSAGE_INTEGRITY, 16),
        (AttributeType::MESSAGE_INTEGRITY, 32),
        (AttributeType::MESSAGE_INTEGRITY_SHA256, 16),
        (AttributeType::MESSAGE_INTEGRITY_SHA256, 36),
    ] {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let mut request = bare(Method::Allocate, [vec![udp()], alice.credentials()].concat());
        // A correct MAC cut short, where there is one.
        let mut mac = match kind {
            AttributeType::MESSAGE_INTEGRITY => integrity::sha1(&request, &alice.key()).to_vec(),
            _ => integrity::sha256(&request, &alice.key()).to_vec(),
        };
        mac.resize(len, 0);
        append(&mut request, &vec![(kind, mac)]);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 401, "{kind:?} of {len}");
    }
}

/// STUN-8489-14.3-01, -02.
#[test]
fn stun_8489_14_3_01_odd_user_names_are_unknown_users() {
    for name in [vec![b'x'; 700], vec![b'x'; 763], vec![b'x'; 2000], vec![0xFF, 0xFE], vec![]] {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let mut attributes = alice.credentials();
        attributes[0].1 = name;
        let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 401);
    }
}

/// STUN-8489-14-04 (abuse S8): the first of two counts.
#[test]
fn stun_8489_14_04_the_first_of_two_attributes_counts() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let (_, response) = world.allocate(path(CLIENT), &mut alice, vec![lifetime(1200), lifetime(3600)]);
    assert_eq!(response.lifetime(), Some(1200));
}

/// STUN-8489-6.3.1.1-03, -04: errors after authentication are sealed, and have SOFTWARE where it is switched on.
#[test]
fn stun_8489_6_3_1_1_03_errors_after_authentication_are_sealed() {
    for software in [None, Some("hairpin".to_owned())] {
        let mut world = World::with(hairpin::turn::Config { software: software.clone(), ..config() });
        let mut alice = world.alice(path(CLIENT));
        let request = alice.signed(Method::Allocate, vec![(AttributeType::REQUESTED_TRANSPORT, vec![132, 0, 0, 0])]);
        let response = world.exchange(path(CLIENT), &request);
        assert_eq!(response.error(), 442);
        assert!(response.message().integrity_holds(&alice.key()));
        assert_eq!(response.first(AttributeType::SOFTWARE), software.map(String::into_bytes));
    }
}

fn time_limited(name: &str, secret: &str) -> Client {
    Client::new(name, &TimeLimitedForm::default().password(secret.as_bytes(), name))
}

/// The error of an Allocate with this time-limited name, signed with this secret.
fn allocate_time_limited(name: &str, secret: &str) -> u16 {
    let mut world = World::new();
    let mut client = time_limited(name, secret);
    client.nonce = world.alice(path(CLIENT)).nonce;
    allocate(&mut world, &mut client)
}

/// REST-01, -02, -05, -06 (S14): every secret counts, with and without a user id, beside static users.
#[test]
fn rest_05_several_secrets_count_at_the_same_time() {
    let soon = UNIX_START + 3600;
    for name in [format!("{soon}:carol"), format!("{soon}"), format!("{UNIX_START}:carol"), format!("{soon}:a:b")] {
        for secret in ["north", "south"] {
            assert_eq!(allocate_time_limited(&name, secret), 0, "{name}");
        }
        assert_eq!(allocate_time_limited(&name, "east"), 401, "{name}");
    }
}

/// REST-03, REST-07, S14.
#[test]
fn s14_expired_overlong_and_senseless_times_are_refused() {
    let past = UNIX_START - 1;
    let far = UNIX_START + 86_401;
    for name in [
        format!("{past}:carol"),
        format!("{far}:carol"),
        "abc:carol".into(),
        ":carol".into(),
        "-1:carol".into(),
        format!("+{far}:carol"),
        "99999999999999999999:carol".into(),
        "18446744073709551615:carol".into(),
    ] {
        assert_eq!(allocate_time_limited(&name, "north"), 401, "{name}");
    }
}

/// REST-04: an allocation outlives the name it was made with.
#[test]
fn rest_04_an_allocation_outlives_its_credential() {
    let mut world = World::new();
    let mut carol = time_limited(&format!("{}:carol", UNIX_START + 60), "north");
    carol.nonce = world.alice(path(CLIENT)).nonce;
    world.allocate(path(CLIENT), &mut carol, vec![]);
    world.pass(300);
    assert_eq!(world.refresh(path(CLIENT), &mut carol, vec![]).lifetime(), Some(600));
    // But makes no second one.
    carol.nonce = world.alice(path(OTHER)).nonce;
    let request = carol.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path(OTHER), &request).error(), 401);
}

/// REST-08: quotas go by the user id.
#[test]
fn rest_08_the_account_is_the_user_id() {
    let mut world = World::new();
    for (port, secs, account) in [(1, 60, "carol"), (2, 61, "carol")] {
        let here = path(&format!("192.0.2.10:{port}"));
        let mut carol = time_limited(&format!("{}:carol", UNIX_START + secs), "north");
        carol.nonce = world.alice(here).nonce;
        world.allocate(here, &mut carol, vec![]);
        let Some(hairpin::turn::Event::Allocated { account: counted, .. }) = world.events.last() else { panic!() };
        assert_eq!(&**counted, account);
    }
}
