//! What operators see of allocations, and how they end them.

use std::collections::HashSet;
use std::ops::ControlFlow;

use hairpin::stun::Method;
use hairpin::turn::{
    EndReason, Event, Limits, PortRange, ReplyBuffer, Session, SessionFilter, Transport, Verdict, WalkPlace,
};

use crate::client::{bare, lifetime, udp};
use crate::world::{PEER, World, config, path, path_over, with_packet};

/// A walk in one go.
fn sessions(world: &mut World, filter: &SessionFilter) -> Vec<Session> {
    let mut found = Vec::new();
    let next = world.server.walk_sessions(world.clock, WalkPlace::default(), usize::MAX, filter, |session| {
        found.push(session);
        ControlFlow::Continue(())
    });
    assert_eq!(next, None);
    found
}

#[test]
fn a_session_shows_all_that_an_allocation_has() {
    let mut world = World::new();
    let here = path("192.0.2.10:1");
    let (mut alice, relay) = world.allocated(here);
    assert_eq!(world.bind_channel(here, &mut alice, 0x4000, PEER), 0);
    world.pass(100);
    let data = world.send(here, &crate::client::channel_data(0x4000, b"hello"));
    assert_eq!(data.expect("relayed").data_at_peer(), b"hello");
    let [session] = &sessions(&mut world, &SessionFilter::default())[..] else { panic!("one session") };
    assert_eq!((session.relay, session.path, session.is_in_reach), (relay, here, true));
    assert_eq!((&*session.username, &*session.account), ("alice", "alice"));
    assert_eq!((session.age_secs, session.permissions, session.channels), (100, 1, 1));
    let [half] = session.relayed[..] else { panic!("one relay") };
    assert_eq!((half.address, half.lifetime_left_secs), (world.binds[0], 500));
    assert_eq!((half.traffic.packets_to_peer, half.traffic.bytes_to_peer), (1, 5));
    // What is over is not shown, even before it is cleaned up.
    world.pass_without_timers(300);
    let session = sessions(&mut world, &SessionFilter::default()).remove(0);
    assert_eq!((session.permissions, session.channels), (0, 1));
    world.pass_without_timers(300);
    assert_eq!(sessions(&mut world, &SessionFilter::default()), []);
}

#[test]
fn filters_are_all_to_apply() {
    let mut world = World::new();
    let (first, second) = (path("192.0.2.10:1"), path_over(Transport::Tcp, "192.0.2.20:1"));
    let (_, alice) = world.allocated(first);
    let name = format!("{}:carol", world.clock.unix_secs + 60);
    let password = hairpin::turn::TimeLimitedForm::default().password(b"north", &name);
    let mut carol = world.client(second, &name, &password);
    let (carols, _) = world.allocate(second, &mut carol, vec![]);
    let relayed = world.binds[1];
    let all = SessionFilter::default();
    let id = world.server.session_of(world.clock, &second);
    let by = |filter: SessionFilter| filter;
    let cases = [
        (all.clone(), vec![alice, carols]),
        (by(SessionFilter { id: Some(id), ..all.clone() }), vec![carols]),
        (by(SessionFilter { user: Some("alice".into()), ..all.clone() }), vec![alice]),
        (by(SessionFilter { user: Some("carol".into()), ..all.clone() }), vec![carols]),
        (by(SessionFilter { user: Some(name.clone()), ..all.clone() }), vec![carols]),
        (by(SessionFilter { user: Some("car".into()), ..all.clone() }), vec![]),
        (by(SessionFilter { client: Some("192.0.2.0/28".parse().unwrap()), ..all.clone() }), vec![alice]),
        (by(SessionFilter { client: Some("192.0.2.0/24".parse().unwrap()), ..all.clone() }), vec![alice, carols]),
        (by(SessionFilter { transport: Some(Transport::Tcp), ..all.clone() }), vec![carols]),
        (by(SessionFilter { relayed_ip: Some(relayed.ip()), ..all.clone() }), vec![alice, carols]),
        (
            by(SessionFilter { relayed_ip: Some(relayed.ip()), relayed_port: Some(relayed.port()), ..all.clone() }),
            vec![carols],
        ),
        (by(SessionFilter { user: Some("alice".into()), transport: Some(Transport::Tcp), ..all }), vec![]),
    ];
    for (filter, expected) in cases {
        let found: Vec<_> = sessions(&mut world, &filter).iter().map(|session| session.relay).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[test]
fn who_is_killed_ends_like_the_expired_and_may_come_back() {
    let mut world = World::new();
    let (here, there) = (path("192.0.2.10:1"), path("192.0.2.20:1"));
    let (mut alice, relay) = world.allocated(here);
    let (mut bystander, _) = world.allocated(there);
    let filter = SessionFilter {
        client: Some("192.0.2.10".parse::<std::net::IpAddr>().unwrap().into()),
        ..SessionFilter::default()
    };
    let killed = world.server.end_sessions(world.clock, WalkPlace::default(), 100, &filter, EndReason::Killed);
    assert_eq!(killed, (1, None));
    world.drain_effects();
    world.server.check_invariants();
    assert_eq!(world.closed, [relay]);
    assert!(matches!(world.events.last(), Some(Event::Ended { why: EndReason::Killed, .. })));
    assert_eq!(world.server.counters().allocations_ended[EndReason::Killed as usize], 1);
    assert_eq!(world.refresh(here, &mut alice, vec![]).error(), 437);
    assert_eq!(world.refresh(there, &mut bystander, vec![lifetime(600)]).error(), 0);
    world.allocate(here, &mut alice, vec![]);
}

/// A round of a shard takes a few steps of a walk, however large the table: each sees so many places, and together all
/// of them, once.
#[test]
fn fifteen_thousand_allocations_are_looked_through_in_slices() {
    const COUNT: u32 = 15_000;
    const STEPS: usize = 64;
    let mut config = config();
    config.credentials.guests = vec!["10.0.0.0/8".parse().unwrap()];
    config.ports = PortRange { first: 1024, last: 65_535, quarantine_secs: 0 };
    config.limits = Limits { allocations: COUNT as usize, ..config.limits };
    let mut world = World::with(config);
    let request = bare(Method::Allocate, vec![udp()]);
    for client in 0..COUNT {
        let ip = std::net::Ipv4Addr::from_bits(0x0A00_0000 + client);
        let path = path(&format!("{ip}:1"));
        let mut reply = ReplyBuffer::new();
        let verdict = with_packet(&request, |packet| world.server.from_client(world.clock, path, packet, &mut reply));
        assert_eq!(verdict, Verdict::Later);
        world.may_send_several = true;
        world.drain_effects();
    }
    world.events.clear();
    assert_eq!(world.server.allocations(), COUNT as usize);
    let (mut at, mut slices, mut seen) = (Some(WalkPlace::default()), 0, HashSet::new());
    while let Some(from) = at {
        let mut in_slice = 0;
        at = world.server.walk_sessions(world.clock, from, STEPS, &SessionFilter::default(), |session| {
            in_slice += 1;
            assert!(seen.insert(session.relay), "shown twice");
            ControlFlow::Continue(())
        });
        assert!(in_slice <= STEPS);
        slices += 1;
    }
    assert_eq!((seen.len(), slices), (COUNT as usize, (COUNT as usize).div_ceil(STEPS)));
    // Ending them goes in slices as well.
    let (mut at, mut ended) = (Some(WalkPlace::default()), 0);
    while let Some(from) = at {
        let (count, next) =
            world.server.end_sessions(world.clock, from, STEPS, &SessionFilter::default(), EndReason::Killed);
        assert!(count <= STEPS);
        world.drain_effects();
        (at, ended) = (next, ended + count);
    }
    assert_eq!((ended, world.server.allocations()), (COUNT as usize, 0));
    world.server.check_invariants();
}
