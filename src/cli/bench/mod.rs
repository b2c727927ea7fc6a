//! `hairpin bench`: how much a TURN server carries, how late, and at what cost.

mod arguments;
mod report;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;

pub(super) use self::arguments::{Arguments, with_mode};
use self::arguments::{Common, Idle, MixName, Mode, Relay, SetUp, Way};
use self::report::{Report, Search, Trial};
use super::certificates::{believing, believing_anybody};
use super::uri::{Uri, UriTransport};
use super::{Outcome, print};
use crate::bench::{
    self, BenchError, Direction, Framing, Meter, Mix, Pace, Progress, RelayLoad, RequestLoad, Shape, Target, Transport,
    TrialRule,
};

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let (report, json) = match &arguments.mode {
        Mode::Relay(relay) => (relay_report(relay)?, relay.common.json),
        Mode::Setup(load) => (request_report(load, bench::Requests::Setup)?, load.common.json),
        Mode::Allocate(load) => (request_report(load, bench::Requests::Allocate)?, load.common.json),
        Mode::Binding(load) => (request_report(load, bench::Requests::Binding)?, load.common.json),
        Mode::Idle(idle) => (idle_report(idle)?, idle.common.json),
    };
    if json {
        print(serde_json::to_string_pretty(&report).expect("plain data is always JSON"))
    } else {
        print(report.lines())
    }
}

fn relay_report(relay: &Relay) -> Result<Report, String> {
    let common = &relay.common;
    let target = target(common, &relay.uri, true)?;
    let load = RelayLoad {
        shape: match relay.mix {
            None => Shape::even(relay.payload, relay.burst.into()),
            Some(MixName::Opus) => Mix::Opus.shape(),
            Some(MixName::Video) => Mix::Video.shape(),
            Some(MixName::Screen) => Mix::Screen.shape(),
        },
        direction: match relay.direction {
            Way::ToPeer => Direction::ToPeer,
            Way::ToClient => Direction::ToClient,
            Way::Both => Direction::Both,
        },
        framing: if relay.indications { Framing::Indication } else { Framing::Channel },
        relay_to_relay: relay.relay_to_relay,
        ..idle_load(&relay.set_up, common)
    };
    let natural = load.shape.packets_per_second().map(|rate| rate * load.flows() as f64);
    let rate = relay.rate.or(natural.filter(|_| relay.window.is_none()));
    let pace = rate.map_or(Pace::Window(relay.window.unwrap_or(WINDOW) as usize), Pace::Rate);
    let rule = TrialRule {
        pace,
        warm_up: Duration::from_secs_f64(common.warm_up),
        duration: Duration::from_secs_f64(common.seconds),
    };
    let mut tell = progress(common);
    let outcome = bench::relay(&target, &load, meter(common), &mut tell, |session| {
        let resident = session.resident();
        if !relay.search {
            return Ok((session.trial(&rule)?, None, resident));
        }
        let (result, search) = search(relay, session, &rule)?;
        Ok((result, Some(search), resident))
    });
    let (result, search, resident) = outcome.map_err(|error| error.to_string())?;
    let asked = match &search {
        Some(search) => search.rate_per_second,
        None => rate,
    };
    let mut report = Report::of_relay(&result, asked);
    report.transport = target.transport.label();
    report.allocations = Some(load.allocations);
    report.threads = load.threads;
    report.search = search;
    report.add_memory(resident, load.allocations);
    Ok(report)
}

/// Packets under way where no pace is asked for.
const WINDOW: u32 = 192;

fn search(
    relay: &Relay,
    session: &mut bench::Session<'_>,
    rule: &TrialRule,
) -> Result<(bench::RelayResult, Search), BenchError> {
    let note = |text: String| {
        if !relay.common.quiet {
            eprintln!("{text}");
        }
    };
    // What goes through with a fixed number of packets under way is near what goes through without loss.
    let mut last = session.trial(&TrialRule { pace: Pace::Window(WINDOW as usize), ..*rule })?;
    note(format!("{WINDOW} under way: {:.0}/s delivered; the search begins there", last.rate()));
    let rule_of_search = bench::Search {
        first: last.rate(),
        rate_max: relay.rate_max,
        loss_max: relay.loss_max,
        resolution: relay.resolution,
        confirmations: relay.confirm,
    };
    let mut trials = Vec::new();
    let found = bench::search(&rule_of_search, |rate| {
        let result = session.trial(&TrialRule { pace: Pace::Rate(rate), ..*rule })?;
        let seconds = result.elapsed.as_secs_f64();
        // A pace that was not held has not been tried.
        let passed = result.loss() <= relay.loss_max && result.own.not_offered == 0 && result.corrupted == 0;
        let trial = Trial {
            rate_per_second: rate,
            offered_per_second: result.offered as f64 / seconds,
            delivered_per_second: result.rate(),
            lost: result.lost(),
            loss: result.loss(),
            passed,
            generator_was_limit: result.own.limit().is_some(),
        };
        note(format!(
            "{:>9.0}/s: {:.4} % lost{}{}",
            rate,
            trial.loss * 100.0,
            if passed { ", passed" } else { "" },
            if trial.generator_was_limit { " (the generator was at its limit)" } else { "" },
        ));
        trials.push(trial);
        last = result.clone();
        Ok((passed, result))
    })?;
    let (rate, result) = found.unzip();
    let search = Search { loss_max: relay.loss_max, found: rate.is_some(), rate_per_second: rate, trials };
    Ok((result.unwrap_or(last), search))
}

fn request_report(requests: &arguments::Requests, kind: bench::Requests) -> Result<Report, String> {
    let common = &requests.common;
    let load = RequestLoad {
        clients: requests.clients as usize,
        threads: common.threads.into(),
        warm_up: Duration::from_secs_f64(common.warm_up),
        duration: Duration::from_secs_f64(common.seconds),
    };
    let target = target(common, &requests.uri, kind != bench::Requests::Binding)?;
    let result = bench::requests(&target, kind, &load, meter(common), &mut progress(common));
    let result = result.map_err(|error| error.to_string())?;
    let mut report = Report::of_requests(kind, &result);
    report.transport = target.transport.label();
    report.clients = Some(load.clients);
    report.threads = load.threads;
    Ok(report)
}

fn idle_load(set_up: &SetUp, common: &Common) -> RelayLoad {
    RelayLoad {
        allocations: set_up.allocations as usize,
        shape: Shape::even(160, 1),
        direction: Direction::Both,
        framing: Framing::Channel,
        relay_to_relay: false,
        threads: common.threads.into(),
        at_once: set_up.at_once as usize,
    }
}

fn idle_report(idle: &Idle) -> Result<Report, String> {
    let common = &idle.common;
    let target = target(common, &idle.uri, true)?;
    let load = idle_load(&idle.set_up, common);
    let outcome = bench::relay(&target, &load, meter(common), &mut progress(common), |session| {
        let resident = session.resident();
        Ok((resident, session.rest(Duration::from_secs_f64(common.seconds))?, session.keep()?))
    });
    let (resident, rest, keep) = outcome.map_err(|error| error.to_string())?;
    let mut report = Report::of_idle(load.allocations, &rest, &keep);
    report.transport = target.transport.label();
    report.allocations = Some(load.allocations);
    report.threads = load.threads;
    report.add_memory(resident, load.allocations);
    Ok(report)
}

fn target(common: &Common, uri: &Uri, needs_credentials: bool) -> Result<Target, String> {
    let transport = transport(common, uri)?;
    let port = uri.port.unwrap_or(Uri::default_port(uri.is_secure));
    let server = (uri.host.to_string().as_str(), port)
        .to_socket_addrs()
        .map_err(|error| format!("{}: {error}", uri.host))?
        .next()
        .ok_or_else(|| format!("{} has no address", uri.host))?;
    if needs_credentials && (common.user.is_none() || common.password.is_none()) {
        return Err("this load needs credentials: add --user NAME --password PASSWORD".into());
    }
    let mut client_addresses = common.client_address.clone();
    if client_addresses.is_empty() {
        let local = local_address_towards(server).map_err(|error| format!("there is no way to {server}: {error}"))?;
        client_addresses.push(local);
    }
    if let Some(other) = client_addresses.iter().find(|address| address.is_ipv4() != server.is_ipv4()) {
        return Err(format!("--client-address {other} and the server {server} are not of the same family"));
    }
    Ok(Target {
        server,
        transport,
        username: common.user.clone().unwrap_or_default(),
        password: common.password.clone().unwrap_or_default(),
        peer_address: common.peer_address.unwrap_or(client_addresses[0]),
        client_addresses,
    })
}

fn transport(common: &Common, uri: &Uri) -> Result<Transport, String> {
    match (uri.is_secure, uri.transport) {
        (false, None | Some(UriTransport::Udp)) => Ok(Transport::Udp),
        (false, Some(UriTransport::Tcp)) => Ok(Transport::Tcp),
        (true, Some(UriTransport::Udp)) => {
            Err("TLS over UDP is DTLS, which this command does not speak; write ?transport=tcp, or nothing".into())
        }
        (true, _) => {
            let host = uri.host.to_string();
            let name = ServerName::try_from(host.clone()).map_err(|_| format!("no certificate can be for `{host}`"))?;
            let mut config = if common.insecure { believing_anybody() } else { believing(common.ca.as_deref())? };
            // Clients of a load are strangers to each other: every handshake is a whole one.
            config.resumption = Resumption::disabled();
            Ok(Transport::Tls { config: Arc::new(config), name })
        }
    }
}

/// Connecting a UDP socket sends nothing, but chooses the local address.
fn local_address_towards(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

fn meter(common: &Common) -> Option<Meter> {
    common.server_pid.map(|pid| Meter { pid, cpu: common.server_cpu })
}

/// Tells how things go while they do.
fn progress(common: &Common) -> impl FnMut(Progress) + use<> {
    let quiet = common.quiet;
    move |now| {
        if quiet {
            return;
        }
        let Progress { offered_per_second, done_per_second } = now;
        if offered_per_second > 0.0 {
            eprintln!("… {offered_per_second:.0}/s sent, {done_per_second:.0}/s arrived");
        } else {
            eprintln!("… {done_per_second:.0}/s");
        }
    }
}
