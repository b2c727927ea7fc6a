//! RFC 8489 §10, RFC 8155 §6: clients that are sent to another server, and those that came by anycast.

use std::collections::HashSet;
use std::net::SocketAddr;

use hairpin::stun::{AttributeType, Class, Method, Seal, TransactionId, integrity, read_address};
use hairpin::turn::{Alternate, BindError, Config, FiveTuple, Redirect, RedirectWhen, Transport};

use crate::client::{Client, Response, Signing, bare, udp, write};
use crate::world::{World, config, path, path_over};

const CLIENT: &str = "192.0.2.10:40000";
const CLIENT_V6: &str = "[2001:db8::9]:40000";

fn alternate(addresses: &[&str]) -> Alternate {
    Alternate {
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        port: 3478,
        tls_port: 5349,
        domain: Some("b.turn.example.org".into()),
    }
}

fn both() -> Alternate {
    alternate(&["203.0.113.77", "2001:db8::77"])
}

fn redirecting(when: RedirectWhen) -> Config {
    let redirect = Redirect { when, alternates: vec![both()], shares_nonces: true, ..Redirect::default() };
    Config { redirect, ..config() }
}

fn alternates(response: &Response) -> Vec<String> {
    let all = response.message().attributes().filter(|attribute| attribute.kind == AttributeType::ALTERNATE_SERVER);
    all.map(|attribute| read_address(attribute.value).expect("not XORed").to_string()).collect()
}

/// A signed Allocate after a challenge.
fn allocate(world: &mut World, here: FiveTuple) -> (Client, Response) {
    let mut alice = world.alice(here);
    let request = alice.signed(Method::Allocate, vec![udp()]);
    let response = world.exchange(here, &request);
    (alice, response)
}

/// STUN-8489-10-01, STUN-8489-10-02, STUN-8489-14.15-01: a plain address of the client's family, then the other.
#[test]
fn stun_8489_10_01_the_first_alternate_is_of_the_clients_family() {
    let mut world = World::with(redirecting(RedirectWhen::Always));
    let (_, v4) = allocate(&mut world, path(CLIENT));
    assert_eq!((v4.error(), alternates(&v4)), (300, vec!["203.0.113.77:3478".into(), "[2001:db8::77]:3478".into()]));
    let (_, v6) = allocate(&mut world, path(CLIENT_V6));
    assert_eq!((v6.error(), alternates(&v6)), (300, vec!["[2001:db8::77]:3478".into(), "203.0.113.77:3478".into()]));
    let value = v4.first(AttributeType::ALTERNATE_SERVER).unwrap();
    assert_eq!(value, [&[0, 1][..], &3478_u16.to_be_bytes(), &[203, 0, 113, 77]].concat());
    assert_eq!((world.server.allocations(), world.binds.len()), (0, 0));
    // Nobody of whose family there is an alternate: the server serves itself.
    let mut lone = redirecting(RedirectWhen::Always);
    lone.redirect.alternates = vec![alternate(&["2001:db8::77"])];
    let mut world = World::with(lone);
    assert_eq!(allocate(&mut world, path(CLIENT)).1.error(), 0);
    assert_eq!(allocate(&mut world, path(CLIENT_V6)).1.error(), 300);
}

/// STUN-8489-10-04: after the MAC was found good, and sealed. Only Allocate is redirected, and what lives goes on.
#[test]
fn stun_8489_10_04_only_authenticated_requests_are_redirected() {
    let here = path(CLIENT);
    let mut world = World::new();
    let (mut alice, _) = world.allocated(here);
    world.server.configure(std::sync::Arc::new(redirecting(RedirectWhen::Always)));
    assert_eq!(world.refresh(here, &mut alice, vec![]).error(), 0);
    assert_eq!(world.exchange(here, &bare(Method::Binding, vec![])).error(), 0);

    let there = path("192.0.2.10:40001");
    let challenge = world.exchange(there, &bare(Method::Allocate, vec![udp()]));
    assert_eq!((challenge.error(), alternates(&challenge)), (401, vec![]));
    let (mut alice, redirected) = allocate(&mut world, there);
    assert!(redirected.error() == 300 && redirected.message().integrity_holds(&alice.key()));
    alice.signing = Signing::Sha256;
    let request = alice.signed(Method::Allocate, vec![udp()]);
    let sha256 = world.exchange(there, &request);
    assert!(sha256.message().has_integrity_sha256() && sha256.message().integrity_holds(&alice.key()));
    alice.password = "wrong".into();
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(there, &request).error(), 401);
}

/// STUN-8489-10-03, STUN-8489-14.16-01: a name for the certificate, where there is one to check.
#[test]
fn stun_8489_10_03_alternate_domain_over_tls_only() {
    let mut world = World::with(redirecting(RedirectWhen::Always));
    for (transport, port, domain) in [
        (Transport::Udp, 3478, None),
        (Transport::Tcp, 3478, None),
        (Transport::Tls, 5349, Some(b"b.turn.example.org".to_vec())),
    ] {
        let (_, response) = allocate(&mut world, path_over(transport, CLIENT));
        assert_eq!(response.first(AttributeType::ALTERNATE_DOMAIN), domain, "{transport:?}");
        assert_eq!(alternates(&response)[0], format!("203.0.113.77:{port}"));
    }
    // The longest name there can be fits.
    let mut longest = redirecting(RedirectWhen::Always);
    longest.redirect.alternates[0].domain = Some("d".repeat(255));
    longest.realm = "r".repeat(128);
    longest.software = Some("s".repeat(128));
    let mut world = World::with(longest);
    let here = path_over(Transport::Tls, CLIENT);
    let mut bob = Client::new("1800000100", "");
    bob.realm = "r".repeat(128);
    bob.password = hairpin::turn::TimeLimitedForm::default().password(b"north", &bob.username);
    bob.nonce = world.exchange(here, &bare(Method::Allocate, vec![udp()])).nonce();
    let request = bob.signed(Method::Allocate, vec![udp()]);
    let response = world.exchange(here, &request);
    assert_eq!(response.error(), 300);
    assert_eq!(response.first(AttributeType::ALTERNATE_DOMAIN).unwrap().len(), 255);
}

/// STUN-8489-10-05: off by default; on, a bare Allocate is redirected at once, and nothing is sealed.
#[test]
fn stun_8489_10_05_compatibility_mode_redirects_before_authentication() {
    let mut early = redirecting(RedirectWhen::Always);
    early.redirect.unauthenticated = true;
    let mut world = World::with(early);
    let response = world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()]));
    assert_eq!((response.error(), alternates(&response).len()), (300, 2));
    assert!(!response.message().has_integrity() && !response.message().has_integrity_sha256());
    // Only Allocate: others are challenged as ever.
    assert_eq!(world.exchange(path(CLIENT), &bare(Method::Refresh, vec![])).error(), 401);
    // The nonce it has been given is good, and says that it need not go on.
    let mut alice = Client::new("alice", "s3cret");
    alice.nonce = response.nonce();
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path("192.0.2.10:50000"), &request).error(), 0);
}

/// STUN-8489-10-06: two servers that send everybody to each other, and one client.
#[test]
fn stun_8489_10_06_no_client_is_sent_back() {
    let node = |own: &str, other: &str| {
        let mut config = redirecting(RedirectWhen::Always);
        config.redirect.alternates = vec![alternate(&[own]), alternate(&[other])];
        World::with(config)
    };
    let at = |server: &str, port: u16| FiveTuple {
        transport: Transport::Tcp,
        client: format!("192.0.2.10:{port}").parse().unwrap(),
        server: server.parse().unwrap(),
    };
    let (a, b) = ("203.0.113.1:3478", "203.0.113.2:3478");
    let (mut left, mut right) = (node("203.0.113.1", "203.0.113.2"), node("203.0.113.1", "203.0.113.2"));
    // Never to where it is already, although the list has it.
    let (mut alice, first) = allocate(&mut left, at(a, 40_000));
    assert_eq!((first.error(), alternates(&first)), (300, vec![b.to_owned()]));
    alice.nonce = first.nonce();
    // The connection to the other server has another port.
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(right.exchange(at(b, 40_001), &request).error(), 0);
    // Somebody else has no use for this nonce, and after five minutes nobody has.
    let request = alice.signed(Method::Allocate, vec![udp()]);
    let stranger = FiveTuple { client: "192.0.2.99:40001".parse().unwrap(), ..at(b, 0) };
    assert_eq!(right.exchange(stranger, &request).error(), 438);
    right.pass(301);
    assert_eq!(right.exchange(at(b, 40_002), &request).error(), 438);
    assert_eq!(left.server.allocations() + right.server.allocations(), 1);
}

/// STUN-8489-10-07: REALM and NONCE are good at the target at once, and left out where they would not be.
#[test]
fn stun_8489_10_07_realm_and_nonce_are_valid_at_the_target() {
    let mut here = World::with(redirecting(RedirectWhen::Always));
    let mut target = World::new();
    let (mut alice, redirected) = allocate(&mut here, path(CLIENT));
    alice.realm = String::from_utf8(redirected.first(AttributeType::REALM).unwrap()).unwrap();
    alice.nonce = redirected.nonce();
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(target.exchange(path(CLIENT), &request).error(), 0);
    // And for what comes after.
    assert_eq!(target.refresh(path(CLIENT), &mut alice, vec![]).error(), 0);

    let mut alone = redirecting(RedirectWhen::Always);
    alone.redirect.shares_nonces = false;
    let (_, redirected) = allocate(&mut World::with(alone), path(CLIENT));
    assert_eq!((redirected.error(), redirected.first(AttributeType::NONCE)), (300, None));
    assert_eq!(redirected.first(AttributeType::REALM), None);
}

/// The same client is told the same server again, and clients are spread over all of them.
#[test]
fn clients_are_spread_over_the_alternates() {
    let mut many = redirecting(RedirectWhen::Always);
    many.redirect.alternates = (1..=4).map(|n| alternate(&[&format!("203.0.113.{n}")])).collect();
    let mut world = World::with(many);
    let mut seen = HashSet::new();
    for port in 40_000..40_064 {
        let here = path(&format!("192.0.2.10:{port}"));
        let (mut alice, response) = allocate(&mut world, here);
        let again = alice.signed(Method::Allocate, vec![udp()]);
        assert_eq!(alternates(&world.exchange(here, &again)), alternates(&response));
        seen.insert(alternates(&response));
    }
    assert_eq!(seen.len(), 4);
}

/// TURN-8656-7.2-34: a draining server redirects if it can, and says 508 if it cannot.
#[test]
fn turn_8656_7_2_34_draining_redirects_where_there_is_somewhere_to_go() {
    for when in [RedirectWhen::Draining, RedirectWhen::Full, RedirectWhen::Always] {
        let mut world = World::with(redirecting(when));
        world.server.drain();
        let (_, response) = allocate(&mut world, path(CLIENT));
        assert_eq!((response.error(), alternates(&response).len()), (300, 2), "{when:?}");
    }
    let mut world = World::new();
    world.server.drain();
    assert_eq!(allocate(&mut world, path(CLIENT)).1.error(), 508);
    // Until it drains, nobody is sent away.
    let mut world = World::with(redirecting(RedirectWhen::Draining));
    assert_eq!(allocate(&mut world, path(CLIENT)).1.error(), 0);
    // Who has been redirected already hears the truth.
    let mut world = World::with(redirecting(RedirectWhen::Draining));
    world.server.drain();
    let (mut alice, response) = allocate(&mut world, path(CLIENT));
    alice.nonce = response.nonce();
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 508);
}

/// A full server redirects when told to, whichever limit it was.
#[test]
fn a_full_server_redirects() {
    let full = |change: fn(&mut Config)| {
        let mut config = redirecting(RedirectWhen::Full);
        change(&mut config);
        World::with(config)
    };
    let mut table = full(|config| config.limits.allocations = 1);
    assert_eq!(allocate(&mut table, path(CLIENT)).1.error(), 0);
    assert_eq!(allocate(&mut table, path("192.0.2.10:40001")).1.error(), 300);
    let mut ports = full(|config| (config.ports.first, config.ports.last) = (50_000, 50_000));
    assert_eq!(allocate(&mut ports, path(CLIENT)).1.error(), 0);
    assert_eq!(allocate(&mut ports, path("192.0.2.10:40001")).1.error(), 300);
    for (error, code) in [(BindError::OutOfCapacity, 300), (BindError::UserQuotaReached, 486)] {
        let mut shell = full(|_| {});
        shell.bind_answer = Some(Box::new(move |_| Err(error)));
        let (alice, response) = allocate(&mut shell, path(CLIENT));
        assert_eq!(response.error(), code);
        assert!(response.message().integrity_holds(&alice.key()));
        assert_eq!(shell.server.allocations(), 0);
    }
    // A token that leads nowhere is a matter of the token.
    let mut token = full(|_| {});
    let mut alice = token.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp(), (AttributeType::RESERVATION_TOKEN, vec![7; 8])]);
    assert_eq!(token.exchange(path(CLIENT), &request).error(), 508);
}

/// Found by reading: the answer of the shell may come after the alternates were taken out of the configuration.
#[test]
fn who_waits_for_a_socket_is_not_redirected_to_where_nobody_is_any_more() {
    let mut world = World::with(redirecting(RedirectWhen::Full));
    world.bind_answer = None;
    let mut alice = world.alice(path(CLIENT));
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.send(path(CLIENT), &request), None);
    world.server.configure(std::sync::Arc::new(config()));
    let relay = world.unanswered.pop().unwrap();
    world.server.relay_bound(world.clock, relay, Err(BindError::OutOfCapacity));
    let answer = world.drain_effects().unwrap().response();
    assert_eq!(answer.error(), 508);
    assert!(answer.message().integrity_holds(&alice.key()));
}

fn anycast() -> Config {
    let redirect = Redirect {
        anycast: vec!["192.0.2.1".parse().unwrap()],
        unicast: vec!["2001:db8::5".parse().unwrap(), "203.0.113.5".parse().unwrap()],
        ..Redirect::default()
    };
    Config { redirect, ..config() }
}

/// DISC-8155-6-01: the unicast address, and nothing allocated; checks up to the address family come first.
#[test]
fn disc_8155_6_01_allocate_at_an_anycast_address_is_told_the_unicast_one() {
    let mut world = World::with(anycast());
    let here = path(CLIENT);
    let (mut alice, response) = allocate(&mut world, here);
    assert_eq!(response.error(), 300);
    assert_eq!(alternates(&response), ["203.0.113.5:3478", "[2001:db8::5]:3478"]);
    assert_eq!((world.server.allocations(), world.binds.len()), (0, 0));
    for (attributes, code) in [
        (vec![(AttributeType::REQUESTED_TRANSPORT, vec![6, 0, 0, 0])], 442),
        (vec![udp(), (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![9, 0, 0, 0])], 440),
        (vec![], 400),
    ] {
        let request = alice.signed(Method::Allocate, attributes);
        assert_eq!(world.exchange(here, &request).error(), code);
    }
    // At the address it was told it is served, with the credentials and the nonce it has.
    alice.nonce = response.nonce();
    let unicast = FiveTuple { server: "203.0.113.5:3478".parse::<SocketAddr>().unwrap(), ..here };
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(unicast, &request).error(), 0);
    // And never at the other, whatever nonce it shows.
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(world.exchange(path("192.0.2.10:40001"), &request).error(), 300);
}

/// STUN-8489-15-01: Binding is served at an anycast address.
#[test]
fn stun_8489_15_01_binding_is_served_by_anycast() {
    let mut world = World::with(anycast());
    let response = world.exchange(path(CLIENT), &bare(Method::Binding, vec![]));
    assert_eq!(response.address(AttributeType::XOR_MAPPED_ADDRESS), Some(CLIENT.parse().unwrap()));
    assert_eq!(response.first(AttributeType::ALTERNATE_SERVER), None);
}

/// TURN-8656-7.2-34: administrative refusal is 403, after authentication, and Binding is not refused.
#[test]
fn turn_8656_7_2_34_denied_clients_are_forbidden_to_allocate() {
    let denied = ["192.0.2.0/28", "2001:db8::/64"].map(|prefix| prefix.parse().unwrap()).to_vec();
    let mut world = World::with(Config { denied_clients: denied, ..redirecting(RedirectWhen::Always) });
    for client in [CLIENT, CLIENT_V6] {
        assert_eq!(allocate(&mut world, path(client)).1.error(), 403);
        assert_eq!(world.exchange(path(client), &bare(Method::Binding, vec![])).error(), 0);
    }
    assert_eq!(allocate(&mut world, path("192.0.2.16:40000")).1.error(), 300);
    // Without credentials nobody learns of it.
    assert_eq!(world.exchange(path(CLIENT), &bare(Method::Allocate, vec![udp()])).error(), 401);
}

/// A 300 is an answer, not a message clients may send.
#[test]
fn a_300_from_a_client_is_dropped() {
    let mut world = World::with(redirecting(RedirectWhen::Always));
    let mut value = vec![0, 0, 3, 0];
    value.extend(b"Try Alternate");
    let key = integrity::long_term_key_md5("alice", "example.org", "s3cret");
    let attributes = vec![(AttributeType::ERROR_CODE, value)];
    let bytes = write(Method::Allocate, Class::Error, TransactionId([1; 12]), &attributes, Seal::Sha1(&key), false);
    assert!(matches!(world.send(path(CLIENT), &bytes), Some(crate::world::Seen::Dropped(_))));
}
