//! The machine with clients in it, and one call for each thing that is measured: no socket, a clock that stands still,
//! the same bytes in every run.

pub mod figures;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::sync::Arc;

use ahash::RandomState;
use hairpin::shard::{Privacy, Recorder, RecorderSettings, Veil};
use hairpin::stun::{
    AttributeType, ChannelNumber, Class, Message, MessageWriter, Method, Seal, TransactionId, channel_data, integrity,
};
use hairpin::turn::{
    Clock, Config, Credentials, Effect, Event, FiveTuple, IpFields, Limits, NonceKeys, Now, Packet, PeerPolicy,
    PortRange, RelayAddress, RelayId, ReplyBuffer, Server, SessionKey, ShardIndex, StaticUser, Transport, Verdict,
};

const REALM: &str = "example.org";
const USERNAME: &str = "alice";
const PASSWORD: &str = "a password of usual length";
const CHANNEL: u16 = 0x4000;
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 7000));
const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 3478));
/// As with [`Config`]'s default.
const LIFETIME_SECS: u32 = 600;
const MESSAGE_LEN_MAX: usize = 2048;

/// A message in a buffer with the room around it that a shard's buffers have.
#[derive(Clone)]
pub struct Datagram {
    buffer: Vec<u8>,
    range: Range<usize>,
}

impl Datagram {
    fn new(message: &[u8]) -> Self {
        let range = Packet::HEADROOM..Packet::HEADROOM + message.len();
        let mut buffer = vec![0; range.end + Packet::TAILROOM];
        buffer[range.clone()].copy_from_slice(message);
        Self { buffer, range }
    }

    /// The message alone.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    fn packet(&mut self) -> Packet<'_> {
        Packet::new(&mut self.buffer, self.range.clone(), IpFields::default())
    }
}

/// One client's way to a channel, written beforehand so that only the server's part is measured.
pub struct SetUp {
    path: FiveTuple,
    /// Allocate, CreatePermission, ChannelBind, with credentials.
    requests: [Datagram; 3],
}

/// A server, its time, and where messages are written.
pub struct Machine {
    server: Server,
    clock: Clock,
    reply: ReplyBuffer,
    relays: Vec<RelayId>,
    next_client: u32,
    /// What a shard does with events, as far as it is switched on.
    recorder: Recorder,
    veil: Veil,
}

impl Machine {
    /// With so many allocations, each with a permission and a channel.
    pub fn new(allocations: u32) -> Self {
        Self::with_recorder(allocations, 0)
    }

    /// The same, and a flight recorder of so many events hears of them, as in a shard.
    pub fn with_recorder(allocations: u32, events: usize) -> Self {
        let address = Ipv4Addr::new(203, 0, 113, 5).into();
        let user = StaticUser::from_password(USERNAME, REALM, PASSWORD);
        let config = Config {
            realm: REALM.into(),
            software: Some("hairpin".into()),
            credentials: Credentials { users: [(USERNAME.to_owned(), user)].into(), ..Credentials::default() },
            relays: vec![RelayAddress { bind: address, advertise: address }],
            ports: PortRange { first: 1024, last: 65_535, quarantine_secs: 2 },
            peers: PeerPolicy { allow: vec!["198.51.100.0/24".parse().expect("a prefix")], ..PeerPolicy::default() },
            limits: Limits { allocations: 60_000, ..Limits::default() },
            ..Config::new(NonceKeys { current: [1; 32], previous: None, lifetime_secs: 3600 })
        };
        let mut machine = Self {
            server: Server::new(Arc::new(config), ShardIndex::SINGLE, [42; 32]),
            clock: Clock { now: Now(1_000_000_000), unix_secs: 1_800_000_000 },
            reply: ReplyBuffer::new(),
            relays: Vec::new(),
            next_client: 0,
            recorder: Recorder::new(RecorderSettings { events, silence_secs: 30 }, hashes()),
            veil: Veil { privacy: Privacy::default(), key: SessionKey([3; 16]) },
        };
        for _ in 0..allocations {
            let mut set_up = machine.write_set_up();
            machine.set_up(&mut set_up);
        }
        machine
    }

    /// How many there are.
    pub fn allocations(&self) -> u32 {
        self.relays.len() as u32
    }

    /// A challenge taken, and the requests that follow it, for a client that was not here before.
    pub fn write_set_up(&mut self) -> SetUp {
        let path = path(self.next_client);
        self.next_client += 1;
        let bare = write(Method::Allocate, Class::Request, Seal::None, |writer| {
            writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24);
        });
        let len = self.answered(path, &mut Datagram::new(&bare));
        let nonce = Message::parse(&self.reply[..len])
            .ok()
            .and_then(|answer| answer.first(AttributeType::NONCE).map(<[u8]>::to_vec))
            .expect("a challenge");
        let key = integrity::long_term_key_md5(USERNAME, REALM, PASSWORD);
        let signed = |method: Method| {
            let message = write(method, Class::Request, Seal::Sha1(&key), |writer| {
                match method {
                    Method::Allocate => writer.u32(AttributeType::REQUESTED_TRANSPORT, 17 << 24),
                    Method::CreatePermission => writer.xor_address(AttributeType::XOR_PEER_ADDRESS, PEER),
                    _ => {
                        writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(CHANNEL) << 16);
                        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, PEER);
                    }
                }
                writer.attribute(AttributeType::USERNAME, USERNAME.as_bytes());
                writer.attribute(AttributeType::REALM, REALM.as_bytes());
                writer.attribute(AttributeType::NONCE, &nonce);
            });
            Datagram::new(&message)
        };
        SetUp { path, requests: [Method::Allocate, Method::CreatePermission, Method::ChannelBind].map(signed) }
    }

    /// Allocate, permission and channel; the shell's part is one answer.
    pub fn set_up(&mut self, set_up: &mut SetUp) {
        self.allocate(set_up);
        for request in &mut set_up.requests[1..] {
            let len = self.answered(set_up.path, request);
            assert!(self.reply[..len][0] == 1, "a success");
            self.record();
        }
    }

    /// The first of the three.
    pub fn allocate(&mut self, set_up: &mut SetUp) {
        let allocate = &mut set_up.requests[0];
        let verdict = self.server.from_client(self.clock, set_up.path, &mut allocate.packet(), &mut self.reply);
        assert_eq!(verdict, Verdict::Later, "Allocate waits for its socket");
        let mut is_answered = false;
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::BindRelay { relay, .. } => self.server.relay_bound(self.clock, relay, Ok(())),
                Effect::Send { .. } => is_answered = true,
                Effect::Record(event) => {
                    if let Event::Allocated { relay, .. } = event {
                        self.relays.push(relay);
                    }
                    self.recorder.note(self.clock.now, &self.veil, &event);
                }
                _ => {}
            }
        }
        assert!(is_answered, "Allocate is answered");
    }

    /// A Binding request, answered.
    pub fn binding(&mut self, request: &mut Datagram) {
        self.answered(path(u32::MAX), request);
    }

    /// What a client sends to its peer: ChannelData or a Send indication.
    pub fn to_peer(&mut self, client: u32, message: &mut Datagram) {
        let verdict = self.server.from_client(self.clock, path(client), &mut message.packet(), &mut self.reply);
        assert!(matches!(verdict, Verdict::ToPeer { .. }), "relayed: {verdict:?}");
        self.record();
    }

    /// What the peer sends to a client's relayed transport address.
    pub fn to_client(&mut self, client: u32, data: &mut Datagram) {
        let relay = self.relays[client as usize];
        let verdict = self.server.from_peer(self.clock, relay, PEER, &mut data.packet());
        assert!(matches!(verdict, Verdict::ToClient { .. }), "relayed: {verdict:?}");
        self.record();
    }

    /// Lets the recorder look at some stories for whether data flows, as it does now and then.
    pub fn look(&mut self) {
        let server = &mut self.server;
        self.recorder.look(self.clock.now, |relay| server.traffic(relay));
    }

    /// Lets every allocation expire, a second at a time.
    pub fn expire_all(&mut self) {
        let end = self.clock.now.plus_secs(LIFETIME_SECS + 60);
        while self.clock.now < end {
            self.clock.now = self.clock.now.plus_secs(1);
            self.clock.unix_secs += 1;
            self.server.handle_timeout(self.clock);
            while self.server.next_effect().is_some() {}
        }
        assert_eq!(self.server.allocations(), 0, "all have expired");
    }

    /// What a shard does after each call: it looks for effects, and the recorder hears of events.
    fn record(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            if let Effect::Record(event) = effect {
                self.recorder.note(self.clock.now, &self.veil, &event);
            }
        }
    }

    fn answered(&mut self, path: FiveTuple, request: &mut Datagram) -> usize {
        match self.server.from_client(self.clock, path, &mut request.packet(), &mut self.reply) {
            Verdict::Reply { len } => len,
            other => panic!("answered: {other:?}"),
        }
    }
}

/// The same in every run.
fn hashes() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

/// ChannelData with so many bytes of application data.
pub fn channel_data_message(len: usize) -> Datagram {
    let head = channel_data::header(ChannelNumber::new(CHANNEL).expect("a channel number"), len as u16);
    Datagram::new(&[&head[..], &vec![7; len]].concat())
}

/// A Send indication with so many bytes of application data.
pub fn send_indication(len: usize) -> Datagram {
    Datagram::new(&write(Method::Send, Class::Indication, Seal::None, |writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, PEER);
        writer.attribute(AttributeType::DATA, &vec![7; len]);
    }))
}

/// What a peer sends.
pub fn application_data(len: usize) -> Datagram {
    Datagram::new(&vec![7; len])
}

/// A Binding request.
pub fn binding_request() -> Datagram {
    Datagram::new(&write(Method::Binding, Class::Request, Seal::None, |_| {}))
}

fn write(method: Method, class: Class, seal: Seal<'_>, fill: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; MESSAGE_LEN_MAX];
    let mut writer = MessageWriter::new(&mut buffer, method, class, TransactionId(*b"transaction!"));
    fill(&mut writer);
    let len = writer.finish(seal, false);
    buffer.truncate(len);
    buffer
}

/// Clients are everywhere, as on the Internet.
fn path(client: u32) -> FiveTuple {
    let address = Ipv4Addr::from(0x0B00_0000 + client.wrapping_mul(0x9E37_79B1) % 0x0100_0000);
    let port = 1024 + (client % 60_000) as u16;
    FiveTuple { transport: Transport::Udp, client: SocketAddr::from((address, port)), server: SERVER }
}
