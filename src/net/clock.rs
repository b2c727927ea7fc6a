//! The clocks a shard reads once per batch.

use super::sys;
use crate::turn::{Clock, Now};

/// Both clocks at once. Neither enters the kernel where the vDSO works.
pub fn read() -> Clock {
    Clock {
        now: monotonic(),
        // Whole seconds are asked for, so the tick of a few milliseconds that the coarse clock lags is nothing.
        unix_secs: sys::clock_nanos(libc::CLOCK_REALTIME_COARSE) / 1_000_000_000,
    }
}

/// CLOCK_MONOTONIC.
pub fn monotonic() -> Now {
    Now(sys::clock_nanos(libc::CLOCK_MONOTONIC))
}
