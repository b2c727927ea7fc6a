//! Deletions remembered for a while, so that a retransmitted Refresh with lifetime zero gets the same answer again
//! (TURN-8656-5-11). Only authenticated requests get here (STUN-8489-6.3.1-05).

use std::collections::VecDeque;

use super::{FiveTuple, Now};
use crate::stun::TransactionId;

/// RFC 8489 §6.3.1: as long as a client retransmits.
const REMEMBERED_SECS: u32 = 40;
/// When more are deleted in that time the oldest are forgotten; their retransmission is answered 437, which the RFC
/// allows too (TURN-8656-8.2-06).
const REMEMBERED_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Deleted(VecDeque<(Now, FiveTuple, TransactionId)>);

impl Deleted {
    pub(super) fn remember(&mut self, now: Now, path: FiveTuple, transaction_id: TransactionId) {
        if self.0.len() == REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now.plus_secs(REMEMBERED_SECS), path, transaction_id));
    }

    pub(super) fn contains(&self, now: Now, path: &FiveTuple, transaction_id: TransactionId) -> bool {
        self.0.iter().rev().any(|(until, other, id)| now < *until && *id == transaction_id && other == path)
    }
}
