//! Rules about peers, prefixes with ports, and sets of ports (RFC 8656 §21.2.2; abuse S2).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

/// Every port a peer can have.
const ALL: RangeInclusive<u16> = 1..=u16::MAX;

/// Ports of peers. Port 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// In order, and with a gap between any two.
    ranges: Vec<RangeInclusive<u16>>,
}

impl PortSet {
    /// Every port.
    pub fn all() -> Self {
        Self { ranges: vec![ALL] }
    }

    /// Whether the port is one of them.
    pub fn contains(&self, port: u16) -> bool {
        let place = self.ranges.partition_point(|range| *range.end() < port);
        self.ranges.get(place).is_some_and(|range| *range.start() <= port)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether every port is one of them.
    pub fn is_all(&self) -> bool {
        self.ranges == [ALL]
    }

    /// Adds ports.
    pub fn insert(&mut self, ports: &RangeInclusive<u16>) {
        let (mut first, mut last) = (*ports.start(), *ports.end());
        let mut rest = Vec::with_capacity(self.ranges.len() + 1);
        for range in self.ranges.drain(..) {
            if *range.end() < first.saturating_sub(1) || last.saturating_add(1) < *range.start() {
                rest.push(range);
            } else {
                (first, last) = (first.min(*range.start()), last.max(*range.end()));
            }
        }
        let place = rest.partition_point(|range| *range.end() < first);
        rest.insert(place, first..=last);
        self.ranges = rest;
    }

    /// Takes ports out.
    pub fn remove(&mut self, ports: &RangeInclusive<u16>) {
        let (first, last) = (*ports.start(), *ports.end());
        let left = |range: RangeInclusive<u16>| {
            let below = (*range.start() < first).then(|| *range.start()..=(first - 1).min(*range.end()));
            let above = (last < *range.end()).then(|| (last + 1).max(*range.start())..=*range.end());
            below.into_iter().chain(above)
        };
        self.ranges = self.ranges.drain(..).flat_map(left).collect();
    }

    /// Those that are in the other as well.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let common = |one: &RangeInclusive<u16>, other: &RangeInclusive<u16>| {
            let (first, last) = (*one.start().max(other.start()), *one.end().min(other.end()));
            (first <= last).then_some(first..=last)
        };
        let ranges = self.ranges.iter().flat_map(|one| other.ranges.iter().filter_map(move |other| common(one, other)));
        Self { ranges: ranges.collect() }
    }
}

/// Some ports of the addresses of a prefix, as an operator writes them: `10.20.0.0/16`, `10.20.0.0/16:3000-4000`,
/// `[2001:db8::/32]:5004`. A bare address is a prefix of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// Without bits beyond its length.
    pub prefix: IpNet,
    /// Not empty, and without 0.
    pub ports: RangeInclusive<u16>,
}

impl PeerRule {
    /// Whether it is about this address, at some port.
    pub fn is_about(&self, ip: IpAddr) -> bool {
        self.prefix.contains(&ip)
    }

    /// Whether it is about every address and port of the other.
    pub fn covers(&self, other: &Self) -> bool {
        let has_ports = self.ports.contains(other.ports.start()) && self.ports.contains(other.ports.end());
        has_ports && self.prefix.contains(&other.prefix)
    }
}

impl From<IpNet> for PeerRule {
    /// All ports.
    fn from(prefix: IpNet) -> Self {
        Self { prefix: prefix.trunc(), ports: ALL }
    }
}

impl From<IpAddr> for PeerRule {
    /// One address, all ports.
    fn from(ip: IpAddr) -> Self {
        IpNet::from(ip).into()
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, ports } = self;
        if *ports == ALL {
            return prefix.fmt(f);
        }
        match prefix {
            IpNet::V4(prefix) => write!(f, "{prefix}:{}", ports.start())?,
            IpNet::V6(prefix) => write!(f, "[{prefix}]:{}", ports.start())?,
        }
        if ports.start() == ports.end() { Ok(()) } else { write!(f, "-{}", ports.end()) }
    }
}

/// The text is no [`PeerRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARule;

impl FromStr for PeerRule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let (prefix, ports) = Self::split(text);
        let prefix = prefix.parse().or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from)).map_err(|_| NotARule)?;
        let has_ports = ports.is_some();
        let ports = match ports {
            None => ALL,
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                first.parse().map_err(|_| NotARule)?..=last.parse().map_err(|_| NotARule)?
            }
        };
        // Brackets keep an IPv6 prefix and its ports apart; nothing else has any.
        let has_brackets = matches!(prefix, IpNet::V6(_)) && has_ports;
        let is_plain = text.starts_with('[') == has_brackets && *ports.start() > 0;
        let is_whole = prefix.addr() == prefix.network() && !ports.is_empty();
        (is_plain && is_whole).then_some(Self { prefix, ports }).ok_or(NotARule)
    }
}

impl PeerRule {
    /// What stands for the prefix and, if there is any, for the ports.
    pub fn split(text: &str) -> (&str, Option<&str>) {
        if let Some((prefix, ports)) = text.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")) {
            return (prefix, Some(ports));
        }
        match text.split_once(':') {
            Some((prefix, ports)) if !ports.contains(':') && !prefix.is_empty() => (prefix, Some(ports)),
            _ => (text, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
        // Small numbers meet each other; the ends of the range have their own mistakes to make.
        let port = prop_oneof![1..40_u16, 65_500..=65_535_u16];
        (port.clone(), port).prop_map(|(one, other)| one.min(other)..=one.max(other))
    }

    proptest! {
        /// Abuse S2: sets of ports are what a list of booleans says they are.
        #[test]
        fn s2_sets_of_ports_follow_a_naive_reference(steps in proptest::collection::vec((range(), any::<bool>()), 0..12), other in proptest::collection::vec(range(), 0..5)) {
            let (mut set, mut naive) = (PortSet::default(), vec![false; 1 << 16]);
            for (ports, is_more) in steps {
                if is_more { set.insert(&ports) } else { set.remove(&ports) }
                ports.for_each(|port| naive[usize::from(port)] = is_more);
            }
            let mut second = PortSet::default();
            other.iter().for_each(|ports| second.insert(ports));
            let both = set.intersection(&second);
            for port in (0..50).chain(65_490..=65_535) {
                prop_assert_eq!(set.contains(port), naive[usize::from(port)], "port {}", port);
                let in_second = other.iter().any(|ports| ports.contains(&port));
                prop_assert_eq!(both.contains(port), naive[usize::from(port)] && in_second, "port {}", port);
            }
            prop_assert_eq!(set.is_empty(), !naive.contains(&true));
            prop_assert!(set.ranges.windows(2).all(|pair| *pair[0].end() + 1 < *pair[1].start()), "{:?}", set);
            set.insert(&ALL);
            prop_assert!(set.is_all());
            set.remove(&ALL);
            prop_assert!(set.is_empty());
        }

        /// What is shown can be written, and means the same.
        #[test]
        fn s2_rules_are_read_as_they_are_shown(v6 in any::<bool>(), bits in any::<u128>(), length in 0..=128_u8, ports in range(), has_ports in any::<bool>()) {
            let ip = if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
            let prefix = IpNet::new(ip, if v6 { length } else { length % 33 }).unwrap().trunc();
            let rule = PeerRule { prefix, ports: if has_ports { ports } else { ALL } };
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    #[test]
    fn s2_what_is_no_rule_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.1.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/8:0",
            "10.0.0.0/8:0-9",
            "10.0.0.0/8:9-8",
            "10.0.0.0/8:65536",
            "10.0.0.0/8:80:90",
            "[10.0.0.0/8]:80",
            "2001:db8::/32:80",
            "[2001:db8::/32]",
            "[2001:db8::]/32:80",
            ":80",
            "[]:80",
            "turn.example.org",
            "turn.example.org:80",
        ] {
            assert_eq!(text.parse::<PeerRule>(), Err(NotARule), "{text}");
        }
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3:80", "10.1.2.3/32:80"),
            ("[2001:db8::1]:80-90", "[2001:db8::1/128]:80-90"),
            ("::/0", "::/0"),
            ("10.0.0.0/8:1-65535", "10.0.0.0/8"),
        ] {
            assert_eq!(text.parse::<PeerRule>().unwrap().to_string(), shown);
        }
    }
}
