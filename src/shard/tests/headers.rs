//! IP header fields, as the sockets at both ends are told them.

use std::net::{SocketAddr, UdpSocket};

use socket2::SockRef;

use super::client::{Client, address, config, peer, peer_at, settings};
use super::*;
use crate::net::{receive_with_header, tell_headers};
use crate::turn::Transport;

const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;
/// DSCPs of audio and of two kinds of video (RFC 8837 §5).
const EF: u8 = 46;
const AF41: u8 = 34;
const AF42: u8 = 36;

fn send_as(socket: &UdpSocket, traffic_class: u8) {
    SockRef::from(socket).set_tos_v4(traffic_class.into()).unwrap();
}

/// TURN-8656-14-02, and 14-01 beside it: whatever either side sends, the other sees.
#[test]
fn turn_8656_14_02_ecn_is_copied_both_ways() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Udp));
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    tell_headers(&peer);
    tell_headers(client.udp_socket());
    for traffic_class in [0, ECT_0, EF << 2 | ECT_0, EF << 2 | CE, 1, 0] {
        send_as(client.udp_socket(), traffic_class);
        client.send_data(0x4000, &[traffic_class]);
        let (data, header) = receive_with_header(&peer);
        assert_eq!((&data[..], header.traffic_class), (&[traffic_class][..], traffic_class));
        send_as(&peer, traffic_class);
        peer.send_to(&[traffic_class], relayed).unwrap();
        let (message, header) = receive_with_header(client.udp_socket());
        assert_eq!((message[4], header.traffic_class), (traffic_class, traffic_class));
    }
}

/// DSCP-8837-01: audio and video on one 5-tuple, in one batch, each with its own.
#[test]
fn dscp_8837_01_several_dscps_on_one_5_tuple_are_each_preserved() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Udp));
    client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    tell_headers(&peer);
    let sent: Vec<u8> = [EF, AF41, EF, AF42].into_iter().cycle().take(40).collect();
    for dscp in &sent {
        send_as(client.udp_socket(), dscp << 2);
        client.send_data(0x4000, &[*dscp]);
    }
    for dscp in sent {
        let (data, header) = receive_with_header(&peer);
        assert_eq!((data[0], header.traffic_class >> 2), (dscp, dscp));
    }
}

/// TURN-8656-13-01: between families the alternate behaviour, as between equal ones: the system's own TTL and hop limit.
#[test]
fn turn_8656_13_01_translated_datagrams_have_the_systems_ttl() {
    if peer_at("[::1]:0").is_err() {
        eprintln!("SKIP: this machine has no ::1");
        return;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().parse::<u8>().unwrap();
    let ttl = read("/proc/sys/net/ipv4/ip_default_ttl");
    let hop_limit = read("/proc/sys/net/ipv6/conf/lo/hop_limit");
    let ip = "::1".parse().unwrap();
    let mut config = config();
    config.relays.push(turn::RelayAddress { bind: ip, advertise: ip });
    config.peers.allow.push("::1/128".parse().unwrap());
    for (listen, peer, family, hops) in [
        ("[::1]:0", "127.0.0.1:0", 1, ttl),
        ("127.0.0.1:0", "[::1]:0", 2, hop_limit),
        ("127.0.0.1:0", "127.0.0.1:0", 1, ttl),
    ] {
        let mut settings = settings(1);
        settings.listen.iter_mut().for_each(|entry| entry.address = listen.parse().unwrap());
        settings.turn = Arc::new(config.clone());
        let shards = Shards::start(settings).unwrap();
        let peer = peer_at(peer).unwrap();
        tell_headers(&peer);
        let mut client = Client::udp(address(&shards, Transport::Udp));
        let wanted = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0]);
        let relayed: SocketAddr = client.try_allocate_with(&[wanted]).relayed().expect("an allocation");
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        // What the client's own datagrams have is nobody's business beyond the server.
        match client.udp_socket().local_addr().unwrap().is_ipv4() {
            true => client.udp_socket().set_ttl(7).unwrap(),
            false => SockRef::from(client.udp_socket()).set_unicast_hops_v6(7).unwrap(),
        }
        client.send_data(0x4000, b"across");
        let (data, header) = receive_with_header(&peer);
        assert_eq!((&data[..], header.hops), (&b"across"[..], hops), "{listen} to {}", peer.local_addr().unwrap());
        peer.send_to(b"back", relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), b"back");
    }
}

/// TURN-8656-16-01, the part that is the server's to get wrong: whatever marks a peer's datagrams have, and in however
/// many fragments they came, over TCP they arrive whole and in order, on the one connection with its one DSCP.
#[test]
fn turn_8656_16_01_marks_and_fragments_of_peers_end_at_the_connection() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Tcp));
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    for (round, dscp) in [EF, AF41, 0, AF42].into_iter().cycle().take(16).enumerate() {
        send_as(&peer, dscp << 2 | [ECT_0, CE][round % 2]);
        let data = vec![round as u8; [100, 1_400, 20_000, 65_507][round % 4]];
        peer.send_to(&data, relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), data);
    }
    assert_eq!(client.refresh(0).error(), 0);
}
