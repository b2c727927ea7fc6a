//! How user names, realms and passwords are brought into the one form that both sides hash (RFC 8489 §9.2.2, §14.3).

use std::borrow::Cow;

use precis_core::profile::PrecisFastInvocation;
use precis_profiles::OpaqueString;

/// The text is empty, or has characters that RFC 8265 does not allow in names and passwords, like control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOpaque;

/// Prepares text by the OpaqueString profile of RFC 8265 (STUN-8489-16-01): other spaces become U+0020, the rest is
/// composed (NFC). Printable ASCII is what it is and costs one look at each byte.
///
/// # Errors
/// Text that the profile refuses.
pub fn opaque_string(text: &str) -> Result<Cow<'_, str>, NotOpaque> {
    if !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x20..=0x7E)) {
        return Ok(Cow::Borrowed(text));
    }
    OpaqueString::enforce(text).map_err(|_| NotOpaque)
}

/// Without trailing NULs and the quotes around it, as some clients send USERNAME and REALM (STUN-8489-9.2.2-02).
pub fn unquoted(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    match &value[..end] {
        [b'"', inner @ .., b'"'] => inner,
        bare => bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stun_8489_16_01_text_is_composed_and_odd_characters_refused() {
        assert_eq!(opaque_string("cafe\u{301}").unwrap(), opaque_string("caf\u{e9}").unwrap());
        assert_eq!(opaque_string("a\u{3000}b").unwrap(), "a b");
        for refused in ["", "a\u{0}b", "a\u{7f}", "\u{ad}", "a\u{200b}"] {
            assert_eq!(opaque_string(refused), Err(NotOpaque), "{refused:?}");
        }
    }

    /// The short way gives what the profile gives.
    #[test]
    fn printable_ascii_stays_as_it_is() {
        for byte in 0x20..=0x7E_u8 {
            let text = format!("a{}", char::from(byte));
            assert!(matches!(opaque_string(&text), Ok(Cow::Borrowed(same)) if same == text));
            assert_eq!(OpaqueString::enforce(text.as_str()).unwrap(), text);
        }
    }

    #[test]
    fn stun_8489_9_2_2_02_quotes_and_trailing_nuls_are_taken_off() {
        for (sent, meant) in [
            ("alice", "alice"),
            ("alice\0\0", "alice"),
            ("\"alice\"", "alice"),
            ("\"alice\"\0", "alice"),
            ("\"", "\""),
            ("al\"ice\"", "al\"ice\""),
            ("\"\"", ""),
            ("", ""),
            ("\0", ""),
        ] {
            assert_eq!(unquoted(sent.as_bytes()), meant.as_bytes(), "{sent:?}");
        }
    }
}
