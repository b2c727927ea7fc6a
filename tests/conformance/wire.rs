//! STUN messages, written and read by hand: a second opinion on every byte, sharing nothing with the server.
//!
//! A [`Draft`] is written attribute by attribute, in any order and as wrong as a test wants it. A [`Message`] is what
//! came back, taken apart leniently: judging it is the tests' business.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::numbers::*;

pub const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
pub type TransactionId = [u8; 12];

/// A message in the making. The length field follows along.
#[derive(Clone, Debug)]
pub struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    /// The header, with a random transaction id.
    pub fn new(message_type: u16) -> Self {
        let mut id = [0; 12];
        getrandom::fill(&mut id).expect("the system has randomness");
        let mut bytes = message_type.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(COOKIE);
        bytes.extend(id);
        Self { bytes }
    }

    pub fn id(&self) -> TransactionId {
        self.bytes[8..20].try_into().expect("twelve bytes")
    }

    pub fn message_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    pub fn with(self, kind: u16, value: impl AsRef<[u8]>) -> Self {
        self.padded(kind, value, 0)
    }

    /// An attribute whose padding consists of this byte.
    pub fn padded(mut self, kind: u16, value: impl AsRef<[u8]>, padding: u8) -> Self {
        let value = value.as_ref();
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend((value.len() as u16).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), padding);
        self.counted()
    }

    pub fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, value.to_be_bytes())
    }

    pub fn peer(self, peer: SocketAddr) -> Self {
        let value = xor_address(peer, self.id());
        self.with(XOR_PEER_ADDRESS, value)
    }

    pub fn integrity(self, key: &[u8]) -> Self {
        let mac = hmac_sha1(key, &self.bytes_before(24));
        self.with(MESSAGE_INTEGRITY, mac)
    }

    pub fn integrity_sha256(self, key: &[u8]) -> Self {
        self.truncated_integrity_sha256(key, 32)
    }

    pub fn truncated_integrity_sha256(self, key: &[u8], len: usize) -> Self {
        let mac = hmac_sha256(key, &self.bytes_before(4 + len));
        self.with(MESSAGE_INTEGRITY_SHA256, &mac[..len])
    }

    pub fn fingerprint(self) -> Self {
        let crc = crc32fast::hash(&self.bytes_before(8)) ^ 0x5354_554E;
        self.number(FINGERPRINT, crc)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn counted(mut self) -> Self {
        let len = (self.bytes.len() - 20) as u16;
        self.bytes[2..4].copy_from_slice(&len.to_be_bytes());
        self
    }

    /// What is hashed for an attribute that takes this many more bytes.
    fn bytes_before(&self, attribute_len: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = (bytes.len() - 20 + attribute_len) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes
    }
}

/// A message that was received.
#[derive(Clone)]
pub struct Message {
    pub bytes: Vec<u8>,
    /// Type, offset of the attribute, value.
    pub attributes: Vec<(u16, usize, Vec<u8>)>,
}

impl Message {
    /// # Errors
    /// What is wrong with the bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{what}: {}", hex::encode(bytes)));
        if bytes.len() < 20 || bytes[0] > 3 {
            return wrong("not a STUN message");
        }
        if usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) + 20 != bytes.len() || !bytes.len().is_multiple_of(4) {
            return wrong("the length field does not agree with the message");
        }
        let mut attributes = Vec::new();
        let mut at = 20;
        while at < bytes.len() {
            let kind = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            let Some(value) = bytes.get(at + 4..at + 4 + len) else {
                return wrong("an attribute runs past the end");
            };
            attributes.push((kind, at, value.to_vec()));
            at += 4 + len.next_multiple_of(4);
        }
        Ok(Self { bytes: bytes.to_vec(), attributes })
    }

    pub fn message_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// The 16 bytes behind the length: cookie and transaction id, or the id of a classic client.
    pub fn cookie_and_id(&self) -> &[u8] {
        &self.bytes[4..20]
    }

    pub fn id(&self) -> TransactionId {
        self.bytes[8..20].try_into().expect("twelve bytes")
    }

    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.all(kind).next()
    }

    pub fn all(&self, kind: u16) -> impl Iterator<Item = &[u8]> {
        self.attributes.iter().filter(move |(other, ..)| *other == kind).map(|(.., value)| &value[..])
    }

    pub fn has(&self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    pub fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub fn text(&self, kind: u16) -> Option<&str> {
        std::str::from_utf8(self.get(kind)?).ok()
    }

    /// The code of an error response; `None` for anything else.
    pub fn error(&self) -> Option<u16> {
        if self.message_type() & 0x0110 != 0x0110 {
            return None;
        }
        match self.get(ERROR_CODE)? {
            [_, _, class, number, ..] => Some(u16::from(class & 7) * 100 + u16::from(*number)),
            _ => None,
        }
    }

    pub fn is_success(&self) -> bool {
        self.message_type() & 0x0110 == 0x0100
    }

    /// An address that is XORed, like XOR-MAPPED-ADDRESS.
    pub fn xored(&self, kind: u16) -> Option<SocketAddr> {
        read_xor_address(self.get(kind)?, self.id())
    }

    /// An address that is not, like ALTERNATE-SERVER.
    pub fn plain(&self, kind: u16) -> Option<SocketAddr> {
        read_address(self.get(kind)?)
    }

    pub fn integrity_holds(&self, key: &[u8]) -> bool {
        self.before(MESSAGE_INTEGRITY, 24).is_some_and(|(bytes, mac)| hmac_sha1(key, &bytes) == mac)
    }

    pub fn integrity_sha256_holds(&self, key: &[u8]) -> bool {
        self.before(MESSAGE_INTEGRITY_SHA256, 36).is_some_and(|(bytes, mac)| hmac_sha256(key, &bytes) == mac)
    }

    pub fn fingerprint_holds(&self) -> bool {
        let is_last = self.attributes.last().is_some_and(|(kind, ..)| *kind == FINGERPRINT);
        is_last
            && self
                .before(FINGERPRINT, 8)
                .is_some_and(|(bytes, value)| value == (crc32fast::hash(&bytes) ^ 0x5354_554E).to_be_bytes())
    }

    /// The bytes before an attribute with the length field as it was when that attribute was written, and its value.
    fn before(&self, kind: u16, attribute_len: usize) -> Option<(Vec<u8>, &[u8])> {
        let (_, at, value) = self.attributes.iter().find(|(other, ..)| *other == kind)?;
        let mut bytes = self.bytes[..*at].to_vec();
        let len = (at + attribute_len - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        Some((bytes, value))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message_type = self.message_type();
        let method = message_type & 0xF | (message_type & 0xE0) >> 1 | (message_type & 0x3E00) >> 2;
        let class = match message_type & 0x0110 {
            0x000 => "request",
            0x010 => "indication",
            0x100 => "success",
            _ => "error",
        };
        write!(f, "{} {class}", method_name(method))?;
        if self.bytes[4..8] != COOKIE {
            write!(f, " without cookie")?;
        }
        for (kind, _, value) in &self.attributes {
            write!(f, " {}", attribute_name(*kind))?;
            match *kind {
                ERROR_CODE if value.len() >= 4 => {
                    let reason = String::from_utf8_lossy(&value[4..]);
                    write!(f, "={}{:02} {}", value[2], value[3], reason.trim_end_matches(['\0', ' ']))?;
                }
                XOR_MAPPED_ADDRESS | XOR_RELAYED_ADDRESS | XOR_PEER_ADDRESS => {
                    match read_xor_address(value, self.id()) {
                        Some(address) => write!(f, "={address}")?,
                        None => write!(f, "=0x{}", hex::encode(value))?,
                    }
                }
                MAPPED_ADDRESS | ALTERNATE_SERVER | RESPONSE_ORIGIN | OTHER_ADDRESS => match read_address(value) {
                    Some(address) => write!(f, "={address}")?,
                    None => write!(f, "=0x{}", hex::encode(value))?,
                },
                REALM | NONCE | USERNAME | SOFTWARE | ALTERNATE_DOMAIN => {
                    write!(f, "={:?}", String::from_utf8_lossy(&value[..value.len().min(48)]))?;
                }
                LIFETIME => match <[u8; 4]>::try_from(&value[..]) {
                    Ok(secs) => write!(f, "={}", u32::from_be_bytes(secs))?,
                    Err(_) => write!(f, "=0x{}", hex::encode(value))?,
                },
                MESSAGE_INTEGRITY | MESSAGE_INTEGRITY_SHA256 | FINGERPRINT | DONT_FRAGMENT => {}
                DATA => write!(f, "[{} bytes]", value.len())?,
                _ if value.len() <= 16 => write!(f, "=0x{}", hex::encode(value))?,
                _ => write!(f, "[{} bytes]", value.len())?,
            }
        }
        Ok(())
    }
}

pub fn hmac_sha1(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha1> as KeyInit>::new_from_slice(key).expect("any length");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

pub fn hmac_sha256(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any length");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

pub fn md5(text: &str) -> Vec<u8> {
    md5::Md5::digest(text.as_bytes()).to_vec()
}

pub fn sha256(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}

/// The value of MAPPED-ADDRESS and its like.
pub fn address(address: SocketAddr) -> Vec<u8> {
    let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
    value.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => value.extend(ip.octets()),
        IpAddr::V6(ip) => value.extend(ip.octets()),
    }
    value
}

/// The value of XOR-PEER-ADDRESS and its like.
pub fn xor_address(of: SocketAddr, id: TransactionId) -> Vec<u8> {
    let mut value = address(of);
    xor(&mut value, id);
    value
}

fn read_address(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]);
    let ip = match (value[1], &value[4..]) {
        (1, ip) => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        (2, ip) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

pub fn read_xor_address(value: &[u8], id: TransactionId) -> Option<SocketAddr> {
    let mut value = value.to_vec();
    if value.len() < 4 {
        return None;
    }
    xor(&mut value, id);
    read_address(&value)
}

/// The port with the cookie's first half, the address with the cookie and the transaction id.
fn xor(value: &mut [u8], id: TransactionId) {
    let mask = [&COOKIE[..], &id].concat();
    for (byte, mask) in value[2..4].iter_mut().zip(COOKIE) {
        *byte ^= mask;
    }
    for (byte, mask) in value[4..].iter_mut().zip(mask) {
        *byte ^= mask;
    }
}
