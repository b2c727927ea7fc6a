//! What a core's interrupts take, to the microsecond.
//!
//! Kernels without IRQ_TIME_ACCOUNTING, as Debian's and most clouds' are, learn where a core's time goes from a tick, which
//! rests while the core is idle: what an interrupt does there is seen by nobody. So a thread of the lowest priority keeps
//! the core awake and looks at the clock all the time. Where more passes between two looks than a look takes, the core was
//! somewhere else: in a process, in an interrupt, or on the way there and back. Nothing of that is sampled.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::gettid;

use crate::network;

/// Longer than two looks at the clock, of some 25 ns each, and shorter than any interrupt.
const AWAY_MIN: Duration = Duration::from_nanos(200);
/// How often the sums are written down.
const NOTE_EVERY: Duration = Duration::from_millis(1);

/// A core that does not sleep.
pub struct Awake {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Note>>>,
}

/// What had been taken at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Note {
    /// CLOCK_MONOTONIC, in nanoseconds.
    at: u64,
    nanos: u64,
}

impl Awake {
    /// Begins.
    ///
    /// # Errors
    /// When there is no such core, or no thread may have so low a priority.
    pub fn begin(cpu: usize) -> Result<Self, String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (tell, ready) = std::sync::mpsc::channel();
        let until = Arc::clone(&is_over);
        let thread = thread::spawn(move || match take_lowest_place(cpu) {
            Err(problem) => {
                let _ = tell.send(Err(problem));
                Vec::new()
            }
            Ok(()) => {
                let _ = tell.send(Ok(()));
                watch(&until)
            }
        });
        let awake = Self { is_over, thread: Some(thread) };
        ready.recv().map_err(|_| "a thread has ended".to_owned())??;
        // It has begun by then.
        thread::sleep(10 * NOTE_EVERY);
        Ok(awake)
    }

    /// Microseconds that were taken between these moments on CLOCK_MONOTONIC, in nanoseconds.
    ///
    /// # Errors
    /// When they are not within its life.
    pub fn end(mut self, from: u64, until: u64) -> Result<f64, String> {
        // The last note is of after that moment.
        thread::sleep(10 * NOTE_EVERY);
        let notes = self.stop().ok_or("the thread that keeps a core awake has failed")?;
        let nanos = between(&notes, from, until).ok_or("the core was not awake all the time")?;
        Ok(nanos / 1000.0)
    }

    fn stop(&mut self) -> Option<Vec<Note>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn monotonic() -> u64 {
    ClockId::CLOCK_MONOTONIC.now().map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// SCHED_IDLE: everybody else goes first.
fn take_lowest_place(cpu: usize) -> Result<(), String> {
    network::pin(cpu)?;
    let path = network::find("chrt").ok_or("chrt is not installed (package util-linux)")?;
    let mut command = Command::new(path);
    command.args(["--idle", "--pid", "0"]).arg(gettid().to_string()).stdout(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("chrt: {status}")),
        Err(error) => Err(format!("chrt: {error}")),
    }
}

fn watch(is_over: &AtomicBool) -> Vec<Note> {
    let (start, started_at) = (Instant::now(), monotonic());
    let (mut notes, mut taken) = (Vec::with_capacity(1 << 16), Duration::ZERO);
    let (mut before, mut due) = (start, start);
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let passed = now - before;
        if passed >= AWAY_MIN {
            taken += passed;
        }
        before = now;
        if now >= due {
            notes.push(Note { at: started_at + (now - start).as_nanos() as u64, nanos: taken.as_nanos() as u64 });
            // Room for more may take a while; it is not the server's.
            before = Instant::now();
            due = now + NOTE_EVERY;
        }
    }
    notes
}

/// By the notes next to both moments; those of a busy core are far between.
fn between(notes: &[Note], from: u64, until: u64) -> Option<f64> {
    let next_to = |moment: u64| {
        let next = notes.partition_point(|note| note.at < moment);
        let before = notes.get(next.checked_sub(1)?)?;
        let after = notes.get(next)?;
        Some(if moment - before.at < after.at - moment { *before } else { *after })
    };
    let (first, last) = (next_to(from)?, next_to(until)?);
    let nanos = last.at.checked_sub(first.at).filter(|nanos| *nanos > 0)?;
    Some((last.nanos - first.nanos) as f64 * (until - from) as f64 / nanos as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_notes_next_to_both_moments() {
        let notes = [(1_000, 0), (2_000, 10), (4_000, 30), (9_000, 40)].map(|(at, nanos)| Note { at, nanos });
        assert_eq!(between(&notes, 1_900, 4_100), Some(22.0));
        assert_eq!(between(&notes, 500, 4_000), None, "it had not begun");
        assert_eq!(between(&notes, 2_000, 9_500), None, "it had ended");
    }
}
