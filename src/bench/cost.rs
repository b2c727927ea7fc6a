//! What a load takes from the server: the time of its process, the time of its core, its memory. Read from /proc, so only
//! where the server runs on this machine.

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::net::clock;

/// Units of /proc/stat and /proc/PID/stat: the kernel has reported in hundredths of a second on every Linux since 2.6.
const TICKS_PER_SEC: u64 = 100;

/// Whom to watch.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// The server's process.
    pub pid: u32,
    /// The core it is pinned to; then what the kernel does on its behalf in interrupts counts too.
    pub cpu: Option<usize>,
}

/// What was spent between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// User and system time of the process, all threads.
    pub process: Duration,
    /// Everything the core did but wait.
    pub core: Option<Duration>,
    /// Of that, the part in interrupts, where packets are received.
    pub softirq: Option<Duration>,
    /// Resident memory of the process at the end, in bytes.
    pub resident: u64,
    /// CLOCK_MONOTONIC at both readings, in nanoseconds: for whoever measures beside it.
    pub between: [u64; 2],
}

impl Cost {
    /// The core's time if it is known, else the process's.
    pub fn total(&self) -> Duration {
        self.core.unwrap_or(self.process)
    }
}

/// Why there is nothing to read.
#[derive(Debug)]
pub struct CostError(String);

impl fmt::Display for CostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    process: u64,
    core: Option<[u64; 2]>,
    pub(super) resident: u64,
    at: u64,
}

impl Meter {
    pub(super) fn read(&self) -> Result<Reading, CostError> {
        let core = self.cpu.map(|cpu| self.core(cpu)).transpose()?;
        Ok(Reading { process: self.process()?, core, resident: self.resident()?, at: clock::monotonic().0 })
    }

    /// What was spent since `before`.
    pub(super) fn since(&self, before: Reading) -> Result<Cost, CostError> {
        let after = self.read()?;
        let spent = |from: u64, to: u64| Duration::from_millis((to - from) * 1000 / TICKS_PER_SEC);
        let core = before.core.zip(after.core);
        Ok(Cost {
            process: spent(before.process, after.process),
            core: core.map(|(before, after)| spent(before[0], after[0])),
            softirq: core.map(|(before, after)| spent(before[1], after[1])),
            resident: after.resident,
            between: [before.at, after.at],
        })
    }

    fn process(&self) -> Result<u64, CostError> {
        let text = self.file("stat")?;
        // The second field is the name, in brackets, with whatever characters its owner chose.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        match ticks[..] {
            [user, system] => Ok(user + system),
            _ => Err(CostError(format!("/proc/{}/stat has another form than expected", self.pid))),
        }
    }

    fn resident(&self) -> Result<u64, CostError> {
        let text = self.file("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| CostError(format!("/proc/{}/status has no VmRSS", self.pid)))
    }

    fn core(&self, cpu: usize) -> Result<[u64; 2], CostError> {
        let text = fs::read_to_string("/proc/stat").map_err(|error| CostError(format!("/proc/stat: {error}")))?;
        let name = format!("cpu{cpu}");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        let fields: Vec<u64> =
            line.unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        match fields[..] {
            [user, nice, system, _, _, irq, softirq, ..] => Ok([user + nice + system + irq + softirq, irq + softirq]),
            _ => Err(CostError(format!("this machine has no core {cpu}"))),
        }
    }

    fn file(&self, name: &str) -> Result<String, CostError> {
        let path = format!("/proc/{}/{name}", self.pid);
        fs::read_to_string(&path)
            .map_err(|error| CostError(format!("{path}: {error}; is that the server's process id?")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_seen() {
        let meter = Meter { pid: std::process::id(), cpu: Some(0) };
        let before = meter.read().expect("this process");
        let mut sum = 0_u64;
        while meter.since(before).expect("this process").process < Duration::from_millis(50) {
            sum = (0..1_000_000).fold(sum, |sum, next| std::hint::black_box(sum ^ next));
        }
        assert!(before.resident > 1 << 20);
    }

    #[test]
    fn who_is_not_there_is_named() {
        let error = Meter { pid: u32::MAX, cpu: None }.read().expect_err("no such process");
        assert!(error.to_string().starts_with("/proc/4294967295/stat"), "{error}");
        let error = Meter { pid: std::process::id(), cpu: Some(100_000) }.read().expect_err("no such core");
        assert_eq!(error.to_string(), "this machine has no core 100000");
    }
}
