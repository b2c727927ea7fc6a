//! RFC 8489 on the wire: pure functions over bytes.
//!
//! Lives here: the one parser for everything that arrives ([`Message`], [`channel_data`], [`stream`]), the writer for
//! everything that leaves ([`MessageWriter`]), the integrity arithmetic between them ([`integrity`]), and the preparation
//! of the text that goes into it ([`opaque_string()`]).
//! It keeps no state, knows no policy, and imports nothing of ours.
//! What a request *means* is in `turn`; which bytes belong to which socket is in `net`.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod attribute;
pub mod channel_data;
mod cookieless;
mod error_code;
mod header;
pub mod integrity;
mod message;
mod opaque_string;
pub mod stream;
mod writer;

pub use attribute::{AddressFamily, AttributeType, MalformedValue, read_address, read_u32, read_xor_address};
pub use channel_data::{ChannelData, ChannelNumber};
pub use cookieless::CookielessRequest;
pub use error_code::ErrorCode;
pub use header::{Class, HEADER_LEN, Header, MAGIC_COOKIE, Method, TransactionId};
pub use message::{Attribute, Message, ParseError};
pub use opaque_string::{NotOpaque, opaque_string, unquoted};
pub use writer::{MessageWriter, Seal};

/// What the first byte of a datagram says it is (RFC 7983 §7; requirement MUX-7983-7-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstByte {
    /// 0–3: a STUN message.
    Stun,
    /// 20–63: a DTLS record.
    Dtls,
    /// 64–79: ChannelData.
    ChannelData,
    /// Everything else: RTP, ZRTP, QUIC, noise. Dropped (MUX-7983-7-02).
    Other,
}

impl FirstByte {
    /// Classifies a datagram by its first byte.
    pub const fn classify(byte: u8) -> Self {
        match byte {
            0..=3 => Self::Stun,
            20..=63 => Self::Dtls,
            64..=79 => Self::ChannelData,
            _ => Self::Other,
        }
    }
}
