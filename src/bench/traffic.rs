//! What the packets of a load carry, and what they tell on arrival.

use std::time::Duration;

/// Flow, number and time.
pub(super) const HEAD_LEN: usize = 20;
/// The smallest payload.
pub(super) const PAYLOAD_LEN_MIN: usize = HEAD_LEN;
/// The largest payload that goes into ChannelData or a Data indication of one datagram.
pub(super) const PAYLOAD_LEN_MAX: usize = 65_000;

/// Bytes behind the head: a window into these, which begins elsewhere for each packet.
#[derive(Debug)]
pub(super) struct Filler(Box<[u8]>);

impl Filler {
    pub(super) fn new() -> Self {
        // Any bytes do in which a shift or an exchange shows.
        let mut state = 0x9E37_79B9_u32;
        let bytes = (0..PAYLOAD_LEN_MAX + 256).map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        });
        Self(bytes.collect())
    }

    fn of(&self, number: u64, len: usize) -> &[u8] {
        &self.0[number as usize % 256..][..len]
    }

    /// Writes a whole payload.
    pub(super) fn write(&self, payload: &mut [u8], flow: u32, number: u64, sent_at: u64) {
        let (head, rest) = payload.split_at_mut(HEAD_LEN);
        head[..4].copy_from_slice(&flow.to_be_bytes());
        head[4..12].copy_from_slice(&number.to_be_bytes());
        head[12..].copy_from_slice(&sent_at.to_be_bytes());
        rest.copy_from_slice(self.of(number, rest.len()));
    }

    /// Reads one that has arrived; `None` if it is not as it was sent.
    pub(super) fn read(&self, payload: &[u8], len: usize) -> Option<Head> {
        if payload.len() != len {
            return None;
        }
        let (head, rest) = payload.split_at(HEAD_LEN);
        let flow = u32::from_be_bytes(*head.first_chunk()?);
        let number = u64::from_be_bytes(*head[4..].first_chunk()?);
        let sent_at = u64::from_be_bytes(*head[12..].first_chunk()?);
        (rest == self.of(number, rest.len())).then_some(Head { flow, number, sent_at })
    }
}

/// What a packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) flow: u32,
    /// Counted from 0 in each flow and direction.
    pub(super) number: u64,
    /// Nanoseconds of this machine's monotonic clock.
    pub(super) sent_at: u64,
}

/// One direction of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) sent: u64,
    /// One more than the highest number that has arrived.
    next: u64,
}

impl Flow {
    /// Whether a packet comes after one that was sent later.
    pub(super) fn is_late(&mut self, number: u64) -> bool {
        let is_late = number < self.next;
        self.next = self.next.max(number + 1);
        is_late
    }
}

/// How long packets were on their way: counts by time, exact to 1 %.
#[derive(Clone, Debug)]
pub struct Latency(hdrhistogram::Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        // One microsecond to ten seconds.
        Self(hdrhistogram::Histogram::new_with_bounds(100, 10_000_000_000, 2).expect("bounds in order"))
    }
}

impl Latency {
    pub(super) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// The time that this part of all packets (from 0 to 1) did not exceed.
    pub fn at(&self, part: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(part))
    }

    /// The slowest packet.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_as_it_was_sent_is_read_and_nothing_else() {
        let filler = Filler::new();
        for len in [HEAD_LEN, 160, 1200] {
            let mut payload = vec![0; len];
            filler.write(&mut payload, 7, 300, 123_456);
            let head = Head { flow: 7, number: 300, sent_at: 123_456 };
            assert_eq!(filler.read(&payload, len), Some(head));
            assert_eq!(filler.read(&payload[1..], len), None);
            for place in HEAD_LEN..len {
                payload[place] ^= 1;
                assert_eq!(filler.read(&payload, len), None, "byte {place} of {len}");
                payload[place] ^= 1;
            }
        }
    }

    #[test]
    fn late_is_what_was_overtaken() {
        let mut flow = Flow::default();
        let late: Vec<bool> = [0, 1, 3, 2, 4, 4].into_iter().map(|number| flow.is_late(number)).collect();
        assert_eq!(late, [false, false, false, true, false, true]);
    }
}
