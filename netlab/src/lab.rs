//! A topology brought to life: one network namespace per node, on patchbay.
//!
//! [`Lab::build`] makes all of it or nothing. Namespaces are anonymous, held by file descriptors of this process:
//! when the [`Lab`] or the process goes, so do they. There is no route out of the lab.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, anyhow};
use patchbay::{Device, Firewall, FirewallConfig, NatConfig, NatFiltering};

use crate::nat::rules;
use crate::session::Session;
use crate::sip::SIP_HOST;
use crate::topology::{Nat, Role, Router, Service, Tcp, Topology, Udp};

/// The host name of the web server inside the lab; its certificate says so.
pub const WEB_HOST: &str = "web.lab";

/// The host name of the TURN server inside the lab, and its authentication realm.
pub const TURN_HOST: &str = "turn.lab";

/// What the strictest firewalls let out.
const HTTPS_PORT: u16 = 443;

/// The last byte of the TURN server's other address; hosts are numbered from 2.
const OTHER_TURN_HOST: u8 = 250;

/// Every network behind a router is a /24.
const NETWORK_PREFIX: u8 = 24;

/// A running network.
pub struct Lab {
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
            devices.insert(host.name.clone(), built.with_context(|| format!("cannot build host {:?}", host.name))?);
        }

        let lab = Lab { topology: topology.clone(), devices, routers, _network: network };
        lab.name_the_servers()?;
        lab.give_the_turn_server_another_address().await?;
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

    /// The TURN server's other address, on the same network: what NAT behaviour discovery takes (RFC 5780).
    ///
    /// # Errors
    /// As for [`Lab::server`].
    pub fn other_turn_address(&self) -> Result<Ipv4Addr> {
        let (_, address) = self.server(Service::Turn)?;
        let [a, b, c, _] = address.octets();
        Ok(Ipv4Addr::new(a, b, c, OTHER_TURN_HOST))
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
        for (service, name) in [(Service::Web, WEB_HOST), (Service::Turn, TURN_HOST), (Service::Sip, SIP_HOST)] {
            if self.topology.find_server(service).is_none() {
                continue;
            }
            let (_, address) = self.server(service)?;
            for device in self.devices.values() {
                // Chromium looks STUN and TURN servers up with a trailing dot and finds them only if it is there.
                device
                    .set_host(&format!("{name} {name}."), IpAddr::V4(address))
                    .with_context(|| format!("cannot write the hosts file of {:?}", device.name()))?;
            }
        }
        Ok(())
    }

    async fn give_the_turn_server_another_address(&self) -> Result<()> {
        let (device, _) = self.server(Service::Turn)?;
        let interface = device.iface("eth0").context("the TURN server has no eth0")?;
        let added = interface.add_ip(self.other_turn_address()?, NETWORK_PREFIX).await;
        added.context("cannot give the TURN server another address")
    }

    /// The browsers' names, in the order of the topology.
    pub fn browsers(&self) -> impl Iterator<Item = &str> {
        self.topology.hosts.iter().filter(|host| host.role == Role::Browser).map(|host| &*host.name)
    }
}

async fn build_router(
    network: &patchbay::Lab,
    router: &Router,
    built: &BTreeMap<String, patchbay::Router>,
) -> Result<patchbay::Router> {
    let mut builder = network.add_router(&router.name).nat(nat_config(router.nat)?);
    let mut firewall = FirewallConfig::builder();
    if router.udp == Udp::Blocked {
        firewall.block_udp();
    }
    if router.tcp == Tcp::HttpsOnly {
        firewall.allow_tcp(&[HTTPS_PORT]);
    }
    if router.udp == Udp::Blocked || router.tcp == Tcp::HttpsOnly {
        builder = builder.firewall(Firewall::Custom(firewall.build()));
    }
    if let Some(behind) = &router.behind {
        let upstream = built.get(behind).with_context(|| format!("router {behind:?} was not built before it"))?;
        builder = builder.upstream(upstream.id());
    }
    let built = builder.build().await?;
    apply_nat(&built, router.nat)?;
    Ok(built)
}

/// What patchbay is told: addresses, routes and timeouts are those of a NAT; [`apply_nat`] then makes it the right one.
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
