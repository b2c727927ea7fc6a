//! Allocations of every kind over three shards, at random: pairs, reservations, tokens shown elsewhere, refusals,
//! late binds, late letters, clients that vanish, shards that die. What has to hold is not who gets what but that
//! nothing is lost: no port twice, no port gone, every socket closed once.
//!
//! `HAIRPIN_STORM_SEED=7 cargo test --test rfc storm` runs one seed, `HAIRPIN_STORM_SEEDS=1000` so many.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    BindError, Clock, Config, Effect, FiveTuple, IpFields, Letter, Now, Packet, PortRange, RelayId, ReplyBuffer,
    Server, ShardIndex, Verdict,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::client::{Attributes, Client, Response, bare, lifetime, udp};
use crate::world::{UNIX_START, config, path};

const SHARDS: u16 = 3;
const CLIENTS: usize = 9;
const STEPS: usize = 400;
const SEEDS_DEFAULT: u64 = 60;

/// Few enough ports that they run out, some of them odd ones out at the ends.
const PORTS: PortRange = PortRange { first: 50_001, last: 50_024, quarantine_secs: 1 };

struct Storm {
    random: ChaCha8Rng,
    config: Arc<Config>,
    clock: Clock,
    servers: Vec<Server>,
    /// What the kernel would know: who has bound what.
    sockets: BTreeMap<SocketAddr, (u16, RelayId)>,
    /// Binds not yet answered: shard, relay, address.
    binds: Vec<(u16, RelayId, SocketAddr)>,
    letters: VecDeque<(u16, u16, Letter)>,
    clients: Vec<(FiveTuple, Client)>,
    tokens: Vec<Vec<u8>>,
    /// A dead shard may leave ports to others that its successor does not know of.
    deaths: u32,
    granted: u32,
    redeemed: u32,
    pairs: u32,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let config = Arc::new(Config { ports: PORTS, ..config() });
        let clients = (0..CLIENTS).map(|index| {
            let name = if index == 8 { ("bob", "hunter2") } else { ("alice", "s3cret") };
            (path(&format!("192.0.2.{}:4000", 100 + index)), Client::new(name.0, name.1))
        });
        let mut storm = Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            clock: Clock { now: Now(1_000_000_000), unix_secs: UNIX_START },
            servers: Vec::new(),
            sockets: BTreeMap::new(),
            binds: Vec::new(),
            letters: VecDeque::new(),
            clients: clients.collect(),
            tokens: Vec::new(),
            deaths: 0,
            granted: 0,
            redeemed: 0,
            pairs: 0,
            config,
        };
        storm.servers = (0..SHARDS).map(|index| storm.server(index)).collect();
        storm
    }

    fn server(&mut self, index: u16) -> Server {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        Server::new(Arc::clone(&self.config), ShardIndex { index, count: SHARDS }, seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.next_u32() as usize % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn step(&mut self) {
        match self.below(20) {
            0..=7 => self.allocate(),
            8..=11 => self.refresh(),
            12 => self.vanish(),
            13..=14 => self.answer_a_bind(),
            15..=16 => self.deliver_a_letter(),
            17..=18 => self.pass(),
            _ if self.one_in(6) => self.die(),
            _ => {}
        }
        self.check();
    }

    /// A signed Allocate with a random choice of what can be asked for.
    fn allocate(&mut self) {
        let even = |r: u8| (AttributeType::EVEN_PORT, vec![r]);
        let family = |kind, family: u8| (kind, vec![family, 0, 0, 0]);
        let wanted: Attributes = match self.below(9) {
            0 => vec![],
            1 => vec![even(0)],
            2 | 3 => vec![even(0x80)],
            4 => vec![family(AttributeType::ADDITIONAL_ADDRESS_FAMILY, 2)],
            5 => vec![family(AttributeType::REQUESTED_ADDRESS_FAMILY, 2), even(0x80)],
            _ => {
                let known = self.tokens.len();
                let token = if known > 0 && !self.one_in(8) {
                    // Mostly fresh ones: they are good for seconds.
                    let place = if self.one_in(4) { self.below(known) } else { known - 1 };
                    self.tokens[place].clone()
                } else {
                    self.random.next_u64().to_be_bytes().to_vec()
                };
                vec![(AttributeType::RESERVATION_TOKEN, token)]
            }
        };
        self.request(Method::Allocate, [vec![udp()], wanted].concat());
    }

    fn refresh(&mut self) {
        let mut wanted = vec![lifetime(if self.one_in(3) { 3600 } else { 0 })];
        if self.one_in(4) {
            let family = 1 + self.below(2) as u8;
            wanted.push((AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0]));
        }
        self.request(Method::Refresh, wanted);
    }

    fn vanish(&mut self) {
        let client = self.below(CLIENTS);
        let (shard, path) = (client as u16 % SHARDS, self.clients[client].0);
        self.servers[usize::from(shard)].path_closed(self.clock, path);
        self.drain(shard);
    }

    fn pass(&mut self) {
        let secs = [1, 1, 2, 5, 20, 41, 601][self.below(7)];
        self.clock.now = self.clock.now.plus_secs(secs);
        self.clock.unix_secs += u64::from(secs);
        for shard in 0..SHARDS {
            // Timers may be late.
            if !self.one_in(4) {
                self.servers[usize::from(shard)].handle_timeout(self.clock);
                self.drain(shard);
            }
        }
    }

    /// A shard panics: its sockets close, its work is lost, the others are told, a new one starts.
    fn die(&mut self) {
        let shard = self.below(usize::from(SHARDS)) as u16;
        self.deaths += 1;
        self.sockets.retain(|_, (owner, _)| *owner != shard);
        self.binds.retain(|(owner, ..)| *owner != shard);
        // Letters on their way to it reach its successor; what it had not sent is gone with it.
        self.servers[usize::from(shard)] = self.server(shard);
        for other in (0..SHARDS).filter(|other| *other != shard) {
            self.servers[usize::from(other)].shard_restarted(self.clock, shard);
            self.drain(other);
        }
    }

    fn request(&mut self, method: Method, wanted: Attributes) {
        let index = self.below(CLIENTS);
        let shard = index as u16 % SHARDS;
        let path = self.clients[index].0;
        if self.clients[index].1.nonce.is_empty() || self.one_in(10) {
            let challenge = self.send(shard, path, &bare(Method::Allocate, vec![udp()])).expect("a challenge");
            // Transaction ids of this client are one byte; a fresh one starts over.
            let Client { username, password, .. } = self.clients[index].1.clone();
            self.clients[index].1 = Client::new(&username, &password);
            self.clients[index].1.nonce = challenge.nonce();
        }
        let bytes = self.clients[index].1.signed(method, wanted);
        let response = self.send(shard, path, &bytes);
        if response.is_some_and(|response| matches!(response.error(), 401 | 438)) {
            self.clients[index].1.nonce.clear();
        }
        if self.one_in(5) {
            self.send(shard, path, &bytes);
        }
    }

    fn send(&mut self, shard: u16, path: FiveTuple, bytes: &[u8]) -> Option<Response> {
        let start = Packet::HEADROOM;
        let mut buffer = vec![0; start + bytes.len() + Packet::TAILROOM];
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, start..start + bytes.len(), IpFields::default());
        let mut reply = ReplyBuffer::new();
        let verdict = self.servers[usize::from(shard)].from_client(self.clock, path, &mut packet, &mut reply);
        let response = match verdict {
            Verdict::Reply { len } => Some(Response(reply[..len].to_vec())),
            _ => None,
        };
        if let Some(response) = &response {
            self.note(response);
        }
        self.drain(shard);
        response
    }

    fn note(&mut self, response: &Response) {
        self.tokens.extend(response.first(AttributeType::RESERVATION_TOKEN));
        if response.is_success() && response.message().method() == Method::Allocate {
            let relayed = AttributeType::XOR_RELAYED_ADDRESS;
            let count = response.message().attributes().filter(|attribute| attribute.kind == relayed).count();
            self.granted += 1;
            self.pairs += u32::from(count == 2);
        }
    }

    fn drain(&mut self, shard: u16) {
        while let Some(effect) = self.servers[usize::from(shard)].next_effect() {
            match effect {
                Effect::BindRelay { relay, local, .. } => self.binds.push((shard, relay, local)),
                Effect::CloseRelay { relay, .. } => {
                    let before = self.sockets.len();
                    self.sockets.retain(|_, socket| *socket != (shard, relay));
                    assert_eq!(self.sockets.len() + 1, before, "closed what was not open, or twice");
                }
                Effect::Send { bytes, .. } => self.note(&Response(bytes.into())),
                Effect::Tell { shard: to, letter } => {
                    assert_ne!(to, shard, "a letter to oneself");
                    self.redeemed += u32::from(matches!(letter, Letter::Lend { port: Some(_), .. }));
                    self.letters.push_back((to, shard, letter));
                }
                Effect::Record(_) => {}
            }
        }
        // Mostly at once, as the real shell does.
        while !self.binds.is_empty() && !self.one_in(3) {
            self.answer_a_bind();
        }
    }

    fn answer_a_bind(&mut self) {
        if self.binds.is_empty() {
            return;
        }
        let place = self.below(self.binds.len());
        let (shard, relay, local) = self.binds.swap_remove(place);
        let taken = self.sockets.contains_key(&local);
        // A live machine never asks for a port that a live machine has; only a death leaves such things behind.
        assert!(!taken || self.deaths > 0, "{local} was asked for twice");
        let result = if taken || self.one_in(12) {
            Err(BindError::PortInUse)
        } else if self.one_in(20) {
            Err([BindError::OutOfCapacity, BindError::UserQuotaReached][self.below(2)])
        } else {
            self.sockets.insert(local, (shard, relay));
            Ok(())
        };
        self.servers[usize::from(shard)].relay_bound(self.clock, relay, result);
        self.drain(shard);
    }

    fn deliver_a_letter(&mut self) {
        if let Some((to, from, letter)) = self.letters.pop_front() {
            self.servers[usize::from(to)].told(self.clock, from, letter);
            self.drain(to);
        }
    }

    fn check(&mut self) {
        self.servers.iter_mut().for_each(Server::check_invariants);
    }

    /// Everything ends: then nothing may be left.
    fn settle(&mut self) {
        for shard in 0..SHARDS {
            self.servers[usize::from(shard)].shut_down(self.clock);
            self.drain(shard);
        }
        while !self.binds.is_empty() || !self.letters.is_empty() {
            self.answer_a_bind();
            self.deliver_a_letter();
            self.check();
        }
        assert_eq!(self.sockets.len(), 0, "sockets are left over: {:?}", self.sockets);
        assert!(self.servers.iter().all(|server| server.allocations() == 0));
        self.check();
    }
}

fn run(seed: u64) -> Storm {
    let mut storm = Storm::new(seed);
    for _ in 0..STEPS {
        storm.step();
    }
    storm.settle();
    storm
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn storm_nothing_is_lost_whatever_is_asked_for() {
    let seeds = match number("HAIRPIN_STORM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HAIRPIN_STORM_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    let (mut granted, mut redeemed, mut pairs, mut deaths) = (0, 0, 0, 0);
    for seed in seeds {
        let storm = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("replay with: HAIRPIN_STORM_SEED={seed} cargo test --test rfc storm");
            std::panic::resume_unwind(panic)
        });
        (granted, redeemed) = (granted + storm.granted, redeemed + storm.redeemed);
        (pairs, deaths) = (pairs + storm.pairs, deaths + storm.deaths);
    }
    println!("{granted} allocations granted, {pairs} of them pairs; {redeemed} ports lent; {deaths} shards died");
    if number("HAIRPIN_STORM_SEED").is_none() {
        // A storm in which nothing happens proves nothing.
        assert!(granted > 500 && pairs > 20 && redeemed > 20 && deaths > 20, "too calm to prove anything");
    }
}
