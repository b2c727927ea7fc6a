//! Which addresses a client may reach through a relay (RFC 8656 §21.2.2; abuse S1, S2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Allow and deny rules over what is always refused. Ports are not looked at.
///
/// Own *relayed* addresses never get here: they are always allowed, because two clients of the same server meet there.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// Wins over everything but disguised addresses.
    pub allow: Vec<IpNet>,
    /// Refused in addition to the special-purpose registries.
    pub deny: Vec<IpNet>,
    /// Addresses of this machine: its listeners, its admin port, whatever else runs on it.
    pub own: Vec<IpAddr>,
}

/// Which rule refused a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRefusal {
    /// In an IANA special-purpose registry: private, loopback, link-local, multicast, documentation, …
    SpecialPurpose,
    /// An IPv4 address dressed up as IPv6 (mapped, compatible, 6to4, Teredo, …): refused whatever it hides, because
    /// no peer has such an address as its own (TURN-8656-21.4-01, 9-06).
    Disguised,
    /// One of this machine's own addresses (TURN-8656-21.1.7-01).
    Own,
    /// Matches a `deny` prefix.
    Denied,
    /// A port that TCP relays do not connect to (abuse S3).
    Port,
}

impl PeerRefusal {
    /// The word used in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SpecialPurpose => "special_purpose",
            Self::Disguised => "disguised_ipv4",
            Self::Own => "own_address",
            Self::Denied => "denied",
            Self::Port => "port",
        }
    }
}

impl PeerPolicy {
    /// Decides about one address.
    ///
    /// # Errors
    /// The first rule that refuses it; the caller answers 403 or drops.
    pub fn check(&self, peer: IpAddr) -> Result<(), PeerRefusal> {
        match embedded_ipv4(peer) {
            Some(Embedded::Translated(inner)) => {
                // NAT64 is a real path in IPv6-only networks: usable where the operator allows the prefix by name,
                // and then only towards IPv4 addresses that may be reached themselves.
                if !contains(&self.allow, peer) {
                    return Err(PeerRefusal::Disguised);
                }
                return self.check(IpAddr::V4(inner));
            }
            Some(Embedded::Disguise) => return Err(PeerRefusal::Disguised),
            None => {}
        }
        if contains(&self.allow, peer) {
            return Ok(());
        }
        if self.own.contains(&peer) {
            return Err(PeerRefusal::Own);
        }
        if is_special_purpose(peer) {
            return Err(PeerRefusal::SpecialPurpose);
        }
        if contains(&self.deny, peer) {
            return Err(PeerRefusal::Denied);
        }
        Ok(())
    }
}

impl PeerPolicy {
    /// Whether an `allow` rule names this address.
    pub(super) fn allows_by_name(&self, peer: IpAddr) -> bool {
        contains(&self.allow, peer)
    }
}

fn contains(prefixes: &[IpNet], ip: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&ip))
}

enum Embedded {
    /// Behind NAT64's well-known prefix.
    Translated(Ipv4Addr),
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

fn embedded_ipv4(ip: IpAddr) -> Option<Embedded> {
    let IpAddr::V6(ip) = ip else { return None };
    if NAT64_WELL_KNOWN.contains(&ip) {
        return Some(Embedded::Translated(Ipv4Addr::from_bits(ip.to_bits() as u32)));
    }
    // :: and ::1 lie in ::/96 but are addresses of their own; the registry below refuses them.
    if ip.is_unspecified() || ip.is_loopback() {
        return None;
    }
    DISGUISES.iter().any(|prefix| prefix.contains(&ip)).then_some(Embedded::Disguise)
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

fn is_special_purpose(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().any(|prefix| prefix.contains(&ip)),
        IpAddr::V6(ip) => SPECIAL_V6.iter().any(|prefix| prefix.contains(&ip)),
    }
}

#[cfg(test)]
mod tests {
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
        ];
        let policy = PeerPolicy::default();
        for peer in refused {
            assert!(policy.check(peer.parse().unwrap()).is_err(), "{peer} must be refused");
        }
        for peer in ["8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "2a00::1"] {
            assert_eq!(policy.check(peer.parse().unwrap()), Ok(()), "{peer} must be allowed");
        }
    }

    #[test]
    fn allow_wins_over_deny_but_not_over_disguise() {
        let policy = PeerPolicy {
            allow: vec!["10.1.0.0/16".parse().unwrap(), "::/0".parse().unwrap()],
            deny: vec!["10.0.0.0/8".parse().unwrap(), "8.8.8.0/24".parse().unwrap()],
            own: vec!["10.1.2.3".parse().unwrap(), "9.9.9.9".parse().unwrap()],
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
