//! How single values are written: durations, sizes, port ranges, prefixes, names. Pure functions from text.
//!
//! An error is a pair: what is wrong, and what to write instead.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv6Net};

use crate::stun::opaque_string;
use crate::turn::PeerRule;

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub wrong: String,
    pub fix: String,
}

impl Mistake {
    pub fn new(wrong: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { wrong: wrong.into(), fix: fix.into() }
    }
}

const DURATION_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
const SHORT_UNITS: [(&str, u64); 2] = [("us", 1), ("ms", 1_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Whole seconds from text like `90s`, `10m` or `1h30m`; units are s, m, h and d.
///
/// # Errors
/// One sentence for a person.
pub fn parse_duration_secs(text: &str) -> Result<u64, String> {
    duration_secs(text).map_err(|mistake| format!("{}: {}", mistake.wrong, mistake.fix))
}

pub(super) fn duration_secs(text: &str) -> Result<u64, Mistake> {
    sum_of_units(text, &DURATION_UNITS).map_err(|fix| Mistake::new(format!("\"{text}\" is not a duration"), fix))
}

/// Whole microseconds from text like `500us`.
pub(super) fn duration_micros(text: &str) -> Result<u64, Mistake> {
    sum_of_units(text, &SHORT_UNITS).map_err(|fix| Mistake::new(format!("\"{text}\" is not a short duration"), fix))
}

/// For messages: the largest unit that divides it.
pub(super) fn show_micros(micros: u64) -> String {
    show(micros, &SHORT_UNITS)
}

pub(super) fn size_bytes(text: &str) -> Result<u64, Mistake> {
    sum_of_units(text, &SIZE_UNITS).map_err(|fix| Mistake::new(format!("\"{text}\" is not a size"), fix))
}

/// Bytes a second from bits a second, like `64kbit/s`, `2.5Mbit/s`.
pub(super) fn rate_bytes(text: &str) -> Result<u64, Mistake> {
    let units = [("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9), ("bit/s", 1.0)];
    let wrong = || {
        let fix = "write a number and a unit (bit/s, kbit/s, Mbit/s, Gbit/s), like \"10Mbit/s\", or \"off\"";
        Mistake::new(format!("\"{text}\" is not a rate"), fix)
    };
    let unit = units.iter().find_map(|(unit, factor)| Some((text.trim().strip_suffix(unit)?, factor)));
    let (number, factor) = unit.ok_or_else(wrong)?;
    let is_plain = number.trim().chars().all(|c| c.is_ascii_digit() || c == '.');
    let number = number.trim().parse::<f64>().ok().filter(|_| is_plain).ok_or_else(wrong)?;
    Ok((number * factor / 8.0) as u64)
}

/// The sum of one or more `NUMBER UNIT`; otherwise the remedy.
fn sum_of_units(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let number_and_unit = || format!("write a whole number and a unit ({}), like \"10{}\"", names(), units[1].0);
    let mut sum = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(number_and_unit());
    }
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        if digits.is_empty() {
            return Err(number_and_unit());
        }
        if unit.is_empty() {
            return Err(format!("add the unit ({}), like \"{text}{}\"", names(), units[0].0));
        }
        let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit.trim()) else {
            return Err(format!("\"{}\" is not a unit; use one of {}", unit.trim(), names()));
        };
        sum = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*factor))
            .and_then(|part| sum.checked_add(part))
            .ok_or_else(|| "write a smaller number".to_owned())?;
        rest = after;
    }
    Ok(sum)
}

/// For messages: the largest unit that divides it.
pub(super) fn show_duration(secs: u64) -> String {
    show(secs, &DURATION_UNITS)
}

/// For messages: the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value >= *factor && value.is_multiple_of(*factor);
    let (name, factor) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    format!("{}{name}", value / factor)
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, Mistake> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip);
    }
    let fix = if let Ok(address) = text.parse::<SocketAddr>() {
        format!("leave the port out: \"{}\"", address.ip())
    } else if let Ok(prefix) = text.parse::<IpNet>() {
        format!("leave the prefix length out: \"{}\"", prefix.addr())
    } else {
        "write an IPv4 or IPv6 address without port, like \"203.0.113.5\" or \"2001:db8::5\"; names are not looked up"
            .into()
    };
    Err(Mistake::new(format!("\"{text}\" is not an IP address"), fix))
}

/// `default_port` is only for the suggestion.
pub(super) fn socket_address(text: &str, default_port: u16) -> Result<SocketAddr, Mistake> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let fix = match (bare.parse::<IpAddr>(), text.strip_prefix(':').or(Some(text)).map(str::parse::<u16>)) {
        (Ok(ip), _) => format!("add the port: \"{}\"", SocketAddr::new(ip, default_port)),
        (_, Some(Ok(port))) => format!("put an address in front: \"0.0.0.0:{port}\""),
        _ => format!(
            "write address and port, like \"0.0.0.0:{default_port}\" or \"[::]:{default_port}\"; names are not looked up"
        ),
    };
    Err(Mistake::new(format!("\"{text}\" is not an address with a port"), fix))
}

/// A prefix whose host bits are zero. A bare address is a prefix of one.
pub(super) fn prefix(text: &str) -> Result<IpNet, Mistake> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    let Ok(prefix) = text.parse::<IpNet>() else {
        return Err(Mistake::new(
            format!("\"{text}\" is not an address prefix"),
            "write address/length, like \"10.0.0.0/8\" (length up to 32) or \"2001:db8::/32\" (up to 128)",
        ));
    };
    // Whoever writes host bits means another prefix or another length: guessing which could open a hole.
    if prefix.addr() != prefix.network() {
        return Err(Mistake::new(
            format!("\"{text}\" has bits set beyond its length of {}", prefix.prefix_len()),
            format!("write \"{}\", or \"{}\" for this address alone", prefix.trunc(), prefix.addr()),
        ));
    }
    Ok(prefix)
}

/// A prefix, or a prefix with a port or a range of ports.
pub(super) fn peer_rule(text: &str) -> Result<PeerRule, Mistake> {
    if let Ok(rule) = text.parse::<PeerRule>() {
        return Ok(rule);
    }
    let (address, port_text) = PeerRule::split(text);
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if is_host_name(bare) {
        return Err(Mistake::new(
            format!("\"{bare}\" is a name, and policy is about addresses"),
            "write the addresses it stands for, like \"10.20.0.5\"; names are not looked up, since whoever answers for \
             one would decide who can be reached",
        ));
    }
    // The common slips: ports behind an IPv6 prefix without brackets around all of it.
    if let Some((address, rest)) = bare.split_once("]/")
        && let Some((length, port_text)) = rest.split_once(':')
    {
        let fix = format!("write \"[{address}/{length}]:{port_text}\"");
        return Err(Mistake::new(format!("\"{text}\" has its brackets in the wrong place"), fix));
    }
    let prefix = prefix(bare)?;
    match port_text {
        None if matches!(prefix, IpNet::V6(_)) => {
            Err(Mistake::new(format!("\"{text}\" has brackets but no ports"), format!("write \"{prefix}\"")))
        }
        None => Err(Mistake::new(format!("\"{text}\" has brackets"), format!("write \"{prefix}\""))),
        Some(port_text) => {
            let ports = ports(port_text)?;
            let rule = PeerRule { prefix, ports };
            Err(Mistake::new(format!("\"{text}\" is not a prefix with ports"), format!("write \"{rule}\"")))
        }
    }
}

/// A NAT64 prefix: IPv6, of a length that RFC 6052 §2.2 knows.
pub(super) fn nat64_prefix(text: &str) -> Result<Ipv6Net, Mistake> {
    match prefix(text)? {
        IpNet::V6(prefix) if matches!(prefix.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) => Ok(prefix),
        _ => Err(Mistake::new(
            format!("\"{text}\" is not a prefix that NAT64 can have"),
            "write an IPv6 prefix of length 32, 40, 48, 56, 64 or 96, like \"64:ff9b::/96\" or \"2001:db8:64::/96\"",
        )),
    }
}

/// Whether somebody has written the name of a host.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || !c.is_ascii())
    };
    let labels = text.strip_prefix("*.").unwrap_or(text).trim_end_matches('.');
    labels.split('.').all(is_label) && labels.chars().any(|c| c.is_alphabetic()) && labels.parse::<IpAddr>().is_err()
}

/// First and last of `FIRST-LAST`, in order, from 1024.
pub(super) fn port_range(text: &str) -> Result<(u16, u16), Mistake> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?)));
    let Some((first, last)) = parsed else {
        return Err(Mistake::new(
            format!("\"{text}\" is not a range of ports"),
            "write the first and the last port, like \"49152-65535\"; the largest port is 65535",
        ));
    };
    if first > last {
        return Err(Mistake::new(
            format!("the first port, {first}, is above the last, {last}"),
            format!("write \"{last}-{first}\""),
        ));
    }
    if first < 1024 {
        return Err(Mistake::new(
            format!("{first} is a port of well-known services, which relays must not look like"),
            match last {
                1024.. => format!("start at 1024 or above, like \"1024-{last}\""),
                _ => "write ports from 1024, like \"49152-65535\"".into(),
            },
        ));
    }
    Ok((first, last))
}

/// A port, or `FIRST-LAST` in order.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, Mistake> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => Err(Mistake::new(
            format!("the first port, {first}, is above the last, {last}"),
            format!("write \"{last}-{first}\""),
        )),
        _ => Err(Mistake::new(
            format!("\"{text}\" is neither a port nor a range of ports"),
            "write a port from 1 to 65535, like \"5432\", or the first and the last, like \"8000-8099\"",
        )),
    }
}

/// Bytes from exactly `N` pairs of hex digits.
pub(super) fn key<const N: usize>(text: &str) -> Result<[u8; N], Mistake> {
    let mut bytes = [0; N];
    // The text is as good as a password: not repeated in the message.
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| Mistake::new("this is not a key", format!("write {} hexadecimal digits", 2 * N)))?;
    Ok(bytes)
}

/// A name, realm or password in the form that both sides hash: RFC 8265's OpaqueString (STUN-8489-9.2.2-01).
#[derive(Clone, PartialEq, Eq)]
pub struct Prepared(pub(super) String);

impl Prepared {
    /// Prepares text.
    ///
    /// # Errors
    /// A sentence that does not repeat the text, which may be a password.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        match opaque_string(text) {
            Ok(prepared) => Ok(Self(prepared.into_owned())),
            Err(_) if text.is_empty() => Err("it is empty"),
            Err(_) => {
                Err("it has characters that RFC 8265 does not allow in names and passwords, like control characters")
            }
        }
    }

    /// The prepared text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_sums_of_numbers_with_units() {
        let durations = [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("7d", 604_800), ("0s", 0), (" 2s ", 2)];
        for (text, secs) in durations {
            assert_eq!(duration_secs(text), Ok(secs), "{text}");
        }
        assert_eq!(size_bytes("256KiB"), Ok(262_144));
        assert_eq!(size_bytes("4MiB"), Ok(4 << 20));
        for text in ["", "10", "m", "10x", "1.5h", "-1s", "99999999999999999999s", "999999999999999999d", "1h30"] {
            assert!(duration_secs(text).is_err(), "{text}");
        }
        assert_eq!(duration_secs("600").unwrap_err().fix, "add the unit (s, m, h, d), like \"600s\"");
        assert_eq!(size_bytes("4MB").unwrap_err().fix, "\"MB\" is not a unit; use one of B, KiB, MiB, GiB");
        assert_eq!(show_duration(5_400), "90m");
        assert_eq!(show_duration(0), "0s");
        assert_eq!(show_size(65_536), "64KiB");
    }

    /// Abuse S2: a prefix that cannot be meant is refused, never repaired in silence.
    #[test]
    fn s2_prefixes_are_exact_or_refused() {
        assert_eq!(prefix("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(prefix("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(prefix("::/0").unwrap().to_string(), "::/0");
        assert_eq!(
            prefix("10.1.2.3/8").unwrap_err().fix,
            "write \"10.0.0.0/8\", or \"10.1.2.3\" for this address alone"
        );
        for text in ["", "10/8", "10.0.0.0/33", "10.0.0.0-10.0.0.9", "2001:db8::/129", "10.0.0.0/-1", "example.org"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    /// Abuse S2: the same with ports, and names are refused.
    #[test]
    fn s2_rules_are_exact_or_refused_with_what_to_write() {
        for text in ["10.20.0.0/16", "10.20.0.0/16:3000-4000", "[2001:db8::/32]:5004", "2001:db8::1", "10.1.2.3:80"] {
            assert!(peer_rule(text).is_ok(), "{text}");
        }
        for (text, wrong, fix) in [
            ("media.example.org", "is a name", "write the addresses"),
            ("*.example.org:5004", "is a name", "names are not looked up"),
            ("localhost", "is a name", "\"10.20.0.5\""),
            ("10.1.2.3/8:80", "beyond its length of 8", "\"10.0.0.0/8\""),
            ("10.0.0.0/8:9-8", "above the last", "\"8-9\""),
            ("10.0.0.0/8:0", "neither a port", "from 1 to 65535"),
            ("10.0.0.0/8:", "neither a port", "from 1 to 65535"),
            ("[10.0.0.0/8]:80", "not a prefix with ports", "write \"10.0.0.0/8:80\""),
            ("[2001:db8::]/32:5004", "brackets in the wrong place", "write \"[2001:db8::/32]:5004\""),
            ("[2001:db8::/32]", "brackets", "write \"2001:db8::/32\""),
            ("2001:db8::/32:5004", "not an address prefix", "2001:db8::/32"),
            ("10.0.0.0-10.0.0.9", "not an address prefix", "address/length"),
            ("", "not an address prefix", "address/length"),
        ] {
            let mistake = peer_rule(text).expect_err(text);
            assert!(mistake.wrong.contains(wrong) && mistake.fix.contains(fix), "{text}: {mistake:?}");
        }
        assert_eq!(nat64_prefix("2001:db8:64::/96").unwrap().to_string(), "2001:db8:64::/96");
        assert!(nat64_prefix("2001:db8:64::/95").is_err() && nat64_prefix("10.0.0.0/8").is_err());
    }

    #[test]
    fn addresses_that_lack_or_have_a_port_are_corrected() {
        assert_eq!(socket_address("0.0.0.0", 3478).unwrap_err().fix, "add the port: \"0.0.0.0:3478\"");
        assert_eq!(socket_address("::", 3478).unwrap_err().fix, "add the port: \"[::]:3478\"");
        assert_eq!(socket_address(":3478", 3478).unwrap_err().fix, "put an address in front: \"0.0.0.0:3478\"");
        assert_eq!(ip_address("203.0.113.5:3478").unwrap_err().fix, "leave the port out: \"203.0.113.5\"");
        assert!(ip_address("turn.example.org").is_err());
    }

    #[test]
    fn port_ranges_are_ordered_and_unprivileged() {
        assert_eq!(port_range("49152-65535"), Ok((49152, 65535)));
        assert_eq!(port_range("2000-1500").unwrap_err().fix, "write \"1500-2000\"");
        for text in ["", "49152", "1-2-3", "49152-65536", "1023-2000", "a-b"] {
            assert!(port_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_prepared_as_opaque_strings() {
        // RFC 8265 §4.2.2: other spaces become U+0020, the rest is composed (NFC).
        assert_eq!(Prepared::new("a\u{3000}b").unwrap().as_str(), "a b");
        assert_eq!(Prepared::new("e\u{301}").unwrap().as_str(), "\u{e9}");
        assert!(Prepared::new("").is_err());
        assert!(Prepared::new("a\u{0}b").is_err());
    }
}
