//! What the machine knows about those who may allocate. How a request is held against it is in `authenticate`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ipnet::IpNet;
use sha1::Sha1;
use sha2::Sha256;

use super::nonce::Offer;
use super::{EndSessions, KeyLookUps, TokenKeys};
use crate::stun::integrity;

/// Static users and shared secrets, both at once, and which of RFC 8489's choices are open to them.
#[derive(Clone)]
pub struct Credentials {
    /// Long-lived users.
    pub users: Users,
    /// Secrets from which a web back end derives time-limited credentials (requirement REST-01). Any of them is
    /// accepted, so that one can be replaced by the next.
    pub secrets: Vec<SharedSecret>,
    /// How far in the future a time-limited user name may expire, in seconds (abuse S14).
    pub ttl_secs_max: u64,
    /// How time-limited credentials are made.
    pub time_limited: TimeLimitedForm,
    /// Whether MD5 keys are accepted. Without them PASSWORD-ALGORITHMS lists SHA-256 alone, and a request without
    /// PASSWORD-ALGORITHM is answered 401 (STUN-8489-18.5.1-02).
    pub md5: bool,
    /// Whether PASSWORD-ALGORITHM together with MESSAGE-INTEGRITY, instead of MESSAGE-INTEGRITY-SHA256, is answered 401
    /// (STUN-8489-9.2.4-22).
    pub strict_algorithms: bool,
    /// Whether clients are told that they may send USERHASH instead of USERNAME, where everybody can be found by it.
    pub userhash: bool,
    /// Keys of access tokens; `None` if there are none, and ACCESS-TOKEN is unknown (RFC 7635).
    pub tokens: Option<TokenKeys>,
    /// When allocations end with their credentials.
    pub end_sessions: EndSessions,
    /// If the keys of more users are kept elsewhere.
    pub look_ups: Option<KeyLookUps>,
    /// Clients that may allocate without credentials. Nothing protects them from who can forge their addresses.
    pub guests: Vec<IpNet>,
    /// If there are any, Binding requests need one of these short-term credentials.
    pub binding_users: ShortTermUsers,
}

impl Default for Credentials {
    /// Nobody, and everything that RFC 8489 has by default.
    fn default() -> Self {
        Self {
            users: Users::default(),
            secrets: Vec::new(),
            ttl_secs_max: 0,
            time_limited: TimeLimitedForm::default(),
            md5: true,
            strict_algorithms: false,
            userhash: true,
            tokens: None,
            end_sessions: EndSessions::default(),
            look_ups: None,
            guests: Vec::new(),
            binding_users: ShortTermUsers::default(),
        }
    }
}

impl Credentials {
    /// What challenges offer. A client that is told of "Username anonymity" must hide its name, so that is offered only
    /// where every name can be found by its hash (STUN-8489-14.4-03).
    pub(super) const fn offer(&self) -> Offer {
        let no_others = self.secrets.is_empty() && self.tokens.is_none() && self.look_ups.is_none();
        let all_by_hash = no_others && !self.users.is_empty();
        Offer { userhash: self.userhash && all_by_hash, md5: self.md5, realm: 0 }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} users, {} secrets)", self.users.len(), self.secrets.len())
    }
}

/// Static users, to be found by name and by USERHASH.
#[derive(Clone, Default)]
pub struct Users {
    by_name: HashMap<String, StaticUser>,
    names_by_hash: HashMap<[u8; 32], String>,
    forms_max: usize,
}

impl Users {
    /// The user of this name, which must be prepared already.
    pub fn get(&self, name: &str) -> Option<&StaticUser> {
        self.by_name.get(name)
    }

    /// Name and keys of the user with this USERHASH.
    pub(super) fn find(&self, userhash: &[u8]) -> Option<(&str, &StaticUser)> {
        let (name, user) = self.by_name.get_key_value(self.names_by_hash.get(userhash)?)?;
        Some((name, user))
    }

    /// The most keys that have to be tried for one of them.
    pub(super) const fn forms_max(&self) -> usize {
        self.forms_max
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        // The number of forms is no less than one where there is a user.
        self.forms_max == 0
    }
}

impl FromIterator<(String, StaticUser)> for Users {
    fn from_iter<I: IntoIterator<Item = (String, StaticUser)>>(users: I) -> Self {
        let by_name: HashMap<String, StaticUser> = users.into_iter().collect();
        Self {
            names_by_hash: by_name.iter().map(|(name, user)| (user.userhash, name.clone())).collect(),
            forms_max: by_name
                .values()
                .map(|user| user.keys_md5.len().max(user.keys_sha256.len()).max(1))
                .max()
                .unwrap_or(0),
            by_name,
        }
    }
}

impl<const N: usize> From<[(String, StaticUser); N]> for Users {
    fn from(users: [(String, StaticUser); N]) -> Self {
        users.into_iter().collect()
    }
}

/// The keys of one user; the password itself is not kept (TURN-8656-6-02).
#[derive(Clone, PartialEq, Eq)]
pub struct StaticUser {
    userhash: [u8; 32],
    pub(super) keys_md5: Vec<[u8; 16]>,
    pub(super) keys_sha256: Vec<[u8; 32]>,
}

impl StaticUser {
    /// The most forms of name and password that one user can have. Each is one more MAC for a request that fails.
    pub const FORMS_MAX: usize = 16;

    /// Both keys, from a password. The strings must be prepared already.
    pub fn from_password(username: &str, realm: &str, password: &str) -> Self {
        let mut user = Self::from_keys(username, realm, None, None);
        user.add_form(username, realm, password);
        user
    }

    /// Keys that somebody else made from a password. The strings must be prepared already.
    pub fn from_keys(username: &str, realm: &str, key_md5: Option<[u8; 16]>, key_sha256: Option<[u8; 32]>) -> Self {
        Self {
            userhash: integrity::userhash(username, realm),
            keys_md5: key_md5.into_iter().collect(),
            keys_sha256: key_sha256.into_iter().collect(),
        }
    }

    /// Another way in which a client may write name and password before it makes its key: some do no preparation
    /// (requirement L21), some another one. No effect if it gives no new key, or beyond [`StaticUser::FORMS_MAX`].
    pub fn add_form(&mut self, username: &str, realm: &str, password: &str) {
        let key = integrity::long_term_key_md5(username, realm, password);
        if self.keys_md5.len() < Self::FORMS_MAX && !self.keys_md5.contains(&key) {
            self.keys_md5.push(key);
            self.keys_sha256.push(integrity::long_term_key_sha256(username, realm, password));
        }
    }
}

impl fmt::Debug for StaticUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticUser(…)")
    }
}

/// Short-term credentials by user name. The key is the password itself, prepared (STUN-8489-9.1.1-01).
#[derive(Clone, Default)]
pub struct ShortTermUsers {
    keys: HashMap<String, Vec<Arc<[u8]>>>,
    forms_max: usize,
}

impl ShortTermUsers {
    /// The keys of a user, whose name must be prepared already; none for an unknown one.
    pub(super) fn get(&self, name: &str) -> &[Arc<[u8]>] {
        self.keys.get(name).map_or(&[], Vec::as_slice)
    }

    /// The most keys that have to be tried for one of them.
    pub(super) const fn forms_max(&self) -> usize {
        self.forms_max
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl FromIterator<(String, Vec<String>)> for ShortTermUsers {
    /// Names, prepared already, each with the forms of its password that clients may use as the key.
    fn from_iter<I: IntoIterator<Item = (String, Vec<String>)>>(users: I) -> Self {
        let keys_of = |forms: Vec<String>| forms.into_iter().map(|form| form.into_bytes().into()).collect();
        let keys: HashMap<String, Vec<Arc<[u8]>>> =
            users.into_iter().map(|(name, forms)| (name, keys_of(forms))).collect();
        Self { forms_max: keys.values().map(Vec::len).max().unwrap_or(0), keys }
    }
}

impl fmt::Debug for ShortTermUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortTermUsers({} users)", self.keys.len())
    }
}

/// A secret shared with web back ends.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(pub Vec<u8>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

/// How time-limited user names and their passwords are made (draft-uberti-behave-turn-rest; requirement REST-06).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimitedForm {
    /// Between expiry and user; an ASCII character that is no digit.
    pub separator: char,
    /// What the HMAC over the user name is made with.
    pub hash: MacHash,
}

impl Default for TimeLimitedForm {
    fn default() -> Self {
        Self { separator: ':', hash: MacHash::Sha1 }
    }
}

/// The hash function under an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacHash {
    /// What the draft has, and what back ends make.
    Sha1,
    /// For those who must not use SHA-1.
    Sha256,
}

impl TimeLimitedForm {
    /// The password that belongs to a time-limited user name: base64(HMAC(secret, username)) (REST-01).
    pub fn password(self, secret: &[u8], username: &str) -> String {
        fn encoded<M: Mac + KeyInit>(secret: &[u8], username: &str) -> String {
            let mut mac = <M as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
            mac.update(username.as_bytes());
            STANDARD.encode(mac.finalize().into_bytes())
        }
        match self.hash {
            MacHash::Sha1 => encoded::<Hmac<Sha1>>(secret, username),
            MacHash::Sha256 => encoded::<Hmac<Sha256>>(secret, username),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a user made from a password is what is known of one made from its keys.
    #[test]
    fn turn_8656_6_02_the_password_is_not_kept() {
        let md5 = integrity::long_term_key_md5("user", "realm", "pass");
        let sha256 = integrity::long_term_key_sha256("user", "realm", "pass");
        let from_keys = StaticUser::from_keys("user", "realm", Some(md5), Some(sha256));
        assert!(StaticUser::from_password("user", "realm", "pass") == from_keys);
    }

    /// REST-06.
    #[test]
    fn rest_01_password_of_a_time_limited_user_name() {
        let sha1 = TimeLimitedForm::default();
        assert_eq!(sha1.password(b"north", "1893456000:alice"), "MME/7rvfb/gOjpkB59+7AxlCLvk=");
        assert_eq!(sha1.password(b"north", "1893456000"), "sqdTDrNuKKg7b57nGt21S56Eu5s=");
        let sha256 = TimeLimitedForm { hash: MacHash::Sha256, ..sha1 };
        assert_eq!(sha256.password(b"north", "1893456000:alice"), "6rRxN1t/MtBZJaGTXy4fG+SuzTOSjkcaxKMlNMbjuaU=");
    }

    #[test]
    fn forms_that_give_the_same_key_count_once_and_there_are_no_more_than_allowed() {
        let mut user = StaticUser::from_password("alice", "example.org", "s3cret");
        user.add_form("alice", "example.org", "s3cret");
        assert_eq!(user.keys_md5.len(), 1);
        for form in 0..100 {
            user.add_form("alice", "example.org", &form.to_string());
        }
        assert_eq!((user.keys_md5.len(), user.keys_sha256.len()), (StaticUser::FORMS_MAX, StaticUser::FORMS_MAX));
    }
}
