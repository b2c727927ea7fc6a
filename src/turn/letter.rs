//! What shards tell each other (see [`super::Effect::Tell`]): a RESERVATION-TOKEN may be redeemed at any of them.
//!
//! A reserved port belongs to the shard that reserved it, and the token says which that is. Another shard that is shown
//! the token asks the owner; the owner gives up its socket and lends the port; the borrower binds it like any port, and
//! gives it back when the allocation has ended. Meanwhile the owner passes on what other relays send to the port.

use std::sync::Arc;

use super::{RelayAddress, RelayId};

/// From one shard to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// A client has shown this token here. Answered with [`Letter::Lend`].
    Redeem {
        /// The token.
        token: u64,
        /// Who has shown it: USERNAME.
        username: Arc<str>,
        /// What waits for the answer.
        asker: RelayId,
    },
    /// The answer.
    Lend {
        /// As in the question.
        asker: RelayId,
        /// As in the question.
        token: u64,
        /// The port, free to be bound; `None` if the token is no good.
        port: Option<(RelayAddress, u16)>,
    },
    /// A port that was lent is free again.
    Return {
        /// Where.
        address: RelayAddress,
        /// Which.
        port: u16,
    },
}
