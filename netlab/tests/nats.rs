//! Each NAT of the lab does what its name says, found out by RFC 5780's own tests against Hairpin; and the probe that
//! finds it out is right where nothing is translated. The timeout of `port-restricted-short` is seen to pass.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use netlab::lab::Lab;
use netlab::nat::{Behaviour, Filtering, Mapping, Nat, PortAssignment, probe};
use netlab::options::find_turn_server;
use netlab::topology::{Service, Topology};
use netlab::turn::{PORT, Setup, TurnServer};
use netlab::{Options, Session};

/// Long enough to see a mapping live for two seconds and not for four.
const LIFETIME_LIMIT: Duration = Duration::from_secs(7);

fn main() {
    let arguments = Arguments::from_args();
    let session: &'static Result<_, _> = Box::leak(Box::new(Session::enter()));
    let mut trials: Vec<Trial> = Nat::PRESETS
        .into_iter()
        .chain([Nat::OneToOne])
        .map(|nat| trial(format!("nat_{}_behaves_as_its_name_says", nat.name()), session, nat))
        .collect();
    let unusual = Behaviour {
        mapping: Mapping::AddressDependent,
        filtering: Filtering::EndpointIndependent,
        ports: PortAssignment::Random,
        hairpinning: true,
        udp_timeout_seconds: 60,
        guarded: true,
    };
    trials.push(trial("nat_of_ones_own_behaves_as_its_table_says".to_owned(), session, Nat::Custom(unusual)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Ok(session) = session {
        // The session is leaked, so nothing drops it.
        let _ = std::fs::remove_dir_all(session.directory());
    }
    conclusion.exit()
}

fn trial(name: String, session: &'static Result<Session, netlab::CannotRun>, nat: Nat) -> Trial {
    Trial::test(name, move || {
        let session = match session {
            Ok(session) => session,
            Err(reason) => {
                eprintln!("SKIP: {reason}");
                return Ok(());
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(prove(session, nat)).map_err(|error| format!("{error:#}").into())
    })
}

async fn prove(session: &Session, nat: Nat) -> Result<()> {
    let options = Options::default();
    let hairpin = match find_turn_server(&options) {
        Ok(hairpin) => hairpin,
        Err(missing) => {
            eprintln!("SKIP: {missing}");
            return Ok(());
        }
    };
    // 1:1 NAT is for one host.
    let alone = nat == Nat::OneToOne;
    let (router, client) = if alone { ("coffee-shop", "browser-l") } else { ("home", "browser-m") };
    let topology = Topology::load("internet")?.with_nat(router, nat)?;
    let lab = Lab::build(session, &topology).await?;
    let scratch = session.new_directory()?;
    let log = PathBuf::from(&scratch).join("turn.log");
    let authority = netlab::authority::Authority::new()?;
    let host = topology.server(Service::Turn);
    let _server = TurnServer::start(&hairpin, Setup::Configured, &lab, host, &authority, &scratch, &log).await?;

    let (_, server) = lab.server(Service::Turn)?;
    let server = SocketAddr::from((server, PORT));
    let lifetime = (nat == Nat::PortRestrictedShort).then_some(LIFETIME_LIMIT);
    let (client, neighbour) = (lab.device(client)?, lab.device("browser-t")?);
    let mut found = client.spawn(move |_| probe::discover(server, lifetime))?.await??;
    found.hairpinning = nat != Nat::None && !alone && probe::hairpinning_between([client, neighbour], server).await?;
    // From outside, 1:1 NAT is a full cone that preserves all ports.
    let promised = if alone { Nat::FullCone } else { nat };
    found.holds(promised.behaviour()).with_context(|| format!("{nat}"))?;
    if lifetime.is_some() {
        ensure!(matches!(found.lifetime, Some((_, Some(_)))), "no mapping was seen to end: {found}");
    }
    Ok(())
}
