//! Topologies: which routers there are, what their NATs do, and who lives behind them.
//!
//! [`Topology::load`] takes the name of one that ships with the lab or the path of a `.toml` file and returns it
//! checked: every `behind` names a router, routers come before what is behind them, one node runs the web server and
//! one the TURN server, and telephony is complete or absent. Scenarios then change single routers with
//! [`Topology::with_nat`], [`Topology::with_udp_blocked`] and [`Topology::with_https_only`]. Nothing here touches the
//! network: that is [`crate::lab`].

mod file;
mod telephony;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

pub use crate::nat::Nat;

/// The topologies compiled into the command: name and TOML.
const SHIPPED: &[(&str, &str)] = &[
    ("internet", include_str!("../../topologies/internet.toml")),
    ("carrier", include_str!("../../topologies/carrier.toml")),
    ("triangle", include_str!("../../topologies/triangle.toml")),
    ("sip", include_str!("../../topologies/sip.toml")),
    ("pstn", include_str!("../../topologies/pstn.toml")),
];

/// Network namespaces get interfaces named after nodes by patchbay; longer names would be cut and could collide.
const NAME_LENGTH_MAX: usize = 24;

/// What a router does with UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// Forwards it.
    #[default]
    Open,
    /// Drops it silently, as some guest networks do.
    Blocked,
}

/// What a router does with TCP from inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tcp {
    /// Forwards it.
    #[default]
    Open,
    /// Forwards what goes to port 443, as strict company networks do, and drops the rest.
    HttpsOnly,
}

/// What a server node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// The call page and its signalling.
    Web,
    /// The TURN server under test.
    Turn,
    /// SIP: registrar and proxy, for pages over WebSocket and for phones.
    Sip,
    /// The media proxy of the SIP server: between browsers' encrypted media and phones' plain RTP.
    Media,
    /// The gateway to the telephone network, where numbers are called.
    Gateway,
}

/// A router and the network behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Its name, unique among all nodes.
    pub name: String,
    /// Its NAT.
    pub nat: Nat,
    /// Whether UDP passes.
    pub udp: Udp,
    /// Which TCP passes.
    pub tcp: Tcp,
    /// The router it is itself behind; `None` on the Internet.
    pub behind: Option<String>,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server.
    Server(Service),
    /// A place for a browser.
    Browser,
    /// A SIP client, with an account at the SIP server.
    SipClient,
    /// A telephone with a number, behind the gateway.
    Telephone,
}

/// A machine behind a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name, unique among all nodes.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The router it is behind.
    pub behind: String,
    /// A telephone's number.
    pub number: Option<String>,
}

/// A checked topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The name it was asked for by.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Routers, each after the one it is behind.
    pub routers: Vec<Router>,
    /// Servers, then browsers, then phones, in the order of the file.
    pub hosts: Vec<Host>,
}

/// Why a topology cannot be used: the file (or name) and what to change in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyError {
    /// The file, or the name that was asked for.
    pub place: String,
    /// What is wrong and how to put it right.
    pub problem: String,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topology {}: {}", self.place, self.problem)
    }
}

impl std::error::Error for TopologyError {}

impl Topology {
    /// The names of the topologies that ship with the lab.
    pub fn shipped() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// Loads a shipped topology by name, or any by the path of its file (which must end in `.toml`).
    ///
    /// # Errors
    /// The file cannot be read, is not valid TOML, has unknown keys, or describes something that cannot be built.
    pub fn load(name_or_path: &str) -> Result<Topology, TopologyError> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == name_or_path) {
            return Topology::parse(name, text);
        }
        let fail = |problem| TopologyError { place: name_or_path.to_owned(), problem };
        if !name_or_path.ends_with(".toml") {
            return Err(fail(format!(
                "there is no topology of that name; use one of {}, or the path of a .toml file",
                quoted(Topology::shipped())
            )));
        }
        let text = std::fs::read_to_string(Path::new(name_or_path))
            .map_err(|error| fail(format!("cannot read it: {error}")))?;
        Topology::parse(name_or_path, &text)
    }

    /// Parses and checks the text of a topology file; `place` is how errors name it.
    ///
    /// # Errors
    /// As [`Topology::load`].
    pub fn parse(place: &str, text: &str) -> Result<Topology, TopologyError> {
        let fail = |problem| TopologyError { place: place.to_owned(), problem };
        let file: file::File = toml::from_str(text).map_err(|error| fail(format!("\n{error}")))?;
        check(place, file).map_err(fail)
    }

    /// The same topology with another NAT in one router.
    ///
    /// # Errors
    /// There is no such router.
    pub fn with_nat(mut self, router: &str, nat: Nat) -> Result<Topology, TopologyError> {
        self.router_mut(router)?.nat = nat;
        Ok(self)
    }

    /// The same topology with UDP blocked at one router.
    ///
    /// # Errors
    /// There is no such router.
    pub fn with_udp_blocked(mut self, router: &str) -> Result<Topology, TopologyError> {
        self.router_mut(router)?.udp = Udp::Blocked;
        Ok(self)
    }

    /// The same topology with a router that lets nothing out but TCP to port 443.
    ///
    /// # Errors
    /// There is no such router.
    pub fn with_https_only(mut self, router: &str) -> Result<Topology, TopologyError> {
        let router = self.router_mut(router)?;
        (router.udp, router.tcp) = (Udp::Blocked, Tcp::HttpsOnly);
        Ok(self)
    }

    /// The host of that name, which must be for a browser.
    ///
    /// # Errors
    /// There is no such host, or it is a server.
    pub fn browser(&self, name: &str) -> Result<&Host, TopologyError> {
        self.hosts.iter().find(|host| host.name == name && host.role == Role::Browser).ok_or_else(|| {
            let browsers = self.hosts.iter().filter(|host| host.role == Role::Browser);
            TopologyError {
                place: self.name.clone(),
                problem: format!("{name:?} is not a browser; use one of {}", quoted(browsers.map(|host| &*host.name))),
            }
        })
    }

    /// The host of that name, which must be a phone.
    ///
    /// # Errors
    /// There is no such host, or it is something else.
    pub fn phone(&self, name: &str) -> Result<&Host, TopologyError> {
        let phones = self.hosts.iter().filter(|host| matches!(host.role, Role::SipClient | Role::Telephone));
        phones.clone().find(|host| host.name == name).ok_or_else(|| TopologyError {
            place: self.name.clone(),
            problem: match quoted(phones.map(|host| &*host.name)) {
                known if known.is_empty() => format!("{name:?} is not a phone, and there is none"),
                known => format!("{name:?} is not a phone; use one of {known}"),
            },
        })
    }

    /// The host that runs the web server or the TURN server. Every checked topology has exactly one.
    pub fn server(&self, service: Service) -> &Host {
        self.find_server(service).expect("a checked topology has one host for each of these")
    }

    /// The host that runs a service which not every topology has.
    pub fn find_server(&self, service: Service) -> Option<&Host> {
        self.hosts.iter().find(|host| host.role == Role::Server(service))
    }

    fn router_mut(&mut self, name: &str) -> Result<&mut Router, TopologyError> {
        let known = quoted(self.routers.iter().map(|router| &*router.name));
        let place = self.name.clone();
        self.routers
            .iter_mut()
            .find(|router| router.name == name)
            .ok_or_else(|| TopologyError { place, problem: format!("there is no router {name:?}; use one of {known}") })
    }
}

/// Turns what was written into what can be built, or says what to change.
fn check(name: &str, file: file::File) -> Result<Topology, String> {
    let mut taken = BTreeSet::new();
    let names = file.routers.iter().map(|router| &router.name);
    let names = names.chain(file.servers.iter().map(|server| &server.name));
    let names = names.chain(file.browsers.iter().map(|browser| &browser.name));
    for name in names.chain(file.phones.iter().map(|phone| &phone.name)) {
        check_name(name)?;
        if !taken.insert(name.as_str()) {
            return Err(format!(
                "two nodes are called {name:?}; names must be unique across routers, servers, browsers, phones"
            ));
        }
    }

    let routers = file.routers.into_iter().map(|entry| Router {
        name: entry.name,
        nat: entry.nat,
        udp: entry.udp,
        tcp: entry.tcp,
        behind: entry.behind,
    });
    let routers = upstream_first(routers.collect())?;

    let host = |role, name, behind| Host { name, role, behind, number: None };
    let servers = file.servers.into_iter().map(|entry| host(Role::Server(entry.runs), entry.name, entry.behind));
    let browsers = file.browsers.into_iter().map(|entry| host(Role::Browser, entry.name, entry.behind));
    let phones = file.phones.into_iter().map(|entry| Host {
        role: if entry.number.is_some() { Role::Telephone } else { Role::SipClient },
        name: entry.name,
        behind: entry.behind,
        number: entry.number,
    });
    let hosts: Vec<Host> = servers.chain(browsers).chain(phones).collect();
    for host in &hosts {
        if !routers.iter().any(|router| router.name == host.behind) {
            return Err(unknown_router(host.role.key(), &host.name, &host.behind, &routers));
        }
    }
    for (service, key) in [(Service::Web, "web"), (Service::Turn, "turn")] {
        let count = hosts.iter().filter(|host| host.role == Role::Server(service)).count();
        if count != 1 {
            return Err(format!("{count} [[server]] entries have runs = {key:?}; exactly one is needed"));
        }
    }
    telephony::check(&hosts)?;
    Ok(Topology { name: name.to_owned(), description: file.description, routers, hosts })
}

impl Role {
    /// How hosts of this role are written in the file.
    fn key(self) -> &'static str {
        match self {
            Role::Server(_) => "server",
            Role::Browser => "browser",
            Role::SipClient | Role::Telephone => "phone",
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.chars().all(plain) {
        return Err(format!(
            "name = {name:?}: use 1 to {NAME_LENGTH_MAX} lower-case letters, digits and hyphens (it becomes a host name)"
        ));
    }
    Ok(())
}

/// Sorts routers so that each comes after the one it is behind.
fn upstream_first(mut waiting: Vec<Router>) -> Result<Vec<Router>, String> {
    for router in &waiting {
        if let Some(behind) = &router.behind
            && !waiting.iter().any(|other| other.name == *behind)
        {
            return Err(unknown_router("router", &router.name, behind, &waiting));
        }
    }
    let mut sorted: Vec<Router> = Vec::new();
    while !waiting.is_empty() {
        let ready = |router: &Router| match &router.behind {
            Some(behind) => sorted.iter().any(|other| other.name == *behind),
            None => true,
        };
        let (next, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(ready);
        if next.is_empty() {
            return Err(format!(
                "routers {} are behind each other in a circle; give one of them no `behind`",
                quoted(rest.iter().map(|router| &*router.name))
            ));
        }
        sorted.extend(next);
        waiting = rest;
    }
    Ok(sorted)
}

fn unknown_router(kind: &str, name: &str, behind: &str, routers: &[Router]) -> String {
    format!(
        "[[{kind}]] {name:?}: behind = {behind:?} names no router; use one of {}",
        quoted(routers.iter().map(|router| &*router.name))
    )
}

fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
