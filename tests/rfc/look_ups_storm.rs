//! Back ends as bad as they can be: answers that come late, twice, out of order, wrongly addressed, or never. Whatever
//! they do, who has waited is answered once, and in the end nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hairpin::stun::{Class, Message, Method};
use hairpin::turn::{
    Config, Credentials, Effect, FiveTuple, IpFields, KeyAnswer, KeyLookUps, Packet, ReplyBuffer, Verdict,
};

use crate::client::{Client, lifetime, udp};
use crate::look_ups::{key, look_ups};
use crate::world::{World, config, path};

const USERS: u64 = 6;
const CLIENTS: usize = 12;

/// A generator of the simplest kind, so that a failure can be played again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Storm {
    world: World,
    dice: Dice,
    clients: Vec<(FiveTuple, Client)>,
    /// Questions not answered yet, and those that were, to be answered again.
    questions: Vec<(u64, Arc<str>)>,
    answered: Vec<(u64, Arc<str>)>,
    /// Requests waiting for their answer, by transaction.
    waiting: BTreeSet<[u8; 12]>,
    requests: BTreeMap<[u8; 12], Vec<u8>>,
    sent: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut world = World::with(settings(1));
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let path = path(&format!("192.0.2.{number}:5000"));
            let (name, password) = (format!("user{}", number as u64 % USERS), "pa55");
            clients.push((path, world.client(path, &name, if number % 5 == 4 { "wrong" } else { password })));
        }
        let (questions, answered) = (Vec::new(), Vec::new());
        let (waiting, requests) = (BTreeSet::new(), BTreeMap::new());
        Self { world, dice: Dice(seed), clients, questions, answered, waiting, requests, sent: 0 }
    }

    fn step(&mut self) {
        match self.dice.roll(12) {
            0..=4 => self.request(),
            5..=7 => self.answer(),
            8 => {
                // Twice the same.
                if let Some((ticket, who)) = self.answered.last().cloned() {
                    self.give(ticket, &who);
                }
            }
            9 => {
                let ticket = self.dice.roll(u64::MAX);
                self.give(ticket, "user0");
            }
            10 => {
                let secs = self.dice.roll(5) as u32;
                self.world.pass_without_timers(secs);
                self.world.server.handle_timeout(self.world.clock);
                self.drain();
            }
            _ => {
                if self.dice.roll(20) == 0 {
                    let source = self.dice.roll(2);
                    self.world.server.configure(Arc::new(settings(source)));
                }
            }
        }
        self.world.server.check_invariants();
        assert_eq!(self.world.server.requests_waiting(), self.waiting.len());
    }

    fn request(&mut self) {
        let which = self.dice.roll(CLIENTS as u64) as usize;
        let (path, client) = &mut self.clients[which];
        let path = *path;
        let bytes = match self.dice.roll(5) {
            0 => client.signed(Method::Refresh, vec![lifetime(0)]),
            1 => client.signed(Method::Refresh, vec![]),
            // Something that waits, once more.
            2 if !self.requests.is_empty() => {
                let place = self.dice.roll(self.requests.len() as u64) as usize;
                self.requests.values().nth(place).expect("so many").clone()
            }
            _ => client.signed(Method::Allocate, vec![udp()]),
        };
        // Transaction ids of several clients would be the same otherwise.
        let (path, bytes) = match self.requests.values().any(|known| *known == bytes) {
            true => (self.owner_of(&bytes), bytes),
            false => (path, bytes),
        };
        let id = id_of(&bytes);
        let mut buffer = vec![0; Packet::HEADROOM + bytes.len() + Packet::TAILROOM];
        let range = Packet::HEADROOM..Packet::HEADROOM + bytes.len();
        buffer[range.clone()].copy_from_slice(&bytes);
        let mut packet = Packet::new(&mut buffer, range, IpFields::default());
        let mut reply = ReplyBuffer::new();
        let before = self.world.server.requests_waiting();
        let verdict = self.world.server.from_client(self.world.clock, path, &mut packet, &mut reply);
        match verdict {
            Verdict::Later if self.world.server.requests_waiting() > before => {
                assert!(self.waiting.insert(id), "one request waits twice");
                self.requests.insert(id, bytes);
            }
            Verdict::Reply { len } => self.renew(path, &reply[..len]),
            Verdict::Later | Verdict::Drop(_) => {}
            other => panic!("{other:?}"),
        }
        self.drain();
    }

    fn owner_of(&self, bytes: &[u8]) -> FiveTuple {
        let number = usize::from(id_of(bytes)[11]);
        self.clients[number].0
    }

    /// A client takes up the nonce it is given.
    fn renew(&mut self, path: FiveTuple, bytes: &[u8]) {
        let message = Message::parse(bytes).expect("ours");
        if let Some(nonce) = message.first(hairpin::stun::AttributeType::NONCE)
            && let Some((_, client)) = self.clients.iter_mut().find(|(other, _)| *other == path)
        {
            client.nonce = nonce.to_vec();
        }
    }

    fn answer(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let place = self.dice.roll(self.questions.len() as u64) as usize;
        let (ticket, who) = self.questions.swap_remove(place);
        // One in eight is never answered.
        if self.dice.roll(8) > 0 {
            self.give(ticket, &who);
            self.answered.push((ticket, who));
        }
    }

    fn give(&mut self, ticket: u64, who: &str) {
        let answer = match self.dice.roll(4) {
            0 => KeyAnswer::Unavailable,
            1 => KeyAnswer::NotFound,
            _ => key(who, "pa55"),
        };
        self.world.server.key_found(self.world.clock, ticket, answer);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.world.server.next_effect() {
            match effect {
                Effect::FindKey { ticket, who, .. } => {
                    assert!(self.questions.iter().all(|(other, _)| *other != ticket));
                    self.questions.push((ticket, who));
                }
                Effect::Send { to, bytes } => {
                    let id = id_of(&bytes);
                    assert_ne!(Message::parse(&bytes).unwrap().class(), Class::Request);
                    self.renew(to, &bytes);
                    self.waiting.remove(&id);
                    self.requests.remove(&id);
                    self.sent += 1;
                }
                Effect::BindRelay { relay, .. } => self.world.server.relay_bound(self.world.clock, relay, Ok(())),
                Effect::CloseRelay { .. } | Effect::Record(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn settings(source: u64) -> Config {
    let base = config();
    let look_ups = KeyLookUps { found_secs: 4, not_found_secs: 1, stale_secs: 8, source, ..look_ups() };
    Config { credentials: Credentials { look_ups: Some(look_ups), ..base.credentials }, ..base }
}

fn id_of(message: &[u8]) -> [u8; 12] {
    message[8..20].try_into().expect("twelve bytes")
}

#[test]
fn whatever_a_back_end_does_each_request_is_answered_once_and_nothing_is_left() {
    let mut sent = 0;
    for seed in 0..40 {
        let mut storm = Storm::new(seed);
        for (number, (_, client)) in storm.clients.iter_mut().enumerate() {
            client.id_tail = number as u8;
        }
        for _ in 0..400 {
            storm.step();
        }
        // The back end goes silent, and all lifetimes end.
        for _ in 0..5 {
            storm.world.pass_without_timers(1200);
            storm.world.server.handle_timeout(storm.world.clock);
            storm.drain();
        }
        assert_eq!(storm.waiting, BTreeSet::new(), "seed {seed}: somebody was never answered");
        assert_eq!((storm.world.server.allocations(), storm.world.server.next_timeout()), (0, None), "seed {seed}");
        sent += storm.sent;
    }
    assert!(sent > 2_000, "too little has happened: {sent} answers");
}
