//! `[peers]`: whom clients may reach through their relays.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Checker;
use crate::config::values::{self, Mistake};
use crate::config::written;
use crate::shard::ListenAddress;
use crate::turn::{PeerPolicy, PeerRefusal, RelayAddress};

impl Checker<'_> {
    pub(super) fn peers(
        &mut self,
        written: &written::Peers,
        relays: &[RelayAddress],
        listen: &[ListenAddress],
    ) -> PeerPolicy {
        let allow = self.prefixes("peers.allow", &written.allow);
        let deny = self.prefixes("peers.deny", &written.deny);
        for (index, prefix) in &allow {
            self.can_be_allowed(*index, prefix);
        }
        for (index, prefix) in &deny {
            if let Some((_, wider)) = allow.iter().find(|(_, wider)| wider.contains(prefix)) {
                self.problem(
                    format!("peers.deny[{index}]"),
                    Mistake::new(
                        format!("{prefix} would be reachable all the same: peers.allow has {wider} and wins"),
                        "remove it here, or make the prefixes in peers.allow narrower",
                    ),
                );
            }
        }
        let mut own = self.machine.interfaces.clone();
        own.extend(relays.iter().flat_map(|relay| [relay.bind, relay.advertise]));
        own.extend(listen.iter().map(|entry| entry.address.ip()).filter(|ip| !ip.is_unspecified()));
        own.sort_unstable();
        own.dedup();
        PeerPolicy {
            allow: allow.into_iter().map(|(_, prefix)| prefix).collect(),
            deny: deny.into_iter().map(|(_, prefix)| prefix).collect(),
            own,
        }
    }

    /// The good ones, with their place in the list.
    pub(super) fn prefixes(&mut self, key: &str, texts: &[String]) -> Vec<(usize, IpNet)> {
        let mut prefixes: Vec<(usize, IpNet)> = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let key = format!("{key}[{index}]");
            let Some(prefix) = self.accept(&key, values::prefix(text)) else {
                continue;
            };
            if prefixes.iter().any(|(_, other)| *other == prefix) {
                let wrong = format!("{prefix} is listed twice");
                self.problem(key, Mistake::new(wrong, "remove one of the two"));
            }
            prefixes.push((index, prefix));
        }
        prefixes
    }

    fn can_be_allowed(&mut self, index: usize, prefix: &IpNet) {
        // NAT64's well-known prefix is judged by what it leads to; every other disguise stays refused, so that a rule
        // for one would look as if it did something.
        let alone = PeerPolicy { allow: vec![*prefix], ..PeerPolicy::default() };
        let nat64: IpNet = "64:ff9b::/96".parse().expect("a prefix");
        if !nat64.contains(prefix)
            && alone.check(prefix.network()) == Err(PeerRefusal::Disguised)
            && !prefix.contains(&nat64)
        {
            self.problem(
                format!("peers.allow[{index}]"),
                Mistake::new(
                    format!("{prefix} disguises IPv4 addresses, which is never allowed"),
                    "write the IPv4 prefix itself",
                ),
            );
        }
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        if loopback.iter().any(|ip| prefix.contains(ip)) {
            self.note(
                "peers.allow",
                format!(
                    "{prefix} includes loopback: clients can reach whatever listens there on this machine, the admin \
                     port included."
                ),
            );
        }
        let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
        let metadata_v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));
        if prefix.contains(&metadata) || prefix.contains(&metadata_v6) {
            self.note(
                "peers.allow",
                format!("{prefix} includes the metadata service of clouds: clients could read this machine's keys."),
            );
        }
    }
}
