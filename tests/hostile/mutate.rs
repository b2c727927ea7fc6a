//! Ways to spoil a message.

use crate::dice::Dice;

/// A spoiled copy of one of the corpus; splices take from another.
pub fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |dice: &mut Dice| corpus[dice.below(corpus.len() as u64) as usize].clone();
    let mut message = pick(dice);
    for _ in 0..=dice.below(3) {
        match dice.below(10) {
            0 => flip_bit(dice, &mut message),
            1 => flip_byte(dice, &mut message),
            2 => {
                let at = dice.below(message.len() as u64 + 1) as usize;
                let count = 1 + dice.below(8) as usize;
                let bytes = dice.bytes(count);
                message.splice(at..at, bytes);
            }
            3 => {
                let start = dice.below(message.len() as u64 + 1) as usize;
                let end = (start + 1 + dice.below(8) as usize).min(message.len());
                message.drain(start.min(end)..end);
            }
            4 => edit_attribute_length(dice, &mut message),
            5 => shuffle_attributes(dice, &mut message),
            6 => {
                // Behind everything, the MAC included.
                let (kind, len) =
                    (dice.pick(&[0x0D, 0x12, 0x0C, 0x06, 0x08, 0x1B, 0x1C, 0x1E, 0x7FFF]), dice.pick(&[0, 4, 8, 20]));
                message.extend(u16::to_be_bytes(kind));
                message.extend(u16::to_be_bytes(len));
                message.extend(dice.bytes(usize::from(len)));
            }
            7 => {
                let other = pick(dice);
                let cut = dice.below(message.len() as u64 + 1) as usize;
                message.truncate(cut);
                message.extend(other.get(cut.min(other.len())..).unwrap_or_default());
            }
            8 if message.len() >= 4 => {
                let length = dice.array::<2>();
                message[2..4].copy_from_slice(&length);
            }
            _ => message.truncate(dice.below(message.len() as u64 + 1) as usize),
        }
        // Most of the time the header tells the truth about the length: otherwise nothing behind it is looked at.
        if dice.chance(80) {
            repair_length(&mut message);
        }
    }
    message
}

fn flip_bit(dice: &mut Dice, message: &mut [u8]) {
    if !message.is_empty() {
        let at = dice.below(message.len() as u64) as usize;
        message[at] ^= 1 << dice.below(8);
    }
}

fn flip_byte(dice: &mut Dice, message: &mut [u8]) {
    if !message.is_empty() {
        let at = dice.below(message.len() as u64) as usize;
        message[at] = dice.pick(&[0, 1, 0x7F, 0x80, 0xFF]);
    }
}

/// Where attributes begin, as far as the bytes make sense.
fn attribute_starts(message: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (20, Vec::new());
    while at + 4 <= message.len() {
        starts.push(at);
        let length = usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
        at += 4 + length.next_multiple_of(4);
    }
    starts
}

fn edit_attribute_length(dice: &mut Dice, message: &mut [u8]) {
    let starts = attribute_starts(message);
    if !starts.is_empty() {
        let at = dice.pick(&starts);
        let length = dice.pick(&[0, 1, 3, 4, 5, 8, 20, 21, 0x7FFF, 0xFFFC, 0xFFFF]);
        message[at + 2..at + 4].copy_from_slice(&u16::to_be_bytes(length));
    }
}

/// Doubles an attribute, or puts one elsewhere.
fn shuffle_attributes(dice: &mut Dice, message: &mut Vec<u8>) {
    let starts = attribute_starts(message);
    if starts.len() < 2 {
        return;
    }
    let place = dice.below(starts.len() as u64) as usize;
    let start = starts[place];
    let end = starts.get(place + 1).copied().unwrap_or(message.len()).min(message.len());
    let attribute = message[start..end].to_vec();
    let target = dice.pick(&starts);
    if dice.chance(50) {
        message.splice(target..target, attribute);
    } else if target < start {
        message.drain(start..end);
        message.splice(target..target, attribute);
    }
}

/// Makes the header's length agree with the bytes, and the bytes a multiple of four.
pub fn repair_length(message: &mut Vec<u8>) {
    if message.len() >= 20 && message[0] < 4 {
        message.truncate(message.len() / 4 * 4);
        let length = (message.len() - 20) as u16;
        message[2..4].copy_from_slice(&length.to_be_bytes());
    }
}
