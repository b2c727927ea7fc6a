//! A server that somebody else runs, known by its URI and what its operator says about it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use clap::ValueEnum as _;

use crate::bench::{Bench, Target, Transcript};
use crate::case::Need;
use crate::client::{Client, Credentials, Judged};
use crate::drafts::{allocate, binding, create_permission};
use crate::link::{Link, Transport};

/// Tries every transport and a peer.
///
/// # Errors
/// If the arguments make no sense, or nothing answers.
pub fn probe(uri: &str, user: Credentials, peer: Option<IpAddr>, has: &[String]) -> Result<Target, String> {
    let (scheme, rest) = uri.split_once(':').ok_or(format!("{uri}: not a turn: or turns: URI"))?;
    let is_secure = match scheme {
        "turn" | "stun" => false,
        "turns" | "stuns" => true,
        _ => return Err(format!("{uri}: not a turn: or turns: URI")),
    };
    let rest = rest.split('?').next().unwrap_or_default();
    let default_port = if is_secure { 5349 } else { 3478 };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            (host, port.parse::<u16>().map_err(|_| format!("{uri}: {port} is no port"))?)
        }
        _ => (rest, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let tls_port = if is_secure || port != 3478 { port } else { 5349 };
    let mut target = Target {
        profile: uri.to_owned(),
        host: host.to_owned(),
        ipv4: BTreeMap::new(),
        ipv6: BTreeMap::new(),
        user,
        second_user: None,
        short_term_user: None,
        secrets: Vec::new(),
        token_keys: Vec::new(),
        peer: None,
        denied_peer: None,
        has: BTreeSet::new(),
        process: None,
        turn: None,
    };
    declare(&mut target, has)?;
    let addresses = (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    for address in addresses {
        let candidates =
            [(Transport::Udp, port), (Transport::Tcp, port), (Transport::Tls, tls_port), (Transport::Dtls, tls_port)];
        for (transport, port) in candidates {
            let address = SocketAddr::new(address.ip(), port);
            let listeners = if address.is_ipv4() { &mut target.ipv4 } else { &mut target.ipv6 };
            if !listeners.contains_key(&transport) && answers(transport, address, host) {
                listeners.insert(transport, address);
            }
        }
    }
    if target.ipv4.is_empty() && target.ipv6.is_empty() {
        return Err(format!("{uri}: nothing answers a Binding request over UDP, TCP, TLS or DTLS"));
    }
    if !target.ipv6.is_empty() {
        target.has.insert(Need::Ipv6);
    }
    let local = peer.or_else(|| local_address(&target)).filter(IpAddr::is_ipv4);
    target.peer = local.filter(|ip| relays_to(&target, *ip));
    Ok(target)
}

fn answers(transport: Transport, address: SocketAddr, host: &str) -> bool {
    let Ok(link) = Link::open(transport, address, host, None, &[]) else {
        return false;
    };
    Client::new(link, Credentials::new("", ""), Transcript::default()).ask(&binding()).is_ok()
}

/// What the operator says with `--has NAME[=VALUE],…`.
fn declare(target: &mut Target, has: &[String]) -> Result<(), String> {
    for word in has {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let need = Need::from_str(name, false).map_err(|_| format!("--has {name}: see --needs for the names"))?;
        target.has.insert(need);
        match need {
            Need::SecondUser => {
                let (name, password) = value.split_once(':').ok_or("--has second-user=NAME:PASSWORD")?;
                target.second_user = Some(Credentials::new(name, password));
            }
            Need::ShortTerm => {
                let (name, password) = value.split_once(':').ok_or("--has short-term=NAME:PASSWORD")?;
                target.short_term_user = Some(Credentials::new(name, password));
            }
            Need::SharedSecret => target.secrets.insert(0, value.to_owned()),
            Need::SecondSecret => target.secrets.push(value.to_owned()),
            Need::DeniedPeer => {
                target.denied_peer = Some(value.parse().map_err(|_| "--has denied-peer=IP")?);
            }
            Need::TokenKey => {
                let wrong = "--has token-key=KID:HEX";
                let (kid, key) = value.split_once(':').ok_or(wrong)?;
                target.token_keys.push((kid.to_owned(), hex::decode(key).map_err(|_| wrong)?));
            }
            _ => {}
        }
    }
    Ok(())
}

/// From where packets to the server leave: where its packets come back to, if no NAT is between.
fn local_address(target: &Target) -> Option<IpAddr> {
    let server = target.ipv4.values().next()?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(server).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether a datagram gets to a peer of ours.
fn relays_to(target: &Target, ip: IpAddr) -> bool {
    let Some(transport) = Transport::ALL.into_iter().find(|transport| target.address(*transport).is_some()) else {
        return false;
    };
    let bench = Bench { target, transport, transcript: Transcript::default() };
    let try_it = || {
        let mut client = bench.client()?;
        client.ask_signed(&allocate())?.success()?;
        let peer = crate::bench::Peer::new(ip, &bench.transcript)?;
        client.ask_signed(&create_permission(&[peer.address]))?.success()?;
        client.send(peer.address, b"here?")?;
        peer.expect(b"here?")
    };
    try_it().is_ok()
}
