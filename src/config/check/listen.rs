//! `[listen]`: where clients come in.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::relay::Ports;
use super::{Checker, DAY, MINUTE, TABLE_MAX};
use crate::config::values::{self, Mistake};
use crate::config::written;
use crate::config::{PassThrough, Written};
use crate::shard::{self, ListenAddress, ListenOptions};
use crate::turn::{self, Transport};

const STUN_PORT: u16 = 3478;
/// TURN-8656-5-13.
const TLS_PORT: u16 = 5349;
const ADMIN_PORT: u16 = 9641;
/// Where a web server may listen that has left 443 to us; only for suggestions.
const WEB_PORT: u16 = 8443;

impl Checker<'_> {
    pub(super) fn listen(
        &mut self,
        written: &Written,
        relays: &[turn::RelayAddress],
        ports: &Ports,
    ) -> Vec<ListenAddress> {
        let defaults = written::Listen::default();
        let mut listen = Vec::new();
        for (transport, key, entries, default, port) in [
            (Transport::Udp, "listen.udp", &written.listen.udp, &defaults.udp, STUN_PORT),
            (Transport::Tcp, "listen.tcp", &written.listen.tcp, &defaults.tcp, STUN_PORT),
            (Transport::Tls, "listen.tls", &written.listen.tls, &defaults.tls, TLS_PORT),
            // DTLS-7350-3-06
            (Transport::Dtls, "listen.dtls", &written.listen.dtls, &defaults.dtls, TLS_PORT),
        ] {
            let is_default = entries == default;
            for (index, entry) in entries.iter().enumerate() {
                let key = format!("{key}[{index}]");
                let (text, options, address_key) = match entry {
                    written::ListenEntry::Address(text) => (text, ListenOptions::default(), key.clone()),
                    written::ListenEntry::Table(table) => {
                        (&table.address, self.options(&key, transport, table), format!("{key}.address"))
                    }
                };
                let Some(address) = self.accept(address_key, values::socket_address(text, port)) else {
                    continue;
                };
                if options.proxy_protocol && written.proxy_protocol.from.is_empty() {
                    let wrong = "only proxies are served here, and there are none";
                    let fix =
                        "write the load balancers' addresses, like from = [\"10.0.0.0/24\"], into [proxy_protocol]";
                    self.problem(format!("{key}.proxy_protocol"), Mistake::new(wrong, fix));
                }
                let entry = ListenAddress {
                    transport,
                    address,
                    // The defaults may be too much for a machine without IPv6; what was chosen must work.
                    required: !(is_default && address.is_ipv6()),
                    options,
                };
                if entry.speaks_dtls() && !cfg!(feature = "dtls") {
                    let fix = "build it with `cargo build --release --features dtls`, or remove this";
                    self.problem(&*key, Mistake::new("this hairpin was built without DTLS", fix));
                }
                if entry.required {
                    self.local(&key, address);
                }
                self.no_overlap(&key, entry, &listen);
                self.not_among_relay_ports(&key, entry, relays, ports);
                listen.push(entry);
            }
        }
        let lists = [&written.listen.udp, &written.listen.tcp, &written.listen.tls, &written.listen.dtls];
        if lists.iter().all(|list| list.is_empty()) {
            let fix = format!("write udp = [\"0.0.0.0:{STUN_PORT}\", \"[::]:{STUN_PORT}\"], or remove the key");
            self.problem("listen.udp", Mistake::new("there is nothing to listen on", fix));
        }
        listen
    }

    fn options(&mut self, key: &str, transport: Transport, table: &written::ListenTable) -> ListenOptions {
        if table.tls && transport != Transport::Tcp {
            let wrong = "tls = true belongs to a TCP listener, which then speaks both";
            self.problem(format!("{key}.tls"), Mistake::new(wrong, "move the entry to listen.tcp, or remove the key"));
        }
        let tls_too = table.tls && transport == Transport::Tcp;
        let has_tls = transport == Transport::Tls || tls_too;
        let mut pass_through = None;
        if !table.pass_through.is_empty() {
            let key = format!("{key}.pass_through");
            if !has_tls {
                let wrong = "who is meant can be read from TLS only, and there is none here";
                self.problem(
                    &*key,
                    Mistake::new(wrong, "move the entry to listen.tls, or add tls = true in listen.tcp"),
                );
            }
            pass_through = self.accept(&*key, values::socket_address(&table.pass_through, WEB_PORT));
            if pass_through.is_some_and(|to| to.ip().is_unspecified() || to.port() == 0) {
                let wrong = format!("nobody can connect to {}", table.pass_through);
                let fix = format!("write where the web server listens, like \"127.0.0.1:{WEB_PORT}\"");
                self.problem(key, Mistake::new(wrong, fix));
            }
        }
        if table.dtls && transport != Transport::Udp {
            let wrong = "dtls = true belongs to a UDP listener, which then speaks both";
            self.problem(format!("{key}.dtls"), Mistake::new(wrong, "move the entry to listen.udp, or remove the key"));
        }
        let dtls_too = table.dtls && transport == Transport::Udp;
        ListenOptions { proxy_protocol: table.proxy_protocol, tls_too, pass_through, dtls_too }
    }

    /// `[pass_through]`: for the shards, and for whoever carries the bytes.
    pub(super) fn pass_through(
        &mut self,
        written: &written::PassThrough,
        listen: &[ListenAddress],
    ) -> (shard::PassThrough, PassThrough) {
        let is_wanted = listen.iter().any(|entry| entry.options.pass_through.is_some());
        let mut names = Vec::new();
        for (index, name) in written.names.iter().enumerate() {
            let is_name = name.parse::<IpAddr>().is_err() && name.contains('.') && !name.contains(['*', ':', '/', ' ']);
            if !is_name {
                let wrong = format!("\"{name}\" is not the name of one server");
                let fix = "write the name in your turns: URLs, without a port, like \"turn.example.org\"";
                self.problem(format!("pass_through.names[{index}]"), Mistake::new(wrong, fix));
            }
            names.push(name.to_ascii_lowercase());
        }
        if !is_wanted && *written != written::PassThrough::default() {
            self.note("pass_through", "no listener has pass_through = \"…\", so nothing is passed on.");
        }
        // A loop would grow until something bursts.
        let clash =
            |to: SocketAddr| listen.iter().any(|entry| entry.transport.is_stream() && overlap(entry.address, to));
        if let Some(to) = listen.iter().filter_map(|entry| entry.options.pass_through).find(|to| clash(*to)) {
            let wrong = format!("{to} is one of the server's own listeners");
            self.problem("pass_through", Mistake::new(wrong, "write where the web server listens"));
        }
        let secs = |secs: u32| Duration::from_secs(secs.into());
        let carrier = PassThrough {
            proxy_protocol: written.proxy_protocol,
            connections: self.count("pass_through.connections", written.connections, 1..=TABLE_MAX),
            connect_timeout: secs(self.duration("pass_through.connect_timeout", &written.connect_timeout, 1..=MINUTE)),
            idle: secs(self.duration("pass_through.idle", &written.idle, 5..=DAY)),
        };
        (shard::PassThrough { names: names.into() }, carrier)
    }

    /// `[proxy_protocol]`
    pub(super) fn proxies(&mut self, written: &written::ProxyProtocol, listen: &[ListenAddress]) -> shard::Proxies {
        let timeout = self.duration("proxy_protocol.header_timeout", &written.header_timeout, 1..=MINUTE);
        let prefixes: Vec<_> = written
            .from
            .iter()
            .enumerate()
            .filter_map(|(index, text)| self.accept(format!("proxy_protocol.from[{index}]"), values::prefix(text)))
            .collect();
        let is_wanted = listen.iter().any(|entry| entry.options.proxy_protocol);
        if !is_wanted && !written.from.is_empty() {
            self.note(
                "proxy_protocol.from",
                "no listener has proxy_protocol = true, so nobody is asked who a client is.",
            );
        }
        if prefixes.iter().any(|prefix| prefix.prefix_len() == 0) {
            self.note("proxy_protocol.from", "everybody may claim to be anybody: write the proxies' addresses only.");
        }
        shard::Proxies { prefixes: prefixes.into(), header_timeout: Duration::from_secs(timeout.into()) }
    }

    /// Where HTTP is spoken with operators and web back ends.
    pub(super) fn http_address(&mut self, key: &str, text: &str, listen: &[ListenAddress]) -> Option<SocketAddr> {
        let address = self.accept(key, values::socket_address(text, ADMIN_PORT))?;
        self.local(key, address);
        let clash = |other: &&ListenAddress| other.transport.is_stream() && overlap(other.address, address);
        if let Some(other) = listen.iter().find(clash) {
            let wrong = format!("clients connect to {} over TCP already", other.address);
            self.problem(key, Mistake::new(wrong, format!("take another port, like \"127.0.0.1:{ADMIN_PORT}\"")));
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
        if !entry.transport.is_stream() && ports.contains(entry.address.port()) && relays.iter().any(same_address) {
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
