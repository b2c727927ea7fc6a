//! `[listen]` and `[admin]`: where clients, metrics and health checks come in.

use std::net::SocketAddr;

use super::Checker;
use super::relay::Ports;
use crate::config::Written;
use crate::config::values::{self, Mistake};
use crate::config::written;
use crate::shard::ListenAddress;
use crate::turn::{self, Transport};

const STUN_PORT: u16 = 3478;
/// TURN-8656-5-13.
const TLS_PORT: u16 = 5349;
const ADMIN_PORT: u16 = 9641;

impl Checker<'_> {
    pub(super) fn listen(
        &mut self,
        written: &Written,
        relays: &[turn::RelayAddress],
        ports: &Ports,
    ) -> Vec<ListenAddress> {
        let defaults = written::Listen::default();
        let mut listen = Vec::new();
        for (transport, key, texts, default, port) in [
            (Transport::Udp, "listen.udp", &written.listen.udp, &defaults.udp, STUN_PORT),
            (Transport::Tcp, "listen.tcp", &written.listen.tcp, &defaults.tcp, STUN_PORT),
            (Transport::Tls, "listen.tls", &written.listen.tls, &defaults.tls, TLS_PORT),
        ] {
            let is_default = texts == default;
            for (index, text) in texts.iter().enumerate() {
                let key = format!("{key}[{index}]");
                let Some(address) = self.accept(&key, values::socket_address(text, port)) else {
                    continue;
                };
                let entry = ListenAddress {
                    transport,
                    address,
                    // The defaults may be too much for a machine without IPv6; what was chosen must work.
                    required: !(is_default && address.is_ipv6()),
                };
                if entry.required {
                    self.local(&key, address);
                }
                self.no_overlap(&key, entry, &listen);
                self.not_among_relay_ports(&key, entry, relays, ports);
                listen.push(entry);
            }
        }
        if written.listen.udp.is_empty() && written.listen.tcp.is_empty() && written.listen.tls.is_empty() {
            let fix = format!("write udp = [\"0.0.0.0:{STUN_PORT}\", \"[::]:{STUN_PORT}\"], or remove the key");
            self.problem("listen.udp", Mistake::new("there is nothing to listen on", fix));
        }
        listen
    }

    pub(super) fn admin(&mut self, text: &str, listen: &[ListenAddress]) -> Option<SocketAddr> {
        if text.is_empty() || text == "off" {
            return None;
        }
        let address = self.accept("admin.listen", values::socket_address(text, ADMIN_PORT))?;
        self.local("admin.listen", address);
        let clash = |other: &&ListenAddress| other.transport.is_stream() && overlap(other.address, address);
        if let Some(other) = listen.iter().find(clash) {
            self.problem(
                "admin.listen",
                Mistake::new(
                    format!("clients connect to {} over TCP already", other.address),
                    format!("take another port, like \"127.0.0.1:{ADMIN_PORT}\""),
                ),
            );
        }
        if !address.ip().is_loopback() {
            self.note(
                "admin.listen",
                format!(
                    "{address} is not a loopback address: whoever reaches it can read the metrics; let a firewall \
                     decide who does."
                ),
            );
        }
        Some(address)
    }

    fn local(&mut self, key: &str, address: SocketAddr) {
        if !(self.machine.can_bind)(address.ip()) {
            let fix = format!("use one of {}", self.own_addresses(address.is_ipv4()));
            let wrong = format!("{} is not an address of this machine", address.ip());
            self.problem(key, Mistake::new(wrong, fix));
        }
    }

    pub(super) fn no_overlap(&mut self, key: &str, entry: ListenAddress, others: &[ListenAddress]) {
        let clash = |other: &&ListenAddress| {
            other.transport.is_stream() == entry.transport.is_stream() && overlap(other.address, entry.address)
        };
        if let Some(other) = others.iter().find(clash) {
            let wrong = if other.address == entry.address {
                format!("{} is listed twice", entry.address)
            } else {
                format!("{} and {} overlap", other.address, entry.address)
            };
            self.problem(key, Mistake::new(wrong, "remove one of the two"));
        }
    }

    /// Relayed transport addresses are UDP, so TCP and TLS listeners are not in their way.
    pub(super) fn not_among_relay_ports(
        &mut self,
        key: &str,
        entry: ListenAddress,
        relays: &[turn::RelayAddress],
        ports: &Ports,
    ) {
        let same_address = |relay: &turn::RelayAddress| {
            relay.bind == entry.address.ip()
                || (entry.address.ip().is_unspecified() && relay.bind.is_ipv4() == entry.address.is_ipv4())
        };
        if entry.transport == Transport::Udp && ports.contains(entry.address.port()) && relays.iter().any(same_address)
        {
            let port = entry.address.port();
            self.problem(
                key,
                Mistake::new(
                    format!("port {port} is among the relay ports {}-{}", ports.first, ports.last),
                    format!("listen on a port outside, like {STUN_PORT}, or change relay.ports"),
                ),
            );
        }
    }
}

/// Whether two sockets of one transport would want the same packets. IPv6 sockets take no IPv4 here.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && same_ip
}
