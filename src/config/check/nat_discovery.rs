//! `[nat_discovery]`: two addresses and two ports, from which clients learn how their NATs behave (RFC 5780).

use super::Checker;
use super::relay::Ports;
use crate::config::Written;
use crate::config::values::Mistake;
use crate::shard::{ListenAddress, ListenOptions};
use crate::turn::{BehaviorDiscovery, RelayAddress, ServerAddress, Transport};

const PORTS_FIX: &str = "write two different ports, like [3478, 3479]";

impl Checker<'_> {
    /// What is offered. Addresses and ports that nothing listens at yet are added to `listen`.
    pub(super) fn nat_discovery(
        &mut self,
        written: &Written,
        relays: &[RelayAddress],
        relay_ports: &Ports,
        listen: &mut Vec<ListenAddress>,
    ) -> Option<BehaviorDiscovery> {
        let section = &written.nat_discovery;
        if !section.enabled {
            if !section.addresses.is_empty() {
                self.note(
                    "nat_discovery.enabled",
                    "there are addresses, but without enabled = true nothing is offered.",
                );
            }
            return None;
        }
        let addresses = self.pairs(section);
        let udp = self.two_ports("nat_discovery.ports", &section.ports);
        let tcp = udp.filter(|_| section.tcp);
        let tls = if section.tls_ports.is_empty() { None } else { self.tls_ports(written) };
        for (transport, ports, key) in [
            (Transport::Udp, udp, "nat_discovery.ports"),
            (Transport::Tcp, tcp, "nat_discovery.tcp"),
            (Transport::Tls, tls, "nat_discovery.tls_ports"),
        ] {
            let ips = addresses.iter().flatten().map(|address| address.bind);
            let wanted = ips.flat_map(|ip| ports.into_iter().flatten().map(move |port| (ip, port).into()));
            for address in wanted {
                let entry = ListenAddress { transport, address, required: true, options: ListenOptions::default() };
                if !listen.iter().any(|other| covers(other, &entry)) {
                    self.no_overlap(key, entry, listen);
                    self.not_among_relay_ports(key, entry, relays, relay_ports);
                    listen.push(entry);
                }
            }
        }
        Some(BehaviorDiscovery {
            addresses,
            udp,
            tcp,
            tls,
            change_request: section.change_request,
            response_port: section.response_port,
            padding: section.padding,
        })
    }

    /// NATB-5780-9-01: two of a family, or none; one alone would look like two that have been merged.
    fn pairs(&mut self, section: &crate::config::written::NatDiscovery) -> Vec<[ServerAddress; 2]> {
        let chosen = self.chosen("nat_discovery.addresses", &section.addresses);
        let mut pairs = Vec::new();
        for is_ipv4 in [true, false] {
            let of_family = chosen.iter().filter(|address| address.bind.is_ipv4() == is_ipv4);
            let of_family: Vec<ServerAddress> =
                of_family.map(|address| ServerAddress { bind: address.bind, advertise: address.advertise }).collect();
            match <[ServerAddress; 2]>::try_from(of_family) {
                Ok(pair) => pairs.push(pair),
                Err(none) if none.is_empty() => {}
                Err(others) => {
                    let wrong = format!(
                        "of IPv{} there must be two, and there is {}",
                        if is_ipv4 { 4 } else { 6 },
                        others.len()
                    );
                    let fix = "write two addresses of a family, or none, with which clients learn less";
                    self.problem("nat_discovery.addresses", Mistake::new(wrong, fix));
                }
            }
        }
        pairs
    }

    fn two_ports(&mut self, key: &str, written: &[i64]) -> Option<[u16; 2]> {
        let ports: Vec<u16> =
            written.iter().filter_map(|port| u16::try_from(*port).ok().filter(|port| *port != 0)).collect();
        match ports[..] {
            [first, second] if first != second && written.len() == 2 => Some([first, second]),
            _ => {
                self.problem(key, Mistake::new("these are not two ports", PORTS_FIX));
                None
            }
        }
    }

    fn tls_ports(&mut self, written: &Written) -> Option<[u16; 2]> {
        if written.tls.certificate.is_empty() {
            let wrong = "TLS clients want to see a certificate, and there is none";
            let fix = "write one into [tls], like certificate = \"fullchain.pem\" and key = \"privkey.pem\"";
            self.problem("nat_discovery.tls_ports", Mistake::new(wrong, fix));
            return None;
        }
        self.two_ports("nat_discovery.tls_ports", &written.nat_discovery.tls_ports)
    }
}

/// Whether one listener gets the packets that the other would be for.
fn covers(listener: &ListenAddress, wanted: &ListenAddress) -> bool {
    let (own, other) = (listener.address, wanted.address);
    listener.transport == wanted.transport
        && own.port() == other.port()
        && own.is_ipv4() == other.is_ipv4()
        && (own.ip() == other.ip() || own.ip().is_unspecified())
}
