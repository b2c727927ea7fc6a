//! Where keys are kept besides the file, and what is made of what is found there.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::check::password_forms;
use super::values;
use crate::turn::StaticUser;

/// Where to ask for keys, and how. There are secrets in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyBackend {
    /// What kind of server it is.
    pub kind: KeyBackendKind,
    /// Where it is, as its library wants it.
    pub url: String,
    /// SQL, or the name of a Redis key, in pieces.
    pub query: Vec<QueryPart>,
    /// For HTTP: the Authorization header; empty for none.
    pub authorization: String,
    /// From when a shard asks until it is given up.
    pub timeout: Duration,
    /// Questions under way at the same time.
    pub concurrent: usize,
    /// Also accept passwords as RFC 5389 prepared them.
    pub saslprep: bool,
}

impl fmt::Debug for KeyBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBackend({:?}, …)", self.kind)
    }
}

/// Kinds of back ends, by the scheme of their URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyBackendKind {
    /// A file.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    /// Redis or Valkey.
    Redis,
    /// A web server.
    Http,
}

impl KeyBackendKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Sqlite, Self::Postgres, Self::Mysql, Self::Redis, Self::Http];

    /// What metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Redis => "redis",
            Self::Http => "http",
        }
    }
}

/// A piece of a query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueryPart {
    /// As it stands.
    Text(String),
    /// The realm.
    Realm,
    /// The user name.
    Name,
}

impl QueryPart {
    /// Cuts `{realm}` and `{name}` out of a text.
    pub(super) fn cut(text: &str) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let places = [("{realm}", Self::Realm), ("{name}", Self::Name)];
            let first = places.into_iter().filter_map(|(mark, part)| Some((rest.find(mark)?, mark, part)));
            let Some((at, mark, part)) = first.min_by_key(|(at, ..)| *at) else {
                parts.push(Self::Text(rest.to_owned()));
                return parts;
            };
            parts.push(Self::Text(rest[..at].to_owned()));
            parts.push(part);
            rest = &rest[at + mark.len()..];
        }
    }

    /// The piece with what it stands for.
    pub fn filled_in<'t>(&'t self, realm: &'t str, name: &'t str) -> &'t str {
        match self {
            Self::Text(text) => text,
            Self::Realm => realm,
            Self::Name => name,
        }
    }
}

/// What a back end says of a user; empty text is nothing.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KeyRecord {
    /// In clear, if it must be.
    pub password: String,
    /// MD5(name:realm:password) in hexadecimal digits.
    pub key_md5: String,
    /// SHA-256(name:realm:password) in hexadecimal digits.
    pub key_sha256: String,
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRecord(…)")
    }
}

impl KeyRecord {
    /// What the fields are called everywhere.
    pub const FIELDS: &'static [&'static str] = &["password", "key_md5", "key_sha256"];

    /// The field of this name.
    pub fn field(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "password" => Some(&mut self.password),
            "key_md5" => Some(&mut self.key_md5),
            "key_sha256" => Some(&mut self.key_sha256),
            _ => None,
        }
    }

    /// Keys as they stand there, which come first, or made from the password.
    ///
    /// # Errors
    /// There are neither keys nor a password, or they are not usable; in words without them.
    pub fn keys(&self, name: &str, realm: &str, saslprep: bool) -> Result<StaticUser, &'static str> {
        if !self.key_md5.is_empty() || !self.key_sha256.is_empty() {
            let (md5, sha256) = (optional_key(&self.key_md5)?, optional_key(&self.key_sha256)?);
            return Ok(StaticUser::from_keys(name, realm, md5, sha256));
        }
        if self.password.is_empty() {
            return Err("it has a user with neither keys nor a password");
        }
        let forms: Vec<Cow<'_, str>> = match password_forms(&self.password, saslprep) {
            Ok(forms) => forms.into_iter().map(Cow::Owned).collect(),
            Err(_) => return Err("it has a user whose password cannot be typed"),
        };
        let mut user = StaticUser::from_password(name, realm, &forms[0]);
        forms.iter().for_each(|form| user.add_form(name, realm, form));
        Ok(user)
    }
}

fn optional_key<const N: usize>(text: &str) -> Result<Option<[u8; N]>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    values::key(text).map(Some).map_err(|_| "it has a user with a key that is not hexadecimal digits of its length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_cut_at_its_parameters() {
        let text = |text: &str| QueryPart::Text(text.into());
        let parts = QueryPart::cut("a {name} b {realm}{name}");
        let expected =
            [text("a "), QueryPart::Name, text(" b "), QueryPart::Realm, text(""), QueryPart::Name, text("")];
        assert_eq!(parts, expected);
        let filled: String =
            QueryPart::cut("k:{realm}:{name}").iter().map(|part| part.filled_in("{name}", "x")).collect();
        assert_eq!(filled, "k:{name}:x");
    }

    #[test]
    fn keys_come_before_a_password_and_say_the_same() {
        let by_password = KeyRecord { password: "pa55".into(), ..KeyRecord::default() };
        let made = by_password.keys("carol", "example.org", false).unwrap();
        let by_keys = KeyRecord {
            password: "another".into(),
            key_md5: hex::encode(crate::stun::integrity::long_term_key_md5("carol", "example.org", "pa55")),
            key_sha256: hex::encode(crate::stun::integrity::long_term_key_sha256("carol", "example.org", "pa55")),
        };
        assert!(by_keys.keys("carol", "example.org", false).unwrap() == made);
        for (password, key_md5) in [("", ""), ("", "00"), ("\u{7}", "")] {
            let record = KeyRecord { password: password.into(), key_md5: key_md5.into(), ..KeyRecord::default() };
            assert!(record.keys("carol", "example.org", false).is_err());
        }
    }
}
