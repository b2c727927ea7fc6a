//! NATs in the words of RFC 4787: what they promise, the kernel rules that do it, and probes that find it out.
//!
//! ```text
//!   Nat (a preset, or a table in a topology file) ──► Behaviour ──► rules (nftables, in a router of the lab)
//!                                                        │
//!   probe (RFC 5780, from a host behind it) ──► Found ── holds() ── what was promised
//!                                                        │
//!   punch (UDP sockets behind two of them)  ──► reached ─┴─ model (the same two, in pure code)
//! ```
//!
//! Nothing of the lab is taken for granted: `tests/nats.rs` probes every preset against Hairpin, and `tests/punch.rs`
//! compares what pairs of them do with what RFC 4787 lets one expect.

pub mod model;
pub mod probe;
pub mod punch;
pub(crate) mod rules;
mod stun;

use std::fmt;

use serde::Deserialize;

/// How long a UDP mapping lives unless said otherwise, in seconds: RFC 4787, REQ-5 recommends five minutes.
const UDP_TIMEOUT_SECONDS: u32 = 300;

/// How long one lives in [`Nat::PortRestrictedShort`], far below the two minutes of RFC 4787, REQ-5. Longer than the
/// 2.5 s between two of a browser's checks, so that a call holds.
const SHORT_UDP_TIMEOUT_SECONDS: u32 = 3;

/// Which external port a packet gets, by where it goes (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// The same port for all destinations.
    EndpointIndependent,
    /// A port for each destination address.
    AddressDependent,
    /// A port for each destination address and port.
    AddressAndPortDependent,
}

/// Whose packets come in to an internal endpoint (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Everybody's.
    EndpointIndependent,
    /// Those from addresses that it has sent to.
    AddressDependent,
    /// Those from addresses and ports that it has sent to.
    AddressAndPortDependent,
}

/// How a new mapping's external port is chosen (RFC 4787, section 4.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortAssignment {
    /// The internal port, unless another mapping has it ("port preservation", without overloading).
    #[default]
    Preserving,
    /// Any.
    Random,
}

/// What a NAT does with UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Behaviour {
    /// Which port outside.
    pub mapping: Mapping,
    /// Whose packets come in.
    pub filtering: Filtering,
    /// Which port of all.
    #[serde(default)]
    pub ports: PortAssignment,
    /// Hosts behind it reach each other at their external addresses (RFC 4787, section 6).
    #[serde(default)]
    pub hairpinning: bool,
    /// How long a mapping lives after the last packet, in seconds, 1 to 86,400.
    #[serde(default = "default_udp_timeout_seconds")]
    pub udp_timeout_seconds: u32,
    /// Unsolicited packets for a mapped port are dropped. Without that guard, Linux takes them for the router's own,
    /// remembers them, and has to give the next outbound packet to their sender another port: a NAT that is
    /// endpoint-independent until somebody punches.
    #[serde(default = "default_guarded")]
    pub guarded: bool,
}

fn default_udp_timeout_seconds() -> u32 {
    UDP_TIMEOUT_SECONDS
}

fn default_guarded() -> bool {
    true
}

impl Behaviour {
    const fn new(mapping: Mapping, filtering: Filtering, ports: PortAssignment) -> Behaviour {
        Behaviour {
            mapping,
            filtering,
            ports,
            hairpinning: false,
            udp_timeout_seconds: UDP_TIMEOUT_SECONDS,
            guarded: true,
        }
    }

    /// Whether Linux can be made to behave so.
    ///
    /// # Errors
    /// The combination, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let per_session = self.mapping == Mapping::AddressAndPortDependent;
        if per_session && self.filtering != Filtering::AddressAndPortDependent {
            return Err("address-and-port-dependent mapping leaves one sender for each external port; write \
                        filtering = \"address-and-port-dependent\""
                .to_owned());
        }
        if per_session && self.hairpinning {
            return Err("with address-and-port-dependent mapping no host knows the external address at which another \
                        one would hear it; leave out hairpinning"
                .to_owned());
        }
        let bare = (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, false);
        if !self.guarded && (self.mapping, self.filtering, self.hairpinning) != bare {
            return Err("guarded = false is what a plain Linux masquerade does; it goes with endpoint-independent \
                        mapping, address-and-port-dependent filtering and no hairpinning"
                .to_owned());
        }
        if !(1..=86_400).contains(&self.udp_timeout_seconds) {
            return Err(format!("udp-timeout-seconds = {}: use 1 to 86400", self.udp_timeout_seconds));
        }
        Ok(())
    }
}

/// What a router's NAT does: one of the presets, or a behaviour of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nat {
    /// No translation: hosts behind this router have public addresses.
    None,
    /// Endpoint-independent mapping and filtering ("full cone").
    FullCone,
    /// The same, and hosts behind it reach each other at their external addresses.
    FullConeHairpinning,
    /// Endpoint-independent mapping, address-dependent filtering ("restricted cone").
    AddressRestricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering ("port-restricted cone"): most home routers.
    PortRestricted,
    /// The same, and hosts behind it reach each other at their external addresses.
    PortRestrictedHairpinning,
    /// The same without hairpinning, and with ports that have nothing to do with the internal ones.
    PortRestrictedRandom,
    /// [`Nat::PortRestricted`] that forgets a mapping after three seconds.
    PortRestrictedShort,
    /// Address-dependent mapping and filtering.
    AddressDependent,
    /// Address- and port-dependent mapping with random ports: hole punching does not work against its like.
    Symmetric,
    /// The same, but the first destination gets the internal port.
    SymmetricPreserving,
    /// What `masquerade` alone does on Linux: [`Nat::PortRestricted`] until a stranger's packet comes first.
    BareMasquerade,
    /// One public address for the one host behind it, ports as they are, open from outside: what clouds give a machine.
    /// The host cannot reach its own public address. No preset of the grids: a LAN has more than one host.
    OneToOne,
    /// As a table in a topology file says.
    Custom(Behaviour),
}

impl Nat {
    /// All presets, in the order in which grids show them.
    pub const PRESETS: [Nat; 12] = [
        Nat::None,
        Nat::FullCone,
        Nat::FullConeHairpinning,
        Nat::AddressRestricted,
        Nat::PortRestricted,
        Nat::PortRestrictedHairpinning,
        Nat::PortRestrictedRandom,
        Nat::PortRestrictedShort,
        Nat::AddressDependent,
        Nat::Symmetric,
        Nat::SymmetricPreserving,
        Nat::BareMasquerade,
    ];

    /// Other names that topology files may use, and what is no preset.
    const ALIASES: [(&'static str, Nat); 3] =
        [("cone", Nat::FullCone), ("adm", Nat::AddressDependent), ("one-to-one", Nat::OneToOne)];

    /// The preset of that name.
    ///
    /// # Errors
    /// There is none; the message lists those there are.
    pub fn preset(name: &str) -> Result<Nat, String> {
        let alias = Nat::ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, nat)| *nat);
        alias.or_else(|| Nat::PRESETS.into_iter().find(|nat| nat.name() == name)).ok_or_else(|| {
            let known = Nat::PRESETS.map(|nat| format!("`{}`", nat.name())).join(", ");
            format!("unknown NAT `{name}`, expected one of {known}, or a table of what it does")
        })
    }

    /// Its name in topology files; `custom` has none.
    pub fn name(self) -> &'static str {
        match self {
            Nat::None => "none",
            Nat::FullCone => "full-cone",
            Nat::FullConeHairpinning => "full-cone-hairpinning",
            Nat::AddressRestricted => "address-restricted",
            Nat::PortRestricted => "port-restricted",
            Nat::PortRestrictedHairpinning => "port-restricted-hairpinning",
            Nat::PortRestrictedRandom => "port-restricted-random",
            Nat::PortRestrictedShort => "port-restricted-short",
            Nat::AddressDependent => "address-dependent",
            Nat::Symmetric => "symmetric",
            Nat::SymmetricPreserving => "symmetric-preserving",
            Nat::BareMasquerade => "bare-masquerade",
            Nat::OneToOne => "one-to-one",
            Nat::Custom(_) => "custom",
        }
    }

    /// What it promises; `None` where there are no mappings to speak of: no translation, or one of addresses only.
    pub const fn behaviour(self) -> Option<Behaviour> {
        use Mapping as M;
        use PortAssignment::{Preserving, Random};
        const APDF: Filtering = Filtering::AddressAndPortDependent;
        const FULL: Behaviour = Behaviour::new(M::EndpointIndependent, Filtering::EndpointIndependent, Preserving);
        const PORT_RESTRICTED: Behaviour = Behaviour::new(M::EndpointIndependent, APDF, Preserving);
        Some(match self {
            Nat::None | Nat::OneToOne => return None,
            Nat::FullCone => FULL,
            Nat::FullConeHairpinning => Behaviour { hairpinning: true, ..FULL },
            Nat::AddressRestricted => Behaviour { filtering: Filtering::AddressDependent, ..FULL },
            Nat::PortRestricted => PORT_RESTRICTED,
            Nat::PortRestrictedHairpinning => Behaviour { hairpinning: true, ..PORT_RESTRICTED },
            Nat::PortRestrictedRandom => Behaviour { ports: Random, ..PORT_RESTRICTED },
            Nat::PortRestrictedShort => Behaviour { udp_timeout_seconds: SHORT_UDP_TIMEOUT_SECONDS, ..PORT_RESTRICTED },
            Nat::AddressDependent => Behaviour::new(M::AddressDependent, Filtering::AddressDependent, Random),
            Nat::Symmetric => Behaviour::new(M::AddressAndPortDependent, APDF, Random),
            Nat::SymmetricPreserving => Behaviour::new(M::AddressAndPortDependent, APDF, Preserving),
            Nat::BareMasquerade => Behaviour { guarded: false, ..PORT_RESTRICTED },
            Nat::Custom(behaviour) => behaviour,
        })
    }
}

impl<'de> Deserialize<'de> for Nat {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Nat, D::Error> {
        deserializer.deserialize_any(NatVisitor)
    }
}

/// A name or a table, with errors about the one that was written.
struct NatVisitor;

impl<'de> serde::de::Visitor<'de> for NatVisitor {
    type Value = Nat;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a NAT, or a table of what it does")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Nat, E> {
        Nat::preset(name).map_err(E::custom)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Nat, A::Error> {
        let behaviour = Behaviour::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        behaviour.check().map_err(serde::de::Error::custom)?;
        Ok(Nat::Custom(behaviour))
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nat::Custom(behaviour) => behaviour.fmt(f),
            preset => f.pad(preset.name()),
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mapping, {} filtering, {} ports", self.mapping, self.filtering, self.ports)?;
        if self.hairpinning {
            f.write_str(", hairpinning")?;
        }
        if self.udp_timeout_seconds != UDP_TIMEOUT_SECONDS {
            write!(f, ", mappings for {} s", self.udp_timeout_seconds)?;
        }
        if !self.guarded {
            f.write_str(", unguarded")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mapping::EndpointIndependent => "endpoint-independent",
            Mapping::AddressDependent => "address-dependent",
            Mapping::AddressAndPortDependent => "address- and port-dependent",
        })
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Filtering::EndpointIndependent => "endpoint-independent",
            Filtering::AddressDependent => "address-dependent",
            Filtering::AddressAndPortDependent => "address- and port-dependent",
        })
    }
}

impl fmt::Display for PortAssignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PortAssignment::Preserving => "preserved",
            PortAssignment::Random => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Entry {
        nat: Nat,
    }

    fn read(text: &str) -> Result<Nat, String> {
        toml::from_str::<Entry>(text).map(|entry| entry.nat).map_err(|error| error.to_string())
    }

    #[test]
    fn every_preset_is_read_by_its_name_and_can_be_built() {
        for nat in Nat::PRESETS {
            assert_eq!(read(&format!("nat = {:?}", nat.name())), Ok(nat));
            assert_eq!(nat.behaviour().map_or(Ok(()), |behaviour| behaviour.check()), Ok(()), "{nat}");
        }
        assert_eq!(read("nat = \"cone\""), Ok(Nat::FullCone));
        assert_eq!(read("nat = \"adm\""), Ok(Nat::AddressDependent));
        assert_eq!(read("nat = \"one-to-one\""), Ok(Nat::OneToOne));
    }

    #[test]
    fn a_table_says_what_is_wanted_and_the_rest_is_usual() {
        let table = "mapping = \"endpoint-independent\", filtering = \"address-dependent\"";
        let expected = Nat::AddressRestricted.behaviour().unwrap();
        assert_eq!(read(&format!("nat = {{ {table} }}")), Ok(Nat::Custom(expected)));
        let short = Behaviour { udp_timeout_seconds: 30, hairpinning: true, ..expected };
        assert_eq!(
            read(&format!("nat = {{ {table}, hairpinning = true, udp-timeout-seconds = 30 }}")),
            Ok(Nat::Custom(short))
        );
        assert!(short.to_string().ends_with("preserved ports, hairpinning, mappings for 30 s"), "{short}");
    }

    #[test]
    fn what_linux_cannot_do_is_refused_with_the_way_out() {
        let symmetric = "mapping = \"address-and-port-dependent\"";
        for (table, expected) in [
            (
                format!("{symmetric}, filtering = \"address-dependent\""),
                "write filtering = \"address-and-port-dependent\"",
            ),
            (
                format!("{symmetric}, filtering = \"address-and-port-dependent\", hairpinning = true"),
                "leave out hairpinning",
            ),
            (
                format!("{symmetric}, filtering = \"address-and-port-dependent\", guarded = false"),
                "plain Linux masquerade",
            ),
            (
                format!("{symmetric}, filtering = \"address-and-port-dependent\", udp-timeout-seconds = 0"),
                "use 1 to 86400",
            ),
            (symmetric.to_owned(), "missing field `filtering`"),
            (format!("{symmetric}, filter = 1"), "unknown field `filter`"),
        ] {
            let problem = read(&format!("nat = {{ {table} }}")).unwrap_err();
            assert!(problem.contains(expected), "{problem}\ndoes not contain\n{expected}");
        }
        assert!(
            read("nat = \"conical\"")
                .unwrap_err()
                .contains("unknown NAT `conical`, expected one of `none`, `full-cone`")
        );
    }
}
