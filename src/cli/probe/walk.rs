//! The walk: resolve → connect → TLS → Binding → Allocate → relay → channel, for each way to the server until one
//! answers, and what a failure usually means.

use std::net::SocketAddr;
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
use super::dns::Dns;
use super::resolve::{Candidate, Over, resolve};
use super::trust::Trust;
use crate::cli::uri::Uri;

/// How long relayed packets may be under way; each is sent again a few times.
const RELAY_PATIENCE: Duration = Duration::from_secs(3);
const CHANNEL: u16 = 0x4000;

/// One step that was taken.
#[derive(Debug, Serialize)]
pub struct Step {
    /// `resolve`, `connect`, `tls`, `binding`, `allocate`, `relay`, `channel`.
    pub name: &'static str,
    /// Which way to the server, like `udp 192.0.2.1:3478`; absent for `resolve`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
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

/// One way to the server that was tried.
#[derive(Debug, Serialize)]
pub struct Tried {
    /// `udp`, `tcp` or `tls`.
    pub transport: &'static str,
    /// Of the server.
    pub address: SocketAddr,
    /// Whether every step worked.
    pub ok: bool,
    /// The step that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'static str>,
    /// All steps together.
    pub milliseconds: u128,
}

/// What to try, and with what.
pub struct Walk<'a> {
    pub uri: &'a Uri,
    pub credentials: Option<(String, String)>,
    pub trust: &'a Trust,
    /// Every transport, and every address of the server.
    pub all: bool,
    /// Told of each step as it is done.
    pub seen: &'a mut dyn FnMut(&Step),
    pub steps: Vec<Step>,
}

impl Walk<'_> {
    /// Finds the ways to the server and tries them in order. As a client would, it stays with the first on which the
    /// server answers, be it with a refusal; with `all` it tries every one.
    pub fn run(&mut self, dns: &Dns) -> Vec<Tried> {
        let (uri, all) = (self.uri, self.all);
        let mut candidates = Vec::new();
        self.take("resolve", None, || {
            let (found, how) = resolve(uri, all, dns).map_err(Failure::Unresolved)?;
            candidates = found;
            Ok(how)
        });
        let mut tried = Vec::new();
        for candidate in candidates {
            let before = self.steps.len();
            self.walk(candidate);
            let steps = &self.steps[before..];
            let failed = steps.iter().find(|step| !step.ok).map(|step| step.name);
            let is_reached = steps.iter().any(|step| step.ok && step.name == "binding");
            tried.push(Tried {
                transport: candidate.over.label(),
                address: candidate.address,
                ok: failed.is_none(),
                failed,
                milliseconds: steps.iter().map(|step| step.milliseconds).sum(),
            });
            if is_reached && !self.all {
                break;
            }
        }
        tried
    }

    fn take(
        &mut self,
        name: &'static str,
        candidate: Option<Candidate>,
        work: impl FnOnce() -> Result<String, Failure>,
    ) -> bool {
        let start = Instant::now();
        let result = work();
        let milliseconds = start.elapsed().as_millis();
        let usually = result.as_ref().err().map(|failure| usually(name, failure, candidate));
        let ok = result.is_ok();
        let detail = result.unwrap_or_else(|failure| failure.to_string());
        let candidate = candidate.map(|candidate| candidate.to_string());
        let step = Step { name, candidate, ok, detail, usually, milliseconds };
        (self.seen)(&step);
        self.steps.push(step);
        ok
    }

    /// Takes the steps in order, up to the first that fails.
    fn walk(&mut self, candidate: Candidate) {
        let Candidate { over, address: server } = candidate;
        let (host, trust, is_turn) = (self.uri.host.to_string(), self.trust, self.uri.is_turn);
        let credentials = self.credentials.clone();
        let is_stream = over != Over::Udp;
        let at = Some(candidate);

        let mut client = None;
        self.take("connect", at, || {
            client = Some(Client::connect(server, is_stream, credentials.clone())?);
            Ok(format!("{} to {server}", if is_stream { "TCP" } else { "UDP" }))
        });
        let Some(mut client) = client else { return };
        if over == Over::Tls {
            let mut secure = None;
            self.take("tls", at, || {
                let (client, version) = client.shake_hands(&host, trust)?;
                secure = Some(client);
                Ok(format!("{version}, the certificate is good for {host}"))
            });
            let Some(secure) = secure else { return };
            client = secure;
        }

        let bound = self.take("binding", at, || {
            let answer = client.request(METHOD_BINDING, Vec::new)?;
            let mut mapped = XorMappedAddress::default();
            mapped.get_from(&answer)?;
            Ok(format!("the server sees us as {}", SocketAddr::new(mapped.ip, mapped.port)))
        });
        if !bound || !is_turn {
            return;
        }

        // Two allocations, so that one can be the other's peer: it works from every network, and needs nobody else.
        let mut ends = Vec::new();
        let allocated = self.take("allocate", at, || {
            for _ in 0..2 {
                let mut end = Client::connect(server, is_stream, credentials.clone())?;
                if over == Over::Tls {
                    (end, _) = end.shake_hands(&host, trust)?;
                }
                let relayed = allocate(&mut end)?;
                ends.push((end, relayed));
            }
            Ok(format!("relayed addresses {} and {}", ends[0].1, ends[1].1))
        });
        if allocated && let [(first, first_relayed), (second, second_relayed)] = &mut ends[..] {
            self.relay(at, (first, *first_relayed), (second, *second_relayed));
        }
        for (end, _) in &mut ends {
            // Give the ports back; if that fails they expire by themselves.
            let _ = end.request(METHOD_REFRESH, || vec![Box::new(Lifetime(Duration::ZERO))]);
        }
    }

    /// Lets two allocations talk to each other.
    fn relay(
        &mut self,
        at: Option<Candidate>,
        (first, first_relayed): (&mut Client, SocketAddr),
        (second, second_relayed): (&mut Client, SocketAddr),
    ) {
        let relayed = self.take("relay", at, || {
            permit(first, second_relayed)?;
            permit(second, first_relayed)?;
            let data = b"hairpin probe: there";
            pass(
                first,
                |end| end.send_indication(second_relayed, data),
                second,
                |received| *received == Received::Indication(first_relayed, data.to_vec()),
            )?;
            let data = b"hairpin probe: and back";
            pass(
                second,
                |end| end.send_indication(first_relayed, data),
                first,
                |received| *received == Received::Indication(second_relayed, data.to_vec()),
            )?;
            Ok("a packet went there and another came back, unchanged".into())
        });
        if !relayed {
            return;
        }
        self.take("channel", at, || {
            first.request(METHOD_CHANNEL_BIND, || {
                let address = PeerAddress { ip: second_relayed.ip(), port: second_relayed.port() };
                vec![Box::new(ChannelNumber(CHANNEL)), Box::new(address)]
            })?;
            let data = b"hairpin probe: by channel";
            pass(
                first,
                |end| end.send_channel_data(CHANNEL, data),
                second,
                |received| *received == Received::Indication(first_relayed, data.to_vec()),
            )?;
            pass(
                second,
                |end| end.send_indication(first_relayed, data),
                first,
                |received| *received == Received::Channel(CHANNEL, data.to_vec()),
            )?;
            Ok("ChannelData in both directions".into())
        });
    }
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

fn usually(step: &str, failure: &Failure, candidate: Option<Candidate>) -> &'static str {
    let is_udp = candidate.is_some_and(|candidate| candidate.over == Over::Udp);
    match (step, failure) {
        ("resolve", _) => "the host name is misspelt, or this machine has no working DNS (--dns-server asks another)",
        ("connect" | "binding", Failure::Socket(_)) => "nothing listens there, or a firewall rejects it",
        ("tls", _) => {
            "the certificate has expired, is for another name, or is signed by nobody this machine trusts (--ca FILE \
             adds somebody); or something else than TLS listens there"
        }
        ("binding", Failure::Silence) if is_udp => {
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
