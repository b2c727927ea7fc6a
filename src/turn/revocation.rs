//! What becomes of allocations whose credentials are taken away or run out.
//!
//! RFC 8656 §8 has clients show good credentials with every Refresh, so that either ends an allocation within its lifetime.
//! How much sooner is for the operator to say ([`EndSessions`]). What was taken away is known by comparing two
//! configurations: credentials that neither names are nobody's business here.

use std::sync::Arc;

use ahash::RandomState;

use super::allocation::{Allocation, Owner};
use super::authenticate::Sealing;
use super::{Clock, Config, EndReason, RelayId, Server, StaticUser, WalkPlace};
use crate::stun::integrity;

/// When allocations end with their credentials, apart from their next Refresh. Each includes those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndSessions {
    /// Not before.
    Never,
    /// When a user, a user's password, a shared secret or the key of a token is taken out of the configuration.
    #[default]
    Removed,
    /// When a time-limited user name expires.
    Expired,
}

/// What one configuration has of credentials and the next has not.
#[derive(Clone, Debug)]
pub struct Revocation {
    old: Arc<Config>,
    new: Arc<Config>,
}

impl Revocation {
    /// What is taken away between the two; `None` if nothing is, or allocations are to live on.
    pub fn between(old: &Arc<Config>, new: &Arc<Config>) -> Option<Self> {
        let (before, after) = (&old.credentials, &new.credentials);
        let lacks_secrets = before.secrets.iter().any(|secret| !after.secrets.contains(secret));
        let may_lack_some =
            lacks_secrets || !before.users.is_empty() || before.tokens.is_some() || !old.realms.is_empty();
        (after.end_sessions >= EndSessions::Removed && may_lack_some)
            .then(|| Self { old: Arc::clone(old), new: Arc::clone(new) })
    }

    fn is_about(&self, allocation: &Allocation, print: impl Fn(&[u8]) -> u64) -> bool {
        let owner = &allocation.owner;
        if let Some(grant) = &owner.grant {
            let has =
                |config: &Config| config.credentials.tokens.as_ref().is_some_and(|keys| keys.get(&grant.kid).is_some());
            return has(&self.old) && !has(&self.new);
        }
        let Some(before) = self.old.credentials_of(owner) else { return false };
        // A realm goes with all that it has.
        let Some(after) = self.new.credentials_of(owner) else { return true };
        let realm = self.old.realm_on_wire(owner);
        if let Some(user) = before.users.get(&owner.username) {
            let is_same = |after| realm != self.new.realm_on_wire(owner) || have_a_key_in_common(user, after);
            return !after.users.get(&owner.username).is_some_and(is_same);
        }
        let Some(made_with) = allocation.key_print else { return false };
        before.secrets.iter().filter(|secret| !after.secrets.contains(secret)).any(|secret| {
            let name = &owner.username;
            let password = before.time_limited.password(&secret.0, name);
            print(&integrity::long_term_key_md5(name, realm, &password)) == made_with
                || print(&integrity::long_term_key_sha256(name, realm, &password)) == made_with
        })
    }
}

fn have_a_key_in_common(one: &StaticUser, other: &StaticUser) -> bool {
    one.keys_md5.iter().any(|key| other.keys_md5.contains(key))
        || one.keys_sha256.iter().any(|key| other.keys_sha256.contains(key))
}

impl Config {
    /// How long an owner's allocation may live, of what it would be granted otherwise.
    pub(super) fn cap_lifetime(&self, clock: Clock, owner: &Owner, lifetime_secs: u32) -> u32 {
        let lifetime_secs = owner.cap(clock, lifetime_secs);
        let credentials = self.credentials_of(owner).unwrap_or(&self.credentials);
        if credentials.end_sessions < EndSessions::Expired || credentials.users.get(&owner.username).is_some() {
            return lifetime_secs;
        }
        let expiry = owner.username.split(credentials.time_limited.separator).next().unwrap_or_default();
        match expiry.parse::<u64>() {
            Ok(expiry) => lifetime_secs.min(u32::try_from(expiry.saturating_sub(clock.unix_secs)).unwrap_or(u32::MAX)),
            Err(_) => lifetime_secs,
        }
    }
}

/// Tells one key from another, within one life of a server.
pub(super) fn key_print(hasher: &RandomState, sealing: &Sealing) -> Option<u64> {
    sealing.key().map(|key| hasher.hash_one(key))
}

impl Server {
    /// Ends the allocations that were made with what is taken away, among the next `steps` places of the table. Returns where
    /// to go on, as [`Server::walk_sessions`] does.
    pub fn end_revoked(
        &mut self,
        clock: Clock,
        from: WalkPlace,
        steps: usize,
        revocation: &Revocation,
    ) -> Option<WalkPlace> {
        let end = from.0.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX)).min(self.allocations.places());
        let hasher = self.lent.hasher().clone();
        for place in from.0..end {
            let found = self.allocations.live_in_slot(clock.now, place);
            let is_about = |allocation: &Allocation| revocation.is_about(allocation, |key| hasher.hash_one(key));
            let revoked: Option<RelayId> = found.filter(|(_, allocation)| is_about(allocation)).map(|(relay, _)| relay);
            if let Some(relay) = revoked {
                self.end(clock, relay, EndReason::Revoked);
                self.end(clock, relay.other_half(), EndReason::Revoked);
            }
        }
        (end < self.allocations.places()).then_some(WalkPlace(end))
    }
}
