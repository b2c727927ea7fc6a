//! `stun:` and `turn:` URIs (RFC 7064, RFC 7065): reading them, and writing them as they were meant.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// What a URI says. What it leaves open, port and transport, is for DNS to say, or for the defaults (RFC 5928).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// `turn:` or `turns:`: credentials are needed, and allocations are tried.
    pub is_turn: bool,
    /// `stuns:` or `turns:`: inside TLS, or over UDP inside DTLS.
    pub is_secure: bool,
    /// Where.
    pub host: Host,
    /// Not 0.
    pub port: Option<u16>,
    /// `?transport=`, of `turn:` and `turns:` only (URI-7065-3-03).
    pub transport: Option<UriTransport>,
}

impl Uri {
    /// 3478, inside TLS 5349.
    pub const fn default_port(is_secure: bool) -> u16 {
        if is_secure { 5349 } else { 3478 }
    }
}

/// The host of a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address: DNS is not asked.
    Address(IpAddr),
    /// A name, in lower case and in the form that DNS knows (`xn--` for what is not ASCII).
    Name(String),
}

impl fmt::Display for Host {
    /// IPv6 without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What `?transport=` names; under TLS it is what is below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriTransport {
    /// `udp`; with `turns:` that is DTLS.
    Udp,
    /// `tcp`; with `turns:` that is TLS.
    Tcp,
}

/// The shortest form that reads the same.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_turn { "turn" } else { "stun" })?;
        f.write_str(if self.is_secure { "s:" } else { ":" })?;
        match self.host {
            Host::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            ref host => host.fmt(f)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.transport {
            Some(UriTransport::Udp) => f.write_str("?transport=udp"),
            Some(UriTransport::Tcp) => f.write_str("?transport=tcp"),
            None => Ok(()),
        }
    }
}

/// What is wrong with a URI, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriError(String);

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; write for example turn:turn.example.org:3478?transport=udp", self.0)
    }
}

impl std::error::Error for UriError {}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let wrong = |what: String| Err(UriError(what));
        let Some((scheme, rest)) = text.split_once(':') else { return wrong(format!("`{text}` has no scheme")) };
        let (is_turn, is_secure) = match scheme.to_ascii_lowercase().as_str() {
            "stun" => (false, false),
            "turn" => (true, false),
            "stuns" => (false, true),
            "turns" => (true, true),
            _ => return wrong(format!("`{scheme}:` is neither `stun:` nor `turn:`, nor one of them with `s`")),
        };
        if rest.starts_with("//") {
            return wrong("these URIs have no `//`".into());
        }
        let (authority, query) = rest.split_once('?').map_or((rest, None), |(left, right)| (left, Some(right)));
        if authority.contains('@') {
            return wrong("credentials do not belong into the URI: use --user and --password".into());
        }
        if query.is_some() && !is_turn {
            return wrong("`stun:` URIs have no `?transport=`".into());
        }
        // Words of the grammar may be written in either case (RFC 5234 §2.3).
        let transport = match query.map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("transport=udp") => Some(UriTransport::Udp),
            Some("transport=tcp") => Some(UriTransport::Tcp),
            Some(other) => return wrong(format!("`?{other}` is neither `?transport=udp` nor `?transport=tcp`")),
        };
        let (host, port) = split_port(authority)?;
        Ok(Self { is_turn, is_secure, host, port, transport })
    }
}

fn split_port(authority: &str) -> Result<(Host, Option<u16>), UriError> {
    let no_host = || UriError(format!("`{authority}` is no host and port"));
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(no_host)?;
            let address = host.parse::<Ipv6Addr>().map_err(|_| no_host())?;
            let port = if rest.is_empty() { Some("") } else { rest.strip_prefix(':') };
            (Host::Address(address.into()), port.ok_or_else(no_host)?)
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = match host.parse::<IpAddr>() {
                Ok(address) => Host::Address(address),
                Err(_) => Host::Name(name(host).ok_or_else(no_host)?),
            };
            (host, port)
        }
    };
    // RFC 3986 §3.2.3: what follows the colon may be nothing, which is the default.
    let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port {
        "" => Ok((host, None)),
        port => {
            let port = port.parse().ok().filter(|port| is_digits && *port != 0).ok_or_else(no_host)?;
            Ok((host, Some(port)))
        }
    }
}

/// A registered name (RFC 3986 §3.2.2): percent-encoded bytes are UTF-8, and what is not ASCII becomes so (RFC 5891).
fn name(written: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        bytes.push(if byte == b'%' { (digit(rest.next())? * 16 + digit(rest.next())?) as u8 } else { byte });
    }
    let name = idna::domain_to_ascii_cow(&bytes, idna::AsciiDenyList::URL).ok()?;
    // Bounds of DNS. A dot at the end says that the name is whole.
    let whole = name.strip_suffix('.').unwrap_or(&name);
    let is_sound = whole.len() <= 253 && whole.split('.').all(|label| (1..=63).contains(&label.len()));
    // What looks like an address but is none would be an address to others.
    let is_name = whole.rsplit('.').next().is_some_and(|label| !label.bytes().all(|byte| byte.is_ascii_digit()));
    (is_sound && is_name).then(|| whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// URI-7064-3-01, URI-7065-3-03 as well: no user part, and `?transport=` of `turn:` only.
    #[test]
    fn uri_7065_3_01_forms() {
        use UriTransport::{Tcp, Udp};
        for (text, is_turn, is_secure, host, port, transport, again) in [
            ("stun:example.org", false, false, "example.org", None, None, "stun:example.org"),
            ("TURN:Example.ORG:80", true, false, "example.org", Some(80), None, "turn:example.org:80"),
            ("turn:192.0.2.1?transport=tcp", true, false, "192.0.2.1", None, Some(Tcp), "turn:192.0.2.1?transport=tcp"),
            (
                "turn:[2001:DB8::1]?Transport=UDP",
                true,
                false,
                "2001:db8::1",
                None,
                Some(Udp),
                "turn:[2001:db8::1]?transport=udp",
            ),
            ("turn:[::1]:443?transport=tcp", true, false, "::1", Some(443), Some(Tcp), "turn:[::1]:443?transport=tcp"),
            ("turns:example.org", true, true, "example.org", None, None, "turns:example.org"),
            (
                "turns:example.org?transport=udp",
                true,
                true,
                "example.org",
                None,
                Some(Udp),
                "turns:example.org?transport=udp",
            ),
            ("stuns:example.org:443", false, true, "example.org", Some(443), None, "stuns:example.org:443"),
            ("turn:example.org:", true, false, "example.org", None, None, "turn:example.org"),
            ("turn:example.org.", true, false, "example.org", None, None, "turn:example.org"),
            (
                "turn:b%C3%BCcher.example",
                true,
                false,
                "xn--bcher-kva.example",
                None,
                None,
                "turn:xn--bcher-kva.example",
            ),
            ("turn:turn%2Dserver", true, false, "turn-server", None, None, "turn:turn-server"),
        ] {
            let uri: Uri = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((uri.is_turn, uri.is_secure, uri.port, uri.transport), (is_turn, is_secure, port, transport));
            assert_eq!((uri.host.to_string().as_str(), uri.to_string().as_str()), (host, again), "{text}");
            assert_eq!(again.parse(), Ok(uri));
        }
        for (text, word) in [
            ("example.org", "no scheme"),
            ("http://example.org", "neither"),
            ("turn://example.org", "//"),
            ("turn:user@example.org", "--user"),
            ("turn:example.org?transport=sctp", "transport"),
            ("stun:example.org?transport=udp", "stun:"),
            ("stuns:example.org?transport=tcp", "stun:"),
            ("turn:", "no host"),
            ("turn:example.org:0", "no host"),
            ("turn:example.org:99999", "no host"),
            ("turn:example.org:+80", "no host"),
            ("turn:2001:db8::1", "no host"),
            ("turn:[::1", "no host"),
            ("turn:[::1]80", "no host"),
            ("turn:[fe80::1%25eth0]", "no host"),
            ("turn:[v1.a]", "no host"),
            ("turn:1.2.3", "no host"),
            ("turn:exa mple.org", "no host"),
            ("turn:example.org/path", "no host"),
            ("turn:%zz", "no host"),
            ("turn:a..b", "no host"),
        ] {
            let error = text.parse::<Uri>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
