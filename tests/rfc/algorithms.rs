//! RFC 8489 §9.2.4, §14.11, §18.5: which algorithms are offered and which are accepted; what challenges carry.

use hairpin::stun::{AttributeType, Class, Method, Seal, TransactionId};
use hairpin::turn::{Config, Credentials, NonceKeys};

use crate::client::{Attributes, Signing, bare, udp, write};
use crate::world::{World, config, path};

const CLIENT: &str = "192.0.2.10:40000";

fn with(change: impl FnOnce(&mut Credentials)) -> World {
    let mut config = config();
    change(&mut config.credentials);
    World::with(config)
}

/// The SHA-256 list alone, and the choice from it.
fn sha256_only() -> Attributes {
    vec![(AttributeType::PASSWORD_ALGORITHMS, vec![0, 2, 0, 0]), (AttributeType::PASSWORD_ALGORITHM, vec![0, 2, 0, 0])]
}

#[test]
fn stun_8489_18_5_1_02_md5_can_be_switched_off() {
    let mut world = with(|credentials| credentials.md5 = false);
    let challenge = world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert_eq!(challenge.first(AttributeType::PASSWORD_ALGORITHMS).unwrap(), [0, 2, 0, 0]);
    assert!(challenge.nonce().starts_with(b"obMatJos2gAAA"));

    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp()]);
    let refused = world.exchange(path(CLIENT), &request);
    assert_eq!(refused.error(), 401, "without PASSWORD-ALGORITHM");
    assert!(refused.first(AttributeType::NONCE).is_some());

    // A list that did not come with this nonce, and MD5 from a list that does not have it.
    alice.signing = Signing::Sha256;
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 400);
    alice.signing = Signing::Classic;
    let mut md5 = sha256_only();
    md5[1].1 = vec![0, 1, 0, 0];
    let request = alice.signed(Method::Allocate, [vec![udp()], md5].concat());
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 400);

    alice.signing = Signing::Sha256;
    let name_realm_nonce: Attributes = alice.credentials().into_iter().take(3).collect();
    let attributes = [vec![udp()], name_realm_nonce, sha256_only()].concat();
    let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
    let response = world.exchange(path(CLIENT), &request);
    assert!(response.is_success() && response.message().integrity_holds(&alice.key()));
}

/// STUN-8489-9.2.4-10, -23: what a client keeps from before a change of the configuration is out of date and not wrong.
#[test]
fn stun_8489_9_2_4_10_a_list_goes_with_its_nonce() {
    for before in [true, false] {
        let change = |world: &mut World, md5: bool| {
            let mut config = config();
            config.credentials.md5 = md5;
            world.server.configure(std::sync::Arc::new(config));
        };
        let mut world = World::new();
        change(&mut world, before);
        let mut alice = world.alice(path(CLIENT));
        alice.signing = Signing::Sha256;
        let names: Attributes = alice.credentials().into_iter().take(3).collect();
        let lists: [Attributes; 2] = [sha256_only(), alice.credentials().into_iter().skip(3).collect()];
        let [with_it, other] = if before { [&lists[1], &lists[0]] } else { [&lists[0], &lists[1]] };
        let mut ask = |world: &mut World, list: &Attributes| {
            let attributes = [vec![udp()], names.clone(), list.clone()].concat();
            let id = alice.transaction_id();
            let request = alice.seal(Method::Refresh, id, &attributes);
            world.exchange(path(CLIENT), &request).error()
        };
        assert_eq!((ask(&mut world, with_it), ask(&mut world, other)), (437, 400));
        change(&mut world, !before);
        assert_eq!((ask(&mut world, with_it), ask(&mut world, other)), (438, 438), "stale, whichever list");
    }
}

/// STUN-8489-9.2.4-22, the strict half; the other is in `authentication.rs`.
#[test]
fn stun_8489_9_2_4_22_a_strict_server_refuses_the_old_mac_of_a_modern_client() {
    for (strict, expected) in [(false, 0), (true, 401)] {
        let mut world = with(|credentials| credentials.strict_algorithms = strict);
        let mut alice = world.alice(path(CLIENT));
        alice.signing = Signing::Sha256;
        let attributes: Attributes = [vec![udp()], alice.credentials()].concat();
        let key = alice.key();
        let id = TransactionId([1; 12]);
        let request = write(Method::Allocate, Class::Request, id, &attributes, Seal::Sha1(&key), false);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), expected);
        // Neither half concerns clients of RFC 5389, nor those that do as RFC 8489 says.
        for signing in [Signing::Classic, Signing::Sha256] {
            let mut world = with(|credentials| credentials.strict_algorithms = strict);
            let mut alice = world.alice(path(CLIENT));
            alice.signing = signing;
            world.allocate(path(CLIENT), &mut alice, vec![]);
        }
    }
}

/// STUN-8489-9.2.4-03 and -14.11-01: in order of preference, each with empty parameters; the bit says that they are there.
#[test]
fn stun_8489_9_2_4_03_password_algorithms_are_listed_in_order_of_preference() {
    let challenge = World::new().exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert_eq!(challenge.first(AttributeType::PASSWORD_ALGORITHMS).unwrap(), [0, 2, 0, 0, 0, 1, 0, 0]);
    assert_eq!(challenge.nonce()[9], b'g');
}

/// STUN-8489-9.2.4-05, and the MACs besides.
#[test]
fn stun_8489_9_2_4_05_a_challenge_names_nobody() {
    let mut world = World::new();
    let name = (AttributeType::USERNAME, b"alice".to_vec());
    let hash = (AttributeType::USERHASH, vec![7; 32]);
    let challenge = world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp(), name, hash]));
    assert_eq!(challenge.error(), 401);
    for absent in [AttributeType::USERNAME, AttributeType::USERHASH] {
        assert!(challenge.first(absent).is_none());
    }
    assert!(!challenge.message().has_integrity() && !challenge.message().has_integrity_sha256());
}

#[test]
fn stun_8489_9_2_4_11_an_algorithm_that_was_not_offered_is_a_bad_request() {
    for chosen in [vec![0, 3, 0, 0], vec![0, 0, 0, 0], vec![0, 2, 0, 4, 0, 0, 0, 0], vec![0, 2], vec![]] {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let list = (AttributeType::PASSWORD_ALGORITHMS, vec![0, 2, 0, 0, 0, 1, 0, 0]);
        let one = (AttributeType::PASSWORD_ALGORITHM, chosen);
        let attributes: Attributes = [vec![udp()], alice.credentials(), vec![list, one]].concat();
        let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 400);
    }
}

#[test]
fn stun_8489_9_2_4_13_a_wrong_password_is_challenged_again() {
    let mut world = World::new();
    let mut alice = world.client(path(CLIENT), "alice", "wrong");
    for signing in [Signing::Classic, Signing::Sha256] {
        alice.signing = signing;
        let request = alice.signed(Method::Allocate, vec![udp()]);
        let response = world.exchange(path(CLIENT), &request);
        assert_eq!(response.error(), 401);
        for present in [AttributeType::REALM, AttributeType::NONCE, AttributeType::PASSWORD_ALGORITHMS] {
            assert!(response.first(present).is_some());
        }
        assert!(!response.message().has_integrity() && !response.message().has_integrity_sha256());
    }
}

/// STUN-8489-9.2.4-15 and -14.10-02: after its time, and after a change of keys, a nonce is stale, and the next one works.
#[test]
fn stun_8489_9_2_4_15_a_stale_nonce_is_answered_with_a_fresh_one() {
    type Spoil = fn(&mut World);
    let expire: Spoil = |world| world.pass(3601);
    let revoke: Spoil = |world| {
        let nonces = NonceKeys { current: [9; 32], previous: None, lifetime_secs: 3600 };
        world.server.configure(std::sync::Arc::new(Config { nonces, ..config() }));
    };
    for spoil in [expire, revoke] {
        let mut world = World::new();
        let mut alice = world.alice(path(CLIENT));
        spoil(&mut world);
        let request = alice.signed(Method::Allocate, vec![udp()]);
        let stale = world.exchange(path(CLIENT), &request);
        assert_eq!(stale.error(), 438);
        assert!(stale.first(AttributeType::REALM).is_some());
        assert!(stale.first(AttributeType::PASSWORD_ALGORITHMS).is_some());
        alice.nonce = stale.nonce();
        world.allocate(path(CLIENT), &mut alice, vec![]);
    }
}

/// STUN-8489-14.10-01.
#[test]
fn stun_8489_14_10_01_nonces_are_short_and_need_no_quoting() {
    let mut world = World::new();
    for port in 1..200 {
        let nonce = world.alice(path(&format!("192.0.2.10:{port}"))).nonce;
        assert!(nonce.len() < 128);
        assert!(nonce.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"' && *byte != b'\\'));
    }
}

/// STUN-8489-9.2.4-26.
#[test]
fn stun_8489_9_2_4_26_the_realm_is_the_configured_one() {
    let mut world = World::with(Config { realm: "turn.example.net".into(), ..config() });
    let challenge = world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert_eq!(challenge.first(AttributeType::REALM).unwrap(), b"turn.example.net");
}
