//! When a socket asks the kernel for datagrams of one flow that came together as one (UDP_GRO).
//!
//! That pays several times over where they come in runs, and costs where they do not. So it is asked for while recent
//! ones did, and whoever has been wrong about that waits longer before the next attempt.

/// Datagrams or messages that one decision looks at.
const WINDOW: u32 = 64;

/// Attempts in vain after which the pause grows no more: it is `WINDOW << PENALTY_MAX` datagrams then.
const PENALTY_MAX: u32 = 12;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    Stay,
    Begin,
    End,
}

/// What one socket has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merging {
    is_on: bool,
    /// Messages of this window, and datagrams in them; while it is off datagrams, and those that continued a run.
    seen: u32,
    found: u32,
    /// Windows to let pass before the next attempt.
    pause: u32,
    penalty: u32,
    /// Datagrams in a message, rounded up, in the last read.
    per_message: u32,
}

impl Merging {
    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Messages to ask for at a time, so that one turn does not become too long.
    pub(super) fn messages_wanted(&self, most: usize) -> usize {
        (2 * most / self.per_message.max(1) as usize).clamp(4, most)
    }

    /// So many came, each by itself, of which some might have come with the one before.
    pub(super) fn note_apart(&mut self, datagrams: usize, continued: usize) -> Advice {
        self.seen += datagrams as u32;
        self.found += continued as u32;
        if self.seen < WINDOW {
            return Advice::Stay;
        }
        let in_runs = 2 * self.found >= self.seen;
        (self.seen, self.found) = (0, 0);
        if self.pause > 0 {
            self.pause -= 1;
            return Advice::Stay;
        }
        if in_runs { Advice::Begin } else { Advice::Stay }
    }

    /// So many came in so many messages.
    pub(super) fn note_merged(&mut self, messages: usize, datagrams: usize) -> Advice {
        self.per_message = datagrams.div_ceil(messages.max(1)) as u32;
        self.seen += messages as u32;
        self.found += datagrams as u32;
        if self.seen < WINDOW {
            return Advice::Stay;
        }
        let pays = 2 * self.found >= 3 * self.seen;
        (self.seen, self.found) = (0, 0);
        if pays {
            self.penalty = 0;
            return Advice::Stay;
        }
        Advice::End
    }

    /// It was done.
    pub(super) fn switched(&mut self, is_on: bool) {
        let Self { penalty, .. } = *self;
        *self = Self { is_on, penalty, ..Self::default() };
        if !is_on {
            self.penalty = (penalty + 1).min(PENALTY_MAX);
            self.pause = 1 << self.penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_switch_it_on_and_their_absence_off() {
        let mut merging = Merging::default();
        assert_eq!(merging.note_apart(63, 0), Advice::Stay);
        assert_eq!(merging.note_apart(64, 40), Advice::Stay, "a third");
        assert_eq!(merging.note_apart(32, 30), Advice::Stay);
        assert_eq!(merging.note_apart(32, 2), Advice::Begin, "half");
        merging.switched(true);
        for _ in 0..104 {
            assert_eq!(merging.note_merged(8, 64), Advice::Stay);
        }
        assert_eq!(merging.messages_wanted(64), 16);
        let advice: Vec<Advice> = (0..8).map(|_| merging.note_merged(8, 9)).collect();
        assert_eq!(advice.last(), Some(&Advice::End));
    }

    #[test]
    fn attempts_in_vain_become_rare_and_stay_possible() {
        let mut merging = Merging::default();
        let mut before = 0;
        for attempt in 0..2 * PENALTY_MAX {
            let windows = (0..).find(|_| merging.note_apart(64, 64) == Advice::Begin).expect("in the end");
            assert!(windows > before || attempt == 0 || attempt > PENALTY_MAX);
            assert!(windows <= 1 << PENALTY_MAX);
            before = windows;
            merging.switched(true);
            assert_eq!(merging.note_merged(64, 64), Advice::End);
            merging.switched(false);
        }
    }

    #[test]
    fn one_turn_does_not_become_too_long() {
        let mut merging = Merging::default();
        merging.switched(true);
        assert_eq!(merging.messages_wanted(64), 64);
        merging.note_merged(64, 64 * 64);
        assert_eq!(merging.messages_wanted(64), 4);
    }
}
