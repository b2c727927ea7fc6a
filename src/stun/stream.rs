//! Cutting a TCP or TLS byte stream into STUN and ChannelData messages (RFC 8489 §6.2.2, RFC 8656 §12.5).

use super::{HEADER_LEN, MAGIC_COOKIE, channel_data};

/// The longest frame there can be: a STUN header and the longest body that is a multiple of four.
pub const FRAME_LEN_MAX: usize = HEADER_LEN + 65_532;

/// What the bytes received so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first `len` bytes are one message, including the padding of ChannelData.
    Complete {
        /// Bytes to take off the front of the buffer, at most [`FRAME_LEN_MAX`].
        len: usize,
    },
    /// Wait until at least this many bytes are there.
    Incomplete {
        /// Total bytes needed before asking again, at most [`FRAME_LEN_MAX`].
        needed: usize,
    },
}

/// The stream has lost its framing and cannot find it again: close it (STUN-8489-6.2.2-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostFraming;

/// Finds the end of the first message in `buffered`.
///
/// # Errors
/// [`LostFraming`] when the bytes cannot be the start of a STUN or ChannelData message. Only what framing needs is
/// checked: a well-framed but senseless message is the parser's business and does not cost the connection.
pub fn next_frame(buffered: &[u8]) -> Result<Frame, LostFraming> {
    let Some(&first) = buffered.first() else {
        return Ok(Frame::Incomplete {
            needed: channel_data::HEADER_LEN,
        });
    };
    let is_stun = match first {
        0x00..=0x03 => true,
        // Reserved channel numbers (0x5000–0x7FFF) are discarded later; the stream stays in sync (TURN-8656-12.6-03).
        0x40..=0x7F => false,
        _ => return Err(LostFraming),
    };
    let Some(&[_, _, l0, l1]) = buffered.first_chunk() else {
        return Ok(Frame::Incomplete {
            needed: channel_data::HEADER_LEN,
        });
    };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let len = if !is_stun {
        // TURN-8656-12.6-07: padded to four on streams, padding not counted.
        (channel_data::HEADER_LEN + length).next_multiple_of(4)
    } else if length.is_multiple_of(4)
        && buffered
            .get(4..8)
            .is_none_or(|cookie| cookie == MAGIC_COOKIE.to_be_bytes())
    {
        HEADER_LEN + length
    } else {
        return Err(LostFraming);
    };
    Ok(if buffered.len() >= len {
        Frame::Complete { len }
    } else {
        Frame::Incomplete { needed: len }
    })
}
