//! RFC 8016: a client takes its allocation along to another 5-tuple.

use std::collections::HashSet;
use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    Config, EndReason, Event, FiveTuple, MobilityKey, Reason, RelayId, StaticUser, TimeLimitedForm, Transport,
};

use crate::client::{Attributes, Client, Response, channel_data, data, lifetime, udp};
use crate::world::{PEER, REALM, Seen, UNIX_START, World, config, path, path_over, send_indication};

pub const HOME: &str = "192.0.2.10:40000";
pub const AWAY: &str = "192.0.2.77:41000";
pub const FURTHER: &str = "192.0.2.88:42000";

pub fn mobile() -> Config {
    Config { mobility: Some(MobilityKey([9; 32])), ..config() }
}

pub fn ticket(value: &[u8]) -> (AttributeType, Vec<u8>) {
    (AttributeType::MOBILITY_TICKET, value.to_vec())
}

#[track_caller]
pub fn ticket_of(response: &Response) -> Vec<u8> {
    assert_eq!(response.error(), 0);
    response.first(AttributeType::MOBILITY_TICKET).expect("a ticket")
}

/// Alice with an allocation, a channel to PEER and a ticket.
#[track_caller]
pub fn settled(world: &mut World, here: FiveTuple) -> (Client, RelayId, Vec<u8>) {
    let mut alice = world.alice(here);
    let (relay, response) = world.allocate(here, &mut alice, vec![ticket(&[])]);
    assert_eq!(world.bind_channel(here, &mut alice, 0x4000, PEER), 0);
    (alice, relay, ticket_of(&response))
}

/// Alice's Refresh with this ticket from another place.
#[track_caller]
fn show(world: &mut World, there: FiveTuple, shown: &[u8]) -> Response {
    let mut alice = world.alice(there);
    world.refresh(there, &mut alice, vec![ticket(shown)])
}

fn ask(world: &mut World, extra: Attributes) -> Response {
    let mut alice = world.alice(path(HOME));
    let request = alice.signed(Method::Allocate, [vec![udp()], extra].concat());
    world.exchange(path(HOME), &request)
}

#[track_caller]
fn client_of(world: &mut World, relay: RelayId) -> FiveTuple {
    match world.peer_sends(relay, PEER, b"to whom?") {
        Seen::AtClient { to, .. } => to,
        other => panic!("nobody is there: {other:?}"),
    }
}

/// MOB-8016-3.1.2-01, -05: whatever else is asked for; and the retransmission has the same one.
#[test]
fn mob_8016_3_1_2_01_allocate_gives_a_ticket_that_is_not_large() {
    let both = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    for extra in [vec![], vec![both], vec![(AttributeType::EVEN_PORT, vec![0x80])]] {
        let mut world = World::with(mobile());
        let mut alice = world.alice(path(HOME));
        let request = alice.signed(Method::Allocate, [vec![udp(), ticket(&[])], extra].concat());
        let response = world.exchange(path(HOME), &request);
        let first = ticket_of(&response);
        assert!(response.0.len() <= 548, "{} bytes", response.0.len());
        assert!(first.len() <= 32 && !first.contains(&0), "coturn's client keeps it in a C string of 32 bytes");
        assert_eq!(ticket_of(&world.exchange(path(HOME), &request)), first);
        let mut alice = world.alice(path(AWAY));
        let (_, response) = world.allocate(path(AWAY), &mut alice, vec![]);
        assert_eq!(response.first(AttributeType::MOBILITY_TICKET), None, "not asked for");
    }
}

/// MOB-8016-3.1.2-02, -03.
#[test]
fn mob_8016_3_1_2_02_forbidden_by_policy_and_malformed() {
    let mut world = World::new();
    assert_eq!(ask(&mut world, vec![ticket(&[])]).error(), 405);
    assert_eq!(ask(&mut world, vec![ticket(&[1; 32])]).error(), 400);
    assert_eq!(ask(&mut world, vec![]).error(), 0);
    let mut world = World::with(mobile());
    for length in [1, 32, 200] {
        assert_eq!(ask(&mut world, vec![ticket(&vec![1; length])]).error(), 400, "{length} bytes");
    }
    assert_eq!(ask(&mut world, vec![ticket(&[])]).error(), 0);
}

/// MOB-8016-3.1.2-04: a server without the feature ignores the attribute; so does this one where it means nothing.
#[test]
fn mob_8016_3_1_2_04_the_attribute_may_be_ignored() {
    let mut world = World::with(mobile());
    let (mut alice, ..) = settled(&mut world, path(HOME));
    for method in [Method::CreatePermission, Method::ChannelBind] {
        let own = vec![ticket(b"?"), (AttributeType::CHANNEL_NUMBER, vec![0x40, 1, 0, 0])];
        let request = crate::world::signed_with_peers(&mut alice, method, own, &["198.51.100.9:7000"]);
        assert_eq!(world.exchange(path(HOME), &request).error(), 0);
    }
    let bare = crate::client::bare(Method::Binding, vec![ticket(b"?")]);
    assert_eq!(world.exchange(path(HOME), &bare).error(), 0);
}

/// MOB-8016-3.2.2-01, -06, and the order of things in A21: a nonce is for one address.
#[test]
fn mob_8016_3_2_2_01_the_ticket_finds_the_allocation() {
    for there in [path(AWAY), path_over(Transport::Tcp, AWAY), path_over(Transport::Tls, HOME), path("[2001:db8::9]:7")]
    {
        let mut world = World::with(mobile());
        let (mut alice, _, first) = settled(&mut world, path(HOME));
        let old_nonce = world.refresh(there, &mut alice, vec![ticket(&first)]);
        assert_eq!(old_nonce.error(), 438);
        alice.nonce = old_nonce.nonce();
        let response = world.refresh(there, &mut alice, vec![ticket(&first), lifetime(1800)]);
        assert_eq!((response.error(), response.lifetime()), (0, Some(1800)));
        assert_ne!(ticket_of(&response), first);
        let from = Some(path(HOME));
        assert!(
            matches!(world.events.last(), Some(Event::Moved { from: f, to, .. }) if *f == from && *to == Some(there))
        );
        assert_eq!(world.server.allocations(), 1);
        world.pass(1790);
        assert_eq!(world.server.allocations(), 1, "as long as granted");
    }
}

/// MOB-8016-3.2.2-02, 5-01.
#[test]
fn mob_8016_3_2_2_02_no_such_allocation_and_no_such_ticket() {
    let mut world = World::with(mobile());
    let (_, _, first) = settled(&mut world, path(HOME));
    for bit in 0..8 * first.len() {
        let mut forged = first.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(show(&mut world, path(AWAY), &forged).error(), 400, "bit {bit}");
    }
    for length in [0, 1, 31, 33, 500] {
        assert_eq!(show(&mut world, path(AWAY), &vec![7; length]).error(), 400, "{length} bytes");
    }
    let mut stranger = World::with(Config { mobility: Some(MobilityKey([1; 32])), ..config() });
    assert_eq!(show(&mut stranger, path(AWAY), &first).error(), 400, "another server's");
    assert_eq!(show(&mut world, path(AWAY), &first).error(), 0, "none of that has used it up");

    for timers in [true, false] {
        let mut world = World::with(mobile());
        let (_, _, first) = settled(&mut world, path(HOME));
        if timers {
            world.pass(602)
        } else {
            world.pass_without_timers(600)
        }
        assert_eq!(show(&mut world, path(AWAY), &first).error(), 437);
        // Somebody else in the same slot is somebody else.
        world.pass(2);
        settled(&mut world, path(FURTHER));
        assert_eq!(show(&mut world, path(AWAY), &first).error(), 437);
    }
}

/// MOB-8016-3.2.2-03: from where it was given, and from where it was shown last.
#[test]
fn mob_8016_3_2_2_03_from_the_unchanged_path_it_is_a_bad_request() {
    let mut world = World::with(mobile());
    let (mut alice, _, first) = settled(&mut world, path(HOME));
    assert_eq!(world.refresh(path(HOME), &mut alice, vec![ticket(&first)]).error(), 400);
    let second = ticket_of(&show(&mut world, path(AWAY), &first));
    assert_eq!(show(&mut world, path(AWAY), &second).error(), 400);
    assert_eq!(show(&mut world, path(FURTHER), &second).error(), 0);
}

/// MOB-8016-3.2.2-04 (abuse S13): a ticket is worth nothing without its owner's credentials.
#[test]
fn mob_8016_3_2_2_04_a_ticket_is_its_owners() {
    let mut world = World::with(mobile());
    let (_, relay, first) = settled(&mut world, path(HOME));
    let mut bob = world.client(path(AWAY), "bob", "hunter2");
    for asked in [vec![ticket(&first)], vec![ticket(&first), lifetime(0)]] {
        assert_eq!(world.refresh(path(AWAY), &mut bob, asked).error(), 441);
    }
    let mut nobody = world.client(path(AWAY), "alice", "wrong");
    assert_eq!(world.refresh(path(AWAY), &mut nobody, vec![ticket(&first)]).error(), 401);
    assert_eq!(client_of(&mut world, relay), path(HOME));
    assert_eq!(show(&mut world, path(AWAY), &first).error(), 0);
}

/// MOB-8016-3.2.2-05; and a connection that closes takes its allocation along again.
#[test]
fn mob_8016_3_2_2_05_switched_off_meanwhile() {
    let mut world = World::with(mobile());
    let here = path_over(Transport::Tcp, HOME);
    let (mut alice, _, first) = settled(&mut world, here);
    world.server.configure(Arc::new(config()));
    assert_eq!(show(&mut world, path(AWAY), &first).error(), 405);
    assert_eq!(world.refresh(here, &mut alice, vec![]).error(), 0);
    world.server.path_closed(world.clock, here);
    assert_eq!(world.server.allocations(), 0);
}

/// MOB-8016-3.2.2-07, -08: data decides when the old path is left; the same channel number works on.
#[test]
fn mob_8016_3_2_2_07_the_old_path_is_served_until_data_comes_from_the_new_one() {
    let sent = |message: Vec<u8>| message;
    for first_data in [sent(channel_data(0x4000, b"abc")), sent(send_indication(PEER, vec![data(b"abc")]))] {
        let mut world = World::with(mobile());
        let (mut alice, relay, first) = settled(&mut world, path(HOME));
        show(&mut world, path(AWAY), &first);
        for _ in 0..3 {
            assert_eq!(client_of(&mut world, relay), path(HOME));
            let seen = world.send(path(HOME), &channel_data(0x4000, b"old")).expect("a verdict");
            assert_eq!(seen.data_at_peer(), b"old");
        }
        // Requests are taken from both, and decide nothing.
        assert_eq!(world.permit(path(HOME), &mut alice, &["198.51.100.8:0"]), 0);
        let mut there = world.alice(path(AWAY));
        assert_eq!(world.permit(path(AWAY), &mut there, &["198.51.100.9:0"]), 0);
        assert_eq!(client_of(&mut world, relay), path(HOME));

        let seen = world.send(path(AWAY), &first_data).expect("a verdict");
        assert_eq!(seen.data_at_peer(), b"abc");
        let seen = world.peer_sends(relay, PEER, b"hello");
        assert_eq!(seen, Seen::AtClient { to: path(AWAY), message: channel_data(0x4000, b"hello") });
        for peer in ["198.51.100.8:1", "198.51.100.9:1"] {
            assert!(
                matches!(world.peer_sends(relay, peer, b"permitted"), Seen::AtClient { to, .. } if to == path(AWAY))
            );
        }
        let seen = world.send(path(HOME), &channel_data(0x4000, b"old"));
        assert_eq!(seen, Some(Seen::Dropped(Reason::NoAllocation)));
        assert_eq!(world.refresh(path(HOME), &mut alice, vec![]).error(), 437);
        assert_eq!(world.refresh(path(AWAY), &mut there, vec![]).error(), 0);
        // And the old one is free for another allocation.
        world.allocate(path(HOME), &mut alice, vec![]);
    }
}

/// MOB-8016-3.2.2-07: or when it is closed. Whichever closes, the other stays.
#[test]
fn mob_8016_3_2_2_07_the_old_path_is_served_until_it_is_closed() {
    let (here, there) = (path_over(Transport::Tcp, HOME), path_over(Transport::Tcp, AWAY));
    for (closed, left) in [(here, there), (there, here)] {
        let mut world = World::with(mobile());
        let (_, relay, first) = settled(&mut world, here);
        show(&mut world, there, &first);
        world.server.path_closed(world.clock, closed);
        world.server.check_invariants();
        assert_eq!(client_of(&mut world, relay), left);
        let seen = world.send(closed, &channel_data(0x4000, b"x"));
        assert_eq!(seen, Some(Seen::Dropped(Reason::NoAllocation)));
        assert!(world.send(left, &channel_data(0x4000, b"x")).expect("a verdict").relayed());
    }
}

/// MOB-8016-3.2.2-09: the same bytes, the same answer; any other request with that ticket is too late.
#[test]
fn mob_8016_3_2_2_09_the_old_ticket_is_good_for_the_same_refresh() {
    let mut world = World::with(mobile());
    let (_, _, first) = settled(&mut world, path(HOME));
    let mut alice = world.alice(path(AWAY));
    let request = alice.signed(Method::Refresh, vec![ticket(&first), lifetime(3600)]);
    let response = world.exchange(path(AWAY), &request);
    for _ in 0..3 {
        world.pass(10);
        assert_eq!(world.exchange(path(AWAY), &request), response);
    }
    assert_eq!(world.refresh(path(AWAY), &mut alice, vec![ticket(&first)]).error(), 437);
    assert_eq!(show(&mut world, path(FURTHER), &first).error(), 437);
    world.pass(11);
    assert_eq!(world.exchange(path(AWAY), &request).error(), 437, "remembered for 40 s");
    let second = ticket_of(&response);
    assert_eq!(show(&mut world, path(FURTHER), &second).error(), 0);
    assert_eq!(world.exchange(path(AWAY), &request).error(), 437, "it has moved on");
}

/// A deletion may come from anywhere, too, and its retransmission gets the same answer.
#[test]
fn mob_8016_3_2_2_01_a_ticket_may_be_shown_to_delete() {
    let mut world = World::with(mobile());
    let (_, relay, first) = settled(&mut world, path(HOME));
    let mut alice = world.alice(path(AWAY));
    let request = alice.signed(Method::Refresh, vec![ticket(&first), lifetime(0)]);
    let response = world.exchange(path(AWAY), &request);
    assert_eq!((response.lifetime(), response.first(AttributeType::MOBILITY_TICKET)), (Some(0), None));
    assert_eq!(world.closed, [relay]);
    assert_eq!(world.exchange(path(AWAY), &request), response);
    assert_eq!(show(&mut world, path(FURTHER), &first).error(), 437);
}

/// Of a dual allocation both halves move; a Refresh that means one of them is about its lifetime only.
#[test]
fn mob_8016_3_2_2_08_both_halves_of_a_dual_allocation_move() {
    let family = |family: u8| (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0]);
    let mut world = World::with(mobile());
    let mut alice = world.alice(path(HOME));
    let both = (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]);
    let (v6, response) = world.allocate(path(HOME), &mut alice, vec![ticket(&[]), both]);
    assert_eq!(world.permit(path(HOME), &mut alice, &[PEER, "[2001:db8:1::7]:7"]), 0);
    let mut there = world.alice(path(AWAY));
    let wrong = vec![ticket(&ticket_of(&response)), family(7)];
    assert_eq!(world.refresh(path(AWAY), &mut there, wrong).error(), 443, "and it is still where it was");
    assert_eq!(world.send(path(AWAY), &channel_data(0x4000, b"x")), Some(Seen::Dropped(Reason::NoAllocation)));
    let deletion = vec![ticket(&ticket_of(&response)), family(1), lifetime(0)];
    let second = ticket_of(&world.refresh(path(AWAY), &mut there, deletion));
    let sent = send_indication("[2001:db8:1::7]:7", vec![data(b"x")]);
    assert!(world.send(path(AWAY), &sent).expect("a verdict").relayed());
    let seen = world.peer_sends(v6, "[2001:db8:1::7]:7", b"x");
    assert!(matches!(seen, Seen::AtClient { to, .. } if to == path(AWAY)));
    assert_eq!(show(&mut world, path(FURTHER), &second).error(), 0);
}

/// A client may come back before it has sent anything from where it was.
#[test]
fn mob_8016_3_2_2_07_back_to_the_old_path() {
    let mut world = World::with(mobile());
    let (mut alice, relay, first) = settled(&mut world, path(HOME));
    let second = ticket_of(&show(&mut world, path(AWAY), &first));
    let third = ticket_of(&world.refresh(path(HOME), &mut alice, vec![ticket(&second)]));
    assert_eq!(world.send(path(AWAY), &channel_data(0x4000, b"x")), Some(Seen::Dropped(Reason::NoAllocation)));
    assert_eq!(client_of(&mut world, relay), path(HOME));
    assert_eq!(world.refresh(path(HOME), &mut alice, vec![ticket(&third)]).error(), 400);
    assert_eq!(show(&mut world, path(AWAY), &third).error(), 0);
}

/// A 5-tuple has one allocation at most: nobody moves to one that is taken.
#[test]
fn turn_8656_5_04_a_path_with_an_allocation_takes_no_other() {
    let mut world = World::with(mobile());
    let (_, relay, first) = settled(&mut world, path(HOME));
    let (mut other, ..) = settled(&mut world, path(AWAY));
    assert_eq!(world.refresh(path(AWAY), &mut other, vec![ticket(&first)]).error(), 437);
    let mut waiting = world.alice(path(FURTHER));
    world.bind_answer = None;
    assert_eq!(world.send(path(FURTHER), &waiting.signed(Method::Allocate, vec![udp()])), None);
    assert_eq!(world.refresh(path(FURTHER), &mut waiting, vec![ticket(&first)]).error(), 437);
    assert_eq!(client_of(&mut world, relay), path(HOME));
    // What is over, or deleted, is not in the way, whether the wheel has turned or not.
    world.refresh(path(AWAY), &mut other, vec![lifetime(0)]);
    assert_eq!(show(&mut world, path(AWAY), &first).error(), 0);
}

/// TURN-8656-LIFE-01 with mobility: the allocation waits for its client, and nothing leaks to who has the path next.
#[test]
fn turn_8656_life_01_a_ticket_holds_the_allocation() {
    let here = path_over(Transport::Tcp, HOME);
    for there in [path(AWAY), here] {
        let mut world = World::with(mobile());
        let (_, relay, first) = settled(&mut world, here);
        world.server.path_closed(world.clock, here);
        assert_eq!(world.drain_effects(), None);
        assert!(matches!(world.events.last(), Some(Event::Moved { to: None, .. })));
        assert_eq!((world.server.allocations(), world.closed.len()), (1, 0));
        assert_eq!(world.peer_sends(relay, PEER, b"lost"), Seen::Dropped(Reason::NoPath));
        assert_eq!(world.server.traffic(relay).expect("it lives").packets_to_client, 0);
        if there == path(AWAY) {
            // Somebody else has the port now, and an allocation of his own.
            let mut bob = world.client(here, "bob", "hunter2");
            world.allocate(here, &mut bob, vec![]);
            assert_eq!(world.peer_sends(relay, PEER, b"lost"), Seen::Dropped(Reason::NoPath));
        }
        assert_eq!(show(&mut world, there, &first).error(), 0, "also from the same port as before");
        assert_eq!(client_of(&mut world, relay), there, "at once: there is no old path");
    }
    // Nobody comes: its lifetime is the bound.
    let mut world = World::with(mobile());
    settled(&mut world, here);
    world.server.path_closed(world.clock, here);
    world.pass(602);
    assert_eq!(world.server.allocations(), 0);
    assert!(matches!(world.events.last(), Some(Event::Ended { why: EndReason::Expired, .. })));
}

/// REST-04: an allocation outlives the name it was made with, wherever its client goes.
#[test]
fn rest_04_a_time_limited_name_may_move_when_it_is_over() {
    let name = format!("{}:dave", UNIX_START + 60);
    let password = TimeLimitedForm::default().password(b"north", &name);
    let mut world = World::with(mobile());
    let mut dave = world.client(path(HOME), &name, &password);
    let (_, response) = world.allocate(path(HOME), &mut dave, vec![ticket(&[])]);
    world.pass(100);
    let mut dave = world.client(path(AWAY), &name, &password);
    assert_eq!(world.refresh(path(AWAY), &mut dave, vec![]).error(), 401);
    assert_eq!(world.refresh(path(AWAY), &mut dave, vec![ticket(&[3; 32])]).error(), 401);
    assert_eq!(world.refresh(path(AWAY), &mut dave, vec![ticket(&ticket_of(&response))]).error(), 0);
}

/// Abuse S13: ten thousand resumes in a chain, with data in between or without, leave one allocation of one owner on at
/// most two paths, and nothing else.
#[test]
fn s13_ten_thousand_resumes_leak_nothing() {
    let mut world = World::with(mobile());
    let (_, relay, mut now) = settled(&mut world, path(HOME));
    let timers = world.server.timers_armed();
    let mut seen = HashSet::new();
    for count in 0..10_000u32 {
        let there = path(&format!("192.0.{}.{}:4000", 2 + count / 250, 1 + count % 250));
        now = ticket_of(&show(&mut world, there, &now));
        assert!(seen.insert(now.clone()), "the same ticket again");
        if count % 3 == 0 {
            assert!(world.send(there, &channel_data(0x4000, b"x")).expect("a verdict").relayed());
            assert_eq!(client_of(&mut world, relay), there);
        }
        if count % 7 == 0 {
            // One that was left behind is nobody's.
            let before = path(&format!("192.0.{}.{}:4000", 2 + (count / 2) / 250, 1 + (count / 2) % 250));
            if count > 10 {
                assert_eq!(world.send(before, &channel_data(0x4000, b"x")), Some(Seen::Dropped(Reason::NoAllocation)));
            }
        }
    }
    assert_eq!((world.server.allocations(), world.binds.len(), world.closed.len()), (1, 1, 0));
    assert!(world.server.timers_armed() <= timers + 1);
    let mut alice = world.alice(path(AWAY));
    assert_eq!(world.refresh(path(AWAY), &mut alice, vec![ticket(&now), lifetime(0)]).error(), 0);
    assert_eq!((world.server.allocations(), world.closed.len()), (0, 1), "counted once, given back once");
}

/// MOB-8016-5-01: guests have nothing to prove that a ticket is theirs, so they get none and may show none.
#[test]
fn mob_8016_5_01_guests_do_not_move() {
    let mut config = mobile();
    config.credentials.guests = vec!["10.0.0.0/8".parse().unwrap()];
    let mut world = World::with(config);
    let guest = path("10.1.2.3:40000");
    let bare = |method, own| crate::client::bare(method, own);
    assert_eq!(world.exchange(guest, &bare(Method::Allocate, vec![udp(), ticket(&[])])).error(), 405);
    let (_, relay, first) = settled(&mut world, path(HOME));
    for asked in [vec![ticket(&first)], vec![ticket(&first), lifetime(0)]] {
        assert_eq!(world.exchange(guest, &bare(Method::Refresh, asked)).error(), 441);
    }
    assert_eq!(client_of(&mut world, relay), path(HOME));
    assert_eq!(world.exchange(guest, &bare(Method::Allocate, vec![udp()])).error(), 0);
}

/// A user who is struck off the list cannot take his allocation anywhere.
#[test]
fn mob_8016_3_2_2_04_a_user_who_is_gone_does_not_move() {
    let mut world = World::with(mobile());
    let (_, _, first) = settled(&mut world, path(HOME));
    let mut amended = mobile();
    amended.credentials.users = [("bob".to_owned(), StaticUser::from_password("bob", REALM, "hunter2"))].into();
    world.server.configure(Arc::new(amended));
    let mut alice = world.alice(path(AWAY));
    assert_eq!(world.refresh(path(AWAY), &mut alice, vec![ticket(&first)]).error(), 401);
}
