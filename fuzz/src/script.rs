//! Scripts for two shards, their clients and everything around them.
//!
//! Input: steps, each a byte that says which ([`Step`]) and what it takes; whatever is missing at the end is no step.
//! After each step the machines agree with themselves, and with what this file knows: which sockets are open, whom
//! clients were granted, whose a relay is. At the end everything is closed, and nothing may be left.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use arbitrary::{Result, Unstructured};
use hairpin::turn::{
    BindError, ConnectError, ConnectionId, Effect, Event, FiveTuple, Letter, PeerTransport, RedirectWhen, RelayId,
    ShortTermUsers, TimeLimitedForm, Transport,
};

use crate::machine::{Answer, Machine, server_address};
use crate::requests::{self, REALM};
use crate::step::Step;
use crate::wire::{self, Class, Parsed};

const SHARDS: u16 = 2;
const CLIENTS: usize = 9;
/// Has an access token. The one behind it is a guest.
const TOKEN_HOLDER: usize = 7;
const GUEST: usize = 8;
const STEPS_MAX: usize = 96;

struct Client {
    /// The shard that its packets come to.
    shard: u16,
    path: FiveTuple,
    /// Where else it has been.
    left: Vec<FiveTuple>,
    username: String,
    password: String,
    nonce: Vec<u8>,
    requests: u8,
    last: Vec<u8>,
    /// Addresses it was ever granted a permission for.
    granted: HashSet<IpAddr>,
}

struct World {
    machine: Machine,
    clients: Vec<Client>,
    /// What the kernel would know: who has bound what.
    sockets: BTreeMap<(SocketAddr, bool), (u16, RelayId)>,
    binds: Vec<(u16, RelayId, (SocketAddr, bool))>,
    letters: VecDeque<(u16, u16, Letter)>,
    /// By whom, by user name, it was allocated; names are used once, except by a shard that died.
    owners: HashMap<(u16, RelayId), String>,
    /// Connections to peers, asked for and made.
    connecting: Vec<(u16, ConnectionId)>,
    connected: Vec<(u16, ConnectionId)>,
    tickets: Vec<Vec<u8>>,
    connections: Vec<[u8; 4]>,
    /// Relayed addresses that were given out, latest last; peers, too.
    relayed: Vec<SocketAddr>,
    tokens: Vec<Vec<u8>>,
    /// A shard that died leaves ports to others that its successor does not know of.
    has_died: bool,
    denies_nine: bool,
}

/// Runs one script to its end.
pub fn run(bytes: &[u8]) {
    let mut world = World::new();
    let mut input = Unstructured::new(bytes);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || world.step(&mut input).is_err() {
            break;
        }
        world.check();
    }
    world.settle();
}

impl World {
    fn new() -> Self {
        let client = |number: usize| {
            let transport = Transport::ALL[number % Transport::ALL.len()];
            let ip = match number {
                4 => "[2001:db8::99]".to_owned(),
                GUEST => "198.18.9.1".to_owned(),
                _ => format!("198.18.0.{number}"),
            };
            let client = format!("{ip}:{}", 1000 + number).parse().expect("an address");
            let (username, password) = match number {
                0 | 1 | 4 | 6 => ("alice".to_owned(), "s3cret".to_owned()),
                2 => ("bob".to_owned(), "hunter2".to_owned()),
                TOKEN_HOLDER => ("north".to_owned(), String::new()),
                GUEST => ("guest".to_owned(), String::new()),
                _ => {
                    let username = format!("{}:carol", 1_800_050_000 + number);
                    let password = TimeLimitedForm::default().password(b"a secret of the fuzz targets", &username);
                    (username, password)
                }
            };
            Client {
                shard: number as u16 % SHARDS,
                path: FiveTuple { transport, client, server: server_address(number == 4) },
                left: Vec::new(),
                username,
                password,
                nonce: Vec::new(),
                requests: 0,
                last: Vec::new(),
                granted: HashSet::new(),
            }
        };
        Self {
            machine: Machine::new(SHARDS),
            clients: (0..CLIENTS).map(client).collect(),
            sockets: BTreeMap::new(),
            binds: Vec::new(),
            letters: VecDeque::new(),
            owners: HashMap::new(),
            relayed: Vec::new(),
            tokens: Vec::new(),
            connecting: Vec::new(),
            connected: Vec::new(),
            tickets: Vec::new(),
            connections: Vec::new(),
            has_died: false,
            denies_nine: false,
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let step = usize::from(input.arbitrary::<u8>()?);
        match Step::ALL[step % Step::ALL.len()] {
            Step::Request => self.request(input)?,
            Step::Retransmit => {
                let client = self.client(input)?;
                let last = self.clients[client].last.clone();
                self.says(client, last);
            }
            Step::Send => {
                let client = self.client(input)?;
                let message = requests::send_indication(input, &self.relayed)?;
                self.says(client, message);
            }
            Step::ChannelData => {
                let client = self.client(input)?;
                let (number, len) = input.arbitrary::<(u8, u8)>()?;
                let is_padded = self.clients[client].path.transport.is_stream();
                let data = vec![len; usize::from(len)];
                self.says(client, wire::channel_data(0x4000 + u16::from(number % 5), &data, is_padded));
            }
            Step::Bytes => {
                let client = self.client(input)?;
                let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
                let message = input.bytes(len)?.to_vec();
                self.says(client, message);
            }
            Step::FromPeer => self.a_peer_sends(input)?,
            Step::Icmp => {
                let ((shard, relay), peer) = (self.relay(input, false)?, self.peer(input)?);
                let (kind, code, mtu) = input.arbitrary::<(u8, u8, u16)>()?;
                let clock = self.machine.clock;
                self.server(shard).from_icmp(clock, relay, peer, kind % 16, code % 8, mtu.into());
            }
            Step::Pass => {
                let choice = input.arbitrary::<u8>()?;
                self.machine.pass([0, 1, 2, 5, 31, 41, 290, 310, 601, 3601][usize::from(choice & 0x3F) % 10]);
                // Timers may be late.
                for shard in (0..SHARDS).filter(|shard| choice & 0x40 << shard == 0) {
                    let clock = self.machine.clock;
                    self.server(shard).handle_timeout(clock);
                    assert!(self.server(shard).next_timeout().is_none_or(|next| next > clock.now));
                }
            }
            Step::Bound => {
                let (place, result) = input.arbitrary::<(u8, u8)>()?;
                self.answer_a_bind(place, result);
            }
            Step::Letter => self.deliver_a_letter(),
            Step::PathClosed => {
                let client = self.client(input)?;
                let (shard, path) = (self.clients[client].shard, self.clients[client].path);
                let clock = self.machine.clock;
                self.server(shard).path_closed(clock, path);
            }
            Step::Restart => self.restart(u16::from(input.arbitrary::<u8>()?) % SHARDS),
            Step::Configure => self.configure(input.arbitrary::<u8>()?),
            Step::Move => {
                let client = self.client(input)?;
                let choice = input.arbitrary::<u8>()?;
                self.moves(client, choice);
            }
            Step::Connected => {
                let (place, result) = input.arbitrary::<(u8, u8)>()?;
                self.answer_a_connect(place, result);
            }
            Step::Accept => {
                let ((shard, relay), peer) = (self.relay(input, true)?, self.peer(input)?);
                let clock = self.machine.clock;
                let accepted = self.server(shard).peer_accepted(clock, relay, peer);
                self.connected.extend(accepted.map(|connection| (shard, connection)));
            }
            Step::PeerCloses => {
                let place = usize::from(input.arbitrary::<u8>()?);
                if !self.connected.is_empty() {
                    let (shard, connection) = self.connected.swap_remove(place / 2 % self.connected.len());
                    let clock = self.machine.clock;
                    self.server(shard).peer_relayed(clock, connection, 3, 4);
                    self.server(shard).peer_closed(connection);
                }
            }
        }
        self.drain();
        Ok(())
    }

    fn server(&mut self, shard: u16) -> &mut hairpin::turn::Server {
        &mut self.machine.servers[usize::from(shard)]
    }

    /// To another address or connection, whose packets may come to another shard.
    fn moves(&mut self, client: usize, choice: u8) {
        let moving = &mut self.clients[client];
        moving.left.push(moving.path);
        moving.path.client.set_port(1100 + 64 * client as u16 + moving.left.len() as u16 % 64);
        moving.path.transport = Transport::ALL[usize::from(choice) % Transport::ALL.len()];
        moving.shard = u16::from(choice >> 2) % SHARDS;
        moving.nonce.clear();
    }

    /// Who is there, or was.
    fn client_at(&self, path: FiveTuple) -> &Client {
        let is_there = |client: &&Client| client.path == path || client.left.contains(&path);
        self.clients.iter().find(is_there).expect("nobody is there")
    }

    /// Whether it, or somebody of its name, was ever let in.
    fn has_granted(&self, client: &Client, ip: IpAddr) -> bool {
        let same = |other: &&Client| other.username == client.username;
        self.clients.iter().filter(same).any(|other| other.granted.contains(&ip))
    }

    fn answer_a_connect(&mut self, place: u8, result: u8) {
        if self.connecting.is_empty() {
            return;
        }
        let (shard, connection) = self.connecting.swap_remove(usize::from(place) % self.connecting.len());
        let result = match result % 8 {
            6 => Err(ConnectError::Failed),
            7 => Err(ConnectError::OutOfCapacity),
            _ => Ok(()),
        };
        self.connected.extend(result.is_ok().then_some((shard, connection)));
        let clock = self.machine.clock;
        self.server(shard).peer_connected(clock, connection, result);
    }

    fn client(&self, input: &mut Unstructured<'_>) -> Result<usize> {
        Ok(usize::from(input.arbitrary::<u8>()?) % CLIENTS)
    }

    fn peer(&self, input: &mut Unstructured<'_>) -> Result<SocketAddr> {
        Ok(requests::peer(input.arbitrary::<u8>()?, &self.relayed))
    }

    /// One of those that have a socket, of UDP or of TCP; without any, one that never was.
    fn relay(&self, input: &mut Unstructured<'_>, is_tcp: bool) -> Result<(u16, RelayId)> {
        let place = usize::from(input.arbitrary::<u8>()?);
        let nobody = (0, RelayId::from_token(place as u64));
        let bound = || self.sockets.iter().filter(|((_, of_tcp), _)| *of_tcp == is_tcp).map(|(_, relay)| *relay);
        Ok(bound().nth(place % bound().count().max(1)).unwrap_or(nobody))
    }

    /// Byte by byte: who, which method, how (see [`requests`]), how many attributes, the attributes. With bit 6 of
    /// "how" the shell leaves what the machine asks of it for later.
    fn request(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let client = self.client(input)?;
        let (method, how) = input.arbitrary::<(u8, u8)>()?;
        let is_bind = requests::METHODS[usize::from(method) % requests::METHODS.len()] == requests::CONNECTION_BIND;
        // It comes over a connection of its own.
        let control = (self.clients[client].shard, self.clients[client].path);
        if is_bind && how & 0x10 != 0 && control.1.transport.is_stream() {
            self.moves(client, if control.0 == 0 { 1 } else { 5 });
        }
        if self.clients[client].nonce.is_empty() || how & 0x10 != 0 {
            let (shard, path) = (self.clients[client].shard, self.clients[client].path);
            self.clients[client].nonce = self.machine.nonce(shard, path);
            self.drain();
        }
        let asking = &mut self.clients[client];
        asking.requests = asking.requests.wrapping_add(1);
        let number = asking.requests;
        let (username, password, nonce) = (asking.username.clone(), asking.password.clone(), asking.nonce.clone());
        let Self { relayed, tokens, tickets, connections, .. } = &*self;
        let known = requests::Known { relayed, tokens, tickets, connections };
        let token = (client == TOKEN_HOLDER).then(requests::access_token);
        let token = token.as_ref().map(|(token, key)| (&token[..], &key[..]));
        let signer = requests::Signer { username: &username, password: &password, nonce: &nonce, token };
        let message = match client {
            GUEST => requests::unsigned(input, number, method, &known)?,
            _ => requests::signed(input, number, method, how, &signer, &known)?,
        };
        self.clients[client].last.clone_from(&message);
        self.says(client, message);
        self.drain();
        if is_bind && how & 0x10 != 0 && control.1.transport.is_stream() {
            // What was asked for over the connection goes on over it.
            let Client { shard, path, left, nonce, .. } = &mut self.clients[client];
            left.push(*path);
            (*shard, *path) = control;
            nonce.clear();
        }
        while how & 0x40 == 0 && !self.binds.is_empty() {
            self.answer_a_bind(0, 0);
            self.drain();
        }
        Ok(())
    }

    fn says(&mut self, client: usize, message: Vec<u8>) {
        let Client { mut shard, path, .. } = self.clients[client];
        let mut answer = self.machine.client_says(shard, path, &message);
        if let Answer::NotMine(other) = answer {
            assert!(other != shard && other < SHARDS, "a message for shard {other}");
            answer = if path.transport.is_stream() {
                // The connection stays there.
                self.clients[client].shard = other;
                self.machine.client_says(other, path, &message)
            } else {
                self.machine.carrier_says(other, shard, path, &message)
            };
            shard = other;
        }
        match answer {
            Answer::NotMine(_) => {}
            Answer::Bound(reply, connection) => {
                assert!(path.transport.is_stream() && self.connected.contains(&(shard, connection)));
                self.answered(client, &message, &reply);
                let choice = path.transport as u8 | (self.clients[client].shard as u8) << 2;
                self.moves(client, choice);
            }
            Answer::Reply(reply) => self.answered(client, &message, &reply),
            Answer::ToPeer(relay, to, _) => {
                let name = &self.clients[client].username;
                assert_eq!(self.owners.get(&(shard, relay)), Some(name), "data left from somebody else's relay");
                self.check_reach(client, to.ip());
            }
            Answer::ToRelay(to, relayed, from, data) => {
                assert!(to != shard && to < SHARDS, "a packet for shard {to}");
                self.check_reach(client, relayed.ip());
                if let Answer::ToClient(receiver, bytes) = self.machine.relay_says(to, relayed, from, &data) {
                    self.check_relayed(receiver, from, &data, &bytes);
                }
            }
            // Two clients of one shard.
            Answer::ToClient(to, _) => {
                let receiver = self.client_at(to);
                let ours: Vec<IpAddr> = self.relayed.iter().map(SocketAddr::ip).collect();
                assert!(ours.iter().any(|ip| self.has_granted(receiver, *ip)), "nobody was let in");
                let sender = &self.clients[client];
                assert!(ours.iter().any(|ip| self.has_granted(sender, *ip)), "nobody was granted this");
            }
            Answer::Later | Answer::Drop => {}
        }
    }

    /// Whatever is granted was asked for with a good MAC, and the answer has one, too.
    fn answered(&mut self, client: usize, message: &[u8], reply: &[u8]) {
        if message[4..8] != [0x21, 0x12, 0xA4, 0x42] {
            return;
        }
        let response = Parsed::parse(reply).expect("checked before");
        self.note(&response);
        if response.class != Class::Success || response.method == wire::BINDING {
            return;
        }
        let Client { username, password, granted, .. } = &mut self.clients[client];
        let request = Parsed::parse(message).expect("it was granted");
        let keys = match client {
            TOKEN_HOLDER => [requests::access_token().1, requests::access_token().1],
            _ => [wire::key_md5(username, REALM, password), wire::key_sha256(username, REALM, password)],
        };
        let is_guest = client == GUEST;
        assert!(is_guest || keys.iter().any(|key| request.verifies(key)), "granted without a MAC");
        assert!(is_guest || keys.iter().any(|key| response.verifies(key)), "an answer without a MAC");
        if matches!(response.method, wire::CREATE_PERMISSION | wire::CHANNEL_BIND) {
            granted.extend(request.peers().iter().map(|peer| peer.ip().to_canonical()));
        }
    }

    /// What the outside learns from any answer.
    fn note(&mut self, response: &Parsed) {
        assert!(response.padding_is_zero && response.fingerprint_is_right());
        self.tokens.extend(response.get(requests::RESERVATION_TOKEN).map(<[u8]>::to_vec));
        self.tickets.extend(response.get(wire::MOBILITY_TICKET).map(<[u8]>::to_vec));
        let connection = response.get(requests::CONNECTION_ID).and_then(|id| id.first_chunk::<4>().copied());
        self.connections.extend(connection);
        self.relayed.extend(response.get_xor_address(wire::XOR_RELAYED_ADDRESS));
    }

    fn a_peer_sends(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let ((shard, relay), peer) = (self.relay(input, false)?, self.peer(input)?);
        let (len, traffic_class) = input.arbitrary::<(u16, u8)>()?;
        let data = vec![traffic_class; usize::from(len) % if len > 0xFF00 { 65_508 } else { 1500 }];
        match self.machine.peer_says(shard, relay, peer, &data, traffic_class) {
            Answer::Drop => {}
            Answer::ToClient(to, bytes) => {
                let name = &self.client_at(to).username;
                assert_eq!(self.owners.get(&(shard, relay)), Some(name), "a peer's data went to somebody else");
                self.check_relayed(to, peer, &data, &bytes);
            }
            other => panic!("{other:?} for a peer"),
        }
        Ok(())
    }

    /// Only where a permission was granted, and policy still allows it.
    fn check_reach(&self, client: usize, ip: IpAddr) {
        assert!(self.has_granted(&self.clients[client], ip), "{ip} was never granted");
        assert!(!requests::is_refused(ip, self.denies_nine), "{ip} is refused by policy");
    }

    fn check_relayed(&self, to: FiveTuple, peer: SocketAddr, data: &[u8], bytes: &[u8]) {
        let receiver = self.client_at(to);
        assert!(self.has_granted(receiver, peer.ip()), "{peer} was never let in");
        assert!(bytes.len() <= 65_507 || to.transport.is_stream(), "more than a datagram holds");
        if bytes[0] >= 0x40 {
            assert_eq!(bytes[2..4], (data.len() as u16).to_be_bytes());
            assert_eq!(bytes[4..4 + data.len()], *data);
            assert!(bytes[4 + data.len()..].iter().all(|byte| *byte == 0), "old bytes leak in the padding");
        } else {
            let indication = Parsed::parse(bytes).expect("a Data indication must parse");
            assert!(indication.padding_is_zero);
            assert_eq!((indication.method, indication.class), (wire::DATA_METHOD, Class::Indication));
            assert_eq!(indication.get_xor_address(wire::XOR_PEER_ADDRESS), Some(peer));
            assert_eq!(indication.get(wire::DATA), Some(data));
        }
    }

    fn configure(&mut self, choice: u8) {
        if choice == 0xFF {
            self.machine.servers.iter_mut().for_each(hairpin::turn::Server::drain);
            return;
        }
        self.denies_nine = choice & 1 != 0;
        self.machine.configure(|config| {
            config.icmp = choice & 2 == 0;
            config.ports.last = if choice & 4 == 0 { 50_024 } else { 50_020 };
            config.limits.allocations = if choice & 8 == 0 { 12 } else { 3 };
            let deny: &[&str] = if choice & 1 == 0 { &["9.9.9.128/25"] } else { &["9.9.9.0/24"] };
            config.peers = requests::policy(deny);
            config.redirect.when = if choice & 32 == 0 { RedirectWhen::Draining } else { RedirectWhen::Always };
            if choice & 128 != 0 {
                config.redirect.alternates.clear();
            }
            config.credentials.binding_users =
                if choice & 64 == 0 { ShortTermUsers::default() } else { crate::machine::binding_users() };
            config.nonces.lifetime_secs = if choice & 16 == 0 { 3600 } else { 60 };
        });
    }

    fn answer_a_bind(&mut self, place: u8, result: u8) {
        if self.binds.is_empty() {
            return;
        }
        let (shard, relay, local) = self.binds.swap_remove(usize::from(place) % self.binds.len());
        let is_taken = self.sockets.contains_key(&local);
        assert!(!is_taken || self.has_died, "{local:?} was asked for twice");
        let result = match result % 8 {
            _ if is_taken => Err(BindError::PortInUse),
            5 => Err(BindError::PortInUse),
            6 => Err(BindError::UserQuotaReached),
            7 => Err(BindError::OutOfCapacity),
            _ => Ok(()),
        };
        if result.is_ok() {
            self.sockets.insert(local, (shard, relay));
        }
        let clock = self.machine.clock;
        self.server(shard).relay_bound(clock, relay, result);
    }

    fn deliver_a_letter(&mut self) {
        if let Some((to, from, letter)) = self.letters.pop_front() {
            let clock = self.machine.clock;
            self.server(to).told(clock, from, letter);
        }
    }

    /// Its sockets close, its work is lost; the other is told after the letters of the former life.
    fn restart(&mut self, shard: u16) {
        self.has_died = true;
        self.sockets.retain(|_, (owner, _)| *owner != shard);
        self.binds.retain(|(owner, ..)| *owner != shard);
        self.connecting.retain(|(owner, _)| *owner != shard);
        self.connected.retain(|(owner, _)| *owner != shard);
        self.owners.retain(|(owner, _), _| *owner != shard);
        self.machine.restart(shard);
        let (late, rest): (Vec<_>, Vec<_>) = self.letters.drain(..).partition(|(_, from, _)| *from == shard);
        self.letters = rest.into();
        let clock = self.machine.clock;
        for (to, from, letter) in late {
            self.server(to).told(clock, from, letter);
        }
        self.server(1 - shard).shard_restarted(clock, shard);
    }

    fn drain(&mut self) {
        for shard in 0..SHARDS {
            while let Some(effect) = self.server(shard).next_effect() {
                match effect {
                    Effect::BindRelay { relay, local, transport, .. } => {
                        self.binds.push((shard, relay, (local, transport == PeerTransport::Tcp)));
                    }
                    Effect::ConnectPeer { connection, to, .. } => {
                        assert!(!requests::is_refused(to.ip(), self.denies_nine), "{to} is refused by policy");
                        self.connecting.push((shard, connection));
                    }
                    Effect::ClosePeer { connection } => {
                        self.connecting.retain(|open| *open != (shard, connection));
                        self.connected.retain(|open| *open != (shard, connection));
                    }
                    Effect::CloseRelay { relay, .. } => {
                        let before = self.sockets.len();
                        self.sockets.retain(|_, socket| *socket != (shard, relay));
                        assert_eq!(self.sockets.len() + 1, before, "closed what was not open, or twice");
                    }
                    Effect::Send { to, bytes } => {
                        // The other address or port of NAT discovery: nobody's 5-tuple, but a client's address.
                        assert!(self.clients.iter().any(|client| client.path.client.ip() == to.client.ip()));
                        self.note(&Parsed::parse(&bytes).expect("a message must parse"));
                    }
                    Effect::Tell { shard: to, letter } => {
                        assert!(to != shard && to < SHARDS, "a letter for shard {to}");
                        self.letters.push_back((to, shard, letter));
                    }
                    Effect::Record(Event::Allocated { relay, path, .. }) => {
                        let name = self.client_at(path).username.clone();
                        self.owners.insert((shard, relay), name);
                    }
                    other => assert!(matches!(other, Effect::Record(_)), "{other:?}: say here what comes of it"),
                }
            }
        }
    }

    fn check(&mut self) {
        self.machine.servers.iter_mut().for_each(hairpin::turn::Server::check_invariants);
    }

    /// Everything ends.
    fn settle(&mut self) {
        for shard in 0..SHARDS {
            let clock = self.machine.clock;
            self.server(shard).shut_down(clock);
            self.drain();
        }
        while !self.binds.is_empty() || !self.letters.is_empty() {
            self.answer_a_bind(0, 0);
            self.drain();
            self.deliver_a_letter();
            self.drain();
            self.check();
        }
        assert!(self.sockets.is_empty(), "sockets are left over: {:?}", self.sockets);
        assert!(self.connecting.is_empty() && self.connected.is_empty(), "connections are left over");
        assert!(self.machine.servers.iter().all(|server| server.allocations() == 0 && server.peer_connections() == 0));
        self.check();
    }
}
