//! The HTTP proxy of a network that has no other way out: Debian's tinyproxy, CONNECT to port 443 only.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::lab::{Lab, PROXY_PORT};
use crate::process::{Process, find_program};
use crate::session::CannotRun;

/// How long it may take until it accepts connections.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A running proxy; dropping it ends it.
pub struct Proxy {
    _process: Process,
}

/// Where tinyproxy is.
///
/// # Errors
/// It is not installed.
pub fn program() -> Result<PathBuf, CannotRun> {
    let missing = || CannotRun::new("tinyproxy is not installed", "install it (Debian: apt install tinyproxy-bin)");
    find_program("tinyproxy").ok_or_else(missing)
}

impl Proxy {
    /// Starts one on a host and waits until it accepts connections. Its configuration goes into `scratch`, its log
    /// beside the others.
    ///
    /// # Errors
    /// It is not installed, ends, or accepts no connection within ten seconds.
    pub async fn start(lab: &Lab, name: &str, scratch: &std::path::Path, log: &std::path::Path) -> Result<Proxy> {
        let file = scratch.join(format!("{name}.conf"));
        let configuration = format!("Port {PROXY_PORT}\nTimeout 600\nMaxClients 100\nLogLevel Info\nConnectPort 443\n");
        std::fs::write(&file, configuration).with_context(|| format!("cannot write {}", file.display()))?;
        let log_file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program()?);
        command.arg("-d").arg("-c").arg(file);
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let device = lab.device(name)?;
        let address = device.ip().with_context(|| format!("host {name:?} has no IPv4 address"))?;
        let mut process = Process::spawn(device, command)?;
        let deadline = Instant::now() + START_PATIENCE;
        while device.spawn(move |_| TcpStream::connect((address, PROXY_PORT)))?.await?.is_err() {
            if let Some(status) = process.exit_status() {
                bail!("tinyproxy ended at once ({status}); see {}", log.display());
            }
            if Instant::now() > deadline {
                bail!("tinyproxy accepts no connection; see {}", log.display());
            }
            sleep(Duration::from_millis(30)).await;
        }
        Ok(Proxy { _process: process })
    }
}
