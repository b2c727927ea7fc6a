//! Clients of RFC 3489 at real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, address, config, settings, wait_for};
use crate::shard::Shards;
use crate::turn::{Compatibility, Config, Transport};

const REQUEST: [u8; 20] = *b"\x00\x01\x00\x00sixteen bytes id";

fn shards(compatibility: Compatibility) -> Shards {
    let turn = Arc::new(Config { compatibility, ..config() });
    Shards::start(crate::shard::Settings { turn, ..settings(1) }).unwrap()
}

fn expected(client: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(client) = client else { panic!("an IPv4 client") };
    let mapped = [&[0, 1, 0, 8, 0, 1][..], &client.port().to_be_bytes(), &client.ip().octets()].concat();
    [&[0x01, 0x01, 0, 12][..], &REQUEST[4..], &mapped].concat()
}

/// CLASSIC-5389-12-01: over a datagram and over a stream, in pieces and between other messages.
#[test]
fn classic_5389_12_01_binding_without_cookie_over_udp_and_tcp() {
    let shards = shards(Compatibility { classic_udp: true, classic_tcp: true, ..Compatibility::default() });
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    udp.connect(address(&shards, Transport::Udp)).unwrap();
    udp.send(&REQUEST).unwrap();
    let mut answer = [0; 100];
    let len = udp.recv(&mut answer).unwrap();
    assert_eq!(answer[..len], expected(udp.local_addr().unwrap()));

    let mut tcp = TcpStream::connect(address(&shards, Transport::Tcp)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    tcp.set_nodelay(true).unwrap();
    for (first, second) in [(5, 15), (1, 19), (20, 0)] {
        tcp.write_all(&REQUEST[..first]).unwrap();
        tcp.write_all(&REQUEST[first..first + second]).unwrap();
        let mut answer = [0; 32];
        tcp.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..], expected(tcp.local_addr().unwrap()));
    }
    // TURN goes on as ever.
    Client::of(&shards, Transport::Tcp).allocate();
}

/// CLASSIC-3489-02: off, a datagram is dropped and a stream is closed.
#[test]
fn classic_3489_02_off_means_dropped_and_closed() {
    let shards = shards(Compatibility::default());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(&REQUEST, address(&shards, Transport::Udp)).unwrap();
    let mut tcp = TcpStream::connect(address(&shards, Transport::Tcp)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    tcp.write_all(&REQUEST).unwrap();
    // The end, or a reset where bytes of ours were left unread.
    assert!(!matches!(tcp.read(&mut [0; 10]), Ok(1..)));
    wait_for(&shards, "both noticed", |snapshot| {
        let total = &snapshot.total;
        total.turn.drops[crate::turn::Reason::BadHeader as usize] == 1 && total.shell.connections_lost_framing == 1
    });
}
