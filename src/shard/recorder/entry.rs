//! What a story is made of: small, fixed in size, and without words.

use crate::shard::Shown;
use crate::stun::{ErrorCode, Method};
use crate::turn::{ConnectionEnd, Direction, EndReason, Limit, Now, PeerRefusal, Reason, Rejection};

/// One thing that happened, or the same thing several times in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub what: What,
    /// When.
    pub at: Now,
    /// Seconds from then to the last time.
    pub for_secs: u32,
    /// How often.
    pub times: u32,
    /// The next one of the same story.
    pub(super) next: u32,
}

/// What may happen to a session. Traffic of more than fits is shown as what fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Asked without credentials and was told how to ask.
    Challenged,
    /// Failed a check of its credentials.
    AuthenticationFailed(Rejection),
    /// Was answered with an error.
    Refused {
        /// What it asked for.
        method: Method,
        /// What it was told.
        code: ErrorCode,
        /// The bound it ran into.
        limit: Option<Limit>,
        /// Who it is had been shown.
        is_authenticated: bool,
    },
    /// Got a relayed address.
    Allocated {
        /// Which; addresses of ours are always whole.
        relayed: Shown,
        /// For how long.
        lifetime_secs: u32,
    },
    /// Has it for longer.
    Refreshed {
        /// For how long.
        lifetime_secs: u32,
    },
    /// A peer may send and be sent to.
    Permitted(Shown),
    /// A channel leads to a peer.
    ChannelBound {
        /// Its number.
        number: u16,
        /// The peer.
        peer: Shown,
    },
    /// A permission, channel or connection was refused by policy.
    PeerRefused {
        /// The peer.
        peer: Shown,
        /// Which rule.
        why: PeerRefusal,
    },
    /// The first datagram in this direction.
    FirstData {
        /// Which way.
        direction: Direction,
        /// The peer.
        peer: Shown,
    },
    /// Data was dropped.
    DataDropped {
        /// Which way it was to go.
        direction: Direction,
        /// The peer.
        peer: Option<Shown>,
        /// Why.
        why: Reason,
    },
    /// No data for a while: in this direction, or in none.
    Silent {
        /// Which way; none means both.
        direction: Option<Direction>,
        /// How long.
        secs: u32,
    },
    /// Data again.
    Resumed,
    /// Goes on elsewhere, or is out of reach.
    Moved(Option<Shown>),
    /// A TCP connection with a peer.
    PeerConnected {
        /// The peer.
        peer: Shown,
        /// The peer came.
        is_incoming: bool,
    },
    /// It is over.
    PeerDisconnected {
        /// The peer.
        peer: Shown,
        /// Why.
        why: ConnectionEnd,
    },
    /// The handshake of TLS or DTLS failed.
    HandshakeFailed(crate::net::HandshakeFailure),
    /// The allocation, or one relayed address of it, is over.
    Ended {
        /// Why.
        why: EndReason,
        /// Datagrams both ways: to peers, to the client.
        packets: [u32; 2],
        /// Datagrams dropped for want of a permission or channel.
        unpermitted: [u32; 2],
    },
    /// The shard has panicked: whatever it had is gone.
    Lost,
}

impl What {
    /// The word for programs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Challenged => "challenged",
            Self::AuthenticationFailed(_) => "authentication_failed",
            Self::Refused { .. } => "request_refused",
            Self::Allocated { .. } => "allocated",
            Self::Refreshed { .. } => "refreshed",
            Self::Permitted(_) => "permitted",
            Self::ChannelBound { .. } => "channel_bound",
            Self::PeerRefused { .. } => "peer_refused",
            Self::FirstData { .. } => "first_data",
            Self::DataDropped { .. } => "data_dropped",
            Self::Silent { .. } => "silent",
            Self::Resumed => "resumed",
            Self::Moved(_) => "moved",
            Self::PeerConnected { .. } => "peer_connected",
            Self::PeerDisconnected { .. } => "peer_disconnected",
            Self::HandshakeFailed(_) => "handshake_failed",
            Self::Ended { .. } => "ended",
            Self::Lost => "lost",
        }
    }
}
