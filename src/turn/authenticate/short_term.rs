//! The short-term credential mechanism (RFC 8489 §9.1), for Binding requests where the configuration wants it.

use std::sync::Arc;

use super::{Denial, Key, Sealing, denied};
use crate::stun::{AttributeType, ErrorCode, Message, opaque_string};
use crate::turn::{Credentials, Rejection};

/// What protects the response to a Binding request; `None` where no credentials are asked for.
///
/// # Errors
/// 400 without USERNAME or MAC, 401 for an unknown name or a MAC that does not verify. Neither has REALM or NONCE.
pub(in crate::turn) fn authenticate_binding(
    credentials: &Credentials,
    message: &Message<'_>,
) -> Result<Option<Sealing>, Denial> {
    let users = &credentials.binding_users;
    if users.is_empty() {
        return Ok(None);
    }
    let username = message.first(AttributeType::USERNAME);
    let (Some(username), true) = (username, message.has_integrity() || message.has_integrity_sha256()) else {
        return Err(denied(ErrorCode::BadRequest, Rejection::Incomplete));
    };
    let prepared = std::str::from_utf8(username).ok().and_then(|name| opaque_string(name).ok());
    let keys = prepared.map_or(&[][..], |name| users.get(&name));
    let Some(key) = keys.iter().find(|key| message.integrity_holds(key)) else {
        // As much work for an unknown name as for any known one.
        for _ in keys.len()..users.forms_max() {
            std::hint::black_box(message.integrity_holds(&[0; 16]));
        }
        let why = if keys.is_empty() { Rejection::UnknownUser } else { Rejection::WrongPassword };
        return Err(denied(ErrorCode::Unauthenticated, why));
    };
    let key = Key::Other(Arc::clone(key));
    Ok(Some(if message.has_integrity_sha256() { Sealing::Sha256(key) } else { Sealing::Sha1(key) }))
}
