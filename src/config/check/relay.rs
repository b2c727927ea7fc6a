//! `[relay]`: where relayed transport addresses come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Checker, HOUR};
use crate::config::values::{self, Mistake};
use crate::config::written;
use crate::turn::{PeerPolicy, PortRange, RelayAddress};

pub(super) use crate::turn::PortRange as Ports;

impl Checker<'_> {
    pub(super) fn ports(&mut self, written: &written::Relay) -> PortRange {
        let (first, last) = self.accept("relay.ports", values::port_range(&written.ports)).unwrap_or((1024, 1024));
        PortRange {
            first,
            last,
            quarantine_secs: self.duration("relay.port_quarantine", &written.port_quarantine, 0..=HOUR),
        }
    }

    pub(super) fn relays(&mut self, written: &written::Relay) -> Vec<RelayAddress> {
        let relays = if written.addresses.is_empty() {
            self.found_out()
        } else {
            self.chosen("relay.addresses", &written.addresses)
        };
        for relay in &relays {
            self.judge_advertised(relay.advertise);
        }
        relays
    }

    /// The addresses from which packets to the Internet leave; on a machine without such, loopback, so that at least
    /// its own programs can be served.
    fn found_out(&self) -> Vec<RelayAddress> {
        let mut found = self.machine.default_routes.clone();
        if found.is_empty() {
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            found.extend(loopback.into_iter().filter(|ip| self.machine.interfaces.contains(ip)));
        }
        let both = |ip| RelayAddress { bind: ip, advertise: ip };
        found.into_iter().map(both).collect()
    }

    /// Addresses of this machine, and what others see of them.
    pub(super) fn chosen(&mut self, key: &str, written: &[written::RelayAddress]) -> Vec<RelayAddress> {
        let mut relays: Vec<RelayAddress> = Vec::new();
        for (index, entry) in written.iter().enumerate() {
            let key = format!("{key}[{index}]");
            let (bind_key, bind, advertise_key, advertise) = match entry {
                written::RelayAddress::Same(ip) => (key.clone(), ip, key.clone(), ip),
                written::RelayAddress::Mapped(pair) => {
                    (format!("{key}.bind"), &pair.bind, format!("{key}.advertise"), &pair.advertise)
                }
            };
            let bind = self.accept(&bind_key, definite_address(bind));
            let advertise =
                if advertise_key == bind_key { bind } else { self.accept(&advertise_key, definite_address(advertise)) };
            let (Some(bind), Some(advertise)) = (bind, advertise) else {
                continue;
            };
            let relay = RelayAddress { bind, advertise };
            self.check_pair(&bind_key, &advertise_key, relay);
            if relays.iter().any(|other| other.bind == bind || other.advertise == advertise) {
                let wrong = "this address is used by an entry before already";
                self.problem(key, Mistake::new(wrong, "list each address once"));
            }
            relays.push(relay);
        }
        relays
    }

    fn check_pair(&mut self, bind_key: &str, advertise_key: &str, relay: RelayAddress) {
        let RelayAddress { bind, advertise } = relay;
        if bind.is_ipv4() != advertise.is_ipv4() {
            self.problem(
                advertise_key,
                Mistake::new(
                    format!("{bind} and {advertise} are not of the same family"),
                    "pair IPv4 with IPv4 and IPv6 with IPv6, in an entry each",
                ),
            );
        }
        if !(self.machine.can_bind)(bind) {
            let fix = match self.machine.default_routes.iter().find(|ip| ip.is_ipv4() == bind.is_ipv4()) {
                // Most likely the public address of a 1:1 NAT.
                Some(local) if bind == advertise => {
                    format!("behind a NAT write {{ bind = \"{local}\", advertise = \"{advertise}\" }}")
                }
                _ => format!("use one of {}", self.own_addresses(bind.is_ipv4())),
            };
            let wrong = format!("{bind} is not an address of this machine");
            self.problem(bind_key, Mistake::new(wrong, fix));
        }
    }

    fn judge_advertised(&mut self, advertise: IpAddr) {
        if advertise.is_loopback() {
            self.note(
                "relay.addresses",
                format!("relays live on {advertise}, which only programs on this machine can reach."),
            );
        } else if PeerPolicy::default().check(advertise).is_err() {
            self.note(
                "relay.addresses",
                format!(
                    "relays are advertised as {advertise}, which the Internet cannot reach; behind a 1:1 NAT write \
                     {{ bind = \"{advertise}\", advertise = \"the public address\" }}."
                ),
            );
        }
    }

    /// For a message: addresses of the machine's interfaces.
    pub(super) fn own_addresses(&self, ipv4: bool) -> String {
        let of_family = self.machine.interfaces.iter().filter(|ip| ip.is_ipv4() == ipv4);
        let texts: Vec<String> = of_family.map(IpAddr::to_string).collect();
        if texts.is_empty() {
            return format!("the other family: this machine has no IPv{} address", if ipv4 { 4 } else { 6 });
        }
        texts.join(", ")
    }
}

/// An address that one machine can have as its own and others can send to.
pub(super) fn definite_address(text: &str) -> Result<IpAddr, Mistake> {
    let ip = values::ip_address(text)?;
    let why_not = match ip {
        _ if ip.is_unspecified() => "stands for all addresses, but one is wanted",
        _ if ip.is_multicast() => "is a multicast address",
        IpAddr::V4(ip) if ip.is_broadcast() => "is the broadcast address",
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => "is an IPv4 address written as IPv6",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => "is a link-local address, which means nothing to others",
        _ => return Ok(ip),
    };
    let fix = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => format!("write \"{}\"", ip.to_canonical()),
        _ => "write the address that others send to; relay.addresses = [] has it found out".into(),
    };
    Err(Mistake::new(format!("{ip} {why_not}"), fix))
}
