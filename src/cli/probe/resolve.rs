//! From a URI to transport addresses to try (RFC 5928 §3 for `turn:`, RFC 8489 §8 for `stun:`), with reasons.

use std::fmt;
use std::net::SocketAddr;

use super::dns::{Dns, Srv};
use crate::cli::uri::{Host, Uri, UriTransport};

/// DNS may name any number of servers, and each that is silent costs seconds.
const CANDIDATES_MAX: usize = 16;
/// How many NAPTR records may lead to more of them.
const NAPTR_DEPTH_MAX: usize = 4;

/// What this command speaks between itself and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
    Tls,
}

impl Over {
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Tls];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls)
    }

    /// The protocol tag of RFC 5928 §5.
    fn of_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|over| {
            tag.split_once('.').is_some_and(|(application, transport)| {
                application.eq_ignore_ascii_case("turn") && transport.eq_ignore_ascii_case(over.label())
            })
        })
    }
}

/// One way to reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub over: Over,
    pub address: SocketAddr,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.over.label(), self.address)
    }
}

/// Gathers candidates, each once, and how they were found.
struct Found<'d> {
    dns: &'d Dns,
    candidates: Vec<Candidate>,
    notes: Vec<String>,
    /// Names whose addresses are not to be had.
    failures: Vec<String>,
}

/// Candidates in the order to try them, and how they were found. With `all` every transport is asked for, whatever the
/// URI says; its port holds for the transports of its scheme.
///
/// # Errors
/// Why there is none.
pub fn resolve(uri: &Uri, all: bool, dns: &Dns) -> Result<(Vec<Candidate>, String), String> {
    let mut found = Found { dns, candidates: Vec::new(), notes: Vec::new(), failures: Vec::new() };
    let wanted: &[Over] = match (uri.is_turn, uri.is_secure, uri.transport) {
        _ if all => &Over::ALL,
        (_, true, _) => &[Over::Tls],
        (true, false, None) => &[Over::Udp, Over::Tcp],
        (true, false, Some(UriTransport::Tcp)) => &[Over::Tcp],
        (true, false, Some(UriTransport::Udp)) | (false, false, _) => &[Over::Udp],
    };
    let port = |over: Over| uri.port.filter(|_| over.is_secure() == uri.is_secure);
    match &uri.host {
        Host::Address(ip) => {
            for over in wanted {
                found.add(*over, SocketAddr::new(*ip, port(*over).unwrap_or(Uri::default_port(over.is_secure()))));
            }
        }
        Host::Name(name) => {
            let is_open = uri.is_turn && uri.port.is_none() && uri.transport.is_none() && !all;
            // RFC 6761 §6.3: DNS knows nothing of localhost.
            let is_local = name == "localhost" || name.ends_with(".localhost");
            if is_open && !is_local {
                found.by_naptr(name, uri.is_secure, 0);
            }
            if found.candidates.is_empty() {
                let open: &[Over] = if is_open && !uri.is_secure { &Over::ALL } else { wanted };
                let service = |over: Over| service(uri.is_turn, over, name);
                let asks = |over: &Over| port(*over).is_none() && !is_local;
                let without: Vec<Over> =
                    open.iter().copied().filter(|over| !asks(over) || !found.by_srv(*over, &service(*over))).collect();
                // What has no record of its own is not offered if something else has one; with --all it is tried.
                let has_any = without.len() < open.len();
                for over in wanted.iter().filter(|over| without.contains(over) && (all || !asks(over) || !has_any)) {
                    let default_port = Uri::default_port(over.is_secure());
                    if asks(over) {
                        let label = over.label();
                        found.notes.push(format!("so for {label} A/AAAA on the default port {default_port}"));
                    }
                    found.by_address(*over, name, port(*over).unwrap_or(default_port));
                }
            }
        }
    }
    let Found { mut candidates, mut notes, failures, .. } = found;
    if candidates.is_empty() {
        return Err([notes, failures].concat().join("; "));
    }
    notes.extend(failures);
    if candidates.len() > CANDIDATES_MAX {
        notes.push(format!("only the first {CANDIDATES_MAX} are tried"));
        candidates.truncate(CANDIDATES_MAX);
    }
    notes.push(candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    Ok((candidates, notes.join("; ")))
}

/// DISC-5928-3-01, DISC-8489-8-01: the name of the SRV records.
fn service(is_turn: bool, over: Over, host: &str) -> String {
    let protocol = if over == Over::Udp { "_udp" } else { "_tcp" };
    let secure = if over.is_secure() { "s" } else { "" };
    format!("_{}{secure}.{protocol}.{host}", if is_turn { "turn" } else { "stun" })
}

impl Found<'_> {
    fn add(&mut self, over: Over, address: SocketAddr) {
        let candidate = Candidate { over, address };
        if !self.candidates.contains(&candidate) {
            self.candidates.push(candidate);
        }
    }

    fn by_address(&mut self, over: Over, name: &str, port: u16) {
        match self.dns.addresses(name) {
            Ok(found) => found.into_iter().for_each(|ip| self.add(over, SocketAddr::new(ip, port))),
            Err(why) if self.failures.contains(&why) => {}
            Err(why) => self.failures.push(why),
        }
    }

    /// Whether DNS has a word on this service, be it that it is not offered.
    fn by_srv(&mut self, over: Over, name: &str) -> bool {
        let records = match self.dns.srv(name) {
            Ok(records) if records.is_empty() => {
                self.notes.push(format!("no SRV record {name}"));
                return false;
            }
            Ok(records) => records,
            Err(why) => {
                self.notes.push(format!("SRV {name} could not be looked up ({why})"));
                return false;
            }
        };
        for Srv { priority, weight, port, target } in records {
            if target.is_empty() {
                self.notes.push(format!("SRV {name} says that this is not offered"));
            } else {
                self.notes.push(format!("SRV {name} is {target}:{port} (priority {priority}, weight {weight})"));
                self.by_address(over, &target, port);
            }
        }
        true
    }

    /// RFC 5928 §3, with the rules of S-NAPTR (RFC 3958).
    fn by_naptr(&mut self, name: &str, is_secure: bool, depth: usize) {
        let records = match self.dns.naptr(name) {
            Ok(records) => records,
            Err(why) => return self.notes.push(format!("NAPTR {name} could not be looked up ({why})")),
        };
        let mut is_any = false;
        for record in records {
            let mut parts = record.services.split(':');
            if !parts.next().is_some_and(|service| service.eq_ignore_ascii_case("RELAY")) {
                continue;
            }
            is_any = true;
            let target = record.replacement.as_str();
            self.notes.push(format!("NAPTR {name} is {} at {target}", record.services));
            for tag in parts {
                match Over::of_tag(tag) {
                    Some(over) if over.is_secure() || !is_secure => match record.flags.as_str() {
                        "s" => drop(self.by_srv(over, target)),
                        "a" => self.by_address(over, target, Uri::default_port(over.is_secure())),
                        _ => {}
                    },
                    Some(_) => self.notes.push(format!("{tag} is not for a URI with `s`")),
                    None => self.notes.push(format!("{tag} is nothing that this command speaks")),
                }
            }
            if record.flags.is_empty() && depth < NAPTR_DEPTH_MAX {
                self.by_naptr(target, is_secure, depth + 1);
            }
        }
        if !is_any {
            self.notes.push(format!("no NAPTR record of {name} for RELAY"));
        }
    }
}
