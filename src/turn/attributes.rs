//! Which attributes the machine understands (RFC 8489 §6.3).

use super::Config;
use crate::stun::{AttributeType, Message};

/// Unknown attribute types listed in one 420; a request with more of them gets the first so many.
pub(super) const UNKNOWN_ATTRIBUTES_MAX: usize = 32;

pub(super) type UnknownAttributes = arrayvec::ArrayVec<AttributeType, UNKNOWN_ATTRIBUTES_MAX>;

/// The comprehension-required attributes we do not know, each once (STUN-8489-6.3.1-02).
pub(super) fn unknown_attributes(
    message: &Message<'_>,
    knows: impl Fn(AttributeType) -> bool,
) -> Option<UnknownAttributes> {
    let mut unknown = UnknownAttributes::new();
    for attribute in message.attributes() {
        if attribute.kind.is_comprehension_required()
            && !knows(attribute.kind)
            && !unknown.contains(&attribute.kind)
            && unknown.try_push(attribute.kind).is_err()
        {
            break;
        }
    }
    (!unknown.is_empty()).then_some(unknown)
}

impl Config {
    /// Whether an attribute is understood with this configuration: the platform or the operator may not want DF to be
    /// set (TURN-8656-7.2-07, TURN-8656-3.7-01).
    pub(super) fn knows(&self, kind: AttributeType) -> bool {
        match kind {
            AttributeType::DONT_FRAGMENT => self.dont_fragment,
            // OAUTH-7635-7-01
            AttributeType::ACCESS_TOKEN => self.credentials.tokens.is_some(),
            kind => is_known(kind),
        }
    }
}

/// Attributes Hairpin implements. One that makes no sense in a message is ignored there (STUN-8489-6.3-05); one that
/// is registered but not implemented is unknown (IANA-01).
fn is_known(kind: AttributeType) -> bool {
    use AttributeType as A;
    matches!(
        kind,
        A::MAPPED_ADDRESS
            | A::USERNAME
            | A::MESSAGE_INTEGRITY
            | A::ERROR_CODE
            | A::UNKNOWN_ATTRIBUTES
            | A::CHANNEL_NUMBER
            | A::LIFETIME
            | A::XOR_PEER_ADDRESS
            | A::DATA
            | A::REALM
            | A::NONCE
            | A::XOR_RELAYED_ADDRESS
            | A::REQUESTED_ADDRESS_FAMILY
            | A::EVEN_PORT
            | A::REQUESTED_TRANSPORT
            | A::DONT_FRAGMENT
            | A::MESSAGE_INTEGRITY_SHA256
            | A::PASSWORD_ALGORITHM
            | A::USERHASH
            | A::XOR_MAPPED_ADDRESS
            | A::RESERVATION_TOKEN
            | A::CONNECTION_ID
    )
}
