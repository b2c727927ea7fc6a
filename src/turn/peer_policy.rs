//! Which addresses and ports a client may reach through a relay (RFC 8656 §21.2.2; abuse S1, S2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::peer_rules::{PeerRule, PortSet};

/// Allow and deny rules over what is always refused.
///
/// Own *relayed* addresses never get here: they are always allowed, because two clients of the same server meet there.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// What no rule speaks of.
    pub profile: PeerProfile,
    /// Wins over everything but disguised addresses.
    pub allow: Vec<PeerRule>,
    /// Refused in addition to what the profile refuses.
    pub deny: Vec<PeerRule>,
    /// NAT64 prefixes of this network (RFC 6052): what lies there is judged by the IPv4 address behind it as well.
    pub nat64: Vec<Ipv6Net>,
    /// Addresses of this machine: its listeners, its admin port, whatever else runs on it.
    pub own: Vec<IpAddr>,
    /// Where the server itself listens, for clients and for its operator: no rule opens it (abuse S20).
    pub listeners: Vec<SocketAddr>,
}

/// What may be reached if no rule speaks of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerProfile {
    /// The public Internet: everything but the special-purpose registries.
    #[default]
    Public,
    /// The same, and private networks: RFC 1918 and unique local addresses (RFC 4193).
    Enterprise,
    /// Nothing.
    MediaServer,
}

/// Which rule refused a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRefusal {
    /// In an IANA special-purpose registry: private, loopback, link-local, multicast, documentation, …
    SpecialPurpose,
    /// An IPv4 address dressed up as IPv6 (mapped, compatible, 6to4, Teredo, …): refused whatever it hides, because
    /// no peer has such an address as its own (TURN-8656-21.4-01, 9-06).
    Disguised,
    /// Where a cloud tells its machines their secrets, at an address that is not link-local.
    Metadata,
    /// One of this machine's own addresses (TURN-8656-21.1.7-01).
    Own,
    /// Matches a `deny` rule.
    Denied,
    /// No `allow` rule names it, and the profile allows nothing else.
    NotAllowed,
    /// Other ports of this address may be reached, but not this one, or TCP relays do not connect to it (abuse S3).
    Port,
}

impl PeerRefusal {
    /// The word used in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SpecialPurpose => "special_purpose",
            Self::Disguised => "disguised_ipv4",
            Self::Metadata => "metadata",
            Self::Own => "own_address",
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
            Self::Port => "port",
        }
    }
}

impl PeerPolicy {
    /// Decides about one address: whether any of its ports may be reached.
    ///
    /// # Errors
    /// The first rule that refuses it; the caller answers 403 or drops.
    pub fn check(&self, peer: IpAddr) -> Result<(), PeerRefusal> {
        self.ports(peer).map(drop)
    }

    /// The ports of one address that may be reached, at least one.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn ports(&self, peer: IpAddr) -> Result<PortSet, PeerRefusal> {
        let mut ports = self.ports_by_rule(peer)?;
        self.close_listeners(peer, &mut ports);
        if ports.is_empty() { Err(PeerRefusal::Own) } else { Ok(ports) }
    }

    /// Takes out the ports at which this address is the server itself.
    pub(super) fn close_listeners(&self, peer: IpAddr, ports: &mut PortSet) {
        let is_this_machine = peer.is_loopback() || peer.is_unspecified() || self.own.contains(&peer);
        let is_there = |listener: &&SocketAddr| match listener.ip() {
            ip if ip.is_unspecified() => is_this_machine,
            // Of whoever sends to no address in particular the kernel takes this machine for the receiver.
            ip => ip == peer || peer.is_unspecified(),
        };
        for listener in self.listeners.iter().filter(is_there) {
            ports.remove(&(listener.port()..=listener.port()));
        }
    }

    fn ports_by_rule(&self, peer: IpAddr) -> Result<PortSet, PeerRefusal> {
        let (named, inner) = match self.embedded_ipv4(peer) {
            None => return self.ports_of(peer, self.profile == PeerProfile::MediaServer),
            Some(Embedded::Disguise) => return Err(PeerRefusal::Disguised),
            // NAT64 is a real path in IPv6-only networks: usable where the operator allows the prefix by name,
            // and then only towards IPv4 addresses that may be reached themselves.
            Some(Embedded::Translated(inner)) => (self.allowed_by_name(peer), inner),
            // Whoever has said what the prefix is need not allow it, too.
            Some(Embedded::OwnNat64(inner)) => (self.ports_of(peer, false)?, inner),
        };
        if named.is_empty() {
            return Err(PeerRefusal::Disguised);
        }
        let ports = self.ports(IpAddr::V4(inner))?.intersection(&named);
        if ports.is_empty() { Err(PeerRefusal::Port) } else { Ok(ports) }
    }

    /// The ports of an address that is what it looks like.
    fn ports_of(&self, peer: IpAddr, only_by_name: bool) -> Result<PortSet, PeerRefusal> {
        let named = self.allowed_by_name(peer);
        let refusal = if self.own.contains(&peer) {
            Some(PeerRefusal::Own)
        } else if is_metadata(peer) {
            Some(PeerRefusal::Metadata)
        } else if is_special_purpose(peer, self.profile) {
            Some(PeerRefusal::SpecialPurpose)
        } else {
            only_by_name.then_some(PeerRefusal::NotAllowed)
        };
        if let Some(refusal) = refusal {
            return if named.is_empty() { Err(refusal) } else { Ok(named) };
        }
        let mut ports = PortSet::all();
        for rule in self.deny.iter().filter(|rule| rule.is_about(peer)) {
            ports.remove(&rule.ports);
        }
        for rule in self.allow.iter().filter(|rule| rule.is_about(peer)) {
            ports.insert(&rule.ports);
        }
        if ports.is_empty() { Err(PeerRefusal::Denied) } else { Ok(ports) }
    }

    /// The ports that `allow` rules name at this address.
    pub(super) fn allowed_by_name(&self, peer: IpAddr) -> PortSet {
        let mut ports = PortSet::default();
        for rule in self.allow.iter().filter(|rule| rule.is_about(peer)) {
            ports.insert(&rule.ports);
        }
        ports
    }

    fn embedded_ipv4(&self, ip: IpAddr) -> Option<Embedded> {
        let IpAddr::V6(ip) = ip else { return None };
        if let Some(prefix) = self.nat64.iter().find(|prefix| prefix.contains(&ip)) {
            return Some(Embedded::OwnNat64(behind_nat64(ip, prefix.prefix_len())));
        }
        if NAT64_WELL_KNOWN.contains(&ip) {
            return Some(Embedded::Translated(behind_nat64(ip, NAT64_WELL_KNOWN.prefix_len())));
        }
        // :: and ::1 lie in ::/96 but are addresses of their own; the registry below refuses them.
        if ip.is_unspecified() || ip.is_loopback() {
            return None;
        }
        DISGUISES.iter().any(|prefix| prefix.contains(&ip)).then_some(Embedded::Disguise)
    }
}

enum Embedded {
    /// Behind NAT64's well-known prefix.
    Translated(Ipv4Addr),
    /// Behind the NAT64 of this network.
    OwnNat64(Ipv4Addr),
    /// Never a peer's own address.
    Disguise,
}

const NAT64_WELL_KNOWN: Ipv6Net = v6(0x0064_ff9b, 0, 96);

const DISGUISES: [Ipv6Net; 6] = [
    v6_low(0x0000_ffff_0000_0000, 96), // ::ffff:0:0/96, IPv4-mapped
    v6_low(0xffff_0000_0000_0000, 96), // ::ffff:0:0:0/96, IPv4-translated (SIIT)
    v6_low(0, 96),                     // ::/96, IPv4-compatible, with :: and ::1
    v6(0x0064_ff9b, 0x0001_0000, 48),  // 64:ff9b:1::/48, NAT64 local use
    v6(0x2002_0000, 0, 16),            // 2002::/16, 6to4
    v6(0x2001_0000, 0, 32),            // 2001::/32, Teredo
];

/// The IPv4 address behind a NAT64 prefix of this length: the four bytes after it, the ninth left out (RFC 6052 §2.2).
fn behind_nat64(ip: Ipv6Addr, prefix_len: u8) -> Ipv4Addr {
    let octets = ip.octets();
    let mut rest = (usize::from(prefix_len / 8)..16).filter(|place| *place != 8);
    Ipv4Addr::from([(); 4].map(|()| rest.next().map_or(0, |place| octets[place])))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

/// A prefix from its first 64 bits.
const fn v6(high: u32, low: u32, len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits((high as u128) << 96 | (low as u128) << 64), len)
}

/// A prefix from its last 64 bits.
const fn v6_low(bits: u64, len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(bits as u128), len)
}

/// IANA IPv4 Special-Purpose Address Registry without the globally reachable entries, and multicast.
const SPECIAL_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

/// IANA IPv6 Special-Purpose Address Registry without the globally reachable entries, multicast, and site-local.
const SPECIAL_V6: [Ipv6Net; 12] = [
    v6_low(0, 128),
    v6_low(1, 128),
    v6(0x0100_0000, 0, 64),
    v6(0x0100_0000, 1, 64),
    v6(0x2001_0000, 0, 23),
    v6(0x2001_0db8, 0, 32),
    v6(0x3fff_0000, 0, 20),
    v6(0x5f00_0000, 0, 16),
    v6(0xfc00_0000, 0, 7),
    v6(0xfe80_0000, 0, 10),
    v6(0xfec0_0000, 0, 10),
    v6(0xff00_0000, 0, 8),
];

/// What an organisation numbers its own machines with (RFC 1918, RFC 4193).
const PRIVATE_V4: [Ipv4Net; 3] = [v4(10, 0, 0, 0, 8), v4(172, 16, 0, 0, 12), v4(192, 168, 0, 0, 16)];
const PRIVATE_V6: Ipv6Net = v6(0xfc00_0000, 0, 7);

/// Metadata services at addresses that look private or public: those of Azure, AWS and Google. All others are
/// link-local, or in another special-purpose registry that no profile opens.
const METADATA_V4: Ipv4Net = v4(168, 63, 129, 16, 32);
const METADATA_V6: [Ipv6Net; 2] = [v6(0xfd00_0ec2, 0, 32), v6(0xfd20_00ce, 0, 32)];

fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => METADATA_V4.contains(&ip),
        IpAddr::V6(ip) => METADATA_V6.iter().any(|prefix| prefix.contains(&ip)),
    }
}

fn is_special_purpose(ip: IpAddr, profile: PeerProfile) -> bool {
    let is_private = match ip {
        IpAddr::V4(ip) => PRIVATE_V4.iter().any(|prefix| prefix.contains(&ip)),
        IpAddr::V6(ip) => PRIVATE_V6.contains(&ip),
    };
    let is_special = match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().any(|prefix| prefix.contains(&ip)),
        IpAddr::V6(ip) => SPECIAL_V6.iter().any(|prefix| prefix.contains(&ip)),
    };
    is_special && !(is_private && profile == PeerProfile::Enterprise)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Abuse S1: every way to write an address that must not be reached, and a few that must.
    #[test]
    fn s1_special_purpose_addresses_are_refused_in_every_encoding() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:0:4136:e378::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "::ffff:169.254.169.254",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "168.63.129.16",
            "fd20:ce::254",
        ];
        let policy = PeerPolicy::default();
        for peer in refused {
            assert!(policy.check(peer.parse().unwrap()).is_err(), "{peer} must be refused");
        }
        for peer in ["8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "2a00::1"] {
            assert_eq!(policy.check(peer.parse().unwrap()), Ok(()), "{peer} must be allowed");
        }
    }

    /// Abuse S1: the NAT64 of this network is judged by what lies behind it, whatever the length of its prefix.
    #[test]
    fn s1_own_nat64_prefixes_are_judged_by_the_ipv4_behind_them() {
        // RFC 6052 §2.4.
        for (prefix, ip) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefix: Ipv6Net = prefix.parse().unwrap();
            assert_eq!(behind_nat64(ip.parse().unwrap(), prefix.prefix_len()).to_string(), "192.0.2.33", "{prefix}");
        }
        let nat64 = ["2620:99::/96", "64:ff9b::/96", "64:ff9b:1:ffff::/96"].map(|prefix| prefix.parse().unwrap());
        let with = PeerPolicy { nat64: nat64.into(), ..PeerPolicy::default() };
        for prefix in ["2620:99::", "64:ff9b::", "64:ff9b:1:ffff::"] {
            for inner in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "168.63.129.16", "224.0.0.1"] {
                let peer = format!("{prefix}{inner}").parse().unwrap();
                assert!(with.check(peer).is_err(), "{peer}");
            }
            assert_eq!(with.check(format!("{prefix}8.8.8.8").parse().unwrap()), Ok(()), "{prefix}");
        }
        assert!(with.check("64:ff9b:1::8.8.8.8".parse().unwrap()).is_err(), "another network's");
        let denying = PeerPolicy { deny: vec!["8.8.8.8:53".parse().unwrap()], ..with.clone() };
        let ports = denying.ports("2620:99::8.8.8.8".parse().unwrap()).unwrap();
        assert!(!ports.contains(53) && ports.contains(54));
        let server =
            PeerPolicy { profile: PeerProfile::MediaServer, allow: vec!["10.1.0.0/16".parse().unwrap()], ..with };
        assert_eq!(server.check("2620:99::10.1.2.3".parse().unwrap()), Ok(()));
        assert_eq!(server.check("2620:99::8.8.8.8".parse().unwrap()), Err(PeerRefusal::NotAllowed));
    }

    #[test]
    fn profiles_say_what_no_rule_speaks_of() {
        let check = |profile, peer: &str| {
            let own = vec!["10.9.9.9".parse().unwrap()];
            let allow = vec!["10.1.0.0/16:5000-5999".parse().unwrap()];
            let policy = PeerPolicy { profile, allow, own, ..PeerPolicy::default() };
            policy.check(peer.parse().unwrap()).err()
        };
        use PeerProfile::{Enterprise, MediaServer, Public};
        use PeerRefusal::{Metadata, NotAllowed, Own, SpecialPurpose};
        for (peer, public, enterprise, media_server) in [
            ("8.8.8.8", None, None, Some(NotAllowed)),
            ("10.1.2.3", None, None, None),
            ("10.2.0.1", Some(SpecialPurpose), None, Some(SpecialPurpose)),
            ("172.16.0.1", Some(SpecialPurpose), None, Some(SpecialPurpose)),
            ("192.168.1.1", Some(SpecialPurpose), None, Some(SpecialPurpose)),
            ("fd12::1", Some(SpecialPurpose), None, Some(SpecialPurpose)),
            ("10.9.9.9", Some(Own), Some(Own), Some(Own)),
            ("127.0.0.1", Some(SpecialPurpose), Some(SpecialPurpose), Some(SpecialPurpose)),
            ("169.254.169.254", Some(SpecialPurpose), Some(SpecialPurpose), Some(SpecialPurpose)),
            ("100.100.100.200", Some(SpecialPurpose), Some(SpecialPurpose), Some(SpecialPurpose)),
            ("fe80::1", Some(SpecialPurpose), Some(SpecialPurpose), Some(SpecialPurpose)),
            ("fd00:ec2::254", Some(Metadata), Some(Metadata), Some(Metadata)),
            ("fd20:ce::254", Some(Metadata), Some(Metadata), Some(Metadata)),
            ("168.63.129.16", Some(Metadata), Some(Metadata), Some(Metadata)),
            ("2606:4700::1111", None, None, Some(NotAllowed)),
        ] {
            assert_eq!(check(Public, peer), public, "{peer}");
            assert_eq!(check(Enterprise, peer), enterprise, "{peer}");
            assert_eq!(check(MediaServer, peer), media_server, "{peer}");
        }
    }

    proptest! {
        /// Abuse S2: allow over deny over the rest, by prefix and port, against bits compared one by one.
        #[test]
        fn s2_rules_match_as_a_naive_reference_does(
            rules in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<u8>(), 0..=128_u8, 1..9_u16, 0..4_u16), 0..8),
            peers in proptest::collection::vec((any::<bool>(), any::<u8>(), 1..12_u16), 1..20),
        ) {
            // Addresses that differ in their last byte only meet each other's prefixes.
            let ip = |v6: bool, last: u8| match v6 {
                true => IpAddr::V6(Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0, 0, last.into())),
                false => IpAddr::V4(Ipv4Addr::new(9, 9, 9, last)),
            };
            let bits = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => (0..32).map(|place| ip.to_bits() >> (31 - place) & 1 == 1).collect::<Vec<bool>>(),
                IpAddr::V6(ip) => (0..128).map(|place| ip.to_bits() >> (127 - place) & 1 == 1).collect(),
            };
            let mut policy = PeerPolicy::default();
            let mut naive = Vec::new();
            for (is_allow, v6, last, length, first, more) in rules {
                // Mostly long prefixes, or every rule would match every address.
                let length = if v6 { 128 - length % 10 } else { 32 - length % 10 };
                let prefix = ipnet::IpNet::new(ip(v6, last), length).unwrap().trunc();
                let rule = PeerRule { prefix, ports: first..=first + more };
                naive.push((is_allow, bits(prefix.addr())[..usize::from(length)].to_vec(), v6, first, first + more));
                if is_allow { policy.allow.push(rule) } else { policy.deny.push(rule) }
            }
            for (v6, last, port) in peers {
                let peer = ip(v6, last);
                let matches = |(_, start, of_v6, from, to): &&(bool, Vec<bool>, bool, u16, u16)| {
                    *of_v6 == v6 && bits(peer).starts_with(start) && *from <= port && port <= *to
                };
                let is_allowed = naive.iter().filter(|rule| rule.0).any(|rule| matches(&rule));
                let is_denied = naive.iter().filter(|rule| !rule.0).any(|rule| matches(&rule));
                let open = policy.ports(peer).is_ok_and(|ports| ports.contains(port));
                prop_assert_eq!(open, is_allowed || !is_denied, "{}:{}", peer, port);
            }
        }
    }

    #[test]
    fn allow_wins_over_deny_but_not_over_disguise() {
        let policy = PeerPolicy {
            allow: vec!["10.1.0.0/16".parse().unwrap(), "::/0".parse().unwrap()],
            deny: vec!["10.0.0.0/8".parse().unwrap(), "8.8.8.0/24".parse().unwrap()],
            own: vec!["10.1.2.3".parse().unwrap(), "9.9.9.9".parse().unwrap()],
            ..PeerPolicy::default()
        };
        let check = |peer: &str| policy.check(peer.parse().unwrap());
        assert_eq!(check("10.1.2.3"), Ok(()));
        assert_eq!(check("10.2.0.1"), Err(PeerRefusal::SpecialPurpose));
        assert_eq!(check("8.8.8.8"), Err(PeerRefusal::Denied));
        assert_eq!(check("9.9.9.9"), Err(PeerRefusal::Own));
        assert_eq!(check("::ffff:10.1.2.3"), Err(PeerRefusal::Disguised));
        assert_eq!(check("2002:0a01:0203::1"), Err(PeerRefusal::Disguised));
        // NAT64 is allowed by prefix here, and then judged by what it leads to.
        assert_eq!(check("64:ff9b::10.1.2.3"), Ok(()));
        assert_eq!(check("64:ff9b::127.0.0.1"), Err(PeerRefusal::SpecialPurpose));
        assert_eq!(check("64:ff9b::8.8.8.8"), Err(PeerRefusal::Denied));
    }
}
