//! What a client is called, from its first packet to its last.

use hairpin::turn::{Config, Event, SessionId, SessionKey};

use crate::client::lifetime;
use crate::mobility::{AWAY, FURTHER, HOME, mobile, settled, ticket, ticket_of};
use crate::world::{PEER, World, config, path};

const KEY: SessionKey = SessionKey([3; 16]);

/// Before there is an allocation, with it, and behind its end.
#[test]
fn a_session_has_one_name_from_first_to_last() {
    let mut world = World::with(Config { session_key: KEY, ..config() });
    let mut mallory = world.client(path(HOME), "alice", "wrong");
    let request = mallory.signed(hairpin::stun::Method::Allocate, vec![crate::client::udp()]);
    assert_eq!(world.exchange(path(HOME), &request).error(), 401);
    let (mut alice, _) = world.allocated(path(HOME));
    assert_eq!(world.permit(path(HOME), &mut alice, &["10.0.0.5:1"]), 403);
    assert_eq!(world.refresh(path(HOME), &mut alice, vec![lifetime(0)]).error(), 0);
    assert_eq!(world.permit(path(HOME), &mut alice, &[PEER]), 437);
    let names: Vec<SessionId> = world.events.iter().map(Event::session).collect();
    assert!(names.len() >= 4, "{:?}", world.events);
    assert!(names.iter().all(|name| *name == KEY.id(&path(HOME))), "{:?}", world.events);
}

/// RFC 8016: the story of an allocation goes on where its client does.
#[test]
fn an_allocation_keeps_its_name_when_it_moves() {
    let mut world = World::with(Config { session_key: KEY, ..mobile() });
    let name = KEY.id(&path(HOME));
    let (_, _, first) = settled(&mut world, path(HOME));
    let mut shown = first;
    for there in [AWAY, FURTHER] {
        let mut alice = world.alice(path(there));
        assert_eq!(world.server.session_of(world.clock, &path(there)), KEY.id(&path(there)), "a stranger until then");
        shown = ticket_of(&world.refresh(path(there), &mut alice, vec![ticket(&shown)]));
        assert_eq!(world.server.session_of(world.clock, &path(there)), name);
        assert!(matches!(world.events.last(), Some(Event::Moved { session, .. }) if *session == name));
    }
    let mut alice = world.alice(path(FURTHER));
    assert_eq!(world.permit(path(FURTHER), &mut alice, &["10.0.0.5:1"]), 403);
    assert!(matches!(world.events.last(), Some(Event::PeerRefused { session, .. }) if *session == name));
    assert_eq!(world.refresh(path(FURTHER), &mut alice, vec![lifetime(0)]).error(), 0);
    assert!(matches!(world.events.last(), Some(Event::Ended { session, .. }) if *session == name));
    assert_eq!(world.server.session_of(world.clock, &path(FURTHER)), KEY.id(&path(FURTHER)), "a stranger again");
}
