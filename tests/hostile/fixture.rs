//! A server under attack: alice has an allocation with one permission and one channel, bob has an account.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hairpin::turn::{
    Clock, Config, Credentials, Effect, FiveTuple, IpFields, Lifetimes, Limits, NonceKeys, Now, Packet, PortRange,
    RelayAddress, RelayId, ReplyBuffer, Server, ShardIndex, StaticUser, TokenKey, TokenKeys, Transport, Verdict,
};

use crate::wire::{self, Builder, Class, Parsed};

pub const REALM: &str = "hostile.example";
/// The key of access tokens has this id, and they are made for this server.
pub const TOKEN_KID: &str = "north";
const TOKEN_SERVER: &str = "blackdow.carleon.gov";
pub const PERMITTED: &str = "9.9.9.1:7000";
pub const NOT_PERMITTED: &str = "9.9.9.2:7000";
pub const CHANNEL: u16 = 0x4000;

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("written above")
}

/// The MD5 key of a user, whose password is the name backwards.
pub fn key(username: &str) -> Vec<u8> {
    wire::key_md5(username, REALM, &password(username))
}

pub fn password(username: &str) -> String {
    username.chars().rev().collect()
}

pub fn path(transport: Transport, client: &str) -> FiveTuple {
    FiveTuple { transport, client: address(client), server: address("203.0.113.1:3478") }
}

pub fn alices_path() -> FiveTuple {
    path(Transport::Udp, "198.18.0.1:1001")
}

fn config() -> Config {
    let ip: IpAddr = "99.88.77.66".parse().expect("an address");
    let token_key = TokenKey::new(b"HGkj32KJGiuy098sdfaqbNjOiaz71923").expect("32 bytes");
    let user = |name: &str| (name.to_string(), StaticUser::from_password(name, REALM, &password(name)));
    let nonces = NonceKeys { current: [7; 32], previous: None, lifetime_secs: 3600 };
    Config {
        realm: REALM.into(),
        software: Some("x".repeat(127)),
        credentials: Credentials {
            users: [user("alice"), user("bob")].into(),
            tokens: Some(TokenKeys::new(TOKEN_SERVER.into(), [(TOKEN_KID.into(), token_key)])),
            ..Credentials::default()
        },
        relays: vec![RelayAddress { bind: ip, advertise: ip }],
        ports: PortRange { first: 50_000, last: 50_063, quarantine_secs: 0 },
        lifetimes: Lifetimes { allocation_default_secs: 600, allocation_max_secs: 3600 },
        limits: Limits {
            allocations: 10,
            permissions_per_allocation: 10,
            channels_per_allocation: 10,
            effects: 100,
            ..Limits::default()
        },
        ..Config::new(nonces)
    }
}

/// The server and what surrounds it.
pub struct Fixture {
    pub server: Server,
    pub clock: Clock,
    pub reply: ReplyBuffer,
    /// Alice's relay, once she has one.
    pub relay: Option<RelayId>,
    buffer: Vec<u8>,
}

/// What came of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Drop,
    Reply(Vec<u8>),
    /// The server asked for a relay (and was refused one).
    Later,
    ToPeer(SocketAddr, Vec<u8>),
    ToClient(FiveTuple, Vec<u8>),
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With another configuration.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        Self {
            server: Server::new(Arc::new(config), ShardIndex::SINGLE, [9; 32]),
            clock: Clock { now: Now(1_000_000_000_000), unix_secs: 1_800_000_000 },
            reply: ReplyBuffer::new(),
            relay: None,
            buffer: Vec::with_capacity(70_000),
        }
    }

    /// With alice's allocation, her permission and her channel.
    pub fn with_alice() -> Self {
        let mut fixture = Self::new();
        fixture.set_up_alice();
        fixture
    }

    pub fn set_up_alice(&mut self) {
        let path = alices_path();
        let allocate =
            self.request(path, wire::ALLOCATE, "alice", |builder| builder.u32(wire::REQUESTED_TRANSPORT, 17 << 24));
        let verdict =
            self.call(&allocate, |server, clock, packet, reply| server.from_client(clock, path, packet, reply));
        assert_eq!(verdict, Verdict::Later);
        let mut effects = std::iter::from_fn(|| self.server.next_effect());
        let bind =
            effects.find_map(|effect| if let Effect::BindRelay { relay, .. } = effect { Some(relay) } else { None });
        let relay = bind.expect("a bind must be asked for");
        self.server.relay_bound(self.clock, relay, Ok(()));
        self.relay = Some(relay);
        while self.server.next_effect().is_some() {}
        let bind = self.request(path, wire::CHANNEL_BIND, "alice", |builder| {
            builder.u32(wire::CHANNEL_NUMBER, u32::from(CHANNEL) << 16).peer(address(PERMITTED))
        });
        let answer = self.client_says(path, &bind);
        assert!(matches!(&answer, Outcome::Reply(bytes) if bytes[..2] == [1, 9]), "{answer:?}");
    }

    /// A nonce for a client, as the server gives it to whoever asks.
    pub fn nonce(&mut self, path: FiveTuple) -> Vec<u8> {
        let ask = Builder::new(wire::message_type(wire::ALLOCATE, Class::Request), [1; 12]).finish();
        let Outcome::Reply(challenge) = self.client_says(path, &ask) else {
            panic!("a bare request is challenged");
        };
        let challenge = Parsed::parse(&challenge).expect("a response must parse");
        challenge.get(wire::NONCE).expect("401 has a nonce").to_vec()
    }

    /// A request with good credentials.
    pub fn request(
        &mut self,
        path: FiveTuple,
        method: u16,
        username: &str,
        attributes: impl FnOnce(Builder) -> Builder,
    ) -> Vec<u8> {
        self.unsigned(path, method, username, attributes).sign(wire::MESSAGE_INTEGRITY, &key(username)).finish()
    }

    /// The same before it is signed.
    pub fn unsigned(
        &mut self,
        path: FiveTuple,
        method: u16,
        username: &str,
        attributes: impl FnOnce(Builder) -> Builder,
    ) -> Builder {
        let nonce = self.nonce(path);
        let builder = Builder::new(wire::message_type(method, Class::Request), [method as u8; 12]);
        attributes(builder)
            .attribute(wire::USERNAME, username.as_bytes())
            .attribute(wire::REALM, REALM.as_bytes())
            .attribute(wire::NONCE, &nonce)
    }

    fn call(
        &mut self,
        message: &[u8],
        call: impl FnOnce(&mut Server, Clock, &mut Packet<'_>, &mut ReplyBuffer) -> Verdict,
    ) -> Verdict {
        // Old bytes everywhere: none of them may come out again (S18).
        self.reply.fill(0xEE);
        self.buffer.clear();
        self.buffer.resize(Packet::HEADROOM, 0xEE);
        self.buffer.extend(message);
        self.buffer.extend([0xEE; Packet::TAILROOM]);
        let range = Packet::HEADROOM..Packet::HEADROOM + message.len();
        let mut packet = Packet::new(&mut self.buffer, range, IpFields::default());
        call(&mut self.server, self.clock, &mut packet, &mut self.reply)
    }

    /// Hands in a message from a client, refuses every relay it asks for, and checks what any answer must be.
    pub fn client_says(&mut self, path: FiveTuple, message: &[u8]) -> Outcome {
        let verdict = self.call(message, |server, clock, packet, reply| server.from_client(clock, path, packet, reply));
        let outcome = self.outcome(verdict);
        if let Outcome::Reply(reply) = &outcome {
            assert!(reply.len() <= ReplyBuffer::LEN);
            let response = Parsed::parse(reply).expect("a response must parse");
            assert!(response.padding_is_zero, "old bytes leak in the padding");
            assert!(is_request(message), "answered what is no STUN request");
            assert_eq!(response.transaction_id, message[8..20]);
            assert!(matches!(response.class, Class::Success | Class::Error));
        }
        outcome
    }

    /// Hands in a message from a client, and returns what the machine says of it.
    pub fn judge(&mut self, path: FiveTuple, message: &[u8]) -> (Verdict, Vec<Effect>) {
        let verdict = self.call(message, |server, clock, packet, reply| server.from_client(clock, path, packet, reply));
        (verdict, self.effects())
    }

    /// Hands in a datagram from a peer at alice's relay.
    pub fn peer_says(&mut self, peer: SocketAddr, data: &[u8]) -> Outcome {
        let relay = self.relay.expect("alice has a relay");
        let verdict = self.call(data, |server, clock, packet, _| server.from_peer(clock, relay, peer, packet));
        self.outcome(verdict)
    }

    fn outcome(&mut self, verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Drop(_) => Outcome::Drop,
            Verdict::Reply { len } => Outcome::Reply(self.reply[..len].to_vec()),
            Verdict::Later => Outcome::Later,
            Verdict::ToPeer { to, bytes, .. } => Outcome::ToPeer(to, self.buffer[bytes].to_vec()),
            Verdict::ToClient { to, bytes, .. } => Outcome::ToClient(to, self.buffer[bytes].to_vec()),
            Verdict::ToRelay { .. } | Verdict::NotMine { .. } => panic!("there is only one shard"),
            Verdict::Bound { .. } => panic!("there are no TCP relays"),
        }
    }

    /// Takes all effects and returns those that are more than a record.
    pub fn effects(&mut self) -> Vec<Effect> {
        let all = std::iter::from_fn(|| self.server.next_effect());
        all.filter(|effect| !matches!(effect, Effect::Record(_))).collect()
    }

    /// Whether this peer may talk to alice.
    pub fn is_permitted(&mut self, peer: &str) -> bool {
        matches!(self.peer_says(address(peer), b"hello"), Outcome::ToClient(..))
    }
}

/// Whether bytes are a request by the rules of the header alone: zero bits, cookie, length, class.
pub fn is_request(bytes: &[u8]) -> bool {
    bytes.len() >= 20
        && bytes[0] & 0xC1 == 0
        && bytes[1] & 0x10 == 0
        && bytes[4..8] == [0x21, 0x12, 0xA4, 0x42]
        && bytes.len().is_multiple_of(4)
        && wire::message_len(bytes) == bytes.len()
}
