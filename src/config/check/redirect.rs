//! `[redirect]`: to which other servers clients are sent, and what is anycast.

use std::net::{IpAddr, SocketAddr};

use super::Checker;
use super::relay::definite_address;
use crate::config::Written;
use crate::config::values::Mistake;
use crate::config::written;
use crate::shard::ListenAddress;
use crate::turn::{Alternate, Redirect, RedirectWhen, RelayAddress, Transport};

/// STUN-8489-14.16-01, and what DNS allows.
const DOMAIN_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;

impl Checker<'_> {
    pub(super) fn redirect(
        &mut self,
        written: &Written,
        relays: &[RelayAddress],
        listen: &[ListenAddress],
    ) -> Redirect {
        let whens =
            [("draining", RedirectWhen::Draining), ("full", RedirectWhen::Full), ("always", RedirectWhen::Always)];
        let when = self.word("redirect.when", &written.redirect.when, &whens);
        let shares_nonces = !written.auth.nonce_secret.is_empty() || !written.auth.nonce_secret_file.is_empty();
        let mut alternates = Vec::new();
        for (index, entry) in written.redirect.alternates.iter().enumerate() {
            let Some(alternate) = self.alternate(&format!("redirect.alternates[{index}]"), entry) else {
                continue;
            };
            // STUN-8489-10-06
            if is_this_server(&alternate, &self.machine.interfaces, relays, listen) {
                let text = format!("{} is this server itself, and is left out.", alternate.addresses[0]);
                self.note("redirect.alternates", text);
            } else {
                alternates.push(alternate);
            }
        }
        if when > RedirectWhen::Draining && !alternates.is_empty() && !shares_nonces {
            self.note(
                "redirect.when",
                "servers that redirect to each other cannot tell whom the other has sent, and some clients will go to \
                 and fro; write the same auth.nonce_secret on all of them.",
            );
        }
        let (anycast, unicast) = self.anycast(&written.redirect, relays, listen);
        let unauthenticated = written.redirect.unauthenticated;
        Redirect { when, alternates, unauthenticated, shares_nonces, anycast, unicast }
    }

    fn alternate(&mut self, key: &str, written: &written::Alternate) -> Option<Alternate> {
        let addresses = self.addresses(&format!("{key}.addresses"), &written.addresses);
        let families = |v4| addresses.iter().filter(|ip| ip.is_ipv4() == v4).count();
        if written.addresses.is_empty() || families(true) > 1 || families(false) > 1 {
            let wrong = "a server has one address, or one of each family";
            let fix = "write addresses = [\"203.0.113.5\", \"2001:db8::5\"], and an entry of its own for each server";
            self.problem(format!("{key}.addresses"), Mistake::new(wrong, fix));
            return None;
        }
        let port = self.count(&format!("{key}.port"), written.port, 1..=65_535) as u16;
        let tls_port = self.count(&format!("{key}.tls_port"), written.tls_port, 1..=65_535) as u16;
        let domain = (!written.domain.is_empty()).then(|| written.domain.clone());
        if domain.as_deref().is_some_and(|name| !is_host_name(name)) {
            let wrong = "this is not a host name in the form of DNS";
            let fix = "write letters, digits, hyphens and dots, like \"turn2.example.org\"; other letters as \"xn--…\"";
            self.problem(format!("{key}.domain"), Mistake::new(wrong, fix));
        }
        // If none of them could be read, that was said already.
        (!addresses.is_empty()).then_some(Alternate { addresses, port, tls_port, domain })
    }

    fn anycast(
        &mut self,
        written: &written::Redirect,
        relays: &[RelayAddress],
        listen: &[ListenAddress],
    ) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let anycast = self.addresses("redirect.anycast", &written.anycast);
        for (index, ip) in anycast.iter().enumerate() {
            if !(self.machine.can_bind)(*ip) {
                let fix = format!("use one of {}", self.own_addresses(ip.is_ipv4()));
                let wrong = format!("{ip} is not an address of this machine");
                self.problem(format!("redirect.anycast[{index}]"), Mistake::new(wrong, fix));
            }
        }
        let mut unicast = self.addresses("redirect.unicast", &written.unicast);
        if let Some(both) = unicast.iter().position(|ip| anycast.contains(ip)) {
            let wrong = format!("{} is in redirect.anycast, too", unicast[both]);
            self.problem(format!("redirect.unicast[{both}]"), Mistake::new(wrong, "keep it in one of the two"));
        }
        if written.unicast.is_empty() {
            unicast.extend(relays.iter().map(|relay| relay.advertise).filter(|ip| !anycast.contains(ip)));
        }
        if let Some(index) = anycast.iter().position(|ip| !unicast.iter().any(|other| other.is_ipv4() == ip.is_ipv4()))
        {
            let family = if anycast[index].is_ipv4() { "IPv4" } else { "IPv6" };
            let wrong = format!("clients that come to {} can be told no unicast address of {family}", anycast[index]);
            let fix = "write one into redirect.unicast";
            self.problem(format!("redirect.anycast[{index}]"), Mistake::new(wrong, fix));
        }
        if !anycast.is_empty() && listen.iter().all(|entry| anycast.contains(&entry.address.ip())) {
            let wrong = "the server listens nowhere but at anycast addresses, and nobody can allocate there";
            self.problem("redirect.anycast", Mistake::new(wrong, "listen at the unicast addresses as well"));
        }
        (anycast, unicast)
    }

    fn addresses(&mut self, key: &str, texts: &[String]) -> Vec<IpAddr> {
        let texts = texts.iter().enumerate();
        texts.filter_map(|(index, text)| self.accept(format!("{key}[{index}]"), definite_address(text))).collect()
    }
}

/// Whether clients that are sent there would come back to one of these listeners.
fn is_this_server(
    alternate: &Alternate,
    interfaces: &[IpAddr],
    relays: &[RelayAddress],
    listen: &[ListenAddress],
) -> bool {
    let reaches = |address: SocketAddr, ip: &IpAddr| {
        let is_own = |own: &IpAddr| {
            own == &address.ip() || (address.ip().is_unspecified() && own.is_ipv4() == address.is_ipv4())
        };
        address.ip() == *ip
            || (interfaces.contains(ip) && is_own(ip))
            || relays.iter().any(|relay| relay.advertise == *ip && is_own(&relay.bind))
    };
    listen.iter().any(|entry| {
        let port = if entry.transport == Transport::Tls { alternate.tls_port } else { alternate.port };
        entry.address.port() == port && alternate.addresses.iter().any(|ip| reaches(entry.address, ip))
    })
}

/// Labels of letters, digits and hyphens.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= DOMAIN_BYTES_MAX && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stun_8489_14_16_01_domains_are_a_labels_of_at_most_255_bytes() {
        let longest = format!("{}.example", vec!["a".repeat(61); 4].join("."));
        for name in ["turn.example.org", "xn--bcher-kva.example", "a", &longest] {
            assert!(is_host_name(name), "{name}");
        }
        let too_long = format!("{}.example", vec!["a".repeat(62); 4].join("."));
        for name in ["", "bücher.example", "a..b", "a.", "-a.b", "a_b", "a b", &"a".repeat(64), &too_long] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
