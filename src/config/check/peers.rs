//! `[peers]`: whom clients may reach through their relays.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};

use super::Checker;
use crate::config::values::{self, Mistake};
use crate::config::written;
use crate::shard::ListenAddress;
use crate::turn::{PeerPolicy, PeerProfile, PeerRefusal, PeerRule, RelayAddress};

impl Checker<'_> {
    pub(super) fn peers(
        &mut self,
        written: &written::Peers,
        relays: &[RelayAddress],
        listen: &[ListenAddress],
        admin: &written::Admin,
    ) -> PeerPolicy {
        let allow = self.rules("peers.allow", &written.allow);
        let deny = self.rules("peers.deny", &written.deny);
        let profiles = [
            ("public", PeerProfile::Public),
            ("enterprise", PeerProfile::Enterprise),
            ("media-server", PeerProfile::MediaServer),
        ];
        let profile = self.word("peers.profile", &written.profile, &profiles);
        let nat64 = self.nat64(&written.nat64);
        for (index, rule) in &allow {
            self.can_be_allowed(*index, rule, &nat64);
        }
        for (index, rule) in &deny {
            if let Some((_, wider)) = allow.iter().find(|(_, wider)| wider.covers(rule)) {
                self.problem(
                    format!("peers.deny[{index}]"),
                    Mistake::new(
                        format!("{rule} would be reachable all the same: peers.allow has {wider} and wins"),
                        "remove it here, or make the prefixes in peers.allow narrower",
                    ),
                );
            }
        }
        if profile == PeerProfile::MediaServer {
            if !deny.is_empty() {
                let wrong = "with this profile nothing can be reached that peers.allow does not name";
                self.problem("peers.deny", Mistake::new(wrong, "remove it, or make peers.allow narrower"));
            }
            if allow.is_empty() {
                let text = "with the profile media-server and nothing in peers.allow, clients can reach each other's \
                            relayed addresses only.";
                self.note("peers.profile", text);
            }
        }
        let mut own = self.machine.interfaces.clone();
        own.extend(relays.iter().flat_map(|relay| [relay.bind, relay.advertise]));
        own.extend(listen.iter().map(|entry| entry.address.ip()).filter(|ip| !ip.is_unspecified()));
        own.sort_unstable();
        own.dedup();
        // What is wrong with these two is told where they are checked. A port of 0 is found out at start, and nobody can
        // have allowed it.
        let of_operator = [&admin.listen, &admin.credentials_listen].into_iter().filter_map(|text| text.parse().ok());
        let listeners = listen.iter().map(|entry| entry.address).chain(of_operator);
        let listeners = listeners.filter(|listener: &SocketAddr| listener.port() != 0).collect();
        PeerPolicy {
            profile,
            allow: allow.into_iter().map(|(_, rule)| rule).collect(),
            deny: deny.into_iter().map(|(_, rule)| rule).collect(),
            nat64,
            own,
            listeners,
        }
    }

    fn nat64(&mut self, texts: &[String]) -> Vec<Ipv6Net> {
        let accept =
            |(index, text): (usize, &String)| self.accept(format!("peers.nat64[{index}]"), values::nat64_prefix(text));
        texts.iter().enumerate().filter_map(accept).collect()
    }

    /// The good ones, with their place in the list.
    fn rules(&mut self, key: &str, texts: &[String]) -> Vec<(usize, PeerRule)> {
        self.listed(key, texts, values::peer_rule)
    }

    /// The same for prefixes alone.
    pub(super) fn prefixes(&mut self, key: &str, texts: &[String]) -> Vec<(usize, IpNet)> {
        self.listed(key, texts, values::prefix)
    }

    fn listed<T: PartialEq + fmt::Display>(
        &mut self,
        key: &str,
        texts: &[String],
        read: fn(&str) -> Result<T, Mistake>,
    ) -> Vec<(usize, T)> {
        let mut values: Vec<(usize, T)> = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let key = format!("{key}[{index}]");
            let Some(value) = self.accept(&key, read(text)) else {
                continue;
            };
            if values.iter().any(|(_, other)| *other == value) {
                let wrong = format!("{value} is listed twice");
                self.problem(key, Mistake::new(wrong, "remove one of the two"));
            }
            values.push((index, value));
        }
        values
    }

    fn can_be_allowed(&mut self, index: usize, rule: &PeerRule, nat64: &[Ipv6Net]) {
        let prefix = &rule.prefix;
        // NAT64's well-known prefix is judged by what it leads to; every other disguise stays refused, so that a rule
        // for one would look as if it did something.
        let alone = PeerPolicy { allow: vec![rule.clone()], nat64: nat64.to_vec(), ..PeerPolicy::default() };
        let well_known: IpNet = "64:ff9b::/96".parse().expect("a prefix");
        if !well_known.contains(prefix)
            && alone.check(prefix.network()) == Err(PeerRefusal::Disguised)
            && !prefix.contains(&well_known)
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
                    "{prefix} includes loopback: clients can reach whatever listens there on this machine, this server \
                     itself excepted."
                ),
            );
        }
        let metadata = ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"];
        let includes = |ip: &&str| prefix.contains(&ip.parse::<IpAddr>().expect("an address"));
        if metadata.iter().any(includes) && (rule.ports.contains(&80) || rule.ports.contains(&443)) {
            self.note(
                "peers.allow",
                format!("{prefix} includes the metadata service of clouds: clients could read this machine's keys."),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accept, check};
    use crate::turn::{PeerProfile, PeerRefusal};

    #[test]
    fn s2_each_mistake_is_refused_with_key_and_remedy() {
        let refused = [
            ("profile = \"open\"", ("peers.profile", "not known here", "\"media-server\"")),
            ("allow = [\"media.example.org\"]", ("peers.allow[0]", "is a name", "write the addresses")),
            ("deny = [\"9.9.9.9\", \"example.org:80\"]", ("peers.deny[1]", "is a name", "names are not looked up")),
            ("allow = [\"10.0.0.0/8:9-1\"]", ("peers.allow[0]", "above the last", "\"1-9\"")),
            (
                "allow = [\"10.0.0.0/8:1-99\"]\ndeny = [\"10.1.0.0/16:50-60\"]",
                ("peers.deny[0]", "peers.allow has 10.0.0.0/8:1-99 and wins", "narrower"),
            ),
            ("deny = [\"9.9.9.9:1\", \"9.9.9.9/32:1\"]", ("peers.deny[1]", "listed twice", "remove one")),
            (
                "profile = \"media-server\"\ndeny = [\"9.9.9.9\"]",
                ("peers.deny", "peers.allow does not name", "remove it"),
            ),
            ("nat64 = [\"2001:db8::/95\"]", ("peers.nat64[0]", "not a prefix that NAT64 can have", "96")),
        ];
        for (text, (key, wrong, fix)) in refused {
            let told = check(&format!("[peers]\n{text}")).expect_err(text).to_string();
            assert!([key, wrong, fix].iter().all(|part| told.contains(part)), "{text}\n{told}");
        }
    }

    /// Abuse S20: what listens for clients and operators is not opened by any rule, wherever it is reached.
    #[test]
    fn s20_the_servers_own_ports_stay_closed() {
        let text = "[listen]\nudp = [\"0.0.0.0:3478\"]\ntcp = [\"127.0.0.1:3479\"]\n\
                    [admin]\nlisten = \"127.0.0.1:9641\"\ncredentials_token = \"0123456789abcdef0123456789abcdef\"\n\
                    credentials_listen = \"127.0.0.2:9642\"\n[auth]\nsecrets = [\"0123456789abcdef\"]\n\
                    [peers]\nallow = [\"127.0.0.0/8\", \"0.0.0.0\", \"10.0.0.0/8:3479\"]";
        let policy = accept(text).shards.turn.peers.clone();
        let is_open = |ip: &str, port| policy.ports(ip.parse().unwrap()).is_ok_and(|ports| ports.contains(port));
        for (ip, port) in [
            ("127.0.0.1", 9641),
            ("127.0.0.1", 3478),
            ("127.9.9.9", 3478),
            ("127.0.0.1", 3479),
            ("127.0.0.2", 9642),
            ("0.0.0.0", 9641),
            ("0.0.0.0", 3478),
        ] {
            assert!(!is_open(ip, port), "{ip}:{port}");
        }
        for (ip, port) in [("127.0.0.1", 9642), ("127.0.0.2", 9641), ("127.0.0.1", 80), ("10.0.0.9", 3479)] {
            assert!(is_open(ip, port), "{ip}:{port}");
        }
    }

    #[test]
    fn rules_and_profiles_arrive_where_they_count() {
        let config =
            accept("[peers]\nallow = [\"10.20.0.0/16:3000-4000\"]\ndeny = [\"10.20.0.0/16:80\", \"0.0.0.0/0:25\"]");
        let ports = |ip: &str| config.shards.turn.peers.ports(ip.parse().unwrap());
        let media = ports("10.20.1.1").expect("allowed by name");
        assert!(media.contains(3000) && media.contains(4000) && !media.contains(80) && !media.contains(4001));
        let public = ports("8.8.8.8").expect("public");
        assert!(public.contains(80) && !public.contains(25));
        assert_eq!(ports("10.21.0.1"), Err(PeerRefusal::SpecialPurpose));
        let peers = |text: &str| accept(text).shards.turn.peers.clone();
        assert_eq!(peers("").profile, PeerProfile::Public);
        assert_eq!(peers("[peers]\nprofile = \"enterprise\"").check("10.0.0.1".parse().unwrap()), Ok(()));
        let media_server = accept("[peers]\nprofile = \"media-server\"");
        assert!(media_server.notes.iter().any(|note| note.text.contains("relayed addresses only")));
        let refused = media_server.shards.turn.peers.check("8.8.8.8".parse().unwrap());
        assert_eq!(refused, Err(PeerRefusal::NotAllowed));
        let nat64 = peers("[peers]\nnat64 = [\"64:ff9b::/96\"]");
        assert_eq!(nat64.check("64:ff9b::8.8.8.8".parse().unwrap()), Ok(()));
        assert!(nat64.check("64:ff9b::10.0.0.1".parse().unwrap()).is_err());
    }
}
