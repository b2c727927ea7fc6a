//! RFC 7350: DTLS. What holds for every transport is asked over it where the other transports are.

use std::net::UdpSocket;
use std::time::Duration;

use crate::bench::Bench;
use crate::case::{Need, Section, Step, failed, may, must, not_applicable, policy};
use crate::client::Judged;
use crate::drafts::*;
use crate::ensure;
use crate::link::{DTLS, PATIENCE, Transport, UDP};

pub fn sections() -> Vec<Section> {
    let cases = vec![
        must("DTLS-7350-3-02", "DTLS carries Binding and Allocate").over(DTLS).test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            client.ask(&binding())?.success()?;
            client.send(peer.address, b"inside DTLS")?;
            peer.expect(b"inside DTLS")?;
            peer.send(relayed, b"and back")?;
            client.expect_data(b"and back").map(drop)
        }),
        must("DTLS-7350-3-03", "a first ClientHello costs a cookie, no larger than itself")
            .over(UDP)
            .needs(&[Need::DtlsOnUdpPort])
            .test(|bench| {
                let socket = udp_to_dtls(bench)?;
                let hello = client_hello();
                let mut answer = [0; 2_000];
                let len = socket.send(&hello).and_then(|_| socket.recv(&mut answer));
                let len = len.or_else(|error| failed(format!("expected HelloVerifyRequest: {error}")))?;
                // Handshake, and in it HelloVerifyRequest or (DTLS 1.3) ServerHello as HelloRetryRequest.
                let is_retry = len > 13 && answer[0] == 22 && [2, 3].contains(&answer[13]);
                ensure!(
                    is_retry && len <= hello.len(),
                    "{} bytes bring {len}: {}",
                    hello.len(),
                    hex::encode(&answer[..len])
                );
                Ok(())
            }),
        may("DTLS-7350-3-05", "DTLS and plain UDP share a port").over(UDP).needs(&[Need::DtlsOnUdpPort]).test(
            |bench| {
                bench.client()?.ask(&binding())?.success()?;
                let socket = udp_to_dtls(bench)?;
                let mut answer = [0; 2_000];
                let received = socket.send(&client_hello()).and_then(|_| socket.recv(&mut answer));
                ensure!(received.is_ok() && (20..=63).contains(&answer[0]), "no DTLS on that port: {received:?}");
                Ok(())
            },
        ),
        policy("DTLS-7350-3-07", "a forged ClientHello does not end an association").over(DTLS).test(|bench| {
            let mut client = bench.client()?;
            client.ask(&binding())?.success()?;
            // From the same address and port, as a forger would.
            let forger = client.link.socket().try_clone().or_else(|error| failed(error.to_string()))?;
            forger.send(&client_hello()).or_else(|error| failed(error.to_string()))?;
            client.ask(&binding())?.success().map(drop)
        }),
        policy("DTLS-7350-3-08", "a datagram that fits no record ends nothing").over(DTLS).test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            peer.send(relayed, &[7; 16_385])?;
            peer.send(relayed, b"still here")?;
            client.expect_data(b"still here").map(drop)
        }),
    ];
    vec![Section { title: "RFC 7350 DTLS", cases }]
}

fn udp_to_dtls(bench: &Bench) -> Step<UdpSocket> {
    let Some(server) = bench.target.address(Transport::Udp) else {
        return not_applicable("needs udp");
    };
    let patience: Option<Duration> = Some(PATIENCE);
    let connect = || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(patience)?;
        Ok::<_, std::io::Error>(socket)
    };
    connect().or_else(|error| failed(error.to_string()))
}

/// A ClientHello of DTLS 1.2 without a cookie, with what an ECDHE handshake needs.
fn client_hello() -> Vec<u8> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).expect("the system has randomness");
    let extensions: &[u8] = &[
        0, 10, 0, 6, 0, 4, 0, 23, 0, 29, // supported_groups: P-256, X25519
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 8, 0, 6, 4, 3, 4, 1, 8, 4, // signature_algorithms: ECDSA, RSA, RSA-PSS with SHA-256
    ];
    let mut body = vec![0xFE, 0xFD];
    body.extend(random);
    // No session, no cookie, two suites (ECDHE with AES-128-GCM), null compression.
    body.extend([0, 0, 0, 4, 0xC0, 0x2B, 0xC0, 0x2F, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let len = [0, 0, body.len() as u8];
    let mut handshake = vec![1];
    handshake.extend(len);
    handshake.extend([0, 0, 0, 0, 0]);
    handshake.extend(len);
    handshake.extend(&body);
    let mut record = vec![22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(&handshake);
    record
}
