//! What nodes send and receive, written by `tcpdump` to `NODE.pcap`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use tokio::time::{Instant, sleep};

use crate::process::{Process, find_program};

/// How long tcpdump may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file starts with this many bytes that are no packet.
const HEADER_BYTES: u64 = 24;

/// A running capture; dropping it ends it.
pub struct Capture {
    process: Process,
}

impl Capture {
    /// Starts one on a host, and returns when it misses nothing any more.
    ///
    /// # Errors
    /// tcpdump is missing or ends.
    pub async fn start(device: &Device, directory: &Path) -> Result<Capture> {
        let tcpdump =
            find_program("tcpdump").context("tcpdump is not installed; install it (Debian: apt install tcpdump)")?;
        let file = directory.join(format!("{}.pcap", device.name()));
        let _ = std::fs::remove_file(&file);
        let mut command = Command::new(tcpdump);
        command.args(["-i", "eth0", "-n", "-U", "-s", "0", "-Z", "root", "-w"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(device, command)?;
        let deadline = Instant::now() + PATIENCE;
        while !file.metadata().is_ok_and(|metadata| metadata.len() >= HEADER_BYTES) {
            if let Some(status) = process.exit_status() {
                bail!("tcpdump ended at once on {:?} ({status})", device.name());
            }
            if Instant::now() > deadline {
                bail!("tcpdump does not begin on {:?}", device.name());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Capture { process })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Politely, so that the last packets are written.
        self.process.terminate();
    }
}
