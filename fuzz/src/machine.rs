//! Machines with as much switched on as a configuration can, and small limits, so that they are reached.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use hairpin::turn::{
    Clock, Config, ConnectionId, FiveTuple, IpFields, MobilityKey, Now, Packet, RelayId, ReplyBuffer, Server,
    ShardIndex, ShortTermUsers, Verdict,
};

use crate::wire::{self, Builder, Class, Parsed};

/// As an operator would write it.
const TEXT: &str = r#"
threads = 2
[listen]
udp = ["203.0.113.1:3478", "[2001:db8::1]:3478"]
tcp = ["203.0.113.1:3478", "[2001:db8::1]:3478"]
[relay]
addresses = ["99.88.77.66", "2606:4700::77"]
ports = "50001-50024"
port_quarantine = "1s"
icmp = true
[tcp_relay]
enabled = true
allow_ports = ["53", "80"]
[auth]
realm = "fuzz.example"
saslprep = true
token_server_name = "blackdow.carleon.gov"
guests = ["198.18.9.0/24"]
secrets = ["a secret of the fuzz targets"]
[[auth.users]]
name = "alice"
password = "s3cret"
[[auth.users]]
name = "bob"
password = "hunter2"
[[auth.token_keys]]
kid = "north"
key = "48476b6a33324b4a476975793039387364666171624e6a4f69617a3731393233"
[allocations]
mobility = true
[compatibility]
classic_stun = ["udp", "tcp"]
rfc5766_channels = true
[nat_discovery]
enabled = true
addresses = ["203.0.113.1", "203.0.113.2"]
response_port = true
padding = true
[[redirect.alternates]]
addresses = ["203.0.113.9", "2001:db8::9"]
port = 3478
tls_port = 5349
domain = "turn2.example.org"
[limits]
peer_connections_per_allocation = 3
permissions_per_allocation = 4
channels_per_allocation = 3
pending_effects = 64
answers_per_prefix = 20
[peers]
allow = ["10.20.0.0/16"]
deny = ["9.9.9.128/25"]
"#;

/// The machine's part of the configuration, the same in every run.
pub fn config() -> Arc<Config> {
    static CONFIG: OnceLock<Arc<Config>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let here = hairpin::config::Machine { is_another: false, ..hairpin::config::Machine::any() };
        let config = hairpin::config::check_text(TEXT, None, &here).unwrap_or_else(|errors| panic!("{errors}"));
        let mut turn = (*config.shards.turn).clone();
        // The keys are drawn at random.
        turn.nonces.current = [7; 32];
        turn.limits.allocations = 12;
        turn.mobility = Some(MobilityKey([9; 32]));
        Arc::new(turn)
    });
    Arc::clone(config)
}

/// Who may ask for his address where not everybody may: carol.
pub fn binding_users() -> ShortTermUsers {
    let text = "[[auth.binding_users]]\nname = \"carol\"\npassword = \"short-term\"\n";
    let here = hairpin::config::Machine::any();
    let config = hairpin::config::check_text(text, None, &here).unwrap_or_else(|errors| panic!("{errors}"));
    config.shards.turn.credentials.binding_users.clone()
}

/// Where clients send to.
pub fn server_address(is_ipv6: bool) -> SocketAddr {
    let text = if is_ipv6 { "[2001:db8::1]:3478" } else { "203.0.113.1:3478" };
    text.parse().expect("an address")
}

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Drop,
    /// Nothing yet.
    Later,
    /// A response.
    Reply(Vec<u8>),
    /// A response, behind which the connection carries a peer's data.
    Bound(Vec<u8>, ConnectionId),
    /// It is for that shard.
    NotMine(u16),
    /// To a peer, from this relay.
    ToPeer(RelayId, SocketAddr, Vec<u8>),
    /// To a client.
    ToClient(FiveTuple, Vec<u8>),
    /// To another shard: which, the receiving and the sending relayed address, the data.
    ToRelay(u16, SocketAddr, SocketAddr, Vec<u8>),
}

/// The shards of one server, and the clock they are told.
#[derive(Debug)]
pub struct Machine {
    /// One for each shard.
    pub servers: Vec<Server>,
    /// Now.
    pub clock: Clock,
    config: Arc<Config>,
    reply: ReplyBuffer,
    buffer: Vec<u8>,
}

impl Machine {
    /// So many shards.
    pub fn new(shards: u16) -> Self {
        let config = config();
        let server = |index| Server::new(Arc::clone(&config), ShardIndex { index, count: shards }, [index as u8; 32]);
        Self {
            servers: (0..shards).map(server).collect(),
            clock: Clock { now: Now(1_000_000_000_000), unix_secs: 1_800_000_000 },
            config: Arc::clone(&config),
            reply: ReplyBuffer::new(),
            buffer: Vec::with_capacity(70_000),
        }
    }

    /// Starts a shard again, as after a panic.
    pub fn restart(&mut self, shard: u16) {
        let index = ShardIndex { index: shard, count: self.servers.len() as u16 };
        self.servers[usize::from(shard)] = Server::new(Arc::clone(&self.config), index, [0x55; 32]);
    }

    /// Replaces the configuration of every shard.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut new = (*self.config).clone();
        change(&mut new);
        self.config = Arc::new(new);
        for server in &mut self.servers {
            server.configure(Arc::clone(&self.config));
        }
    }

    /// Time passes; nobody's timers are run.
    pub fn pass(&mut self, secs: u32) {
        self.clock.now = self.clock.now.plus_secs(secs);
        self.clock.unix_secs += u64::from(secs);
    }

    /// The nonce this server gives to whoever asks; nothing if too many have asked.
    pub fn nonce(&mut self, shard: u16, path: FiveTuple) -> Vec<u8> {
        let ask = Builder::new(wire::message_type(wire::ALLOCATE, Class::Request), [1; 12]).finish();
        let challenge = match self.client_says(shard, path, &ask) {
            Answer::Reply(challenge) => challenge,
            Answer::Drop | Answer::NotMine(_) => return Vec::new(),
            other => panic!("{other:?} instead of a challenge"),
        };
        let challenge = Parsed::parse(&challenge).expect("a response must parse");
        // A guest is told what is wrong with his request.
        challenge.get(wire::NONCE).map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// A message from a client; checks what every answer must be.
    pub fn client_says(&mut self, shard: u16, path: FiveTuple, message: &[u8]) -> Answer {
        let answer =
            self.call(shard, message, 0, |server, clock, packet, reply| server.from_client(clock, path, packet, reply));
        check_reply(&answer, message);
        answer
    }

    /// The same, by way of another shard.
    pub fn carrier_says(&mut self, shard: u16, carrier: u16, path: FiveTuple, message: &[u8]) -> Answer {
        let answer = self.call(shard, message, 0, |server, clock, packet, reply| {
            server.from_carrier(clock, carrier, path, packet, reply)
        });
        check_reply(&answer, message);
        answer
    }

    /// A datagram from a peer.
    pub fn peer_says(&mut self, shard: u16, relay: RelayId, peer: SocketAddr, data: &[u8], tos: u8) -> Answer {
        self.call(shard, data, tos, |server, clock, packet, _| server.from_peer(clock, relay, peer, packet))
    }

    /// A packet from a relay of another shard.
    pub fn relay_says(&mut self, shard: u16, relayed: SocketAddr, from: SocketAddr, data: &[u8]) -> Answer {
        self.call(shard, data, 0, |server, clock, packet, _| server.from_relay(clock, relayed, from, packet))
    }

    fn call(
        &mut self,
        shard: u16,
        message: &[u8],
        traffic_class: u8,
        call: impl FnOnce(&mut Server, Clock, &mut Packet<'_>, &mut ReplyBuffer) -> Verdict,
    ) -> Answer {
        // Old bytes everywhere: none of them may come out again.
        self.reply.fill(0xEE);
        self.buffer.clear();
        self.buffer.resize(Packet::HEADROOM, 0xEE);
        self.buffer.extend(message);
        self.buffer.extend([0xEE; Packet::TAILROOM]);
        let range = Packet::HEADROOM..Packet::HEADROOM + message.len();
        let mut packet = Packet::new(&mut self.buffer, range, IpFields { traffic_class, dont_fragment: false });
        let verdict = call(&mut self.servers[usize::from(shard)], self.clock, &mut packet, &mut self.reply);
        match verdict {
            Verdict::Drop(_) => Answer::Drop,
            Verdict::Later => Answer::Later,
            Verdict::Bound { len, connection } => Answer::Bound(self.reply[..len].to_vec(), connection),
            Verdict::NotMine { shard } => Answer::NotMine(shard),
            Verdict::Reply { len } => Answer::Reply(self.reply[..len].to_vec()),
            Verdict::ToPeer { from, to, bytes, .. } => Answer::ToPeer(from, to, self.buffer[bytes].to_vec()),
            Verdict::ToClient { to, bytes, .. } => Answer::ToClient(to, self.buffer[bytes].to_vec()),
            Verdict::ToRelay { shard, relayed, from, bytes, .. } => {
                Answer::ToRelay(shard, relayed, from, self.buffer[bytes].to_vec())
            }
        }
    }
}

/// What every answer must be.
fn check_reply(answer: &Answer, message: &[u8]) {
    let (Answer::Reply(reply) | Answer::Bound(reply, _)) = answer else { return };
    if message[4..8] != [0x21, 0x12, 0xA4, 0x42] {
        // RFC 3489 knows no cookie.
        assert!(reply[0] == 1 && reply[4..20] == message[4..20] && reply.len() <= 100, "{reply:?}");
        return;
    }
    let response = Parsed::parse(reply).expect("a response must parse");
    assert!(response.padding_is_zero, "old bytes leak in the padding");
    assert!(matches!(response.class, Class::Success | Class::Error));
    assert_eq!(response.transaction_id, message[8..20], "an answer to something else");
}
