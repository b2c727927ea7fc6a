//! Self-contained access tokens (RFC 7635 §6.2): sealed by an authorization server that shares a key with this server,
//! shown by clients in ACCESS-TOKEN.
//!
//! A token is `nonce_length`, nonce, and under AEAD `key_length`, `mac_key`, timestamp, lifetime; the server's name is
//! authenticated with it. Lengths come from whoever sends it, and count only after they were held against the bytes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use super::allocation::Owner;

/// Of the AEADs of RFC 7635, at the end of what they encrypt.
const TAG_LEN: usize = 16;
/// 160 bits, as HMAC-SHA1 takes them (OAUTH-7635-6.2-02).
const MAC_KEY_LEN_MIN: usize = 20;
/// A block of SHA-256; HMAC would hash longer ones.
const MAC_KEY_LEN_MAX: usize = 64;
/// That of MD5 keys, which coturn takes for all.
const COTURN_KEY_LEN: usize = 16;
const SEALED_LEN_MAX: usize = 2 + MAC_KEY_LEN_MAX + 8 + 4 + TAG_LEN;
/// How far clocks may be apart, and a token outlive its lifetime (Δ).
const SKEW_SECS: u64 = 5;

/// The keys shared with authorization servers.
#[derive(Clone)]
pub struct TokenKeys {
    /// What this server is called: in THIRD-PARTY-AUTHORIZATION, and authenticated with every token. At most 127 bytes.
    pub server_name: String,
    keys: HashMap<String, TokenKey>,
}

impl TokenKeys {
    /// `keys` by their key id (`kid`), all of which are good at the same time (OAUTH-7635-4-01).
    pub fn new(server_name: String, keys: impl IntoIterator<Item = (String, TokenKey)>) -> Self {
        Self { server_name, keys: keys.into_iter().collect() }
    }

    /// The key with this id.
    pub(super) fn get(&self, kid: &str) -> Option<&TokenKey> {
        self.keys.get(kid)
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeys({}, {} keys)", self.server_name, self.keys.len())
    }
}

/// AEAD_AES_128_GCM or AEAD_AES_256_GCM, by the length of the key.
#[derive(Clone)]
pub struct TokenKey(Arc<LessSafeKey>);

impl TokenKey {
    /// From 16 or 32 bytes; `None` for any other number.
    pub fn new(key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        let key = UnboundKey::new(algorithm, key).expect("the length was checked");
        Some(Self(Arc::new(LessSafeKey::new(key))))
    }

    /// What a token says; `None` if it was not sealed with this key for this server, or is not of its form.
    pub(super) fn open(&self, kid: &str, server_name: &str, token: &[u8]) -> Option<Grant> {
        let (nonce_len, rest) = token.split_first_chunk::<2>()?;
        // The AEADs have nonces of 12 bytes and no others.
        if usize::from(u16::from_be_bytes(*nonce_len)) != NONCE_LEN {
            return None;
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut buffer = [0; SEALED_LEN_MAX];
        let buffer = buffer.get_mut(..sealed.len())?;
        buffer.copy_from_slice(sealed);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let content = self.0.open_in_place(nonce, Aad::from(server_name.as_bytes()), buffer).ok()?;

        let (key_len, rest) = content.split_first_chunk::<2>()?;
        let (mac_key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*key_len)))?;
        if !(MAC_KEY_LEN_MIN..=MAC_KEY_LEN_MAX).contains(&mac_key.len()) {
            return None;
        }
        let (timestamp, rest) = rest.split_first_chunk::<8>()?;
        let lifetime: &[u8; 4] = rest.try_into().ok()?;
        Some(Grant {
            kid: kid.into(),
            mac_key: mac_key.into(),
            // 48 bits of seconds; the other 16 are 1/64000 s.
            issued_unix_secs: u64::from_be_bytes(*timestamp) >> 16,
            lifetime_secs: u32::from_be_bytes(*lifetime),
        })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// What a token grants. Kept with the allocation that was made with it, since other requests come without the token
/// (OAUTH-7635-9-02).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) kid: Box<str>,
    mac_key: Arc<[u8]>,
    issued_unix_secs: u64,
    lifetime_secs: u32,
}

impl Grant {
    /// The key under which a request verifies: the one in the token, or, of 160 bits, the first 128, with which coturn's
    /// clients sign.
    pub(super) fn find_key(&self, verifies: impl Fn(&[u8]) -> bool) -> Option<Arc<[u8]>> {
        let shortened = self.mac_key.get(..COTURN_KEY_LEN).filter(|_| self.mac_key.len() == MAC_KEY_LEN_MIN);
        if verifies(&self.mac_key) {
            return Some(Arc::clone(&self.mac_key));
        }
        shortened.filter(|key| verifies(key)).map(Arc::from)
    }

    /// OAUTH-7635-7-04: lifetime + Δ > |now − timestamp|.
    pub(super) const fn is_fresh(&self, unix_secs: u64) -> bool {
        self.lifetime_secs as u64 + SKEW_SECS > unix_secs.abs_diff(self.issued_unix_secs)
    }

    /// Until when an allocation made with it may live, in seconds from now; at least 1 if it is fresh.
    pub(super) fn remaining_secs(&self, unix_secs: u64) -> u32 {
        let ends = self.issued_unix_secs + u64::from(self.lifetime_secs) + SKEW_SECS;
        u32::try_from(ends.saturating_sub(unix_secs)).unwrap_or(u32::MAX)
    }

    /// Who has such a token. It names no user, only the key it was sealed with; so the owner of an allocation, and the
    /// account that quotas count by, is the token itself. What it is called begins like no user name can.
    pub(super) fn owner(self) -> Owner {
        let account = format!("{}/{}", self.kid, hex::encode(&Sha256::digest(&self.mac_key)[..8]));
        let username = format!("\u{1}token {account}").into();
        Owner { username, realm: None, account: account.into(), grant: Some(Arc::new(self)) }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({}, {} + {} s)", self.kid, self.issued_unix_secs, self.lifetime_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"HGkj32KJGiuy098sdfaqbNjOiaz71923";
    const NAME: &str = "blackdow.carleon.gov";
    const TOKEN: &str = "000c68346a336b326c326e346235617ef134a3d5e44e9a19cc7dc104b0c03d03b2a551d8fdf5cd3b6dca6f10cfb77e5b\
                         2ddec84d293a5c50499359f0c2e26f76";

    fn open(token: &[u8]) -> Option<Grant> {
        TokenKey::new(KEY).unwrap().open("kid", NAME, token)
    }

    /// Seals what a test wants to be read.
    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut bytes = content.to_vec();
        let key = TokenKey::new(KEY).unwrap();
        let nonce = Nonce::assume_unique_for_key([7; NONCE_LEN]);
        key.0.seal_in_place_append_tag(nonce, Aad::from(NAME.as_bytes()), &mut bytes).unwrap();
        [&[0, 12][..], &[7; NONCE_LEN], &bytes].concat()
    }

    #[test]
    fn oauth_7635_6_2_01_the_example_token_is_read() {
        let grant = open(&hex::decode(TOKEN).unwrap()).unwrap();
        assert_eq!(&*grant.mac_key, b"ZksjpweoixXmvn67534m");
        assert_eq!((grant.issued_unix_secs, grant.lifetime_secs), (92_470_300_704_768 >> 16, 3600));
        assert_eq!(grant.issued_unix_secs, 1_410_984_813);
        assert!(!format!("{grant:?}").contains("Zksj"));
    }

    /// OAUTH-7635-7-03, OAUTH-7635-6.2-01: nothing of it can be changed.
    #[test]
    fn oauth_7635_7_03_any_flipped_bit_and_any_other_length_are_refused() {
        let token = hex::decode(TOKEN).unwrap();
        for bit in 0..token.len() * 8 {
            let mut flipped = token.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped).is_none(), "bit {bit}");
        }
        for len in 0..token.len() {
            assert!(open(&token[..len]).is_none());
        }
        for more in 1..2_000 {
            assert!(open(&[&token[..], &vec![0; more]].concat()).is_none());
        }
        assert!(TokenKey::new(KEY).unwrap().open("kid", "other.example", &token).is_none());
    }

    /// Abuse S17 (CVE-2026-43994): lengths inside a token that lie, with a seal that holds and without.
    #[test]
    fn s17_lengths_in_tokens_are_not_believed() {
        let tail = [0_u8; 12];
        for key_len in [0, 1, 19, 20, 21, 64, 65, 255, 0x8000, 0xFFFF_u16] {
            for there in [0, 19, 20, 21, 63, 64] {
                let content = [&key_len.to_be_bytes()[..], &vec![5; there], &tail].concat();
                let fits = usize::from(key_len) == there && (20..=64).contains(&there);
                assert_eq!(open(&sealed(&content)).is_some(), fits, "{key_len} said, {there} there");
            }
        }
        for nonce_len in [0_u16, 1, 11, 13, 16, 255, 0x7FFF, 0xFFFF] {
            for there in [0, 1, 12, 100, 735, 2_000] {
                assert!(open(&[&nonce_len.to_be_bytes()[..], &vec![5; there]].concat()).is_none());
            }
        }
    }

    /// OAUTH-7635-7-04.
    #[test]
    fn oauth_7635_7_04_a_token_is_fresh_around_its_time() {
        let grant = |lifetime_secs| Grant {
            kid: "kid".into(),
            mac_key: [1; 20][..].into(),
            issued_unix_secs: 1_000_000,
            lifetime_secs,
        };
        for (now, fresh, remaining) in [
            (1_000_000, true, 605),
            (1_000_604, true, 1),
            (1_000_605, false, 0),
            (999_396, true, 1_209),
            (999_395, false, 1_210),
        ] {
            assert_eq!((grant(600).is_fresh(now), grant(600).remaining_secs(now)), (fresh, remaining), "{now}");
        }
        assert_eq!(grant(u32::MAX).remaining_secs(0), u32::MAX);
    }

    #[test]
    fn oauth_7635_6_2_02_both_aeads_and_no_other_length_of_key() {
        for len in 0..80 {
            assert_eq!(TokenKey::new(&vec![1; len]).is_some(), len == 16 || len == 32);
        }
    }
}
