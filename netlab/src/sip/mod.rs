//! Telephony in the lab: a SIP server with its media proxy, SIP clients, and a gateway to a telephone, all as Debian
//! ships them.
//!
//! ```text
//!   browser ── SIP over WebSocket ──► Kamailio ── SIP over UDP ──► baresip, a SIP client
//!                                        │  └────────────────────► baresip, the gateway ──► baresip, a telephone
//!                                        │ what media to expect (ng)
//!   browser ◄─── DTLS-SRTP ────────► rtpengine ◄── RTP ──────────► whoever was called
//! ```
//!
//! [`SipSite::start`] runs them on the nodes of a topology that has them; [`call`] makes a call, [`expect`] says what a
//! good one is, [`scenario`] has the suite's. Each part is told its addresses and keeps its files in the lab's scratch
//! directory; none reads what a Debian package has put into `/etc`.

mod accounts;
mod baresip;
pub mod call;
pub mod expect;
mod kamailio;
mod rtpengine;
pub mod scenario;
mod sound;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::CannotRun;
use crate::authority::Authority;
use crate::lab::Lab;
use crate::process::find_program;
use crate::topology::{Role, Service, Topology};
use baresip::Baresip;
use kamailio::Kamailio;
use rtpengine::Rtpengine;

/// The host name of the SIP server, and the domain of its accounts.
pub const SIP_HOST: &str = "sip.lab";

/// The password of every account.
pub const PASSWORD: &str = "sip-password";

/// The programs telephony needs.
#[derive(Clone, Debug)]
pub struct SipTools {
    kamailio: PathBuf,
    /// util-linux's `unshare`.
    unshare: PathBuf,
    rtpengine: PathBuf,
    baresip: PathBuf,
    /// JsSIP, bundled into one file, for the page.
    jssip: PathBuf,
}

impl SipTools {
    /// Looks for everything.
    ///
    /// # Errors
    /// The first thing that is missing, and where to get it.
    pub fn find(jssip: Option<&Path>) -> Result<SipTools, CannotRun> {
        let program = |name: &str, package: &str| {
            find_program(name).ok_or_else(|| {
                CannotRun::new(
                    format!("{name} is not installed"),
                    format!("install it (Debian: apt install {package})"),
                )
            })
        };
        let tools = SipTools {
            kamailio: program("kamailio", "kamailio")?,
            unshare: program("unshare", "util-linux")?,
            rtpengine: program("rtpengine", "rtpengine-daemon")?,
            baresip: program("baresip", "baresip-core")?,
            jssip: jssip.map(Path::to_owned).or_else(installed_jssip).ok_or_else(|| {
                CannotRun::new("JsSIP is not installed", "run .ci/install (it needs npm), or name it with --jssip")
            })?,
        };
        kamailio::find_modules()?;
        baresip::find_modules()?;
        Ok(tools)
    }

    /// Where JsSIP is.
    pub fn jssip(&self) -> &Path {
        &self.jssip
    }
}

/// Where `.ci/install` puts it: in the build directory that our own executable is in, or in the one here.
fn installed_jssip() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let above = own.ancestors().skip(1).take(3).map(|directory| directory.join("jssip/jssip.js"));
    let here = std::iter::once(PathBuf::from("target/jssip/jssip.js"));
    above.chain(here).find(|candidate| candidate.is_file())?.canonicalize().ok()
}

/// Running telephony. Dropping it ends it.
pub struct SipSite {
    /// Kept running, not spoken to.
    _kamailio: Kamailio,
    rtpengine: Rtpengine,
    /// By node: clients, telephones and the gateway.
    phones: Vec<(String, Baresip)>,
}

impl SipSite {
    /// Starts whatever the topology has, media proxy first, and waits until every client is registered.
    ///
    /// # Errors
    /// Something does not start within ten seconds; the message names its log.
    pub async fn start(
        tools: &SipTools,
        lab: &Lab,
        authority: &Authority,
        scratch: &Path,
        output: &Path,
    ) -> Result<SipSite> {
        let topology = lab.topology();
        let rtpengine = Rtpengine::start(tools, lab, output).await?;
        let kamailio = Kamailio::start(tools, lab, authority, scratch, output).await?;
        let mut phones = Vec::new();
        for host in &topology.hosts {
            let account = match host.role {
                Role::SipClient => accounts::sip_client(lab, &host.name)?,
                Role::Telephone => accounts::telephone(host),
                Role::Server(Service::Gateway) => accounts::gateway(lab)?,
                _ => continue,
            };
            phones.push((host.name.clone(), Baresip::start(tools, lab, &host.name, &account, scratch, output)?));
        }
        for (_, phone) in &mut phones {
            phone.wait_until_ready().await?;
        }
        Ok(SipSite { _kamailio: kamailio, rtpengine, phones })
    }

    /// Whether a topology has telephony.
    pub fn is_in(topology: &Topology) -> bool {
        topology.find_server(Service::Sip).is_some()
    }

    fn phone(&self, name: &str) -> Result<&Baresip> {
        let phone = self.phones.iter().find(|(node, _)| node == name);
        phone.map(|(_, phone)| phone).with_context(|| format!("{name:?} is not a phone of this lab"))
    }
}

/// The address of a node that runs a part of telephony.
fn address_of(lab: &Lab, service: Service) -> Result<Ipv4Addr> {
    let host = lab.topology().find_server(service).with_context(|| format!("no node runs {service:?}"))?;
    address_of_host(lab, &host.name)
}

fn address_of_host(lab: &Lab, name: &str) -> Result<Ipv4Addr> {
    lab.device(name)?.ip().with_context(|| format!("host {name:?} has no IPv4 address"))
}

/// A command whose output goes to `log`.
fn logged_command(program: &Path, log: &Path) -> Result<Command> {
    let log_file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    Ok(command)
}
