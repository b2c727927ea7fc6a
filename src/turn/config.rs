//! What the machine may rely on: already checked, the same for all shards.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{
    Bandwidth, BehaviorDiscovery, Credentials, PeerPolicy, PeerRefusal, PortSet, Realm, Redirect, RelayTransports,
    SessionKey,
};
use crate::stun::AddressFamily;

/// Everything a [`super::Server`] needs to know. `crate::config` makes one from what the operator wrote.
#[derive(Clone, Debug)]
pub struct Config {
    /// REALM, at most 127 bytes.
    pub realm: String,
    /// SOFTWARE in authenticated responses, at most 127 bytes.
    pub software: Option<String>,
    /// Who may allocate.
    pub credentials: Credentials,
    /// Realms beside this one, with their own users, secrets and limits.
    pub realms: Vec<Realm>,
    /// What nonces are made with.
    pub nonces: NonceKeys,
    /// What session ids are made with.
    pub session_key: SessionKey,
    /// Where relays live; no two advertise the same address. A family without an address here is answered 440.
    pub relays: Vec<RelayAddress>,
    /// Ports of relayed transport addresses, of all shards together.
    pub ports: PortRange,
    /// What relays may speak towards peers.
    pub relay_transports: RelayTransports,
    /// Whether clients are told what ICMP says about their datagrams (RFC 8656 §11.5).
    pub icmp: bool,
    /// Whether DONT-FRAGMENT is understood; without, it is an unknown attribute (TURN-8656-7.2-07).
    pub dont_fragment: bool,
    /// Prefixes whose clients may not allocate: 403 (TURN-8656-7.2-34).
    pub denied_clients: Vec<IpNet>,
    /// When clients that want to allocate are sent to another server.
    pub redirect: Redirect,
    /// NAT behaviour discovery (RFC 5780), if it is offered.
    pub behavior_discovery: Option<BehaviorDiscovery>,
    /// What old clients are allowed.
    pub compatibility: Compatibility,
    /// What tickets are sealed with, if clients may move from one address to another (RFC 8016).
    pub mobility: Option<MobilityKey>,
    /// Which peers may be reached.
    pub peers: PeerPolicy,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// How many there may be.
    pub limits: Limits,
}

impl Config {
    /// Where nobody may allocate, and nothing optional is offered: a start for whoever changes a few fields.
    pub fn new(nonces: NonceKeys) -> Self {
        Self {
            realm: String::new(),
            software: None,
            credentials: Credentials::default(),
            realms: Vec::new(),
            nonces,
            session_key: SessionKey::default(),
            relays: Vec::new(),
            ports: PortRange { first: 49_152, last: 65_535, quarantine_secs: 0 },
            relay_transports: RelayTransports::default(),
            icmp: true,
            dont_fragment: true,
            denied_clients: Vec::new(),
            redirect: Redirect::default(),
            behavior_discovery: None,
            compatibility: Compatibility::default(),
            mobility: None,
            peers: PeerPolicy::default(),
            lifetimes: Lifetimes { allocation_default_secs: 600, allocation_max_secs: 3600 },
            limits: Limits::default(),
        }
    }

    /// Whether this is the address of relays, as peers see it.
    pub(super) fn is_relay_ip(&self, ip: IpAddr) -> bool {
        self.relays.iter().any(|relay| relay.advertise == ip)
    }

    /// Whether clients from here may not allocate.
    pub(super) fn is_denied_client(&self, ip: IpAddr) -> bool {
        self.denied_clients.iter().any(|prefix| prefix.contains(&ip))
    }

    /// Whether this can be a relayed transport address of ours.
    pub(super) fn is_relayed(&self, peer: SocketAddr) -> bool {
        self.is_relay_ip(peer.ip()) && self.ports.contains(peer.port())
    }

    /// Where this machine itself reaches a peer: our own relayed addresses where their sockets are bound, since a host
    /// behind 1:1 NAT may not reach its own public address.
    pub(super) fn to_bound(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.relays.iter().find(|relay| relay.advertise == peer.ip() && self.ports.contains(peer.port()));
        own.map_or(peer, |relay| SocketAddr::new(relay.bind, peer.port()))
    }

    /// The reverse of [`Config::to_bound`].
    pub(super) fn to_advertised(&self, from: SocketAddr) -> SocketAddr {
        let own = self.relays.iter().find(|relay| relay.bind == from.ip() && self.ports.contains(from.port()));
        own.map_or(from, |relay| SocketAddr::new(relay.advertise, from.port()))
    }

    /// Whether a client may have a permission for, or a channel to, this peer. A port of 0 stands for any.
    ///
    /// Relayed addresses of this very server are always allowed: two of its clients meet there. Its other ports are not.
    /// The ports of the peer that may be reached are what comes back.
    pub(super) fn check_peer(&self, peer: SocketAddr) -> Result<PortSet, PeerRefusal> {
        let ports = self.peer_ports(peer.ip())?;
        match ports.contains(peer.port()) || peer.port() == 0 {
            true => Ok(ports),
            false if self.is_relay_ip(peer.ip()) => Err(PeerRefusal::Own),
            false => Err(PeerRefusal::Port),
        }
    }

    /// The ports of a peer that may be reached, at least one.
    pub(super) fn peer_ports(&self, peer: IpAddr) -> Result<PortSet, PeerRefusal> {
        if !self.is_relay_ip(peer) {
            return self.peers.ports(peer);
        }
        let mut ports = self.peers.allowed_by_name(peer);
        ports.insert(&(self.ports.first..=self.ports.last));
        self.peers.close_listeners(peer, &mut ports);
        Ok(ports)
    }
}

/// What clients of older RFCs are allowed, and RFC 8489 and RFC 8656 are not for. Nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compatibility {
    /// Binding without magic cookie over UDP (RFC 3489; CLASSIC-5389-12-01).
    pub classic_udp: bool,
    /// The same over TCP.
    pub classic_tcp: bool,
    /// Channel numbers 0x5000–0x7FFE (RFC 5766; CLASSIC-5766-01).
    pub rfc_5766_channels: bool,
    /// Without REQUESTED-ADDRESS-FAMILY a client gets a relayed address of its own family, not IPv4 (A08).
    pub own_family: bool,
}

/// Keys of the stateless nonces; the same in all shards, so that a nonce outlives the shard that made it.
#[derive(Clone)]
pub struct NonceKeys {
    /// Makes and checks.
    pub current: [u8; 32],
    /// Still checks, after a change of keys.
    pub previous: Option<[u8; 32]>,
    /// Seconds until 438, at most 3600 (TURN-8656-5-02).
    pub lifetime_secs: u32,
}

impl fmt::Debug for NonceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NonceKeys(…, {} s)", self.lifetime_secs)
    }
}

/// The key of MOBILITY-TICKET (RFC 8016); the same in all shards, and nobody else's.
#[derive(Clone, PartialEq, Eq)]
pub struct MobilityKey(pub [u8; 32]);

impl fmt::Debug for MobilityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MobilityKey(…)")
    }
}

/// A local address to bind relay sockets to, and what peers see of it (1:1 NAT, TURN-8656-7.2-35).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// On an interface of this machine.
    pub bind: IpAddr,
    /// In XOR-RELAYED-ADDRESS; of the same family.
    pub advertise: IpAddr,
}

impl RelayAddress {
    /// The family of both.
    pub const fn family(&self) -> AddressFamily {
        AddressFamily::of(self.bind)
    }
}

/// Ports for relayed transport addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port, at least 1024.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
    /// How long a freed port rests before it is given out again, in seconds (abuse S11).
    pub quarantine_secs: u32,
}

impl PortRange {
    /// Whether the port lies in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// Lifetimes in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Granted when a client asks for less, or for nothing (RFC 8656 §7.2).
    pub allocation_default_secs: u32,
    /// The most that is granted.
    pub allocation_max_secs: u32,
}

/// The lifetime of a permission is exactly this (RFC 8656 §9, TURN-8656-9-02), in seconds.
pub(super) const PERMISSION_SECS: u32 = 300;

/// The lifetime of a channel binding (RFC 8656 §12, TURN-8656-12-02), in seconds.
pub(super) const CHANNEL_SECS: u32 = 600;

/// Sizes of tables and queues, reaching one of which is answered 508, and a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations of one shard.
    pub allocations: usize,
    /// Permissions of one allocation.
    pub permissions_per_allocation: usize,
    /// Channels of one allocation.
    pub channels_per_allocation: usize,
    /// Flows of one allocation that somebody else may relay ([`super::Offload`]): beyond, data passes here.
    pub mirrored_flows_per_allocation: usize,
    /// Effects not yet taken by the shell.
    pub effects: usize,
    /// Answers a second of one shard, over UDP, to unauthenticated requests from one IPv4 /24 or IPv6 /56; beyond, they
    /// are dropped. Zero is no limit. Clients with an allocation and those on this machine are not counted.
    pub answers_per_prefix: u32,
    /// How much data may pass.
    pub bandwidth: Bandwidth,
    /// An allocation that has sent to more ports of peers than this is ended; zero is no limit.
    pub peer_ports_per_allocation: u32,
    /// One of which more than so many of a hundred packets look like no part of a call is ended; zero is no limit.
    pub foreign_packets_percent: u32,
}

impl Default for Limits {
    /// Of a single shard, and no limit to answers and data.
    fn default() -> Self {
        Self {
            allocations: 16_384,
            permissions_per_allocation: 256,
            channels_per_allocation: 256,
            mirrored_flows_per_allocation: 16,
            effects: 4096,
            answers_per_prefix: 0,
            bandwidth: Bandwidth::default(),
            peer_ports_per_allocation: 0,
            foreign_packets_percent: 0,
        }
    }
}

/// Which of how many shards a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    /// From 0.
    pub index: u16,
    /// At least 1.
    pub count: u16,
}

impl ShardIndex {
    /// The only one.
    pub const SINGLE: Self = Self { index: 0, count: 1 };

    /// The shard that owns a relay port. Pairs (even, odd) stay together, for EVEN-PORT.
    pub const fn owner_of(self, port: u16) -> u16 {
        (port / 2) % self.count
    }

    /// Whether this shard owns the port.
    pub const fn owns(self, port: u16) -> bool {
        self.owner_of(port) == self.index
    }
}
