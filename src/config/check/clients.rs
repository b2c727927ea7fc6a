//! `[clients]` and `[compatibility]`: who is not served, and what clients of older RFCs are allowed.

use ipnet::IpNet;

use super::Checker;
use crate::config::values::Mistake;
use crate::config::written;
use crate::shard::ListenAddress;
use crate::turn::{Compatibility, Transport};

impl Checker<'_> {
    pub(super) fn denied_clients(&mut self, written: &written::Clients) -> Vec<IpNet> {
        self.prefixes("clients.deny", &written.deny).into_iter().map(|(_, prefix)| prefix).collect()
    }

    pub(super) fn compatibility(
        &mut self,
        written: &written::Compatibility,
        default_family: &str,
        listen: &[ListenAddress],
    ) -> Compatibility {
        let mut classic = Vec::new();
        for (index, text) in written.classic_stun.iter().enumerate() {
            let key = format!("compatibility.classic_stun[{index}]");
            let transport = self.word(&key, text, &[("udp", Transport::Udp), ("tcp", Transport::Tcp)]);
            if !listen.iter().any(|entry| entry.transport == transport) {
                let wrong = format!("nothing listens for {}", transport.label());
                let fix = format!("remove it here, or write an address into listen.{}", transport.label());
                self.problem(key, Mistake::new(wrong, fix));
            }
            classic.push(transport);
        }
        Compatibility {
            classic_udp: classic.contains(&Transport::Udp),
            classic_tcp: classic.contains(&Transport::Tcp),
            rfc_5766_channels: written.rfc5766_channels,
            own_family: self.word("relay.default_family", default_family, &[("ipv4", false), ("client", true)]),
        }
    }
}
