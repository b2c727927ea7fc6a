//! RFC 7983 and 9443 (the first byte), older clients, time-limited credentials, the registry, and RFC 7443 and 7350.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, may, must, not_applicable, policy, should};
use crate::client::{Client, Credentials, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::{Arrival, DATAGRAMS, Link, TCP, TLS, Transport, UDP};
use crate::numbers::*;
use crate::rest_credentials::{in_an_hour, now, time_limited};
use crate::wire::Message;

pub fn sections() -> Vec<Section> {
    vec![first_byte(), older_clients(), rest(), registry(), alpn(), tls()]
}

fn first_byte() -> Section {
    let cases = vec![
        must("MUX-7983-7-01", "0 to 3 is STUN, 64 to 79 ChannelData").over(UDP).test(|bench| {
            let (mut client, _, peer) = bench.on_channel(0x4000)?;
            client.ask(&binding())?.success()?;
            client.send_on_channel(0x4000, b"data")?;
            peer.expect(b"data").map(drop)
        }),
        must("MUX-7983-7-02", "what begins otherwise is dropped").over(UDP).test(|bench| {
            let mut client = bench.client()?;
            for first in (4..=19).chain(80..=255) {
                let mut bytes = binding().bytes().to_vec();
                bytes[0] = first;
                client.tell(bytes)?;
            }
            client.hears_nothing()
        }),
        must("MUX-9443-3-01", "ChannelData from a stranger is dropped")
            .over(DATAGRAMS)
            .test(|bench| bench.client()?.is_ignored(channel_data(0x4000, &[0; 16]))),
        policy("MUX-7983-7-03", "TLS and TCP may share a port").over(TCP).needs(&[Need::TlsOnTcpPort]).test(|bench| {
            let Some(server) = bench.target.address(Transport::Tcp) else {
                return not_applicable("needs tcp");
            };
            bench.client_at(Transport::Tcp, server, None)?.ask(&binding())?.success()?;
            bench.client_at(Transport::Tls, server, None)?.ask(&binding())?.success().map(drop)
        }),
    ];
    Section { title: "RFC 7983, RFC 9443 the first byte", cases }
}

/// A Binding request as RFC 3489 has it: 16 bytes of id, no cookie.
fn classic(client: &mut Client, more: &[(u16, &[u8])]) -> Step<(Vec<u8>, Message)> {
    let draft = more.iter().fold(binding(), |draft, (kind, value)| draft.with(*kind, value));
    let mut bytes = draft.bytes().to_vec();
    bytes[4..8].copy_from_slice(&[9, 8, 7, 6]);
    let id = bytes[4..20].to_vec();
    client.tell(bytes)?;
    match client.receive()? {
        Arrival::Stun(message) => Ok((id, message)),
        arrival => failed(format!("expected a response, received: {arrival}")),
    }
}

fn older_clients() -> Section {
    let cases = vec![
        should("CLASSIC-5389-12-01", "Binding without cookie is answered with the whole 128-bit id")
            .over(UDP)
            .needs(&[Need::Classic])
            .test(|bench| {
                let (id, response) = classic(&mut bench.client()?, &[])?;
                let is_right = response.message_type() == message::BINDING_SUCCESS && response.cookie_and_id() == id;
                ensure!(is_right, "expected success with the id {}: {response}", hex::encode(id));
                Ok(())
            }),
        should("CLASSIC-5389-12-02", "that answer has MAPPED-ADDRESS").over(UDP).needs(&[Need::Classic]).test(
            |bench| {
                let mut client = bench.client()?;
                let (_, response) = classic(&mut client, &[])?;
                let is_right =
                    response.plain(MAPPED_ADDRESS) == Some(client.address()) && !response.has(XOR_MAPPED_ADDRESS);
                ensure!(is_right, "expected MAPPED-ADDRESS={} alone: {response}", client.address());
                Ok(())
            },
        ),
        may("CLASSIC-5389-12-03", "classic CHANGE-REQUEST and RESPONSE-ADDRESS are 420")
            .over(UDP)
            .needs(&[Need::Classic])
            .test(|bench| {
                let elsewhere = crate::wire::address(([127, 0, 0, 1], 9).into());
                let mut client = bench.client()?;
                for (kind, value) in [(CHANGE_REQUEST, &[0, 0, 0, 6][..]), (0x0002, &elsewhere)] {
                    let (_, response) = classic(&mut client, &[(kind, value)])?;
                    let is_420 = response.get(ERROR_CODE).is_some_and(|value| value.get(2..4) == Some(&[4, 20]));
                    ensure!(is_420, "expected 420: {response}");
                }
                Ok(())
            }),
        policy("CLASSIC-3489-02", "where classic STUN is off nothing is answered")
            .over(UDP)
            .needs(&[Need::NoClassic])
            .test(|bench| {
                let mut bytes = binding().bytes().to_vec();
                bytes[4..8].fill(0);
                bench.client()?.is_ignored(bytes)
            }),
        policy("CLASSIC-5389-15-01", "a password as SASLprep makes it is accepted").needs(&[Need::Saslprep]).test(
            |bench| {
                let mut client = bench.client()?;
                client.user = Credentials::new("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}", "TheMatrIX");
                client.ask_signed(&allocate())?.success().map(drop)
            },
        ),
        policy("CLASSIC-5766-01", "channel numbers of RFC 5766 may be accepted").needs(&[Need::WideChannels]).test(
            |bench| {
                let (mut client, _) = bench.allocated()?;
                let peer = bench.peer()?;
                client.bind_channel(0x5000, peer.address)?;
                client.send_on_channel(0x5000, b"wide")?;
                peer.expect(b"wide").map(drop)
            },
        ),
    ];
    Section { title: "RFC 3489, RFC 5389, RFC 5766 older clients", cases }
}

fn rest() -> Section {
    let cases = vec![
        must("REST-01", "the password is made from the user name with the secret").needs(&[Need::SharedSecret]).test(
            |bench| {
                let user = time_limited(&secret_of(bench, 0)?, &in_an_hour("alice"));
                log_in(bench, user)?.success().map(drop)
            },
        ),
        must("REST-02", "it serves for every kind of key").needs(&[Need::SharedSecret]).test(|bench| {
            let mut client = bench.client()?;
            client.user = time_limited(&secret_of(bench, 0)?, &in_an_hour("alice"));
            let signed = client.signed_sha256(&allocate())?;
            client.ask(&signed)?.success().map(drop)
        }),
        should("REST-03", "an expired name is 401").needs(&[Need::SharedSecret]).test(|bench| {
            let user = time_limited(&secret_of(bench, 0)?, &format!("{}:alice", now() - 2));
            log_in(bench, user)?.error_is(401).map(drop)
        }),
        must("REST-04", "an allocation outlives the name it was made with").needs(&[Need::SharedSecret]).test(
            |bench| {
                let mut client = bench.client()?;
                client.user = time_limited(&secret_of(bench, 0)?, &format!("{}:alice", now() + 3));
                client.allocate()?;
                let deadline = Instant::now() + Duration::from_secs(5);
                while Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(500));
                }
                client.ask_signed(&refresh())?.success()?;
                client.ask_signed(&refresh_for(0))?.success()?;
                // Nothing new is made with the name.
                let mut late = bench.client()?;
                late.user = client.user.clone();
                let signed = late.signed(&allocate())?;
                late.ask(&signed)?.error_is(401).map(drop)
            },
        ),
        should("REST-05", "two secrets are good at once").needs(&[Need::SharedSecret, Need::SecondSecret]).test(
            |bench| {
                for place in [0, 1] {
                    let user = time_limited(&secret_of(bench, place)?, &in_an_hour("alice"));
                    log_in(bench, user)?.success()?;
                }
                let user = time_limited("another secret altogether", &in_an_hour("alice"));
                log_in(bench, user)?.error_is(401).map(drop)
            },
        ),
        policy("REST-06", "a bare timestamp is a user name").needs(&[Need::SharedSecret]).test(|bench| {
            let user = time_limited(&secret_of(bench, 0)?, &(now() + 3_600).to_string());
            log_in(bench, user)?.success().map(drop)
        }),
        policy("REST-07", "what is no timestamp is 401").needs(&[Need::SharedSecret]).test(|bench| {
            for name in ["abc:x", "-5:x", "99999999999999999999:x", ":x", "+99999999999:x"] {
                let response = log_in(bench, time_limited(&secret_of(bench, 0)?, name))?;
                ensure!(response.error() == Some(401), "expected 401 for {name:?}, received: {response}");
            }
            Ok(())
        }),
        policy("REST-08", "the quota counts by the id behind the timestamp")
            .needs(&[Need::SharedSecret, Need::QuotaOfTwo])
            .test(|bench| {
                let secret = secret_of(bench, 0)?;
                let names = [0, 1, 2].map(|more| format!("{}:carol", now() + 3_600 + more));
                let [mut one, mut other, mut third] = [bench.client()?, bench.client()?, bench.client()?];
                for (client, name) in [(&mut one, &names[0]), (&mut other, &names[1]), (&mut third, &names[2])] {
                    client.user = time_limited(&secret, name);
                }
                one.allocate()?;
                other.allocate()?;
                third.ask_signed(&allocate())?.error_is(486)?;
                let mut another = bench.client()?;
                another.user = time_limited(&secret, &in_an_hour("dave"));
                another.ask_signed(&allocate())?.success().map(drop)
            }),
    ];
    Section { title: "time-limited credentials (REST draft)", cases }
}

fn secret_of(bench: &Bench, place: usize) -> Step<String> {
    match bench.target.secrets.get(place) {
        Some(secret) => Ok(secret.clone()),
        None => not_applicable("needs the value of the secret: --has shared-secret=…"),
    }
}

fn log_in(bench: &Bench, user: Credentials) -> Step<Message> {
    let mut client = bench.client()?;
    client.user = user;
    let signed = client.signed(&allocate())?;
    client.ask(&signed)
}

fn registry() -> Section {
    let cases = vec![
        must("IANA-01", "registered attributes of other usages are unknown: 420").test(|bench| {
            let mut client = bench.client()?;
            for (kind, len) in [(PRIORITY, 4), (0x0025, 0)] {
                let response = client.ask(&binding().with(kind, vec![0; len]))?.error_is(420)?;
                let list = response.get(UNKNOWN_ATTRIBUTES);
                ensure!(list == Some(&kind.to_be_bytes()), "expected {kind:#06x} in UNKNOWN-ATTRIBUTES: {response}");
            }
            Ok(())
        }),
        must("IANA-02", "reserved comprehension-required numbers are 420").test(|bench| {
            let mut client = bench.client()?;
            let mut accepted = Vec::new();
            for kind in [0x0002, 0x0004, 0x0005, 0x0007, 0x000B, 0x0010, 0x0021] {
                let response = client.ask(&binding().number(kind, 0))?;
                if response.error() != Some(420) {
                    accepted.push(format!("{kind:#06x}: {response}"));
                }
            }
            ensure!(accepted.is_empty(), "expected 420, received for {}", accepted.join("; for "));
            Ok(())
        }),
        must("IANA-03", "registered comprehension-optional numbers are ignored").test(|bench| {
            let mut client = bench.client()?;
            let registered = [0x8025, 0x8027, 0x8029, 0x802A, 0x802D, 0x802F, 0xFF05];
            for kind in registered.into_iter().chain(0xC000..=0xC003).chain(0xC056..=0xC060).chain([0xC070, 0xC071]) {
                let response = client.ask(&binding().number(kind, 1))?;
                ensure!(response.is_success(), "{kind:#06x} was not ignored: {response}");
            }
            Ok(())
        }),
        may("STUN-7982-3-01", "TRANSACTION_TRANSMIT_COUNTER is echoed").needs(&[Need::TransmitCounter]).test(|bench| {
            let mut client = bench.client()?;
            let draft = binding().with(TRANSACTION_TRANSMIT_COUNTER, [0, 0, 1, 0]);
            let response = client.ask(&draft)?.success()?;
            let value = response.get(TRANSACTION_TRANSMIT_COUNTER);
            ensure!(value == Some(&[0, 0, 1, 1]), "expected Req 1, Resp 1: {response}");
            Ok(())
        }),
    ];
    Section { title: "IANA registry, RFC 7982", cases }
}

/// A TLS connection that offers these labels.
fn offering(bench: &Bench, labels: &[&[u8]]) -> Step<std::io::Result<Link>> {
    match bench.target.address(Transport::Tls) {
        Some(server) => Ok(Link::open(Transport::Tls, server, &bench.target.host, None, labels)),
        None => not_applicable("needs tls"),
    }
}

fn alpn() -> Section {
    let cases = vec![
        must("ALPN-7443-2-01", "stun.turn is recognised; without ALPN it goes on").over(TLS).needs(&[Need::Alpn]).test(
            |bench| {
                let link = offering(bench, &[b"stun.turn"])?.or_else(|error| failed(error.to_string()))?;
                let chosen = link.tls().and_then(|session| session.alpn_protocol().map(<[u8]>::to_vec));
                ensure!(chosen.as_deref() == Some(b"stun.turn"), "expected stun.turn, the server chose {chosen:?}");
                bench.client()?.ask(&binding())?.success().map(drop)
            },
        ),
        policy("ALPN-7443-2-03", "foreign labels alone end the handshake").over(TLS).needs(&[Need::Alpn]).test(
            |bench| match offering(bench, &[b"h2"])? {
                Err(_) => Ok(()),
                Ok(_) => failed("the handshake succeeded with h2 alone"),
            },
        ),
        policy("ALPN-7443-2-04", "stun.nat-discovery gets Binding only").over(TLS).needs(&[Need::Alpn]).test(|bench| {
            let link = offering(bench, &[b"stun.nat-discovery"])?.or_else(|error| failed(error.to_string()))?;
            let mut client = Client::new(link, bench.target.user.clone(), bench.transcript.clone());
            client.ask(&binding())?.success()?;
            match client.ask(&allocate()) {
                Ok(response) => response.error_is(403).map(drop),
                Err(_) => Ok(()),
            }
        }),
    ];
    Section { title: "RFC 7443 ALPN", cases }
}

fn tls() -> Section {
    let cases = vec![
        must("STUN-8489-6.2.3-01", "TLS 1.2 offers forward secrecy: ECDHE with AES-GCM or ChaCha20").over(TLS).test(
            |bench| {
                let tls12 = handshake(bench, &[&rustls::version::TLS12])?;
                let suite = tls12.or_else(|error| failed(error.to_string()))?;
                ensure!(suite.contains("ECDHE"), "with TLS 1.2 it chose {suite}");
                Ok(())
            },
        ),
        must("STUN-8489-6.2.3-02", "TLS before 1.2 is refused").over(TLS).test(|bench| {
            // A ClientHello of TLS 1.0 and 1.1 by hand: one old suite, the null compression, no extensions.
            for minor in [1, 2] {
                let mut hello = vec![3, minor];
                hello.extend([7; 32]);
                hello.extend([0, 0, 4, 0xC0, 0x13, 0, 0x2F, 1, 0]);
                let mut handshake = vec![1, 0, 0, hello.len() as u8];
                handshake.extend(&hello);
                let mut record = vec![22, 3, 1, 0, handshake.len() as u8];
                record.extend(&handshake);
                let Some(server) = bench.target.address(Transport::Tls) else {
                    return not_applicable("needs tls");
                };
                let mut link = Link::open(Transport::Tcp, server, "", None, &[])
                    .or_else(|error| failed(format!("no connection: {error}")))?;
                link.send(&record).or_else(|error| failed(error.to_string()))?;
                let answer = link.receive_raw(Instant::now() + Duration::from_secs(8)).unwrap_or_default();
                // An alert, or the end; a ServerHello would be a record of type 22.
                ensure!(answer.first() != Some(&22), "TLS 1.{} is served", minor - 1);
            }
            Ok(())
        }),
        must("STUN-8489-6.2.3-03", "the certificate names a DNS host").over(TLS).test(|bench| {
            let link = offering(bench, &[])?.or_else(|error| failed(error.to_string()))?;
            let certificates = link.tls().and_then(|session| session.peer_certificates()).unwrap_or_default();
            let Some(first) = certificates.first() else {
                return failed("no certificate");
            };
            let has_name = webpki::EndEntityCert::try_from(first).is_ok_and(|c| c.valid_dns_names().next().is_some());
            ensure!(has_name, "no DNS name in the certificate");
            Ok(())
        }),
    ];
    Section { title: "RFC 8489 §6.2.3 TLS", cases }
}

fn handshake(bench: &Bench, versions: &[&'static rustls::SupportedProtocolVersion]) -> Step<std::io::Result<String>> {
    let Some(server) = bench.target.address(Transport::Tls) else {
        return not_applicable("needs tls");
    };
    let connect = || {
        let name = rustls::pki_types::ServerName::try_from(bench.target.host.clone()).map_err(std::io::Error::other)?;
        let config = std::sync::Arc::new(crate::link::tls_config(versions));
        let mut session = rustls::ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        let mut tcp = std::net::TcpStream::connect(server)?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        let suite = session.negotiated_cipher_suite().expect("the handshake is over");
        Ok(format!("{:?}", suite.suite()))
    };
    Ok(connect())
}
