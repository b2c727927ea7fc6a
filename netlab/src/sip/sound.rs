//! What a phone has heard: the pitch of the file it leaves.

use std::path::Path;

use anyhow::{Context, Result};

/// A WAV file's header as baresip's `sndfile` module writes it.
const HEADER_BYTES: usize = 44;

/// Where the header has the number of channels and the sampling rate.
const CHANNELS_AT: usize = 22;
const RATE_AT: usize = 24;

/// Quieter than this is silence; the page's tone is some 12,000.
const SILENCE: f64 = 500.0;

/// The pitch of the newest recording of decoded sound in a directory: `None` if there is none, or only silence in it.
///
/// # Errors
/// The recording cannot be read.
pub(super) fn pitch_of_latest(directory: &Path) -> Result<Option<u32>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    // The names have the time in them.
    let recordings = entries.flatten().map(|entry| entry.path());
    let latest = recordings.filter(|path| path.to_string_lossy().ends_with("-dec.wav")).max();
    let Some(file) = latest else { return Ok(None) };
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(pitch(&bytes))
}

/// The pitch of the second half of a recording (when all has settled): the median time from one rise of the wave
/// through zero to the next. Good for a single tone, which is all there is, and not misled by a gap now and then.
fn pitch(wave: &[u8]) -> Option<u32> {
    let channels = u16::from_le_bytes(wave.get(CHANNELS_AT..CHANNELS_AT + 2)?.try_into().ok()?);
    let rate = u32::from_le_bytes(wave.get(RATE_AT..RATE_AT + 4)?.try_into().ok()?);
    let frames = wave.get(HEADER_BYTES..)?.chunks_exact(2 * usize::from(channels.max(1)));
    let samples: Vec<f64> = frames.map(|frame| f64::from(i16::from_le_bytes([frame[0], frame[1]]))).collect();
    let rises = rises(&samples[samples.len() / 2..]);
    let mut periods: Vec<f64> = rises.windows(2).map(|pair| pair[1] - pair[0]).collect();
    periods.sort_by(f64::total_cmp);
    let median = periods.get(periods.len() / 2)?;
    Some((f64::from(rate) / median).round() as u32)
}

/// Where the wave rises through zero, in samples and parts of them. It counts when it has been well below zero since
/// the last time, so that noise around zero does not.
fn rises(samples: &[f64]) -> Vec<f64> {
    let mut rises = Vec::new();
    let mut below = false;
    for (at, pair) in samples.windows(2).enumerate() {
        below |= pair[0] < -SILENCE;
        if below && pair[0] < 0.0 && pair[1] >= 0.0 {
            below = false;
            rises.push(at as f64 - pair[0] / (pair[1] - pair[0]));
        }
    }
    rises
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rate: u32, channels: u16, hertz: f64, loudness: f64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[CHANNELS_AT..CHANNELS_AT + 2].copy_from_slice(&channels.to_le_bytes());
        bytes[RATE_AT..RATE_AT + 4].copy_from_slice(&rate.to_le_bytes());
        for at in 0..2 * rate {
            let sample = loudness * (std::f64::consts::TAU * hertz * f64::from(at) / f64::from(rate)).sin();
            for _ in 0..channels {
                bytes.extend((sample as i16).to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn a_tone_has_its_pitch_at_any_rate() {
        assert_eq!(pitch(&wave(8_000, 1, 650.0, 12_000.0)), Some(650));
        assert_eq!(pitch(&wave(48_000, 2, 440.0, 3_000.0)), Some(440));
    }

    #[test]
    fn silence_has_none() {
        assert_eq!(pitch(&wave(8_000, 1, 650.0, 100.0)), None);
        assert_eq!(pitch(&[]), None);
    }
}
