//! The event heap and the seeded network: virtual time, loss, duplication, delay and with it reordering.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

use hairpin::turn::FiveTuple;

use crate::dice::Dice;
use crate::shell::BindQuestion;

pub const MILLISECOND: u64 = 1_000_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    DatagramAtServer { path: FiveTuple, bytes: Vec<u8> },
    StreamAtServer { connection: usize, bytes: Vec<u8> },
    StreamClosedAtServer { connection: usize },
    DatagramAtClient { path: FiveTuple, bytes: Vec<u8> },
    StreamAtClient { connection: usize, bytes: Vec<u8> },
    AtPeer { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    AtRelay { relayed: SocketAddr, peer: SocketAddr, data: Vec<u8>, late: bool },
    IcmpAtRelay { relayed: SocketAddr, peer: SocketAddr, what: (u8, u8, u32) },
    AcrossShards { shard: u16, relayed: SocketAddr, from: SocketAddr, data: Vec<u8> },
    BindAnswered { question: BindQuestion },
    ClientWakes { client: usize },
    PeerSpeaks,
    Mischief,
}

/// How bad the network of a run is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub latency: u64,
    pub jitter: u64,
}

impl Weather {
    pub const CALM: Self = Self { loss_percent: 0, duplicate_percent: 0, latency: 20 * MILLISECOND, jitter: 0 };

    pub fn draw(dice: &mut Dice) -> Self {
        Self {
            loss_percent: dice.pick(&[0, 3, 20]),
            duplicate_percent: dice.pick(&[0, 5]),
            latency: dice.pick(&[1, 20, 200]) * MILLISECOND,
            jitter: dice.pick(&[0, 30, 2000]) * MILLISECOND,
        }
    }
}

/// What will happen, and when.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    count: u64,
}

impl Network {
    pub fn new(weather: Weather) -> Self {
        Self { weather, heap: BinaryHeap::new(), happenings: BTreeMap::new(), count: 0 }
    }

    /// At `time` for certain.
    pub fn at(&mut self, time: u64, happening: Happening) {
        self.heap.push(Reverse((time, self.count)));
        self.happenings.insert(self.count, happening);
        self.count += 1;
    }

    /// After a journey through the network: never, once, or twice.
    pub fn send(&mut self, dice: &mut Dice, now: u64, mut happening: impl FnMut() -> Happening) {
        let copies = match (dice.chance(self.weather.loss_percent), dice.chance(self.weather.duplicate_percent)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        for _ in 0..copies {
            let time = now + self.latency(dice);
            self.at(time, happening());
        }
    }

    /// How long a journey takes this time.
    pub fn latency(&self, dice: &mut Dice) -> u64 {
        self.weather.latency + dice.below(self.weather.jitter + 1)
    }

    pub fn next_time(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((time, _))| *time)
    }

    pub fn pop(&mut self) -> Option<(u64, Happening)> {
        let Reverse((time, id)) = self.heap.pop()?;
        Some((time, self.happenings.remove(&id).expect("pushed together")))
    }
}
