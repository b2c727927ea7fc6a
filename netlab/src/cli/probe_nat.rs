//! `netlab probe-nat NODE`

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use netlab::lab::Lab;
use netlab::nat::{Nat, probe};
use netlab::options::find_turn_server;
use netlab::topology::{Service, Topology};
use netlab::turn::{PORT, Setup, TurnServer};
use netlab::{Options, Session, say};

#[derive(Args)]
pub struct ProbeArguments {
    /// A browser's host; what is found is the NATs in front of it
    node: String,
    /// The topology to build
    #[arg(long, default_value = "internet")]
    topology: String,
    /// Give the router that the host is behind this NAT
    #[arg(long, value_name = "PRESET")]
    nat: Option<String>,
    /// See how long a mapping lives, for at most so many seconds in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    lifetime: Option<u64>,
}

/// Builds a lab and says, in the words of RFC 4787, what the NATs in front of a host do (RFC 5780).
pub fn probe_nat(arguments: &ProbeArguments, options: &Options) -> Result<ExitCode> {
    let mut topology = Topology::load(&arguments.topology)?;
    let behind = topology.browser(&arguments.node)?.behind.clone();
    if let Some(name) = &arguments.nat {
        let nat = Nat::preset(name).map_err(anyhow::Error::msg)?;
        topology = topology.with_nat(&behind, nat)?;
    }
    if options.turn_server != netlab::options::TurnServerChoice::Hairpin {
        bail!("the lab gives two addresses (RFC 5780) to Hairpin only; leave out --turn-server");
    }
    let session = Session::enter()?;
    super::clean_up_when_interrupted(&session)?;
    let server = find_turn_server(options)?;
    super::runtime()?.block_on(async {
        let lab = Lab::build(&session, &topology).await?;
        let scratch = session.new_directory()?;
        let authority = netlab::authority::Authority::new()?;
        let log = scratch.join("turn.log");
        let host = topology.server(Service::Turn);
        let _server = TurnServer::start(&server, Setup::Configured, &lab, host, &authority, &scratch, &log).await?;
        let (_, address) = lab.server(Service::Turn)?;
        let target = SocketAddr::from((address, PORT));
        let lifetime = arguments.lifetime.map(Duration::from_secs);
        let client = lab.device(&arguments.node)?;
        let mut found = client.spawn(move |_| probe::discover(target, lifetime))?.await??;
        let neighbour = topology.hosts.iter().find(|host| host.behind == behind && host.name != arguments.node);
        if let Some(neighbour) = neighbour.filter(|_| found.mapping.is_some()) {
            found.hairpinning |= probe::hairpinning_between([client, lab.device(&neighbour.name)?], target).await?;
        }
        say!("{found}");
        Ok(ExitCode::SUCCESS)
    })
}
