//! Nonces that need no memory (RFC 8489 §9.2; requirement STUN-8489-9.2.4-23; abuse S10).
//!
//! A nonce is `obMatJos2`, four characters of security features, and 22 characters of base64: four bytes of Unix time
//! and a 12-byte MAC over time, client address, transport and what was offered with it. Any shard with the same key can check it, and
//! nothing is kept for a client that was given one. It is bound to the client's address and port, so that it is of
//! no use to anybody else (STUN-8489-9.2.4-02).

use arrayvec::ArrayString;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{FiveTuple, NonceKeys};

/// What tells clients that security features follow (STUN-8489-9.2-01).
const COOKIE: &[u8] = b"obMatJos2";
/// Three bytes of them in base64 (STUN-8489-9.2-02).
const FEATURES_LEN: usize = 4;
const PREFIX_LEN: usize = COOKIE.len() + FEATURES_LEN;
const TIME_LEN: usize = 4;
const MAC_LEN: usize = 12;
const NONCE_LEN: usize = PREFIX_LEN + 22;
/// How far ahead of this machine's clock another node's may be.
const SKEW_SECS: u64 = 60;

pub(super) type Nonce = ArrayString<NONCE_LEN>;

/// What a challenge offers. Its nonce is good for that only, so that nobody can strip some of it on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// "Username anonymity".
    pub(super) userhash: bool,
    /// MD5 beside SHA-256.
    pub(super) md5: bool,
    /// Tells the realm; 0 is the server's own.
    pub(super) realm: u64,
}

impl Offer {
    /// PASSWORD-ALGORITHMS, in order of preference.
    pub(super) const fn algorithms(self) -> &'static [u8] {
        if self.md5 { &[0, 2, 0, 0, 0, 1, 0, 0] } else { &[0, 2, 0, 0] }
    }

    /// Bit 0, the most significant one, for "Password algorithms", of which there always are some, and bit 1 for
    /// "Username anonymity" (STUN-8489-9.2-02, -9.2.1-01).
    const fn features(self) -> &'static [u8; FEATURES_LEN] {
        if self.userhash { b"wAAA" } else { b"gAAA" }
    }
}

/// Why a nonce does not count. Both are answered 438; only an expired one may still delete (requirement L12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Ours, for this client, but too old, or from when something else was offered.
    Expired,
    /// Not ours, altered, or made for another client.
    Foreign,
}

impl NonceKeys {
    /// A nonce for this client, now, to go with this offer.
    pub(super) fn issue(&self, offer: Offer, unix_secs: u64, path: &FiveTuple) -> Nonce {
        let time = (unix_secs as u32).to_be_bytes();
        let mut payload = [0; TIME_LEN + MAC_LEN];
        payload[..TIME_LEN].copy_from_slice(&time);
        payload[TIME_LEN..].copy_from_slice(&mac(&self.current, offer, time, path));
        let mut nonce = [0; NONCE_LEN];
        nonce[..COOKIE.len()].copy_from_slice(COOKIE);
        nonce[COOKIE.len()..PREFIX_LEN].copy_from_slice(offer.features());
        let len = STANDARD_NO_PAD.encode_slice(payload, &mut nonce[PREFIX_LEN..]).expect("16 bytes are 22 characters");
        debug_assert_eq!(len, NONCE_LEN - PREFIX_LEN);
        ArrayString::from_byte_string(&nonce).expect("base64 is ASCII")
    }

    /// Whether `nonce` is one that [`NonceKeys::issue`] made for this client and this offer not too long ago.
    ///
    /// # Errors
    /// See [`Stale`].
    pub(super) fn check(&self, offer: Offer, unix_secs: u64, path: &FiveTuple, nonce: &[u8]) -> Result<(), Stale> {
        let (made_with, issued) = self.read(offer, path, nonce).ok_or(Stale::Foreign)?;
        if made_with != offer || unix_secs > issued + u64::from(self.lifetime_secs) || issued > unix_secs + SKEW_SECS {
            return Err(Stale::Expired);
        }
        Ok(())
    }

    /// Whether PASSWORD-ALGORITHMS that are not the ones of `offer` went out with this nonce, before the configuration
    /// was changed: then the nonce is out of date and the list is not to blame (STUN-8489-9.2.4-10).
    pub(super) fn went_with(&self, offer: Offer, path: &FiveTuple, nonce: &[u8], algorithms: &[u8]) -> bool {
        let other = Offer { md5: !offer.md5, ..offer };
        algorithms == other.algorithms()
            && self.read(other, path, nonce).is_some_and(|(made_with, _)| made_with.md5 == other.md5)
    }

    /// What a nonce of ours was made with and when, in Unix seconds. `likely` is tried first.
    fn read(&self, likely: Offer, path: &FiveTuple, nonce: &[u8]) -> Option<(Offer, u64)> {
        let (features, encoded) = nonce.strip_prefix(COOKIE)?.split_first_chunk::<FEATURES_LEN>()?;
        // The decoder wants room for its own estimate, which is above the 16 bytes that come out.
        let mut payload = [0; TIME_LEN + MAC_LEN + 8];
        let len = STANDARD_NO_PAD.decode_slice(encoded, &mut payload).ok()?;
        let (time, given) = payload[..len].split_first_chunk::<TIME_LEN>()?;
        let is_ours = |offer: &Offer| {
            let ours = |key: &[u8; 32]| bool::from(mac(key, *offer, *time, path)[..].ct_eq(given));
            offer.features() == features && (ours(&self.current) || self.previous.as_ref().is_some_and(ours))
        };
        let offers = [likely.md5, !likely.md5]
            .into_iter()
            .flat_map(|md5| [true, false].map(|userhash| Offer { userhash, md5, ..likely }));
        let made_with = offers.into_iter().find(is_ours)?;
        Some((made_with, u32::from_be_bytes(*time).into()))
    }
}

fn mac(key: &[u8; 32], offer: Offer, time: [u8; TIME_LEN], path: &FiveTuple) -> [u8; MAC_LEN] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(COOKIE);
    mac.update(offer.features());
    mac.update(offer.algorithms());
    if offer.realm != 0 {
        mac.update(&offer.realm.to_be_bytes());
    }
    mac.update(&time);
    mac.update(path.transport.label().as_bytes());
    match path.client.ip() {
        std::net::IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
        std::net::IpAddr::V6(ip) => mac.update(&ip.octets()),
    }
    mac.update(&path.client.port().to_be_bytes());
    let mut short = [0; MAC_LEN];
    short.copy_from_slice(&mac.finalize().into_bytes()[..MAC_LEN]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Transport;

    fn path(client: &str) -> FiveTuple {
        let server = "203.0.113.1:3478".parse().unwrap();
        FiveTuple { transport: Transport::Udp, client: client.parse().unwrap(), server }
    }

    const NOW: u64 = 1_800_000_000;
    const OFFER: Offer = Offer { userhash: false, md5: true, realm: 0 };

    fn keys(current: u8, previous: Option<u8>) -> NonceKeys {
        NonceKeys { current: [current; 32], previous: previous.map(|byte| [byte; 32]), lifetime_secs: 600 }
    }

    #[test]
    fn s10_any_flipped_bit_or_other_client_is_foreign() {
        let keys = keys(1, None);
        let nonce = keys.issue(OFFER, NOW, &path("192.0.2.1:1000"));
        assert_eq!(keys.check(OFFER, NOW, &path("192.0.2.1:1000"), nonce.as_bytes()), Ok(()));
        for place in 0..nonce.len() {
            for bit in 0..8 {
                let mut forged = nonce.as_bytes().to_vec();
                forged[place] ^= 1 << bit;
                assert_eq!(
                    keys.check(OFFER, NOW, &path("192.0.2.1:1000"), &forged),
                    Err(Stale::Foreign),
                    "{place}.{bit}"
                );
            }
        }
        for other in ["192.0.2.1:1001", "192.0.2.2:1000"] {
            assert_eq!(keys.check(OFFER, NOW, &path(other), nonce.as_bytes()), Err(Stale::Foreign));
        }
        for short in 0..nonce.len() {
            assert_eq!(
                keys.check(OFFER, NOW, &path("192.0.2.1:1000"), &nonce.as_bytes()[..short]),
                Err(Stale::Foreign)
            );
        }
    }

    #[test]
    fn s10_expires_on_time_and_the_previous_key_still_counts() {
        let client = path("[2001:db8::1]:1000");
        let nonce = keys(1, None).issue(OFFER, NOW, &client);
        assert_eq!(keys(2, Some(1)).check(OFFER, NOW + 600, &client, nonce.as_bytes()), Ok(()));
        assert_eq!(keys(2, Some(1)).check(OFFER, NOW + 601, &client, nonce.as_bytes()), Err(Stale::Expired));
        assert_eq!(keys(2, None).check(OFFER, NOW, &client, nonce.as_bytes()), Err(Stale::Foreign));
        assert_eq!(keys(1, None).check(OFFER, NOW - 61, &client, nonce.as_bytes()), Err(Stale::Expired));
    }

    /// STUN-8489-16.1.3-01, -9.2.4-24: a nonce says what was offered, and counts only as long as that is what is offered.
    #[test]
    fn stun_8489_16_1_3_01_a_nonce_counts_for_its_own_offer_only() {
        let client = path("192.0.2.1:1000");
        let keys = keys(1, None);
        let offers = [(true, true), (true, false), (false, true), (false, false)];
        let offers = offers.map(|(userhash, md5)| Offer { userhash, md5, realm: 0 });
        for made_with in offers {
            let nonce = keys.issue(made_with, NOW, &client);
            assert_eq!(nonce[9..13].as_bytes(), made_with.features());
            for now in offers {
                let expected = if now == made_with { Ok(()) } else { Err(Stale::Expired) };
                assert_eq!(keys.check(now, NOW, &client, nonce.as_bytes()), expected);
                // The list of then is no reproach to a client that has kept it, any other list is.
                let then = made_with.algorithms();
                assert_eq!(keys.went_with(now, &client, nonce.as_bytes(), then), now.md5 != made_with.md5);
                let other = Offer { md5: !made_with.md5, ..made_with }.algorithms();
                assert!(!keys.went_with(now, &client, nonce.as_bytes(), other));
                assert!(!keys.went_with(now, &client, nonce.as_bytes(), &[0, 1, 0, 0]));
            }
            for altered in [b"gAAA", b"wAAA", b"QAAA", b"AAAA", b"gAAB"] {
                let mut forged = nonce.as_bytes().to_vec();
                forged[9..13].copy_from_slice(altered);
                let is_same = altered == made_with.features();
                for now in offers {
                    assert_eq!(keys.check(now, NOW, &client, &forged) == Err(Stale::Foreign), !is_same);
                }
            }
        }
    }

    /// STUN-8489-9.2-01, 9.2-02, 14.10-01.
    #[test]
    fn stun_8489_9_2_01_nonce_starts_with_the_cookie_and_the_feature_bits() {
        let nonce = keys(1, None).issue(OFFER, NOW, &path("192.0.2.1:1000"));
        assert!(nonce.starts_with("obMatJos2gAAA"));
        assert!(
            nonce.len() < 128 && nonce.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
        );
    }
}
