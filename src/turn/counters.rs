//! What the machine counts, and the closed vocabularies it counts by.
//!
//! Each enum here is at once a metric label, a log field and the name of a test. Plain integers: the shard copies them
//! to where a scrape can read them.

use super::{Traffic, TrafficByPath};
use crate::stun::{ErrorCode, Method};

/// Declares a field-less enum with its labels and the list of its variants.
macro_rules! vocabulary {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$inner])* $variant,)+ }

        impl $name {
            /// Every variant, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

vocabulary! {
    /// Why a packet was dropped without an answer.
    Reason {
        /// The first byte belongs to no protocol served here (RFC 7983).
        NotStun = "not_stun",
        /// The STUN header or its length field is wrong, or the method is unknown.
        BadHeader = "bad_header",
        /// An attribute runs past the end of an indication or response.
        MalformedAttribute = "malformed_attribute",
        /// FINGERPRINT does not match.
        BadFingerprint = "bad_fingerprint",
        /// A response, or an indication only servers send.
        UnexpectedClass = "unexpected_class",
        /// An indication with an attribute that must be understood and is not.
        UnknownAttribute = "unknown_attribute",
        /// An indication whose attributes are missing or ill-formed.
        BadIndication = "bad_indication",
        /// ChannelData whose length exceeds the packet.
        BadChannelData = "bad_channel_data",
        /// Data from a client without an allocation.
        NoAllocation = "no_allocation",
        /// ChannelData on a number that is not bound (any more).
        NoChannel = "no_channel",
        /// No permission for this peer (any more).
        NoPermission = "no_permission",
        /// Data to or from a port that policy refuses at a permitted address, own listeners included.
        PeerRefused = "peer_refused",
        /// For a client that is out of reach, because its connection closed, and may come back with its ticket.
        NoPath = "no_path",
        /// A request that another shard passed on for an allocation that is gone: its client will repeat it.
        Stray = "stray",
        /// A relayed address of this server at which nobody lives.
        NoSuchRelay = "no_such_relay",
        /// The request is being worked on; its answer will come.
        RetransmissionPending = "retransmission_pending",
        /// A datagram too large for the framing in front of the client.
        TooLarge = "too_large",
        /// A Send indication on a TCP allocation, or a datagram for one.
        TcpRelay = "tcp_relay",
        /// A peer connected to a TCP relay that has as many connections as allowed.
        TooManyConnections = "too_many_connections",
        /// A peer of the other family, which no socket of the allocation can reach.
        PeerFamily = "peer_family",
        /// An ICMP message of a type that clients are not told of, or the configuration tells them none.
        IcmpIgnored = "icmp_ignored",
        /// More ICMP messages in a second than one client is told of.
        IcmpRateLimited = "icmp_rate_limited",
        /// More unauthenticated requests in a second than are answered to one network.
        AnswerRateLimited = "answer_rate_limited",
        /// More data than `limits.bandwidth_per_allocation`.
        BandwidthPerAllocation = "bandwidth_per_allocation",
        /// More data than `limits.bandwidth_per_user`.
        BandwidthPerUser = "bandwidth_per_user",
        /// More data than `realms.bandwidth`.
        BandwidthPerRealm = "bandwidth_per_realm",
        /// More data than `limits.bandwidth_total`.
        BandwidthTotal = "bandwidth_total",
        /// More requests in a second from one network than may wait for keys that are kept elsewhere.
        LookUpRateLimited = "look_up_rate_limited",
        /// As many requests wait for keys that are kept elsewhere as may.
        LookUpsFull = "look_ups_full",
    }
}

vocabulary! {
    /// Which check of the long-term credential mechanism a request failed.
    Rejection {
        /// No integrity attribute: every client's first request looks like this.
        NoCredentials = "no_credentials",
        /// Integrity without REALM, NONCE or exactly one of USERNAME and USERHASH: 400.
        Incomplete = "incomplete",
        /// PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS do not fit what was offered: 400.
        BadAlgorithms = "bad_algorithms",
        /// A key or MAC that the configuration refuses as too weak.
        WeakAlgorithm = "weak_algorithm",
        /// A realm this server does not serve.
        WrongRealm = "wrong_realm",
        /// Nobody of this name, and no key with this id.
        UnknownUser = "unknown_user",
        /// A time-limited user name or an access token whose time is over.
        ExpiredCredential = "expired_credential",
        /// A time-limited user name that would live longer than allowed.
        CredentialTooLong = "credential_too_long",
        /// An access token that no key of ours opens, or that is ill-formed inside.
        BadToken = "bad_token",
        /// The MAC does not verify: wrong password.
        WrongPassword = "wrong_password",
        /// The nonce is not ours, not this client's, or too old: 438.
        StaleNonce = "stale_nonce",
        /// The back end that has the key could not be asked: 500.
        KeyUnavailable = "key_unavailable",
    }
}

vocabulary! {
    /// A bound of the configuration that a request ran into. The words are those of the keys, where there is one.
    Limit {
        /// `limits.allocations`, or the operating system has no more sockets: 508.
        Allocations = "allocations",
        /// `limits.allocations_per_user`: 486.
        AllocationsPerUser = "allocations_per_user",
        /// `limits.allocations_per_prefix`: 486.
        AllocationsPerPrefix = "allocations_per_prefix",
        /// `realms.allocations`: 486.
        AllocationsPerRealm = "allocations_per_realm",
        /// `relay.ports`: none of the family is free: 508.
        RelayPorts = "relay_ports",
        /// `limits.permissions_per_allocation`: 508.
        PermissionsPerAllocation = "permissions_per_allocation",
        /// `limits.permissions_per_user`: 508.
        PermissionsPerUser = "permissions_per_user",
        /// `limits.permissions_per_prefix`: 508.
        PermissionsPerPrefix = "permissions_per_prefix",
        /// `realms.permissions`: 508.
        PermissionsPerRealm = "permissions_per_realm",
        /// `limits.permissions`: 508.
        Permissions = "permissions",
        /// `limits.channels_per_allocation`: 508.
        ChannelsPerAllocation = "channels_per_allocation",
        /// `limits.channels_per_user`: 508.
        ChannelsPerUser = "channels_per_user",
        /// `limits.channels_per_prefix`: 508.
        ChannelsPerPrefix = "channels_per_prefix",
        /// `realms.channels`: 508.
        ChannelsPerRealm = "channels_per_realm",
        /// `limits.channels`: 508.
        Channels = "channels",
        /// `limits.peer_connections_per_allocation`: 508, and a peer that came is turned away.
        PeerConnectionsPerAllocation = "peer_connections_per_allocation",
        /// `limits.peer_connections_per_user`: the same.
        PeerConnectionsPerUser = "peer_connections_per_user",
        /// `limits.peer_connections_per_prefix`: the same.
        PeerConnectionsPerPrefix = "peer_connections_per_prefix",
        /// `realms.peer_connections`: the same.
        PeerConnectionsPerRealm = "peer_connections_per_realm",
        /// `limits.pending_effects`: 508.
        PendingEffects = "pending_effects",
        /// `limits.look_ups_waiting`, or a client has too many requests waiting, or a very long one: 500 on streams.
        LookUpsWaiting = "look_ups_waiting",
    }
}

vocabulary! {
    /// Where it was known from whether there is such a user, among those whose keys are kept elsewhere.
    LookUp {
        /// Found there a while ago.
        Remembered = "remembered",
        /// Not found there a moment ago.
        RememberedNotFound = "remembered_not_found",
        /// Asked for, and found.
        Found = "found",
        /// Asked for, and not found.
        NotFound = "not_found",
        /// Asked for in vain; what was found before counts.
        Stale = "stale",
        /// Asked for in vain: 500.
        Unavailable = "unavailable",
    }
}

vocabulary! {
    /// Why an allocation ended.
    EndReason {
        /// Its client asked for a lifetime of zero.
        Refreshed = "deleted_by_client",
        /// Nobody refreshed it.
        Expired = "expired",
        /// The client's TCP connection closed (TURN-8656-LIFE-01).
        PathClosed = "connection_closed",
        /// The server is shutting down.
        Shutdown = "shutdown",
        /// An operator ended it.
        Killed = "killed",
        /// Its credentials were taken away.
        Revoked = "revoked",
        /// `limits.peer_ports_per_allocation` or `limits.foreign_packets_percent`.
        Tunnel = "tunnel",
    }
}

vocabulary! {
    /// Why a connection between a TCP relay and a peer ended, or was not made.
    ConnectionEnd {
        /// The peer or the client closed it.
        Closed = "closed",
        /// The peer could not be connected to.
        ConnectFailed = "connect_failed",
        /// The peer did not answer in time.
        ConnectTimeout = "connect_timeout",
        /// No ConnectionBind came in time (TCP-6062-5.2-08, 5.3-04).
        NeverBound = "never_bound",
        /// Its allocation ended (TCP-6062-5.5-01).
        AllocationEnded = "allocation_ended",
        /// The peer policy changed.
        PeerRefused = "peer_refused",
    }
}

vocabulary! {
    /// How many peers or ports an allocation had.
    Spread {
        /// None.
        None = "0",
        /// One.
        One = "1",
        /// A call of two, with candidates.
        Few = "2-4",
        /// A call of several.
        Several = "5-16",
        /// A conference without a server.
        Many = "17-64",
        /// More than calls have.
        Crowd = "65+",
    }
}

vocabulary! {
    /// How many of a hundred packets of an allocation look like no part of a call.
    ForeignShare {
        /// Too few packets to tell.
        Unknown = "unknown",
        /// As good as none.
        Little = "0-9",
        /// Some.
        Some = "10-49",
        /// Most of them.
        Most = "50-100",
    }
}

/// Sums since the server was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by method, as in [`Method::ALL`].
    pub requests: [u64; Method::ALL.len()],
    /// Success responses by method.
    pub successes: [u64; Method::ALL.len()],
    /// Error responses by code, as in [`ErrorCode::ALL`].
    pub errors: [u64; ErrorCode::ALL.len()],
    /// Drops by reason, as in [`Reason::ALL`].
    pub drops: [u64; Reason::ALL.len()],
    /// Failed authentications, as in [`Rejection::ALL`].
    pub rejections: [u64; Rejection::ALL.len()],
    /// Users whose keys are kept elsewhere, as in [`LookUp::ALL`].
    pub look_ups: [u64; LookUp::ALL.len()],
    /// Requests whose credentials were good, in place of those of [`Counters::rejections`].
    pub authenticated: u64,
    /// Bounds reached, as in [`Limit::ALL`].
    pub limits: [u64; Limit::ALL.len()],
    /// Allocations made.
    pub allocations_created: u64,
    /// Allocations ended, as in [`EndReason::ALL`].
    pub allocations_ended: [u64; EndReason::ALL.len()],
    /// Those by how many peers they had, as in [`Spread::ALL`].
    pub ended_peers: [u64; Spread::ALL.len()],
    /// Those by how many ports of peers they sent to, as in [`Spread::ALL`].
    pub ended_ports: [u64; Spread::ALL.len()],
    /// Those by what they relayed, as in [`ForeignShare::ALL`].
    pub ended_foreign: [u64; ForeignShare::ALL.len()],
    /// Connections between TCP relays and peers accepted, or begun to be made.
    pub peer_connections_begun: u64,
    /// Those that have ended, as in [`ConnectionEnd::ALL`].
    pub peer_connections_ended: [u64; ConnectionEnd::ALL.len()],
    /// Application data relayed; relay-to-relay counts once in each direction, as both clients saw it.
    pub traffic: TrafficByPath,
    /// The part of it that somebody else relayed ([`super::Offload`]), as far as it was collected.
    pub mirrored_traffic: Traffic,
    /// Flows that were mirrored.
    pub flows_mirrored: u64,
    /// Flows that could not be.
    pub flows_refused: u64,
}
