//! How much of a client shows in logs and stories: whole addresses and names, parts of them, or hashes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use crate::turn::SessionKey;

/// Bytes of a name that are shown, at most.
const NAME_BYTES_MAX: usize = 64;

/// What is shown of the addresses of clients and peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ShownAddresses {
    /// All of it.
    #[default]
    Full,
    /// The /24 of an IPv4 address, the /56 of an IPv6 address.
    Prefix,
    /// A hash under a key that is fresh at every start.
    Hashed,
}

/// What is shown of user names and accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ShownNames {
    /// All of it, with everything escaped that is no letter, digit or plain sign.
    Full,
    /// Two characters and a short hash: enough to recognise one that is known.
    #[default]
    Short,
    /// A hash under a key that is fresh at every start.
    Hashed,
}

/// Both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Privacy {
    /// Addresses.
    pub addresses: ShownAddresses,
    /// Names.
    pub names: ShownNames,
}

/// An address as far as it may be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    bytes: [u8; 16],
    /// Zero where it is not known.
    port: u16,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Ipv4,
    Ipv6,
    Ipv4Prefix,
    Ipv6Prefix,
    Hash,
}

/// What shows of names and addresses, with the key of the hashes.
#[derive(Clone, Copy, Debug)]
pub struct Veil {
    /// What shows.
    pub privacy: Privacy,
    /// Of the hashes.
    pub key: SessionKey,
}

impl Veil {
    pub(super) fn address(&self, address: SocketAddr) -> Shown {
        let shown = self.ip(address.ip());
        match self.privacy.addresses {
            ShownAddresses::Full => Shown { port: address.port(), ..shown },
            ShownAddresses::Prefix | ShownAddresses::Hashed => shown,
        }
    }

    pub(super) fn ip(&self, ip: IpAddr) -> Shown {
        let octets = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let (bytes, form) = match (self.privacy.addresses, ip) {
            (ShownAddresses::Full, IpAddr::V4(_)) => (octets, Form::Ipv4),
            (ShownAddresses::Full, IpAddr::V6(_)) => (octets, Form::Ipv6),
            (ShownAddresses::Prefix, _) => {
                let kept = prefix_len(ip) / 8 + if ip.is_ipv4() { 12 } else { 0 };
                let cut = std::array::from_fn(|place| if place < kept { octets[place] } else { 0 });
                (cut, if ip.is_ipv4() { Form::Ipv4Prefix } else { Form::Ipv6Prefix })
            }
            (ShownAddresses::Hashed, _) => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&self.key.hash(&octets).to_be_bytes());
                (bytes, Form::Hash)
            }
        };
        Shown { bytes, port: 0, form }
    }

    pub(super) fn name(&self, name: &str) -> String {
        let mut text = String::new();
        match self.privacy.names {
            ShownNames::Full => name.chars().for_each(|character| {
                if text.len() >= NAME_BYTES_MAX {
                } else if is_harmless(character) || "@+:/= ".contains(character) {
                    text.push(character);
                } else {
                    text.extend(character.escape_unicode());
                }
            }),
            ShownNames::Short => {
                // A user name may contain anything; a log line may not (abuse S20).
                text.extend(name.chars().take(2).map(|one| if is_harmless(one) { one } else { '?' }));
                text.push('~');
                text.push_str(&hex::encode(&Sha256::digest(name.as_bytes())[..4]));
            }
            ShownNames::Hashed => text = format!("~{:016x}", self.name_hash(name)),
        }
        text
    }

    /// What names are found by.
    pub(super) fn name_hash(&self, name: &str) -> u64 {
        self.key.hash(name.as_bytes())
    }
}

fn is_harmless(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '.' | '-' | '_')
}

/// The length of the network that one client is taken to have.
pub(super) const fn prefix_len(ip: IpAddr) -> usize {
    if ip.is_ipv4() { 24 } else { 56 }
}

impl Shown {
    /// The whole address, if that is known.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.form {
            Form::Ipv4 => Some(IpAddr::V4(self.ipv4())),
            Form::Ipv6 => Some(IpAddr::V6(self.bytes.into())),
            Form::Ipv4Prefix | Form::Ipv6Prefix | Form::Hash => None,
        }
    }

    /// An address that is nobody's secret.
    pub(super) fn whole(address: SocketAddr) -> Self {
        let privacy = Privacy { addresses: ShownAddresses::Full, ..Privacy::default() };
        Veil { privacy, key: SessionKey::default() }.address(address)
    }

    /// The same without a port.
    #[must_use]
    pub const fn without_port(self) -> Self {
        Self { port: 0, ..self }
    }

    fn ipv4(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = self.bytes;
        Ipv4Addr::new(a, b, c, d)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Ipv4 | Form::Ipv6 => {
                let ip = self.ip().expect("these are whole");
                if self.port == 0 { write!(f, "{ip}") } else { write!(f, "{}", SocketAddr::new(ip, self.port)) }
            }
            Form::Ipv4Prefix => write!(f, "{}", Ipv4Net::new_assert(self.ipv4(), 24)),
            Form::Ipv6Prefix => write!(f, "{}", Ipv6Net::new_assert(Ipv6Addr::from(self.bytes), 56)),
            Form::Hash => write!(f, "~{}", hex::encode(&self.bytes[..8])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veil(addresses: ShownAddresses, names: ShownNames) -> Veil {
        Veil { privacy: Privacy { addresses, names }, key: SessionKey([5; 16]) }
    }

    #[test]
    fn addresses_whole_cut_and_hashed() {
        let shown =
            |addresses, address: &str| veil(addresses, ShownNames::Short).address(address.parse().unwrap()).to_string();
        assert_eq!(shown(ShownAddresses::Full, "192.0.2.77:40000"), "192.0.2.77:40000");
        assert_eq!(shown(ShownAddresses::Full, "[2001:db8:1:2:3::7]:4"), "[2001:db8:1:2:3::7]:4");
        assert_eq!(shown(ShownAddresses::Prefix, "192.0.2.77:40000"), "192.0.2.0/24");
        assert_eq!(shown(ShownAddresses::Prefix, "[2001:db8:1:2ff:3::7]:4"), "2001:db8:1:200::/56");
        let hashed = shown(ShownAddresses::Hashed, "192.0.2.77:40000");
        assert_eq!(hashed, shown(ShownAddresses::Hashed, "192.0.2.77:5"));
        assert_ne!(hashed, shown(ShownAddresses::Hashed, "192.0.2.78:5"));
        assert!(hashed.len() == 17 && !hashed.contains("192"), "{hashed}");
    }

    #[test]
    fn names_are_shortened_and_harmless() {
        let short = |name: &str| veil(ShownAddresses::Full, ShownNames::Short).name(name);
        assert_eq!(short("alice"), "al~2bd806c9");
        assert_eq!(short(""), "~e3b0c442");
        for name in ["\n\0evil", "%s' DROP", "\u{1b}[31m", "日本語", "\" x=\"1"] {
            let shown = short(name);
            assert!(shown.chars().all(|c| c.is_alphanumeric() || "?~.-_".contains(c)), "{shown:?}");
            assert_eq!(shown.chars().count(), 2 + 1 + 8);
            let full = veil(ShownAddresses::Full, ShownNames::Full).name(name);
            assert!(full.chars().all(|c| c.is_alphanumeric() || "\\{}.-_@+:/= ".contains(c)), "{full:?}");
            let hashed = veil(ShownAddresses::Full, ShownNames::Hashed).name(name);
            assert!(hashed.len() == 17 && hashed.is_ascii(), "{hashed}");
        }
        assert_eq!(veil(ShownAddresses::Full, ShownNames::Full).name("bob@example.org"), "bob@example.org");
        assert!(veil(ShownAddresses::Full, ShownNames::Full).name(&"x".repeat(1000)).len() <= NAME_BYTES_MAX);
    }
}
