//! The servers that are compared, each with the configuration that an operator of many small allocations would give it.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::forwarder;
use crate::network::{self, Network, RELAYS, SERVER};
use crate::options::Options;
use crate::rows::{Row, Section};

/// Who may allocate, on every server.
pub const USERNAME: &str = "load";
/// The password that belongs to it.
pub const PASSWORD: &str = "password-of-the-load";
/// UDP and TCP.
pub const PORT: u16 = 3478;
/// TLS.
pub const TLS_PORT: u16 = 5349;
/// /metrics.
pub const ADMIN_PORT: u16 = 9641;
/// Relayed transport addresses: room for the largest rows.
const PORTS: (u16, u16) = (20_000, 65_000);
/// A server that does not answer by then will not.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions to a server that starts.
const ASK_AGAIN: Duration = Duration::from_micros(500);

/// A certificate and its key, in PEM. ECDSA with P-256, for everybody.
pub struct Certificate {
    chain: String,
    key: String,
}

/// The one that all servers show.
pub fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(["turn.example.org".to_owned()]).expect("a valid name");
    Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

/// One of those compared.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// What results call it.
    pub name: &'static str,
    binary: PathBuf,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// With further lines of configuration, and where packets are relayed: `offload.mode`.
    Hairpin(&'static str, &'static str),
    /// Asked for /metrics once a second.
    Scraped,
    Coturn,
    Forwarder,
    KernelForwarder,
}

/// Names of contestants in results.
pub mod names {
    pub const HAIRPIN: &str = "hairpin";
    pub const HAIRPIN_BEFORE: &str = "before";
    pub const COTURN: &str = "coturn";
    pub const FORWARDER: &str = "forwarder";
    pub const WITHOUT_RECORDER: &str = "no-recorder";
    pub const SCRAPED: &str = "scraped";
    pub const WITHOUT_OFFLOAD: &str = "no-offload";
    pub const KERNEL_FORWARDER: &str = "kernel-forwarder";
}

impl Contestant {
    /// Those that can show what a row measures, as far as they are installed.
    pub fn all_for(row: &Row, options: &Options) -> Vec<Contestant> {
        let make = |name, binary: &Path, kind| Contestant { name, binary: binary.to_owned(), kind };
        let offload = if row.section == Section::Kernel { "tc" } else { "off" };
        let mut all = vec![make(names::HAIRPIN, &options.hairpin, Kind::Hairpin(row.configuration, offload))];
        if row.section == Section::Observing {
            all.push(make(names::WITHOUT_RECORDER, &options.hairpin, Kind::Hairpin("[recorder]\nevents = 0\n", "off")));
            all.push(make(names::SCRAPED, &options.hairpin, Kind::Scraped));
            all.retain(|contestant| options.is_wanted(contestant.name));
            return all;
        }
        if row.section == Section::Kernel {
            all.push(make(names::WITHOUT_OFFLOAD, &options.hairpin, Kind::Hairpin("", "off")));
        } else if let Some(before) = &options.before {
            all.push(make(names::HAIRPIN_BEFORE, before, Kind::Hairpin("", "off")));
        }
        if let Some(coturn) = options.coturn.clone().or_else(|| network::find("turnserver")) {
            all.push(make(names::COTURN, &coturn, Kind::Coturn));
        }
        if row.has_limit
            && let Ok(own) = std::env::current_exe()
        {
            match row.section == Section::Kernel {
                true => all.push(make(names::KERNEL_FORWARDER, &own, Kind::KernelForwarder)),
                false => all.push(make(names::FORWARDER, &own, Kind::Forwarder)),
            }
        }
        all.retain(|contestant| options.is_wanted(contestant.name));
        all
    }

    /// This build as it is to run for long, relaying by itself, with /metrics.
    pub fn to_soak(hairpin: &Path) -> Self {
        Self { name: names::HAIRPIN, binary: hairpin.to_owned(), kind: Kind::Scraped }
    }

    /// Whether somebody is to ask it for /metrics meanwhile.
    pub fn is_scraped(&self) -> bool {
        self.kind == Kind::Scraped
    }

    /// Whether the kernel relays for it, faster than `hairpin bench` can send.
    pub fn is_in_kernel(&self) -> bool {
        match self.kind {
            Kind::Hairpin(_, offload) => offload != "off",
            Kind::KernelForwarder => true,
            Kind::Scraped | Kind::Coturn | Kind::Forwarder => false,
        }
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// Why it does not, with the end of its log.
    pub fn start(&self, network: &Network, scratch: &Path, certificate: &Certificate) -> Result<Running, String> {
        let folder = scratch.join(self.name);
        let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(problem)?;
        fs::write(folder.join("chain.pem"), &certificate.chain).map_err(problem)?;
        fs::write(folder.join("key.pem"), &certificate.key).map_err(problem)?;
        let configuration = match self.kind {
            Kind::Hairpin(more, offload) => Some(hairpin_configuration("off", more, offload)),
            Kind::Scraped => Some(hairpin_configuration(&format!("{SERVER}:{ADMIN_PORT}"), "", "off")),
            Kind::Coturn | Kind::Forwarder | Kind::KernelForwarder => None,
        };
        if let Some(text) = configuration {
            fs::write(folder.join("hairpin.toml"), text).map_err(problem)?;
        }
        let log = fs::File::create(folder.join("log")).map_err(problem)?;
        let errors = log.try_clone().map_err(problem)?;
        let (arguments, directory) = (self.arguments(), folder.clone());
        let started = Instant::now();
        let child = network.server.spawn(&self.binary, move |command| {
            command.args(arguments).current_dir(directory).env_remove("HAIRPIN_CONFIG");
            command.stdin(Stdio::null()).stdout(log).stderr(errors);
        })?;
        let mut running = Running { child, first_answer: Duration::ZERO };
        match network.load.run(move || first_answer(started)) {
            Ok(Some(took)) => running.first_answer = took,
            Ok(None) => {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                let end = log.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>();
                return Err(format!("{} does not answer; its log ends:\n{}", self.name, end.join("\n")));
            }
            Err(error) => return Err(format!("cannot ask {}: {error}", self.name)),
        }
        Ok(running)
    }

    fn arguments(&self) -> Vec<String> {
        let words = match self.kind {
            Kind::Hairpin(..) | Kind::Scraped => "serve --config hairpin.toml".to_owned(),
            Kind::Forwarder => format!("{} {SERVER}:{PORT} {RELAYS}", forwarder::COMMAND),
            Kind::KernelForwarder => {
                format!("{} {SERVER}:{PORT} {RELAYS} {}", forwarder::COMMAND, forwarder::IN_KERNEL)
            }
            // One relay thread, since there is one core; nothing written to databases or logs by the packet. Everything
            // else is as Debian has it.
            Kind::Coturn => format!(
                "-n -m 1 --listening-ip={SERVER} --listening-port={PORT} --tls-listening-port={TLS_PORT} \
                 --relay-ip={RELAYS} --min-port={} --max-port={} --lt-cred-mech --realm=bench --user={USERNAME}:{PASSWORD} \
                 --cert=chain.pem --pkey=key.pem --no-cli --no-tlsv1 --no-tlsv1_1 --no-multicast-peers \
                 --userdb=users.db --pidfile=pid --log-file=stdout --simple-log",
                PORTS.0, PORTS.1
            ),
        };
        words.split_whitespace().map(str::to_owned).collect()
    }
}

fn hairpin_configuration(admin: &str, more: &str, offload: &str) -> String {
    format!(
        r#"
threads = 1
[listen]
udp = ["{SERVER}:{PORT}"]
tcp = ["{SERVER}:{PORT}"]
tls = ["{SERVER}:{TLS_PORT}"]
[tls]
certificate = "chain.pem"
key = "key.pem"
[relay]
addresses = ["{RELAYS}"]
ports = "{}-{}"
[auth]
realm = "bench"
[[auth.users]]
name = "{USERNAME}"
password = "{PASSWORD}"
[limits]
allocations = 40000
allocations_per_user = 40000
permissions_per_user = 40000
channels_per_user = 40000
connections = 40000
connections_per_address = 40000
answers_per_prefix = 0
[peers]
allow = ["10.77.0.0/16"]
[admin]
listen = "{admin}"
{more}
[offload]
mode = "{offload}"
"#,
        PORTS.0, PORTS.1
    )
}

/// A server under way; it ends when this is dropped.
pub struct Running {
    child: Child,
    /// From its start to its first answer.
    pub first_answer: Duration,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A server that takes its time to drain is not what is measured.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for Binding until somebody answers; how long after the start that was.
fn first_answer(started: Instant) -> std::io::Result<Option<Duration>> {
    // RFC 8489 §5: type, length, magic cookie, transaction id.
    let mut request = [0; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
    let socket = UdpSocket::bind((network::CLIENTS, 0))?;
    socket.connect(SocketAddr::from((SERVER, PORT)))?;
    socket.set_read_timeout(Some(ASK_AGAIN))?;
    while started.elapsed() < START_PATIENCE {
        // Refused as long as nobody listens, which ICMP says at once.
        let sent = socket.send(&request).is_ok();
        if sent && socket.recv(&mut [0; 1500]).is_ok() {
            return Ok(Some(started.elapsed()));
        }
        std::thread::sleep(ASK_AGAIN / 2);
    }
    Ok(None)
}
