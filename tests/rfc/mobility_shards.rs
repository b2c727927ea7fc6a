//! RFC 8016 where the kernel gives a client's new 5-tuple to another shard than its allocation's.

use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{Config, FiveTuple, Reason, RelayId, Server, ShardIndex, Transport};

use crate::client::{Client, Response, bare, channel_data, lifetime, udp};
use crate::mobility::{AWAY, FURTHER, HOME, mobile, settled, ticket, ticket_of};
use crate::world::{PEER, Seen, World, path, path_over};

/// Two shards of one server. Alice is settled at the first; the kernel gives other 5-tuples to the second.
struct Shards {
    worlds: [World; 2],
    relay: RelayId,
    ticket: Vec<u8>,
}

fn server(config: Config, index: u16, seed: u8) -> Server {
    Server::new(Arc::new(config), ShardIndex { index, count: 2 }, [seed; 32])
}

impl Shards {
    fn new() -> Self {
        Self::with(mobile())
    }

    fn with(config: Config) -> Self {
        let mut worlds = [0, 1].map(|index| {
            let mut world = World::new();
            world.server = server(config.clone(), index, index as u8);
            world
        });
        let (_, relay, ticket) = settled(&mut worlds[0], path(HOME));
        Self { worlds, relay, ticket }
    }

    fn alice_at(&mut self, there: FiveTuple) -> Client {
        self.worlds[1].alice(there)
    }

    /// What becomes of a datagram that the kernel gives to the second shard; letters are delivered afterwards.
    fn send(&mut self, there: FiveTuple, bytes: &[u8]) -> Option<Seen> {
        let seen = self.send_without_letters(there, bytes);
        self.deliver();
        seen
    }

    fn send_without_letters(&mut self, there: FiveTuple, bytes: &[u8]) -> Option<Seen> {
        match self.worlds[1].send(there, bytes) {
            Some(Seen::NotMine { shard: 0 }) => self.worlds[0].carried(1, there, bytes),
            seen => seen,
        }
    }

    fn deliver(&mut self) {
        while let Some(from) = self.worlds.iter().position(|world| !world.letters.is_empty()) {
            let (to, letter) = self.worlds[from].letters.remove(0);
            let world = &mut self.worlds[usize::from(to)];
            world.server.told(world.clock, from as u16, letter);
            assert_eq!(world.drain_effects(), None);
            self.worlds.iter_mut().for_each(|world| world.server.check_invariants());
        }
    }

    #[track_caller]
    fn show(&mut self, there: FiveTuple, shown: &[u8]) -> Response {
        let mut alice = self.alice_at(there);
        let request = alice.signed(Method::Refresh, vec![ticket(shown)]);
        self.send(there, &request).expect("an answer").response()
    }

    #[track_caller]
    fn client(&mut self) -> FiveTuple {
        match self.worlds[0].peer_sends(self.relay, PEER, b"to whom?") {
            Seen::AtClient { to, .. } => to,
            other => panic!("nobody is there: {other:?}"),
        }
    }

    fn carried(&self) -> [usize; 2] {
        [0, 1].map(|shard| self.worlds[shard].server.paths_carried())
    }

    /// Turns both clocks and both wheels.
    fn pass(&mut self, secs: u32) {
        self.worlds.iter_mut().for_each(|world| world.pass(secs));
    }
}

/// MOB-8016-3.2.2-01, A21: at any shard; what follows finds its way as well, and stops with the allocation.
#[test]
fn mob_8016_3_2_2_01_a_ticket_may_be_shown_at_another_shard() {
    let mut shards = Shards::new();
    let first = shards.ticket.clone();
    let mut stale = Client::new("alice", "s3cret");
    stale.nonce = b"obMatJos2gAAAmade-up".to_vec();
    let request = stale.signed(Method::Refresh, vec![ticket(&first)]);
    let challenge = shards.send(path(AWAY), &request).expect("an answer").response();
    assert_eq!((challenge.error(), shards.carried()), (438, [0, 0]), "answered on the spot, and costs nothing");
    stale.nonce = challenge.nonce();
    let request = stale.signed(Method::Refresh, vec![ticket(&first)]);
    let response = shards.send(path(AWAY), &request).expect("an answer").response();
    assert_ne!(ticket_of(&response), first);
    assert_eq!(shards.carried(), [0, 1]);
    assert_eq!(shards.send(path(AWAY), &request).expect("an answer").response(), response, "repeated");

    assert_eq!(shards.client(), path(HOME));
    let seen = shards.send(path(AWAY), &channel_data(0x4000, b"abc")).expect("a verdict");
    assert_eq!(seen.data_at_peer(), b"abc");
    assert_eq!(shards.client(), path(AWAY));
    // Every method but Binding belongs to the allocation.
    let permit = crate::world::signed_with_peers(&mut stale, Method::CreatePermission, vec![], &["198.51.100.9:0"]);
    assert_eq!(shards.send(path(AWAY), &permit).expect("an answer").response().error(), 0);
    let again = stale.signed(Method::Allocate, vec![udp()]);
    assert_eq!(shards.send(path(AWAY), &again).expect("an answer").response().error(), 437);
    let binding = bare(Method::Binding, vec![]);
    assert!(matches!(shards.worlds[1].send(path(AWAY), &binding), Some(Seen::Response(_))));

    let deletion = stale.signed(Method::Refresh, vec![lifetime(0)]);
    let response = shards.send(path(AWAY), &deletion).expect("an answer").response();
    assert_eq!((response.lifetime(), shards.carried()), (Some(0), [0, 0]));
    let seen = shards.send(path(AWAY), &channel_data(0x4000, b"abc"));
    assert_eq!(seen, Some(Seen::Dropped(Reason::NoAllocation)));
    let again = stale.signed(Method::Allocate, vec![udp()]);
    assert_eq!(shards.send(path(AWAY), &again).expect("an answer").response().error(), 0, "now at its own shard");
    assert_eq!(shards.worlds[1].server.allocations(), 1);
}

/// The path ends by expiry, by moving on, and by moving back: each time it is free again.
#[test]
fn a_path_is_passed_on_no_longer_than_it_is_in_use() {
    let mut shards = Shards::new();
    let second = ticket_of(&shards.show(path(AWAY), &shards.ticket.clone()));
    let third = ticket_of(&shards.show(path(FURTHER), &second));
    assert_eq!(shards.carried(), [0, 1], "the one in between was never settled on");
    shards.send(path(FURTHER), &channel_data(0x4000, b"x"));
    let fourth = ticket_of(&shards.show(path(AWAY), &third));
    assert_eq!(shards.carried(), [0, 2]);
    shards.send(path(AWAY), &channel_data(0x4000, b"x"));
    assert_eq!(shards.carried(), [0, 1]);
    // Home again, which needs nobody to pass it on.
    let mut alice = shards.worlds[0].alice(path(HOME));
    assert_eq!(shards.worlds[0].refresh(path(HOME), &mut alice, vec![ticket(&fourth)]).error(), 0);
    shards.worlds[0].send(path(HOME), &channel_data(0x4000, b"x"));
    shards.deliver();
    assert_eq!((shards.carried(), shards.client()), ([0, 0], path(HOME)));

    let mut shards = Shards::new();
    shards.show(path(AWAY), &shards.ticket.clone());
    shards.pass(602);
    shards.deliver();
    assert_eq!(shards.carried(), [0, 0]);
}

/// A refusal by the owner leaves the client's shard as it was.
#[test]
fn mob_8016_3_2_2_02_what_the_owner_refuses_leaves_nothing_behind() {
    let mut shards = Shards::new();
    let first = shards.ticket.clone();
    let mut bob = shards.worlds[1].client(path(AWAY), "bob", "hunter2");
    let request = bob.signed(Method::Refresh, vec![ticket(&first)]);
    assert_eq!(shards.send(path(AWAY), &request).expect("an answer").response().error(), 441);
    assert_eq!(shards.carried(), [0, 0]);
    let mut mallory = shards.worlds[1].client(path(AWAY), "mallory", "m");
    let request = mallory.signed(Method::Refresh, vec![ticket(&first)]);
    assert_eq!(shards.worlds[1].exchange(path(AWAY), &request).error(), 401, "does not get that far");
    let request = bare(Method::Refresh, vec![ticket(&first)]);
    assert_eq!(shards.worlds[1].exchange(path(AWAY), &request).error(), 401);
    // A guest may come to that shard, but not with somebody's ticket.
    let mut config = mobile();
    config.credentials.guests = vec!["10.0.0.0/8".parse().unwrap()];
    shards.worlds[1].server.configure(Arc::new(config));
    let request = bare(Method::Refresh, vec![ticket(&first)]);
    assert_eq!(shards.worlds[1].exchange(path("10.1.2.3:4"), &request).error(), 441);
    assert_eq!(shards.carried(), [0, 0]);
    shards.pass(602);
    let gone = shards.show(path(AWAY), &first);
    assert_eq!((gone.error(), shards.carried()), (437, [0, 0]));
}

/// REST-04: only the owner knows that the name may be too old.
#[test]
fn rest_04_a_time_limited_name_that_is_over_moves_across_shards() {
    let name = format!("{}:dave", crate::world::UNIX_START + 60);
    let password = hairpin::turn::TimeLimitedForm::default().password(b"north", &name);
    let mut shards = Shards::new();
    let mut dave = shards.worlds[0].client(path("192.0.2.10:7"), &name, &password);
    let (_, response) = shards.worlds[0].allocate(path("192.0.2.10:7"), &mut dave, vec![ticket(&[])]);
    shards.pass(100);
    let mut dave = shards.worlds[1].client(path(AWAY), &name, &password);
    let request = dave.signed(Method::Refresh, vec![ticket(&ticket_of(&response))]);
    assert_eq!(shards.send(path(AWAY), &request).expect("an answer").response().error(), 0);
}

/// A path that has an allocation at its own shard takes no other, and what was asked for is refused there.
#[test]
fn turn_8656_5_04_a_path_with_an_allocation_takes_none_from_another_shard() {
    let mut shards = Shards::new();
    let first = shards.ticket.clone();
    let mut alice = shards.alice_at(path(AWAY));
    shards.worlds[1].allocate(path(AWAY), &mut alice, vec![]);
    assert_eq!(shards.worlds[1].refresh(path(AWAY), &mut alice, vec![ticket(&first)]).error(), 437);
    // The other way round: it belongs to the first shard, which knows.
    shards.show(path(FURTHER), &first);
    let (_, _, other) = settled(&mut shards.worlds[1], path("192.0.2.10:9"));
    let mut alice = shards.worlds[0].alice(path(FURTHER));
    let request = alice.signed(Method::Refresh, vec![ticket(&other)]);
    let refused = shards.send(path(FURTHER), &request).expect("an answer").response();
    assert_eq!((refused.error(), shards.carried()), (437, [0, 1]));
}

/// As many as there may be allocations; and who is not authenticated takes no place.
#[test]
fn s13_the_table_of_paths_is_bounded() {
    let mut config = mobile();
    config.limits.allocations = 2;
    let mut shards = Shards::with(config);
    let first = shards.ticket.clone();
    for port in 1..=2 {
        // The owner never hears of these: lost in a full mailbox.
        let there = path(&format!("192.0.2.50:{port}"));
        let mut alice = shards.alice_at(there);
        let request = alice.signed(Method::Refresh, vec![ticket(&first)]);
        assert_eq!(shards.worlds[1].send(there, &request), Some(Seen::NotMine { shard: 0 }));
    }
    assert_eq!(shards.carried(), [0, 2]);
    let refused = shards.show(path(AWAY), &first);
    assert_eq!(refused.error(), 508);
    shards.pass(40);
    assert_eq!(shards.show(path(AWAY), &first).error(), 0, "nobody has confirmed the others");
    assert_eq!(shards.carried(), [0, 1]);
}

/// Whoever asks on a path whose parcel was lost is served in the end.
#[test]
fn what_is_passed_on_in_vain_is_taken_back() {
    let mut shards = Shards::new();
    let mut alice = shards.alice_at(path(AWAY));
    let lost = alice.signed(Method::Refresh, vec![ticket(&shards.ticket.clone())]);
    assert_eq!(shards.worlds[1].send(path(AWAY), &lost), Some(Seen::NotMine { shard: 0 }));
    let request = alice.signed(Method::Allocate, vec![udp()]);
    assert_eq!(shards.send(path(AWAY), &request), Some(Seen::Dropped(Reason::Stray)));
    assert_eq!(shards.carried(), [0, 0]);
    assert_eq!(shards.send(path(AWAY), &request).expect("an answer").response().error(), 0);
    assert_eq!(shards.worlds.each_ref().map(|world| world.server.allocations()), [1, 1]);
}

/// The shard that passes on starts again: it is told anew, unless the path has become somebody's own meanwhile.
#[test]
fn a_carrier_that_restarts_is_told_again() {
    for is_taken in [false, true] {
        let mut shards = Shards::new();
        let second = ticket_of(&shards.show(path(AWAY), &shards.ticket.clone()));
        shards.send(path(AWAY), &channel_data(0x4000, b"x"));
        shards.worlds[1].server = server(mobile(), 1, 77);
        if is_taken {
            let mut bob = shards.worlds[1].client(path(AWAY), "bob", "hunter2");
            shards.worlds[1].allocate(path(AWAY), &mut bob, vec![]);
        }
        let world = &mut shards.worlds[0];
        world.server.shard_restarted(world.clock, 1);
        world.drain_effects();
        shards.deliver();
        if is_taken {
            // The client is out of reach, and may come back from elsewhere.
            assert_eq!(shards.worlds[0].peer_sends(shards.relay, PEER, b"x"), Seen::Dropped(Reason::NoPath));
            assert_eq!(shards.show(path(FURTHER), &second).error(), 0);
        } else {
            assert_eq!((shards.carried(), shards.client()), ([0, 1], path(AWAY)));
            let seen = shards.send(path(AWAY), &channel_data(0x4000, b"abc")).expect("a verdict");
            assert_eq!(seen.data_at_peer(), b"abc");
        }
    }
}

/// The allocation's shard starts again: nothing is passed on to it any more, and its tickets are worth nothing.
#[test]
fn an_owner_that_restarts_is_forgotten() {
    let mut shards = Shards::new();
    let second = ticket_of(&shards.show(path(AWAY), &shards.ticket.clone()));
    shards.worlds[0].server = server(mobile(), 0, 78);
    let world = &mut shards.worlds[1];
    world.server.shard_restarted(world.clock, 0);
    assert_eq!(shards.carried(), [0, 0]);
    // Another allocation in the same slot.
    settled(&mut shards.worlds[0], path(HOME));
    let refused = shards.show(path(FURTHER), &second);
    assert_eq!((refused.error(), shards.carried()), (437, [0, 0]));
}

/// A connection moves to the allocation's shard as a whole; nothing is noted where it came from.
#[test]
fn mob_8016_3_2_2_01_a_connection_moves_itself() {
    let mut shards = Shards::new();
    let there = path_over(Transport::Tcp, AWAY);
    let mut alice = shards.alice_at(there);
    let request = alice.signed(Method::Refresh, vec![ticket(&shards.ticket.clone())]);
    assert_eq!(shards.worlds[1].send(there, &request), Some(Seen::NotMine { shard: 0 }));
    assert_eq!(shards.carried(), [0, 0]);
    let response = shards.worlds[0].exchange(there, &request);
    assert_eq!((response.error(), shards.worlds[0].letters.len()), (0, 0));
    assert!(shards.worlds[0].send(there, &channel_data(0x4000, b"x\0\0\0")).expect("a verdict").relayed());
    assert_eq!(shards.client(), there);
    assert!(response.first(AttributeType::MOBILITY_TICKET).is_some());
}
