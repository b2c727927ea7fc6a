//! RFC 8489 §14.3, §14.4, §16: who a client says it is, by name or by hash, prepared or not.

use hairpin::stun::{AttributeType, Method, Seal, TransactionId, integrity};
use hairpin::turn::{Config, Credentials, Event, StaticUser, TimeLimitedForm};

use crate::client::{Attributes, Client, Response, bare, lifetime, udp, write};
use crate::world::{REALM, UNIX_START, World, config, path};

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.10:40001";
const COMPOSED: &str = "caf\u{e9}";
const DECOMPOSED: &str = "cafe\u{301}";

/// Static users only, one of them with a name beyond ASCII.
fn static_users() -> Config {
    let user = |name: &str, password| (name.to_owned(), StaticUser::from_password(name, REALM, password));
    let mut coffee = StaticUser::from_password(COMPOSED, REALM, "s3cret");
    coffee.add_form(DECOMPOSED, REALM, "s3cret");
    let users = [user("alice", "s3cret"), user("bob", "hunter2"), (COMPOSED.to_owned(), coffee)].into();
    Config { credentials: Credentials { users, ..Credentials::default() }, ..config() }
}

/// The attributes of the client, with USERHASH in place of USERNAME.
fn hashed(client: &Client) -> Attributes {
    let hash = integrity::userhash(&client.username, REALM).to_vec();
    let own = client.credentials().into_iter().filter(|(kind, _)| *kind != AttributeType::USERNAME);
    own.chain([(AttributeType::USERHASH, hash)]).collect()
}

fn exchange_hashed(world: &mut World, client: &mut Client, at: &str, method: Method, own: Attributes) -> Response {
    let id = client.transaction_id();
    let request = client.seal(method, id, &[own, hashed(client)].concat());
    world.exchange(path(at), &request)
}

#[test]
fn stun_8489_14_4_01_a_user_is_found_by_the_hash_of_name_and_realm() {
    let expected = "435b7933096a304d3c734cfb833ec9075bd47ab1c0160321aed31c06a8c7009e";
    let hex: String = integrity::userhash("alice", REALM).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
    let mut world = World::with(static_users());
    let mut alice = world.alice(path(CLIENT));
    let response = exchange_hashed(&mut world, &mut alice, CLIENT, Method::Allocate, vec![udp()]);
    assert!(response.is_success() && response.message().integrity_holds(&alice.key()));
    assert!(response.first(AttributeType::USERHASH).is_none(), "STUN-8489-9.2.4-20");
    let Some(Event::Allocated { account, .. }) = world.events.last() else { panic!() };
    assert_eq!(&**account, "alice", "quotas go by the name");
    for wrong in [vec![], vec![0; 32], vec![7; 31], integrity::userhash("alice", "other.example").to_vec()] {
        let mut attributes = hashed(&alice);
        attributes.last_mut().unwrap().1 = wrong;
        let request = alice.seal(Method::Refresh, TransactionId([1; 12]), &attributes);
        let response = world.exchange(path(CLIENT), &request);
        assert_eq!(response.error(), 401);
        assert!(response.first(AttributeType::USERHASH).is_none(), "STUN-8489-9.2.4-12");
    }
}

/// STUN-8489-14.4-01: an allocation's owner is the same, by name or by hash.
#[test]
fn stun_8489_14_4_01_an_owner_is_the_same_by_name_and_by_hash() {
    let mut world = World::with(static_users());
    let mut alice = world.alice(path(CLIENT));
    world.allocate(path(CLIENT), &mut alice, vec![]);
    let response = exchange_hashed(&mut world, &mut alice, CLIENT, Method::Refresh, vec![lifetime(1200)]);
    assert_eq!(response.lifetime(), Some(1200));
    let mut bob = world.client(path(CLIENT), "bob", "hunter2");
    let response = exchange_hashed(&mut world, &mut bob, CLIENT, Method::Refresh, vec![]);
    assert_eq!(response.error(), 441);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![lifetime(0)]).lifetime(), Some(0));
}

/// STUN-8489-14.4-03, -9.2-02, -9.2.1-01: the bit is there exactly where everybody can be found by hash.
#[test]
fn stun_8489_14_4_03_the_anonymity_bit_depends_on_who_can_be_found_by_hash() {
    let only_static = static_users();
    let with_secrets = config();
    let mut switched_off = static_users();
    switched_off.credentials.userhash = false;
    let mut nobody = static_users();
    nobody.credentials.users = [].into();
    for (config, features, hash_counts) in [
        (only_static, "wAAA", true),
        (with_secrets, "gAAA", true),
        (switched_off, "gAAA", false),
        (nobody, "gAAA", false),
    ] {
        let has_alice = !config.credentials.users.is_empty();
        let mut world = World::with(config);
        let challenge = world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
        assert!(challenge.nonce().starts_with(format!("obMatJos2{features}").as_bytes()));
        assert!(challenge.first(AttributeType::PASSWORD_ALGORITHMS).is_some(), "bit 0 is set in all of them");
        // USERNAME is accepted all the same: old clients do not know the bit.
        let mut alice = world.alice(path(CLIENT));
        let request = alice.signed(Method::Refresh, vec![]);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), if has_alice { 437 } else { 401 });
        let response = exchange_hashed(&mut world, &mut alice, CLIENT, Method::Refresh, vec![]);
        assert_eq!(response.error(), if hash_counts { 437 } else { 401 });
    }
}

/// STUN-8489-16.1.3-01: whoever strips the bit makes the nonce worthless.
#[test]
fn stun_8489_16_1_3_01_a_stripped_anonymity_bit_is_noticed() {
    let mut world = World::with(static_users());
    let mut alice = world.alice(path(CLIENT));
    for altered in [b"gAAA", b"QAAA", b"AAAA"] {
        let nonce = alice.nonce.clone();
        alice.nonce[9..13].copy_from_slice(altered);
        let request = alice.signed(Method::Allocate, vec![udp()]);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 438);
        alice.nonce = nonce;
    }
}

#[test]
fn stun_8489_14_4_04_name_and_hash_together_are_a_bad_request() {
    let mut world = World::with(static_users());
    let alice = world.alice(path(CLIENT));
    let name = (AttributeType::USERNAME, b"alice".to_vec());
    let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &[vec![udp(), name], hashed(&alice)].concat());
    let response = world.exchange(path(CLIENT), &request);
    assert_eq!(response.error(), 400);
    assert!(response.first(AttributeType::NONCE).is_none());
}

/// STUN-8489-16-01 (L21): names are compared prepared, and keys may be made from either form.
#[test]
fn stun_8489_16_01_composed_and_decomposed_names_are_the_same_user() {
    for (named, hashed_as) in
        [(COMPOSED, COMPOSED), (DECOMPOSED, COMPOSED), (DECOMPOSED, DECOMPOSED), (COMPOSED, DECOMPOSED)]
    {
        let mut world = World::with(static_users());
        let mut client = world.client(path(CLIENT), named, "s3cret");
        let key = integrity::long_term_key_md5(hashed_as, REALM, "s3cret");
        let id = client.transaction_id();
        let attributes = [vec![udp()], client.credentials()].concat();
        let class = hairpin::stun::Class::Request;
        let request = write(Method::Allocate, class, id, &attributes, Seal::Sha1(&key), false);
        let response = world.exchange(path(CLIENT), &request);
        assert!(response.message().integrity_holds(&key), "{named:?} hashed as {hashed_as:?}");
        // And it is the same owner under the other name.
        let mut other = world.client(path(CLIENT), COMPOSED, "s3cret");
        assert_eq!(world.refresh(path(CLIENT), &mut other, vec![]).lifetime(), Some(600));
    }
    let mut world = World::with(static_users());
    let mut wrong = world.client(path(CLIENT), DECOMPOSED, "wrong");
    let request = wrong.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 401);
}

/// STUN-8489-9.2.2-02: the key is over what is left, in USERNAME and in REALM.
#[test]
fn stun_8489_9_2_2_02_quotes_and_trailing_nuls_do_not_count() {
    let soon = format!("{}:carol", UNIX_START + 60);
    let carol = TimeLimitedForm::default().password(b"north", &soon);
    for (name, password) in [("alice", "s3cret"), (&soon, &carol)] {
        for (sent_name, sent_realm) in [
            (format!("{name}\0"), format!("{REALM}\0\0\0")),
            (format!("\"{name}\""), format!("\"{REALM}\"")),
            (format!("\"{name}\"\0"), REALM.to_owned()),
        ] {
            let mut world = World::new();
            let client = world.client(path(CLIENT), name, password);
            let mut attributes = client.credentials();
            attributes[0].1 = sent_name.clone().into();
            attributes[1].1 = sent_realm.into();
            let request = client.seal(Method::Allocate, TransactionId([1; 12]), &[vec![udp()], attributes].concat());
            assert!(world.exchange(path(CLIENT), &request).is_success(), "{sent_name:?}");
        }
    }
}

/// STUN-8489-14.3-02.
#[test]
fn stun_8489_14_3_02_names_that_are_not_text_are_unknown_users() {
    for name in [&b"\xFF\xFE"[..], b"alice\xFF", b"\xC3", b"a\0lice", b"\0", b"\"\"", b"\x01"] {
        let mut world = World::new();
        let alice = world.alice(path(CLIENT));
        let mut attributes = alice.credentials();
        attributes[0].1 = name.into();
        let request = alice.seal(Method::Allocate, TransactionId([1; 12]), &attributes);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 401, "{name:?}");
    }
}

/// REST-06 and REST-02: another separator, another hash, and either key.
#[test]
fn rest_06_separator_and_hash_of_time_limited_credentials_are_configurable() {
    use crate::client::Signing;
    use hairpin::turn::MacHash;
    let form = TimeLimitedForm { separator: '|', hash: MacHash::Sha256 };
    let soon = UNIX_START + 60;
    for (name, password_form, expected) in [
        (format!("{soon}|carol"), form, 0),
        (format!("{soon}"), form, 0),
        (format!("{soon}:carol"), form, 401),
        (format!("{soon}|carol"), TimeLimitedForm::default(), 401),
    ] {
        for signing in [Signing::Classic, Signing::Sha256, Signing::Md5WithSha256Mac] {
            let mut config = config();
            config.credentials.time_limited = form;
            let mut world = World::with(config);
            let mut client = world.client(path(OTHER), &name, &password_form.password(b"south", &name));
            client.signing = signing;
            let request = client.signed(Method::Allocate, vec![udp()]);
            assert_eq!(world.exchange(path(OTHER), &request).error(), expected, "{name}");
            if let Some(Event::Allocated { account, .. }) = world.events.last() {
                assert_eq!(&**account, name.split_once('|').map_or(&*name, |(_, userid)| userid));
            }
        }
    }
}

/// REST-02: the password of a time-limited name is used like any other.
#[test]
fn rest_02_time_limited_passwords_make_either_key() {
    use crate::client::Signing;
    for signing in [Signing::Classic, Signing::Sha256, Signing::Md5WithSha256Mac] {
        let mut world = World::new();
        let name = format!("{}:carol", UNIX_START + 60);
        let mut carol = world.client(path(CLIENT), &name, &TimeLimitedForm::default().password(b"north", &name));
        carol.signing = signing;
        let (_, response) = world.allocate(path(CLIENT), &mut carol, vec![]);
        assert!(response.message().integrity_holds(&carol.key()));
    }
}
