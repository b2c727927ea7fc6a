//! Allocations of every kind over three shards, at random: pairs, reservations, tokens shown elsewhere, refusals,
//! late binds, late letters, clients that move with their tickets or vanish, datagrams passed on late or lost, shards that
//! die. What has to hold is not who gets what but that
//! nothing is lost: no port twice, no port gone, every socket closed once.
//!
//! `HAIRPIN_STORM_SEED=7 cargo test --test rfc storm` runs one seed, `HAIRPIN_STORM_SEEDS=1000` so many.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    BindError, Clock, Config, Effect, FiveTuple, IpFields, Letter, MobilityKey, Now, Packet, PortRange, RelayId,
    ReplyBuffer, Server, ShardIndex, Verdict,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::client::{Attributes, Client, Response, bare, data, lifetime, udp};
use crate::world::{PEER, UNIX_START, config, path, send_indication, signed_with_peers};

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
    /// Each client's latest.
    tickets: Vec<Option<Vec<u8>>>,
    /// Datagrams that one shard passes on to another: to whom, from whom, where the client is.
    parcels: VecDeque<(u16, u16, FiveTuple, Vec<u8>)>,
    lost: u32,
    moved: u32,
    passed_on: u32,
    /// A dead shard may leave ports to others that its successor does not know of.
    deaths: u32,
    granted: u32,
    redeemed: u32,
    pairs: u32,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let config = Arc::new(Config { ports: PORTS, mobility: Some(MobilityKey([3; 32])), ..config() });
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
            tickets: vec![None; CLIENTS],
            parcels: VecDeque::new(),
            lost: 0,
            moved: 0,
            passed_on: 0,
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
        match self.below(28) {
            0..=7 => self.allocate(),
            8..=11 => self.refresh(),
            12 => self.vanish(),
            13..=14 => self.answer_a_bind(),
            15..=16 => self.deliver_a_letter(),
            17..=18 => self.pass(),
            19..=21 => self.roam(),
            22..=24 => self.send_data(),
            25..=26 => self.deliver_a_parcel(),
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
        let ticket = if self.one_in(2) { vec![(AttributeType::MOBILITY_TICKET, vec![])] } else { vec![] };
        let client = self.below(CLIENTS);
        self.request(client, Method::Allocate, [vec![udp()], wanted, ticket].concat());
    }

    /// The kernel's choice.
    fn shard_of(path: FiveTuple) -> u16 {
        path.client.port() % SHARDS
    }

    /// A client comes from another address, which somebody else may have had, and shows its ticket.
    fn roam(&mut self) {
        let client = self.below(CLIENTS);
        let port = 4000 + self.below(9);
        let host = 100 + if self.one_in(4) { self.below(CLIENTS) } else { client };
        let there = path(&format!("192.0.2.{host}:{port}"));
        if self.clients.iter().any(|(here, _)| *here == there) {
            return;
        }
        self.clients[client].0 = there;
        self.clients[client].1.nonce.clear();
        if let Some(ticket) = self.tickets[client].clone() {
            self.request(client, Method::Refresh, vec![(AttributeType::MOBILITY_TICKET, ticket)]);
        }
    }

    fn send_data(&mut self) {
        let client = self.below(CLIENTS);
        let permit = signed_with_peers(&mut self.clients[client].1, Method::CreatePermission, vec![], &[PEER]);
        let here = self.clients[client].0;
        self.send(client, here, &permit);
        self.send(client, here, &send_indication(PEER, vec![data(b"x")]));
    }

    fn refresh(&mut self) {
        let mut wanted = vec![lifetime(if self.one_in(3) { 3600 } else { 0 })];
        if self.one_in(4) {
            let family = 1 + self.below(2) as u8;
            wanted.push((AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0]));
        }
        let client = self.below(CLIENTS);
        self.request(client, Method::Refresh, wanted);
    }

    fn vanish(&mut self) {
        let client = self.below(CLIENTS);
        let path = self.clients[client].0;
        let shard = Self::shard_of(path);
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
        // Letters on their way to it reach its successor; what it has sent arrives before the news of its death.
        while let Some(place) = self.letters.iter().position(|(_, from, _)| *from == shard) {
            let (to, from, letter) = self.letters.remove(place).expect("found a moment ago");
            self.servers[usize::from(to)].told(self.clock, from, letter);
            self.drain(to);
        }
        self.servers[usize::from(shard)] = self.server(shard);
        for other in (0..SHARDS).filter(|other| *other != shard) {
            self.servers[usize::from(other)].shard_restarted(self.clock, shard);
            self.drain(other);
        }
    }

    fn request(&mut self, index: usize, method: Method, wanted: Attributes) {
        let path = self.clients[index].0;
        if self.clients[index].1.nonce.is_empty() || self.one_in(10) {
            let Some(challenge) = self.send(index, path, &bare(Method::Allocate, vec![udp()])) else {
                return; // on its way to another shard, or lost there
            };
            // Transaction ids of this client are one byte; a fresh one starts over.
            let Client { username, password, .. } = self.clients[index].1.clone();
            self.clients[index].1 = Client::new(&username, &password);
            self.clients[index].1.nonce = challenge.nonce();
        }
        let bytes = self.clients[index].1.signed(method, wanted);
        let response = self.send(index, path, &bytes);
        if response.is_some_and(|response| matches!(response.error(), 401 | 438)) {
            self.clients[index].1.nonce.clear();
        }
        if self.one_in(5) {
            self.send(index, path, &bytes);
        }
    }

    /// What comes back at once.
    fn send(&mut self, client: usize, path: FiveTuple, bytes: &[u8]) -> Option<Response> {
        let response = self.serve(Self::shard_of(path), None, path, bytes);
        self.keep_ticket(client, response.as_ref());
        response
    }

    fn keep_ticket(&mut self, client: usize, response: Option<&Response>) {
        let told = response.and_then(|response| response.first(AttributeType::MOBILITY_TICKET));
        self.tickets[client] = told.or(self.tickets[client].take());
    }

    fn deliver_a_parcel(&mut self) {
        let Some((to, from, path, bytes)) = self.parcels.pop_front() else { return };
        if self.one_in(10) {
            self.lost += 1;
            return;
        }
        let response = self.serve(to, Some(from), path, &bytes);
        if let Some(client) = self.clients.iter().position(|(here, _)| *here == path) {
            self.keep_ticket(client, response.as_ref());
        }
    }

    fn serve(&mut self, shard: u16, carrier: Option<u16>, path: FiveTuple, bytes: &[u8]) -> Option<Response> {
        let start = Packet::HEADROOM;
        let mut buffer = vec![0; start + bytes.len() + Packet::TAILROOM];
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, start..start + bytes.len(), IpFields::default());
        let mut reply = ReplyBuffer::new();
        let server = &mut self.servers[usize::from(shard)];
        let verdict = match carrier {
            None => server.from_client(self.clock, path, &mut packet, &mut reply),
            Some(carrier) => server.from_carrier(self.clock, carrier, path, &mut packet, &mut reply),
        };
        if let Verdict::NotMine { shard: to } = verdict {
            assert_eq!(carrier, None, "carried once already");
            assert_ne!(to, shard);
            self.parcels.push_back((to, shard, path, bytes.to_vec()));
            self.passed_on += 1;
            self.drain(shard);
            // Mostly at once.
            while !self.one_in(3) && !self.parcels.is_empty() {
                self.deliver_a_parcel();
            }
            return None;
        }
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
        let is_move = response.message().method() == Method::Refresh;
        self.moved += u32::from(is_move && response.first(AttributeType::MOBILITY_TICKET).is_some());
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
                Effect::Send { to, bytes } => {
                    let response = Response(bytes.into());
                    self.note(&response);
                    if let Some(client) = self.clients.iter().position(|(here, _)| *here == to) {
                        self.keep_ticket(client, Some(&response));
                    }
                }
                Effect::Tell { shard: to, letter } => {
                    assert_ne!(to, shard, "a letter to oneself");
                    self.redeemed += u32::from(matches!(letter, Letter::Lend { port: Some(_), .. }));
                    self.letters.push_back((to, shard, letter));
                }
                Effect::ConnectPeer { .. } | Effect::ClosePeer { .. } | Effect::Bound { .. } => {
                    panic!("nobody asks for TCP relays")
                }
                Effect::FindKey { .. } => panic!("no key is kept elsewhere"),
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
        while !self.binds.is_empty() || !self.letters.is_empty() || !self.parcels.is_empty() {
            self.deliver_a_parcel();
            self.answer_a_bind();
            self.deliver_a_letter();
            self.check();
        }
        assert_eq!(self.sockets.len(), 0, "sockets are left over: {:?}", self.sockets);
        assert!(self.servers.iter().all(|server| server.allocations() == 0));
        let carried: usize = self.servers.iter().map(Server::paths_carried).sum();
        // Only of what was lost can nobody say that it is over.
        assert!(carried <= self.lost as usize, "{carried} paths are passed on for nobody, {} parcels lost", self.lost);
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
    let (mut moved, mut passed_on) = (0, 0);
    for seed in seeds {
        let storm = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("replay with: HAIRPIN_STORM_SEED={seed} cargo test --test rfc storm");
            std::panic::resume_unwind(panic)
        });
        (granted, redeemed) = (granted + storm.granted, redeemed + storm.redeemed);
        (pairs, deaths) = (pairs + storm.pairs, deaths + storm.deaths);
        (moved, passed_on) = (moved + storm.moved, passed_on + storm.passed_on);
    }
    println!("{granted} allocations granted, {pairs} of them pairs; {redeemed} ports lent; {deaths} shards died");
    println!("{moved} times a client moved; {passed_on} datagrams passed on");
    if number("HAIRPIN_STORM_SEED").is_none() {
        // A storm in which nothing happens proves nothing.
        assert!(
            granted > 500 && pairs > 20 && redeemed > 20 && deaths > 20 && moved > 100,
            "too calm to prove anything"
        );
    }
}
