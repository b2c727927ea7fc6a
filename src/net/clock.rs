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

/// Returns when [`monotonic`] has come there, and within [`fine_timers`]' bounds not later.
pub fn sleep_until(moment: Now) {
    sys::sleep_until(moment.0);
}

/// Lets this thread's sleeps end on time, instead of up to 50 µs late for the sake of the battery.
pub fn fine_timers() {
    sys::fine_timers();
}
