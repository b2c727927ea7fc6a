//! Requests without a magic cookie, as RFC 3489 had them.
//!
//! [`super::Message`] does not take them: which of them are answered at all, and how, is a decision of its own.

use super::header::split_message_type;
use super::message::Attributes;
use super::{Attribute, Class, HEADER_LEN, MAGIC_COOKIE, Method, ParseError};

/// A request of a known method, whose attribute layout was checked. Nothing in it was protected by anything.
#[derive(Clone, Copy, Debug)]
pub struct CookielessRequest<'b> {
    bytes: &'b [u8],
    method: Method,
    transaction_id: [u8; 16],
}

impl<'b> CookielessRequest<'b> {
    /// Reads a request that fills `bytes` exactly.
    ///
    /// # Errors
    /// It is not a request, or has the cookie ([`ParseError::WrongCookie`]); a layout of attributes that is broken is
    /// as bad as a wrong length, since without cookie and with it this is hardly STUN.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, ParseError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(ParseError::TooShort);
        };
        let kind = u16::from_be_bytes([header[0], header[1]]);
        if kind & 0xC000 != 0 {
            return Err(ParseError::NotStun);
        }
        if header[4..8] == MAGIC_COOKIE.to_be_bytes() {
            return Err(ParseError::WrongCookie);
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !length.is_multiple_of(4) || length != body.len() {
            return Err(ParseError::WrongLength);
        }
        let (code, class) = split_message_type(kind);
        let method = Method::from_code(code).filter(|_| class == Class::Request).ok_or(ParseError::UnknownMethod)?;
        let mut walk = Attributes { bytes, at: HEADER_LEN, end: bytes.len() };
        while walk.try_next().map_err(|_| ParseError::WrongLength)?.is_some() {}
        let mut transaction_id = [0; 16];
        transaction_id.copy_from_slice(&header[4..]);
        Ok(Self { bytes, method, transaction_id })
    }

    /// What is asked for.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// All 16 bytes, echoed in the response.
    pub const fn transaction_id(&self) -> [u8; 16] {
        self.transaction_id
    }

    /// The attributes, in order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'b>> + use<'b> {
        Attributes { bytes: self.bytes, at: HEADER_LEN, end: self.bytes.len() }
    }
}
