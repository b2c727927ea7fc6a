//! What the packets of a load carry, and what they tell on arrival.

use std::time::Duration;

/// Flow (4 bytes), number (6), length (2) and time (8).
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
        let len = payload.len() as u16;
        let (head, rest) = payload.split_at_mut(HEAD_LEN);
        head[..4].copy_from_slice(&flow.to_be_bytes());
        head[4..10].copy_from_slice(&number.to_be_bytes()[2..]);
        head[10..12].copy_from_slice(&len.to_be_bytes());
        head[12..].copy_from_slice(&sent_at.to_be_bytes());
        rest.copy_from_slice(self.of(number, rest.len()));
    }

    /// Reads one that has arrived; `None` if it is not as it was sent.
    pub(super) fn read(&self, payload: &[u8]) -> Option<Head> {
        let (head, rest) = payload.split_at_checked(HEAD_LEN)?;
        let flow = u32::from_be_bytes(*head.first_chunk()?);
        let mut number = [0; 8];
        number[2..].copy_from_slice(&head[4..10]);
        let number = u64::from_be_bytes(number);
        let len = u16::from_be_bytes(*head[10..].first_chunk()?);
        let sent_at = u64::from_be_bytes(*head[12..].first_chunk()?);
        let is_whole = payload.len() == usize::from(len) && rest == self.of(number, rest.len());
        is_whole.then_some(Head { flow, number, sent_at })
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

/// What has arrived of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrivals {
    /// One more than the highest number that has arrived.
    next: u64,
    /// Which of the 64 before that have: the lowest bit is the highest number.
    seen: u64,
}

/// How a packet compares with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    InOrder,
    /// After one that was sent later.
    Late,
    /// For the second time.
    Duplicate,
}

impl Arrivals {
    pub(super) fn take(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            let step = number + 1 - self.next;
            self.seen = if step < 64 { self.seen << step } else { 0 } | 1;
            self.next = number + 1;
            return Arrival::InOrder;
        }
        // What is older than that is taken for late: nothing repeats packets so much later.
        let bit = 1_u64.checked_shl((self.next - 1 - number).min(64) as u32).unwrap_or(0);
        if self.seen & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen |= bit;
        Arrival::Late
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

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
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
            assert_eq!(filler.read(&payload), Some(head));
            assert_eq!(filler.read(&payload[1..]), None);
            for place in HEAD_LEN..len {
                payload[place] ^= 1;
                assert_eq!(filler.read(&payload), None, "byte {place} of {len}");
                payload[place] ^= 1;
            }
        }
    }

    #[test]
    fn late_is_what_was_overtaken_and_a_duplicate_what_came_before() {
        use Arrival::{Duplicate, InOrder, Late};
        let mut flow = Arrivals::default();
        let numbers = [0, 1, 3, 2, 2, 4, 4, 200, 199, 199, 5];
        let arrivals = numbers.map(|number| flow.take(number));
        assert_eq!(
            arrivals,
            [InOrder, InOrder, InOrder, Late, Duplicate, InOrder, Duplicate, InOrder, Late, Duplicate, Late]
        );
    }
}
