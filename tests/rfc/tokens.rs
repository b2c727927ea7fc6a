//! RFC 7635: access tokens in place of passwords.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hairpin::stun::{AttributeType, Class, Method, Seal};
use hairpin::turn::{Config, Event, FiveTuple, TokenKey, TokenKeys};

use crate::client::{Attributes, Client, Response, bare, lifetime, peer_for, udp, write};
use crate::world::{PEER, UNIX_START, World, config, path};

const CLIENT: &str = "192.0.2.10:40000";
const OTHER: &str = "192.0.2.10:40001";
const SERVER_NAME: &str = "turn.example.org";
const LONG_KEY: [u8; 32] = [1; 32];
const SHORT_KEY: [u8; 16] = [2; 16];

fn with_tokens() -> Config {
    let mut config = config();
    let key = |kid: &str, key: &[u8]| (kid.to_owned(), TokenKey::new(key).unwrap());
    config.credentials.tokens =
        Some(TokenKeys::new(SERVER_NAME.into(), [key("new", &LONG_KEY), key("old", &SHORT_KEY)]));
    config
}

/// What an authorization server gives to a client.
#[derive(Clone)]
struct Token {
    kid: &'static str,
    mac_key: Vec<u8>,
    bytes: Vec<u8>,
}

/// Sealed for a server of this name, `lifetime_secs` from `issued`.
fn token(kid: &'static str, server: &str, mac_key: &[u8], issued: u64, lifetime_secs: u32) -> Token {
    let key = match kid {
        "old" => UnboundKey::new(&AES_128_GCM, &SHORT_KEY),
        _ => UnboundKey::new(&AES_256_GCM, &LONG_KEY),
    };
    let mut content = (mac_key.len() as u16).to_be_bytes().to_vec();
    content.extend(mac_key);
    // Half a second more, in 1/64000 s.
    content.extend((issued << 16 | 32_000).to_be_bytes());
    content.extend(lifetime_secs.to_be_bytes());
    let nonce = *b"h4j3k2l2n4b5";
    LessSafeKey::new(key.unwrap())
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(server.as_bytes()), &mut content)
        .unwrap();
    Token { kid, mac_key: mac_key.into(), bytes: [&[0, 12][..], &nonce, &content].concat() }
}

fn good() -> Token {
    token("new", SERVER_NAME, &[5; 20], UNIX_START, 3600)
}

/// A client with a nonce; name and password do not count.
fn client(world: &mut World, at: FiveTuple) -> Client {
    world.client(at, "", "")
}

/// A request under this token, which it shows if `shown`.
fn request(client: &mut Client, token: &Token, shown: bool, method: Method, own: Attributes) -> Vec<u8> {
    let id = client.transaction_id();
    sealed(client, token, shown, method, own, id, Seal::Sha1(&token.mac_key))
}

fn sealed(
    client: &Client,
    token: &Token,
    shown: bool,
    method: Method,
    own: Attributes,
    id: hairpin::stun::TransactionId,
    seal: Seal<'_>,
) -> Vec<u8> {
    let mut attributes = own;
    attributes.push((AttributeType::USERNAME, token.kid.into()));
    attributes.push((AttributeType::REALM, client.realm.clone().into()));
    attributes.push((AttributeType::NONCE, client.nonce.clone()));
    if shown {
        attributes.push((AttributeType::ACCESS_TOKEN, token.bytes.clone()));
    }
    write(method, Class::Request, id, &attributes, seal, false)
}

fn exchange(world: &mut World, at: &str, token: &Token, shown: bool, method: Method, own: Attributes) -> Response {
    let mut client = client(world, path(at));
    let request = request(&mut client, token, shown, method, own);
    world.exchange(path(at), &request)
}

fn allocate(world: &mut World, at: &str, token: &Token, own: Attributes) -> Response {
    exchange(world, at, token, true, Method::Allocate, [vec![udp()], own].concat())
}

/// The error of an Allocate with this token, in a new world.
fn allocate_alone(token: &Token) -> u16 {
    allocate(&mut World::with(with_tokens()), CLIENT, token, vec![]).error()
}

#[test]
fn oauth_7635_6_1_01_a_challenge_names_the_server() {
    let challenge = World::with(with_tokens()).exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert_eq!(challenge.error(), 401);
    assert_eq!(challenge.first(AttributeType::THIRD_PARTY_AUTHORIZATION).unwrap(), SERVER_NAME.as_bytes());
    assert!(challenge.first(AttributeType::REALM).is_some());
    assert!(challenge.nonce().starts_with(b"obMatJos2gAAA"), "STUN-8489-14.4-03: tokens are not found by hash");
    let without = World::new().exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert!(without.first(AttributeType::THIRD_PARTY_AUTHORIZATION).is_none());
}

#[test]
fn oauth_7635_7_01_without_keys_access_token_is_unknown() {
    let token = (AttributeType::ACCESS_TOKEN, good().bytes);
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp(), token.clone()]);
    let response = world.exchange(path(CLIENT), &request);
    assert_eq!((response.error(), response.unknown()), (420, vec![0x001B]));
    assert_eq!(world.exchange(path(CLIENT), &bare(Method::Binding, vec![token.clone()])).error(), 420);
    // With keys it is known, and makes no sense in a Binding request.
    assert!(World::with(with_tokens()).exchange(path(CLIENT), &bare(Method::Binding, vec![token])).is_success());
}

/// OAUTH-7635-7-02 and -4-01: the key id chooses the key.
#[test]
fn oauth_7635_7_02_the_username_is_the_key_id() {
    let new = good();
    let old = token("old", SERVER_NAME, &[6; 20], UNIX_START, 3600);
    assert_eq!((allocate_alone(&new), allocate_alone(&old)), (0, 0));
    for wrong in ["old", "unknown", "", "alice"] {
        assert_eq!(allocate_alone(&Token { kid: wrong, ..good() }), 401, "{wrong}");
    }
}

/// OAUTH-7635-6.2-01 and -7-05: requests are verified with the key in the token, and responses signed with it.
#[test]
fn oauth_7635_7_05_the_mac_key_protects_both_ways() {
    let mut world = World::with(with_tokens());
    let response = allocate(&mut world, CLIENT, &good(), vec![]);
    assert!(response.is_success() && response.message().integrity_holds(&good().mac_key));
    assert_eq!(allocate_alone(&Token { mac_key: vec![9; 20], ..good() }), 401);
}

/// Coturn's clients sign with the first 128 of the 160 bits, and want to be answered so; any other part is a wrong key.
#[test]
fn oauth_7635_7_05_clients_that_shorten_the_key_are_served() {
    for (len, expected) in [(16, 0), (15, 401), (17, 401), (19, 401)] {
        let mac_key = [5; 20];
        let token = Token { mac_key: mac_key[..len].to_vec(), ..token("new", SERVER_NAME, &mac_key, UNIX_START, 600) };
        let mut world = World::with(with_tokens());
        let response = allocate(&mut world, CLIENT, &token, vec![]);
        assert_eq!(response.error(), expected, "{len}");
        if expected == 0 {
            assert!(response.message().integrity_holds(&token.mac_key));
            assert!(exchange(&mut world, CLIENT, &token, false, Method::Refresh, vec![]).is_success());
        }
    }
    let long = token("new", SERVER_NAME, &[5; 32], UNIX_START, 600);
    assert_eq!(allocate_alone(&Token { mac_key: vec![5; 16], ..long }), 401);
}

/// OAUTH-7635-6.2-02: 160 bits for MESSAGE-INTEGRITY, 256 for MESSAGE-INTEGRITY-SHA256; both AEADs are in -7-02.
#[test]
fn oauth_7635_6_2_02_mac_keys_of_both_lengths() {
    let long = token("new", SERVER_NAME, &[5; 32], UNIX_START, 3600);
    let mut world = World::with(with_tokens());
    let mut client = client(&mut world, path(CLIENT));
    let id = client.transaction_id();
    let request = sealed(&client, &long, true, Method::Allocate, vec![udp()], id, Seal::Sha256(&long.mac_key));
    let response = world.exchange(path(CLIENT), &request);
    assert!(response.message().has_integrity_sha256() && response.message().integrity_holds(&long.mac_key));
    for (len, expected) in [(0, 401), (19, 401), (20, 0), (64, 0), (65, 401)] {
        assert_eq!(allocate_alone(&token("new", SERVER_NAME, &vec![5; len], UNIX_START, 3600)), expected, "{len}");
    }
}

/// OAUTH-7635-7-03, and abuse S17.
#[test]
fn oauth_7635_7_03_what_cannot_be_opened_is_refused() {
    assert_eq!(allocate_alone(&token("new", "other.example", &[5; 20], UNIX_START, 3600)), 401);
    for bit in [0, 7, 20, 200, good().bytes.len() * 8 - 1] {
        let mut flipped = good();
        flipped.bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(allocate_alone(&flipped), 401);
    }
    for bytes in [vec![], vec![0], vec![0, 12], vec![0xFF; 60_000], [0, 12].repeat(50)] {
        let mut world = World::with(with_tokens());
        let response = allocate(&mut world, CLIENT, &Token { bytes, ..good() }, vec![]);
        assert_eq!(response.error(), 401);
        assert!(response.first(AttributeType::NONCE).is_some());
    }
}

#[test]
fn oauth_7635_7_04_a_token_counts_in_its_time_only() {
    for (issued, lifetime_secs, expected) in [
        (UNIX_START - 604, 600, 0),
        (UNIX_START - 605, 600, 401),
        (UNIX_START + 604, 600, 0),
        (UNIX_START + 605, 600, 401),
        (UNIX_START, 0, 0),
        (UNIX_START - 5, 0, 401),
        (0, u32::MAX, 0),
        (0xFFFF_FFFF_FFFF, u32::MAX, 401),
    ] {
        let token = token("new", SERVER_NAME, &[5; 20], issued, lifetime_secs);
        assert_eq!(allocate_alone(&token), expected, "{issued} + {lifetime_secs}");
    }
}

#[test]
fn oauth_7635_9_01_no_allocation_lives_longer_than_its_token() {
    for (left, asked, granted) in
        [(700, Some(3600), 705), (30, None, 35), (3600, Some(1200), 1200), (900, Some(600), 600)]
    {
        let mut world = World::with(with_tokens());
        let token = token("new", SERVER_NAME, &[5; 20], UNIX_START - 100, left + 100);
        let own: Attributes = asked.map(lifetime).into_iter().collect();
        assert_eq!(allocate(&mut world, CLIENT, &token, own.clone()).lifetime(), Some(granted));
        world.pass(10);
        let refreshed = exchange(&mut world, CLIENT, &token, true, Method::Refresh, own);
        assert_eq!(refreshed.lifetime(), Some(granted.min(left + 5 - 10)));
        world.pass(granted);
        assert_eq!(world.server.allocations(), 0);
    }
}

#[test]
fn oauth_7635_9_02_only_allocate_and_refresh_need_the_token() {
    let mut world = World::with(with_tokens());
    let good = good();
    allocate(&mut world, CLIENT, &good, vec![]);
    let mut client = client(&mut world, path(CLIENT));
    let mut permit = |world: &mut World, token: &Token| {
        let id = client.transaction_id();
        let own = vec![peer_for(id, PEER)];
        let request = sealed(&client, token, false, Method::CreatePermission, own, id, Seal::Sha1(&token.mac_key));
        world.exchange(path(CLIENT), &request)
    };
    let response = permit(&mut world, &good);
    assert!(response.is_success() && response.message().integrity_holds(&good.mac_key));
    assert_eq!(permit(&mut world, &Token { mac_key: vec![9; 20], ..good.clone() }).error(), 401);
    assert_eq!(permit(&mut world, &Token { kid: "old", ..good.clone() }).error(), 401, "another key id");
    // The key is that of the allocation: it is of no use where there is none.
    assert_eq!(exchange(&mut world, OTHER, &good, false, Method::Allocate, vec![udp()]).error(), 401);
}

/// OAUTH-7635-9-01: what is added to the life of an allocation needs a token that is good, shown or kept.
#[test]
fn oauth_7635_9_01_a_refresh_without_token_lives_on_the_one_before() {
    let mut world = World::with(with_tokens());
    let short = token("new", SERVER_NAME, &[5; 20], UNIX_START, 300);
    assert_eq!(allocate(&mut world, CLIENT, &short, vec![]).lifetime(), Some(305));
    world.pass(100);
    assert_eq!(exchange(&mut world, CLIENT, &short, false, Method::Refresh, vec![]).lifetime(), Some(205));
    // The wall clock leaps: the token is over, the allocation is not. It can be given back all the same.
    world.clock.unix_secs += 3600;
    assert_eq!(exchange(&mut world, CLIENT, &short, false, Method::Refresh, vec![]).error(), 401);
    assert_eq!(exchange(&mut world, CLIENT, &short, true, Method::Refresh, vec![]).error(), 401);
    let deleted = exchange(&mut world, CLIENT, &short, false, Method::Refresh, vec![lifetime(0)]);
    assert_eq!(deleted.lifetime(), Some(0));
}

#[test]
fn oauth_7635_9_03_a_new_token_replaces_the_old_one() {
    let mut world = World::with(with_tokens());
    let first = token("old", SERVER_NAME, &[5; 20], UNIX_START, 600);
    let second = token("new", SERVER_NAME, &[6; 20], UNIX_START + 300, 3600);
    allocate(&mut world, CLIENT, &first, vec![]);
    let account_of = |world: &World| match world.events.last() {
        Some(Event::Allocated { account, .. } | Event::Ended { account, .. }) => account.clone(),
        other => panic!("{other:?}"),
    };
    let account = account_of(&world);
    world.pass(300);
    let refreshed = exchange(&mut world, CLIENT, &second, true, Method::Refresh, vec![lifetime(3600)]);
    assert_eq!(refreshed.lifetime(), Some(3600));
    assert!(refreshed.message().integrity_holds(&second.mac_key));
    // From now on the new key counts, and the old one does not.
    assert_eq!(exchange(&mut world, CLIENT, &first, false, Method::Refresh, vec![]).error(), 401);
    assert_eq!(exchange(&mut world, CLIENT, &second, false, Method::Refresh, vec![lifetime(0)]).lifetime(), Some(0));
    assert_eq!(account_of(&world), account, "it ends on the account that it was counted for");
}

/// TURN-8656-5-06 in the terms of tokens: users with a name and those with a token do not get at each other's allocations.
#[test]
fn oauth_7635_9_03_a_token_does_not_take_over_a_users_allocation() {
    let mut world = World::with(with_tokens());
    let (mut alice, _) = world.allocated(path(CLIENT));
    assert_eq!(exchange(&mut world, CLIENT, &good(), true, Method::Refresh, vec![]).error(), 441);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).lifetime(), Some(600));

    allocate(&mut world, OTHER, &good(), vec![]);
    let mut alice = world.alice(path(OTHER));
    assert_eq!(world.refresh(path(OTHER), &mut alice, vec![]).error(), 441);
    // A token may replace another in Refresh only.
    let stranger = token("new", SERVER_NAME, &[6; 20], UNIX_START, 3600);
    let mut client = client(&mut world, path(OTHER));
    let id = client.transaction_id();
    let own = vec![peer_for(id, PEER)];
    let request = sealed(&client, &stranger, true, Method::CreatePermission, own, id, Seal::Sha1(&stranger.mac_key));
    assert_eq!(world.exchange(path(OTHER), &request).error(), 441);
}

/// What quotas count by: one token, whatever it is used for, is one account; two are two.
#[test]
fn oauth_7635_7_02_the_account_is_the_token() {
    let mut world = World::with(with_tokens());
    let second = token("new", SERVER_NAME, &[6; 20], UNIX_START, 3600);
    let mut accounts = Vec::new();
    for (at, token) in [(CLIENT, good()), (OTHER, good()), ("192.0.2.10:40002", second)] {
        assert!(allocate(&mut world, at, &token, vec![]).is_success());
        let Some(Event::Allocated { account, .. }) = world.events.last() else { panic!() };
        assert!(account.starts_with("new/"), "{account}");
        accounts.push(account.clone());
    }
    assert_eq!(accounts[0], accounts[1]);
    assert_ne!(accounts[0], accounts[2]);
}

/// TURN-8656-7.2-03: an Allocate that comes again gets the same answer; other users go on as without tokens.
#[test]
fn oauth_7635_7_05_retransmissions_and_other_users_are_served() {
    let mut world = World::with(with_tokens());
    let mut client = client(&mut world, path(CLIENT));
    let request = request(&mut client, &good(), true, Method::Allocate, vec![udp()]);
    let first = world.exchange(path(CLIENT), &request);
    assert_eq!(world.exchange(path(CLIENT), &request), first);
    let mut config = with_tokens();
    config.credentials.md5 = false;
    assert!(allocate(&mut World::with(config), CLIENT, &good(), vec![]).is_success(), "no password, no MD5");
    let mut alice = world.alice(path(OTHER));
    world.allocate(path(OTHER), &mut alice, vec![]);
}
