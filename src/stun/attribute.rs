//! Attribute numbers and the encodings of their values (RFC 8489 §14, RFC 8656 §18).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId};

/// An attribute's 16-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

#[allow(missing_docs, reason = "the RFCs' own names, one constant each")]
impl AttributeType {
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    pub const CHANGE_REQUEST: Self = Self(0x0003);
    pub const USERNAME: Self = Self(0x0006);
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    pub const ERROR_CODE: Self = Self(0x0009);
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000A);
    pub const CHANNEL_NUMBER: Self = Self(0x000C);
    pub const LIFETIME: Self = Self(0x000D);
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    pub const DATA: Self = Self(0x0013);
    pub const REALM: Self = Self(0x0014);
    pub const NONCE: Self = Self(0x0015);
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    pub const EVEN_PORT: Self = Self(0x0018);
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    pub const DONT_FRAGMENT: Self = Self(0x001A);
    pub const ACCESS_TOKEN: Self = Self(0x001B);
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001C);
    pub const PASSWORD_ALGORITHM: Self = Self(0x001D);
    pub const USERHASH: Self = Self(0x001E);
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    pub const PADDING: Self = Self(0x0026);
    pub const RESPONSE_PORT: Self = Self(0x0027);
    pub const CONNECTION_ID: Self = Self(0x002A);
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    pub const ALTERNATE_DOMAIN: Self = Self(0x8003);
    pub const ICMP: Self = Self(0x8004);
    pub const SOFTWARE: Self = Self(0x8022);
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    pub const FINGERPRINT: Self = Self(0x8028);
    pub const RESPONSE_ORIGIN: Self = Self(0x802B);
    pub const OTHER_ADDRESS: Self = Self(0x802C);
    pub const THIRD_PARTY_AUTHORIZATION: Self = Self(0x802E);
    pub const MOBILITY_TICKET: Self = Self(0x8030);

    /// Whether a receiver that does not know the attribute must refuse the message (RFC 8489 §14).
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }
}

/// The family byte of address attributes and of REQUESTED-ADDRESS-FAMILY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AddressFamily {
    /// 0x01.
    Ipv4 = 0x01,
    /// 0x02.
    Ipv6 = 0x02,
}

impl AddressFamily {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The place in tables by family: IPv4, IPv6.
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }

    /// The family of an IP address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// `ipv4` or `ipv6`, as metrics and logs use it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// The attribute is there, but its value is not of its form: answered 400 (STUN-8489-14.1-01, TURN-8656-18-02).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedValue;

/// Reads a MAPPED-ADDRESS-style value, not XORed (RFC 8489 §14.1).
///
/// # Errors
/// A family other than 1 or 2, or a length that does not fit the family.
pub fn read_address(value: &[u8]) -> Result<SocketAddr, MalformedValue> {
    // The first byte is reserved: sent zero, ignored on receipt.
    let (&[_, family, p0, p1], ip) = value.split_first_chunk::<4>().ok_or(MalformedValue)?;
    let ip = match family {
        0x01 => IpAddr::from(<[u8; 4]>::try_from(ip).map_err(|_| MalformedValue)?),
        0x02 => IpAddr::from(<[u8; 16]>::try_from(ip).map_err(|_| MalformedValue)?),
        _ => return Err(MalformedValue),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes([p0, p1])))
}

/// Reads an XOR-MAPPED-ADDRESS-style value (RFC 8489 §14.2).
///
/// # Errors
/// As [`read_address`].
pub fn read_xor_address(value: &[u8], transaction_id: TransactionId) -> Result<SocketAddr, MalformedValue> {
    read_address(value).map(|address| xor(address, transaction_id))
}

/// Reads a 32-bit value: LIFETIME, CHANNEL-NUMBER, REQUESTED-TRANSPORT, CONNECTION-ID, the address families.
///
/// # Errors
/// Any other length than 4.
pub fn read_u32(value: &[u8]) -> Result<u32, MalformedValue> {
    Ok(u32::from_be_bytes(value.try_into().map_err(|_| MalformedValue)?))
}

/// Applies (or removes) the XOR of RFC 8489 §14.2: with the cookie, and for IPv6 the transaction id behind it.
pub(super) fn xor(address: SocketAddr, transaction_id: TransactionId) -> SocketAddr {
    let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let ip = match address.ip() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ MAGIC_COOKIE)),
        IpAddr::V6(ip) => {
            let mut mask = [0; 16];
            mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
            mask[4..].copy_from_slice(&transaction_id.0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ u128::from_be_bytes(mask)))
        }
    };
    SocketAddr::new(ip, port)
}
