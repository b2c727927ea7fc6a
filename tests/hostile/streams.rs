//! Framing of streams under every cut and any garbage (abuse S7).

use hairpin::stun::stream::{FRAME_LEN_MAX, Frame, next_frame};

use crate::dice::Dice;
use crate::memory::live_bytes;
use crate::mutate::mutate;
use crate::{corpus, setting, wire};

/// Feeds a stream in pieces and returns the messages found before it ended or was lost.
fn frames(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut buffered, mut found) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffered.extend_from_slice(piece);
        loop {
            match next_frame(&buffered) {
                Ok(Frame::Complete { len }) => {
                    assert!(len <= buffered.len() && (4..=FRAME_LEN_MAX).contains(&len));
                    found.push(buffered.drain(..len).collect());
                }
                Ok(Frame::Incomplete { needed }) => {
                    assert!(needed > buffered.len() && needed <= FRAME_LEN_MAX, "{needed} for {}", buffered.len());
                    break;
                }
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

#[test]
fn s7_every_cut_and_join_of_valid_messages_gives_the_same_messages() {
    let mut messages = corpus::unauthenticated();
    messages.push(wire::channel_data(0x4001, &[5; 5], true));
    messages.push(wire::channel_data(0x4001, &[], true));
    messages.iter_mut().for_each(|message| message.resize(message.len().next_multiple_of(4), 0));
    for pair in messages.windows(3) {
        let stream = pair.concat();
        for cut in 0..=stream.len() {
            let (found, lost) = frames(&[&stream[..cut], &stream[cut..]]);
            assert!(!lost && found == pair, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(frames(&bytes), (pair.to_vec(), false));
    }
}

#[test]
fn s7_garbage_is_framed_the_same_however_it_is_cut_or_the_stream_is_closed() {
    let corpus = corpus::unauthenticated();
    let mut dice = Dice::new(setting("HAIRPIN_HOSTILE_SEED", 1));
    let before = live_bytes();
    for _ in 0..setting("HAIRPIN_HOSTILE_MUTATIONS", 100_000) {
        let stream = mutate(&mut dice, &corpus);
        let whole = frames(&[&stream]);
        let cut = dice.below(stream.len() as u64 + 1) as usize;
        assert_eq!(frames(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}: {stream:02x?}");
    }
    assert!(live_bytes() - before < 64 * 1024);
}

/// The longest lengths a header can claim are within the bound a reader must keep.
#[test]
fn s7_the_largest_claims_are_bounded() {
    for head in [[0x40, 0, 0xFF, 0xFF], [0x7F, 0xFF, 0xFF, 0xFF], [0, 1, 0xFF, 0xFC]] {
        assert!(matches!(next_frame(&head), Ok(Frame::Incomplete { needed }) if needed <= FRAME_LEN_MAX));
    }
    // (HTTP is not among them: "GE" is a reserved channel number, and those keep their framing.)
    for head in [[0, 1, 0xFF, 0xFF], [0x80, 0, 0, 0], [0x16, 3, 1, 0], *b"\r\n\r\n"] {
        assert!(next_frame(&head).is_err());
    }
}
