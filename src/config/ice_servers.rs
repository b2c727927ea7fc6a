//! The `iceServers` of a browser: URIs after RFC 7064 and RFC 7065, and credentials.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::{Config, TimeLimited};
use crate::shard::{self, Identity, ListenAddress};
use crate::turn::{RealmChoice, ServerName, Transport};

/// The argument of `new RTCPeerConnection(…)`.
#[derive(Serialize)]
pub struct Configuration<'c> {
    /// One entry.
    #[serde(rename = "iceServers")]
    pub ice_servers: [IceServer<'c>; 1],
}

/// One entry of `iceServers`.
#[derive(Serialize)]
pub struct IceServer<'c> {
    /// `stun:`, `turn:` and `turns:` URIs.
    pub urls: Vec<String>,
    /// Until when it is good, and for whom.
    pub username: &'c str,
    /// The password.
    pub credential: &'c str,
}

/// One entry with all URIs: a browser knows what to do with each.
pub fn configuration(uris: Vec<String>, credential: &TimeLimited) -> Configuration<'_> {
    Configuration {
        ice_servers: [IceServer { urls: uris, username: &credential.username, credential: &credential.password }],
    }
}

/// A `stun:` URI if there is UDP, and a `turn:` or `turns:` URI for each transport. The first listener of a transport
/// counts: browsers slow down with every URI they get.
pub fn uris(host: &str, listen: &[ListenAddress], identity: Option<&Identity>) -> Vec<String> {
    let port_of =
        |transport| listen.iter().find(|entry| entry.transport == transport).map(|entry| entry.address.port());
    // A TCP listener that speaks TLS as well will do where there is none of TLS alone.
    let tls_too = || listen.iter().find(|entry| entry.speaks_tls()).map(|entry| entry.address.port());
    let host = bracketed(host);
    let mut uris = Vec::new();
    // URI-7065-3-03: browsers reject a `stun:` URI with a transport.
    uris.extend(port_of(Transport::Udp).map(|port| format!("stun:{host}:{port}")));
    for transport in [Transport::Udp, Transport::Tcp] {
        uris.extend(port_of(transport).map(|port| format!("turn:{host}:{port}?transport={}", transport.label())));
    }
    // URI-7065: the scheme says TLS, the transport what is under it.
    uris.extend(
        port_of(Transport::Tls)
            .or_else(tls_too)
            .map(|port| format!("turns:{}:{port}?transport=tcp", tls_host(&host, identity))),
    );
    uris
}

/// The same for a name or address under which clients reach the server.
fn uris_of(host: &str, listen: &[ListenAddress], identity: Option<&Identity>) -> Vec<String> {
    // Only an address tells which listeners it leads to.
    let reachable = match host.parse() {
        Ok(ip) => Some(reachable_at(ip, listen)).filter(|listen| !listen.is_empty()),
        Err(_) => None,
    };
    uris(host, reachable.as_deref().unwrap_or(listen), identity)
}

/// The same for the users of a realm, which are no use where they do not lead to its place. `host` is what the operator has
/// written for clients, of whatever realm. `None` if nothing tells where they are to come to.
pub fn uris_for(
    config: &Config,
    realm: Option<&str>,
    host: Option<&str>,
    listen: &[ListenAddress],
    identity: Option<&Identity>,
) -> Option<Vec<String>> {
    let host = host.map(str::to_owned);
    let found = config.shards.turn.realms.iter().find(|found| Some(&*found.name) == realm);
    let Some(RealmChoice::Place { addresses, server_names }) = found.map(|found| &found.chosen_by) else {
        return Some(uris_of(&host.or_else(|| public_host(&config.shards))?, listen, identity));
    };
    let mut uris = Vec::new();
    if let Some(first) = addresses.first() {
        let leads_there = |entry: &&ListenAddress| {
            let is_one = |at: &SocketAddr| {
                (at.port() == 0 || at.port() == entry.address.port())
                    && (at.ip() == entry.address.ip() || entry.address.ip().is_unspecified())
            };
            addresses.iter().any(is_one)
        };
        let there: Vec<ListenAddress> = listen.iter().filter(leads_there).copied().collect();
        uris = uris_of(&host.clone().unwrap_or_else(|| first.ip().to_string()), &there, identity);
    }
    if !server_names.is_empty() {
        // A name that one of its wildcards stands for is as good as one that is written.
        let covered = |host: &String| config.shards.turn.realm_of_server_name(host).as_deref() == realm;
        let exact = || server_names.iter().map(ServerName::as_str).find(|name| !name.starts_with('*'));
        let name = host.filter(covered).or_else(|| exact().map(str::to_owned))?;
        uris.retain(|uri| !uri.starts_with("turns:"));
        uris.extend(uris_of(&name, listen, None).into_iter().filter(|uri| uri.starts_with("turns:")));
    }
    (!uris.is_empty()).then_some(uris)
}

/// An address that the configuration shows to others: of a relay, or of a listener.
pub fn public_host(settings: &shard::Settings) -> Option<String> {
    let relays = settings.turn.relays.iter().map(|relay| relay.advertise);
    let listeners = settings.listen.iter().map(|entry| entry.address.ip());
    relays.chain(listeners).find(|ip| !ip.is_unspecified()).map(|ip| ip.to_string())
}

/// A host as it may stand in a URI.
///
/// # Errors
/// What to write instead.
pub fn host(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("write a name or an address, without scheme, port or brackets, like turn.example.org".to_owned())
}

/// The host if the certificate is good for it, else a name that it is good for. Without knowing either, the host.
fn tls_host<'h>(host: &'h str, identity: Option<&'h Identity>) -> &'h str {
    let Some(identity) = identity.filter(|identity| !identity.is_for(host.trim_matches(['[', ']']))) else {
        return host;
    };
    identity.dns_names().iter().find(|name| !name.starts_with('*')).map_or(host, String::as_str)
}

/// Of all listeners those that packets to this address reach. To those behind proxies no client comes by itself.
pub fn reachable_at(host: IpAddr, listen: &[ListenAddress]) -> Vec<ListenAddress> {
    let reaches = |address: SocketAddr| {
        address.ip() == host || (address.ip().is_unspecified() && address.is_ipv4() == host.is_ipv4())
    };
    listen.iter().copied().filter(|entry| reaches(entry.address) && !entry.options.proxy_protocol).collect()
}

/// IPv6 addresses stand in brackets in URIs.
fn bracketed(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ListenOptions;

    #[test]
    fn turns_uris_have_a_name_that_is_in_the_certificate() {
        let (certificate, key) = crate::shard::make_certificate(&["*.example.org", "turn.example.net"], |_| {});
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        for (host, shown) in [
            ("turn.example.org", "turn.example.org"),
            ("8.8.4.4", "turn.example.net"),
            ("2001:db8::1", "turn.example.net"),
            ("example.com", "turn.example.net"),
        ] {
            assert_eq!(tls_host(host, Some(&identity)), shown);
        }
    }

    /// URI-7065-3-03 as well: `?transport=` of `turn:` only.
    #[test]
    fn uri_7064_3_01_what_is_printed_can_be_read() {
        use crate::cli::uri::Uri;
        let listen: Vec<ListenAddress> = Transport::ALL
            .map(|transport| ListenAddress {
                transport,
                address: "0.0.0.0:3478".parse().unwrap(),
                required: true,
                options: ListenOptions::default(),
            })
            .into();
        for host in ["turn.example.org", "192.0.2.1", "2001:db8::1"] {
            let printed = uris(host, &listen, None);
            assert!(printed.len() > 3);
            for text in printed {
                let uri: Uri = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!((uri.to_string(), uri.transport.is_some()), (text, uri.is_turn));
            }
        }
    }

    /// URI-7064-3-01: scheme, host and port, and nothing else; RFC 7065 has a transport behind them.
    #[test]
    fn uri_7064_3_01_and_7065_forms() {
        let entry = |transport, address: &str| ListenAddress {
            transport,
            address: address.parse().unwrap(),
            required: true,
            options: ListenOptions::default(),
        };
        let both = [entry(Transport::Udp, "0.0.0.0:3478"), entry(Transport::Tcp, "0.0.0.0:443")];
        assert_eq!(
            uris("turn.example.org", &both, None),
            [
                "stun:turn.example.org:3478",
                "turn:turn.example.org:3478?transport=udp",
                "turn:turn.example.org:443?transport=tcp",
            ]
        );
        assert_eq!(uris("::1", &both[1..], None), ["turn:[::1]:443?transport=tcp"]);
        let tls = entry(Transport::Tls, "0.0.0.0:5349");
        assert_eq!(uris("10.0.0.1", &[tls], None), ["turns:10.0.0.1:5349?transport=tcp"]);
        let both_on_one =
            ListenAddress { options: ListenOptions { tls_too: true, ..ListenOptions::default() }, ..both[1] };
        assert_eq!(
            uris("10.0.0.1", &[both_on_one], None),
            ["turn:10.0.0.1:443?transport=tcp", "turns:10.0.0.1:443?transport=tcp"]
        );
        let v6 = entry(Transport::Udp, "[::]:3478");
        assert_eq!(reachable_at("::1".parse().unwrap(), &[both[0], v6]), [v6]);
        assert_eq!(reachable_at("10.0.0.1".parse().unwrap(), &[both[0], v6]), [both[0]]);
    }
}
