//! RFC 8656 and RFC 6062 as a machine: told packets and the time, it answers with verdicts.
//!
//! No socket, clock, lock, thread, random source or secret-bearing log in this room, and of ours it imports only
//! `stun`. Whoever runs a [`Server`] (a shard thread, the simulation, a test) owns the sockets, passes the time and a
//! seed in, and does what comes back. Same inputs, same outputs: any run can be replayed.
//!
//! The contract, in one paragraph: every call that brings bytes returns one [`Verdict`], which says what to do with
//! exactly these bytes, now. Slow or indirect work comes out of [`Server::next_effect`], to be drained after every
//! call; each [`Effect`] that asks something is answered by exactly one call. Then arm a timer for
//! [`Server::next_timeout`] and call [`Server::handle_timeout`] when it is due; a late call changes no decision, since
//! every lifetime is compared with the clock at the moment it matters.
//! Data may also pass without it: an [`Offload`] is told what may pass by itself, and [`Server::collect_offloaded`], once a
//! second, counts what has.
//! Bad input is a value ([`Reason`], an error response). A panic is a bug of ours: drop this server and start another.
//!
//! Reading order: this file (the words of the contract), `server.rs` (its calls), `relay.rs` (the hot path),
//! `request.rs` (how a request is taken apart and answered), `authenticate/`, `look_up.rs` (users whose keys are kept
//! elsewhere), then one file a method (that of Connect also has what else concerns connections to peers). What operators
//! see and end: `inspect.rs`. What several allocations may have together: `holdings.rs`. What somebody else relays:
//! `offload.rs` (the contract), `mirror.rs`. Tables: `allocation.rs`, `allocations.rs`, `peer_connections.rs`,
//! `reservations.rs`, `elsewhere.rs`, `kept_keys.rs`, `ports.rs`, `timers.rs`.
//! Not here: framing of streams (`stun::stream`), which socket belongs to which relay (`shard`), quotas that span
//! shards (the shell answers [`Effect::BindRelay`] with [`BindError::UserQuotaReached`] and the like).

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod access_token;
mod allocate;
mod allocation;
mod allocations;
mod answer_limit;
mod attributes;
mod authenticate;
mod bandwidth;
mod behavior;
mod binding;
mod channel_bind;
mod classic;
mod config;
mod connect;
mod connection_attempt;
mod connection_bind;
mod counters;
mod create_permission;
mod credentials;
mod deleted;
mod elsewhere;
mod event;
mod hints;
mod holdings;
mod icmp;
mod inspect;
mod kept_keys;
mod letter;
mod look_up;
mod mirror;
mod mobility;
mod nonce;
mod offload;
mod packet;
mod peer_connections;
mod peer_policy;
mod peer_rules;
mod ports;
mod realms;
mod redirect;
mod refresh;
mod relay;
mod relay_transports;
mod request;
mod reservations;
mod revocation;
mod send;
mod server;
mod server_name;
mod session;
mod timers;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use access_token::{TokenKey, TokenKeys};
pub use bandwidth::{BURST_NANOS, Bandwidth, Budget, Budgets, Direction, take_from_bucket};
pub use behavior::{BehaviorDiscovery, ServerAddress};
pub use config::{
    Compatibility, Config, Lifetimes, Limits, MobilityKey, NonceKeys, PortRange, RelayAddress, ShardIndex,
};
pub use counters::{ConnectionEnd, Counters, EndReason, ForeignShare, Limit, LookUp, Reason, Rejection, Spread};
pub use credentials::{Credentials, MacHash, SharedSecret, ShortTermUsers, StaticUser, TimeLimitedForm, Users};
pub use event::Event;
pub use hints::Hints;
pub use holdings::{Held, HeldQuotas, Holding, Holdings};
pub use inspect::{Session, SessionFilter, SessionRelay, WalkPlace};
pub use letter::Letter;
pub use look_up::{KeyAnswer, KeyLookUps};
pub use offload::{Flow, FlowId, Offload, Passed};
pub use packet::{IpFields, Packet, ReplyBuffer};
pub use peer_connections::ConnectionId;
pub use peer_policy::{PeerPolicy, PeerProfile, PeerRefusal};
pub use peer_rules::{NotARule, PeerRule, PortSet};
pub use realms::{Realm, RealmChoice, realm_of_account};
pub use redirect::{Alternate, Redirect, RedirectWhen};
pub use relay_transports::{PeerPorts, PeerTransport, RelayTransports, TcpRelays};
pub use revocation::{EndSessions, Revocation};
pub use server::Server;
pub use server_name::{NotAServerName, ServerName};
pub use session::{SessionId, SessionKey};

use crate::stun::AddressFamily;

/// A point in time: CLOCK_MONOTONIC in nanoseconds, read once per batch by the shard. Valid across processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(pub u64);

impl Now {
    /// The moment this many seconds later.
    #[must_use]
    pub const fn plus_secs(self, secs: u32) -> Self {
        Self(self.0.saturating_add(secs as u64 * 1_000_000_000))
    }

    /// Whole seconds from `self` until `later`, rounded up; zero if that has passed.
    #[must_use]
    pub const fn secs_until(self, later: Self) -> u32 {
        let nanos = later.0.saturating_sub(self.0);
        let secs = nanos.div_ceil(1_000_000_000);
        if secs > u32::MAX as u64 { u32::MAX } else { secs as u32 }
    }
}

/// The two clocks the machine needs: lifetimes run on the monotonic one (TURN-8656-LIFE-05), expiring credentials are
/// written in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Monotonic.
    pub now: Now,
    /// Wall clock, seconds since 1970.
    pub unix_secs: u64,
}

/// The transport between client and server; that towards peers is [`PeerTransport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams; the client may retransmit.
    Udp,
    /// A byte stream; ChannelData is padded.
    Tcp,
    /// A byte stream inside TLS; for the machine no different from TCP.
    Tls,
    /// Datagrams inside DTLS; for the machine no different from UDP.
    Dtls,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];

    /// Whether messages travel in a byte stream.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// `udp`, `tcp`, `tls` or `dtls`, as metrics and logs use it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        }
    }
}

/// RFC 8656 §2: what identifies an allocation towards its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// UDP and TCP from the same address are two allocations (TURN-8656-5-04).
    pub transport: Transport,
    /// The client as the server sees it.
    pub client: SocketAddr,
    /// The server's own address that the client sent to; answers leave from it (STUN-8489-6.3.1.2-01).
    pub server: SocketAddr,
}

/// Names one relayed transport address of one allocation, for as long as that allocation lives.
///
/// It packs into 64 bits and so serves as the event token of the relay socket: no look-up by address is needed when a
/// peer's datagram arrives. A slot is used again with another generation, so that a late event cannot hit a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayId {
    /// Index into the allocation table, below 2^31.
    pub(in crate::turn) slot: u32,
    /// How often the slot was used before.
    pub(in crate::turn) generation: u32,
    /// An allocation has at most one relayed address of each family.
    pub(in crate::turn) family: AddressFamily,
}

impl RelayId {
    /// The name of the same allocation's relayed address of this family.
    pub(in crate::turn) const fn of_family(self, family: AddressFamily) -> Self {
        Self { family, ..self }
    }

    /// The name of the same allocation's relayed address of the other family, if it has one.
    #[must_use]
    pub const fn other_half(self) -> Self {
        match self.family {
            AddressFamily::Ipv4 => self.of_family(AddressFamily::Ipv6),
            AddressFamily::Ipv6 => self.of_family(AddressFamily::Ipv4),
        }
    }

    /// Packs into 64 bits.
    pub const fn to_token(self) -> u64 {
        let family = match self.family {
            AddressFamily::Ipv4 => 0,
            AddressFamily::Ipv6 => 1,
        };
        (self.generation as u64) << 32 | (self.slot as u64) << 1 | family
    }

    /// The reverse of [`RelayId::to_token`].
    pub const fn from_token(token: u64) -> Self {
        Self {
            slot: (token as u32) >> 1,
            generation: (token >> 32) as u32,
            family: if token & 1 == 0 { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 },
        }
    }

    /// Index into dense per-relay tables of the shell: below twice the number of slots in use at the same time.
    pub const fn index(self) -> usize {
        (self.to_token() as u32) as usize
    }
}

/// What to do with the bytes just handed in. `bytes` are ranges of the packet's whole buffer ([`Packet::buffer`]).
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send `bytes` of the packet from the socket of relay `from`.
    ToPeer {
        /// The relay whose socket sends.
        from: RelayId,
        /// The peer, of the relay's family.
        to: SocketAddr,
        /// Where in the packet's buffer the application data lies.
        bytes: std::ops::Range<usize>,
        /// Header fields to set where the platform can.
        ip: IpFields,
    },
    /// Send `bytes` of the packet to a client (from `to.server`), framing included.
    ToClient {
        /// The client's 5-tuple.
        to: FiveTuple,
        /// Where in the packet's buffer the message lies.
        bytes: std::ops::Range<usize>,
        /// Header fields to set where the platform can.
        ip: IpFields,
    },
    /// The peer is a relayed address of this very server, in another shard: carry `bytes` there and hand them to
    /// [`Server::from_relay`].
    ToRelay {
        /// The other shard: the owner of the port, or whom the owner has lent it to.
        shard: u16,
        /// The receiving relayed transport address, as advertised.
        relayed: SocketAddr,
        /// The sending relayed transport address, as advertised.
        from: SocketAddr,
        /// Where in the packet's buffer the application data lies.
        bytes: std::ops::Range<usize>,
        /// Header fields to carry along.
        ip: IpFields,
    },
    /// This client's message is for another shard, unchanged. A datagram travels alone, and is for
    /// [`Server::from_carrier`] there; a connection moves there with all that was not read yet, this message first, and
    /// stays. What was carried once is not carried again: such a verdict about it is to be dropped.
    NotMine {
        /// The other shard.
        shard: u16,
    },
    /// Answer the sender with the first `len` bytes of the reply buffer.
    Reply {
        /// Length in bytes.
        len: usize,
    },
    /// Answer the sender with the first `len` bytes of the reply buffer. From then on its connection carries no more
    /// messages, but the bytes of this connection to a peer, both ways and from the very next one on
    /// (TCP-6062-5.4-04); [`Server::peer_relayed`] counts them, [`Server::peer_closed`] ends it. Streams only.
    Bound {
        /// Length in bytes.
        len: usize,
        /// Whose data it carries.
        connection: ConnectionId,
    },
    /// Nothing now; an [`Effect::Send`] will answer.
    Later,
    /// Nothing at all.
    Drop(Reason),
}

/// Work that is not "send these bytes now". Drained with [`Server::next_effect`] after every call.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Count this user's new allocation, unless its [`RelayId::other_half`] is counted already, and bind a socket to
    /// `local`; then call [`Server::relay_bound`]. A TCP socket is to listen, and what it accepts is shown to
    /// [`Server::peer_accepted`].
    BindRelay {
        /// Its name from now on; the socket's event token.
        relay: RelayId,
        /// The local address, port included.
        local: SocketAddr,
        /// UDP or TCP.
        transport: PeerTransport,
        /// For quotas: the account the allocation counts for.
        account: Arc<str>,
        /// For quotas: its client, whose network it counts for, wherever the client may go later.
        client: IpAddr,
    },
    /// Close the socket of this relay (if there is one) and take the allocation off its account, unless its other half
    /// lives on.
    CloseRelay {
        /// As in the `BindRelay` before.
        relay: RelayId,
        /// As in the `BindRelay` before.
        account: Arc<str>,
    },
    /// Connect to a peer from the address of a TCP relay, without waiting; then call [`Server::peer_connected`]. Not
    /// later than the configured time: then [`Effect::ClosePeer`] takes the question back.
    ConnectPeer {
        /// Its name from now on.
        connection: ConnectionId,
        /// As in the `BindRelay` before.
        local: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// Only if a TCP relay of this server is bound to that address, of whatever shard: of this machine nothing else
        /// is to be reached.
        relays_only: bool,
    },
    /// Close a connection to a peer, accepted, being made, or joined with a client data connection, which ends with it.
    /// One that the shell does not have (any more) is closed already.
    ClosePeer {
        /// Its name.
        connection: ConnectionId,
    },
    /// Send a message that was not the answer to the call it came from.
    Send {
        /// The client's 5-tuple.
        to: FiveTuple,
        /// The whole message.
        bytes: Box<[u8]>,
    },
    /// Find the keys of a user where they are kept; then call [`Server::key_found`] with the ticket, in any order and at
    /// any time. One answer counts; later ones, and none at all, do no harm.
    FindKey {
        /// Names the question.
        ticket: u64,
        /// The keys are those for this realm.
        realm: Arc<str>,
        /// The user name, prepared (RFC 8265).
        who: Arc<str>,
    },
    /// The same as [`Verdict::Bound`], for a request that had to wait: send the message, and the connection it goes to
    /// carries no more of them.
    Bound {
        /// The client's 5-tuple.
        to: FiveTuple,
        /// The whole message.
        bytes: Box<[u8]>,
        /// Whose data it carries.
        connection: ConnectionId,
    },
    /// Hand the letter to [`Server::told`] of another shard. Letters from one shard to another arrive in the order
    /// they were sent; one that is lost is made up for by [`Server::shard_restarted`].
    Tell {
        /// The other shard.
        shard: u16,
        /// What to tell it.
        letter: Letter,
    },
    /// Something an operator may want to read in a log.
    Record(Event),
}

/// Why [`Effect::BindRelay`] was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// Somebody else has this port: the core tries another one, a bounded number of times.
    PortInUse,
    /// The account has as many allocations as allowed: 486.
    UserQuotaReached,
    /// The client's network has as many allocations as allowed: 486.
    PrefixQuotaReached,
    /// The account's realm has as many allocations as allowed: 486.
    RealmQuotaReached,
    /// The whole server has as many allocations as allowed, or is out of descriptors or memory: 508.
    OutOfCapacity,
}

/// Why [`Effect::ConnectPeer`] came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The peer or the network said no: 447.
    Failed,
    /// There are as many connections as allowed on the whole server, or no descriptors or memory: 508.
    OutOfCapacity,
}

/// Relayed addresses by the transport the allocation was made over, as in [`Transport::ALL`], and the address family:
/// IPv4, IPv6.
pub type RelayedAddresses = [[usize; 2]; Transport::ALL.len()];

/// What was relayed by the transport its client came over at that moment, as in [`Transport::ALL`], and the family of the
/// relayed address: IPv4, IPv6.
pub type TrafficByPath = [[Traffic; 2]; Transport::ALL.len()];

/// Application data relayed for one allocation, without TURN framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams client → peer.
    pub packets_to_peer: u64,
    /// Bytes client → peer.
    pub bytes_to_peer: u64,
    /// Datagrams peer → client.
    pub packets_to_client: u64,
    /// Bytes peer → client.
    pub bytes_to_client: u64,
}

impl Traffic {
    /// Of all transports and families.
    pub fn total(by_path: &TrafficByPath) -> Self {
        let mut total = Self::default();
        by_path.iter().flatten().for_each(|traffic| total.add(traffic));
        total
    }

    /// Adds what was relayed elsewhere.
    pub const fn add(&mut self, other: &Self) {
        self.packets_to_peer += other.packets_to_peer;
        self.bytes_to_peer += other.bytes_to_peer;
        self.packets_to_client += other.packets_to_client;
        self.bytes_to_client += other.bytes_to_client;
    }

    /// Counts a datagram; which one it was in its direction.
    #[inline]
    fn count(&mut self, direction: Direction, len: u64) -> u64 {
        let (packets, bytes) = match direction {
            Direction::ToPeer => (&mut self.packets_to_peer, &mut self.bytes_to_peer),
            Direction::ToClient => (&mut self.packets_to_client, &mut self.bytes_to_client),
        };
        *packets += 1;
        *bytes += len;
        *packets
    }

    /// Counts several datagrams; how many there are in their direction then.
    fn count_several(&mut self, direction: Direction, packets: u64, bytes: u64) -> u64 {
        let (sum, sum_of_bytes) = match direction {
            Direction::ToPeer => (&mut self.packets_to_peer, &mut self.bytes_to_peer),
            Direction::ToClient => (&mut self.packets_to_client, &mut self.bytes_to_client),
        };
        *sum += packets;
        *sum_of_bytes += bytes;
        *sum
    }
}
