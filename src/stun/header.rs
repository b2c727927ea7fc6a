//! The 20-byte STUN header (RFC 8489 §5).

use super::ParseError;

/// Length of the STUN header in bytes.
pub const HEADER_LEN: usize = 20;

/// The fixed value in bytes 4–7 of every RFC 8489 message.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// The 96-bit transaction id, chosen by the client and echoed unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

/// The two class bits of the message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Expects a response.
    Request,
    /// Never answered.
    Indication,
    /// Success response.
    Success,
    /// Error response.
    Error,
}

/// The methods Hairpin knows; any other method is discarded silently (STUN-8489-6.3-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Method {
    /// RFC 8489 §12.
    Binding = 0x001,
    /// RFC 8656 §7.
    Allocate = 0x003,
    /// RFC 8656 §8.
    Refresh = 0x004,
    /// RFC 8656 §11, indication from the client only.
    Send = 0x006,
    /// RFC 8656 §11, indication to the client only.
    Data = 0x007,
    /// RFC 8656 §10.
    CreatePermission = 0x008,
    /// RFC 8656 §12.
    ChannelBind = 0x009,
    /// RFC 6062 §5.2.
    Connect = 0x00A,
    /// RFC 6062 §5.4.
    ConnectionBind = 0x00B,
    /// RFC 6062 §5.3, indication to the client only.
    ConnectionAttempt = 0x00C,
}

impl Method {
    /// Every method, in the order of their code points.
    pub const ALL: [Method; 10] = [
        Method::Binding,
        Method::Allocate,
        Method::Refresh,
        Method::Send,
        Method::Data,
        Method::CreatePermission,
        Method::ChannelBind,
        Method::Connect,
        Method::ConnectionBind,
        Method::ConnectionAttempt,
    ];

    pub(super) const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            0x001 => Self::Binding,
            0x003 => Self::Allocate,
            0x004 => Self::Refresh,
            0x006 => Self::Send,
            0x007 => Self::Data,
            0x008 => Self::CreatePermission,
            0x009 => Self::ChannelBind,
            0x00A => Self::Connect,
            0x00B => Self::ConnectionBind,
            0x00C => Self::ConnectionAttempt,
            _ => return None,
        })
    }

    /// Whether clients may send it as a request; the others are indications only.
    pub const fn is_requested(self) -> bool {
        !matches!(self, Self::Send | Self::Data | Self::ConnectionAttempt)
    }

    /// The method's name in lower case with underscores, as metrics and logs use it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::Send => "send",
            Self::Data => "data",
            Self::CreatePermission => "create_permission",
            Self::ChannelBind => "channel_bind",
            Self::Connect => "connect",
            Self::ConnectionBind => "connection_bind",
            Self::ConnectionAttempt => "connection_attempt",
        }
    }
}

/// The header of one message, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Request, indication or response.
    pub class: Class,
    /// What is asked for.
    pub method: Method,
    /// Echoed in the response.
    pub transaction_id: TransactionId,
}

impl Header {
    /// Reads the header of a message that fills `bytes` exactly.
    ///
    /// # Errors
    /// Whatever RFC 8489 §6.3 tells a receiver to discard silently: see [`ParseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(ParseError::TooShort);
        };
        let kind = u16::from_be_bytes([header[0], header[1]]);
        if kind & 0xC000 != 0 {
            return Err(ParseError::NotStun);
        }
        if header[4..8] != MAGIC_COOKIE.to_be_bytes() {
            return Err(ParseError::WrongCookie);
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !length.is_multiple_of(4) || length != body.len() {
            return Err(ParseError::WrongLength);
        }
        let (method_code, class) = split_message_type(kind);
        let mut transaction_id = [0; 12];
        transaction_id.copy_from_slice(&header[8..]);
        Ok(Self {
            class,
            method: Method::from_code(method_code).ok_or(ParseError::UnknownMethod)?,
            transaction_id: TransactionId(transaction_id),
        })
    }
}

/// The 14 bits of the type field: `M11..M7 C1 M6..M4 C0 M3..M0` (STUN-8489-5-03).
pub(super) const fn message_type(method: Method, class: Class) -> u16 {
    let m = method as u16;
    let c = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    (m & 0x0F80) << 2 | (m & 0x0070) << 1 | (m & 0x000F) | c
}

pub(super) const fn split_message_type(kind: u16) -> (u16, Class) {
    let method = (kind & 0x3E00) >> 2 | (kind & 0x00E0) >> 1 | (kind & 0x000F);
    let class = match kind & 0x0110 {
        0x000 => Class::Request,
        0x010 => Class::Indication,
        0x100 => Class::Success,
        _ => Class::Error,
    };
    (method, class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stun_8489_5_03_type_is_interleaved() {
        assert_eq!(message_type(Method::Binding, Class::Success), 0x0101);
        assert_eq!(message_type(Method::Allocate, Class::Error), 0x0113);
        assert_eq!(message_type(Method::Data, Class::Indication), 0x0017);
        for method in Method::ALL {
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                assert_eq!(split_message_type(message_type(method, class)), (method as u16, class));
            }
        }
        // GOOG-PING, 0x080, shares its low bits with nothing of ours.
        assert_eq!(split_message_type(0x0200).0, 0x080);
    }
}
