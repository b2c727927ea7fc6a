//! Realms that clients choose by the server name in their handshake, on one port.

use std::sync::Arc;

use rustls::version;

use super::super::{Settings, Shards};
use super::client::{Client, REALM, address, config, identity, peer, receive, settings, tls_client_for, wait_for};
#[cfg(feature = "dtls")]
use super::dtls_client::DtlsClient;
use crate::net::make_certificate;
use crate::stun::{AttributeType, Method};
use crate::turn::{Config, Credentials, MobilityKey, Realm, RealmChoice, ServerName, StaticUser, Transport};

type Pem = (String, String);

const SHOP: &str = "shop.example";
const CLUB: &str = "club.example";

/// The transports on which a client can ask for a name.
const WITH_NAMES: &[Transport] =
    if cfg!(feature = "dtls") { &[Transport::Tls, Transport::Dtls] } else { &[Transport::Tls] };

/// What each realm is asked for by, and its only user. The last is the server's own.
const TENANTS: [(&str, &str, &str); 4] = [
    ("Turn.Shop.Example", SHOP, "carol"),
    ("one.club.example", CLUB, "dave"),
    ("TWO.club.example", CLUB, "dave"),
    ("unknown.example", REALM, "alice"),
];

fn realm(name: &str, server_name: &str, user: &str) -> Realm {
    let server_names = vec![ServerName::parse(server_name).unwrap()];
    let users = [(user.to_owned(), StaticUser::from_password(user, name, "password"))].into();
    let chosen_by = RealmChoice::Place { addresses: vec![], server_names };
    Realm::new(name, chosen_by, Credentials { users, ..Credentials::default() })
}

/// And a certificate for all names.
fn two_realms(count: u16) -> (Settings, Pem) {
    let names = ["turn.shop.example", "*.club.example", "unknown.example", "127.0.0.1"];
    let pem = make_certificate(&names, |_| {});
    let realms = vec![realm(SHOP, "turn.shop.example.", "carol"), realm(CLUB, "*.CLUB.example", "dave")];
    let mobility = Some(MobilityKey([5; 32]));
    let mut settings = Settings { turn: Arc::new(Config { realms, mobility, ..config() }), ..settings(count) };
    settings.tls.as_mut().expect("TLS listeners").identity = Arc::new(identity(&pem));
    (settings, pem)
}

fn client_asking_for(name: &str, shards: &Shards, transport: Transport, pem: &Pem) -> Client {
    let server = address(shards, transport);
    match transport {
        Transport::Tls => Client::tls_with(server, tls_client_for(name, pem, rustls::ALL_VERSIONS, |_| {})),
        #[cfg(feature = "dtls")]
        Transport::Dtls => Client::dtls_with(DtlsClient::asking_for(name, server, &pem.0)),
        _ => unreachable!("nobody asks for a name there"),
    }
}

#[test]
fn the_server_name_of_a_handshake_chooses_the_realm() {
    let (settings, pem) = two_realms(2);
    let shards = Shards::start(settings).unwrap();
    for &transport in WITH_NAMES {
        for (name, realm, known) in TENANTS {
            // Each shard has its turn.
            for user in ["alice", "carol", "dave", "alice", "carol", "dave"] {
                let mut client = client_asking_for(name, &shards, transport, &pem).of_realm(realm).named(user);
                let expected = if user == known { 0 } else { 401 };
                assert_eq!(client.try_allocate().error(), expected, "{user} at {name} over {}", transport.label());
            }
        }
    }
    let server = address(&shards, Transport::Tls);
    for version in [&version::TLS12, &version::TLS13] {
        let session = tls_client_for("turn.shop.example", &pem, &[version], |_| {});
        Client::tls_with(server, session).of_realm(SHOP).named("carol").allocate();
        // Who goes by an address, and who does not tell, comes to the server's own realm.
        let session = tls_client_for("127.0.0.1", &pem, &[version], |_| {});
        Client::tls_with(server, session).allocate();
        let session = tls_client_for("turn.shop.example", &pem, &[version], |config| config.enable_sni = false);
        Client::tls_with(server, session).allocate();
    }
    // Nobody else asks for anything.
    Client::of(&shards, Transport::Udp).allocate();
    Client::of(&shards, Transport::Tcp).allocate();
}

/// Taken along to another shard: a connection as a whole, the messages of a DTLS client each alone.
#[test]
fn a_client_that_is_passed_on_to_another_shard_stays_in_its_realm() {
    let (settings, pem) = two_realms(2);
    let shards = Shards::start(settings).unwrap();
    let peer = peer();
    let ticket = |value: &[u8]| (AttributeType::MOBILITY_TICKET, value.to_vec());
    for &transport in WITH_NAMES {
        // The chance that none of so many crosses is one in 2^20.
        for round in 0..20 {
            let (name, realm, user) = TENANTS[round % 3];
            let client = || client_asking_for(name, &shards, transport, &pem).of_realm(realm).named(user);
            let mut old = client();
            let answer = old.try_allocate_with(&[ticket(&[])]);
            let relayed = answer.relayed().expect("a success");
            let first = answer.message().first(AttributeType::MOBILITY_TICKET).expect("a ticket").to_vec();
            let mut new = client();
            new.learn_nonce();
            assert_eq!(new.ask(Method::Refresh, &[ticket(&first)]).error(), 0, "{}", transport.label());
            new.bind_channel(0x4000, peer.local_addr().unwrap());
            new.send_data(0x4000, b"from elsewhere");
            assert_eq!(receive(&peer), (b"from elsewhere".to_vec(), relayed));
            // Wherever it is served now: a realm that it has not come to would be told it here.
            new.be_challenged(Method::Refresh);
            assert_eq!(new.refresh(0).error(), 0);
        }
    }
    assert!(shards.snapshot().total.shell.connections_moved > 0);
    assert_eq!(shards.allocations(), 0);
}

/// A new configuration counts at once, also for those who are connected.
#[test]
fn a_realm_that_is_taken_out_is_nobodys_place_any_more() {
    let (mut settings, pem) = two_realms(2);
    let shards = Shards::start(settings.clone()).unwrap();
    for &transport in WITH_NAMES {
        let mut before = client_asking_for("turn.shop.example", &shards, transport, &pem).of_realm(SHOP).named("carol");
        before.allocate();
        let with_both = Arc::clone(&settings.turn);
        Arc::make_mut(&mut settings.turn).realms.remove(0);
        shards.configure(&settings);
        wait_for(&shards, "the end of its allocation", |_| shards.allocations() == 0);
        let mut before = before.of_realm(REALM).named("alice");
        assert_eq!(before.try_allocate().error(), 0);
        let after = client_asking_for("turn.shop.example", &shards, transport, &pem);
        after.named("alice").allocate();
        settings.turn = with_both;
        shards.configure(&settings);
    }
}
