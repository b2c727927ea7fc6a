//! STUN and ChannelData on the wire, written a second time from the RFCs: the oracle and the rude clients must not share
//! a mistake with the server's own reader and writer. Slow, strict, and owning.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;

pub const BINDING: u16 = 0x001;
pub const ALLOCATE: u16 = 0x003;
pub const REFRESH: u16 = 0x004;
pub const SEND: u16 = 0x006;
pub const DATA_METHOD: u16 = 0x007;
pub const CREATE_PERMISSION: u16 = 0x008;
pub const CHANNEL_BIND: u16 = 0x009;

pub const USERNAME: u16 = 0x0006;
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
pub const ERROR_CODE: u16 = 0x0009;
pub const CHANNEL_NUMBER: u16 = 0x000C;
pub const LIFETIME: u16 = 0x000D;
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
pub const DATA: u16 = 0x0013;
pub const REALM: u16 = 0x0014;
pub const NONCE: u16 = 0x0015;
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
pub const PASSWORD_ALGORITHM: u16 = 0x001D;
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub const EVEN_PORT: u16 = 0x0018;
pub const RESERVATION_TOKEN: u16 = 0x0022;
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
pub const ICMP: u16 = 0x8004;
pub const MOBILITY_TICKET: u16 = 0x8030;
pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
pub const FINGERPRINT: u16 = 0x8028;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// The four classes, as the two bits of the message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Request,
    Indication,
    Success,
    Error,
}

/// The message type of a method (below 0x10) and class.
pub fn message_type(method: u16, class: Class) -> u16 {
    method
        | match class {
            Class::Request => 0x000,
            Class::Indication => 0x010,
            Class::Success => 0x100,
            Class::Error => 0x110,
        }
}

/// A message taken apart. `attributes` ends before the first integrity attribute or FINGERPRINT.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub method: u16,
    pub class: Class,
    pub transaction_id: [u8; 12],
    pub attributes: Vec<(u16, Vec<u8>)>,
    /// Type, offset of the attribute's head, value: in the order they stand.
    pub protection: Vec<(u16, usize, Vec<u8>)>,
    pub padding_is_zero: bool,
    bytes: Vec<u8>,
}

impl Parsed {
    /// `None` for whatever is not one whole, well-formed message.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 20 || bytes[0] > 3 || bytes[4..8] != COOKIE {
            return None;
        }
        let kind = u16::from_be_bytes([bytes[0], bytes[1]]);
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if length % 4 != 0 || length + 20 != bytes.len() {
            return None;
        }
        let class = match kind & 0x110 {
            0x000 => Class::Request,
            0x010 => Class::Indication,
            0x100 => Class::Success,
            _ => Class::Error,
        };
        let mut parsed = Self {
            method: kind & 0x00F | (kind & 0x0E0) >> 1 | (kind & 0x3E00) >> 2,
            class,
            transaction_id: bytes[8..20].try_into().ok()?,
            attributes: Vec::new(),
            protection: Vec::new(),
            padding_is_zero: true,
            bytes: bytes.to_vec(),
        };
        let mut at = 20;
        while at < bytes.len() {
            let head = bytes.get(at..at + 4)?;
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = bytes.get(at + 4..at + 4 + length)?.to_vec();
            let next = at + 4 + length.next_multiple_of(4);
            parsed.padding_is_zero &= bytes.get(at + 4 + length..next)?.iter().all(|byte| *byte == 0);
            match kind {
                _ if parsed.has(FINGERPRINT) => {} // nothing counts behind it
                MESSAGE_INTEGRITY | MESSAGE_INTEGRITY_SHA256 | FINGERPRINT => parsed.protection.push((kind, at, value)),
                _ if parsed.protection.is_empty() => parsed.attributes.push((kind, value)),
                _ => {}
            }
            at = next;
        }
        Some(parsed)
    }

    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }

    pub fn get_u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn get_xor_address(&self, kind: u16) -> Option<SocketAddr> {
        unxor(self.get(kind)?, self.transaction_id)
    }

    /// Every XOR-PEER-ADDRESS.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.all_xor_addresses(XOR_PEER_ADDRESS)
    }

    /// Every address in attributes of this kind.
    pub fn all_xor_addresses(&self, wanted: u16) -> Vec<SocketAddr> {
        let all = self.attributes.iter().filter(|(kind, _)| *kind == wanted);
        all.filter_map(|(_, value)| unxor(value, self.transaction_id)).collect()
    }

    /// The number of an error response.
    pub fn error_code(&self) -> Option<u16> {
        let value = self.get(ERROR_CODE)?;
        Some(u16::from(value[2] & 7) * 100 + u16::from(value[3]))
    }

    pub fn has(&self, kind: u16) -> bool {
        self.protection.iter().any(|(found, ..)| *found == kind)
    }

    /// Whether the deciding MAC (SHA-256 before SHA-1) is right under `key`.
    pub fn verifies(&self, key: &[u8]) -> bool {
        for kind in [MESSAGE_INTEGRITY_SHA256, MESSAGE_INTEGRITY] {
            if let Some((_, at, value)) = self.protection.iter().find(|(found, ..)| *found == kind) {
                return *value == mac(kind, &self.bytes[..*at], key);
            }
        }
        false
    }

    /// Whether FINGERPRINT is right, if there is one.
    pub fn fingerprint_is_right(&self) -> bool {
        let found = self.protection.iter().find(|(kind, ..)| *kind == FINGERPRINT);
        found.is_none_or(|(_, at, value)| *value == fingerprint(&self.bytes[..*at]))
    }
}

fn with_length(covered: &[u8], attribute_len: usize) -> Vec<u8> {
    let mut bytes = covered.to_vec();
    let length = (covered.len() + attribute_len - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn mac(kind: u16, covered: &[u8], key: &[u8]) -> Vec<u8> {
    if kind == MESSAGE_INTEGRITY {
        let mut mac = <Hmac<Sha1> as KeyInit>::new_from_slice(key).expect("any length");
        mac.update(&with_length(covered, 24));
        mac.finalize().into_bytes().to_vec()
    } else {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any length");
        mac.update(&with_length(covered, 36));
        mac.finalize().into_bytes().to_vec()
    }
}

fn fingerprint(covered: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(&with_length(covered, 8)) ^ 0x5354_554E;
    crc.to_be_bytes().to_vec()
}

/// MD5(username ":" realm ":" password).
pub fn key_md5(username: &str, realm: &str, password: &str) -> Vec<u8> {
    Md5::digest(format!("{username}:{realm}:{password}")).to_vec()
}

/// SHA-256(username ":" realm ":" password).
pub fn key_sha256(username: &str, realm: &str, password: &str) -> Vec<u8> {
    Sha256::digest(format!("{username}:{realm}:{password}")).to_vec()
}

fn mask(transaction_id: [u8; 12]) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE);
    mask[4..].copy_from_slice(&transaction_id);
    mask
}

/// Decodes an XOR-*-ADDRESS value.
pub fn unxor(value: &[u8], transaction_id: [u8; 12]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]) ^ 0x2112;
    let mut ip = value[4..].to_vec();
    for (byte, mask) in ip.iter_mut().zip(mask(transaction_id)) {
        *byte ^= mask;
    }
    let ip = match (value[1], ip.len()) {
        (1, 4) => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        (2, 16) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Encodes an XOR-*-ADDRESS value.
pub fn xor(address: SocketAddr, transaction_id: [u8; 12]) -> Vec<u8> {
    let (family, mut ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    for (byte, mask) in ip.iter_mut().zip(mask(transaction_id)) {
        *byte ^= mask;
    }
    let mut value = vec![0, family];
    value.extend((address.port() ^ 0x2112).to_be_bytes());
    value.extend(ip);
    value
}

/// Length of the message at the front of `bytes`, as its header has it.
pub fn message_len(bytes: &[u8]) -> usize {
    20 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))
}

/// Puts a message together, attribute by attribute.
#[derive(Clone, Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    transaction_id: [u8; 12],
}

impl Builder {
    pub fn new(kind: u16, transaction_id: [u8; 12]) -> Self {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(COOKIE);
        bytes.extend(transaction_id);
        Self { bytes, transaction_id }
    }

    /// Goes on behind a finished message.
    #[allow(dead_code, reason = "for the hostile tests")]
    pub fn resume(bytes: Vec<u8>) -> Self {
        let mut transaction_id = [0; 12];
        transaction_id.copy_from_slice(&bytes[8..20]);
        Self { bytes, transaction_id }
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend((value.len() as u16).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - 20) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub fn peer(self, address: SocketAddr) -> Self {
        let value = xor(address, self.transaction_id);
        self.attribute(XOR_PEER_ADDRESS, &value)
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
    pub fn sign(self, kind: u16, key: &[u8]) -> Self {
        let value = mac(kind, &self.bytes, key);
        self.attribute(kind, &value)
    }

    pub fn fingerprint(self) -> Self {
        let value = fingerprint(&self.bytes);
        self.attribute(FINGERPRINT, &value)
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// A ChannelData message, padded to four for streams.
pub fn channel_data(number: u16, data: &[u8], padded: bool) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    if padded {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Length of the first message of a stream, padding included, as RFC 8656 §12.5 has it.
pub fn frame_len(stream: &[u8]) -> Option<usize> {
    let head: [u8; 4] = stream.get(..4)?.try_into().ok()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    Some(if head[0] < 0x40 { 20 + length } else { (4 + length).next_multiple_of(4) })
}
