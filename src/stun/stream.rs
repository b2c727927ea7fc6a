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
    next_frame_of(buffered, Cookie::Required)
}

/// Whether STUN messages must have the magic cookie to be framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cookie {
    /// As RFC 8489 has it.
    #[default]
    Required,
    /// Clients of RFC 3489 send none (CLASSIC-5389-12-01).
    Optional,
}

/// As [`next_frame`], where clients without a cookie may be welcome.
///
/// # Errors
/// As [`next_frame`].
pub fn next_frame_of(buffered: &[u8], cookie: Cookie) -> Result<Frame, LostFraming> {
    let Some(&first) = buffered.first() else {
        return Ok(Frame::Incomplete { needed: channel_data::HEADER_LEN });
    };
    let is_stun = match first {
        0x00..=0x03 => true,
        // Reserved channel numbers (0x5000–0x7FFF) are discarded later; the stream stays in sync (TURN-8656-12.6-03).
        0x40..=0x7F => false,
        _ => return Err(LostFraming),
    };
    let Some(&[_, _, l0, l1]) = buffered.first_chunk() else {
        return Ok(Frame::Incomplete { needed: channel_data::HEADER_LEN });
    };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let has_cookie =
        || cookie == Cookie::Optional || buffered.get(4..8).is_none_or(|bytes| bytes == MAGIC_COOKIE.to_be_bytes());
    let len = if !is_stun {
        // TURN-8656-12.6-07: padded to four on streams, padding not counted.
        (channel_data::HEADER_LEN + length).next_multiple_of(4)
    } else if length.is_multiple_of(4) && has_cookie() {
        HEADER_LEN + length
    } else {
        return Err(LostFraming);
    };
    Ok(if buffered.len() >= len { Frame::Complete { len } } else { Frame::Incomplete { needed: len } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client would write: a Binding request, padded ChannelData of every length, a reserved channel number.
    fn messages() -> Vec<Vec<u8>> {
        let binding = [&[0x00, 0x01, 0x00, 0x00][..], &MAGIC_COOKIE.to_be_bytes(), &[7; 12]].concat();
        let channel_data = |number: u16, len: u16| {
            let mut frame = [&number.to_be_bytes()[..], &len.to_be_bytes(), &vec![0x16; usize::from(len)]].concat();
            frame.resize(frame.len().next_multiple_of(4), 0);
            frame
        };
        let mut all = vec![binding];
        all.extend((0..6).map(|len| channel_data(0x4000, len)));
        all.push(channel_data(0x5000, 3));
        all
    }

    /// Abuse S7, TURN-8656-12.6-07, STUN-8489-6.2.2-01: whatever the segments, the same messages come out.
    #[test]
    fn s7_every_split_gives_the_same_messages() {
        let sent = messages();
        let stream = sent.concat();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut buffered = Vec::new();
                let mut received = Vec::new();
                for segment in [&stream[..first], &stream[first..second], &stream[second..]] {
                    buffered.extend_from_slice(segment);
                    while let Frame::Complete { len } = next_frame(&buffered).unwrap() {
                        received.push(buffered.drain(..len).collect::<Vec<u8>>());
                    }
                }
                assert_eq!((received == sent, buffered.len()), (true, 0), "split at {first} and {second}");
            }
        }
    }

    /// What is asked for is never more than the longest frame, and never less than what would help.
    #[test]
    fn s7_the_longest_lengths_are_bounded() {
        let longest = [0x40, 0x00, 0xFF, 0xFF];
        assert_eq!(next_frame(&longest), Ok(Frame::Incomplete { needed: 4 + 65_536 }));
        let stun = [0x00, 0x01, 0xFF, 0xFC];
        assert_eq!(next_frame(&stun), Ok(Frame::Incomplete { needed: FRAME_LEN_MAX }));
    }

    /// STUN-8489-6.2.2-07, abuse S19: what cannot be framed loses the connection as soon as it can be known.
    #[test]
    fn stun_8489_6_2_2_07_garbage_loses_framing() {
        for garbage in [&b"GET / HTTP/1.1\r\n"[..], &[0x16, 0x03, 0x01, 0x02, 0x00], &[0x80], &[0x00, 0x01, 0x00, 0x02]]
        {
            let expected = if garbage[0] == b'G' {
                // `G` (0x47) is the range of channel numbers: the stream is in sync, the numbers lead nowhere.
                Ok(Frame::Incomplete { needed: (4 + usize::from(u16::from_be_bytes(*b"T "))).next_multiple_of(4) })
            } else {
                Err(LostFraming)
            };
            assert_eq!(next_frame(garbage), expected);
        }
        let other_cookie = [0x00, 0x01, 0x00, 0x00, 1, 2, 3, 4];
        assert_eq!(next_frame(&other_cookie), Err(LostFraming));
    }
}
