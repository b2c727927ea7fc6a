//! `hairpin probe`: does a server work, and if not, which step fails?

mod client;
mod dns;
mod resolve;
mod trust;
mod walk;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use serde::Serialize;

use self::dns::Dns;
use self::trust::Trust;
use self::walk::{Step, Tried, Walk};
use super::uri::{Uri, UriTransport};
use super::{CommandLine, Outcome, print};

/// Try a STUN or TURN server as a client would, step by step, and say which step fails.
///
/// Works with any server. With turn: it allocates twice, and lets the two relayed addresses talk to each other.
///
/// Without port, DNS is asked for SRV records, with turn: and without transport for NAPTR records before (RFC 5928, RFC
/// 8489). Browsers do not do that: write port and transport to try what they do. Of several ways to the server the
/// first counts on which it answers.
///
/// Exit code: 0 it works, with --all in every way; 1 it does not; 2 wrong arguments.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to try, like stun:example.org, turn:example.org:3478?transport=tcp, or turns:example.org
    uri: Uri,
    /// User name for turn:
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// Password for turn:
    #[arg(long, env = "HAIRPIN_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Try UDP, TCP and TLS at every address of the server; the port in the URI holds for its scheme
    #[arg(long)]
    all: bool,
    /// Ask this DNS server instead of this machine's
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = dns_server)]
    dns_server: Option<SocketAddr>,
    /// With TLS: believe certificates of this PEM file as well as this system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    steps: &'a [Step],
    candidates: &'a [Tried],
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let Arguments { uri, all, .. } = arguments;
    let credentials = arguments.user.clone().zip(arguments.password.clone());
    if uri.is_secure && uri.transport == Some(UriTransport::Udp) {
        let other = "TLS over UDP is DTLS, which this command does not speak; try ?transport=tcp";
        CommandLine::command().error(ErrorKind::InvalidValue, other).exit();
    }
    if uri.is_turn && credentials.is_none() {
        let missing = "turn: needs credentials; add --user NAME --password PASSWORD, or probe stun: instead";
        CommandLine::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
    }
    let trust = Trust::new(arguments.ca.as_deref())?;
    let dns = Dns::new(arguments.dns_server)?;
    let mut written = Ok(());
    let mut seen = |step: &Step| {
        if !arguments.json && written.is_ok() {
            written = print(line(step));
        }
    };
    let mut walk = Walk { uri, credentials, trust: &trust, all: *all, seen: &mut seen, steps: Vec::new() };
    let tried = walk.run(&dns);
    let steps = walk.steps;
    written?;
    let is_good = if *all { tried.iter().all(|way| way.ok) } else { tried.iter().any(|way| way.ok) };
    let ok = is_good && !tried.is_empty();
    if arguments.json {
        let report = Report { ok, steps: &steps, candidates: &tried };
        print(serde_json::to_string_pretty(&report).expect("plain data is always JSON"))?;
    } else if tried.len() > 1 {
        tried.iter().try_for_each(|way| print(summary(way)))?;
    }
    if ok {
        return Ok(());
    }
    let failed = tried.iter().filter_map(|way| Some(format!("{} failed over {}", way.failed?, way.transport)));
    match (&steps[..], failed.collect::<Vec<_>>()) {
        (steps, ways) if ways.len() < 2 => {
            let step = steps.iter().find(|step| !step.ok);
            Err(format!("{} failed", step.map_or("resolve", |step| step.name)))
        }
        (_, ways) => Err(ways.join(", ")),
    }
}

/// An address, with port 53 unless it says another.
fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)));
    address.map_err(|_| "write an address, like 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53".to_owned())
}

fn summary(way: &Tried) -> String {
    let Tried { transport, address, milliseconds, .. } = way;
    match way.failed {
        None => format!("works {transport:<4} {address}, {milliseconds} ms"),
        Some(step) => format!("fails {transport:<4} {address}: {step}"),
    }
}

fn line(step: &Step) -> String {
    let mark = if step.ok { "ok  " } else { "FAIL" };
    let mut line = format!("{mark} {:<8} {:>5} ms  {}", step.name, step.milliseconds, step.detail);
    if let Some(usually) = step.usually {
        write!(line, "\n              usually: {usually}").expect("a string takes everything");
    }
    line
}
