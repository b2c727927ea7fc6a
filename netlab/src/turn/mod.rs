//! The TURN server under test: Hairpin, or coturn as a control (what fails with both is the lab's fault).
//!
//! [`TurnServer::start`] runs it on the lab's turn node and waits until it answers a STUN Binding;
//! [`TurnServer::relayed`] says what it has counted.

mod coturn;
mod hairpin;
mod probe;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use tokio::time::{Instant, sleep};

use crate::authority::Authority;
use crate::lab::{Lab, host_name};
use crate::options::Offload;
use crate::process::{Process, find_program};
use crate::session::CannotRun;
use crate::topology::Host;

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
    /// Hairpin.
    Hairpin {
        /// Its executable.
        binary: PathBuf,
        /// Whether the kernel may relay.
        offload: Offload,
    },
    /// Debian's `turnserver`, from this executable.
    Coturn(PathBuf),
}

impl TurnServerKind {
    /// Whether it can have the kernel relay on this machine.
    ///
    /// # Errors
    /// What it lacks, and what to do.
    pub fn relays_in_kernel(&self) -> Result<(), CannotRun> {
        match self {
            TurnServerKind::Coturn(_) => {
                return Err(CannotRun::new("coturn does not relay in the kernel", "test Hairpin"));
            }
            TurnServerKind::Hairpin { offload: Offload::Off, .. } => {
                return Err(CannotRun::new("the kernel is not to relay", "leave --offload off away"));
            }
            TurnServerKind::Hairpin { .. } => {}
        }
        // Identity maps of the first user namespace cover all identities.
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if map.split_whitespace().nth(2) != Some("4294967295") {
            return Err(CannotRun::new("only root may load programs into the kernel", "run it with sudo"));
        }
        for (program, why) in [
            ("clang", "hairpin is built without its program for the kernel where clang is not installed"),
            ("ethtool", "ethtool is not installed, which has hosts send whole packets"),
        ] {
            if find_program(program).is_none() {
                return Err(CannotRun::new(why, format!("install it (Debian: apt install {program})")));
            }
        }
        Ok(())
    }
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
    /// Those of both that the kernel has relayed without the process.
    #[serde(default)] // records of older labs have none
    pub packets_in_kernel: u64,
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
            packets_in_kernel: self.packets_in_kernel.saturating_sub(before.packets_in_kernel),
            allocations: self.allocations,
        }
    }

    /// All packets, in both directions.
    pub fn packets(&self) -> u64 {
        self.packets_to_peers + self.packets_to_clients
    }
}

impl std::ops::AddAssign for Relayed {
    fn add_assign(&mut self, other: Relayed) {
        self.bytes_to_peers += other.bytes_to_peers;
        self.packets_to_peers += other.packets_to_peers;
        self.bytes_to_clients += other.bytes_to_clients;
        self.packets_to_clients += other.packets_to_clients;
        self.packets_in_kernel += other.packets_in_kernel;
        self.allocations += other.allocations;
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
    /// As configured, with a certificate that no browser of the lab trusts, and these lines more.
    Explaining(&'static str),
}

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    /// Its own.
    bind: Ipv4Addr,
    /// What others reach it at, which 1:1 NAT makes another one.
    advertise: Ipv4Addr,
    /// A second one of its own, for NAT behaviour discovery.
    other: Option<Ipv4Addr>,
}

/// A running TURN server.
pub struct TurnServer {
    kind: TurnServerKind,
    setup: Setup,
    addresses: Addresses,
    /// Its name for others.
    host: String,
    scratch: PathBuf,
    /// What it printed for pages to use, where that is what they get.
    printed: Option<serde_json::Value>,
    device: Device,
    log: PathBuf,
    /// It can be restarted.
    process: Mutex<Process>,
}

impl TurnServer {
    /// Starts the server on a host; `scratch` takes its configuration, `log` what it prints.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not answer within ten seconds; the message names the log.
    pub async fn start(
        kind: &TurnServerKind,
        setup: Setup,
        lab: &Lab,
        host: &Host,
        authority: &Authority,
        scratch: &Path,
        log: &Path,
    ) -> Result<TurnServer> {
        let device = lab.device(&host.name)?;
        let bind = device.ip().with_context(|| format!("host {:?} has no IPv4 address", host.name))?;
        let addresses = Addresses { bind, advertise: lab.public_address(host)?, other: lab.other_turn_address(host)? };
        let name = host_name(lab.topology(), host).context("a browser is no TURN server")?;
        std::fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        match setup {
            Setup::Explaining(_) => write_certificate(&Authority::new()?, &name, scratch)?,
            _ => write_certificate(authority, &name, scratch)?,
        }
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let command = command(kind, setup, addresses, scratch, log)?;
        let mut server = TurnServer {
            kind: kind.clone(),
            setup,
            addresses,
            host: name,
            scratch: scratch.to_owned(),
            printed: None,
            device: device.clone(),
            log: log.to_owned(),
            process: Mutex::new(Process::spawn(device, command)?),
        };
        server.wait_until_it_answers().await?;
        if setup == Setup::OutOfTheBox {
            server.printed = Some(server.wait_until_it_prints().await?);
        }
        Ok(server)
    }

    /// Kills it, as a crash or a machine that is switched off would, and starts it again: it has forgotten everything.
    ///
    /// # Errors
    /// As [`TurnServer::start`].
    pub async fn restart(&self) -> Result<()> {
        self.process().kill();
        let command = command(&self.kind, self.setup, self.addresses, &self.scratch, &self.log)?;
        *self.process() = Process::spawn(&self.device, command)?;
        self.wait_until_it_answers().await
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("nobody panics while holding the server's process")
    }

    /// The ICE servers a page is offered, as `RTCConfiguration.iceServers`.
    pub fn ice_servers(&self, offer: crate::call::Offer) -> serde_json::Value {
        self.printed.clone().unwrap_or_else(|| ice_servers(&self.host, offer, (USER, PASSWORD)))
    }

    /// The same for a page that authenticates as somebody else: user name and password.
    pub fn ice_servers_for(&self, offer: crate::call::Offer, who: (&str, &str)) -> serde_json::Value {
        ice_servers(&self.host, offer, who)
    }

    /// What `hairpin explain` says about a user, an address or a session; empty if nothing is remembered.
    ///
    /// # Errors
    /// The program cannot be started or does not end.
    pub async fn explain(&self, about: &str) -> Result<String> {
        let TurnServerKind::Hairpin { binary, .. } = &self.kind else { bail!("coturn explains nothing") };
        let answer = self.scratch.join("explained");
        let file = File::create(&answer).with_context(|| format!("cannot write {}", answer.display()))?;
        let mut command = hairpin::explain_command(binary, &self.scratch, about);
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        self.run(command).await?;
        std::fs::read_to_string(&answer).with_context(|| format!("cannot read {}", answer.display()))
    }

    /// Lets the kernel relay, or no longer, while the server goes on: by its configuration, read again.
    ///
    /// # Errors
    /// It is not Hairpin with a configuration, or refuses.
    pub async fn switch_offload(&self, offload: Offload) -> Result<()> {
        let TurnServerKind::Hairpin { binary, .. } = &self.kind else { bail!("coturn relays by itself only") };
        if self.setup == Setup::OutOfTheBox {
            bail!("a server without configuration cannot be told who relays");
        }
        hairpin::configure(self.setup, self.addresses, offload, &self.scratch)?;
        let mut command = hairpin::reload_command(binary, &self.scratch);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = self.run(command).await?;
        if !status.success() {
            bail!("hairpin reload fails ({status}); see {}", self.log.display());
        }
        Ok(())
    }

    /// Runs one of the server's other commands beside it until it ends.
    async fn run(&self, command: Command) -> Result<ExitStatus> {
        let mut process = Process::spawn(&self.device, command)?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = process.exit_status() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("a command of hairpin does not end within {} s", START_PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(10)).await;
        }
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
            let relayed = self.relayed_so_far().await?;
            if relayed.allocations == 0 || Instant::now() > deadline {
                return Ok(relayed);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same right now, while calls go on.
    ///
    /// # Errors
    /// As [`TurnServer::relayed`].
    pub async fn relayed_so_far(&self) -> Result<Relayed> {
        match &self.kind {
            TurnServerKind::Hairpin { .. } => hairpin::relayed(&self.device).await,
            TurnServerKind::Coturn(_) => coturn::relayed(&self.log),
        }
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let target = SocketAddr::from((self.addresses.bind, PORT));
        loop {
            let ended = self.process().exit_status();
            if let Some(status) = ended {
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
        self.process().terminate();
    }
}

fn command(kind: &TurnServerKind, setup: Setup, addresses: Addresses, scratch: &Path, log: &Path) -> Result<Command> {
    let mut command = match (kind, setup) {
        (TurnServerKind::Hairpin { binary, .. }, Setup::OutOfTheBox) => hairpin::bare_command(binary, scratch)?,
        (TurnServerKind::Hairpin { binary, offload }, setup) => {
            hairpin::configure(setup, addresses, *offload, scratch)?;
            hairpin::command(binary, scratch)
        }
        (TurnServerKind::Coturn(binary), Setup::Configured) => coturn::command(binary, addresses, scratch),
        (TurnServerKind::Coturn(_), Setup::OutOfTheBox) => bail!("coturn prints nothing that a page could use"),
        (TurnServerKind::Coturn(_), Setup::Explaining(_)) => bail!("coturn explains nothing"),
    };
    // Appended, since a server that is restarted goes on with its log.
    let opened = OpenOptions::new().append(true).open(log);
    let log_file = opened.with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    Ok(command)
}

/// The certificate for a server's name and its key, where its configuration says.
fn write_certificate(authority: &Authority, name: &str, scratch: &Path) -> Result<()> {
    let certified = authority.certify(name)?;
    for (name, pem) in [(CERTIFICATE, certified.certificate_pem()), (KEY, certified.key_pem())] {
        let file = scratch.join(name);
        // Readable to its owner only, as a key has to be.
        let opened = File::options().create(true).write(true).truncate(true).mode(0o600).open(&file);
        let written = opened.and_then(|mut opened| opened.write_all(pem.as_bytes()));
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn ice_servers(host: &str, offer: crate::call::Offer, (user, password): (&str, &str)) -> serde_json::Value {
    use crate::call::Offer;
    let server = |url: String| serde_json::json!({ "urls": url, "username": user, "credential": password });
    let turn = |transport: &str| server(format!("turn:{host}:{PORT}?transport={transport}"));
    let turns = server(format!("turns:{host}:{TLS_PORT}?transport=tcp"));
    let stun = serde_json::json!({ "urls": format!("stun:{host}:{PORT}") });
    match offer {
        Offer::StunOnly => serde_json::json!([stun]),
        Offer::StunAndTurn => serde_json::json!([stun, turn("udp"), turn("tcp")]),
        Offer::TurnUdp => serde_json::json!([turn("udp")]),
        Offer::TurnTcp => serde_json::json!([turn("tcp")]),
        Offer::TurnTls => serde_json::json!([turns]),
        Offer::Everything => serde_json::json!([stun, turn("udp"), turn("tcp"), turns]),
    }
}
