//! Where the time of the server's core goes: perf's samples of it while a load runs, by symbol.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::network::{Network, find};

/// Odd, so as not to march in step with the kernel's own timer.
const SAMPLES_PER_SEC: &str = "1999";
/// Symbols with a smaller share are left out.
const SHARE_MIN_PERCENT: &str = "0.8";

/// The process that a core runs when it waits; interrupts come then as well.
const IDLE: u32 = 0;

/// perf at work.
pub struct Profile {
    perf: Child,
    samples: PathBuf,
    server: u32,
}

impl Profile {
    /// Looks at a core for so many seconds from now. The clock is the timer's, since virtual machines seldom have the
    /// processor's counters.
    ///
    /// # Errors
    /// When perf is not there or may not.
    pub fn begin(network: &Network, folder: &Path, server: u32, seconds: f64) -> Result<Self, String> {
        let program = find("perf").ok_or("perf is not installed (Debian: linux-perf)")?;
        let samples = folder.join("perf.data");
        let (cpu, output) = (network.server.cpu.to_string(), samples.clone());
        let perf = network.load.spawn(&program, move |command| {
            command.args([
                "record",
                "--quiet",
                "--event=cpu-clock",
                "--call-graph=fp",
                "--all-cpus",
                "--freq",
                SAMPLES_PER_SEC,
            ]);
            command.args(["--cpu", &cpu, "--output"]).arg(output).args(["--", "sleep", &seconds.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        })?;
        Ok(Self { perf, samples, server })
    }

    /// Which symbols had which share of the samples in which the core did something.
    ///
    /// # Errors
    /// When perf has seen nothing.
    pub fn end(mut self) -> Result<String, String> {
        self.perf.wait().map_err(|error| format!("perf: {error}"))?;
        let by_part = self.by_part()?;
        let by_symbol = self.report("dso,symbol", SHARE_MIN_PERCENT)?;
        Ok(format!("by part:\n{by_part}by symbol:\n{by_symbol}"))
    }

    /// Shares of what a packet goes through.
    fn by_part(&self) -> Result<String, String> {
        let text = self.perf(&["script", "--fields", "pid,ip,sym"])?;
        let mut counts = [0_u32; Part::ALL.len()];
        // A sample is its process, then a line for each frame from the innermost on, then an empty line.
        for sample in text.split("\n\n") {
            let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
            let Some(process) = lines.next().and_then(|line| line.trim().parse::<u32>().ok()) else { continue };
            if let Some(part) = Part::of(process == self.server, process == IDLE, lines.filter_map(symbol)) {
                counts[part as usize] += 1;
            }
        }
        let all: u32 = counts.iter().sum();
        if all == 0 {
            return Err("perf has seen nothing of the server".into());
        }
        let share = |part: Part| f64::from(counts[part as usize]) * 100.0 / f64::from(all);
        Ok(Part::ALL.iter().map(|part| format!("{:>9.1} %  {}\n", share(*part), part.title())).collect())
    }

    fn report(&self, sort: &str, share_min_percent: &str) -> Result<String, String> {
        let limit = ["--percent-limit", share_min_percent];
        let processes = format!("{},{IDLE}", self.server);
        let words = ["report", "--stdio", "--no-children", "--call-graph=none", "--pid", &processes, "--sort", sort];
        let text = self.perf(&[&words[..], &limit[..]].concat())?;
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        // Behind the name come empty columns.
        let lines: Vec<&str> = lines.map(|line| line.trim_end_matches([' ', '-'])).collect();
        match lines.is_empty() {
            true => Err("perf has seen nothing of the server".into()),
            false => Ok(lines.join("\n") + "\n"),
        }
    }

    /// Asks perf about the samples.
    fn perf(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(find("perf").ok_or("perf is gone")?)
            .args(words)
            .arg("--input")
            .arg(&self.samples)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("perf: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("perf: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// What a packet goes through on the server's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Interrupts,
    Reading,
    Sending,
    Waiting,
    OtherCalls,
    Own,
}

impl Part {
    const ALL: [Part; 6] = [Part::Interrupts, Part::Reading, Part::Sending, Part::Waiting, Part::OtherCalls, Part::Own];

    fn title(self) -> &'static str {
        match self {
            Part::Interrupts => "interrupts: packets through the stack, up to the socket they are for",
            Part::Reading => "system calls that read",
            Part::Sending => "system calls that send, down to the device",
            Part::Waiting => "waiting for sockets, and waking up",
            Part::OtherCalls => "other system calls, and the way into them",
            Part::Own => "the server's own code",
        }
    }

    /// Whose sample this is, from its frames, the innermost first; nobody's if the core did something else. What
    /// interrupts a system call counts as an interrupt.
    fn of<'f>(is_server: bool, is_idle: bool, frames: impl Iterator<Item = &'f str> + Clone) -> Option<Self> {
        let has = |names: &[&str]| frames.clone().any(|frame| names.iter().any(|name| frame.contains(name)));
        if has(&["net_rx_action", "flush_smp_call_function", "sysvec_call_function"]) && (is_server || is_idle) {
            return Some(Part::Interrupts);
        }
        if !is_server {
            return None;
        }
        let part = if has(&["recvm", "recvfrom", "_sys_read", "vfs_read", "tcp_recvmsg"]) {
            Part::Reading
        } else if has(&["sendm", "sendto", "_sys_write", "vfs_write", "tcp_sendmsg"]) {
            Part::Sending
        } else if has(&["epoll", "schedule", "poll"]) {
            Part::Waiting
        } else if has(&["do_syscall_64", "entry_SYSCALL", "el0_svc", "invoke_syscall"]) {
            Part::OtherCalls
        } else {
            Part::Own
        };
        Some(part)
    }
}

/// The name in a frame's line, `ffffffff81a2b3c4 udp_sendmsg`.
fn symbol(line: &str) -> Option<&str> {
    line.trim().split_once(' ').map(|(_, name)| name)
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_belong_to_what_they_are_inside_of() {
        let part = |is_server, is_idle, lines: &[&'static str]| {
            let frames: Vec<&str> = lines.iter().filter_map(|line| symbol(line)).collect();
            Part::of(is_server, is_idle, frames.into_iter())
        };
        let sending = ["  ffffffff81 udp_sendmsg", "  ffffffff82 __sys_sendmmsg", "  ffffffff83 do_syscall_64"];
        assert_eq!(part(true, false, &sending), Some(Part::Sending));
        let interrupted = [&["  ffffffff80 net_rx_action"], &sending[..]].concat();
        assert_eq!(part(true, false, &interrupted), Some(Part::Interrupts));
        assert_eq!(part(false, true, &["  ffffffff80 net_rx_action"]), Some(Part::Interrupts));
        assert_eq!(part(false, true, &["  ffffffff80 pv_native_safe_halt"]), None, "the core waits");
        assert_eq!(part(false, false, &interrupted), None, "another program");
        assert_eq!(part(true, false, &["      55d0c0ffee hairpin::turn::relay"]), Some(Part::Own));
        assert_eq!(
            part(true, false, &["  ffffffff81 __x64_sys_close", "  ffffffff83 do_syscall_64"]),
            Some(Part::OtherCalls)
        );
    }
}
