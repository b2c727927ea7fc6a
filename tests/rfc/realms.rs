//! Realms beside the server's own: who belongs to which, what it is called on the wire, and that none has to do with
//! what is another's.

use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    Config, Credentials, Event, FiveTuple, Realm, RealmChoice, Revocation, ServerName, SharedSecret, StaticUser,
    TimeLimitedForm, Transport, WalkPlace,
};

use crate::client::{Client, bare, lifetime, udp};
use crate::world::{REALM, UNIX_START, World, config, path};

const CLIENT: &str = "192.0.2.77:5000";
const OTHER: &str = "192.0.2.78:5000";
const SHOP: &str = "shop.example";

/// Where the clients of the shop come to.
fn at_the_shop(client: &str) -> FiveTuple {
    FiveTuple { server: "192.0.2.9:3478".parse().unwrap(), ..path(client) }
}

fn credentials(realm: &str, users: &[(&str, &str)], secret: &str) -> Credentials {
    let user = |(name, password): &(&str, &str)| ((*name).to_owned(), StaticUser::from_password(name, realm, password));
    Credentials {
        users: users.iter().map(user).collect(),
        secrets: vec![SharedSecret(secret.into())],
        ttl_secs_max: 86_400,
        ..Credentials::default()
    }
}

fn names(texts: &[&str]) -> Vec<ServerName> {
    texts.iter().map(|text| ServerName::parse(text).unwrap()).collect()
}

/// One realm of each kind.
fn three_realms() -> Config {
    let addresses = RealmChoice::Place {
        addresses: vec!["192.0.2.9:0".parse().unwrap()],
        server_names: names(&["*.shop.example"]),
    };
    let prefix = RealmChoice::UserPrefix("club-".into());
    let realms = vec![
        Realm::new(SHOP, addresses, credentials(SHOP, &[("alice", "sh0p")], "shop secret")),
        Realm::new("club.example", prefix, credentials(REALM, &[("club-carol", "pa55")], "club secret")),
        Realm::new("lab.example", RealmChoice::Credentials, credentials(REALM, &[("dora", "w0rd")], "lab secret")),
    ];
    Config { realms, ..config() }
}

fn time_limited(user: &str, secret: &str) -> (String, String) {
    let name = format!("{}:{user}", UNIX_START + 600);
    let password = TimeLimitedForm::default().password(secret.as_bytes(), &name);
    (name, password)
}

/// Whoever has just been challenged there.
fn client(world: &mut World, path: FiveTuple, realm: &str, (name, password): (&str, &str)) -> Client {
    let challenge = world.exchange(path, &bare(Method::Allocate, vec![udp()]));
    assert_eq!(challenge.first(AttributeType::REALM).as_deref(), Some(realm.as_bytes()));
    let mut client = Client::new(name, password);
    client.realm = realm.into();
    client.nonce = challenge.first(AttributeType::NONCE).expect("a nonce").to_vec();
    client
}

fn allocate(world: &mut World, path: FiveTuple, client: &mut Client) -> u16 {
    let request = client.signed(Method::Allocate, vec![udp()]);
    world.exchange(path, &request).error()
}

/// What the allocation made last is counted for.
fn account(world: &World) -> String {
    let allocated = world.events.iter().rev().find_map(|event| match event {
        Event::Allocated { account, realm, .. } => {
            assert_eq!(realm.as_deref(), account.rsplit_once('@').map(|(_, realm)| realm));
            Some(account.to_string())
        }
        _ => None,
    });
    allocated.expect("an allocation")
}

fn remove(world: &mut World, path: FiveTuple, client: &mut Client) {
    assert_eq!(world.refresh(path, client, vec![lifetime(0)]).error(), 0);
}

/// Where, the realm there, who with which password, and what it is counted for.
type Row<'r> = (FiveTuple, &'r str, (String, String), Option<&'r str>);

#[test]
fn each_realm_has_its_users_and_its_secrets_and_nobody_elses() {
    let secrets = ["north", "shop secret", "club secret", "lab secret"];
    let limited = |user: &str| secrets.map(|secret| time_limited(user, secret));
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (name, password, here, there) in [
        ("alice", "s3cret", Some("alice@example.org"), None),
        ("alice", "sh0p", None, Some("alice@shop.example")),
        ("club-carol", "pa55", Some("club-carol@club.example"), None),
        ("dora", "w0rd", Some("dora@lab.example"), None),
        ("nobody", "w0rd", None, None),
    ] {
        rows.push((path(CLIENT), REALM, (name.into(), password.into()), here));
        rows.push((at_the_shop(CLIENT), SHOP, (name.into(), password.into()), there));
    }
    for (user, expected) in [
        ("erik", [Some("erik@example.org"), None, None, Some("erik@lab.example")]),
        ("club-erik", [None, None, Some("club-erik@club.example"), None]),
    ] {
        rows.extend(limited(user).into_iter().zip(expected).map(|(who, to)| (path(CLIENT), REALM, who, to)));
    }
    rows.extend(
        limited("erik")
            .into_iter()
            .zip([None, Some("erik@shop.example"), None, None])
            .map(|(who, to)| (at_the_shop(CLIENT), SHOP, who, to)),
    );
    for (at, realm, (name, password), expected) in rows {
        let mut world = World::with(three_realms());
        let mut client = client(&mut world, at, realm, (&name, &password));
        let code = allocate(&mut world, at, &mut client);
        assert_eq!(code, if expected.is_some() { 0 } else { 401 }, "{name} at {}", at.server);
        if let Some(expected) = expected {
            assert_eq!(account(&world), expected);
            remove(&mut world, at, &mut client);
        }
    }
}

/// By server name: exact before wildcard, without regard to case, and before the address that the client came to.
#[test]
fn a_server_name_says_where_a_client_is() {
    let mut config = three_realms();
    let exact = RealmChoice::Place { addresses: vec![], server_names: names(&["outlet.shop.example"]) };
    config.realms.push(Realm::new("outlet.example", exact, credentials("outlet.example", &[("bob", "b0b")], "out")));
    for (asked, realm) in [
        ("turn.shop.example", Some(SHOP)),
        ("TURN.Shop.Example.", Some(SHOP)),
        ("outlet.shop.example", Some("outlet.example")),
        ("a.outlet.shop.example", None),
        ("shop.example", None),
        ("turn.example.org", None),
        ("", None),
    ] {
        assert_eq!(config.realm_of_server_name(asked).as_deref(), realm, "{asked}");
    }
    let mut world = World::with(config.clone());
    let tls = |client| FiveTuple { transport: Transport::Tls, ..path(client) };
    let in_the_shop = FiveTuple { transport: Transport::Tls, ..at_the_shop(OTHER) };
    world.server.came_to(tls(CLIENT), config.realm_of_server_name("turn.shop.example"));
    world.server.came_to(in_the_shop, config.realm_of_server_name("outlet.shop.example"));
    world.server.came_to(tls(OTHER), config.realm_of_server_name("turn.example.org"));
    assert_eq!(world.server.paths_placed(), 2);
    for (at, realm, good, bad) in [
        (tls(CLIENT), SHOP, ("alice", "sh0p"), ("alice", "s3cret")),
        (in_the_shop, "outlet.example", ("bob", "b0b"), ("alice", "sh0p")),
        (tls(OTHER), REALM, ("alice", "s3cret"), ("alice", "sh0p")),
    ] {
        let mut stranger = client(&mut world, at, realm, bad);
        assert_eq!(allocate(&mut world, at, &mut stranger), 401, "{realm}");
        let mut user = client(&mut world, at, realm, good);
        assert_eq!(allocate(&mut world, at, &mut user), 0, "{realm}");
        assert_eq!(account(&world), format!("{}@{realm}", good.0));
        remove(&mut world, at, &mut user);
    }
    // Another 5-tuple of the same client has asked for nothing.
    client(&mut world, path(CLIENT), REALM, ("alice", "s3cret"));
    // A realm that is gone, or not chosen by place any more, is nobody's.
    config.realms[3].chosen_by = RealmChoice::Credentials;
    world.server.configure(Arc::new(config.clone()));
    client(&mut world, in_the_shop, SHOP, ("alice", "sh0p"));
    config.realms.remove(0);
    world.server.configure(Arc::new(config));
    client(&mut world, tls(CLIENT), REALM, ("alice", "s3cret"));
    // The end of a connection is the end of it.
    world.server.path_closed(world.clock, tls(CLIENT));
    world.server.came_to(in_the_shop, None);
    assert_eq!(world.server.paths_placed(), 0);
}

#[test]
fn a_nonce_is_good_in_its_realm_only() {
    let mut world = World::with(three_realms());
    let elsewhere = client(&mut world, at_the_shop(CLIENT), SHOP, ("alice", "sh0p"));
    let mut alice = client(&mut world, path(CLIENT), REALM, ("alice", "s3cret"));
    alice.nonce = elsewhere.nonce.clone();
    assert_eq!(allocate(&mut world, path(CLIENT), &mut alice), 438);
    // Nor is the realm.
    let mut lost = elsewhere;
    assert_eq!(allocate(&mut world, path(CLIENT), &mut lost), 401);
    assert_eq!(allocate(&mut world, at_the_shop(CLIENT), &mut lost), 0);
}

/// The same name in another realm is somebody else.
#[test]
fn an_allocation_is_not_for_a_namesake_from_another_realm() {
    let mut config = three_realms();
    // The secret of another realm makes the same name.
    config.credentials.secrets = vec![SharedSecret(b"north".to_vec())];
    let mut world = World::with(config);
    let (name, password) = time_limited("erik", "lab secret");
    let mut owner = client(&mut world, path(CLIENT), REALM, (&name, &password));
    assert_eq!(allocate(&mut world, path(CLIENT), &mut owner), 0);
    let (name, password) = time_limited("erik", "north");
    assert_eq!(name, owner.username);
    let mut namesake = client(&mut world, path(CLIENT), REALM, (&name, &password));
    assert_eq!(world.refresh(path(CLIENT), &mut namesake, vec![lifetime(0)]).error(), 441);
    assert_eq!(world.refresh(path(CLIENT), &mut owner, vec![]).error(), 0);
}

#[test]
fn userhash_is_offered_only_where_everybody_can_be_found_by_it() {
    let mut config = three_realms();
    config.credentials.secrets.clear();
    config.realms[0].credentials.secrets.clear();
    let features = |world: &mut World, path: FiveTuple| {
        let challenge = world.exchange(path, &bare(Method::Allocate, vec![udp()]));
        challenge.first(AttributeType::NONCE).expect("a nonce")[9..13].to_vec()
    };
    let mut world = World::with(config.clone());
    assert_eq!(features(&mut world, path(CLIENT)), b"gAAA");
    assert_eq!(features(&mut world, at_the_shop(CLIENT)), b"wAAA");
    config.realms.truncate(1);
    assert_eq!(features(&mut World::with(config), path(CLIENT)), b"wAAA");
}

/// A realm taken out of the configuration takes its allocations along, and those only; so does a secret of one.
#[test]
fn what_is_taken_from_a_realm_ends_its_allocations_alone() {
    let lab = |mut config: Config| {
        config.realms[2].credentials.secrets = vec![SharedSecret(b"another".to_vec())];
        config
    };
    let without_the_shop = |mut config: Config| {
        config.realms.remove(0);
        config
    };
    let changes: [(&dyn Fn(Config) -> Config, usize); 3] = [(&|config| config, 4), (&lab, 3), (&without_the_shop, 3)];
    for (change, left) in changes {
        let mut world = World::with(three_realms());
        let (name, password) = time_limited("erik", "lab secret");
        for (at, realm, who) in [
            (path(CLIENT), REALM, ("alice", "s3cret")),
            (at_the_shop(CLIENT), SHOP, ("alice", "sh0p")),
            (path(OTHER), REALM, ("club-carol", "pa55")),
            (path("192.0.2.79:5000"), REALM, (&*name, &*password)),
        ] {
            let mut client = client(&mut world, at, realm, who);
            assert_eq!(allocate(&mut world, at, &mut client), 0);
        }
        let (old, new) = (Arc::new(three_realms()), Arc::new(change(three_realms())));
        world.server.configure(Arc::clone(&new));
        if let Some(revocation) = Revocation::between(&old, &new) {
            let rest = world.server.end_revoked(world.clock, WalkPlace::default(), 1000, &revocation);
            assert!(rest.is_none());
        }
        world.drain_effects();
        assert_eq!(world.server.allocations(), left);
    }
}
