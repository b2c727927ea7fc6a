//! As much STUN as probing takes (RFC 8489, RFC 5780): one request, and four attributes of the answer. Nothing shared
//! with the server under test.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU32, Ordering};

const COOKIE: u32 = 0x2112_a442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const CHANGE_REQUEST: u16 = 0x0003;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const RESPONSE_PORT: u16 = 0x0027;
const OTHER_ADDRESS: u16 = 0x802c;

/// A transaction's id.
pub(super) type Transaction = [u8; 12];

/// What a request asks for beyond the sender's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// The answer from the other address.
    pub change_address: bool,
    /// The answer from the other port.
    pub change_port: bool,
    /// The answer to another port than the request came from.
    pub response_port: Option<u16>,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// From where the request came.
    pub mapped: SocketAddr,
    /// The server's other address and port.
    pub other: Option<SocketAddr>,
}

/// An id that no other request of this process has. Guessing it gains nobody anything in a lab.
pub(super) fn new_transaction() -> Transaction {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut transaction = *b"netlab------";
    transaction[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    transaction
}

/// A Binding request.
pub(super) fn request(transaction: Transaction, wish: Wish) -> Vec<u8> {
    let mut attributes = Vec::new();
    let flags = u32::from(wish.change_address) << 2 | u32::from(wish.change_port) << 1;
    if flags != 0 {
        attributes.extend(CHANGE_REQUEST.to_be_bytes());
        attributes.extend([0, 4]);
        attributes.extend(flags.to_be_bytes());
    }
    if let Some(port) = wish.response_port {
        attributes.extend(RESPONSE_PORT.to_be_bytes());
        attributes.extend([0, 2]);
        attributes.extend(port.to_be_bytes());
        attributes.extend([0, 0]);
    }
    let mut message = BINDING_REQUEST.to_be_bytes().to_vec();
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend(COOKIE.to_be_bytes());
    message.extend(transaction);
    message.extend(attributes);
    message
}

/// The answer to a request, if these bytes are one: `None` for anything else, an error response included.
pub(super) fn answer(message: &[u8], transaction: Transaction) -> Option<Answer> {
    let (head, mut rest) = message.split_at_checked(20)?;
    if head[..2] != BINDING_SUCCESS.to_be_bytes() || head[8..] != transaction {
        return None;
    }
    let (mut mapped, mut other) = (None, None);
    while let Some((header, tail)) = rest.split_at_checked(4) {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = tail.get(..length)?;
        match u16::from_be_bytes([header[0], header[1]]) {
            XOR_MAPPED_ADDRESS => mapped = address(value, COOKIE),
            OTHER_ADDRESS => other = address(value, 0),
            _ => {}
        }
        rest = tail.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Answer { mapped: mapped?, other })
}

fn address(value: &[u8], mask: u32) -> Option<SocketAddr> {
    let &[_, 1, high, low, a, b, c, d] = value else { return None };
    let port = u16::from_be_bytes([high, low]) ^ (mask >> 16) as u16;
    let ip = Ipv4Addr::from_bits(u32::from_be_bytes([a, b, c, d]) ^ mask);
    Some(SocketAddrV4::new(ip, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_carry_what_is_wished() {
        let transaction = new_transaction();
        assert_eq!(request(transaction, Wish::default()).len(), 20);
        let wish = Wish { change_address: true, change_port: true, response_port: Some(0x1234) };
        let message = request(transaction, wish);
        assert_eq!(message[2..4], [0, 16]);
        assert_eq!(message[20..], [0, 3, 0, 4, 0, 0, 0, 6, 0, 0x27, 0, 2, 0x12, 0x34, 0, 0]);
    }

    /// The address of RFC 5769, section 2.2.
    #[test]
    fn addresses_are_read_and_strangers_ignored() {
        let transaction = new_transaction();
        let mut message = vec![1, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42];
        message.extend(transaction);
        message.extend([0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        message.extend([0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 198, 18, 0, 3]);
        let expected =
            Answer { mapped: "192.0.2.1:32853".parse().unwrap(), other: Some("198.18.0.3:3479".parse().unwrap()) };
        assert_eq!(answer(&message, transaction), Some(expected));
        assert_eq!(answer(&message, new_transaction()), None);
        for length in 0..message.len() {
            let _ = answer(&message[..length], transaction);
        }
        message[0..2].copy_from_slice(&[1, 0x11]);
        assert_eq!(answer(&message, transaction), None);
    }
}
