//! The long-term credential mechanism (RFC 8489 §9.2), for every TURN request.
//!
//! An [`Authenticated`] request can only come from [`authenticate`], so no method handler can run on an unchecked one.
//! The order of the checks is the RFC's (STUN-8489-9.2.4-14): presence, completeness, algorithms, user, MAC, nonce.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::allocation::Owner;
use super::nonce::Stale;
use super::{Clock, Config, Credentials, FiveTuple, Rejection};
use crate::stun::{
    AttributeType, ErrorCode, Message, Method, Seal, TransactionId, integrity, read_u32, read_xor_address,
};

/// PASSWORD-ALGORITHMS as every challenge carries it: SHA-256, then MD5, in order of preference.
pub(super) const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// USERNAME is accepted up to this length (STUN-8489-14.3-01).
const USERNAME_LEN_MAX: usize = 763;

/// A request whose MAC and nonce were found good, and what its response is sealed with.
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
pub(super) struct Sealing {
    key: Key,
    /// MESSAGE-INTEGRITY-SHA256 instead of MESSAGE-INTEGRITY: only for clients that have shown they know it (L04).
    sha256: bool,
}

impl Sealing {
    pub(super) fn seal(&self) -> Seal<'_> {
        if self.sha256 { Seal::Sha256(self.key.bytes()) } else { Seal::Sha1(self.key.bytes()) }
    }
}

/// A long-term key. PASSWORD-ALGORITHM chooses which, independently of the MAC (STUN-8489-9.2.4-21).
#[derive(Clone, PartialEq, Eq)]
enum Key {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

impl Key {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Md5(key) => key,
            Self::Sha256(key) => key,
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
    /// 400, 401 or 438.
    pub(super) code: ErrorCode,
    pub(super) why: Rejection,
}

const fn denied(code: ErrorCode, why: Rejection) -> Denial {
    Denial { code, why }
}

#[derive(Clone, Copy)]
enum Algorithm {
    Md5,
    Sha256,
}

/// Checks a request.
///
/// `live_owner` is the owner of the allocation that the 5-tuple has. A time-limited user name needs to be in time only
/// where nothing lives yet: an allocation outlives the name it was made with (REST-04).
///
/// # Errors
/// What to answer, and why.
pub(super) fn authenticate<'m, 'b>(
    config: &Config,
    clock: Clock,
    path: &FiveTuple,
    message: &'m Message<'b>,
    live_owner: Option<&Owner>,
) -> Result<Authenticated<'m, 'b>, Denial> {
    use ErrorCode::{BadRequest, StaleNonce, Unauthenticated};

    if !message.has_integrity() && !message.has_integrity_sha256() {
        return Err(denied(Unauthenticated, Rejection::NoCredentials));
    }
    let (Some(username), Some(realm), Some(nonce)) = (
        message.first(AttributeType::USERNAME),
        message.first(AttributeType::REALM),
        message.first(AttributeType::NONCE),
    ) else {
        return Err(denied(BadRequest, Rejection::Incomplete));
    };
    let (algorithm, knows_sha256) = password_algorithm(message)?;

    if realm != config.realm.as_bytes() {
        // There is no rule for a wrong realm; it is a credential failure, not a mismatch (A16, STUN-8489-9.2.4-25).
        return Err(denied(Unauthenticated, Rejection::WrongRealm));
    }
    let username = std::str::from_utf8(username).ok().filter(|name| name.len() <= USERNAME_LEN_MAX).unwrap_or("");
    let live_owner = live_owner.filter(|owner| *owner.username == *username);
    let who = identify(&config.credentials, clock.unix_secs, username, live_owner.is_some());
    let key = who.find_key(config, username, algorithm, |key| message.integrity_holds(key))?;

    match config.nonces.check(clock.unix_secs, path, nonce) {
        Ok(()) => {}
        // A client of which the Refresh with lifetime zero is answered 438 asks again without it, and so keeps what it
        // wanted to give back (L12).
        Err(Stale::Expired) if is_deletion(message) => {}
        Err(_) => return Err(denied(StaleNonce, Rejection::StaleNonce)),
    }

    let owner = live_owner.cloned().unwrap_or_else(|| who.owner(username));
    let sealing = Sealing { key, sha256: knows_sha256 || message.has_integrity_sha256() };
    Ok(Authenticated { message, owner, sealing })
}

/// STUN-8489-9.2.4-08 to -11: neither attribute means MD5; both must be there, the list as we sent it, the choice in it.
fn password_algorithm(message: &Message<'_>) -> Result<(Algorithm, bool), Denial> {
    let bad = denied(ErrorCode::BadRequest, Rejection::BadAlgorithms);
    let chosen = message.first(AttributeType::PASSWORD_ALGORITHM);
    let offered = message.first(AttributeType::PASSWORD_ALGORITHMS);
    match (chosen, offered) {
        (None, None) => Ok((Algorithm::Md5, false)),
        (Some(chosen), Some(offered)) if offered == PASSWORD_ALGORITHMS => match chosen {
            [0, 1, 0, 0] => Ok((Algorithm::Md5, true)),
            [0, 2, 0, 0] => Ok((Algorithm::Sha256, true)),
            _ => Err(bad),
        },
        _ => Err(bad),
    }
}

fn is_deletion(message: &Message<'_>) -> bool {
    message.method() == Method::Refresh && message.first(AttributeType::LIFETIME) == Some(&[0; 4])
}

/// Where the key of a user name can come from.
enum Who<'c> {
    Static(&'c super::StaticUser),
    TimeLimited { secrets: &'c [super::SharedSecret], userid: Option<usize> },
    Nobody(Rejection),
}

fn identify<'c>(credentials: &'c Credentials, unix_secs: u64, username: &str, is_live: bool) -> Who<'c> {
    if let Some(user) = credentials.users.get(username) {
        return Who::Static(user);
    }
    if credentials.secrets.is_empty() {
        return Who::Nobody(Rejection::UnknownUser);
    }
    let (expiry, userid) = match username.split_once(':') {
        Some((expiry, userid)) => (expiry, (!userid.is_empty()).then_some(expiry.len() + 1)),
        None => (username, None),
    };
    // REST-07: digits only (`parse` alone would take a plus sign), and no overflow.
    let digits = !expiry.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit());
    let Some(expiry) = digits.then(|| expiry.parse::<u64>().ok()).flatten() else {
        return Who::Nobody(Rejection::UnknownUser);
    };
    if !is_live && expiry < unix_secs {
        return Who::Nobody(Rejection::ExpiredCredential);
    }
    if expiry > unix_secs.saturating_add(credentials.ttl_secs_max) {
        return Who::Nobody(Rejection::CredentialTooLong);
    }
    Who::TimeLimited { secrets: &credentials.secrets, userid }
}

impl Who<'_> {
    fn find_key(
        &self,
        config: &Config,
        username: &str,
        algorithm: Algorithm,
        verifies: impl Fn(&[u8]) -> bool,
    ) -> Result<Key, Denial> {
        let reject = |why| denied(ErrorCode::Unauthenticated, why);
        match self {
            Self::Static(user) => {
                let key = match algorithm {
                    Algorithm::Md5 => user.key_md5.map(Key::Md5),
                    Algorithm::Sha256 => user.key_sha256.map(Key::Sha256),
                };
                key.filter(|key| verifies(key.bytes())).ok_or(reject(Rejection::WrongPassword))
            }
            Self::TimeLimited { secrets, .. } => secrets
                .iter()
                .map(|secret| {
                    let password = time_limited_password(&secret.0, username);
                    derive(algorithm, username, &config.realm, &password)
                })
                .find(|key| verifies(key.bytes()))
                .ok_or(reject(Rejection::WrongPassword)),
            Self::Nobody(why) => {
                // The same work as for a known user: an unknown name must not show in the time (STUN-8489-9.2.4-17).
                std::hint::black_box(verifies(derive(algorithm, username, &config.realm, "").bytes()));
                Err(reject(*why))
            }
        }
    }

    fn owner(&self, username: &str) -> Owner {
        let name: Arc<str> = username.into();
        let account = match self {
            Self::TimeLimited { userid: Some(start), .. } => username[*start..].into(),
            _ => Arc::clone(&name),
        };
        Owner { username: name, account }
    }
}

fn derive(algorithm: Algorithm, username: &str, realm: &str, password: &str) -> Key {
    match algorithm {
        Algorithm::Md5 => Key::Md5(integrity::long_term_key_md5(username, realm, password)),
        Algorithm::Sha256 => Key::Sha256(integrity::long_term_key_sha256(username, realm, password)),
    }
}

/// The password that belongs to a time-limited user name: base64(HMAC-SHA1(secret, username)) (REST-01).
pub fn time_limited_password(secret: &[u8], username: &str) -> String {
    let mut mac = <Hmac<Sha1> as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_01_password_of_a_time_limited_user_name() {
        assert_eq!(time_limited_password(b"north", "1893456000:alice"), "MME/7rvfb/gOjpkB59+7AxlCLvk=");
        assert_eq!(time_limited_password(b"north", "1893456000"), "sqdTDrNuKKg7b57nGt21S56Eu5s=");
    }
}
