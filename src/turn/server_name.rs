//! Names of a server, as its clients ask for them in a handshake (RFC 6066 section 3): compared, and nothing else.

use std::borrow::Cow;
use std::fmt;

/// A DNS name has at most so many bytes.
const NAME_BYTES_MAX: usize = 253;

/// A label of it has at most so many.
const LABEL_BYTES_MAX: usize = 63;

/// A DNS name, or a wildcard: `*.` and a name, which stands for that name with any one label in front (RFC 6125
/// section 6.4.3). In lower case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName(Box<str>);

/// Not a name that a client could ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAServerName;

impl ServerName {
    /// Reads a name as people write it.
    ///
    /// # Errors
    /// It is none: empty, an address, too long, with other characters than letters, digits, hyphens and underscores, or
    /// with a `*` that is not the whole first label.
    pub fn parse(text: &str) -> Result<Self, NotAServerName> {
        let name = normal(text);
        let fixed = name.strip_prefix("*.").unwrap_or(&name);
        let is_label = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        // The last label of an address in decimals is a number, and that of a name never is.
        let is_address = fixed.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        let is_name = name.len() <= NAME_BYTES_MAX && !is_address && fixed.split('.').all(is_label);
        if is_name { Ok(Self(name.into())) } else { Err(NotAServerName) }
    }

    /// Whether it is this name, which is [`normal`].
    pub(super) fn is_exactly(&self, asked: &str) -> bool {
        *self.0 == *asked
    }

    /// Whether it is a wildcard that stands for this name, which is [`normal`].
    pub(super) fn covers(&self, asked: &str) -> bool {
        match (self.0.strip_prefix("*."), asked.split_once('.')) {
            (Some(parent), Some((label, rest))) => !label.is_empty() && rest == parent,
            _ => false,
        }
    }

    /// Whether a certificate for this name is one for all that `self` stands for.
    pub fn is_certified_by(&self, certified: &str) -> bool {
        Self::parse(certified).is_ok_and(|certified| certified == *self || certified.covers(&self.0))
    }

    /// As it is compared.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name as it is compared: in lower case, and without the dot at the end that some write.
pub(super) fn normal(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_final_dot() {
        let name = ServerName::parse("Turn.Example.ORG.").unwrap();
        assert_eq!(name.as_str(), "turn.example.org");
        for (asked, is_it) in [
            ("turn.example.org", true),
            ("TURN.example.org.", true),
            ("turn.example.org..", false),
            ("example.org", false),
            ("a.turn.example.org", false),
            ("", false),
        ] {
            assert_eq!(name.is_exactly(&normal(asked)), is_it, "{asked}");
            assert!(!name.covers(&normal(asked)), "{asked}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let name = ServerName::parse("*.Example.org").unwrap();
        for (asked, is_it) in [
            ("turn.example.org", true),
            ("TURN.EXAMPLE.ORG.", true),
            ("a.b.example.org", false),
            ("example.org", false),
            (".example.org", false),
            ("turn.example.org.net", false),
            ("turnexample.org", false),
        ] {
            assert_eq!(name.covers(&normal(asked)), is_it, "{asked}");
        }
    }

    #[test]
    fn a_certificate_is_for_a_name_or_for_what_its_wildcard_covers() {
        let (one, many) = (ServerName::parse("turn.example.org").unwrap(), ServerName::parse("*.example.org").unwrap());
        for (certified, is_for_one, is_for_many) in [
            ("TURN.example.org", true, false),
            ("*.example.org", true, true),
            ("*.org", false, false),
            ("other.example.org", false, false),
            ("", false, false),
        ] {
            assert_eq!((one.is_certified_by(certified), many.is_certified_by(certified)), (is_for_one, is_for_many));
        }
    }

    #[test]
    fn what_no_client_asks_for_is_no_name() {
        let long = format!("{}.org", "a".repeat(64));
        let longer = format!("{}org", "abc.".repeat(63));
        for text in ["", ".", "*", "*.", "a..b", "a.*.org", "*a.org", "**.org", "192.0.2.1", "*.0.2.1", "[2001:db8::1]"]
        {
            assert_eq!(ServerName::parse(text), Err(NotAServerName), "{text}");
        }
        for text in ["bücher.example", "a b.org", "a/b.org", &long, &longer] {
            assert_eq!(ServerName::parse(text), Err(NotAServerName), "{text}");
        }
        for text in ["localhost", "_turn.example", "xn--bcher-kva.example", "3.example", "*.local"] {
            assert!(ServerName::parse(text).is_ok(), "{text}");
        }
    }
}
