//! What has to be known about the machine to complete and judge a configuration.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Facts about the machine, gathered once; tests make them up.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Cores this process may use, at least 1.
    pub cores: usize,
    /// Addresses of all its interfaces, loopback included.
    pub interfaces: Vec<IpAddr>,
    /// The addresses from which packets to the Internet would leave, at most one of each family.
    pub default_routes: Vec<IpAddr>,
    /// Whether a socket can be bound to this address.
    pub can_bind: fn(IpAddr) -> bool,
    /// The server runs elsewhere, and what only it needs is missing here.
    pub is_another: bool,
}

impl Machine {
    /// This machine. No packet is sent.
    ///
    /// # Errors
    /// If the interfaces cannot be listed.
    pub fn this() -> io::Result<Self> {
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            interfaces: interfaces()?,
            // Any address of the public Internet does (these are a root name server's): connecting a UDP socket only
            // asks the routing table.
            default_routes: [
                route_towards(IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4))),
                route_towards(IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30))),
            ]
            .into_iter()
            .flatten()
            .collect(),
            can_bind: |ip| UdpSocket::bind((ip, 0)).is_ok(),
            is_another: false,
        })
    }

    /// No machine in particular: for work that needs the file but not the place, like making credentials elsewhere.
    pub fn any() -> Self {
        Self { cores: 1, interfaces: Vec::new(), default_routes: Vec::new(), can_bind: |_| true, is_another: true }
    }
}

fn interfaces() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn route_towards(destination: IpAddr) -> Option<IpAddr> {
    let unspecified: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect(SocketAddr::new(destination, 9)).ok()?;
    let local = socket.local_addr().ok()?.ip();
    (!local.is_unspecified() && !local.is_loopback()).then_some(local)
}
