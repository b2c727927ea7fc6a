//! What else ran on the machine while something was measured.
//!
//! Figures of a busy machine are no figures: a core that somebody else uses, or that the hypervisor gives to another
//! machine, has colder caches and counts time that the server did not spend.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

/// Hundredths of a second, in which the kernel reports.
const TICKS_PER_SEC: f64 = 100.0;
/// The part of a core that others may take without being noticed in the figures.
const OTHERS_MAX: f64 = 0.04;
/// The part of the time that the hypervisor may take from the two cores.
const STOLEN_MAX: f64 = 0.02;
/// Programs started a second: more is a build, whose compilers come and go between two looks.
const STARTED_PER_SEC_MAX: f64 = 20.0;

/// The machine at the beginning of a measurement.
pub struct Watch {
    began: Instant,
    processes: HashMap<u32, (u64, String)>,
    stolen: u64,
    started: u64,
}

impl Watch {
    /// Begins to watch.
    pub fn begin() -> Self {
        let (stolen, started) = totals();
        Self { began: Instant::now(), processes: processes(), stolen, started }
    }

    /// What has disturbed, if anything has: neither this process nor what it has started.
    pub fn end(&self) -> Option<String> {
        let elapsed = self.began.elapsed().as_secs_f64();
        let share = |ticks: u64| ticks as f64 / TICKS_PER_SEC / elapsed;
        let mut others = 0;
        let mut busiest = (0, String::new());
        for (pid, (ticks, name)) in processes() {
            let spent = ticks - self.processes.get(&pid).map_or(0, |(before, _)| *before).min(ticks);
            others += spent;
            if spent > busiest.0 {
                busiest = (spent, name);
            }
        }
        if share(others) > OTHERS_MAX {
            return Some(format!("others took {:.0} % of a core, {} most", share(others) * 100.0, busiest.1));
        }
        let (stolen, started) = totals();
        let stolen = share(stolen.saturating_sub(self.stolen));
        if stolen > STOLEN_MAX {
            return Some(format!("the hypervisor took {:.0} % of a core", stolen * 100.0));
        }
        let started = started.saturating_sub(self.started) as f64 / elapsed;
        if started > STARTED_PER_SEC_MAX {
            return Some(format!("{started:.0} programs or threads a second were started"));
        }
        None
    }
}

/// User and system time, and name, of every process that has nothing to do with this one.
fn processes() -> HashMap<u32, (u64, String)> {
    let own = std::process::id();
    let Ok(folder) = fs::read_dir("/proc") else { return HashMap::new() };
    folder
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name is in brackets, with whatever characters its owner chose.
            let (head, rest) = text.rsplit_once(')')?;
            let name = head.split_once('(')?.1.to_owned();
            let parent: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
            // Packets that wait too long for an interrupt are received by this thread of the kernel, whoever they are for.
            if pid == own || parent == own || name.starts_with("ksoftirqd/") {
                return None;
            }
            let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            Some((pid, (ticks, name)))
        })
        .collect()
}

/// Ticks that the hypervisor kept from all cores, and processes and threads started, since the machine was.
fn totals() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let number = |prefix: &str, index: usize| {
        let line = text.lines().find(|line| line.starts_with(prefix));
        line.and_then(|line| line.split_whitespace().nth(index)).and_then(|field| field.parse().ok()).unwrap_or(0)
    };
    (number("cpu ", 8), number("processes ", 1))
}
