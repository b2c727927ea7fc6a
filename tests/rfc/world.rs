//! A server, a clock that tests turn by hand, and a shell that binds every socket at once.

use std::net::SocketAddr;
use std::sync::Arc;

use hairpin::stun::{AttributeType, Method, TransactionId};
use hairpin::turn::{
    BindError, Clock, Config, ConnectionId, Credentials, Effect, Event, FiveTuple, IpFields, Letter, Lifetimes, Limits,
    NonceKeys, Now, Packet, PeerPolicy, PeerTransport, PortRange, Reason, RelayAddress, RelayId, ReplyBuffer, Server,
    ShardIndex, SharedSecret, StaticUser, Transport, Verdict,
};

use crate::client::{Attributes, Client, Response, bare, channel, peer_for, udp};

pub const REALM: &str = "example.org";
pub const UNIX_START: u64 = 1_800_000_000;
pub const RELAY_V4: &str = "203.0.113.5";
pub const RELAY_V6: &str = "2001:db8::5";
/// A peer that the policy of [`config`] allows.
pub const PEER: &str = "198.51.100.7:7000";

/// Two static users, one secret, relays of both families, documentation peers allowed.
pub fn config() -> Config {
    let relay = |ip: &str| RelayAddress { bind: ip.parse().unwrap(), advertise: ip.parse().unwrap() };
    let user = |name: &str, password| (name.to_owned(), StaticUser::from_password(name, REALM, password));
    let nonces = NonceKeys { current: [1; 32], previous: None, lifetime_secs: 3600 };
    Config {
        realm: REALM.into(),
        software: Some("test".into()),
        credentials: Credentials {
            users: [user("alice", "s3cret"), user("bob", "hunter2")].into(),
            secrets: vec![SharedSecret(b"north".to_vec()), SharedSecret(b"south".to_vec())],
            ttl_secs_max: 86_400,
            ..Credentials::default()
        },
        relays: vec![relay(RELAY_V4), relay(RELAY_V6)],
        ports: PortRange { first: 50_000, last: 50_999, quarantine_secs: 0 },
        peers: PeerPolicy {
            allow: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()],
            deny: vec!["8.8.8.0/24".parse().unwrap()],
            own: vec!["192.0.2.1".parse().unwrap()],
            ..PeerPolicy::default()
        },
        lifetimes: Lifetimes { allocation_default_secs: 600, allocation_max_secs: 3600 },
        limits: Limits {
            allocations: 100,
            permissions_per_allocation: 12,
            channels_per_allocation: 8,
            effects: 1000,
            ..Limits::default()
        },
        ..Config::new(nonces)
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Response(Response),
    AtPeer { from: RelayId, to: SocketAddr, data: Vec<u8>, dont_fragment: bool },
    AtClient { to: FiveTuple, message: Vec<u8> },
    Bound(ConnectionId, Response),
    AtOtherShard { shard: u16, relayed: SocketAddr, from: SocketAddr, data: Vec<u8> },
    NotMine { shard: u16 },
    Dropped(Reason),
}

impl Seen {
    #[track_caller]
    pub fn response(self) -> Response {
        match self {
            Self::Response(response) => response,
            other => panic!("expected a response, saw {other:?}"),
        }
    }

    #[track_caller]
    pub fn data_at_peer(self) -> Vec<u8> {
        match self {
            Self::AtPeer { data, .. } => data,
            other => panic!("expected a datagram at the peer, saw {other:?}"),
        }
    }

    #[track_caller]
    pub fn at_client(self) -> Vec<u8> {
        match self {
            Self::AtClient { message, .. } => message,
            other => panic!("expected a message at the client, saw {other:?}"),
        }
    }

    /// Whether a datagram got through to the peer; panics if it was neither relayed nor dropped.
    #[track_caller]
    pub fn relayed(&self) -> bool {
        match self {
            Self::AtPeer { .. } | Self::AtClient { .. } => true,
            Self::Dropped(_) => false,
            other => panic!("neither relayed nor dropped: {other:?}"),
        }
    }
}

/// What the shell was asked to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connecting {
    pub connection: ConnectionId,
    pub local: SocketAddr,
    pub to: SocketAddr,
    pub relays_only: bool,
}

/// An answer of the shell to a bind: what the test wants it to be.
pub type BindAnswer = Box<dyn FnMut(SocketAddr) -> Result<(), BindError>>;

pub struct World {
    pub server: Server,
    pub clock: Clock,
    pub events: Vec<Event>,
    pub binds: Vec<SocketAddr>,
    /// What each of them was to be.
    pub transports: Vec<PeerTransport>,
    /// Connections asked for, and not answered until a test does.
    pub connects: Vec<Connecting>,
    /// Connections to peers that were to be closed.
    pub disconnected: Vec<ConnectionId>,
    /// One step may bring several messages, of which the last is seen.
    pub may_send_several: bool,
    pub closed: Vec<RelayId>,
    /// How the shell answers binds; `None` keeps them waiting in `unanswered`.
    pub bind_answer: Option<BindAnswer>,
    pub unanswered: Vec<RelayId>,
    /// What is on its way to other shards.
    pub letters: Vec<(u16, Letter)>,
    /// Keys asked for, and not answered until a test does.
    pub questions: Vec<(u64, Arc<str>)>,
}

impl World {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: Config) -> Self {
        Self {
            server: Server::new(Arc::new(config), ShardIndex::SINGLE, [42; 32]),
            clock: Clock { now: Now(1_000_000_000), unix_secs: UNIX_START },
            events: Vec::new(),
            binds: Vec::new(),
            transports: Vec::new(),
            connects: Vec::new(),
            disconnected: Vec::new(),
            may_send_several: false,
            closed: Vec::new(),
            bind_answer: Some(Box::new(|_| Ok(()))),
            unanswered: Vec::new(),
            letters: Vec::new(),
            questions: Vec::new(),
        }
    }

    /// Lets time pass, both clocks, and turns the timers.
    pub fn pass(&mut self, secs: u32) {
        assert_eq!(self.pass_and_see(secs), None);
    }

    /// The same, where it may bring a message.
    pub fn pass_and_see(&mut self, secs: u32) -> Option<Seen> {
        self.pass_without_timers(secs);
        self.server.handle_timeout(self.clock);
        assert!(self.server.next_timeout().is_none_or(|next| next > self.clock.now));
        self.drain_effects()
    }

    /// Lets time pass while the shell is busy.
    pub fn pass_without_timers(&mut self, secs: u32) {
        self.clock.now = self.clock.now.plus_secs(secs);
        self.clock.unix_secs += u64::from(secs);
    }

    /// Hands a message in and does what comes back.
    pub fn send(&mut self, path: FiveTuple, bytes: &[u8]) -> Option<Seen> {
        let mut reply = ReplyBuffer::new();
        let seen = with_packet(bytes, |packet| {
            let verdict = self.server.from_client(self.clock, path, packet, &mut reply);
            seen(verdict, packet, &reply)
        });
        let sent = self.drain_effects();
        self.server.check_invariants();
        seen.or(sent)
    }

    /// A datagram that another shard was given and has passed on.
    pub fn carried(&mut self, carrier: u16, path: FiveTuple, bytes: &[u8]) -> Option<Seen> {
        let mut reply = ReplyBuffer::new();
        let seen = with_packet(bytes, |packet| {
            let verdict = self.server.from_carrier(self.clock, carrier, path, packet, &mut reply);
            seen(verdict, packet, &reply)
        });
        let sent = self.drain_effects();
        self.server.check_invariants();
        seen.or(sent)
    }

    /// The same, where an answer or a relayed packet is expected.
    #[track_caller]
    pub fn exchange(&mut self, path: FiveTuple, bytes: &[u8]) -> Response {
        self.send(path, bytes).expect("an answer").response()
    }

    /// A datagram from a peer to a relayed transport address.
    pub fn peer_sends(&mut self, relay: RelayId, peer: &str, data: &[u8]) -> Seen {
        let peer = peer.parse().unwrap();
        let seen = with_packet(data, |packet| {
            let verdict = self.server.from_peer(self.clock, relay, peer, packet);
            seen(verdict, packet, &ReplyBuffer::new())
        });
        self.server.check_invariants();
        seen.expect("a verdict for every datagram")
    }

    /// A packet that another shard's relay sent.
    pub fn relay_sends(&mut self, relayed: SocketAddr, from: SocketAddr, data: &[u8]) -> Seen {
        let seen = with_packet(data, |packet| {
            let verdict = self.server.from_relay(self.clock, relayed, from, packet);
            seen(verdict, packet, &ReplyBuffer::new())
        });
        seen.expect("a verdict for every packet")
    }

    /// Does the shell's work; returns the message that was sent, if one was.
    pub fn drain_effects(&mut self) -> Option<Seen> {
        let mut sent = None;
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::BindRelay { relay, local, transport, .. } => {
                    self.binds.push(local);
                    self.transports.push(transport);
                    match &mut self.bind_answer {
                        Some(answer) => {
                            let result = answer(local);
                            self.server.relay_bound(self.clock, relay, result);
                        }
                        None => self.unanswered.push(relay),
                    }
                }
                Effect::CloseRelay { relay, .. } => self.closed.push(relay),
                Effect::ConnectPeer { connection, local, to, relays_only } => {
                    self.connects.push(Connecting { connection, local, to, relays_only });
                }
                Effect::ClosePeer { connection } => self.disconnected.push(connection),
                Effect::Send { bytes, .. } => {
                    assert!(sent.is_none() || self.may_send_several, "two messages for one step");
                    sent = Some(Seen::Response(Response(bytes.into())));
                }
                Effect::FindKey { ticket, realm, who } => {
                    assert_eq!(*realm, *REALM);
                    self.questions.push((ticket, who));
                }
                Effect::Bound { bytes, connection, .. } => {
                    sent = Some(Seen::Bound(connection, Response(bytes.into())));
                }
                Effect::Tell { shard, letter } => self.letters.push((shard, letter)),
                Effect::Record(event) => self.events.push(event),
            }
        }
        sent
    }

    /// A client that has been challenged on this path.
    pub fn client(&mut self, path: FiveTuple, username: &str, password: &str) -> Client {
        let mut client = Client::new(username, password);
        client.nonce = self.exchange(path, &bare(Method::Allocate, vec![udp()])).nonce();
        client
    }

    pub fn alice(&mut self, path: FiveTuple) -> Client {
        self.client(path, "alice", "s3cret")
    }

    /// Allocates for this client; the relay's name is in the event.
    #[track_caller]
    pub fn allocate(&mut self, path: FiveTuple, client: &mut Client, extra: Attributes) -> (RelayId, Response) {
        let request = client.signed(Method::Allocate, [vec![udp()], extra].concat());
        let response = self.exchange(path, &request);
        assert_eq!(response.error(), 0, "Allocate failed");
        let Some(Event::Allocated { relay, .. }) = self.events.last() else { panic!("no event for the allocation") };
        (*relay, response)
    }

    /// Alice with an allocation.
    #[track_caller]
    pub fn allocated(&mut self, path: FiveTuple) -> (Client, RelayId) {
        let mut alice = self.alice(path);
        let (relay, _) = self.allocate(path, &mut alice, vec![]);
        (alice, relay)
    }

    #[track_caller]
    pub fn permit(&mut self, path: FiveTuple, client: &mut Client, peers: &[&str]) -> u16 {
        let request = signed_with_peers(client, Method::CreatePermission, vec![], peers);
        self.exchange(path, &request).error()
    }

    #[track_caller]
    pub fn bind_channel(&mut self, path: FiveTuple, client: &mut Client, number: u16, peer: &str) -> u16 {
        let request = signed_with_peers(client, Method::ChannelBind, vec![channel(number)], &[peer]);
        self.exchange(path, &request).error()
    }

    #[track_caller]
    pub fn refresh(&mut self, path: FiveTuple, client: &mut Client, extra: Attributes) -> Response {
        let request = client.signed(Method::Refresh, extra);
        self.exchange(path, &request)
    }
}

/// A signed request with XOR-PEER-ADDRESS attributes behind its own ones.
pub fn signed_with_peers(client: &mut Client, method: Method, own: Attributes, peers: &[&str]) -> Vec<u8> {
    let id = client.transaction_id();
    let peers = peers.iter().map(|peer| peer_for(id, peer));
    let all: Attributes = own.into_iter().chain(peers).chain(client.credentials()).collect();
    client.seal(method, id, &all)
}

/// A Send indication.
pub fn send_indication(peer: &str, extra: Attributes) -> Vec<u8> {
    let peer = peer_for(TransactionId([8; 12]), peer);
    crate::client::indication(Method::Send, [vec![peer], extra].concat())
}

pub fn path(client: &str) -> FiveTuple {
    path_over(Transport::Udp, client)
}

pub fn path_over(transport: Transport, client: &str) -> FiveTuple {
    FiveTuple { transport, client: client.parse().unwrap(), server: "192.0.2.1:3478".parse().unwrap() }
}

/// The address in a Data indication and its data.
#[track_caller]
pub fn read_data_indication(message: &[u8]) -> (SocketAddr, Vec<u8>) {
    let response = Response(message.to_vec());
    assert_eq!((response.message().method(), &message[..2]), (Method::Data, &[0x00, 0x17][..]));
    let peer = response.address(AttributeType::XOR_PEER_ADDRESS).expect("a peer");
    (peer, response.first(AttributeType::DATA).expect("data"))
}

pub fn with_packet<R>(bytes: &[u8], act: impl FnOnce(&mut Packet<'_>) -> R) -> R {
    let start = Packet::HEADROOM;
    // 0xEE all around: whatever is read or sent beyond the message shows.
    let mut buffer = vec![0xEE; start + bytes.len() + Packet::TAILROOM];
    buffer[start..start + bytes.len()].copy_from_slice(bytes);
    act(&mut Packet::new(&mut buffer, start..start + bytes.len(), IpFields::default()))
}

fn seen(verdict: Verdict, packet: &mut Packet<'_>, reply: &ReplyBuffer) -> Option<Seen> {
    let mut take = |bytes: std::ops::Range<usize>| packet.buffer()[bytes].to_vec();
    Some(match verdict {
        Verdict::ToPeer { from, to, bytes, ip } => {
            Seen::AtPeer { from, to, data: take(bytes), dont_fragment: ip.dont_fragment }
        }
        Verdict::ToClient { to, bytes, .. } => Seen::AtClient { to, message: take(bytes) },
        Verdict::ToRelay { shard, relayed, from, bytes, .. } => {
            Seen::AtOtherShard { shard, relayed, from, data: take(bytes) }
        }
        Verdict::Reply { len } => Seen::Response(Response(reply[..len].to_vec())),
        Verdict::Bound { len, connection } => Seen::Bound(connection, Response(reply[..len].to_vec())),
        Verdict::NotMine { shard } => Seen::NotMine { shard },
        Verdict::Later => return None,
        Verdict::Drop(reason) => Seen::Dropped(reason),
    })
}
