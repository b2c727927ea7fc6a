//! Keys that are kept elsewhere: the machine's question on its way to whoever can answer it, and back.

use std::fmt;
use std::sync::Arc;

use super::mailbox::{Command, Mailbox};
use crate::turn::KeyAnswer;

/// Takes questions, on the thread of a shard: it must not take long, and never wait.
pub(super) type FindKey = Arc<dyn Fn(KeyQuestion) + Send + Sync>;

/// A shard wants to know a user's keys ([`crate::turn::Effect::FindKey`]). Dropped without an answer it counts as one
/// that could not be had.
pub struct KeyQuestion {
    /// The keys are those for this realm.
    pub realm: Arc<str>,
    /// The user name, prepared.
    pub who: Arc<str>,
    mailboxes: Arc<[Mailbox]>,
    shard: u16,
    ticket: u64,
    is_answered: bool,
}

impl KeyQuestion {
    pub(super) fn new(mailboxes: Arc<[Mailbox]>, shard: u16, ticket: u64, realm: Arc<str>, who: Arc<str>) -> Self {
        Self { realm, who, mailboxes, shard, ticket, is_answered: false }
    }

    /// Tells the shard, from whatever thread.
    pub fn answer(mut self, answer: KeyAnswer) {
        self.send(answer);
    }

    fn send(&mut self, answer: KeyAnswer) {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.mailboxes[usize::from(self.shard)].command(Command::KeyFound { ticket: self.ticket, answer });
        }
    }
}

impl Drop for KeyQuestion {
    fn drop(&mut self) {
        self.send(KeyAnswer::Unavailable);
    }
}

impl fmt::Debug for KeyQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyQuestion").field("realm", &self.realm).field("who", &self.who).finish_non_exhaustive()
    }
}
