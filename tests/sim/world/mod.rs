//! The world of one run: clients, peers, network and shell around one clock, until nothing is left to happen.

mod clients;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hairpin::turn::{BindError, Clock, FiveTuple, Now};

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::network::{Happening, MILLISECOND, Network, Weather};
use crate::polite::Polite;
use crate::rude::Rude;
use crate::rules::{FORBIDDEN, PEERS, Rules, address};
use crate::shell::{Out, Shell};
use crate::statistics::Statistics;

const START: u64 = 777_777 * 1_000_000_000 + 123;
const UNIX_START_SECS: u64 = 1_800_000_000;
const SHARDS: u16 = 3;
/// A run that is not over by then goes round in circles.
const HAPPENINGS_MAX: u64 = 100_000;

#[derive(Debug)]
enum Nature {
    Polite(Box<Polite>),
    Rude(Box<Rude>),
}

#[derive(Debug)]
struct Client {
    nature: Nature,
    local: SocketAddr,
    /// How the server sees it.
    path: FiveTuple,
    connection: Option<usize>,
    lives_left: u32,
    active: bool,
    /// The one wake that counts; earlier plans are void.
    wake_at: u64,
}

#[derive(Debug)]
struct Connection {
    path: FiveTuple,
    client: usize,
    open: bool,
    /// Bytes the server has not framed yet.
    received: Vec<u8>,
    last_at_server: u64,
    last_at_client: u64,
}

pub struct World {
    dice: Dice,
    now: u64,
    unix_leap_secs: u64,
    is_calm: bool,
    polite_percent: u64,
    network: Network,
    shell: Shell,
    clients: Vec<Client>,
    by_path: BTreeMap<FiveTuple, usize>,
    connections: Vec<Connection>,
    ledger: Ledger,
    timer_slack: Vec<u64>,
    ports_used: u16,
}

/// What a run is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing fails and all clients are polite: every packet must arrive.
    Calm,
    /// Bad network, failing shell, rude clients only.
    Rude,
    /// The same with polite clients among them.
    Mixed,
}

/// Runs one seed to its end.
pub fn run(seed: u64, kind: Kind) -> Statistics {
    let mut world = World::new(seed, kind);
    world.live();
    world.end();
    world.shell.statistics
}

impl World {
    fn new(seed: u64, kind: Kind) -> Self {
        let mut dice = Dice::new(seed);
        let is_calm = kind == Kind::Calm;
        let (rules, weather) =
            if is_calm { (Rules::calm(), Weather::CALM) } else { (Rules::draw(&mut dice), Weather::draw(&mut dice)) };
        let shell = Shell::new(rules, SHARDS, &mut dice);
        let mut world = Self {
            network: Network::new(weather),
            shell,
            now: START,
            unix_leap_secs: 0,
            is_calm,
            polite_percent: match kind {
                Kind::Calm => 100,
                Kind::Rude => 0,
                Kind::Mixed => 50,
            },
            clients: Vec::new(),
            by_path: BTreeMap::new(),
            connections: Vec::new(),
            ledger: Ledger::default(),
            timer_slack: vec![0; usize::from(SHARDS)],
            ports_used: 0,
            dice,
        };
        for _ in 0..2 + world.dice.below(4) {
            world.add_client();
        }
        world.network.at(START + 1, Happening::PeerSpeaks);
        if !is_calm {
            world.network.at(START + 1, Happening::Mischief);
        }
        world
    }

    fn clock(&self) -> Clock {
        Clock {
            now: Now(self.now),
            unix_secs: UNIX_START_SECS + (self.now - START) / 1_000_000_000 + self.unix_leap_secs,
        }
    }

    /// Everything happens, in order of time; timers run in between, sometimes late.
    fn live(&mut self) {
        for count in 0.. {
            assert!(count < HAPPENINGS_MAX, "the run does not end");
            let timers = (0..SHARDS).filter_map(|shard| {
                let next = self.shell.next_timeout(shard)?;
                Some((next + self.timer_slack[usize::from(shard)], shard))
            });
            let timer = timers.min();
            let happening = self.network.next_time();
            match (timer, happening) {
                (Some((due, shard)), next) if next.is_none_or(|next| due <= next) => {
                    self.now = self.now.max(due);
                    self.shell.handle_timeout(self.clock(), shard);
                    let late = !self.is_calm && self.dice.chance(20);
                    self.timer_slack[usize::from(shard)] = if late { self.dice.below(20_000) * MILLISECOND } else { 0 };
                }
                (_, Some(_)) => {
                    let (time, happening) = self.network.pop().expect("it was there a moment ago");
                    self.now = self.now.max(time);
                    self.happen(time, happening);
                }
                (_, None) => return,
            }
            if self.dice.chance(10) {
                let shard = self.dice.below(u64::from(SHARDS)) as u16;
                self.shell.collect(self.clock(), shard);
            }
            self.carry();
        }
    }

    fn end(&mut self) {
        if self.is_calm {
            self.ledger.assert_settled();
        }
        self.shell.assert_empty();
    }

    fn happen(&mut self, due: u64, happening: Happening) {
        let clock = self.clock();
        match happening {
            Happening::DatagramAtServer { path, bytes } => self.shell.message_from_client(clock, path, &bytes),
            Happening::StreamAtServer { connection, bytes } => self.stream_at_server(connection, &bytes),
            Happening::StreamClosedAtServer { connection } => self.close(connection),
            Happening::DatagramAtClient { path, bytes } => {
                if let Some(client) = self.by_path.get(&path) {
                    self.receive(*client, &bytes);
                }
            }
            Happening::StreamAtClient { connection, bytes } => {
                let Connection { client, open, .. } = self.connections[connection];
                if open && self.clients[client].connection == Some(connection) {
                    self.receive(client, &bytes);
                }
            }
            Happening::AtPeer { from, to, data } => self.at_peer(from, to, data),
            Happening::AtRelay { relayed, peer, data, late } => {
                self.shell.datagram_from_peer(clock, relayed, peer, &data, late);
            }
            Happening::IcmpAtRelay { relayed, peer, what } => self.shell.icmp(clock, relayed, peer, what),
            Happening::AcrossShards { shard, relayed, from, data } => {
                self.shell.datagram_from_shard(clock, shard, relayed, from, &data);
            }
            Happening::BindAnswered { question } => {
                let misfortune = match self.dice.below(100) {
                    _ if self.is_calm => None,
                    0..15 => Some(BindError::PortInUse),
                    15..18 => Some(BindError::OutOfCapacity),
                    18..21 => Some(BindError::UserQuotaReached),
                    _ => None,
                };
                self.shell.answer_bind(clock, question, misfortune);
            }
            Happening::ClientWakes { client, .. } if self.clients[client].wake_at != due => {}
            Happening::ClientWakes { client } => self.client_wakes(client),
            Happening::PeerSpeaks => self.peer_speaks(),
            Happening::Mischief => self.mischief(),
        }
    }

    /// Takes what the shell wants to send and puts it on its way.
    fn carry(&mut self) {
        for out in std::mem::take(&mut self.shell.out) {
            let now = self.now;
            match out {
                Out::ToPeer { from, to, data } => {
                    let copy = || Happening::AtPeer { from, to, data: data.clone() };
                    self.network.send(&mut self.dice, now, copy);
                }
                Out::ToClient { path, bytes, data } => {
                    if let (true, Some((peer, data))) = (self.is_calm, data) {
                        self.ledger.owe(self.by_path[&path], peer, &data);
                    }
                    if path.transport.is_stream() {
                        self.stream_to_client(path, &bytes);
                    } else {
                        let copy = || Happening::DatagramAtClient { path, bytes: bytes.clone() };
                        self.network.send(&mut self.dice, now, copy);
                    }
                }
                Out::AcrossShards { shard, relayed, from, data } => {
                    let delay = self.dice.below(3) * MILLISECOND;
                    self.network.at(now + delay, Happening::AcrossShards { shard, relayed, from, data });
                }
                Out::Ask(question) => {
                    let delay = match self.dice.below(20) {
                        _ if self.is_calm => 0,
                        0 => 30_000,
                        1..=8 => self.dice.below(3000),
                        _ => 0,
                    };
                    self.network.at(now + delay * MILLISECOND, Happening::BindAnswered { question });
                }
            }
        }
    }

    fn at_peer(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        self.ledger.check(&data);
        assert!(!FORBIDDEN.iter().any(|text| address(text).ip() == to.ip()), "{to} must never be reached");
        if !self.is_calm && self.dice.chance(15) {
            // A router on the way, or the peer's machine, has something to say, and sometimes a lot.
            let kinds = [(3, 3), (3, 4), (3, 1), (11, 0), (8, 0), (1, 4), (2, 0), (1, 0), (128, 0)];
            let (kind, code) = self.dice.pick(&kinds);
            let peer = if self.dice.chance(20) { SocketAddr::new(to.ip(), 0) } else { to };
            for _ in 0..self.dice.pick(&[1, 1, 3, 12]) {
                let what = (kind, code, 1400);
                self.network.at(self.now, Happening::IcmpAtRelay { relayed: from, peer, what });
            }
        }
        let is_there = PEERS.iter().any(|text| address(text) == to);
        if is_there && (self.is_calm || self.dice.chance(60)) {
            let copy = || Happening::AtRelay { relayed: from, peer: to, data: data.clone(), late: false };
            self.network.send(&mut self.dice, self.now, copy);
        }
    }

    fn peer_speaks(&mut self) {
        let late = !self.is_calm && self.dice.chance(10);
        let data = self.ledger.payload(&mut self.dice);
        // Polite clients forget a permission a little before the server does.
        if !self.is_calm && self.dice.chance(30) {
            self.speak_at_the_edge(data);
        } else if let Some(relayed) = self.any_relayed() {
            let mut peer = address(self.dice.pick(&PEERS));
            if self.dice.chance(20) {
                peer = address(self.dice.pick(&FORBIDDEN));
            }
            if peer.is_ipv6() == relayed.is_ipv6() && !self.is_calm && self.dice.chance(15) {
                // Somebody answers what was never sent, or long ago.
                let what = (self.dice.pick(&[1, 3, 11]), 0, 0);
                self.network.at(self.now, Happening::IcmpAtRelay { relayed, peer, what });
            }
            if peer.is_ipv6() == relayed.is_ipv6() {
                self.network.at(self.now, Happening::AtRelay { relayed, peer, data, late });
            }
        }
        if self.is_anybody_busy() {
            let pause = (1 + self.dice.below(20_000)) * MILLISECOND;
            self.network.at(self.now + pause, Happening::PeerSpeaks);
        }
    }

    fn any_relayed(&mut self) -> Option<SocketAddr> {
        let relayed = self.shell.relayed_addresses();
        (!relayed.is_empty()).then(|| self.dice.pick(&relayed))
    }

    /// A permitted peer sends in the last nanosecond of its permission and in the first without it.
    fn speak_at_the_edge(&mut self, data: Vec<u8>) {
        let edges = self.shell.model.permission_edges();
        if edges.is_empty() {
            return;
        }
        let (relayed, ip, expires) = self.dice.pick(&edges);
        let port = self.dice.pick(&[7000, 7001]);
        let peer = SocketAddr::new(ip, port);
        for time in [expires - 1, expires] {
            let data = data.clone();
            let happening = Happening::AtRelay { relayed, peer, data, late: false };
            self.network.at(time.max(self.now), happening);
        }
    }

    fn mischief(&mut self) {
        let clock = self.clock();
        let victim = self.dice.below(self.clients.len() as u64) as usize;
        let connection = self.clients[victim].connection;
        match (self.dice.below(15), connection) {
            (12, _) => self.shell.mirror.state().is_refusing ^= true,
            (13 | 14, _) => {
                let place = self.dice.below(4) as usize;
                self.shell.mirror.state().forget((place < 3).then_some(place));
                self.shell.statistics.mirror_forgot += 1;
            }
            (0..=4, _) => {
                let mut rules = self.shell.model.rules.clone();
                rules.amend(&mut self.dice);
                self.shell.reload(clock, rules);
            }
            (5, None) => self.rebind(victim),
            (5 | 6, Some(connection)) => self.close(connection),
            // Not STUN, not ChannelData: framing is lost, and with it the connection.
            (7, Some(connection)) => self.stream_to_server(connection, &[0xFF, 0, 0, 0]),
            (8, _) => self.now += self.dice.below(900_000) * MILLISECOND,
            (9, _) => self.unix_leap_secs += self.dice.below(4000),
            (10, _) if self.dice.chance(10) => {
                let shard = self.dice.below(u64::from(SHARDS)) as u16;
                self.shell.drain(clock, shard);
            }
            _ => {}
        }
        if self.is_anybody_busy() {
            let pause = (1 + self.dice.below(300_000)) * MILLISECOND;
            self.network.at(self.now + pause, Happening::Mischief);
        } else if self.dice.chance(30) {
            for shard in 0..SHARDS {
                self.shell.shut_down(clock, shard);
            }
        }
    }
}
