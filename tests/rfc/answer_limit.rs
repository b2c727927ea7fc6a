//! What a flood with forged addresses can make the server say (RFC 8489 §16.1.2, abuse S4).

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{FiveTuple, Reason, Transport};

use crate::client::{Client, bare, lifetime, udp};
use crate::world::{Seen, World, config, path, path_over};

const CLIENT: &str = "192.0.2.10:40000";
/// Three a second, and twice as many at once.
const RATE: u32 = 3;

fn limited() -> World {
    let mut config = config();
    config.limits.answers_per_prefix = RATE;
    World::with(config)
}

/// The `number`th neighbour of [`CLIENT`].
fn neighbour(number: u16) -> FiveTuple {
    path(&format!("192.0.2.{}:{}", number % 200 + 20, 1000 + number))
}

fn flood(world: &mut World) {
    // More than whatever the network of the client may be answered.
    for number in 0..100 {
        world.send(neighbour(number), &bare(Method::Allocate, vec![udp()]));
    }
}

/// STUN-8489-16.1.2-02: every shape of a request that is not authenticated counts, from anywhere in the prefix.
#[test]
fn stun_8489_16_1_2_02_unauthenticated_answers_to_a_prefix_are_limited() {
    let mut impostor = Client::new("alice", "wrong");
    impostor.nonce = limited().client(path(CLIENT), "alice", "s3cret").nonce;
    let mut malformed = bare(Method::Allocate, vec![udp()]);
    let length_at = 22;
    malformed[length_at..length_at + 2].copy_from_slice(&[0xFF, 0xFF]);
    let shapes = [
        bare(Method::Binding, vec![]),
        bare(Method::Binding, vec![(AttributeType(0x7FFF), vec![])]),
        bare(Method::Allocate, vec![udp()]),
        impostor.signed(Method::Allocate, vec![udp()]),
        malformed,
    ];
    for shape in shapes {
        let mut world = limited();
        let mut answered = 0;
        for number in 0..50 {
            match world.send(neighbour(number), &shape) {
                Some(Seen::Response(_)) => answered += 1,
                seen => assert_eq!(seen, Some(Seen::Dropped(Reason::AnswerRateLimited))),
            }
        }
        assert_eq!(answered, 2 * RATE);
        world.pass(1);
        assert!(matches!(world.send(neighbour(51), &shape), Some(Seen::Response(_))), "it comes back with time");
        assert!(matches!(world.send(path("198.51.100.1:1000"), &shape), Some(Seen::Response(_))), "others have theirs");
    }
}

/// Abuse S4: who has an allocation is answered, whatever happens around it, also when its nonce has become too old.
#[test]
fn s4_a_client_with_an_allocation_is_answered_in_a_flood() {
    let mut world = limited();
    let mut alice = world.alice(path(CLIENT));
    world.allocate(path(CLIENT), &mut alice, vec![lifetime(3600)]);
    world.pass(3595);
    world.refresh(path(CLIENT), &mut alice, vec![lifetime(3600)]);
    world.pass(10);
    flood(&mut world);
    let stale = world.refresh(path(CLIENT), &mut alice, vec![]);
    assert_eq!(stale.error(), 438);
    alice.nonce = stale.nonce();
    assert_eq!(world.refresh(path(CLIENT), &mut alice, vec![]).error(), 0);
    assert!(matches!(world.send(path(CLIENT), &bare(Method::Binding, vec![])), Some(Seen::Response(_))));
}

/// Abuse S4: and valid credentials are, too; only the challenge before them may need asking twice.
#[test]
fn s4_a_new_client_gets_through_a_flood() {
    let mut world = limited();
    flood(&mut world);
    let request = bare(Method::Allocate, vec![udp()]);
    let first = world.send(path(CLIENT), &request);
    assert_eq!(first, Some(Seen::Dropped(Reason::AnswerRateLimited)));
    let challenge = world.exchange(path(CLIENT), &request);
    assert_eq!(challenge.error(), 401);
    let mut alice = Client::new("alice", "s3cret");
    alice.nonce = challenge.nonce();
    world.allocate(path(CLIENT), &mut alice, vec![]);
}

/// A stream has shown its address with its handshake.
#[test]
fn s4_streams_are_not_limited() {
    let mut world = limited();
    for _ in 0..100 {
        let stream = path_over(Transport::Tcp, CLIENT);
        assert!(matches!(world.send(stream, &bare(Method::Allocate, vec![udp()])), Some(Seen::Response(_))));
    }
}
