//! The TURN server under test: Hairpin, or coturn as a control (what fails with both is the lab's fault).
//!
//! [`TurnServer::start`] runs it on the lab's turn node and waits until it answers a STUN Binding;
//! [`TurnServer::relayed`] says what it has counted.

mod coturn;
mod hairpin;
mod probe;

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use tokio::time::{Instant, sleep};

use crate::authority::Authority;
use crate::lab::{Lab, TURN_HOST};
use crate::process::Process;
use crate::topology::Service;

/// The user every page authenticates as.
pub const USER: &str = "lab";
/// That user's password.
pub const PASSWORD: &str = "lab-password";
/// The port, for UDP and TCP.
pub const PORT: u16 = 3478;
/// The port for TLS: the one that gets through firewalls which let nothing but the Web out.
pub const TLS_PORT: u16 = 443;

/// The server's certificate and key, in its scratch directory.
const CERTIFICATE: &str = "turn.pem";
const KEY: &str = "turn.key";

/// How long a server may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How long after the last call the server's counters may take to be final: allocations end by a Refresh with lifetime
/// zero, sent when the pages close.
const COUNTERS_PATIENCE: Duration = Duration::from_secs(5);

/// Which TURN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnServerKind {
    /// Hairpin, from this executable.
    Hairpin(PathBuf),
    /// Debian's `turnserver`, from this executable.
    Coturn(PathBuf),
}

/// What a server has relayed: payload, without TURN's own framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Relayed {
    /// Bytes sent on to peers.
    pub bytes_to_peers: u64,
    /// Packets sent on to peers.
    pub packets_to_peers: u64,
    /// Bytes from peers passed to clients.
    pub bytes_to_clients: u64,
    /// Packets from peers passed to clients.
    pub packets_to_clients: u64,
    /// Allocations that exist right now.
    pub allocations: u64,
}

impl Relayed {
    /// What has been added since `before`.
    pub fn since(&self, before: &Relayed) -> Relayed {
        Relayed {
            bytes_to_peers: self.bytes_to_peers.saturating_sub(before.bytes_to_peers),
            packets_to_peers: self.packets_to_peers.saturating_sub(before.packets_to_peers),
            bytes_to_clients: self.bytes_to_clients.saturating_sub(before.bytes_to_clients),
            packets_to_clients: self.packets_to_clients.saturating_sub(before.packets_to_clients),
            allocations: self.allocations,
        }
    }
}

/// How the server under test is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setup {
    /// With the lab's configuration: a user, an address, the lab's prefixes allowed.
    #[default]
    Configured,
    /// As somebody would try it first: without any configuration, in an empty directory. Pages are offered what it
    /// prints for them.
    OutOfTheBox,
}

/// A running TURN server.
pub struct TurnServer {
    kind: TurnServerKind,
    /// What it printed for pages to use, where that is what they get.
    printed: Option<serde_json::Value>,
    device: Device,
    log: PathBuf,
    process: Process,
}

impl TurnServer {
    /// Starts the server on the lab's turn node; `scratch` takes its configuration, `log` what it prints.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not answer within ten seconds; the message names the log.
    pub async fn start(
        kind: &TurnServerKind,
        setup: Setup,
        lab: &Lab,
        authority: &Authority,
        scratch: &Path,
        log: &Path,
    ) -> Result<TurnServer> {
        let (device, address) = lab.server(Service::Turn)?;
        write_certificate(authority, scratch)?;
        let command = match (kind, setup) {
            (TurnServerKind::Hairpin(binary), Setup::Configured) => {
                hairpin::command(binary, [address, lab.other_turn_address()?], scratch, log)?
            }
            (TurnServerKind::Hairpin(binary), Setup::OutOfTheBox) => hairpin::bare_command(binary, scratch, log)?,
            (TurnServerKind::Coturn(binary), Setup::Configured) => coturn::command(binary, address, scratch, log)?,
            (TurnServerKind::Coturn(_), Setup::OutOfTheBox) => bail!("coturn prints nothing that a page could use"),
        };
        let process = Process::spawn(device, command)?;
        let (device, log) = (device.clone(), log.to_owned());
        let mut server = TurnServer { kind: kind.clone(), printed: None, device, log, process };
        server.wait_until_it_answers(address).await?;
        if setup == Setup::OutOfTheBox {
            server.printed = Some(server.wait_until_it_prints().await?);
        }
        Ok(server)
    }

    /// The ICE servers a page is offered, as `RTCConfiguration.iceServers`.
    pub fn ice_servers(&self, offer: crate::call::Offer) -> serde_json::Value {
        self.printed.clone().unwrap_or_else(|| ice_servers(offer))
    }

    async fn wait_until_it_prints(&self) -> Result<serde_json::Value> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(printed) = hairpin::printed_for_others(&text) {
                return Ok(printed);
            }
            if Instant::now() > deadline {
                bail!("the TURN server prints no iceServers for browsers elsewhere; see {}", self.log.display());
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// What the server has relayed since it started, once no allocation is left (or after five seconds).
    ///
    /// # Errors
    /// The counters cannot be read.
    pub async fn relayed(&self) -> Result<Relayed> {
        let deadline = Instant::now() + COUNTERS_PATIENCE;
        loop {
            let relayed = match &self.kind {
                TurnServerKind::Hairpin(_) => hairpin::relayed(&self.device).await?,
                TurnServerKind::Coturn(_) => coturn::relayed(&self.log)?,
            };
            if relayed.allocations == 0 || Instant::now() > deadline {
                return Ok(relayed);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    async fn wait_until_it_answers(&mut self, address: Ipv4Addr) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let target = SocketAddr::from((address, PORT));
        loop {
            if let Some(status) = self.process.exit_status() {
                bail!("the TURN server ended at once ({status}); see {}", self.log.display());
            }
            if self.device.spawn(move |_| probe::answers_binding(target))?.await? {
                return Ok(());
            }
            if Instant::now() > deadline {
                let patience = START_PATIENCE.as_secs();
                bail!(
                    "the TURN server at {target} answers no STUN Binding after {patience} s; see {}",
                    self.log.display()
                );
            }
            sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        // Politely, so that what it has to say at its end is in the log.
        self.process.terminate();
    }
}

/// The certificate for [`TURN_HOST`] and its key, where the server's configuration says.
fn write_certificate(authority: &Authority, scratch: &Path) -> Result<()> {
    let certified = authority.certify(TURN_HOST)?;
    for (name, pem) in [(CERTIFICATE, certified.certificate_pem()), (KEY, certified.key_pem())] {
        let file = scratch.join(name);
        // Readable to its owner only, as a key has to be.
        let opened = File::options().create(true).write(true).truncate(true).mode(0o600).open(&file);
        let written = opened.and_then(|mut opened| opened.write_all(pem.as_bytes()));
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn ice_servers(offer: crate::call::Offer) -> serde_json::Value {
    use crate::call::Offer;
    let server = |url: String| serde_json::json!({ "urls": url, "username": USER, "credential": PASSWORD });
    let turn = |transport: &str| server(format!("turn:{TURN_HOST}:{PORT}?transport={transport}"));
    let turns = server(format!("turns:{TURN_HOST}:{TLS_PORT}?transport=tcp"));
    let stun = serde_json::json!({ "urls": format!("stun:{TURN_HOST}:{PORT}") });
    match offer {
        Offer::StunOnly => serde_json::json!([stun]),
        Offer::StunAndTurn => serde_json::json!([stun, turn("udp"), turn("tcp")]),
        Offer::TurnUdp => serde_json::json!([turn("udp")]),
        Offer::TurnTcp => serde_json::json!([turn("tcp")]),
        Offer::TurnTls => serde_json::json!([turns]),
        Offer::Everything => serde_json::json!([stun, turn("udp"), turn("tcp"), turns]),
    }
}
