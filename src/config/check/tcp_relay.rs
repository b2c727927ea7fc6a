//! `[tcp_relay]` and `relay.udp`: what relays may speak towards peers, and which ports they may connect to.

use std::ops::RangeInclusive;

use super::{Checker, MINUTE};
use crate::config::Written;
use crate::config::values::{self, Mistake};
use crate::shard::ListenAddress;
use crate::turn::{PeerPorts, RelayTransports, TcpRelays};

impl Checker<'_> {
    pub(super) fn relay_transports(&mut self, written: &Written, listen: &[ListenAddress]) -> RelayTransports {
        let tcp = &written.tcp_relay;
        let rules = TcpRelays {
            ports: PeerPorts {
                allow: self.port_list("tcp_relay.allow_ports", &tcp.allow_ports),
                deny: self.port_list("tcp_relay.deny_ports", &tcp.deny_ports),
            },
            // TCP-6062-5.2-06; the kernel itself gives up after about two minutes.
            connect_timeout_secs: self.duration(
                "tcp_relay.connect_timeout",
                &tcp.connect_timeout,
                MINUTE / 2..=2 * MINUTE,
            ),
            connections_per_allocation: self.count(
                "limits.peer_connections_per_allocation",
                written.limits.peer_connections_per_allocation,
                1..=65_536,
            ),
        };
        if tcp.enabled && !listen.iter().any(|listen| listen.transport.is_stream()) {
            let wrong = "nobody can ask for a TCP relay: there is neither a TCP nor a TLS listener";
            self.problem("tcp_relay.enabled", Mistake::new(wrong, "write an address to listen.tcp, or false"));
        }
        if !tcp.enabled && !written.relay.udp {
            let wrong = "nothing is relayed: TCP relays are off, too";
            self.problem("relay.udp", Mistake::new(wrong, "write udp = true, or enabled = true in [tcp_relay]"));
        }
        if tcp.enabled {
            self.judge_ports(&rules.ports);
        }
        RelayTransports { udp: written.relay.udp, tcp: tcp.enabled.then_some(rules) }
    }

    fn port_list(&mut self, key: &str, texts: &[String]) -> Vec<RangeInclusive<u16>> {
        let mut ranges = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            ranges.extend(self.accept(format!("{key}[{index}]"), values::ports(text)));
        }
        ranges
    }

    /// Says what has been opened that is closed for a reason.
    fn judge_ports(&mut self, ports: &PeerPorts) {
        let closed = PeerPorts::default();
        let services: Vec<u16> = (1..=u16::MAX).filter(|port| ports.allows(*port) && !closed.allows(*port)).collect();
        if let Some(first) = services.first() {
            let what = match services.len() {
                1 => format!("port {first}, where services listen"),
                count => format!("{count} ports where services listen, {first} among them"),
            };
            let text = format!("clients can connect to {what}, at every address that they may reach.");
            self.note("tcp_relay.allow_ports", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accept, check};
    use crate::turn;

    #[test]
    fn each_mistake_is_refused_with_key_and_remedy() {
        let refused = [
            ("[relay]\nudp = false", ("relay.udp", "nothing is relayed", "enabled = true in [tcp_relay]")),
            (
                "[tcp_relay]\nenabled = true\n[listen]\ntcp = []",
                ("tcp_relay.enabled", "neither a TCP nor a TLS listener", "listen.tcp"),
            ),
            (
                "[tcp_relay]\nconnect_timeout = \"29s\"",
                ("tcp_relay.connect_timeout", "out of bounds", "\"30s\" to \"2m\""),
            ),
            ("[tcp_relay]\nallow_ports = [\"http\"]", ("tcp_relay.allow_ports[0]", "neither a port", "\"8000-8099\"")),
            ("[tcp_relay]\ndeny_ports = [\"1\", \"9-2\"]", ("tcp_relay.deny_ports[1]", "above the last", "\"2-9\"")),
        ];
        for (text, (key, wrong, fix)) in refused {
            let told = check(text).expect_err(text).to_string();
            assert!([key, wrong, fix].iter().all(|part| told.contains(part)), "{text}\n{told}");
        }
    }

    /// Abuse S3.
    #[test]
    fn s3_tcp_relays_are_off_until_switched_on_and_spare_services_then() {
        assert_eq!(accept("").shards.turn.relay_transports, turn::RelayTransports::default());
        let config = accept("[tcp_relay]\nenabled = true\nallow_ports = [\"443\"]\ndeny_ports = [\"5000-5999\"]");
        let transports = &config.shards.turn.relay_transports;
        let tcp = transports.tcp.as_ref().expect("on");
        assert!(transports.udp && tcp.ports.allows(443) && !tcp.ports.allows(80));
        assert!(!tcp.ports.allows(5500) && !tcp.ports.allows(6379) && tcp.ports.allows(50_000));
        assert_eq!((tcp.connect_timeout_secs, tcp.connections_per_allocation), (30, 32));
        assert!(!accept("[relay]\nudp = false\n[tcp_relay]\nenabled = true").shards.turn.relay_transports.udp);
    }
}
