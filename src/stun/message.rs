//! One strict, borrowing reading of a STUN message (RFC 8489 §5, §14).

use super::{AttributeType, Class, HEADER_LEN, Header, Method, TransactionId, integrity};

/// Why bytes are not a message we look at. All but [`ParseError::MalformedAttribute`] mean: discard silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer bytes than a header.
    TooShort,
    /// The two top bits are not zero.
    NotStun,
    /// Not the RFC 8489 magic cookie.
    WrongCookie,
    /// The length field is no multiple of four or disagrees with the bytes at hand.
    WrongLength,
    /// A method this server does not know.
    UnknownMethod,
    /// The header is sound but an attribute runs past the end: a request gets 400 (STUN-8489-14-03).
    MalformedAttribute(Header),
}

/// One attribute as received, without its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'b> {
    /// Its number.
    pub kind: AttributeType,
    /// Its value.
    pub value: &'b [u8],
    /// Where its value begins, counted from the start of the message.
    pub offset: usize,
}

/// A message whose header and attribute layout were checked, borrowing the bytes it came in.
///
/// What stands behind MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 or FINGERPRINT can be altered by anyone on the way,
/// so [`Message::attributes`] and [`Message::first`] do not show it (STUN-8489-9-01, abuse S8).
#[derive(Clone, Copy, Debug)]
pub struct Message<'b> {
    bytes: &'b [u8],
    header: Header,
    /// End of the attributes to be obeyed.
    obeyed_end: usize,
    integrity: Option<Attribute<'b>>,
    integrity_sha256: Option<Attribute<'b>>,
    fingerprint: Option<Attribute<'b>>,
}

impl<'b> Message<'b> {
    /// Reads a message that fills `bytes` exactly.
    ///
    /// # Errors
    /// See [`ParseError`].
    pub fn parse(bytes: &'b [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(bytes)?;
        let mut message =
            Self { bytes, header, obeyed_end: bytes.len(), integrity: None, integrity_sha256: None, fingerprint: None };
        let mut walk = Attributes { bytes, at: HEADER_LEN, end: bytes.len() };
        while let Some(attribute) = walk.try_next().map_err(|RunsPastEnd| ParseError::MalformedAttribute(header))? {
            message.note_protection(attribute);
        }
        Ok(message)
    }

    fn note_protection(&mut self, attribute: Attribute<'b>) {
        if self.fingerprint.is_some() {
            return; // STUN-8489-14.7-03: nothing behind FINGERPRINT changes the outcome
        }
        let noted = match attribute.kind {
            // Behind MESSAGE-INTEGRITY-SHA256 only FINGERPRINT counts (STUN-8489-9-02).
            AttributeType::MESSAGE_INTEGRITY if self.integrity_sha256.is_none() => &mut self.integrity,
            AttributeType::MESSAGE_INTEGRITY_SHA256 => &mut self.integrity_sha256,
            AttributeType::FINGERPRINT => &mut self.fingerprint,
            _ => return,
        };
        if noted.is_none() {
            *noted = Some(attribute);
            self.obeyed_end = self.obeyed_end.min(attribute.offset - 4);
        }
    }

    /// Request, indication or response.
    pub const fn class(&self) -> Class {
        self.header.class
    }

    /// The method.
    pub const fn method(&self) -> Method {
        self.header.method
    }

    /// The transaction id.
    pub const fn transaction_id(&self) -> TransactionId {
        self.header.transaction_id
    }

    /// The checked header.
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The whole message as it came.
    pub const fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// How many bytes it takes, header included.
    pub const fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// The attributes to be obeyed, in order: those before any integrity attribute and FINGERPRINT.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'b>> + use<'b> {
        Attributes { bytes: self.bytes, at: HEADER_LEN, end: self.obeyed_end }
    }

    /// The value of the first obeyed attribute of this type: duplicates are ignored (STUN-8489-14-04).
    pub fn first(&self, kind: AttributeType) -> Option<&'b [u8]> {
        self.first_attribute(kind).map(|attribute| attribute.value)
    }

    /// As [`Message::first`], with the place it stands at.
    pub fn first_attribute(&self, kind: AttributeType) -> Option<Attribute<'b>> {
        self.attributes().find(|attribute| attribute.kind == kind)
    }

    /// Whether MESSAGE-INTEGRITY counts in this message.
    pub const fn has_integrity(&self) -> bool {
        self.integrity.is_some()
    }

    /// Whether MESSAGE-INTEGRITY-SHA256 is there.
    pub const fn has_integrity_sha256(&self) -> bool {
        self.integrity_sha256.is_some()
    }

    /// Whether FINGERPRINT is there; responses mirror it (STUN-8489-7-03).
    pub const fn has_fingerprint(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Checks FINGERPRINT if there is one; a message without is fine (STUN-8489-7-01, -02).
    pub fn fingerprint_holds(&self) -> bool {
        self.fingerprint.is_none_or(|attribute| {
            let covered = &self.bytes[..attribute.offset - 4];
            attribute.value == integrity::fingerprint(covered).to_be_bytes()
        })
    }

    /// Checks the MAC that decides under `key`: MESSAGE-INTEGRITY-SHA256 where there is one, else MESSAGE-INTEGRITY
    /// (STUN-8489-9.1.3-03). Covers the bytes as they arrived, padding included; compares in constant time.
    pub fn integrity_holds(&self, key: &[u8]) -> bool {
        if let Some(attribute) = self.integrity_sha256 {
            // TURN does not allow truncation (STUN-8489-14.6-01): other lengths than 32 never verify.
            integrity::verify_sha256(&self.bytes[..attribute.offset - 4], key, attribute.value)
        } else if let Some(attribute) = self.integrity {
            integrity::verify_sha1(&self.bytes[..attribute.offset - 4], key, attribute.value)
        } else {
            false
        }
    }
}

pub(super) struct RunsPastEnd;

pub(super) struct Attributes<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) at: usize,
    pub(super) end: usize,
}

impl<'b> Attributes<'b> {
    pub(super) fn try_next(&mut self) -> Result<Option<Attribute<'b>>, RunsPastEnd> {
        if self.at >= self.end {
            return Ok(None);
        }
        let head = self.bytes.get(self.at..self.at + 4).ok_or(RunsPastEnd)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let offset = self.at + 4;
        let value = self.bytes.get(offset..offset + length).ok_or(RunsPastEnd)?;
        // The message is a multiple of four long, so padding never runs past an end that the value itself respects.
        self.at = offset + length.next_multiple_of(4);
        Ok(Some(Attribute { kind: AttributeType(u16::from_be_bytes([head[0], head[1]])), value, offset }))
    }
}

impl<'b> Iterator for Attributes<'b> {
    type Item = Attribute<'b>;

    fn next(&mut self) -> Option<Attribute<'b>> {
        // The layout was checked when the message was parsed.
        self.try_next().ok().flatten()
    }
}
