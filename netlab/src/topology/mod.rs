//! Topologies: which routers there are, what their NATs do, and who lives behind them.
//!
//! [`Topology::load`] takes the name of one that ships with the lab or the path of a `.toml` file and returns it
//! checked: every `behind` names a router, routers come before what is behind them, one node runs the web server and
//! one or more the TURN server, and telephony is complete or absent. Scenarios then change single routers with
//! [`Topology::with_nat`], [`Topology::with_udp_blocked`] and [`Topology::with_https_only`]. Nothing here touches the
//! network: that is [`crate::lab`].

mod file;
mod link;
mod telephony;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

pub use crate::nat::Nat;
pub use link::{Impairment, Ipv6};

/// The topologies compiled into the command: name and TOML.
const SHIPPED: &[(&str, &str)] = &[
    ("internet", include_str!("../../topologies/internet.toml")),
    ("carrier", include_str!("../../topologies/carrier.toml")),
    ("cloud", include_str!("../../topologies/cloud.toml")),
    ("two-nodes", include_str!("../../topologies/two-nodes.toml")),
    ("hotel", include_str!("../../topologies/hotel.toml")),
    ("office", include_str!("../../topologies/office.toml")),
    ("ipv6-firewalls", include_str!("../../topologies/ipv6-firewalls.toml")),
    ("nat64", include_str!("../../topologies/nat64.toml")),
    ("narrow", include_str!("../../topologies/narrow.toml")),
    ("lossy", include_str!("../../topologies/lossy.toml")),
    ("triangle", include_str!("../../topologies/triangle.toml")),
    ("sip", include_str!("../../topologies/sip.toml")),
    ("pstn", include_str!("../../topologies/pstn.toml")),
];

/// Network namespaces get interfaces named after nodes by patchbay; longer names would be cut and could collide.
const NAME_LENGTH_MAX: usize = 24;

/// RFC 8200 section 5.
const MTU_MIN: u16 = 1280;

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
    /// Forwards what goes to port 3128, where the network's HTTP proxy is, and drops the rest.
    ProxyOnly,
}

/// What a server node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// The call page and its signalling.
    Web,
    /// The TURN server under test. There may be several.
    Turn,
    /// An HTTP proxy, for what its users' routers do not let out.
    Proxy,
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
    /// IPv6 behind it.
    pub ipv6: Ipv6,
    /// Bytes of the largest IP packet on both of its sides; `None` is 1,500.
    pub mtu: Option<u16>,
    /// What is wrong with its link to the world.
    pub impairment: Impairment,
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
    /// A browser's TURN server; `None` is the first of the topology.
    pub turn: Option<String>,
    /// A browser's HTTP proxy.
    pub proxy: Option<String>,
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
    /// There is no such router, or the NAT does not go with what is behind it.
    pub fn with_nat(mut self, router: &str, nat: Nat) -> Result<Topology, TopologyError> {
        self.router_mut(router)?.nat = nat;
        let changed = self.routers.iter().filter(|changed| changed.name == router);
        let problem = changed.filter_map(|router| check_one_to_one(router, &self.routers, &self.hosts).err()).next();
        match problem {
            Some(problem) => Err(TopologyError { place: self.name, problem }),
            None => Ok(self),
        }
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

    /// The first host that runs a service. Every checked topology has one for the web and one for TURN.
    ///
    /// # Panics
    /// The topology has no host for that service.
    pub fn server(&self, service: Service) -> &Host {
        self.find_server(service).expect("a checked topology has a host for each of these")
    }

    /// The first host that runs a service which not every topology has.
    pub fn find_server(&self, service: Service) -> Option<&Host> {
        self.servers(service).next()
    }

    /// All hosts that run a service.
    pub fn servers(&self, service: Service) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.role == Role::Server(service))
    }

    /// The router a host is behind. Every checked topology has it.
    pub fn router_of(&self, host: &Host) -> &Router {
        self.routers.iter().find(|router| router.name == host.behind).expect("a checked topology has every router")
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
        ipv6: entry.ipv6,
        mtu: entry.mtu,
        impairment: Impairment {
            loss_permille: entry.loss,
            rate_kbits: entry.rate,
            delay: entry.delay,
            jitter: entry.jitter,
        },
        behind: entry.behind,
    });
    let routers = upstream_first(routers.collect())?;

    let host = |role, name, behind| Host { name, role, behind, turn: None, proxy: None, number: None };
    let servers = file.servers.into_iter().map(|entry| host(Role::Server(entry.runs), entry.name, entry.behind));
    let browsers = file.browsers.into_iter().map(|entry| Host {
        turn: entry.turn,
        proxy: entry.proxy,
        ..host(Role::Browser, entry.name, entry.behind)
    });
    let phones = file.phones.into_iter().map(|entry| {
        let role = if entry.number.is_some() { Role::Telephone } else { Role::SipClient };
        Host { number: entry.number, ..host(role, entry.name, entry.behind) }
    });
    let hosts: Vec<Host> = servers.chain(browsers).chain(phones).collect();
    for host in &hosts {
        if !routers.iter().any(|router| router.name == host.behind) {
            return Err(unknown_router(host.role.key(), &host.name, &host.behind, &routers));
        }
        for (key, wanted, service) in [("turn", &host.turn, Service::Turn), ("proxy", &host.proxy, Service::Proxy)] {
            let mut servers = hosts.iter().filter(|host| host.role == Role::Server(service));
            if let Some(wanted) = wanted
                && !servers.any(|server| server.name == *wanted)
            {
                return Err(format!(
                    "[[browser]] {:?}: {key} = {wanted:?} names no [[server]] with runs = {key:?}",
                    host.name
                ));
            }
        }
    }
    for (service, key, most) in [(Service::Web, "web", 1), (Service::Turn, "turn", usize::MAX)] {
        let count = hosts.iter().filter(|host| host.role == Role::Server(service)).count();
        if count < 1 || count > most {
            let needed = if most == 1 { "exactly one" } else { "at least one" };
            return Err(format!("{count} [[server]] entries have runs = {key:?}; {needed} is needed"));
        }
    }
    for router in &routers {
        check_one_to_one(router, &routers, &hosts)?;
        if router.mtu.is_some_and(|mtu| mtu < MTU_MIN) {
            return Err(format!(
                "[[router]] {:?}: mtu must be {MTU_MIN} (what IPv6 asks of a link) or more",
                router.name
            ));
        }
    }
    telephony::check(&hosts)?;
    Ok(Topology { name: name.to_owned(), description: file.description, routers, hosts })
}

fn check_one_to_one(router: &Router, routers: &[Router], hosts: &[Host]) -> Result<(), String> {
    let hosts_behind = hosts.iter().filter(|host| host.behind == router.name).count();
    let routers_behind = routers.iter().filter(|other| other.behind.as_ref() == Some(&router.name)).count();
    if router.nat == Nat::OneToOne && (hosts_behind, routers_behind) != (1, 0) {
        return Err(format!(
            "[[router]] {:?}: nat = \"one-to-one\" is for one host; {} nodes are behind it",
            router.name,
            hosts_behind + routers_behind
        ));
    }
    Ok(())
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
