//! Where the time of the server's core goes: perf's samples of it while a load runs, by symbol.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::network::{Network, find};

/// Odd, so as not to march in step with the kernel's own timer.
const SAMPLES_PER_SEC: &str = "1999";
/// Symbols with a smaller share are left out.
const SHARE_MIN_PERCENT: &str = "0.8";

/// perf at work.
pub struct Profile {
    perf: Child,
    samples: PathBuf,
}

impl Profile {
    /// Looks at a core for so many seconds from now. The clock is the timer's, since virtual machines seldom have the
    /// processor's counters.
    ///
    /// # Errors
    /// When perf is not there or may not.
    pub fn begin(network: &Network, folder: &Path, seconds: f64) -> Result<Self, String> {
        let program = find("perf").ok_or("perf is not installed (Debian: linux-perf)")?;
        let samples = folder.join("perf.data");
        let (cpu, output) = (network.server.cpu.to_string(), samples.clone());
        let perf = network.load.spawn(&program, move |command| {
            command.args(["record", "--quiet", "--event=cpu-clock", "--all-cpus", "--freq", SAMPLES_PER_SEC]);
            command.args(["--cpu", &cpu, "--output"]).arg(output).args(["--", "sleep", &seconds.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        })?;
        Ok(Self { perf, samples })
    }

    /// Which symbols had which share of the samples in which the core did something.
    ///
    /// # Errors
    /// When perf has seen nothing.
    pub fn end(mut self) -> Result<String, String> {
        self.perf.wait().map_err(|error| format!("perf: {error}"))?;
        let by_program = self.report("dso", "1")?;
        let by_symbol = self.report("dso,symbol", SHARE_MIN_PERCENT)?;
        Ok(format!("by program:\n{by_program}by symbol:\n{by_symbol}"))
    }

    fn report(&self, sort: &str, share_min_percent: &str) -> Result<String, String> {
        let output = Command::new(find("perf").ok_or("perf is gone")?)
            .args(["report", "--stdio", "--no-children", "--sort", sort, "--percent-limit", share_min_percent])
            .arg("--input")
            .arg(&self.samples)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("perf: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        // Behind the name come empty columns.
        let lines: Vec<&str> = lines.map(|line| line.trim_end_matches([' ', '-'])).collect();
        match lines.is_empty() {
            true => Err(format!("perf has seen nothing: {}", String::from_utf8_lossy(&output.stderr))),
            false => Ok(lines.join("\n") + "\n"),
        }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}
