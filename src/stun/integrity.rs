//! FINGERPRINT, the two MESSAGE-INTEGRITY attributes, and the keys under them (RFC 8489 §9, §14.5–14.7, §18.5).
//!
//! Every function that covers a message takes the bytes *before* the attribute in question and supplies the header
//! length that the RFC asks for, so that bytes are hashed as they arrived and never copied.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;

use super::HEADER_LEN;

const FINGERPRINT_XOR: u32 = 0x5354_554E;
const SHA1_ATTRIBUTE_LEN: usize = 4 + 20;
const SHA256_ATTRIBUTE_LEN: usize = 4 + 32;
const FINGERPRINT_ATTRIBUTE_LEN: usize = 4 + 4;

/// MESSAGE-INTEGRITY over `covered`, the message up to the attribute.
pub fn sha1(covered: &[u8], key: &[u8]) -> [u8; 20] {
    mac::<Hmac<Sha1>>(covered, key, SHA1_ATTRIBUTE_LEN).finalize().into_bytes().into()
}

/// MESSAGE-INTEGRITY-SHA256 over `covered`, untruncated.
pub fn sha256(covered: &[u8], key: &[u8]) -> [u8; 32] {
    mac::<Hmac<Sha256>>(covered, key, SHA256_ATTRIBUTE_LEN).finalize().into_bytes().into()
}

/// FINGERPRINT over `covered`, the message up to the attribute.
pub fn fingerprint(covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in with_length(covered, FINGERPRINT_ATTRIBUTE_LEN).parts() {
        crc.update(part);
    }
    crc.finalize() ^ FINGERPRINT_XOR
}

/// Compares in constant time; a value of another length than 20 never verifies (STUN-8489-14.5-02).
pub fn verify_sha1(covered: &[u8], key: &[u8], value: &[u8]) -> bool {
    mac::<Hmac<Sha1>>(covered, key, SHA1_ATTRIBUTE_LEN).verify_slice(value).is_ok()
}

/// Compares in constant time; a value of another length than 32 never verifies.
pub fn verify_sha256(covered: &[u8], key: &[u8], value: &[u8]) -> bool {
    mac::<Hmac<Sha256>>(covered, key, SHA256_ATTRIBUTE_LEN).verify_slice(value).is_ok()
}

/// The MD5 long-term key (STUN-8489-9.2.2-01). The strings must have been prepared by the caller.
pub fn long_term_key_md5(username: &str, realm: &str, password: &str) -> [u8; 16] {
    long_term_key::<Md5>(username, realm, password).into()
}

/// The SHA-256 long-term key (STUN-8489-18.5.1-01). The strings must have been prepared by the caller.
pub fn long_term_key_sha256(username: &str, realm: &str, password: &str) -> [u8; 32] {
    long_term_key::<Sha256>(username, realm, password).into()
}

/// USERHASH (STUN-8489-14.4-01). The strings must have been prepared by the caller.
pub fn userhash(username: &str, realm: &str) -> [u8; 32] {
    Sha256::new().chain_update(username).chain_update(":").chain_update(realm).finalize().into()
}

fn long_term_key<D: Digest>(username: &str, realm: &str, password: &str) -> md5::digest::Output<D> {
    D::new()
        .chain_update(username)
        .chain_update(":")
        .chain_update(realm)
        .chain_update(":")
        .chain_update(password)
        .finalize()
}

fn mac<M: Mac + KeyInit>(covered: &[u8], key: &[u8], attribute_len: usize) -> M {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in with_length(covered, attribute_len).parts() {
        mac.update(part);
    }
    mac
}

/// The covered bytes with the header length set to the end of the attribute that is computed.
struct Covered<'b> {
    bytes: &'b [u8],
    length: [u8; 2],
}

fn with_length(covered: &[u8], attribute_len: usize) -> Covered<'_> {
    let length =
        u16::try_from(covered.len() + attribute_len - HEADER_LEN).expect("a STUN body is at most 65,535 bytes");
    Covered { bytes: covered, length: length.to_be_bytes() }
}

impl Covered<'_> {
    fn parts(&self) -> [&[u8]; 3] {
        [&self.bytes[..2], &self.length, &self.bytes[4..]]
    }
}
