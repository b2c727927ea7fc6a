//! RFC 8656 §3 and §5: transports, the order of checks, the 5-tuple; and the life of a connection.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::case::{Need, Section, failed, must, policy, should};
use crate::client::Judged;
use crate::drafts::*;
use crate::ensure;
use crate::link::{DATAGRAMS, STREAMS, TCP, Transport, UDP};

pub fn sections() -> Vec<Section> {
    vec![general(), life()]
}

fn general() -> Section {
    let cases = vec![
        must("TURN-8656-3.1-01", "data is relayed both ways").test(|bench| {
            let (mut client, relayed, peer) = bench.relaying()?;
            client.send(peer.address, b"to the peer")?;
            let from = peer.expect(b"to the peer")?;
            ensure!(from == relayed, "it came from {from} instead of {relayed}");
            peer.send(relayed, b"and back")?;
            client.expect_data(b"and back").map(drop)
        }),
        must("TURN-8656-5-01", "requests need long-term credentials").test(|bench| {
            let mut client = bench.client()?;
            client.ask(&allocate())?.error_is(401)?;
            client.ask_signed(&allocate())?.success().map(drop)
        }),
        should("TURN-8656-5-02", "a nonce is made for each client").test(|bench| {
            let nonces: BTreeSet<Vec<u8>> =
                (0..3).map(|_| Ok(bench.client()?.challenge()?.nonce)).collect::<Result<_, _>>()?;
            ensure!(nonces.len() == 3, "three clients got {} different nonces", nonces.len());
            Ok(())
        }),
        must("TURN-8656-5-03", "another user on the same 5-tuple is answered 441").needs(&[Need::SecondUser]).test(
            |bench| {
                let (mut client, relayed, peer) = bench.relaying()?;
                let owner = client.user.clone();
                client.user = bench.second_user()?.clone();
                let peers = [peer.address];
                for draft in [refresh(), create_permission(&peers), channel_bind(0x4000, peer.address)] {
                    client.ask_signed(&draft)?.error_is(441)?;
                }
                client.user = owner;
                peer.send(relayed, b"still here")?;
                client.expect_data(b"still here").map(drop)
            },
        ),
        must("TURN-8656-5-04", "the transport is part of the 5-tuple").over(TCP).test(|bench| {
            let mut one = bench.client()?;
            let first = one.allocate()?;
            let same_port = Some(one.address());
            let Some(server) = bench.target.address(Transport::Udp) else {
                return crate::case::not_applicable("needs udp");
            };
            let mut other = bench.client_at(Transport::Udp, server, same_port)?;
            let second = other.allocate()?;
            ensure!(first != second, "both have {first}");
            Ok(())
        }),
        must("TURN-8656-5-05", "without an allocation other requests are answered 437").test(|bench| {
            let mut client = bench.client()?;
            let peer = SocketAddr::from(([192, 0, 2, 1], 7_000));
            for draft in [refresh(), refresh_for(0), create_permission(&[peer]), channel_bind(0x4000, peer)] {
                client.ask_signed(&draft)?.error_is(437)?;
            }
            Ok(())
        }),
        must("TURN-8656-5-06", "without an allocation Send and ChannelData are ignored").test(|bench| {
            let mut client = bench.client()?;
            client.ask(&binding())?.success()?;
            let peer = bench.peer()?;
            client.send(peer.address, b"nobody")?;
            client.hears_nothing()?;
            client.send_on_channel(0x4000, b"nobody")?;
            if !client.transport().is_stream() {
                client.hears_nothing()?;
            }
            let (mut other, _) = bench.allocated()?;
            other.permit(peer.address)?;
            other.send(peer.address, b"somebody")?;
            peer.expect(b"somebody").map(drop)
        }),
        must("TURN-8656-5-07", "the credentials are checked before the allocation is looked for")
            .test(|bench| bench.client()?.ask(&refresh())?.error_is(401).map(drop)),
        must("TURN-8656-5-10", "no TURN without the magic cookie").over(UDP).test(|bench| {
            let mut client = bench.client()?;
            for draft in [allocate(), refresh()] {
                let mut bytes = client.signed(&draft)?.bytes().to_vec();
                bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
                client.is_ignored(bytes)?;
            }
            Ok(())
        }),
        must("TURN-8656-5-11", "a retransmitted request has one effect and equal answers").over(DATAGRAMS).test(
            |bench| {
                let (mut client, _) = bench.allocated()?;
                let peer = bench.peer()?;
                for draft in [refresh(), create_permission(&[peer.address]), channel_bind(0x4001, peer.address)] {
                    let signed = client.signed(&draft)?;
                    let (first, second) = (client.ask(&signed)?.success()?, client.ask(&signed)?.success()?);
                    ensure!(first.message_type() == second.message_type(), "{first} and then {second}");
                }
                let signed = client.signed(&refresh_for(0))?;
                client.ask(&signed)?.success()?;
                let again = client.ask(&signed)?;
                ensure!(again.is_success() || again.error() == Some(437), "expected success or 437, received: {again}");
                Ok(())
            },
        ),
        should("TURN-8656-5-12", "allocations are limited by user").needs(&[Need::QuotaOfTwo]).test(|bench| {
            let (_one, _other) = (bench.allocated()?, bench.allocated()?);
            bench.client()?.ask_signed(&allocate())?.error_is(486).map(drop)
        }),
    ];
    Section { title: "RFC 8656 §3–§5 general", cases }
}

fn life() -> Section {
    let cases = vec![
        policy("TURN-8656-LIFE-01", "an allocation ends with its connection").over(STREAMS).test(|bench| {
            let (client, relayed, peer) = bench.relaying()?;
            let (mut witness, _) = bench.allocated()?;
            drop(client);
            // While it lives its port is taken; a datagram to it is answered by ICMP as soon as it is not.
            let socket = &peer.socket;
            socket.connect(relayed).or_else(|error| failed(format!("the peer cannot connect: {error}")))?;
            let deadline = Instant::now() + Duration::from_secs(8);
            loop {
                // The first call may say what the one before has led to.
                let _ = socket.send(b"still there?");
                witness.ask(&binding())?.success()?;
                match socket.take_error() {
                    Ok(Some(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(()),
                    _ if Instant::now() > deadline => return failed(format!("{relayed} is still open after 8 s")),
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        }),
        policy("TURN-8656-LIFE-03", "a port that a client closed for a moment ends no allocation").over(UDP).test(
            |bench| {
                let (mut client, relayed, peer) = bench.relaying()?;
                let address = client.address();
                // The server's datagrams to the closed port come back as ICMP errors.
                let challenge = client.challenge()?;
                client.keep_allocation();
                drop(client);
                for _ in 0..5 {
                    peer.send(relayed, b"anybody?")?;
                }
                bench.client()?.all_before_now()?;
                let server = bench.target.address(Transport::Udp).expect("it was there a moment ago");
                let mut client = bench.client_at(Transport::Udp, server, Some(address))?;
                client.set_challenge(challenge);
                client.ask_signed(&refresh())?.success().map(drop)
            },
        ),
        policy("TURN-8656-LIFE-04", "a client that does not read delays nobody").over(TCP).test(|bench| {
            let (mut slow, slow_relayed, peer) = bench.relaying()?;
            let (mut quick, quick_relayed) = bench.allocated()?;
            quick.permit(peer.address)?;
            let data = vec![7; 1_200];
            for round in 0..4_000_u32 {
                peer.send(slow_relayed, &data)?;
                if round % 100 == 0 {
                    peer.send(quick_relayed, &round.to_be_bytes())?;
                    quick.expect_data(&round.to_be_bytes())?;
                }
            }
            // What it has missed is lost; what it asks is answered.
            slow.ask_signed(&refresh())?.success().map(drop)
        }),
    ];
    Section { title: "RFC 8656 the life of a connection", cases }
}
