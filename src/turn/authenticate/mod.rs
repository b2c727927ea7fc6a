//! The long-term credential mechanism (RFC 8489 §9.2) and access tokens (RFC 7635), for every TURN request;
//! the short-term mechanism (§9.1) for Binding.
//!
//! An [`Authenticated`] request can only come from [`authenticate`], so no method handler can run on an unchecked one.
//! The order of the checks is the RFC's (STUN-8489-9.2.4-14): presence, completeness, algorithms, user, MAC, nonce.

mod guest;
mod long_term;
mod short_term;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;

use super::allocation::Owner;
use super::look_up::{Known, LookUps};
use super::nonce::Stale;
use super::realms::Scope;
use super::{Clock, Credentials, FiveTuple, KeyLookUps, LookUp, Now, Rejection};
use crate::stun::{
    AttributeType, ErrorCode, Message, Method, Seal, TransactionId, read_u32, read_xor_address, unquoted,
};
use long_term::{Claim, Who, identify};
pub(super) use short_term::authenticate_binding;

/// A request whose MAC and nonce were found good, or that needs none, and what its response is sealed with.
#[derive(Debug)]
pub(super) struct Authenticated<'m, 'b> {
    message: &'m Message<'b>,
    owner: Owner,
    sealing: Sealing,
}

impl<'b> Authenticated<'_, 'b> {
    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether nothing says who it is from but its address.
    pub(super) fn is_guest(&self) -> bool {
        self.sealing == Sealing::None
    }

    pub(super) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    pub(super) fn transaction_id(&self) -> TransactionId {
        self.message.transaction_id()
    }

    /// The value of an attribute the client's MAC covers.
    pub(super) fn first(&self, kind: AttributeType) -> Option<&'b [u8]> {
        self.message.first(kind)
    }

    /// A 32-bit attribute.
    ///
    /// # Errors
    /// 400 if it is not four bytes long.
    pub(super) fn first_u32(&self, kind: AttributeType) -> Result<Option<u32>, ErrorCode> {
        self.first(kind).map(read_u32).transpose().map_err(|_| ErrorCode::BadRequest)
    }

    /// Every XOR-PEER-ADDRESS, the one attribute that may stand there more than once.
    ///
    /// # Errors
    /// 400 for one that is not of its form.
    pub(super) fn peers(&self) -> impl Iterator<Item = Result<SocketAddr, ErrorCode>> {
        let transaction_id = self.transaction_id();
        self.message
            .attributes()
            .filter(|attribute| attribute.kind == AttributeType::XOR_PEER_ADDRESS)
            .map(move |attribute| read_xor_address(attribute.value, transaction_id).map_err(|_| ErrorCode::BadRequest))
    }
}

/// How the responses to one client are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sealing {
    /// Not at all: it is a guest.
    None,
    /// With MESSAGE-INTEGRITY.
    Sha1(Key),
    /// With MESSAGE-INTEGRITY-SHA256: only for clients that have shown they know it (L04).
    Sha256(Key),
}

impl Sealing {
    /// What it is made with.
    pub(super) fn key(&self) -> Option<&[u8]> {
        match self {
            Self::None => None,
            Self::Sha1(key) | Self::Sha256(key) => Some(key.bytes()),
        }
    }

    pub(super) fn seal(&self) -> Seal<'_> {
        match self {
            Self::None => Seal::None,
            Self::Sha1(key) => Seal::Sha1(key.bytes()),
            Self::Sha256(key) => Seal::Sha256(key.bytes()),
        }
    }
}

/// A long-term key. PASSWORD-ALGORITHM chooses which, independently of the MAC (STUN-8489-9.2.4-21).
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Key {
    Md5([u8; 16]),
    Sha256([u8; 32]),
    /// That of an access token or a short-term credential, which no password algorithm has made.
    Other(Arc<[u8]>),
}

impl Key {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Md5(key) => key,
            Self::Sha256(key) => key,
            Self::Other(key) => key,
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// How an unauthenticated request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    /// 400, 401, 438 or 500.
    pub(super) code: ErrorCode,
    pub(super) why: Rejection,
}

/// Why a request is not authenticated (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Denied(Denial),
    /// The key of this user, by its prepared name, is to be asked for first. The client has shown a good nonce.
    KeyWanted(Arc<str>),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// What is known of users whose keys are kept elsewhere, and where it is counted.
pub(super) struct Keys<'s> {
    pub(super) look_ups: &'s mut LookUps,
    pub(super) counts: &'s mut [u64; LookUp::ALL.len()],
}

impl Keys<'_> {
    fn known(&mut self, now: Now, policy: &KeyLookUps, name: &str) -> Known {
        let (known, counted) = self.look_ups.known(now, policy, name);
        if let Some(counted) = counted {
            self.counts[counted as usize] += 1;
        }
        known
    }
}

const fn denied(code: ErrorCode, why: Rejection) -> Denial {
    Denial { code, why }
}

/// PASSWORD-ALGORITHM.
#[derive(Clone, Copy)]
enum Algorithm {
    Md5,
    Sha256,
}

/// Checks a request.
///
/// `live_owner` is the owner of the allocation that the 5-tuple has.
///
/// # Errors
/// What to answer, and why.
pub(super) fn authenticate<'m, 'b>(
    scope: Scope<'_>,
    mut keys: Keys<'_>,
    clock: Clock,
    path: &FiveTuple,
    message: &'m Message<'b>,
    live_owner: Option<&Owner>,
) -> Result<Authenticated<'m, 'b>, Refusal> {
    use ErrorCode::{BadRequest, Unauthenticated};

    if !message.has_integrity() && !message.has_integrity_sha256() {
        let client = path.client.ip();
        if scope.credentials().admits_guest(client) {
            let owner = guest::owner(client, live_owner);
            return Ok(Authenticated { message, owner, sealing: Sealing::None });
        }
        return Err(denied(Unauthenticated, Rejection::NoCredentials).into());
    }
    let claim = match (message.first(AttributeType::USERNAME), message.first(AttributeType::USERHASH)) {
        (Some(username), None) => Claim::Username(username),
        (None, Some(userhash)) => Claim::Userhash(userhash),
        // STUN-8489-14.4-04: they might not name the same user.
        (Some(_), Some(_)) | (None, None) => return Err(denied(BadRequest, Rejection::Incomplete).into()),
    };
    let (Some(realm), Some(nonce)) = (message.first(AttributeType::REALM), message.first(AttributeType::NONCE)) else {
        return Err(denied(BadRequest, Rejection::Incomplete).into());
    };
    let chosen = password_algorithm(scope, path, message, nonce)?;

    if unquoted(realm) != scope.name().as_bytes() {
        // There is no rule for a wrong realm; it is a credential failure, not a mismatch (A16, STUN-8489-9.2.4-25).
        return Err(denied(Unauthenticated, Rejection::WrongRealm).into());
    }
    let came = Clock { unix_secs: keys.look_ups.came().unwrap_or(clock.unix_secs), ..clock };
    let check_nonce = || scope.check_nonce(came, path, message, nonce);
    let by_token = match (&scope.credentials().tokens, claim) {
        (Some(keys), Claim::Username(kid)) => token::find_key(keys, clock.unix_secs, message, kid, live_owner),
        _ => None,
    };
    let (key, owner) = match by_token {
        Some(found) => found?,
        None => {
            if !scope.credentials().accepts(chosen, message) {
                return Err(denied(Unauthenticated, Rejection::WeakAlgorithm).into());
            }
            let username = match claim {
                Claim::Username(name) => Some(name),
                Claim::Userhash(_) => None,
            };
            let mut found = Err(denied(Unauthenticated, Rejection::UnknownUser).into());
            for home in scope.homes(username) {
                let of_here = live_owner.filter(|owner| home.has(owner));
                let known = |policy: &KeyLookUps, name: &str| keys.known(clock.now, policy, name);
                let who = identify(home.credentials(), clock.unix_secs, claim, of_here, known);
                // Strangers have nobody looked up.
                if let Who::Elsewhere(name) = who {
                    check_nonce()?;
                    return Err(Refusal::KeyWanted(name.as_ref().into()));
                }
                let algorithm = chosen.unwrap_or(Algorithm::Md5);
                let verifies = |key: &[u8]| message.integrity_holds(key);
                found = match who.find_key(home.credentials(), scope.name(), algorithm, verifies) {
                    Ok(key) => Ok((key, who.owner(home, of_here))),
                    // The password may have been changed since.
                    Err(denial) => match who.name_to_ask_again() {
                        Some(name) if check_nonce().is_ok() => Err(Refusal::KeyWanted(name.into())),
                        _ => Err(denial.into()),
                    },
                };
                if found.is_ok() {
                    break;
                }
            }
            found?
        }
    };
    check_nonce()?;

    let knows_sha256 = chosen.is_some() || message.has_integrity_sha256();
    let sealing = if knows_sha256 { Sealing::Sha256(key) } else { Sealing::Sha1(key) };
    Ok(Authenticated { message, owner, sealing })
}

impl Scope<'_> {
    /// Whether a nonce is good enough for this request.
    fn check_nonce(self, clock: Clock, path: &FiveTuple, message: &Message<'_>, nonce: &[u8]) -> Result<(), Denial> {
        match self.config().nonces.check(self.offer(), clock.unix_secs, path, nonce) {
            Ok(()) => Ok(()),
            // A client of which the Refresh with lifetime zero is answered 438 asks again without it, and so keeps what
            // it wanted to give back (L12).
            Err(Stale::Expired) if is_deletion(message) => Ok(()),
            Err(_) if self.was_redirected(clock, path, nonce) => Ok(()),
            Err(_) => Err(denied(ErrorCode::StaleNonce, Rejection::StaleNonce)),
        }
    }
}

/// STUN-8489-9.2.4-08 to -11: neither attribute means MD5; both must be there, the list as we sent it, the choice in it.
fn password_algorithm(
    scope: Scope<'_>,
    path: &FiveTuple,
    message: &Message<'_>,
    nonce: &[u8],
) -> Result<Option<Algorithm>, Denial> {
    let bad = denied(ErrorCode::BadRequest, Rejection::BadAlgorithms);
    let offer = scope.offer();
    let as_sent = |list: &[u8]| list == offer.algorithms() || scope.config().nonces.went_with(offer, path, nonce, list);
    let chosen = message.first(AttributeType::PASSWORD_ALGORITHM);
    let offered = message.first(AttributeType::PASSWORD_ALGORITHMS);
    match (chosen, offered) {
        (None, None) => Ok(None),
        (Some(chosen), Some(offered)) if as_sent(offered) => match chosen {
            [0, 1, 0, 0] if offered.chunks(4).any(|entry| entry == chosen) => Ok(Some(Algorithm::Md5)),
            [0, 2, 0, 0] => Ok(Some(Algorithm::Sha256)),
            _ => Err(bad),
        },
        _ => Err(bad),
    }
}

impl Credentials {
    /// Whether key and MAC are as strong as the configuration wants them.
    fn accepts(&self, chosen: Option<Algorithm>, message: &Message<'_>) -> bool {
        match chosen {
            None => self.md5,
            Some(_) => !self.strict_algorithms || message.has_integrity_sha256(),
        }
    }
}

fn is_deletion(message: &Message<'_>) -> bool {
    message.method() == Method::Refresh && message.first(AttributeType::LIFETIME) == Some(&[0; 4])
}
