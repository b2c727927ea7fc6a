//! `stun:` and `turn:` URIs (RFC 7064, RFC 7065).

use std::fmt;
use std::str::FromStr;

/// What a URI names: enough to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// `turn:`: credentials are needed, and allocations are tried.
    pub is_turn: bool,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// Given, or 3478, with TLS 5349.
    pub port: u16,
    /// `?transport=tcp`, or TLS.
    pub tcp: bool,
    /// `stuns:` or `turns:`.
    pub tls: bool,
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
        let (is_turn, tls) = match scheme.to_ascii_lowercase().as_str() {
            "stun" => (false, false),
            "turn" => (true, false),
            "stuns" => (false, true),
            "turns" => (true, true),
            _ => return wrong(format!("`{scheme}:` is neither `stun:` nor `turn:`, nor one of them with `s`")),
        };
        if rest.starts_with("//") {
            return wrong("these URIs have no `//`".into());
        }
        if rest.contains('@') {
            return wrong("credentials do not belong into the URI: use --user and --password".into());
        }
        let (authority, query) = rest.split_once('?').map_or((rest, None), |(left, right)| (left, Some(right)));
        let tcp = match query {
            None => tls,
            Some("transport=udp") if tls => {
                return wrong("TLS over UDP is DTLS, which this command does not speak".into());
            }
            Some("transport=udp") => false,
            Some("transport=tcp") => true,
            Some(other) => return wrong(format!("`?{other}` is neither `?transport=udp` nor `?transport=tcp`")),
        };
        if query.is_some() && !is_turn {
            return wrong("`stun:` URIs have no `?transport=`".into());
        }
        let default_port = if tls { "5349" } else { "3478" };
        let (host, port) = split_port(authority, default_port)
            .ok_or_else(|| UriError(format!("`{authority}` is no host and port")))?;
        Ok(Self { is_turn, host, port, tcp, tls })
    }
}

fn split_port(authority: &str, default_port: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some(default_port))?)
        }
        None => authority.split_once(':').unwrap_or((authority, default_port)),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_7065_3_01_forms() {
        for (text, is_turn, host, port, tcp, tls) in [
            ("stun:example.org", false, "example.org", 3478, false, false),
            ("TURN:example.org:80", true, "example.org", 80, false, false),
            ("turn:192.0.2.1?transport=tcp", true, "192.0.2.1", 3478, true, false),
            ("turn:[2001:db8::1]?transport=udp", true, "2001:db8::1", 3478, false, false),
            ("turn:[2001:db8::1]:443?transport=tcp", true, "2001:db8::1", 443, true, false),
            ("turns:example.org", true, "example.org", 5349, true, true),
            ("turns:example.org:443?transport=tcp", true, "example.org", 443, true, true),
            ("stuns:example.org", false, "example.org", 5349, true, true),
        ] {
            let expected = Uri { is_turn, host: host.into(), port, tcp, tls };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, word) in [
            ("example.org", "no scheme"),
            ("http://example.org", "neither"),
            ("turn://example.org", "//"),
            ("turns:example.org?transport=udp", "DTLS"),
            ("turn:user@example.org", "--user"),
            ("turn:example.org?transport=sctp", "transport"),
            ("stun:example.org?transport=udp", "stun:"),
            ("stuns:example.org?transport=tcp", "stun:"),
            ("turn:", "no host"),
            ("turn:example.org:0", "no host"),
            ("turn:example.org:99999", "no host"),
            ("turn:2001:db8::1", "no host"),
            ("turn:[::1", "no host"),
        ] {
            let error = text.parse::<Uri>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
