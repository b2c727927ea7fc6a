//! What the machine tells about sessions, for people.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{
    ConnectionEnd, Direction, EndReason, FiveTuple, Hints, Limit, PeerRefusal, Reason, Rejection, RelayId, SessionId,
    Traffic,
};
use crate::stun::{ChannelNumber, ErrorCode, Method};

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
        /// Its realm; `None` where the server has but one.
        realm: Option<Arc<str>>,
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
        /// Its realm; `None` where the server has but one.
        realm: Option<Arc<str>>,
        /// Why.
        why: EndReason,
        /// What it relayed.
        traffic: Traffic,
        /// What that looked like.
        hints: Hints,
        /// Datagrams dropped for want of a permission or channel: to peers, to the client.
        unpermitted: [u32; 2],
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
        /// Whom it claimed to be, as far as that can be known: the account, if it is a time-limited name. Anybody may
        /// have written it.
        claimed: Option<Arc<str>>,
    },
    /// A request without credentials was told how to ask: every client's first request.
    Challenged {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
    },
    /// A request was answered with an error, but for those that failed authentication or peer policy.
    RequestRefused {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
        /// What it asked for.
        method: Method,
        /// What it was told.
        code: ErrorCode,
        /// The bound that was reached, if one was.
        limit: Option<Limit>,
        /// Who asked, if that has been shown.
        account: Option<Arc<str>>,
    },
    /// The lifetime of an allocation begins again.
    Refreshed {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
        /// Granted seconds.
        lifetime_secs: u32,
    },
    /// A permission was installed; refreshing one is no event.
    Permitted {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
        /// The peer, of whatever port.
        peer: IpAddr,
    },
    /// A channel was bound; refreshing one is no event.
    ChannelBound {
        /// Whose.
        session: SessionId,
        /// The asking client.
        path: FiveTuple,
        /// The number.
        number: ChannelNumber,
        /// The peer.
        peer: SocketAddr,
    },
    /// The first datagram that a relayed address has relayed in this direction.
    FirstData {
        /// Whose.
        session: SessionId,
        /// Its client.
        path: FiveTuple,
        /// Which way.
        direction: Direction,
        /// The peer.
        peer: SocketAddr,
    },
    /// A datagram was dropped that other rules than a limit keep back: the first few of an allocation only, each about
    /// another peer than the one before; [`Event::Ended`] has how many there were.
    DataDropped {
        /// Whose.
        session: SessionId,
        /// Its client.
        path: FiveTuple,
        /// Which way it was to go.
        direction: Direction,
        /// The peer; none for a channel number that is not bound.
        peer: Option<SocketAddr>,
        /// Why.
        why: Reason,
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
            | Self::AuthenticationFailed { session, .. }
            | Self::Challenged { session, .. }
            | Self::RequestRefused { session, .. }
            | Self::Refreshed { session, .. }
            | Self::Permitted { session, .. }
            | Self::ChannelBound { session, .. }
            | Self::FirstData { session, .. }
            | Self::DataDropped { session, .. } => *session,
        }
    }
}
