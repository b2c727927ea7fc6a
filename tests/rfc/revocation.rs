//! What becomes of allocations whose credentials are taken away or run out.

use std::sync::Arc;

use hairpin::turn::{
    Config, EndReason, EndSessions, Event, Revocation, SharedSecret, StaticUser, TimeLimitedForm, WalkPlace,
};

use crate::client::lifetime;
use crate::world::{REALM, World, config, path};

/// A world with alice, bob, and carol by each of the two secrets.
fn world() -> World {
    let mut world = World::new();
    for (place, (name, password)) in [("alice", "s3cret"), ("bob", "hunter2")].into_iter().enumerate() {
        let here = path(&format!("192.0.2.1{place}:1"));
        let mut client = world.client(here, name, password);
        world.allocate(here, &mut client, vec![]);
    }
    for (place, secret) in ["north", "south"].into_iter().enumerate() {
        let here = path(&format!("192.0.2.2{place}:1"));
        let name = format!("{}:{secret}", world.clock.unix_secs + 3600);
        let password = TimeLimitedForm::default().password(secret.as_bytes(), &name);
        let mut client = world.client(here, &name, &password);
        world.allocate(here, &mut client, vec![]);
    }
    world.events.clear();
    world
}

/// The accounts whose allocations end when this takes the place of what the world began with.
fn revoked_by(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut world = world();
    let (old, mut new) = (Arc::new(config()), config());
    change(&mut new);
    let new = Arc::new(new);
    world.server.configure(Arc::clone(&new));
    let mut at = Revocation::between(&old, &new).map(|revocation| (WalkPlace::default(), revocation));
    while let Some((from, revocation)) = at {
        at = world.server.end_revoked(world.clock, from, 1, &revocation).map(|next| (next, revocation));
        world.drain_effects();
        world.server.check_invariants();
    }
    let account = |event: &Event| match event {
        Event::Ended { account, why: EndReason::Revoked, .. } => account.to_string(),
        other => panic!("{other:?}"),
    };
    world.events.iter().map(account).collect()
}

fn user(name: &str, password: &str) -> (String, StaticUser) {
    (name.to_owned(), StaticUser::from_password(name, REALM, password))
}

#[test]
fn who_is_taken_out_of_the_configuration_loses_his_allocations() {
    assert_eq!(revoked_by(|_| {}), Vec::<String>::new());
    assert_eq!(revoked_by(|new| new.credentials.users = [user("bob", "hunter2")].into()), ["alice"]);
    assert_eq!(revoked_by(|new| new.credentials.users = [].into_iter().collect()), ["alice", "bob"]);
    // Another password is another user; another realm is not.
    let changed = |new: &mut Config| new.credentials.users = [user("alice", "other"), user("bob", "hunter2")].into();
    assert_eq!(revoked_by(changed), ["alice"]);
    assert_eq!(revoked_by(|new| new.realm = "example.net".into()), Vec::<String>::new());
    // A secret that is replaced takes those along that were made with it.
    let replaced = |new: &mut Config| {
        new.credentials.secrets = vec![SharedSecret(b"west".to_vec()), SharedSecret(b"south".to_vec())]
    };
    assert_eq!(revoked_by(replaced), ["north"]);
    let never = |new: &mut Config| {
        new.credentials.users = [].into_iter().collect();
        new.credentials.secrets.clear();
        new.credentials.end_sessions = EndSessions::Never;
    };
    assert_eq!(revoked_by(never), Vec::<String>::new());
}

/// REST-04 is what browsers expect, and what happens unless the operator wants it otherwise.
#[test]
fn rest_04_a_call_outlives_its_name_unless_it_is_not_to() {
    for (policy, outlives) in [(EndSessions::Removed, true), (EndSessions::Expired, false)] {
        let mut config = config();
        config.credentials.end_sessions = policy;
        let mut world = World::with(config);
        let here = path("192.0.2.10:1");
        let name = format!("{}:carol", world.clock.unix_secs + 700);
        let password = TimeLimitedForm::default().password(b"north", &name);
        let mut carol = world.client(here, &name, &password);
        let (_, allocated) = world.allocate(here, &mut carol, vec![lifetime(600)]);
        assert_eq!(allocated.lifetime(), Some(600));
        world.pass(500);
        let refreshed = world.refresh(here, &mut carol, vec![lifetime(600)]);
        assert_eq!(refreshed.lifetime(), Some(if outlives { 600 } else { 200 }));
        world.pass(203);
        assert_eq!(world.server.allocations() == 1, outlives);
        let late = world.refresh(here, &mut carol, vec![]);
        assert_eq!(late.error(), if outlives { 0 } else { 401 });
        // Static users do not expire.
        let there = path("192.0.2.20:1");
        let mut alice = world.alice(there);
        let (_, allocated) = world.allocate(there, &mut alice, vec![]);
        assert_eq!(allocated.lifetime(), Some(600));
    }
}
