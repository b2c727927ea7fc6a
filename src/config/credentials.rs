//! Time-limited credentials (draft-uberti-behave-turn-rest, requirement REST-01): how a back end makes one.
//!
//! Verifying them is the machine's work (`turn`), from the same secrets.

use std::fmt;

use super::{Config, Prepared};
use crate::turn::{Credentials, Realm, RealmChoice, SharedSecret, TimeLimitedForm};

/// A user name that expires by itself and the password that goes with it.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeLimited {
    /// Expiry in Unix seconds, the separator, the user.
    pub username: String,
    /// Base64 of an HMAC over the user name.
    pub password: String,
}

impl TimeLimited {
    /// The credential of `user` that is good until `expires_unix_secs`.
    pub fn derive(form: TimeLimitedForm, secret: &SharedSecret, user: &str, expires_unix_secs: u64) -> Self {
        let username = format!("{expires_unix_secs}{}{user}", form.separator);
        let password = form.password(&secret.0, &username);
        Self { username, password }
    }
}

impl Config {
    /// The credentials that a user is to have one of; those of `auth` without a realm, or under its name.
    ///
    /// # Errors
    /// What is wrong with realm or user.
    pub fn credentials_for(&self, realm: Option<&str>, user: &str) -> Result<&Credentials, String> {
        let turn = &self.shards.turn;
        let prefix_of = |realm: &Realm| match &realm.chosen_by {
            RealmChoice::UserPrefix(prefix) => Some(prefix.clone()),
            _ => None,
        };
        let Some(name) = realm.filter(|name| *name != turn.realm) else {
            let begins = |realm: &&Realm| prefix_of(realm).is_some_and(|prefix| user.starts_with(&prefix));
            return match turn.realms.iter().find(begins) {
                Some(other) => Err(format!("a user whose name begins so belongs to the realm {}", other.name)),
                None => Ok(&turn.credentials),
            };
        };
        let Some(found) = turn.realms.iter().find(|realm| *realm.name == *name) else {
            return Err(format!("there is no realm \"{name}\" in the configuration"));
        };
        match prefix_of(found).filter(|prefix| !user.starts_with(prefix)) {
            Some(prefix) => Err(format!("the names of users of the realm {name} begin with \"{prefix}\"")),
            None => Ok(&found.credentials),
        }
    }
}

/// RFC 8489 §14.3 allows 508 bytes, of which expiry and colon take up to 21.
const USER_NAME_BYTES_MAX: usize = 487;

/// The user of a time-limited credential, as clients prepare it.
///
/// # Errors
/// What is wrong with the name.
pub fn user_name(text: &str) -> Result<String, String> {
    let prepared = Prepared::new(text)?;
    if prepared.as_str().len() > USER_NAME_BYTES_MAX {
        return Err(format!("it is longer than {USER_NAME_BYTES_MAX} bytes"));
    }
    Ok(prepared.as_str().to_owned())
}

impl fmt::Debug for TimeLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeLimited({}, …)", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_01_the_password_is_an_hmac_of_the_user_name() {
        let secret = SharedSecret(b"north".to_vec());
        let credential = TimeLimited::derive(TimeLimitedForm::default(), &secret, "alice", 1_893_456_000);
        assert_eq!(credential.username, "1893456000:alice");
        assert_eq!(credential.password, "MME/7rvfb/gOjpkB59+7AxlCLvk=");
        assert!(!format!("{credential:?}").contains("MME"));
    }
}
