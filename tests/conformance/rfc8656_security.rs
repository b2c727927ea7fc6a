//! RFC 8656 §13 to §16 (header fields), §18 (attributes), §21 (security); RFC 8837 and RFC 7675.

use std::net::SocketAddr;

use nix::sys::socket::{self, sockopt};

use crate::bench::{Bench, Peer};
use crate::case::{Need, Section, Step, failed, may, must, policy, should};
use crate::client::{Client, Judged};
use crate::drafts::*;
use crate::ensure;
use crate::link::{DATAGRAMS, TCP, UDP};
use crate::numbers::*;
use crate::wire::Draft;

const IPV4: [u8; 4] = [1, 0, 0, 0];
const IPV6: [u8; 4] = [2, 0, 0, 0];
/// Expedited Forwarding and AF41, shifted to where TOS has them.
const EF: u8 = 46 << 2;
const AF41: u8 = 34 << 2;

pub fn sections() -> Vec<Section> {
    vec![header_fields(), attributes(), security()]
}

fn header_fields() -> Section {
    let cases = vec![
        should("TURN-8656-13-01", "between families TTL is decremented or the system's")
            .needs(&[Need::DualRelay])
            .over(UDP)
            .test(|bench| {
                let mut client = bench.client()?;
                client.allocate_with(&allocate().with(REQUESTED_ADDRESS_FAMILY, IPV6))?;
                let peer = bench.ipv6_peer()?;
                client.permit(peer.address)?;
                set(socket::setsockopt(&peer.socket, sockopt::Ipv6RecvHopLimit, &true))?;
                client.send(peer.address, b"hop limit")?;
                let fields = receive_fields(&peer)?;
                ensure!(matches!(fields.ttl, Some(1..=255)), "the peer sees a hop limit of {:?}", fields.ttl);
                Ok(())
            }),
        should("TURN-8656-14-01", "DSCP is copied, or Best Effort").needs(&[Need::SameMachine]).over(DATAGRAMS).test(
            |bench| {
                let seen = tos_at_peer(bench, EF)?;
                ensure!([0, EF].contains(&(seen & !3)), "EF became {:#04x}", seen);
                Ok(())
            },
        ),
        should("TURN-8656-14-02", "ECN is copied, or Not-ECT").needs(&[Need::SameMachine]).over(DATAGRAMS).test(
            |bench| {
                let seen = tos_at_peer(bench, 2)?;
                ensure!([0, 2].contains(&(seen & 3)), "ECT(0) became {:#04x}", seen);
                Ok(())
            },
        ),
        should("TURN-8656-15-01", "from TCP, DSCP is the connection's or Best Effort, ECN is Not-ECT")
            .needs(&[Need::SameMachine])
            .over(TCP)
            .test(|bench| {
                let seen = tos_at_peer(bench, EF)?;
                ensure!([0, EF].contains(&(seen & !3)) && seen & 3 == 0, "the peer sees {seen:#04x}");
                Ok(())
            }),
        policy("DSCP-8837-01", "several DSCPs of one client are each preserved")
            .needs(&[Need::SameMachine])
            .over(DATAGRAMS)
            .test(|bench| {
                let (mut client, _, peer) = bench.on_channel(0x4000)?;
                set(socket::setsockopt(&peer.socket, sockopt::IpRecvTos, &true))?;
                for tos in [EF, AF41, EF] {
                    set_tos(&client, tos)?;
                    client.send_on_channel(0x4000, b"media")?;
                    let seen = receive_fields(&peer)?.tos;
                    ensure!(seen == Some(tos), "{tos:#04x} became {seen:?}");
                }
                Ok(())
            }),
        policy("CONSENT-7675-5.1-01", "connectivity checks get through beside media").over(DATAGRAMS).test(|bench| {
            let (mut client, relayed, peer) = bench.on_channel(0x4000)?;
            let media = vec![7; 1_200];
            let mut checks_seen = 0;
            for _ in 0..20 {
                for _ in 0..20 {
                    client.send_on_channel(0x4000, &media)?;
                    peer.expect(&media)?;
                }
                let check = binding();
                client.send_on_channel(0x4000, check.bytes())?;
                peer.expect(check.bytes())?;
                peer.send(relayed, check.bytes())?;
                client.expect_channel_data(0x4000, check.bytes())?;
                checks_seen += 1;
            }
            ensure!(checks_seen == 20, "only {checks_seen} of 20");
            Ok(())
        }),
    ];
    Section { title: "RFC 8656 §13–§16, RFC 8837, RFC 7675 header fields, consent", cases }
}

fn attributes() -> Section {
    let cases = vec![
        must("TURN-8656-18-01", "reserved bits are ignored").needs(&[Need::DualRelay]).test(|bench| {
            let mut client = bench.client()?;
            let draft = Draft::new(message::ALLOCATE)
                .with(REQUESTED_TRANSPORT, [17, 0xFF, 0xFF, 0xFF])
                .with(EVEN_PORT, [0x7F])
                .with(REQUESTED_ADDRESS_FAMILY, [1, 0xFF, 0xFF, 0xFF]);
            let response = client.ask_signed(&draft)?.success()?;
            ensure!(!response.has(RESERVATION_TOKEN), "R was not set: {response}");
            let peer = bench.peer()?;
            let channel = Draft::new(message::CHANNEL_BIND).number(CHANNEL_NUMBER, 0x4000_FFFF).peer(peer.address);
            client.ask_signed(&channel)?.success()?;
            client.send_on_channel(0x4000, b"bound")?;
            peer.expect(b"bound").map(drop)
        }),
        must("TURN-8656-18-02", "an attribute of another length than its own is 400").test(|bench| {
            let mut client = bench.client()?;
            let of_allocate: [(u16, usize); 6] = [
                (LIFETIME, 4),
                (REQUESTED_ADDRESS_FAMILY, 4),
                (ADDITIONAL_ADDRESS_FAMILY, 4),
                (EVEN_PORT, 1),
                (RESERVATION_TOKEN, 8),
                (DONT_FRAGMENT, 0),
            ];
            let mut accepted = Vec::new();
            for (kind, len) in of_allocate {
                for wrong in [len.wrapping_sub(1), len + 1].into_iter().filter(|len| *len < 64) {
                    let response = client.ask_signed(&allocate().with(kind, vec![1; wrong]))?;
                    if response.error() != Some(400) {
                        accepted.push(format!("{} of {wrong} bytes: {response}", attribute_name(kind)));
                    }
                    if response.is_success() {
                        client.ask_signed(&refresh_for(0))?;
                    }
                }
            }
            ensure!(accepted.is_empty(), "expected 400, received for {}", accepted.join("; for "));
            client.allocate()?;
            let peer = bench.peer()?;
            for wrong in [3, 5] {
                let channel =
                    Draft::new(message::CHANNEL_BIND).with(CHANNEL_NUMBER, vec![0x40; wrong]).peer(peer.address);
                client.ask_signed(&channel)?.error_is(400)?;
            }
            Ok(())
        }),
        must("TURN-8656-18.13-01", "ICMP has reserved bits, type, code and data")
            .needs(&[Need::SameMachine])
            .over(DATAGRAMS)
            .test(|bench| {
                let (mut client, _, peer) = bench.relaying()?;
                let closed = peer.address;
                drop(peer);
                client.send(closed, b"anybody?")?;
                let arrival = client.receive()?;
                let crate::link::Arrival::Stun(message) = &arrival else {
                    return failed(format!("expected a Data indication, received: {arrival}"));
                };
                let icmp = message.get(ICMP);
                ensure!(icmp == Some(&[0, 0, 3, 3, 0, 0, 0, 0]), "expected ICMP 3/3, received: {message}");
                Ok(())
            }),
    ];
    Section { title: "RFC 8656 §18 attributes", cases }
}

fn security() -> Section {
    let cases = vec![
        policy("TURN-8656-21.1.7-01", "the server's own listeners are no peers").needs(&[Need::PeersRestricted]).test(
            |bench| {
                let (mut client, _) = bench.allocated()?;
                let listener = client.link.server;
                client.ask_signed(&create_permission(&[listener]))?.error_is(403)?;
                client.ask_signed(&channel_bind(0x4000, listener))?.error_is(403).map(drop)
            },
        ),
        may("TURN-8656-21.2.2-01", "peers can be refused by configuration").needs(&[Need::DeniedPeer]).test(|bench| {
            let Some(denied) = bench.target.denied_peer else {
                return crate::case::not_applicable("needs the address: --has denied-peer=IP");
            };
            let (mut client, _) = bench.allocated()?;
            let denied = SocketAddr::new(denied, 7_000);
            client.ask_signed(&create_permission(&[denied]))?.error_is(403)?;
            client.ask_signed(&channel_bind(0x4000, denied))?.error_is(403).map(drop)
        }),
        policy("TURN-8656-21.2.2-02", "special addresses are refused by default").needs(&[Need::PeersRestricted]).test(
            |bench| {
                let ipv4 = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"];
                refused(bench, IPV4, &ipv4)?;
                refused(bench, IPV6, &["::1", "::", "fe80::1", "ff02::1"])
            },
        ),
        policy("TURN-8656-21.2.2-03", "embedded forms of refused addresses are refused, too")
            .needs(&[Need::PeersRestricted])
            .test(|bench| {
                refused(bench, IPV6, &["::ffff:127.0.0.1", "64:ff9b::7f00:1", "::127.0.0.1", "2002:7f00:1::1"])
            }),
        policy("TURN-8656-9-06", "IPv4-mapped addresses get around nothing")
            .needs(&[Need::PeersRestricted])
            .test(|bench| refused(bench, IPV6, &["::ffff:127.0.0.1", "::ffff:10.0.0.1"])),
        must("TURN-8656-21.4-01", "Teredo and 6to4 peers are not accepted")
            .needs(&[Need::DualRelay])
            .test(|bench| refused(bench, IPV6, &["2002:c000:201::1", "2001:0:c000:201::1"])),
    ];
    Section { title: "RFC 8656 §21 security", cases }
}

/// CreatePermission and ChannelBind are answered 403 for each of them.
fn refused(bench: &Bench, family: [u8; 4], peers: &[&str]) -> Step<()> {
    let mut client = bench.client()?;
    client.allocate_with(&allocate().with(REQUESTED_ADDRESS_FAMILY, family))?;
    let mut accepted = Vec::new();
    for (number, peer) in (0x4000..).zip(peers) {
        let peer = SocketAddr::new(peer.parse().expect("an address"), 7_000);
        for draft in [create_permission(&[peer]), channel_bind(number, peer)] {
            let response = client.ask_signed(&draft)?;
            if response.error() != Some(403) {
                accepted.push(format!("{peer}: {response}"));
            }
        }
    }
    ensure!(accepted.is_empty(), "expected 403, received for {}", accepted.join("; for "));
    Ok(())
}

/// What the kernel told about a datagram.
struct Fields {
    tos: Option<u8>,
    ttl: Option<i32>,
}

fn receive_fields(peer: &Peer) -> Step<Fields> {
    use std::os::fd::AsRawFd as _;
    let patience = Some(crate::link::PATIENCE);
    peer.socket.set_read_timeout(patience).or_else(|error| failed(error.to_string()))?;
    let mut data = [0; 2_000];
    let mut buffers = [std::io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([u8; 64]);
    let fd = peer.socket.as_raw_fd();
    let flags = socket::MsgFlags::empty();
    let received = match socket::recvmsg::<socket::SockaddrStorage>(fd, &mut buffers, Some(&mut space), flags) {
        Ok(received) => received,
        Err(error) => return failed(format!("expected a datagram at the peer: {error}")),
    };
    let mut fields = Fields { tos: None, ttl: None };
    for message in received.cmsgs().or_else(|error| failed(error.to_string()))? {
        match message {
            socket::ControlMessageOwned::Ipv4Tos(tos) => fields.tos = Some(tos),
            socket::ControlMessageOwned::Ipv6HopLimit(ttl) | socket::ControlMessageOwned::Ipv4Ttl(ttl) => {
                fields.ttl = Some(ttl);
            }
            _ => {}
        }
    }
    Ok(fields)
}

/// TOS as the peer sees it when the client sends with this one.
fn tos_at_peer(bench: &Bench, tos: u8) -> Step<u8> {
    let (mut client, _, peer) = bench.relaying()?;
    set(socket::setsockopt(&peer.socket, sockopt::IpRecvTos, &true))?;
    set_tos(&client, tos)?;
    client.send(peer.address, b"TOS")?;
    match receive_fields(&peer)?.tos {
        Some(tos) => Ok(tos),
        None => failed("the kernel did not tell the TOS"),
    }
}

fn set_tos(client: &Client, tos: u8) -> Step<()> {
    client.link.socket().set_tos_v4(u32::from(tos)).or_else(|error| failed(format!("TOS: {error}")))
}

fn set(result: nix::Result<()>) -> Step<()> {
    result.or_else(|error| failed(format!("a socket option: {error}")))
}
