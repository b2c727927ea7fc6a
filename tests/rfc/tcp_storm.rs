//! TCP allocations in every order of events, from seeds: Connect, peers, binds, ends and time, with the shell answering
//! late or never. After each step the machine's tables agree, limits hold, and what it asks of the shell makes sense; in
//! the end nothing is left.

use std::collections::BTreeMap;

use hairpin::stun::{AttributeType, Method};
use hairpin::turn::{
    Config, ConnectError, ConnectionId, Event, FiveTuple, RelayId, RelayTransports, TcpRelays, Transport,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::client::{Client, bare, lifetime, tcp};
use crate::tcp::tcp_config;
use crate::world::{World, path_over, signed_with_peers};

const SEEDS: u64 = 60;
const STEPS: u32 = 400;
const CLIENTS: u16 = 3;
const CONNECTIONS_MAX: usize = 3;

/// What the shell would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Connecting,
    Waiting,
    Bound,
}

struct Storm {
    world: World,
    dice: ChaCha8Rng,
    clients: Vec<(FiveTuple, Client)>,
    relays: BTreeMap<FiveTuple, RelayId>,
    sockets: BTreeMap<ConnectionId, Socket>,
    /// Of fresh connections.
    next_port: u16,
    bound: u32,
}

fn config() -> Config {
    let mut config = tcp_config();
    config.nonces.lifetime_secs = 1_000_000;
    let tcp = config.relay_transports.tcp.take().expect("on");
    let tcp = TcpRelays { connections_per_allocation: CONNECTIONS_MAX, ..tcp };
    Config { relay_transports: RelayTransports { udp: true, tcp: Some(tcp) }, ..config }
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut world = World::with(config());
        world.may_send_several = true;
        let clients = (0..CLIENTS).map(|number| {
            let path = path_over(Transport::Tcp, &format!("198.51.100.77:{}", 4000 + number));
            let client = if number == 0 { world.client(path, "bob", "hunter2") } else { world.alice(path) };
            (path, client)
        });
        let clients = clients.collect();
        let dice = ChaCha8Rng::seed_from_u64(seed);
        let (relays, sockets) = (BTreeMap::new(), BTreeMap::new());
        Self { world, dice, clients, relays, sockets, next_port: 5000, bound: 0 }
    }

    fn roll(&mut self, sides: u32) -> u32 {
        self.dice.next_u32() % sides
    }

    fn peer(&mut self) -> String {
        let (host, port) = (7 + self.roll(2), 20_000 + self.roll(4));
        format!("198.51.100.{host}:{port}")
    }

    /// One of those in this stage, or of all.
    fn any_socket(&mut self, stage: Option<Socket>) -> Option<ConnectionId> {
        let fitting = self.sockets.iter().filter(|(_, is)| stage.is_none_or(|stage| stage == **is));
        let fitting: Vec<ConnectionId> = fitting.map(|(id, _)| *id).collect();
        let place = self.dice.next_u32() as usize % fitting.len().max(1);
        fitting.get(place).copied()
    }

    fn step(&mut self) {
        let who = self.roll(CLIENTS.into()) as usize;
        let (path, mut client) = self.clients[who].clone();
        match self.roll(14) {
            0 => drop(self.world.send(path, &client.signed(Method::Allocate, vec![tcp()]))),
            1 if self.roll(4) == 0 => drop(self.world.send(path, &client.signed(Method::Refresh, vec![lifetime(0)]))),
            2 if self.roll(6) == 0 => self.world.server.path_closed(self.world.clock, path),
            3..=5 => {
                let peer = self.peer();
                drop(self.world.send(path, &signed_with_peers(&mut client, Method::Connect, vec![], &[&peer])));
            }
            6 => {
                let peer = self.peer();
                self.world.permit(path, &mut client, &[&peer]);
            }
            7 => self.accept(path),
            8 | 9 => self.answer_connect(),
            10..=12 => self.bind(),
            _ => {
                let secs = [1, 7, 29, 31, 400][self.roll(5) as usize];
                self.world.pass_without_timers(secs);
                if self.roll(3) > 0 {
                    self.world.server.handle_timeout(self.world.clock);
                }
            }
        }
        self.clients[who].1 = client;
        self.settle();
    }

    fn accept(&mut self, path: FiveTuple) {
        let peer = self.peer().parse().expect("an address");
        if let Some(relay) = self.relays.get(&path)
            && let Some(id) = self.world.server.peer_accepted(self.world.clock, *relay, peer)
        {
            assert_eq!(self.sockets.insert(id, Socket::Waiting), None, "an id used twice");
        }
    }

    fn answer_connect(&mut self) {
        let Some(id) = self.any_socket(Some(Socket::Connecting)) else { return };
        let result = [Ok(()), Ok(()), Err(ConnectError::Failed)][self.roll(3) as usize];
        match result {
            Ok(()) => drop(self.sockets.insert(id, Socket::Waiting)),
            Err(_) => drop(self.sockets.remove(&id)),
        }
        self.world.server.peer_connected(self.world.clock, id, result);
    }

    /// On a fresh connection, by its owner or another, of an id that is waiting or not.
    fn bind(&mut self) {
        let stage = (self.roll(4) > 0).then_some(Socket::Waiting);
        let Some(id) = self.any_socket(stage) else { return };
        self.next_port = self.next_port.checked_add(1).expect("fewer steps than ports");
        let fresh = path_over(Transport::Tcp, &format!("198.51.100.77:{}", self.next_port));
        let names = [("alice", "s3cret"), ("bob", "hunter2")];
        let (name, password) = names[self.roll(2) as usize];
        let mut client = Client::new(name, password);
        client.nonce = self.world.exchange(fresh, &bare(Method::ConnectionBind, vec![])).nonce();
        let attribute = (AttributeType::CONNECTION_ID, id.0.to_be_bytes().to_vec());
        let seen = self.world.send(fresh, &client.signed(Method::ConnectionBind, vec![attribute]));
        match seen.expect("an answer") {
            crate::world::Seen::Bound(bound, response) => {
                assert_eq!((bound, response.error()), (id, 0));
                assert_eq!(self.sockets.insert(id, Socket::Bound), Some(Socket::Waiting), "bound what does not wait");
                self.bound += 1;
                self.world.server.peer_relayed(self.world.clock, id, 10, 1);
                if self.roll(3) == 0 {
                    self.sockets.remove(&id);
                    self.world.server.peer_closed(id);
                }
            }
            other => assert!(matches!(other.response().error(), 400 | 441)),
        }
    }

    /// Takes the effects, and holds them against what the shell has.
    fn settle(&mut self) {
        self.world.drain_effects();
        for asked in std::mem::take(&mut self.world.connects) {
            assert_eq!(self.sockets.insert(asked.connection, Socket::Connecting), None, "an id used twice");
        }
        for id in std::mem::take(&mut self.world.disconnected) {
            assert!(self.sockets.remove(&id).is_some(), "closed what is not open");
        }
        for event in std::mem::take(&mut self.world.events) {
            match event {
                Event::Allocated { relay, path, .. } => drop(self.relays.insert(path, relay)),
                Event::Ended { path, .. } => drop(self.relays.remove(&path)),
                _ => {}
            }
        }
        self.world.server.check_invariants();
        assert_eq!(self.world.server.peer_connections(), self.sockets.len(), "{:?}", self.sockets);
        assert!(self.sockets.len() <= self.relays.len() * CONNECTIONS_MAX, "more than allowed");
        let counters = self.world.server.counters();
        let ended: u64 = counters.peer_connections_ended.iter().sum();
        assert_eq!(counters.peer_connections_begun - ended, self.sockets.len() as u64);
        if self.sockets.values().any(|socket| *socket != Socket::Bound) {
            assert!(self.world.server.next_timeout().is_some(), "somebody would wait for ever");
        }
    }
}

#[test]
fn connections_survive_any_order_of_events() {
    let mut bound = 0;
    for seed in 0..SEEDS {
        let mut storm = Storm::new(seed);
        for step in 0..STEPS {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| storm.step()));
            assert!(outcome.is_ok(), "seed {seed}, step {step}");
        }
        storm.world.server.shut_down(storm.world.clock);
        storm.settle();
        assert_eq!((storm.sockets.len(), storm.world.server.allocations()), (0, 0));
        bound += storm.bound;
    }
    assert!(bound > 200, "the dice have found little to do: {bound}");
}
