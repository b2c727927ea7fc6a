//! Bearer tokens of the admin API.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A token.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// From its text.
    pub fn new(text: &[u8]) -> Self {
        Self(text.into())
    }

    /// What a client sends.
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is it (abuse S18). Digests are compared, so that it takes as long whatever is shown.
    pub fn matches(&self, shown: &[u8]) -> bool {
        let (own, shown) = (Sha256::digest(&self.0), Sha256::digest(shown));
        own.as_slice().ct_eq(shown.as_slice()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s18_a_token_is_compared_whole_and_never_shown() {
        let token = Token::new(b"0123456789abcdef");
        assert!(token.matches(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcde", b"0123456789abcdef0", b"0123456789abcdeF"] {
            assert!(!token.matches(wrong));
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
