//! What a script may do next.

/// The first byte of a step, modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named for what they do")]
pub enum Step {
    Request,
    Retransmit,
    Send,
    ChannelData,
    Bytes,
    FromPeer,
    Icmp,
    Pass,
    Bound,
    Letter,
    PathClosed,
    Restart,
    Configure,
    Move,
    Connected,
    Accept,
    PeerCloses,
}

impl Step {
    /// In the order of their bytes.
    pub const ALL: [Self; 17] = [
        Self::Request,
        Self::Retransmit,
        Self::Send,
        Self::ChannelData,
        Self::Bytes,
        Self::FromPeer,
        Self::Icmp,
        Self::Pass,
        Self::Bound,
        Self::Letter,
        Self::PathClosed,
        Self::Restart,
        Self::Configure,
        Self::Move,
        Self::Connected,
        Self::Accept,
        Self::PeerCloses,
    ];
}
