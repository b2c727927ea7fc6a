//! Whose key it is under the long-term credential mechanism (RFC 8489 §9.2): a static user's, found by USERNAME or by
//! USERHASH, or one derived from a shared secret and a time-limited name.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Algorithm, Denial, Key, denied};
use crate::stun::{ErrorCode, integrity, opaque_string, unquoted};
use crate::turn::allocation::Owner;
use crate::turn::look_up::Known;
use crate::turn::realms::Home;
use crate::turn::{Credentials, KeyLookUps, Rejection, SharedSecret, StaticUser};

/// USERNAME is accepted up to this length (STUN-8489-14.3-01).
const USERNAME_LEN_MAX: usize = 763;

/// What a client calls itself.
#[derive(Clone, Copy)]
pub(super) enum Claim<'m> {
    Username(&'m [u8]),
    Userhash(&'m [u8]),
}

/// Where the key of a client can come from. Names are what the owner of an allocation is called, whichever of the two
/// attributes the client sent.
pub(super) enum Who<'m, 'c> {
    Static {
        name: Cow<'m, str>,
        user: &'c StaticUser,
    },
    TimeLimited {
        name: &'m str,
        userid: Option<usize>,
    },
    /// A user whose keys are kept elsewhere, as they were found there.
    Kept {
        name: Cow<'m, str>,
        user: Arc<StaticUser>,
        is_recent: bool,
    },
    /// One that is to be asked for there.
    Elsewhere(Cow<'m, str>),
    /// There they could not be had.
    Unavailable,
    Nobody(Rejection),
}

/// `live_owner` is whom the allocation of this 5-tuple belongs to, `known` says what there is to be said of a user whose
/// keys are kept elsewhere.
pub(super) fn identify<'m, 'c: 'm>(
    credentials: &'c Credentials,
    unix_secs: u64,
    claim: Claim<'m>,
    live_owner: Option<&Owner>,
    known: impl FnMut(&KeyLookUps, &str) -> Known,
) -> Who<'m, 'c> {
    match claim {
        Claim::Userhash(hash) => match credentials.users.find(hash).filter(|_| credentials.userhash) {
            Some((name, user)) => Who::Static { name: Cow::Borrowed(name), user },
            None => Who::Nobody(Rejection::UnknownUser),
        },
        Claim::Username(value) => {
            let name = std::str::from_utf8(unquoted(value)).ok().filter(|name| name.len() <= USERNAME_LEN_MAX);
            match name {
                Some(name) => by_name(credentials, unix_secs, name, live_owner, known),
                None => Who::Nobody(Rejection::UnknownUser),
            }
        }
    }
}

fn by_name<'m, 'c: 'm>(
    credentials: &'c Credentials,
    unix_secs: u64,
    name: &'m str,
    live_owner: Option<&Owner>,
    mut known: impl FnMut(&KeyLookUps, &str) -> Known,
) -> Who<'m, 'c> {
    let prepared = opaque_string(name).ok();
    let user = prepared.as_deref().and_then(|name| credentials.users.get(name));
    let prepared = match (prepared, user) {
        (Some(name), Some(user)) => return Who::Static { name, user },
        (prepared, _) => prepared,
    };
    // What looks like a time-limited name is one, where there are secrets: nobody can have such names looked up.
    let elsewhere = || match (&credentials.look_ups, prepared) {
        (Some(policy), Some(name)) if name.len() <= USERNAME_LEN_MAX => match known(policy, &name) {
            Known::Key { user, is_recent } => Who::Kept { name, user, is_recent },
            Known::Nobody => Who::Nobody(Rejection::UnknownUser),
            Known::Unavailable => Who::Unavailable,
            Known::Unknown => Who::Elsewhere(name),
        },
        _ => Who::Nobody(Rejection::UnknownUser),
    };
    if credentials.secrets.is_empty() {
        return elsewhere();
    }
    let separator = credentials.time_limited.separator;
    let (expiry, userid) = match name.split_once(separator) {
        Some((expiry, userid)) => (expiry, (!userid.is_empty()).then_some(name.len() - userid.len())),
        None => (name, None),
    };
    // REST-07: digits only (`parse` alone would take a plus sign), and no overflow.
    let digits = !expiry.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit());
    let Some(expiry) = digits.then(|| expiry.parse::<u64>().ok()).flatten() else {
        return elsewhere();
    };
    // An allocation outlives the name it was made with (REST-04).
    if expiry < unix_secs && live_owner.is_none_or(|owner| *owner.username != *name) {
        return Who::Nobody(Rejection::ExpiredCredential);
    }
    if expiry > unix_secs.saturating_add(credentials.ttl_secs_max) {
        return Who::Nobody(Rejection::CredentialTooLong);
    }
    Who::TimeLimited { name, userid }
}

impl Credentials {
    /// For people: the account that a name of a request that failed would count for.
    pub(in crate::turn) fn claimed(&self, username: &[u8]) -> Option<Arc<str>> {
        let name = std::str::from_utf8(unquoted(username)).ok().filter(|name| name.len() <= USERNAME_LEN_MAX)?;
        let is_expiry = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match name.split_once(self.time_limited.separator) {
            Some((expiry, userid)) if is_expiry(expiry) && !userid.is_empty() => Some(userid.into()),
            _ => Some(name.into()),
        }
    }
}

impl Who<'_, '_> {
    /// The first of the keys it may be under which the request verifies.
    pub(super) fn find_key(
        &self,
        credentials: &Credentials,
        realm: &str,
        algorithm: Algorithm,
        verifies: impl Fn(&[u8]) -> bool,
    ) -> Result<Key, Denial> {
        let (why, tried) = match self {
            Self::Static { .. } | Self::Kept { .. } => {
                let user = match self {
                    Self::Kept { user, .. } => &**user,
                    Self::Static { user, .. } => user,
                    _ => unreachable!("one of the two"),
                };
                let found = match algorithm {
                    Algorithm::Md5 => user.keys_md5.iter().find(|key| verifies(*key)).map(|key| Key::Md5(*key)),
                    Algorithm::Sha256 => {
                        user.keys_sha256.iter().find(|key| verifies(*key)).map(|key| Key::Sha256(*key))
                    }
                };
                if let Some(key) = found {
                    return Ok(key);
                }
                let tried = match algorithm {
                    Algorithm::Md5 => user.keys_md5.len(),
                    Algorithm::Sha256 => user.keys_sha256.len(),
                };
                (Rejection::WrongPassword, tried)
            }
            Self::TimeLimited { name, .. } => {
                let key_of = |secret: &SharedSecret| {
                    let password = credentials.time_limited.password(&secret.0, name);
                    derive(algorithm, name, realm, &password)
                };
                return credentials
                    .secrets
                    .iter()
                    .map(key_of)
                    .find(|key| verifies(key.bytes()))
                    .ok_or(denied(ErrorCode::Unauthenticated, Rejection::WrongPassword));
            }
            Self::Unavailable => return Err(denied(ErrorCode::ServerError, Rejection::KeyUnavailable)),
            Self::Elsewhere(_) => unreachable!("asked for first"),
            Self::Nobody(why) => (*why, 0),
        };
        // As much work for an unknown name as for any static user with a wrong password: which names exist must not
        // show in the time (STUN-8489-9.2.4-17).
        for _ in tried..credentials.users.forms_max().max(1) {
            std::hint::black_box(verifies(&[0; 16]));
        }
        Err(denied(ErrorCode::Unauthenticated, why))
    }

    /// The name of a user whose keys may be others by now.
    pub(super) fn name_to_ask_again(&self) -> Option<&str> {
        match self {
            Self::Kept { name, is_recent: false, .. } => Some(name),
            _ => None,
        }
    }

    /// The owner of what this client makes; the one there is, if it is the same.
    pub(super) fn owner(&self, home: Home<'_>, live_owner: Option<&Owner>) -> Owner {
        let (name, userid) = match self {
            Self::Static { name, .. } | Self::Kept { name, .. } => (&**name, None),
            Self::TimeLimited { name, userid } => (*name, *userid),
            Self::Nobody(_) | Self::Elsewhere(_) | Self::Unavailable => unreachable!("nobody has a key"),
        };
        if let Some(owner) = live_owner.filter(|owner| *owner.username == *name) {
            return owner.clone();
        }
        let username: Arc<str> = name.into();
        // REST-08.
        let user = userid.map_or_else(|| Arc::clone(&username), |start| name[start..].into());
        Owner { username, realm: home.realm(), account: home.account(user), grant: None }
    }
}

fn derive(algorithm: Algorithm, username: &str, realm: &str, password: &str) -> Key {
    match algorithm {
        Algorithm::Md5 => Key::Md5(integrity::long_term_key_md5(username, realm, password)),
        Algorithm::Sha256 => Key::Sha256(integrity::long_term_key_sha256(username, realm, password)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const REALM: &str = "example.org";
    const NOW: u64 = 1_800_000_000;

    /// Whether a key is found, and how many are tried, where requests verify under `key`.
    fn tried(credentials: &Credentials, claim: Claim<'_>, algorithm: Algorithm, key: &[u8]) -> (bool, usize) {
        let tried = Cell::new(0);
        let verifies = |candidate: &[u8]| {
            tried.set(tried.get() + 1);
            candidate == key
        };
        let found = identify(credentials, NOW, claim, None, |_, _| Known::Nobody).find_key(
            credentials,
            REALM,
            algorithm,
            verifies,
        );
        (found.is_ok(), tried.get())
    }

    fn credentials() -> Credentials {
        let mut eva = StaticUser::from_password("\u{e9}va", REALM, "pass");
        eva.add_form("e\u{301}va", REALM, "pass");
        eva.add_form("\u{e9}va", REALM, "p a s s");
        let alice = StaticUser::from_password("alice", REALM, "s3cret");
        let bob = StaticUser::from_keys("bob", REALM, Some([1; 16]), None);
        let users = [("alice".to_owned(), alice), ("\u{e9}va".to_owned(), eva), ("bob".to_owned(), bob)].into();
        Credentials { users, ..Credentials::default() }
    }

    /// STUN-8489-9.2.4-17, -9.2.4-24: how long a refusal takes tells nobody which names there are.
    #[test]
    fn stun_8489_9_2_4_17_a_refusal_takes_as_many_macs_whoever_it_is() {
        let credentials = credentials();
        let hash = integrity::userhash("alice", REALM);
        for claim in [
            Claim::Username(b"alice"),
            Claim::Username("\u{e9}va".as_bytes()),
            Claim::Username("e\u{301}va".as_bytes()),
            Claim::Username(b"bob"),
            Claim::Username(b"nobody"),
            Claim::Username(b"\xFF"),
            Claim::Username(b""),
            Claim::Userhash(&hash),
            Claim::Userhash(&[0; 32]),
            Claim::Userhash(&[]),
        ] {
            for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
                assert_eq!(tried(&credentials, claim, algorithm, b"no key"), (false, 3));
            }
        }
    }

    /// The login of a browser: one key, one MAC. For a time-limited name one for each secret before the right one.
    #[test]
    fn a_login_in_ascii_takes_one_mac() {
        let mut credentials = credentials();
        let key = integrity::long_term_key_md5("alice", REALM, "s3cret");
        assert_eq!(tried(&credentials, Claim::Username(b"alice"), Algorithm::Md5, &key), (true, 1));
        credentials.secrets = vec![SharedSecret(b"north".to_vec()), SharedSecret(b"south".to_vec())];
        credentials.ttl_secs_max = 3600;
        let name = format!("{}:carol", NOW + 60);
        for (place, secret) in [b"north", b"south"].into_iter().enumerate() {
            let password = credentials.time_limited.password(secret, &name);
            let key = integrity::long_term_key_md5(&name, REALM, &password);
            let claim = Claim::Username(name.as_bytes());
            assert_eq!(tried(&credentials, claim, Algorithm::Md5, &key), (true, place + 1));
        }
    }
}
