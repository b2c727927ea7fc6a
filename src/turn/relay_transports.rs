//! What relays speak towards peers, and which ports of peers a TCP relay may connect to (RFC 6062; abuse S3).

use std::ops::RangeInclusive;

/// The transport between a relay and its peers: REQUESTED-TRANSPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerTransport {
    /// Datagrams.
    Udp,
    /// Connections, each with a client data connection of its own (RFC 6062).
    Tcp,
}

impl PeerTransport {
    /// `udp` or `tcp`, as metrics and logs use it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What clients may allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayTransports {
    /// UDP relays; without them REQUESTED-TRANSPORT 17 is answered 403 (TCP-6062-5.1-02).
    pub udp: bool,
    /// TCP relays; `None` answers REQUESTED-TRANSPORT 6 with 442 (TCP-6062-5.1-01). Allocations that exist live on when
    /// this changes, but connect to nobody any more.
    pub tcp: Option<TcpRelays>,
}

impl Default for RelayTransports {
    /// UDP alone: a TCP relay is a way into whatever listens on TCP (abuse S3).
    fn default() -> Self {
        Self { udp: true, tcp: None }
    }
}

/// Rules for TCP allocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRelays {
    /// Whom Connect may reach.
    pub ports: PeerPorts,
    /// Seconds until Connect is answered 447, at least 30 (TCP-6062-5.2-06).
    pub connect_timeout_secs: u32,
    /// Connections to peers of one allocation, those being made included; 508 beyond.
    pub connections_per_allocation: usize,
}

/// Ports that Connect may reach. Below 1024 and [`PeerPorts::KNOWN_SERVICES`] are refused unless allowed by name; of
/// relayed addresses of this server all ports are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPorts {
    /// Wins over everything.
    pub allow: Vec<RangeInclusive<u16>>,
    /// Refused in addition.
    pub deny: Vec<RangeInclusive<u16>>,
}

impl PeerPorts {
    /// Ports from 1024 on at which databases, caches, queues, consoles and the like listen, often for anybody who gets
    /// as far as their network. All below the ports that systems give out by themselves, where peers are.
    pub const KNOWN_SERVICES: [u16; 49] = [
        1099, 1433, 1521, 1883, 2049, 2181, 2375, 2376, 2379, 2380, 3128, 3260, 3306, 3389, 4369, 4444, 5432, 5601,
        5671, 5672, 5900, 5901, 5984, 5985, 5986, 6000, 6379, 6443, 7001, 7199, 8000, 8080, 8086, 8088, 8443, 8500,
        8888, 9000, 9042, 9090, 9092, 9100, 9200, 9300, 10_250, 11_211, 15_672, 27_017, 27_018,
    ];

    /// Whether Connect may go to this port.
    pub fn allows(&self, port: u16) -> bool {
        let is_in = |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|range| range.contains(&port));
        let is_ordinary = port >= 1024 && Self::KNOWN_SERVICES.binary_search(&port).is_err();
        is_in(&self.allow) || is_ordinary && !is_in(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abuse S3.
    #[test]
    fn s3_ports_of_services_are_refused_unless_listed() {
        let ports = PeerPorts::default();
        for port in [0, 1, 22, 80, 443, 1023, 6379, 5432, 3306, 11_211, 27_017, 2375, 8080] {
            assert!(!ports.allows(port), "{port}");
        }
        for port in [1024, 5000, 40_000, 49_152, 65_535] {
            assert!(ports.allows(port), "{port}");
        }
        assert!(PeerPorts::KNOWN_SERVICES.is_sorted(), "the search needs an order");
        assert!(PeerPorts::KNOWN_SERVICES.iter().all(|port| (1024..32_768).contains(port)));

        let only = PeerPorts { allow: vec![443..=443, 5432..=5433, 7000..=7009], deny: vec![1024..=65_535] };
        for port in [443, 5432, 5433, 7000, 7009] {
            assert!(only.allows(port), "{port}");
        }
        for port in [442, 444, 5434, 6999, 7010, 65_535] {
            assert!(!only.allows(port), "{port}");
        }
    }
}
