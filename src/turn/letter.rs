//! What shards tell each other (see [`super::Effect::Tell`]): a RESERVATION-TOKEN or MOBILITY-TICKET may be shown at any of
//! them.
//!
//! A reserved port belongs to the shard that reserved it, and the token says which that is. Another shard that is shown
//! the token asks the owner; the owner gives up its socket and lends the port; the borrower binds it like any port, and
//! gives it back when the allocation has ended. Meanwhile the owner passes on what other relays send to the port.
//!
//! An allocation whose client has moved stays in its shard, but the kernel may give the datagrams from the new 5-tuple to
//! another one. That one passes them on (`Verdict::NotMine`) from the Refresh with the ticket on; the allocation's shard
//! says whether to go on and when to stop.

use std::sync::Arc;

use super::{FiveTuple, RelayAddress, RelayId};

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
    /// Datagrams from this 5-tuple are for an allocation of the sender's: pass them on. Answered only if that cannot be,
    /// with [`Letter::Refuse`].
    Carry {
        /// Where the client is.
        path: FiveTuple,
    },
    /// They are not any more.
    Stop {
        /// Where the client was.
        path: FiveTuple,
    },
    /// They will not be passed on: the 5-tuple has an allocation here or elsewhere, or there are too many of them.
    Refuse {
        /// Where the client is.
        path: FiveTuple,
    },
}
