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
    /// Given, or 3478.
    pub port: u16,
    /// `?transport=tcp`.
    pub tcp: bool,
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
        let is_turn = match scheme.to_ascii_lowercase().as_str() {
            "stun" => false,
            "turn" => true,
            "stuns" | "turns" => return wrong(format!("`{scheme}:` is TLS, which this command does not speak yet")),
            _ => return wrong(format!("`{scheme}:` is neither `stun:` nor `turn:`")),
        };
        if rest.starts_with("//") {
            return wrong("these URIs have no `//`".into());
        }
        if rest.contains('@') {
            return wrong("credentials do not belong into the URI: use --user and --password".into());
        }
        let (authority, query) = rest.split_once('?').map_or((rest, None), |(left, right)| (left, Some(right)));
        let tcp = match query {
            None | Some("transport=udp") => false,
            Some("transport=tcp") => true,
            Some(other) => return wrong(format!("`?{other}` is neither `?transport=udp` nor `?transport=tcp`")),
        };
        if query.is_some() && !is_turn {
            return wrong("`stun:` URIs have no `?transport=`".into());
        }
        let (host, port) =
            split_port(authority).ok_or_else(|| UriError(format!("`{authority}` is no host and port")))?;
        Ok(Self { is_turn, host, port, tcp })
    }
}

fn split_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("3478"))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "3478")),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_7065_3_01_forms() {
        for (text, is_turn, host, port, tcp) in [
            ("stun:example.org", false, "example.org", 3478, false),
            ("TURN:example.org:80", true, "example.org", 80, false),
            ("turn:192.0.2.1?transport=tcp", true, "192.0.2.1", 3478, true),
            ("turn:[2001:db8::1]?transport=udp", true, "2001:db8::1", 3478, false),
            ("turn:[2001:db8::1]:443?transport=tcp", true, "2001:db8::1", 443, true),
        ] {
            let expected = Uri { is_turn, host: host.into(), port, tcp };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, word) in [
            ("example.org", "no scheme"),
            ("http://example.org", "neither"),
            ("turn://example.org", "//"),
            ("turns:example.org", "TLS"),
            ("turn:user@example.org", "--user"),
            ("turn:example.org?transport=sctp", "transport"),
            ("stun:example.org?transport=udp", "stun:"),
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
