//! Truncations and mutations by the hundred thousand.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hairpin::turn::Transport;

use crate::dice::Dice;
use crate::fixture::{Fixture, Outcome, PERMITTED, REALM, address, alices_path, key, password, path};
use crate::memory::live_bytes;
use crate::mutate::{mutate, repair_length};
use crate::wire::{self, Class, Parsed};
use crate::{corpus, setting};

const MUTATIONS: u64 = 100_000;
/// Hash tables and queues may have room left over; growth by messages would be megabytes.
pub const GROWTH_BYTES_MAX: i64 = 64 * 1024;

/// Feeds `count` spoiled messages; a failure names its seed and message.
pub fn storm(count: u64, corpus: &[Vec<u8>], mut feed: impl FnMut(&mut Dice, &[u8])) {
    let seed = setting("HAIRPIN_HOSTILE_SEED", 1);
    let mut dice = Dice::new(seed);
    for number in 0..count {
        let message = mutate(&mut dice, corpus);
        let fed = catch_unwind(AssertUnwindSafe(|| feed(&mut dice, &message)));
        assert!(fed.is_ok(), "HAIRPIN_HOSTILE_SEED={seed}: message {number}: {message:02x?}");
    }
}

pub fn mutations() -> u64 {
    setting("HAIRPIN_HOSTILE_MUTATIONS", MUTATIONS)
}

/// Every truncation, as it is and with a header that agrees with it.
fn truncations(message: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..message.len()).flat_map(|len| {
        let cut = message[..len].to_vec();
        let mut repaired = cut.clone();
        repair_length(&mut repaired);
        [cut, repaired]
    })
}

/// Whether the MAC is one of a user's, by the independent reader.
fn is_signed_by(message: &[u8], username: &str) -> bool {
    let sha256 = wire::key_sha256(username, REALM, &password(username));
    Parsed::parse(message).is_some_and(|message| message.verifies(&key(username)) || message.verifies(&sha256))
}

#[test]
fn s5_no_state_for_unauthenticated_senders_whatever_they_send() {
    let mut fixture = Fixture::new();
    let corpus = corpus::unauthenticated();
    let mut feed = |dice: &mut Dice, message: &[u8]| {
        let transport = Transport::ALL[dice.below(2) as usize];
        let from = path(transport, &format!("198.18.{}.7:{}", dice.below(256), 1024 + dice.below(60_000)));
        let outcome = fixture.client_says(from, message);
        assert!(matches!(outcome, Outcome::Drop | Outcome::Reply(_)), "{outcome:?}");
        if let Outcome::Reply(reply) = &outcome {
            let is_binding = message[..2] == [0, 1];
            assert!(is_binding || reply[0] == 1 && reply[1] & 0x10 != 0, "a success for nobody");
        }
        assert_eq!(fixture.effects(), []);
        assert_eq!(fixture.server.allocations(), 0);
        assert_eq!(fixture.server.next_timeout(), None);
    };
    for message in &corpus {
        let mut dice = Dice::new(0);
        truncations(message).for_each(|message| feed(&mut dice, &message));
    }
    let before = live_bytes();
    storm(mutations(), &corpus, feed);
    let grown = live_bytes() - before;
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes for senders nobody knows");
    fixture.server.check_invariants();
}

#[test]
fn s17_spoiled_messages_of_an_authenticated_client_do_no_harm() {
    let mut fixture = Fixture::with_alice();
    let corpus = corpus::authenticated(&mut fixture, alices_path(), "alice");
    let mut feed = |_: &mut Dice, message: &[u8]| {
        let outcome = fixture.client_says(alices_path(), message);
        let effects = fixture.effects();
        match &outcome {
            Outcome::Reply(reply) => {
                let response = Parsed::parse(reply).expect("checked by the fixture");
                let is_granted = response.class == Class::Success && response.method != wire::BINDING;
                assert!(!is_granted || is_signed_by(message, "alice"), "granted without a MAC");
            }
            Outcome::Later => assert!(is_signed_by(message, "alice"), "a relay without a MAC"),
            // The second one is permitted by a message of the corpus.
            Outcome::ToPeer(to, _) => {
                assert!([PERMITTED, "9.9.9.3:1"].iter().any(|peer| address(peer).ip() == to.ip()))
            }
            Outcome::ToClient(..) => panic!("a client's message came back to a client"),
            Outcome::Drop => {}
        }
        // Nobody signed a deletion, and nobody needs a second relay.
        assert_eq!(effects, []);
        assert_eq!(fixture.server.allocations(), 1);
    };
    for message in &corpus {
        let mut dice = Dice::new(0);
        truncations(message).for_each(|message| feed(&mut dice, &message));
    }
    let before = live_bytes();
    storm(mutations(), &corpus, feed);
    let grown = live_bytes() - before;
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes more for one client");
    fixture.server.check_invariants();
    assert!(fixture.is_permitted(PERMITTED));
}

#[test]
fn s16_whatever_peers_send_is_framed_whole_or_dropped() {
    let mut fixture = Fixture::with_alice();
    let mut dice = Dice::new(setting("HAIRPIN_HOSTILE_SEED", 1));
    let peers = [PERMITTED, "9.9.9.1:1", "9.9.9.2:7000", "[2606:4700::1]:7000", "[::ffff:9.9.9.1]:7000"];
    let before = live_bytes();
    for _ in 0..mutations() / 5 {
        let len = match dice.below(50) {
            0 => dice.below(65_536),
            1 => 65_400 + dice.below(136),
            _ => dice.below(1500),
        };
        let data = dice.bytes(len as usize);
        let peer = address(dice.pick(&peers));
        match fixture.peer_says(peer, &data) {
            Outcome::Drop => assert!(peer.ip() != address(PERMITTED).ip() || data.len() > 65_400),
            Outcome::ToClient(to, bytes) => {
                assert_eq!(to, alices_path());
                assert_eq!(peer.ip(), address(PERMITTED).ip());
                assert!(bytes.len() <= 65_507, "more than a datagram holds");
                if bytes[0] == 0x40 {
                    assert_eq!((peer, &bytes[4..]), (address(PERMITTED), &data[..]));
                } else {
                    let indication = Parsed::parse(&bytes).expect("a Data indication must parse");
                    assert!(indication.padding_is_zero);
                    assert_eq!(indication.get_xor_address(wire::XOR_PEER_ADDRESS), Some(peer));
                    assert_eq!(indication.get(wire::DATA), Some(&data[..]));
                }
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fixture.effects(), []);
    }
    assert!(live_bytes() - before <= GROWTH_BYTES_MAX);
    fixture.server.check_invariants();
}
