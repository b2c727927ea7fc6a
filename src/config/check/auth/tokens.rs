//! `[[auth.token_keys]]`: keys shared with authorization servers (RFC 7635).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::config::check::Checker;
use crate::config::values::{Mistake, Prepared};
use crate::config::written;
use crate::turn::{TokenKey, TokenKeys, Users};

/// Every unauthenticated client is told the name.
const SERVER_NAME_BYTES_MAX: usize = 127;

impl Checker<'_> {
    /// `None` without keys.
    pub(super) fn token_keys(&mut self, written: &written::Auth, users: &Users) -> Option<TokenKeys> {
        let mut keys: Vec<(String, TokenKey)> = Vec::new();
        for (index, entry) in written.token_keys.iter().enumerate() {
            let key = |name: &str| format!("auth.token_keys[{index}].{name}");
            let kid = self.user_name(&key("kid"), &entry.kid, "kid = \"2026-11\"");
            let secret = self.accept(key("key"), token_key(&entry.key));
            if kid.as_ref().is_some_and(|kid| keys.iter().any(|(other, _)| other == kid)) {
                let wrong = "another key has this id";
                self.problem(key("kid"), Mistake::new(wrong, "give every key another id, or remove one"));
            }
            if kid.as_ref().is_some_and(|kid| users.get(kid).is_some()) {
                // Both stand in USERNAME, where nothing tells them apart.
                let wrong = "a user has this name";
                self.problem(key("kid"), Mistake::new(wrong, "give the key another id"));
            }
            keys.extend(kid.zip(secret));
        }
        if written.token_keys.is_empty() {
            if !written.token_server_name.is_empty() {
                let fix = "add [[auth.token_keys]], or remove the name";
                self.problem("auth.token_server_name", Mistake::new("there are no keys to go with this name", fix));
            }
            return None;
        }
        Some(TokenKeys::new(self.token_server_name(written), keys))
    }

    fn token_server_name(&mut self, written: &written::Auth) -> String {
        if written.token_server_name.is_empty() {
            // A realm that is no good is complained about elsewhere.
            return Prepared::new(&written.realm).map(|realm| realm.0).unwrap_or_default();
        }
        let name = Prepared::new(&written.token_server_name).map(|name| name.0);
        match name.ok().filter(|name| name.len() <= SERVER_NAME_BYTES_MAX) {
            Some(name) => name,
            None => {
                let wrong = "this is too long, or has characters that no name has";
                let fix = format!("write at most {SERVER_NAME_BYTES_MAX} bytes, like \"turn.example.org\"");
                self.problem("auth.token_server_name", Mistake::new(wrong, fix));
                String::new()
            }
        }
    }
}

/// 16 or 32 bytes, in hexadecimal digits or in base64; no text is both.
fn token_key(text: &str) -> Result<TokenKey, Mistake> {
    let decoded = match text.len() {
        32 | 64 => hex::decode(text).ok(),
        _ => STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok(),
    };
    decoded.and_then(|bytes| TokenKey::new(&bytes)).ok_or_else(|| {
        // The text is a secret: not repeated in the message.
        let fix = "write 16 or 32 bytes in hexadecimal digits or base64; make them with: openssl rand -hex 32";
        Mistake::new("this is not a key of AES-128 or AES-256", fix)
    })
}
