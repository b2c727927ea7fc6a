//! The process as the kernel sees it, under the names that Prometheus' client libraries have for it.
//!
//! Read from `/proc/self` at every scrape: a few files, and a directory with an entry for each open descriptor, of which
//! only the number is taken. What cannot be read is left out.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{describe, family, gauge};

/// Asks the kernel at every scrape.
#[derive(Debug)]
pub(in crate::ops) struct ProcessCollector {
    /// What of it the kernel tells.
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    pub fn new() -> Self {
        Self { descriptions: describe(families()) }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families()
    }
}

fn families() -> Vec<MetricFamily> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = Stat::parse(&stat);
    let of_stat = |value: fn(&Stat) -> Option<f64>| stat.as_ref().and_then(value);
    [
        open_descriptors().map(|count| {
            gauge("process_open_fds", "Open file descriptors: one for each allocation and connection.", [([], count)])
        }),
        descriptors_max().map(|count| gauge("process_max_fds", "The most that may be open.", [([], count)])),
        of_stat(Stat::resident_bytes)
            .map(|bytes| gauge("process_resident_memory_bytes", "Memory in use that is in RAM.", [([], bytes)])),
        of_stat(Stat::started_unix_secs).map(|secs| {
            gauge("process_start_time_seconds", "When the process started, in Unix seconds.", [([], secs)])
        }),
        of_stat(Stat::cpu_secs).map(|secs| {
            family(
                "process_cpu_seconds_total",
                "Time spent computing, of all threads, in user and kernel mode.",
                prometheus::proto::MetricType::COUNTER,
                [([], secs)],
            )
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Linux 6.2 and later tell the number without a walk through the directory.
fn open_descriptors() -> Option<f64> {
    let counted = fs::metadata("/proc/self/fd").ok().map(|folder| folder.len()).filter(|count| *count > 0);
    counted.map(|count| count as f64).or_else(|| Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64))
}

fn descriptors_max() -> Option<f64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64)
}

/// Fields of `/proc/self/stat`, see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    /// In user and kernel mode, in clock ticks.
    cpu_ticks: u64,
    /// After the machine was started, in clock ticks.
    started_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program is in brackets and may contain anything, brackets included.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // The first of these is the third of the manual page.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, started_ticks: field(22)?, resident_pages: field(24)? })
    }

    fn resident_bytes(&self) -> Option<f64> {
        Some(self.resident_pages as f64 * sysconf(SysconfVar::PAGE_SIZE).ok()?? as f64)
    }

    fn cpu_secs(&self) -> Option<f64> {
        Some(self.cpu_ticks as f64 / ticks_per_sec()?)
    }

    fn started_unix_secs(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let booted: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(booted + self.started_ticks as f64 / ticks_per_sec()?)
    }
}

fn ticks_per_sec() -> Option<f64> {
    Some(sysconf(SysconfVar::CLK_TCK).ok()?? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let text = "7 (a) R 1 (b)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1900 20 21 22";
        assert_eq!(Stat::parse(text), Some(Stat { cpu_ticks: 23, started_ticks: 1900, resident_pages: 21 }));
        assert_eq!(Stat::parse("7 (short) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn what_the_kernel_says_is_plausible() {
        let value = |name: &str| {
            let families = families();
            let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no {name}"));
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
