//! Which attributes the machine understands (RFC 8489 §6.3).

use crate::stun::{AttributeType, Message};

/// Unknown attribute types listed in one 420; a request with more of them gets the first so many.
pub(super) const UNKNOWN_ATTRIBUTES_MAX: usize = 32;

pub(super) type UnknownAttributes = arrayvec::ArrayVec<AttributeType, UNKNOWN_ATTRIBUTES_MAX>;

/// The comprehension-required attributes we do not know, each once (STUN-8489-6.3.1-02).
///
/// `tokens` says whether ACCESS-TOKEN is known (OAUTH-7635-7-01).
pub(super) fn unknown_attributes(message: &Message<'_>, tokens: bool) -> Option<UnknownAttributes> {
    let is_known = |kind| is_known(kind) || (tokens && kind == AttributeType::ACCESS_TOKEN);
    let mut unknown = UnknownAttributes::new();
    for attribute in message.attributes() {
        if attribute.kind.is_comprehension_required()
            && !is_known(attribute.kind)
            && !unknown.contains(&attribute.kind)
            && unknown.try_push(attribute.kind).is_err()
        {
            break;
        }
    }
    (!unknown.is_empty()).then_some(unknown)
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
    )
}
