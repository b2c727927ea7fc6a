//! The walk: resolve → connect → Binding → Allocate → relay → channel, and what a failure usually means.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use ::stun::message::{
    Getter, METHOD_ALLOCATE, METHOD_BINDING, METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_REFRESH, Setter,
};
use ::stun::xoraddr::XorMappedAddress;
use ::turn::proto::PROTO_UDP;
use ::turn::proto::channum::ChannelNumber;
use ::turn::proto::lifetime::Lifetime;
use ::turn::proto::peeraddr::PeerAddress;
use ::turn::proto::relayaddr::RelayedAddress;
use ::turn::proto::reqtrans::RequestedTransport;
use serde::Serialize;

use super::client::{Client, Failure, Received};
use super::trust::Trust;
use super::uri::Uri;

/// How long relayed packets may be under way; each is sent again a few times.
const RELAY_PATIENCE: Duration = Duration::from_secs(3);
const CHANNEL: u16 = 0x4000;

/// One step that was taken.
#[derive(Debug, Serialize)]
pub struct Step {
    /// `resolve`, `connect`, `tls`, `binding`, `allocate`, `relay`, `channel`.
    pub name: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// What was found, or what went wrong.
    pub detail: String,
    /// For a failure: what it usually means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usually: Option<&'static str>,
    /// How long it took.
    pub milliseconds: u128,
}

/// Takes the steps in order, up to the first that fails; `seen` is told of each as it is done.
pub fn walk(uri: &Uri, credentials: Option<(String, String)>, trust: &Trust, mut seen: impl FnMut(&Step)) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut take = |name: &'static str, work: &mut dyn FnMut() -> Result<String, Failure>| {
        let start = Instant::now();
        let result = work();
        let milliseconds = start.elapsed().as_millis();
        let usually = result.as_ref().err().map(|failure| usually(name, failure, uri));
        let ok = result.is_ok();
        let step =
            Step { name, ok, detail: result.unwrap_or_else(|failure| failure.to_string()), usually, milliseconds };
        seen(&step);
        steps.push(step);
        ok
    };

    let mut server: Option<SocketAddr> = None;
    let resolved = take("resolve", &mut || {
        let all: Vec<SocketAddr> = (uri.host.as_str(), uri.port).to_socket_addrs()?.collect();
        server = all.first().copied();
        let list = all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        server.map(|_| list).ok_or_else(|| Failure::Garbled("the name has no address".into()))
    });
    let (true, Some(server)) = (resolved, server) else { return steps };

    let mut client = None;
    let connected = take("connect", &mut || {
        client = Some(Client::connect(server, uri.tcp, credentials.clone())?);
        Ok(format!("{} to {server}", if uri.tcp { "TCP" } else { "UDP" }))
    });
    let (true, Some(mut client)) = (connected, client) else { return steps };
    if uri.tls {
        let mut plain = Some(client);
        let mut secure = None;
        take("tls", &mut || {
            let plain = plain.take().expect("this step is taken once");
            let (client, version) = plain.shake_hands(&uri.host, trust)?;
            secure = Some(client);
            Ok(format!("{version}, the certificate is good for {}", uri.host))
        });
        let Some(secure) = secure else { return steps };
        client = secure;
    }

    let bound = take("binding", &mut || {
        let answer = client.request(METHOD_BINDING, Vec::new)?;
        let mut mapped = XorMappedAddress::default();
        mapped.get_from(&answer)?;
        Ok(format!("the server sees us as {}", SocketAddr::new(mapped.ip, mapped.port)))
    });
    if !bound || !uri.is_turn {
        return steps;
    }

    // Two allocations, so that one can be the other's peer: it works from every network, and needs nobody else.
    let mut ends = Vec::new();
    let allocated = take("allocate", &mut || {
        for _ in 0..2 {
            let mut end = Client::connect(server, uri.tcp, credentials.clone())?;
            if uri.tls {
                (end, _) = end.shake_hands(&uri.host, trust)?;
            }
            let relayed = allocate(&mut end)?;
            ends.push((end, relayed));
        }
        Ok(format!("relayed addresses {} and {}", ends[0].1, ends[1].1))
    });
    let [(first, first_relayed), (second, second_relayed)] = &mut ends[..] else { return steps };
    let relayed = allocated
        && take("relay", &mut || {
            permit(first, *second_relayed)?;
            permit(second, *first_relayed)?;
            let data = b"hairpin probe: there";
            pass(
                first,
                |end| end.send_indication(*second_relayed, data),
                second,
                |received| *received == Received::Indication(*first_relayed, data.to_vec()),
            )?;
            let data = b"hairpin probe: and back";
            pass(
                second,
                |end| end.send_indication(*first_relayed, data),
                first,
                |received| *received == Received::Indication(*second_relayed, data.to_vec()),
            )?;
            Ok("a packet went there and another came back, unchanged".into())
        });
    if relayed {
        take("channel", &mut || {
            let peer = *second_relayed;
            first.request(METHOD_CHANNEL_BIND, || {
                let address = PeerAddress { ip: peer.ip(), port: peer.port() };
                vec![Box::new(ChannelNumber(CHANNEL)), Box::new(address)]
            })?;
            let data = b"hairpin probe: by channel";
            pass(
                first,
                |end| end.send_channel_data(CHANNEL, data),
                second,
                |received| *received == Received::Indication(*first_relayed, data.to_vec()),
            )?;
            pass(
                second,
                |end| end.send_indication(*first_relayed, data),
                first,
                |received| *received == Received::Channel(CHANNEL, data.to_vec()),
            )?;
            Ok("ChannelData in both directions".into())
        });
    }
    for (end, _) in &mut ends {
        // Give the ports back; if that fails they expire by themselves.
        let _ = end.request(METHOD_REFRESH, || vec![Box::new(Lifetime(Duration::ZERO))]);
    }
    steps
}

fn allocate(client: &mut Client) -> Result<SocketAddr, Failure> {
    let answer = client
        .request(METHOD_ALLOCATE, || vec![Box::new(RequestedTransport { protocol: PROTO_UDP }) as Box<dyn Setter>])?;
    let mut relayed = RelayedAddress::default();
    relayed.get_from(&answer)?;
    Ok(SocketAddr::new(relayed.ip, relayed.port))
}

fn permit(client: &mut Client, peer: SocketAddr) -> Result<(), Failure> {
    client
        .request(METHOD_CREATE_PERMISSION, || vec![Box::new(PeerAddress { ip: peer.ip(), port: peer.port() })])
        .map(drop)
}

/// Sends until the other end receives what is expected, a few times: packets may be lost.
fn pass(
    from: &mut Client,
    send: impl Fn(&mut Client) -> Result<(), Failure>,
    to: &mut Client,
    expected: impl Fn(&Received) -> bool,
) -> Result<(), Failure> {
    let deadline = Instant::now() + RELAY_PATIENCE;
    while Instant::now() < deadline {
        send(from)?;
        let again = Instant::now() + RELAY_PATIENCE / 6;
        loop {
            match to.receive(again) {
                Ok(received) if expected(&received) => return Ok(()),
                // A packet sent twice may still be under way.
                Ok(_) => {}
                Err(Failure::Silence) => break,
                Err(other) => return Err(other),
            }
        }
    }
    Err(Failure::Silence)
}

fn usually(step: &str, failure: &Failure, uri: &Uri) -> &'static str {
    match (step, failure) {
        ("resolve", _) => "the host name is misspelt, or this machine has no working DNS",
        ("connect" | "binding", Failure::Socket(_)) => "nothing listens there, or a firewall rejects it",
        ("tls", _) => {
            "the certificate has expired, is for another name, or is signed by nobody this machine trusts (--ca FILE \
             adds somebody); or something else than TLS listens there"
        }
        ("binding", Failure::Silence) if !uri.tcp => {
            "a firewall drops UDP on this path (try ?transport=tcp), or nothing listens there"
        }
        ("binding", _) => "something else than a STUN server answers on this port",
        (_, Failure::Refused { code: 401, .. }) => {
            "wrong user name or password; a time-limited user name may have expired, or the server has another secret"
        }
        (_, Failure::Refused { code: 403, .. }) => {
            "the server's peer policy refuses its own relayed addresses; calls between two of its clients will fail"
        }
        (_, Failure::Refused { code: 437, .. }) => "an allocation was left over on this address and port: try again",
        (_, Failure::Refused { code: 440, .. }) => "the server has no relay address of this family",
        (_, Failure::Refused { code: 486, .. }) => "this user has as many allocations as allowed",
        (_, Failure::Refused { code: 508, .. }) => "the server is full or draining, or out of relay ports",
        ("relay" | "channel", Failure::Silence) => {
            "the relay ports are not open in a firewall, or the advertised relay address is not the server's public one"
        }
        (_, Failure::Silence) => "the server dropped the request; its log says why",
        _ => "the server does not follow the RFC here",
    }
}
