//! Writing a STUN message into the caller's buffer.

use std::net::{IpAddr, SocketAddr};

use super::attribute::xor;
use super::header::message_type;
use super::{
    AddressFamily, AttributeType, Class, ErrorCode, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, integrity,
};

/// How a message is protected when it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal<'k> {
    /// Not at all: nobody was authenticated.
    None,
    /// MESSAGE-INTEGRITY.
    Sha1(&'k [u8]),
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256(&'k [u8]),
}

/// Writes one message; padding is always zero (abuse S18).
///
/// The buffer must be large enough for what is written: what goes into a response is bounded by configuration, so
/// running out of space is a broken invariant and panics.
#[derive(Debug)]
pub struct MessageWriter<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> MessageWriter<'b> {
    /// Starts a message with an empty body.
    pub fn new(buffer: &'b mut [u8], method: Method, class: Class, transaction_id: TransactionId) -> Self {
        buffer[..2].copy_from_slice(&message_type(method, class).to_be_bytes());
        buffer[2..4].fill(0);
        buffer[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        buffer[8..HEADER_LEN].copy_from_slice(&transaction_id.0);
        Self { buffer, len: HEADER_LEN }
    }

    /// The same for somebody who sent no cookie: all 16 bytes behind the length are the transaction id (RFC 3489 §11.1).
    pub fn without_cookie(buffer: &'b mut [u8], method: Method, class: Class, transaction_id: [u8; 16]) -> Self {
        buffer[..2].copy_from_slice(&message_type(method, class).to_be_bytes());
        buffer[2..4].fill(0);
        buffer[4..HEADER_LEN].copy_from_slice(&transaction_id);
        Self { buffer, len: HEADER_LEN }
    }

    /// Appends an attribute and its padding.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) {
        let padded = value.len().next_multiple_of(4);
        let room = &mut self.buffer[self.len..self.len + 4 + padded];
        room[..2].copy_from_slice(&kind.0.to_be_bytes());
        let length = u16::try_from(value.len()).expect("an attribute value is at most 65,535 bytes");
        room[2..4].copy_from_slice(&length.to_be_bytes());
        room[4..4 + value.len()].copy_from_slice(value);
        room[4 + value.len()..].fill(0);
        self.len += 4 + padded;
    }

    /// Appends a 32-bit value.
    pub fn u32(&mut self, kind: AttributeType, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends an address as it is (MAPPED-ADDRESS, ALTERNATE-SERVER).
    pub fn address(&mut self, kind: AttributeType, address: SocketAddr) {
        let mut value = [0; 20];
        value[1] = AddressFamily::of(address.ip()) as u8;
        value[2..4].copy_from_slice(&address.port().to_be_bytes());
        let len = match address.ip() {
            IpAddr::V4(ip) => {
                value[4..8].copy_from_slice(&ip.octets());
                8
            }
            IpAddr::V6(ip) => {
                value[4..20].copy_from_slice(&ip.octets());
                20
            }
        };
        self.attribute(kind, &value[..len]);
    }

    /// Appends an address XORed with cookie and transaction id (XOR-MAPPED-ADDRESS, XOR-RELAYED-ADDRESS, …).
    pub fn xor_address(&mut self, kind: AttributeType, address: SocketAddr) {
        let mut transaction_id = [0; 12];
        transaction_id.copy_from_slice(&self.buffer[8..HEADER_LEN]);
        self.address(kind, xor(address, TransactionId(transaction_id)));
    }

    /// Appends ERROR-CODE with the registered reason phrase.
    pub fn error_code(&mut self, code: ErrorCode) {
        self.error(AttributeType::ERROR_CODE, 0, code);
    }

    /// Appends ADDRESS-ERROR-CODE: why there is no relayed address of this family (RFC 8656 §18.12).
    pub fn address_error_code(&mut self, family: AddressFamily, code: ErrorCode) {
        self.error(AttributeType::ADDRESS_ERROR_CODE, family as u8, code);
    }

    fn error(&mut self, kind: AttributeType, first: u8, code: ErrorCode) {
        let mut value = [0; 4 + 32];
        value[0] = first;
        let reason = code.reason().as_bytes();
        value[2] = (code.number() / 100) as u8;
        value[3] = (code.number() % 100) as u8;
        value[4..4 + reason.len()].copy_from_slice(reason);
        self.attribute(kind, &value[..4 + reason.len()]);
    }

    /// Bytes written so far.
    #[allow(clippy::len_without_is_empty, reason = "a message has at least its header")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Seals the message, appends FINGERPRINT if asked to, and returns its length in bytes.
    pub fn finish(mut self, seal: Seal<'_>, fingerprint: bool) -> usize {
        match seal {
            Seal::None => {}
            Seal::Sha1(key) => {
                let mac = integrity::sha1(&self.buffer[..self.len], key);
                self.attribute(AttributeType::MESSAGE_INTEGRITY, &mac);
            }
            Seal::Sha256(key) => {
                let mac = integrity::sha256(&self.buffer[..self.len], key);
                self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &mac);
            }
        }
        if fingerprint {
            let crc = integrity::fingerprint(&self.buffer[..self.len]);
            self.u32(AttributeType::FINGERPRINT, crc);
        }
        let body = u16::try_from(self.len - HEADER_LEN).expect("a STUN body is at most 65,535 bytes");
        self.buffer[2..4].copy_from_slice(&body.to_be_bytes());
        self.len
    }
}
