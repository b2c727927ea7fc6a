//! A lab with everything running in it: the network, the web server, the TURN server, telephony where the topology has
//! it, and what browsers need.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::{AccessFlags, access};

use crate::authority::Authority;
use crate::browser::BrowserTools;
use crate::capture::Capture;
use crate::lab::Lab;
use crate::options::{Options, Tools};
use crate::proxy::Proxy;
use crate::session::Session;
use crate::sip::{SipSite, SipTools};
use crate::topology::{Host, Service, Topology};
use crate::turn::{Relayed, Setup, TurnServer};
use crate::web::WebServer;

/// Dropping it ends everything: servers first, then the network under them.
pub struct RunningLab {
    pub(crate) web: WebServer,
    /// In the order of the topology.
    pub(crate) turn: Vec<(String, TurnServer)>,
    _proxies: Vec<Proxy>,
    pub(crate) sip: Option<SipSite>,
    /// Ended before the network goes.
    _captures: Vec<Capture>,
    pub(crate) browser_tools: BrowserTools,
    pub(crate) lab: Lab,
    /// Where temporary files go, and the certificate store browsers copy.
    pub(crate) scratch: PathBuf,
    pub(crate) trust: PathBuf,
    /// Where logs and results go.
    pub(crate) output: PathBuf,
}

impl RunningLab {
    /// Builds the network and starts the servers. `name` becomes a directory of logs below the output directory and
    /// must be unique among the running labs of the session.
    ///
    /// # Errors
    /// Something could not be built or started; nothing is left running.
    pub async fn start(
        session: &Session,
        tools: &Tools,
        options: &Options,
        topology: &Topology,
        setup: Setup,
        name: &str,
    ) -> Result<RunningLab> {
        let scratch = session.new_directory()?;
        let output = options.output.join(name);
        let made = std::fs::create_dir_all(&output).and_then(|()| Ok(access(&output, AccessFlags::W_OK)?));
        made.with_context(|| format!("cannot write to {}; choose another place with --output", output.display()))?;

        let sip_tools = SipSite::is_in(topology).then(|| SipTools::find(options.jssip.as_deref())).transpose()?;
        let lab = Lab::build(session, topology).await?;
        let authority = Authority::new()?;
        let web = WebServer::start(&lab, &authority, sip_tools.as_ref().map(SipTools::jssip)).await?;
        let trust = scratch.join("trust");
        tools.browser.make_trust(authority.pem(), &trust)?;
        let log = |host: &Host| output.join(format!("{}.log", host.name));
        let mut turn = Vec::new();
        for host in topology.servers(Service::Turn) {
            let scratch = scratch.join(&host.name);
            let log = log(host);
            let server = TurnServer::start(&tools.turn, setup, &lab, host, &authority, &scratch, &log).await?;
            turn.push((host.name.clone(), server));
        }
        let mut proxies = Vec::new();
        for host in topology.servers(Service::Proxy) {
            proxies.push(Proxy::start(&lab, &host.name, &scratch, &log(host)).await?);
        }
        let mut captures = Vec::new();
        if options.capture {
            let hosts = lab.devices().filter(|(name, _)| *name != topology.server(Service::Web).name);
            for (_, device) in hosts {
                captures.push(Capture::start(device, &output).await?);
            }
        }
        let sip = match &sip_tools {
            Some(tools) => Some(SipSite::start(tools, &lab, &authority, &scratch, &output).await?),
            None => None,
        };
        Ok(RunningLab {
            web,
            turn,
            _proxies: proxies,
            sip,
            _captures: captures,
            browser_tools: tools.browser.clone(),
            lab,
            scratch,
            trust,
            output,
        })
    }

    /// The TURN server that a browser's page is offered.
    pub(crate) fn turn_of(&self, browser: &Host) -> Result<&TurnServer> {
        let is_it = |name: &String| browser.turn.as_ref().is_none_or(|wanted| wanted == name);
        let found = self.turn.iter().find(|(name, _)| is_it(name));
        Ok(&found.with_context(|| format!("{:?} has no TURN server", browser.name))?.1)
    }

    /// What all TURN servers have relayed since they started, once no allocation is left (or after five seconds each).
    pub(crate) async fn relayed(&self) -> Result<Relayed> {
        let mut sum = Relayed::default();
        for (_, server) in &self.turn {
            sum += server.relayed().await?;
        }
        Ok(sum)
    }

    /// The same right now, while calls go on.
    pub(crate) async fn relayed_so_far(&self) -> Result<Relayed> {
        let mut sum = Relayed::default();
        for (_, server) in &self.turn {
            sum += server.relayed_so_far().await?;
        }
        Ok(sum)
    }

    /// The network.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where its logs and results are.
    pub fn output(&self) -> &Path {
        &self.output
    }
}
