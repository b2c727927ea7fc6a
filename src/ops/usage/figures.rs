//! What is counted about usage records, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::deliver::SinkKind;
use super::record::Kind;

/// Why something could not be kept account of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Drop {
    /// The thread that writes lags behind the shards: a beginning or an end.
    QueueFull,
    /// Too much waits for receivers: the oldest records were removed.
    SpoolFull,
    /// The spool cannot be written to.
    SpoolError,
}

impl Drop {
    /// In order of declaration.
    pub(in crate::ops) const ALL: [Self; 3] = [Self::QueueFull, Self::SpoolFull, Self::SpoolError];

    /// The word used in metrics.
    pub(in crate::ops) const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::SpoolFull => "spool_full",
            Self::SpoolError => "spool_error",
        }
    }
}

/// Sums since the start; cheap to change from any thread.
#[derive(Debug, Default)]
pub(in crate::ops) struct Figures {
    written: [AtomicU64; Kind::WRITTEN.len()],
    delivered: [AtomicU64; SinkKind::ALL.len()],
    failures: [AtomicU64; SinkKind::ALL.len()],
    waiting: [AtomicU64; SinkKind::ALL.len()],
    dropped: [AtomicU64; Drop::ALL.len()],
}

impl Figures {
    pub(super) fn written(&self, kind: Kind, count: u64) {
        if let Some(place) = Kind::WRITTEN.iter().position(|written| *written == kind) {
            self.written[place].fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn delivered(&self, sink: SinkKind, count: u64) {
        self.delivered[sink as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, sink: SinkKind) {
        self.failures[sink as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_waiting(&self, sink: SinkKind, count: u64) {
        self.waiting[sink as usize].store(count, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, why: Drop, count: u64) {
        self.dropped[why as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How often the queue was full.
    pub(super) fn lost(&self) -> u64 {
        self.count_dropped(Drop::QueueFull)
    }

    pub(in crate::ops) fn count_written(&self, place: usize) -> u64 {
        self.written[place].load(Ordering::Relaxed)
    }

    pub(in crate::ops) fn count_delivered(&self, sink: SinkKind) -> u64 {
        self.delivered[sink as usize].load(Ordering::Relaxed)
    }

    pub(in crate::ops) fn count_failures(&self, sink: SinkKind) -> u64 {
        self.failures[sink as usize].load(Ordering::Relaxed)
    }

    pub(in crate::ops) fn count_waiting(&self, sink: SinkKind) -> u64 {
        self.waiting[sink as usize].load(Ordering::Relaxed)
    }

    pub(in crate::ops) fn count_dropped(&self, why: Drop) -> u64 {
        self.dropped[why as usize].load(Ordering::Relaxed)
    }
}
