//! What this program itself had to do: an instrument that is at its limit measures itself.

use std::collections::HashSet;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};

use super::{BenchError, Progress};
use crate::net::clock;

/// Standard streams, epoll, /proc.
const OTHER_DESCRIPTORS: u64 = 64;
/// Above this share of a thread's time it is what limits.
const BUSY_MAX: f64 = 0.9;

/// What a measurement took this program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnCost {
    /// Of the measured time, how much the busiest thread did not wait, from 0 to 1.
    pub busy: f64,
    /// CPU time of the busiest thread as a share of the measured time.
    pub cpu: f64,
    /// Datagrams that its sockets had no room for.
    pub socket_drops: u64,
    /// Packets that the kernel or a connection did not take.
    pub unsent: u64,
    /// Of the packets that were to be sent at this pace, those that there was no time for.
    pub not_offered: u64,
}

impl OwnCost {
    pub(super) fn join(&mut self, other: &Self) {
        self.busy = self.busy.max(other.busy);
        self.cpu = self.cpu.max(other.cpu);
        self.socket_drops += other.socket_drops;
        self.unsent += other.unsent;
        self.not_offered += other.not_offered;
    }

    /// How it shows that this program, not the server, was what limited.
    pub fn limit(&self) -> Option<String> {
        if self.socket_drops > 0 {
            return Some(format!(
                "{} datagrams found its own sockets full: raise net.core.rmem_max, or give it a core of its own",
                self.socket_drops
            ));
        }
        if self.not_offered > 0 {
            return Some(format!("it came {} packets too late: more --threads, or another core", self.not_offered));
        }
        (self.cpu > BUSY_MAX).then(|| {
            format!("its busiest thread used {:.0} % of a core: more --threads, or another core", self.cpu * 100.0)
        })
    }
}

/// How one thread spends the measured time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ThreadClock {
    began: Option<(u64, Duration)>,
    waited: u64,
    spent: OwnCost,
}

impl ThreadClock {
    /// The time that measuring begins or ends is only seen here.
    pub(super) fn look(&mut self, now: u64, is_measured: bool) {
        match (self.began, is_measured) {
            (None, true) if self.spent.cpu == 0.0 => self.began = Some((now, cpu_time())),
            (Some(_), false) => self.stop(),
            _ => {}
        }
    }

    pub(super) fn waited(&mut self, nanos: u64) {
        if self.began.is_some() {
            self.waited += nanos;
        }
    }

    pub(super) fn stop(&mut self) {
        if let Some((began, cpu)) = self.began.take() {
            let elapsed = (clock::monotonic().0 - began).max(1) as f64;
            self.spent.cpu = (cpu_time().saturating_sub(cpu).as_nanos() as f64 / elapsed).max(f64::MIN_POSITIVE);
            self.spent.busy = (1.0 - self.waited as f64 / elapsed).clamp(0.0, 1.0);
        }
    }

    pub(super) fn spent(&self) -> OwnCost {
        self.spent
    }
}

/// User and system time of this thread.
fn cpu_time() -> Duration {
    let of =
        |time: nix::sys::time::TimeVal| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64);
    getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |usage| of(usage.user_time()) + of(usage.system_time()))
}

/// Raises the limit of open files as far as that goes.
pub(super) fn make_room_for(sockets: usize) -> Result<(), BenchError> {
    let wanted = sockets as u64 + OTHER_DESCRIPTORS;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    if soft >= wanted {
        return Ok(());
    }
    // The privileged may raise the hard one as well.
    let limit = hard.max(wanted);
    if setrlimit(Resource::RLIMIT_NOFILE, limit, limit).is_ok() {
        return Ok(());
    }
    if hard >= wanted && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(());
    }
    Err(BenchError::Descriptors(wanted, hard.max(soft)))
}

/// Our own sockets, as /proc names them.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnSockets(HashSet<u64>);

impl OwnSockets {
    pub(super) fn add(&mut self, descriptor: RawFd) {
        if let Ok(metadata) = fs::metadata(format!("/proc/self/fd/{descriptor}")) {
            self.0.insert(metadata.ino());
        }
    }

    pub(super) fn join(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Datagrams that found one of them full, ever.
    pub(super) fn drops(&self) -> u64 {
        let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
        let text: String = tables.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
        text.lines().filter_map(|line| self.drops_in(line)).sum()
    }

    fn drops_in(&self, line: &str) -> Option<u64> {
        // sl local remote st queues tr:when retransmits uid timeout inode references pointer drops
        let mut fields = line.split_whitespace();
        let inode = fields.nth(9)?.parse().ok()?;
        if self.0.contains(&inode) { fields.next_back()?.parse().ok() } else { None }
    }
}

/// What all threads have done so far, to be told while they run.
#[derive(Debug, Default)]
pub(super) struct Watch {
    offered: AtomicU64,
    done: AtomicU64,
}

impl Watch {
    pub(super) fn offered(&self, count: u64) {
        self.offered.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// Tells once a second how far things are; ends early if `is_over`.
    pub(super) fn sleep_until(&self, until: u64, is_over: &dyn Fn() -> bool, progress: &mut dyn FnMut(Progress)) {
        const TELL_NANOS: u64 = 1_000_000_000;
        let read = || [self.offered.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed)];
        let (mut told, mut before) = (clock::monotonic().0, read());
        loop {
            let now = clock::monotonic().0;
            if now >= until || is_over() {
                return;
            }
            if now - told >= TELL_NANOS {
                let [offered, done] = read();
                let per_second = |count: u64| count as f64 * 1e9 / (now - told) as f64;
                progress(Progress {
                    offered_per_second: per_second(offered - before[0]),
                    done_per_second: per_second(done - before[1]),
                });
                (told, before) = (now, [offered, done]);
            }
            let next = until.min(told + TELL_NANOS).saturating_sub(now);
            thread::sleep(Duration::from_nanos(next.min(100_000_000)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn datagrams_without_room_are_seen() {
        let full = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let mut own = OwnSockets::default();
        own.add(full.as_raw_fd());
        assert_eq!(own.drops(), 0);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        for _ in 0..20_000 {
            sender.send_to(&[0; 1000], full.local_addr().expect("bound")).expect("loopback takes everything");
        }
        assert!(own.drops() > 0);
    }

    #[test]
    fn what_limits_is_said() {
        assert_eq!(OwnCost { cpu: 0.5, busy: 1.0, ..OwnCost::default() }.limit(), None);
        for (own, word) in [
            (OwnCost { cpu: 0.95, ..OwnCost::default() }, "95 %"),
            (OwnCost { socket_drops: 7, ..OwnCost::default() }, "rmem_max"),
            (OwnCost { not_offered: 7, ..OwnCost::default() }, "too late"),
        ] {
            assert!(own.limit().is_some_and(|why| why.contains(word)), "{own:?}");
        }
    }
}
