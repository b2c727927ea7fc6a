//! Third-party authorization (RFC 7635 §7, §9): a request that shows an access token, or is about an allocation that was
//! made with one.

use super::{Denial, Key, denied, is_deletion};
use crate::stun::{AttributeType, ErrorCode, Message, Method};
use crate::turn::access_token::{Grant, TokenKeys};
use crate::turn::allocation::Owner;
use crate::turn::{Clock, FiveTuple, Rejection, Server};

/// The key of a request under this mechanism, and whose request it is; `None` where the long-term mechanism applies.
///
/// `username` is the key id, the token decides which MAC key (OAUTH-7635-7-02). Without a token the one of the
/// allocation counts, if the request names the same key id.
pub(super) fn find_key(
    keys: &TokenKeys,
    unix_secs: u64,
    message: &Message<'_>,
    username: &[u8],
    live_owner: Option<&Owner>,
) -> Option<Result<(Key, Owner), Denial>> {
    let reject = |why| Err(denied(ErrorCode::Unauthenticated, why));
    let key_of = |grant: &Grant| grant.find_key(|key| message.integrity_holds(key)).map(Key::Other);
    if let Some(token) = message.first(AttributeType::ACCESS_TOKEN) {
        let Some((kid, key)) = std::str::from_utf8(username).ok().and_then(|kid| Some((kid, keys.get(kid)?))) else {
            return Some(reject(Rejection::UnknownUser));
        };
        return Some(match key.open(kid, &keys.server_name, token) {
            None => reject(Rejection::BadToken),
            Some(grant) if !grant.is_fresh(unix_secs) => reject(Rejection::ExpiredCredential),
            Some(grant) => match key_of(&grant) {
                Some(key) => {
                    let owner = grant.owner();
                    Ok((key, live_owner.filter(|live| **live == owner).cloned().unwrap_or(owner)))
                }
                None => reject(Rejection::WrongPassword),
            },
        });
    }
    let owner = live_owner?;
    let grant = owner.grant.as_ref().filter(|grant| grant.kid.as_bytes() == username)?;
    // OAUTH-7635-9-01: the token of the allocation must be good for what is added to its life.
    let adds_life = message.method() == Method::Refresh && !is_deletion(message);
    if adds_life && !grant.is_fresh(unix_secs) {
        return Some(reject(Rejection::ExpiredCredential));
    }
    Some(key_of(grant).map_or_else(|| reject(Rejection::WrongPassword), |key| Ok((key, owner.clone()))))
}

impl Owner {
    /// No more than the token is still good for (OAUTH-7635-9-01), even if that is less than the usual least.
    pub(in crate::turn) fn cap(&self, clock: Clock, lifetime_secs: u32) -> u32 {
        self.grant.as_ref().map_or(lifetime_secs, |grant| lifetime_secs.min(grant.remaining_secs(clock.unix_secs)))
    }
}

impl Server {
    /// A new token takes the place of the one that an allocation was made with (OAUTH-7635-9-03): tokens do not say whose
    /// they are, so any good one on the same 5-tuple does. The account stays, since the allocation was counted for it.
    pub(in crate::turn) fn take_new_token(&mut self, clock: Clock, path: &FiveTuple, shown_by: &Owner) {
        if shown_by.grant.is_some()
            && let Some((_, allocation)) = self.allocations.live_by_path(clock.now, path)
            && allocation.owner.grant.is_some()
        {
            let account = allocation.owner.account.clone();
            allocation.owner = Owner { account, ..shown_by.clone() };
        }
    }
}
