//! `hairpin dns-records`: what a zone has to say for clients to find the server by its domain (RFC 8489 §8, RFC 5928).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CONFIG_VARIABLE, Outcome, print};
use crate::config::{self, Machine};
use crate::shard;
use crate::turn::Transport;

/// Print the DNS records by which clients find the server.
///
/// They are made from the listeners of the configuration, in the form of a zone file: addresses, SRV records for STUN
/// and TURN, NAPTR records that say which transport to try first, and where NAT behaviour discovery is offered those
/// for it. Nothing is looked up and nothing is changed. Browsers need none of them but the addresses: they are given
/// host and port.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The name of the server, which is no alias.
    #[arg(long, value_name = "NAME", value_parser = name)]
    host: String,

    /// The domain that clients know, if it is not the one the name is in.
    #[arg(long, value_name = "NAME", value_parser = name)]
    domain: Option<String>,

    /// The server's configuration file.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
}

fn name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if text.contains('.') && text.parse::<IpAddr>().is_err() && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err("write a name with its domain, without a dot at the end, like turn.example.org".to_owned())
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let file = arguments.config.as_deref();
    let config = config::load(file, &Machine::any()).map_err(|errors| errors.to_string())?;
    let domain = arguments.domain.clone();
    let domain = domain.or_else(|| Some(arguments.host.split_once('.')?.1.to_owned())).expect("a name has a dot");
    print(records(&arguments.host, &domain, &config.shards).trim_end())
}

/// One service: its name, its transport, and what NAPTR calls it.
struct Service {
    label: &'static str,
    transport: Transport,
    application: Option<&'static str>,
}

const STUN: [Service; 3] = [
    Service { label: "_stun._udp", transport: Transport::Udp, application: None },
    Service { label: "_stun._tcp", transport: Transport::Tcp, application: None },
    Service { label: "_stuns._tcp", transport: Transport::Tls, application: None },
];

/// In the order in which clients had better try.
const TURN: [Service; 3] = [
    Service { label: "_turn._udp", transport: Transport::Udp, application: Some("RELAY:turn.udp") },
    Service { label: "_turn._tcp", transport: Transport::Tcp, application: Some("RELAY:turn.tcp") },
    Service { label: "_turns._tcp", transport: Transport::Tls, application: Some("RELAY:turn.tls") },
];

fn records(host: &str, domain: &str, settings: &shard::Settings) -> String {
    let mut zone = Zone { text: String::new(), host, domain };
    zone.addresses(settings);
    let discovery = settings.turn.behavior_discovery.as_ref().filter(|discovery| !discovery.addresses.is_empty());
    // The second port of discovery is nobody's first choice for anything else.
    let second_port = |transport| {
        let ports = match transport {
            Transport::Udp => discovery?.udp,
            Transport::Tcp => discovery?.tcp,
            Transport::Tls => discovery?.tls,
            Transport::Dtls => None,
        };
        ports.map(|[_, second]| second)
    };
    // The same port at several addresses is one record, since the name stands for all of them.
    let ports = |transport| -> Vec<u16> {
        let mut ports = Vec::new();
        for entry in settings.listen.iter().filter(|entry| entry.transport == transport) {
            let port = entry.address.port();
            if !ports.contains(&port) && second_port(transport) != Some(port) {
                ports.push(port);
            }
        }
        ports
    };
    zone.comment("STUN (RFC 8489, section 8)");
    STUN.iter().for_each(|service| zone.srv(service.label, &ports(service.transport)));
    zone.comment("TURN (RFC 8656), and which transport to try first (RFC 5928)");
    TURN.iter().for_each(|service| zone.srv(service.label, &ports(service.transport)));
    let served = TURN.iter().filter(|service| !ports(service.transport).is_empty());
    served.enumerate().for_each(|(place, service)| zone.naptr(10 * (place + 1), service));
    // NATB-5780-9-01: only with two addresses.
    if let Some(discovery) = discovery {
        zone.comment("NAT behaviour discovery (RFC 5780): the other address is learnt from the server");
        for (label, ports) in [
            ("_stun-behavior._udp", discovery.udp),
            ("_stun-behavior._tcp", discovery.tcp),
            ("_stun-behaviors._tcp", discovery.tls),
        ] {
            zone.srv(label, &ports.map(|[first, _]| first).into_iter().collect::<Vec<_>>());
        }
    }
    zone.text
}

struct Zone<'n> {
    text: String,
    host: &'n str,
    domain: &'n str,
}

impl Zone<'_> {
    fn comment(&mut self, text: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.line(format!("{gap}; {text}"));
    }

    /// What relays advertise is most likely what clients reach, too.
    fn addresses(&mut self, settings: &shard::Settings) {
        let advertised = settings.turn.relays.iter().map(|relay| relay.advertise).filter(|ip| !ip.is_loopback());
        let advertised: Vec<IpAddr> = advertised.collect();
        if advertised.is_empty() {
            self.comment("The configuration does not tell the server's address: write it instead of 192.0.2.1.");
            self.line(format!("{}. IN A 192.0.2.1", self.host));
            return;
        }
        self.comment("The server");
        for ip in advertised {
            let kind = if ip.is_ipv4() { "A" } else { "AAAA" };
            self.line(format!("{}. IN {kind} {ip}", self.host));
        }
    }

    /// DISC-8489-8-01: the ports listened at, in the order of the configuration.
    fn srv(&mut self, label: &str, ports: &[u16]) {
        for (priority, port) in ports.iter().enumerate() {
            self.line(format!("{label}.{}. IN SRV {priority} 0 {port} {}.", self.domain, self.host));
        }
    }

    fn naptr(&mut self, order: usize, service: &Service) {
        if let Some(application) = service.application {
            let Service { label, .. } = service;
            self.line(format!("{0}. IN NAPTR {order} 0 \"S\" \"{application}\" \"\" {label}.{0}.", self.domain));
        }
    }

    fn line(&mut self, line: impl std::fmt::Display) {
        writeln!(self.text, "{line}").expect("a string takes all there is");
    }
}
