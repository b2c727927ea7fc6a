//! What the machine tells about sessions, for people.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{ConnectionEnd, EndReason, FiveTuple, Hints, PeerRefusal, Rejection, RelayId, SessionId, Traffic};

/// Something worth a log line. Closed and typed: the shell chooses the words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An allocation came to life: one event for each of its relayed addresses.
    Allocated {
        /// Whose.
        session: SessionId,
        /// Its relay.
        relay: RelayId,
        /// Its client.
        path: FiveTuple,
        /// Its relayed transport address, as advertised.
        relayed: SocketAddr,
        /// The account it counts for.
        account: Arc<str>,
        /// Granted seconds.
        lifetime_secs: u32,
    },
    /// An allocation ended, or one half of it: one event for each of its relayed addresses.
    Ended {
        /// Whose.
        session: SessionId,
        /// Its relay.
        relay: RelayId,
        /// Its client.
        path: FiveTuple,
        /// Its relayed transport address, as advertised.
        relayed: SocketAddr,
        /// The account it counted for.
        account: Arc<str>,
        /// Why.
        why: EndReason,
        /// What it relayed.
        traffic: Traffic,
        /// What that looked like.
        hints: Hints,
    },
    /// A client with a ticket (RFC 8016) has shown it from another 5-tuple and goes on there, or its connection was
    /// closed.
    Moved {
        /// Whose.
        session: SessionId,
        /// Its relay, or one of two.
        relay: RelayId,
        /// Where it was until now; `None` if that connection was closed before.
        from: Option<FiveTuple>,
        /// Where it is now; `None` if it is out of reach.
        to: Option<FiveTuple>,
        /// The account the allocation counts for, as before.
        account: Arc<str>,
    },
    /// A TCP relay has a connection to a peer, which waits for its client.
    PeerConnected {
        /// Whose.
        session: SessionId,
        /// Its relay.
        relay: RelayId,
        /// The client's control connection.
        path: FiveTuple,
        /// The peer.
        peer: SocketAddr,
        /// The peer came to the relay; otherwise the client had asked for it.
        is_incoming: bool,
    },
    /// Such a connection is over.
    PeerDisconnected {
        /// Whose.
        session: SessionId,
        /// Its relay.
        relay: RelayId,
        /// The client's control connection.
        path: FiveTuple,
        /// The peer.
        peer: SocketAddr,
        /// Why.
        why: ConnectionEnd,
        /// Bytes both ways; of packets nothing is known.
        traffic: Traffic,
    },
    /// A permission, channel or connection towards this peer was refused by policy. Everyday traffic (L13): DEBUG at most.
    PeerRefused {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
        /// The peer.
        peer: SocketAddr,
        /// Which rule.
        why: PeerRefusal,
    },
    /// A request failed authentication.
    AuthenticationFailed {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
        /// Which check.
        why: Rejection,
    },
}

impl Event {
    /// Whose it is.
    pub const fn session(&self) -> SessionId {
        match self {
            Self::Allocated { session, .. }
            | Self::Ended { session, .. }
            | Self::Moved { session, .. }
            | Self::PeerConnected { session, .. }
            | Self::PeerDisconnected { session, .. }
            | Self::PeerRefused { session, .. }
            | Self::AuthenticationFailed { session, .. } => *session,
        }
    }
}
