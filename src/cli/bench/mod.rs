//! `hairpin bench`: how much a TURN server carries, how late, and at what cost.

mod report;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use self::report::{Generator, Percentiles, Report, Server};
use super::uri::{Uri, UriTransport};
use super::{Outcome, print};
use crate::bench::{self, Cost, Direction, Framing, Latency, Meter, Pace, RelayLoad, RequestLoad, Target};

/// Put load on a TURN server, any server, and measure what arrives, how late, and what it costs the server.
///
/// Only for servers of your own: it sends as much as it is told to.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Relay application data through allocations with a channel each
    Relay(Relay),
    /// Allocate, permit, bind a channel and delete, with credentials, over and over
    Allocate(Requests),
    /// Ask for Binding, over and over
    Binding(Requests),
}

#[derive(Debug, Args)]
struct Common {
    /// The server, like turn:192.0.2.1:3478
    uri: Uri,
    /// User name
    #[arg(long)]
    user: Option<String>,
    /// Password
    #[arg(long, env = "HAIRPIN_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Local address of the clients [default: the one from which packets to the server leave]
    #[arg(long, value_name = "ADDRESS")]
    client_address: Option<IpAddr>,
    /// Local address of the peers [default: that of the clients]
    #[arg(long, value_name = "ADDRESS")]
    peer_address: Option<IpAddr>,
    /// Process of the server, if it runs on this machine: its time and memory are reported
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Core the server is pinned to: its whole time is reported, with what the kernel spends there on packets
    #[arg(long, value_name = "CORE", requires = "server_pid")]
    server_cpu: Option<usize>,
    /// Seconds measured
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds before that are not
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    warm_up: f64,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Relay {
    #[command(flatten)]
    common: Common,
    /// Allocations, each with a client and a peer flow of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    allocations: u32,
    /// Bytes of application data in each packet
    #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(20..=65_000))]
    payload: u32,
    /// Which way packets go
    #[arg(long, value_enum, default_value_t = Way::Both)]
    direction: Way,
    /// Send and Data indications instead of ChannelData
    #[arg(long)]
    indications: bool,
    /// Packets of one flow in a row
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    burst: u32,
    /// Packets a second, however they fare
    #[arg(long, value_name = "PACKETS", conflicts_with = "window")]
    rate: Option<f64>,
    /// Packets under way at any time: as fast as the server can
    #[arg(long, value_name = "PACKETS", default_value_t = 192)]
    window: usize,
}

#[derive(Debug, Args)]
struct Requests {
    #[command(flatten)]
    common: Common,
    /// Clients, each with one request under way
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    /// Client to peer
    ToPeer,
    /// Peer to client
    ToClient,
    /// Both at the same time
    Both,
}

/// Above this the generator is what limits.
const GENERATOR_BUSY_MAX: f64 = 0.9;

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let (report, json) = match &arguments.mode {
        Mode::Relay(relay) => (relay_report(relay)?, relay.common.json),
        Mode::Allocate(requests) => (request_report(requests, "allocate, permit, bind, delete")?, requests.common.json),
        Mode::Binding(requests) => (request_report(requests, "Binding")?, requests.common.json),
    };
    if json {
        print(serde_json::to_string_pretty(&report).expect("plain data is always JSON"))
    } else {
        print(lines(&report))
    }
}

fn relay_report(relay: &Relay) -> Result<Report, String> {
    let common = &relay.common;
    let load = RelayLoad {
        allocations: relay.allocations as usize,
        payload: relay.payload as usize,
        direction: match relay.direction {
            Way::ToPeer => Direction::ToPeer,
            Way::ToClient => Direction::ToClient,
            Way::Both => Direction::Both,
        },
        framing: if relay.indications { Framing::Indication } else { Framing::Channel },
        pace: relay.rate.map_or(Pace::Window(relay.window), Pace::Rate),
        burst: relay.burst as usize,
        warm_up: Duration::from_secs_f64(common.warm_up),
        duration: Duration::from_secs_f64(common.seconds),
    };
    let result = bench::relay(&target(common, true)?, &load, meter(common)).map_err(|error| error.to_string())?;
    let was_limit = result.generator_busy > GENERATOR_BUSY_MAX;
    Ok(Report {
        mode: "relay",
        transport: "udp",
        unit: "packet",
        allocations: Some(load.allocations),
        clients: None,
        threads: 1,
        seconds: result.elapsed.as_secs_f64(),
        asked_per_second: relay.rate,
        offered: Some(result.offered),
        offered_per_second: Some(result.offered as f64 / result.elapsed.as_secs_f64()),
        done: result.delivered,
        per_second: result.rate(),
        lost: result.lost(),
        loss: Some(result.lost() as f64 / result.offered.max(1) as f64),
        reordered: Some(result.reordered),
        duplicated: None,
        corrupted: Some(result.corrupted),
        latency_micros: Some(percentiles(&result.latency)),
        server: result.cost.map(|cost| server(&cost, result.delivered, result.elapsed)),
        generator: Some(Generator {
            busy: result.generator_busy,
            cpu: result.generator_busy,
            socket_drops: 0,
            unsent: 0,
            was_limit,
            why: was_limit.then(|| "it never waited".to_owned()),
        }),
        search: None,
        idle: None,
    })
}

fn request_report(requests: &Requests, unit: &'static str) -> Result<Report, String> {
    let common = &requests.common;
    let load = RequestLoad {
        clients: requests.clients as usize,
        warm_up: Duration::from_secs_f64(common.warm_up),
        duration: Duration::from_secs_f64(common.seconds),
    };
    let is_binding = unit == "Binding";
    let target = target(common, !is_binding)?;
    let run = if is_binding { bench::binding } else { bench::allocate };
    let result = run(&target, &load, meter(common)).map_err(|error| error.to_string())?;
    Ok(Report {
        mode: if is_binding { "binding" } else { "allocate" },
        transport: "udp",
        unit,
        allocations: None,
        clients: Some(load.clients),
        threads: 1,
        seconds: result.elapsed.as_secs_f64(),
        asked_per_second: None,
        offered: None,
        offered_per_second: None,
        done: result.units,
        per_second: result.rate(),
        lost: result.lost,
        loss: None,
        reordered: None,
        duplicated: None,
        corrupted: None,
        latency_micros: Some(percentiles(&result.latency)),
        server: result.cost.map(|cost| server(&cost, result.units, result.elapsed)),
        generator: None,
        search: None,
        idle: None,
    })
}

fn target(common: &Common, needs_credentials: bool) -> Result<Target, String> {
    let uri = &common.uri;
    if uri.is_secure || uri.transport == Some(UriTransport::Tcp) {
        return Err("loads go over UDP; write the URI without ?transport=tcp and not as turns:".into());
    }
    let port = uri.port.unwrap_or(Uri::default_port(false));
    let server = (uri.host.to_string().as_str(), port)
        .to_socket_addrs()
        .map_err(|error| format!("{}: {error}", uri.host))?
        .next()
        .ok_or_else(|| format!("{} has no address", uri.host))?;
    if needs_credentials && (common.user.is_none() || common.password.is_none()) {
        return Err("this load needs credentials: add --user NAME --password PASSWORD".into());
    }
    let client_address = match common.client_address {
        Some(address) => address,
        None => local_address_towards(server).map_err(|error| format!("there is no way to {server}: {error}"))?,
    };
    Ok(Target {
        server,
        username: common.user.clone().unwrap_or_default(),
        password: common.password.clone().unwrap_or_default(),
        client_address,
        peer_address: common.peer_address.unwrap_or(client_address),
    })
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

fn percentiles(latency: &Latency) -> Percentiles {
    let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
    Percentiles {
        p50: micros(latency.at(0.5)),
        p99: micros(latency.at(0.99)),
        p99_9: micros(latency.at(0.999)),
        max: micros(latency.max()),
    }
}

fn server(cost: &Cost, units: u64, elapsed: Duration) -> Server {
    let per_unit = |time: Duration| time.as_nanos() as f64 / 1000.0 / units.max(1) as f64;
    let core = cost.core.filter(|core| !core.is_zero());
    Server {
        process_micros_per_unit: per_unit(cost.process),
        core_micros_per_unit: cost.core.map(per_unit),
        softirq_share: core.zip(cost.softirq).map(|(core, softirq)| softirq.as_secs_f64() / core.as_secs_f64()),
        busy: cost.total().as_secs_f64() / elapsed.as_secs_f64(),
        resident_bytes: cost.resident,
        resident_bytes_before: None,
        resident_bytes_per_allocation: None,
    }
}

fn lines(report: &Report) -> String {
    let mut lines = vec![format!(
        "{:<11}{:.0}/s ({} in {:.1} s), {} lost",
        format!("{}:", if report.unit == "packet" { "packets" } else { "units" }),
        report.per_second,
        report.done,
        report.seconds,
        report.lost
    )];
    if let (Some(offered), Some(reordered), Some(corrupted)) = (report.offered, report.reordered, report.corrupted) {
        lines.push(format!("           {offered} offered, {reordered} reordered, {corrupted} corrupted"));
    }
    if let Some(Percentiles { p50, p99, p99_9, max }) = report.latency_micros {
        lines.push(format!("latency:   {p50:.0} µs median, {p99:.0} µs p99, {p99_9:.0} µs p99.9, {max:.0} µs at most"));
    }
    if let Some(server) = &report.server {
        let core = server.core_micros_per_unit.map_or(String::new(), |micros| format!(", {micros:.2} µs of its core"));
        let softirq =
            server.softirq_share.map_or(String::new(), |share| format!(", {:.0} % of it softirq", share * 100.0));
        lines.push(format!(
            "server:    {:.2} µs of its process a unit{core}{softirq}; {:.0} % busy; {:.1} MB resident",
            server.process_micros_per_unit,
            server.busy * 100.0,
            server.resident_bytes as f64 / 1e6
        ));
    }
    if let Some(generator) = &report.generator {
        lines.push(format!("generator: {:.0} % busy", generator.busy * 100.0));
        if generator.was_limit {
            lines.push("NOTE: the generator itself is at its limit; the server could carry more.".into());
        }
    }
    lines.join("\n")
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds, from 0 to 86400".into()),
    }
}
