//! Event tokens: what epoll says when a socket is ready.

use mio::Token;

use crate::turn::RelayId;

const _: () = assert!(usize::BITS == 64, "tokens carry a kind, a generation and an index");

/// Whose socket is ready. Kinds have spaces of their own, so that no relay can be taken for a listener.
///
/// Relays and connections carry a generation, because an event may still be on its way when their place in the table
/// has been given to another. It is cut to 29 bits: it only has to tell apart what one look at epoll can mix up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The mailbox has something.
    Mailbox,
    /// A listener, by its place in [`super::listeners::Listeners`].
    Listener(usize),
    /// The socket of a relay.
    Relay { index: usize, generation: u32 },
    /// A TCP connection.
    Connection { index: usize, generation: u32 },
    /// The socket of a TCP relay: peers may wait to be accepted.
    TcpRelay { index: usize, generation: u32 },
    /// A connection with a peer, by its place in [`super::peers::Peers`].
    Peer { index: usize, generation: u32 },
    /// The client data connection joined with that.
    PeerClient { index: usize, generation: u32 },
}

const GENERATION_MASK: u32 = (1 << 29) - 1;

impl Source {
    pub(super) const fn relay(id: RelayId) -> Self {
        Self::Relay { index: id.index(), generation: Self::cut((id.to_token() >> 32) as u32) }
    }

    pub(super) const fn tcp_relay(id: RelayId) -> Self {
        Self::TcpRelay { index: id.index(), generation: Self::cut((id.to_token() >> 32) as u32) }
    }

    pub(super) const fn peer(index: usize, generation: u32) -> Self {
        Self::Peer { index, generation: Self::cut(generation) }
    }

    /// What a token has room for.
    pub(super) const fn cut(generation: u32) -> u32 {
        generation & GENERATION_MASK
    }

    pub(super) const fn connection(index: usize, generation: u32) -> Self {
        Self::Connection { index, generation: Self::cut(generation) }
    }

    pub(super) const fn token(self) -> Token {
        let (kind, generation, index) = match self {
            Self::Mailbox => (0, 0, 0),
            Self::Listener(index) => (1, 0, index),
            Self::Relay { index, generation } => (2, generation, index),
            Self::Connection { index, generation } => (3, generation, index),
            Self::TcpRelay { index, generation } => (4, generation, index),
            Self::Peer { index, generation } => (5, generation, index),
            Self::PeerClient { index, generation } => (6, generation, index),
        };
        Token(kind << 61 | (generation as usize) << 32 | index)
    }

    pub(super) const fn of(Token(token): Token) -> Self {
        let index = token & 0xFFFF_FFFF;
        let generation = (token >> 32) as u32 & GENERATION_MASK;
        match token >> 61 {
            0 => Self::Mailbox,
            1 => Self::Listener(index),
            2 => Self::Relay { index, generation },
            3 => Self::Connection { index, generation },
            4 => Self::TcpRelay { index, generation },
            5 => Self::Peer { index, generation },
            _ => Self::PeerClient { index, generation },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_back_and_never_collide() {
        let relay = RelayId::from_token(0xFFFF_FFFF_FFFF_FFFF);
        let sources = [
            Source::Mailbox,
            Source::Listener(0),
            Source::Listener(17),
            Source::relay(RelayId::from_token(0)),
            Source::relay(relay),
            Source::connection(0, 0),
            Source::connection(5, u32::MAX),
            Source::tcp_relay(relay),
            Source::peer(5, u32::MAX),
            Source::PeerClient { index: 5, generation: Source::cut(u32::MAX) },
        ];
        for (place, source) in sources.iter().enumerate() {
            assert_eq!(Source::of(source.token()), *source);
            assert!(sources[..place].iter().all(|other| other.token() != source.token()));
        }
        assert_eq!(Source::relay(relay), Source::Relay { index: relay.index(), generation: GENERATION_MASK });
    }
}
