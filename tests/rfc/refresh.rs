//! RFC 8656 §8: Refresh; and whose allocation it is (§5).

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{EndReason, Event, Reason};

use crate::client::lifetime;
use crate::world::{PEER, Seen, World, path, signed_with_peers};

const CLIENT: &str = "192.0.2.10:40000";

/// TURN-8656-8.2-01, -06, 5-11: and the same bytes again get the same answer.
#[test]
fn turn_8656_8_2_01_lifetime_zero_deletes() {
    let mut world = World::new();
    let (mut alice, relay) = world.allocated(path(CLIENT));
    let request = alice.signed(Method::Refresh, vec![lifetime(0)]);
    let first = world.exchange(path(CLIENT), &request);
    assert_eq!((first.error(), first.lifetime()), (0, Some(0)));
    assert!(matches!(world.events.last(), Some(Event::Ended { why: EndReason::Refreshed, .. })));
    assert_eq!(world.closed, [relay]);
    assert_eq!(world.exchange(path(CLIENT), &request), first);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).error(), 437);
    world.pass(41);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 437, "remembered for 40 s");
}

/// TURN-8656-8.2-08: the path is free for another one.
#[test]
fn turn_8656_8_2_08_after_deletion_the_path_is_free() {
    let mut world = World::new();
    let (mut alice, first) = world.allocated(path(CLIENT));
    world.refresh(path(CLIENT), &mut alice, vec![lifetime(0)]);
    let (second, _) = world.allocate(path(CLIENT), &mut alice, vec![]);
    assert_ne!(first, second, "a name is never used twice");
    assert_eq!(world.peer_sends(first, "198.51.100.7:7000", b"late"), Seen::Dropped(Reason::NoAllocation));
}

/// TURN-8656-8.2-02, -05: and what was granted is what happens.
#[test]
fn turn_8656_8_2_02_lifetime_is_computed_as_for_allocate() {
    for (asked, granted) in [(None, 600), (Some(60), 600), (Some(1200), 1200), (Some(7200), 3600)] {
        let mut world = World::new();
        let (mut alice, _) = world.allocated(path(CLIENT));
        let response = world.refresh(path(CLIENT), &mut alice, asked.map(lifetime).into_iter().collect());
        assert_eq!(response.lifetime(), Some(granted));
        world.pass(granted - 1);
        assert_eq!(world.server.allocations(), 1, "granted {granted}");
        world.pass(3);
        assert_eq!(world.server.allocations(), 0, "granted {granted}");
    }
}

/// A shorter lifetime than before counts too, however often it changes.
#[test]
fn a_refresh_may_shorten_the_lifetime() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    world.allocate(path(CLIENT), &mut alice, vec![lifetime(3600)]);
    for _ in 0..5 {
        assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![lifetime(3600)]).lifetime(), Some(3600));
        assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![lifetime(600)]).lifetime(), Some(600));
        world.pass(500);
    }
    world.pass(102);
    assert_eq!(world.server.allocations(), 0);
}

/// TURN-8656-8.2-03, IPV6-6156-02.
#[test]
fn turn_8656_8_2_03_the_family_must_be_the_allocations() {
    let family = |value: Vec<u8>| (AttributeType::REQUESTED_ADDRESS_FAMILY, value);
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    for (value, expected) in [(vec![2, 0, 0, 0], 443), (vec![1, 0, 0, 0], 0), (vec![1], 400)] {
        assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![family(value)]).error(), expected);
    }
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![(AttributeType::LIFETIME, vec![0; 3])]).error(), 400);
}

/// TURN-8656-5-05, -07: no allocation is 437 for every method, and only after authentication.
#[test]
fn turn_8656_5_05_without_an_allocation_it_is_a_mismatch() {
    for method in [Method::Refresh, Method::CreatePermission, Method::ChannelBind] {
        let mut world = World::new();
        let mut alice = world.alice(path(CLIENT));
        let request = alice.signed(method, vec![]);
        assert_eq!(world.exchange(path(CLIENT), &request).error(), 437);
        let bare = crate::client::bare(method, vec![]);
        assert_eq!(world.exchange(path(CLIENT), &bare).error(), 401);
    }
}

/// TURN-8656-5-03, 8.2-07 (abuse S9): another user on the same 5-tuple, for every method.
#[test]
fn turn_8656_5_03_another_user_has_the_wrong_credentials() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    let mut bob = world.client(path(CLIENT), "bob", "hunter2");
    assert_eq!(world.refresh(path(CLIENT), &mut bob, vec![lifetime(0)]).error(), 441);
    assert_eq!(world.permit(path(CLIENT), &mut bob, &["198.51.100.7:0"]), 441);
    assert_eq!(world.bind_channel(path(CLIENT), &mut bob, 0x4000, "198.51.100.7:7000"), 441);
    // With a request that would not be well-formed either: still his own business first.
    let request = signed_with_peers(&mut bob, Method::CreatePermission, vec![], &[]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 441);
    // The very transaction id that made Alice's allocation does not help Bob to it.
    let mut twin = crate::client::Client::new("bob", "hunter2");
    twin.nonce = bob.nonce.clone();
    let request = twin.signed(Method::Allocate, vec![crate::client::udp()]);
    assert_eq!(world.exchange(path(CLIENT), &request).error(), 437);
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).error(), 0);
}

/// Who allocates and deletes in a loop leaves nothing in the timer wheel but one deadline.
#[test]
fn s12_allocating_and_deleting_again_and_again_fills_no_timer() {
    let mut world = World::new();
    let mut alice = world.alice(path(CLIENT));
    let before = world.server.timers_armed();
    for _ in 0..80 {
        world.allocate(path(CLIENT), &mut alice, vec![lifetime(3600)]);
        world.refresh(path(CLIENT), &mut alice, vec![]);
        world.refresh(path(CLIENT), &mut alice, vec![lifetime(0)]);
    }
    assert!(world.server.timers_armed() <= before + 2, "{} deadlines", world.server.timers_armed());
}

/// A deletion that arrives once more, late, is answered as before and does not end the allocation made since.
#[test]
fn a_late_duplicate_of_a_deletion_spares_the_next_allocation() {
    let mut world = World::new();
    let (mut alice, _) = world.allocated(path(CLIENT));
    let deletion = alice.signed(Method::Refresh, vec![lifetime(0)]);
    let first = world.exchange(path(CLIENT), &deletion);
    world.allocate(path(CLIENT), &mut alice, vec![]);
    assert_eq!(world.exchange(path(CLIENT), &deletion), first);
    assert_eq!(world.server.allocations(), 1);
}

/// The wall clock may jump a day either way: lifetimes run on the monotonic one. (Nonces do not, and are asked anew.)
#[test]
fn turn_8656_life_05_the_wall_clock_moves_no_expiry() {
    for jump_secs in [86_400, -86_400] {
        let mut world = World::new();
        let (mut alice, relay) = world.allocated(path(CLIENT));
        assert_eq!(world.permit(path(CLIENT), &mut alice, &[PEER]), 0);
        world.clock.unix_secs = world.clock.unix_secs.strict_add_signed(jump_secs);
        world.pass(299);
        assert!(world.peer_sends(relay, PEER, b"x").relayed(), "the permission lives");
        world.pass(1);
        assert!(!world.peer_sends(relay, PEER, b"x").relayed(), "and ends in time");
        world.pass(299);
        assert_eq!(world.server.allocations(), 1);
        world.pass(2);
        assert_eq!(world.server.allocations(), 0);
    }
}
