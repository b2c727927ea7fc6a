//! A topology brought to life: one network namespace per node, on patchbay.
//!
//! [`Lab::build`] makes all of it or nothing. Namespaces are anonymous, held by file descriptors of this process:
//! when the [`Lab`] or the process goes, so do they. There is no route out of the lab.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use patchbay::{Device, Firewall, FirewallConfig, IpSupport, NatConfig, NatFiltering, NatV6Mode};

use crate::delay::Delay;
use crate::impair;
use crate::nat::rules;
use crate::process::find_program;
use crate::session::Session;
use crate::sip::SIP_HOST;
use crate::topology::{Host, Ipv6, Nat, Role, Router, Service, Tcp, Topology, Udp};

/// The host name of the web server inside the lab; its certificate says so.
pub const WEB_HOST: &str = "web.lab";

/// The host name of the (first) TURN server inside the lab, and the authentication realm of all.
pub const TURN_HOST: &str = "turn.lab";

/// What the strictest firewalls let out.
const HTTPS_PORT: u16 = 443;

/// Where an HTTP proxy listens.
pub const PROXY_PORT: u16 = 3128;

/// A private network behind 1:1 NAT.
const ONE_TO_ONE_NETWORK: &str = "172.31.0.0/24";
/// The last byte of a TURN server's other address, and downwards for its neighbours; hosts are numbered from 2.
const OTHER_TURN_HOST: u8 = 250;

/// Every network behind a router is a /24.
const NETWORK_PREFIX: u8 = 24;

/// A running network.
pub struct Lab {
    /// First, so that no packet is held back of a network that goes.
    _delays: Vec<Delay>,
    topology: Topology,
    devices: BTreeMap<String, Device>,
    routers: BTreeMap<String, patchbay::Router>,
    /// Last, so that nodes go before the network that joins them.
    _network: patchbay::Lab,
}

impl Lab {
    /// Builds the network of a topology. The session is asked for because without one there is no permission to.
    ///
    /// # Errors
    /// A namespace, link or firewall rule could not be made; what had been made is gone again.
    pub async fn build(_session: &Session, topology: &Topology) -> Result<Lab> {
        let network = patchbay::Lab::builder()
            .allow_real_root()
            .build()
            .await
            .context("cannot make the namespace of the Internet exchange")?;

        let mut routers = BTreeMap::new();
        for router in &topology.routers {
            let built = build_router(&network, router, &routers)
                .await
                .with_context(|| format!("cannot build router {:?} (is nftables installed?)", router.name))?;
            routers.insert(router.name.clone(), built);
        }

        let mut devices = BTreeMap::new();
        for host in &topology.hosts {
            let router =
                routers.get(&host.behind).with_context(|| format!("router {:?} was not built", host.behind))?;
            let built = network.add_device(&host.name).iface("eth0", router.id()).build().await;
            let built = built.with_context(|| format!("cannot build host {:?}", host.name))?;
            complete_checksums(&built)?;
            devices.insert(host.name.clone(), built);
        }
        let mut delays = Vec::new();
        for router in &topology.routers {
            let built = &routers[&router.name];
            if router.nat == Nat::OneToOne {
                let host = topology.hosts.iter().find(|host| host.behind == router.name);
                translate_one_to_one(built, host.and_then(|host| devices[&host.name].ip()))?;
            }
            if !router.impairment.is_none() {
                delays.extend(impair::apply(built, router.impairment)?);
            }
        }

        let lab = Lab { _delays: delays, topology: topology.clone(), devices, routers, _network: network };
        lab.name_the_servers()?;
        lab.give_the_turn_servers_other_addresses().await?;
        Ok(lab)
    }

    /// The topology it was built from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The handle of a host.
    ///
    /// # Errors
    /// There is no host of that name; the message lists those there are.
    pub fn device(&self, name: &str) -> Result<&Device> {
        self.devices.get(name).ok_or_else(|| {
            let known = self.devices.keys().cloned().collect::<Vec<_>>().join(", ");
            anyhow!("there is no host {name:?} in this lab; use one of {known}")
        })
    }

    /// The host that runs a service.
    ///
    /// # Errors
    /// The host has lost its address.
    pub fn server(&self, service: Service) -> Result<(&Device, Ipv4Addr)> {
        let name = &self.topology.server(service).name;
        let device = self.device(name)?;
        let address = device.ip().with_context(|| format!("host {name:?} has no IPv4 address"))?;
        Ok((device, address))
    }

    /// The address at which others reach a host: its own, or the one that 1:1 NAT gives it.
    ///
    /// # Errors
    /// The host has lost its address.
    pub fn public_address(&self, host: &Host) -> Result<Ipv4Addr> {
        let router = self.topology.router_of(host);
        let address = match router.nat {
            Nat::OneToOne => self.router(&router.name)?.uplink_ip(),
            _ => self.device(&host.name)?.ip(),
        };
        address.with_context(|| format!("host {:?} has no IPv4 address", host.name))
    }

    /// The handle of a router.
    ///
    /// # Errors
    /// There is no router of that name.
    pub fn router(&self, name: &str) -> Result<&patchbay::Router> {
        self.routers.get(name).with_context(|| format!("there is no router {name:?} in this lab"))
    }

    /// A TURN server's other address, on the same network: what NAT behaviour discovery takes (RFC 5780). Behind 1:1 NAT,
    /// which has one address for one host, there is none.
    ///
    /// # Errors
    /// The host has lost its address.
    pub fn other_turn_address(&self, host: &Host) -> Result<Option<Ipv4Addr>> {
        if self.topology.router_of(host).nat == Nat::OneToOne {
            return Ok(None);
        }
        let address = self.device(&host.name)?.ip();
        let [a, b, c, _] = address.with_context(|| format!("host {:?} has no IPv4 address", host.name))?.octets();
        let neighbours = self.topology.servers(Service::Turn).filter(|server| server.behind == host.behind);
        let before = neighbours.take_while(|server| *server != host).count();
        let last = u8::try_from(before).ok().and_then(|before| OTHER_TURN_HOST.checked_sub(before));
        let last = last.with_context(|| format!("too many TURN servers behind {:?}", host.behind))?;
        Ok(Some(Ipv4Addr::new(a, b, c, last)))
    }

    /// All hosts by name.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &Device)> {
        self.devices.iter().map(|(name, device)| (&**name, device))
    }

    /// All routers by name.
    pub fn routers(&self) -> impl Iterator<Item = (&str, &patchbay::Router)> {
        self.routers.iter().map(|(name, router)| (&**name, router))
    }

    /// Puts the servers' names into every host's `/etc/hosts` (a private copy, bound over it in the node).
    fn name_the_servers(&self) -> Result<()> {
        for server in &self.topology.hosts {
            let Some(name) = host_name(&self.topology, server) else { continue };
            let address = self.public_address(server)?;
            for host in &self.topology.hosts {
                let device = self.device(&host.name)?;
                let address = match self.topology.router_of(host).ipv6 {
                    Ipv6::Nat64 => IpAddr::V6(behind_nat64(address)),
                    _ => IpAddr::V4(address),
                };
                // Chromium looks STUN and TURN servers up with a trailing dot and finds them only if it is there.
                device
                    .set_host(&format!("{name} {name}."), address)
                    .with_context(|| format!("cannot write the hosts file of {:?}", device.name()))?;
            }
        }
        Ok(())
    }

    async fn give_the_turn_servers_other_addresses(&self) -> Result<()> {
        for server in self.topology.servers(Service::Turn) {
            let Some(other) = self.other_turn_address(server)? else { continue };
            let interface = self.device(&server.name)?.iface("eth0").context("a TURN server has no eth0")?;
            let added = interface.add_ip(other, NETWORK_PREFIX).await;
            added.with_context(|| format!("cannot give {:?} another address", server.name))?;
        }
        Ok(())
    }

    /// The browsers' names, in the order of the topology.
    pub fn browsers(&self) -> impl Iterator<Item = &str> {
        self.topology.hosts.iter().filter(|host| host.role == Role::Browser).map(|host| &*host.name)
    }
}

/// Has a host write whole checksums into what it sends, as a network card would before it is on a wire. Between namespaces
/// the kernel leaves them to a card that is not there, and Hairpin has only whole packets relayed by the kernel. Without
/// ethtool they stay as they are, and the process relays.
fn complete_checksums(device: &Device) -> Result<()> {
    let Some(program) = find_program("ethtool") else { return Ok(()) };
    let mut ethtool = Command::new(program);
    ethtool.args(["-K", "eth0", "tx", "off"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = device.spawn_command_sync(ethtool).context("cannot start ethtool")?;
    let output = child.wait_with_output().context("cannot wait for ethtool")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("ethtool fails on host {:?} ({}): {}", device.name(), output.status, message.trim());
    }
    Ok(())
}

async fn build_router(
    network: &patchbay::Lab,
    router: &Router,
    built: &BTreeMap<String, patchbay::Router>,
) -> Result<patchbay::Router> {
    let mut builder = network.add_router(&router.name).nat(nat_config(router.nat)?);
    builder = match router.ipv6 {
        Ipv6::None => builder,
        Ipv6::Open | Ipv6::Stateful => builder.ip_support(IpSupport::DualStack),
        Ipv6::Nat64 => builder.ip_support(IpSupport::V6Only).nat_v6(NatV6Mode::Nat64),
    };
    if router.nat == Nat::OneToOne {
        builder = builder.downstream_cidr(ONE_TO_ONE_NETWORK.parse()?);
    }
    if let Some(mtu) = router.mtu {
        builder = builder.mtu(mtu.into());
    }
    let mut firewall = FirewallConfig::builder();
    if router.udp == Udp::Blocked {
        firewall.block_udp();
    }
    match router.tcp {
        Tcp::Open => {}
        Tcp::HttpsOnly => drop(firewall.allow_tcp(&[HTTPS_PORT])),
        Tcp::ProxyOnly => drop(firewall.allow_tcp(&[PROXY_PORT])),
    }
    if matches!(router.ipv6, Ipv6::Stateful | Ipv6::Nat64) {
        firewall.block_inbound();
    }
    let firewall = firewall.build();
    if firewall != FirewallConfig::default() {
        builder = builder.firewall(Firewall::Custom(firewall));
    }
    if let Some(behind) = &router.behind {
        let upstream = built.get(behind).with_context(|| format!("router {behind:?} was not built before it"))?;
        builder = builder.upstream(upstream.id());
    }
    let built = builder.build().await?;
    apply_nat(&built, router.nat)?;
    Ok(built)
}

/// The name under which others know a server: `web.lab`, `turn.lab`, `sip.lab`, and for further TURN servers and proxies
/// their own.
pub fn host_name(topology: &Topology, host: &Host) -> Option<String> {
    match host.role {
        Role::Browser | Role::SipClient | Role::Telephone => None,
        Role::Server(Service::Media | Service::Gateway) => None,
        Role::Server(Service::Web) => Some(WEB_HOST.to_owned()),
        Role::Server(Service::Sip) => Some(SIP_HOST.to_owned()),
        Role::Server(Service::Turn) if topology.server(Service::Turn) == host => Some(TURN_HOST.to_owned()),
        Role::Server(Service::Turn | Service::Proxy) => Some(format!("{}.lab", host.name)),
    }
}

/// RFC 6052: an IPv4 address as a host with IPv6 only reaches it.
fn behind_nat64(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets().map(u16::from);
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d)
}

/// Gives the one host behind a router the router's own address, for those outside and as the source of what it sends.
fn translate_one_to_one(router: &patchbay::Router, inside: Option<Ipv4Addr>) -> Result<()> {
    let problem = || format!("router {:?} or the host behind it has no IPv4 address", router.name());
    let (outside, inside) = (router.uplink_ip().with_context(problem)?, inside.with_context(problem)?);
    let wan = impair::uplink(router)?;
    let mut nft = Command::new(find_program("nft").context("nft is not installed")?);
    nft.arg(format!(
        r#"table ip netlab_one_to_one {{
            chain prerouting {{
                type nat hook prerouting priority dstnat; policy accept;
                iifname "{wan}" ip daddr {outside} dnat to {inside}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                oifname "{wan}" ip saddr {inside} snat to {outside}
            }}
        }}"#
    ));
    impair::run(router, nft)
}

/// What patchbay is told: addresses, routes and timeouts are those of a NAT; [`apply_nat`] then makes it the right one.
/// 1:1 NAT has rules of its own, made when the host's address is known.
fn nat_config(nat: Nat) -> Result<Option<NatConfig>> {
    let Some(behaviour) = nat.behaviour() else { return Ok(None) };
    let timeout = behaviour.udp_timeout_seconds;
    let config = NatConfig::builder().filtering(NatFiltering::EndpointIndependent);
    Ok(Some(config.udp_timeout(timeout).udp_stream_timeout(timeout).build()?))
}

/// Gives a router the rules of its NAT, in place of any that it has had. What has been translated stays so.
///
/// # Errors
/// The kernel refuses the rules, or the router has lost its address.
pub fn apply_nat(router: &patchbay::Router, nat: Nat) -> Result<()> {
    let Some(behaviour) = nat.behaviour() else { return Ok(()) };
    let address = router.uplink_ip().with_context(|| format!("router {:?} has no IPv4 address", router.name()))?;
    // On the Internet exchange, or behind another router.
    let outside = if router.iface("ix").is_some() { "ix" } else { "wan" };
    router.run_sync(move || rules::load(&rules::ruleset(&behaviour, outside, address)))
}
