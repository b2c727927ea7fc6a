//! The framing of TCP and TLS streams: whatever the segments, the same messages come out, in bounded memory.
//!
//! Input: one byte, how many cuts; two bytes a cut; the stream.

#![no_main]

use arbitrary::Unstructured;
use hairpin::stun::stream::{FRAME_LEN_MAX, Frame, next_frame};
use hairpin::stun::{ChannelData, Message, ParseError};
use libfuzzer_sys::fuzz_target;

/// The messages found before the stream ended or was lost, which of both it was, and what is left of it.
fn frames<'s>(segments: impl Iterator<Item = &'s [u8]>) -> (Vec<Vec<u8>>, bool, usize) {
    let (mut buffered, mut found) = (Vec::new(), Vec::new());
    for segment in segments {
        buffered.extend_from_slice(segment);
        loop {
            match next_frame(&buffered) {
                Ok(Frame::Complete { len }) => {
                    assert!((4..=buffered.len().min(FRAME_LEN_MAX)).contains(&len));
                    found.push(buffered.drain(..len).collect());
                }
                Ok(Frame::Incomplete { needed }) => {
                    assert!(buffered.len() < needed && needed <= FRAME_LEN_MAX);
                    break;
                }
                Err(_) => return (found, true, 0),
            }
        }
    }
    (found, false, buffered.len())
}

fn check_frame(frame: &[u8]) {
    if frame[0] < 0x40 {
        let parsed = Message::parse(frame);
        let is_framed = !matches!(
            parsed,
            Err(ParseError::TooShort | ParseError::NotStun | ParseError::WrongCookie | ParseError::WrongLength)
        );
        assert!(is_framed, "{parsed:?}");
    } else {
        let message = ChannelData::parse(frame).expect("a whole message");
        assert_eq!((4 + message.data.len()).next_multiple_of(4), frame.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let count = input.arbitrary::<u8>().unwrap_or(0) % 8;
    let mut cuts: Vec<usize> = (0..count).map(|_| usize::from(input.arbitrary::<u16>().unwrap_or(0))).collect();
    let stream = input.take_rest();
    cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
    cuts.sort_unstable();

    let whole = frames(std::iter::once(stream));
    whole.0.iter().for_each(|frame| check_frame(frame));
    assert_eq!(frames(stream.chunks(1)), whole, "byte by byte");
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([stream.len()]);
    assert_eq!(frames(starts.zip(ends).map(|(start, end)| &stream[start..end])), whole, "cut at {cuts:?}");
});
