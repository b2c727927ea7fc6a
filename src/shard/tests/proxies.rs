//! Clients that come through a proxy, and ports that speak TLS and plain TCP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::client::{Answer, Client, TRANSPORTS, address, peer, receive, settings, wait_for};
use super::*;
use crate::net::ProxyRefusal;

const CLIENT: &str = "192.0.2.77:40000";
/// Where that client thinks it is.
const SERVER: &str = "203.0.113.5:3478";

fn behind_proxies(count: u16) -> Settings {
    let mut settings = settings(count);
    settings.listen.iter_mut().for_each(|listen| listen.options.proxy_protocol = true);
    settings
}

/// Version 2, for a datagram or the start of a connection.
fn header(transport: Transport, client: &str) -> Vec<u8> {
    let mut header = crate::net::proxy_protocol::write(client.parse().unwrap(), SERVER.parse().unwrap()).to_vec();
    if !transport.is_stream() {
        header[13] += 1;
    }
    header
}

fn mapped(client: &mut Client) -> SocketAddr {
    let request = client.binding();
    client.send(&request);
    let answer = Answer(client.receive());
    assert_eq!(answer.0[4..20], request[4..20]);
    answer.address(AttributeType::XOR_MAPPED_ADDRESS)
}

fn refusals(snapshot: &Snapshot, why: ProxyRefusal) -> u64 {
    snapshot.total.shell.proxy_refusals[why as usize]
}

/// Whatever carries the client, it is known by its own address, and gets all it would get without the proxy.
#[test]
fn proxied_clients_are_served_under_their_own_address() {
    let shards = Shards::start(behind_proxies(2)).unwrap();
    let peer = peer();
    for &transport in TRANSPORTS {
        let mut client = Client::of(&shards, transport).behind(&header(transport, CLIENT));
        assert_eq!(mapped(&mut client), CLIENT.parse().unwrap());
        let relayed = client.allocate();
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        for len in [0, 1, 160, 9000] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            client.send_data(0x4000, &data);
            assert_eq!(receive(&peer), (data.clone(), relayed));
            peer.send_to(&data, relayed).unwrap();
            assert_eq!(client.receive_data(0x4000), data);
        }
        assert_eq!(client.refresh(0).error(), 0);
        assert_eq!(shards.allocations(), 0);
    }
    let mut client = Client::of(&shards, Transport::Tcp).behind(b"PROXY TCP6 2001:db8::1 2001:db8::2 7 443\r\n");
    assert_eq!(mapped(&mut client), "[2001:db8::1]:7".parse().unwrap());
}

/// A proxy with one socket for all: the clients are told apart, and the answers go to that socket.
#[test]
fn two_clients_of_one_udp_proxy_have_an_allocation_each() {
    let shards = Shards::start(behind_proxies(1)).unwrap();
    let peer = peer();
    let mut proxy = Client::of(&shards, Transport::Udp).behind(&header(Transport::Udp, CLIENT));
    let first = proxy.allocate();
    proxy.bind_channel(0x4000, peer.local_addr().unwrap());
    proxy = proxy.behind(&header(Transport::Udp, "192.0.2.77:40001"));
    let second = proxy.allocate();
    proxy.bind_channel(0x4001, peer.local_addr().unwrap());
    assert_ne!(first, second);
    peer.send_to(b"first", first).unwrap();
    assert_eq!(proxy.receive_data(0x4000), b"first");
    peer.send_to(b"second", second).unwrap();
    assert_eq!(proxy.receive_data(0x4001), b"second");
    proxy.send_data(0x4001, b"from the second");
    assert_eq!(receive(&peer), (b"from the second".to_vec(), second));
    // A second proxy takes over: from then on answers go there.
    let mut other = Client::of(&shards, Transport::Udp).behind(&header(Transport::Udp, "192.0.2.77:40001"));
    other.send_data(0x4001, b"still the second");
    assert_eq!(receive(&peer), (b"still the second".to_vec(), second));
    peer.send_to(b"here", second).unwrap();
    assert_eq!(other.receive_data(0x4001), b"here");
}

/// Only the configured proxies may say who a client is; for everybody else the port is closed.
#[test]
fn strangers_are_no_proxies() {
    let mut settings = behind_proxies(1);
    settings.proxies.prefixes = ["10.0.0.0/8".parse().unwrap(), "127.0.0.2/32".parse().unwrap()].into();
    let shards = Shards::start(settings).unwrap();
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut tcp = TcpStream::connect(address(&shards, transport)).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(tcp.read(&mut [0]).unwrap_or(0), 0);
    }
    let mut stranger = Client::of(&shards, Transport::Udp).behind(&header(Transport::Udp, CLIENT));
    let request = stranger.binding();
    stranger.send(&request);
    wait_for(&shards, "three refusals", |snapshot| refusals(snapshot, ProxyRefusal::Untrusted) == 3);
}

#[test]
fn connections_and_datagrams_without_a_good_header_are_not_served() {
    let shards = Shards::start(behind_proxies(1)).unwrap();
    let binding = Client::of(&shards, Transport::Udp).binding();
    let [udp, tcp, tls] = [Transport::Udp, Transport::Tcp, Transport::Tls];
    for (transport, bytes, why) in [
        (tcp, binding.clone(), ProxyRefusal::Missing),
        (tls, vec![22, 3, 1, 0, 200], ProxyRefusal::Missing),
        (udp, binding.clone(), ProxyRefusal::Missing),
        (tcp, header(udp, CLIENT), ProxyRefusal::Unsupported),
        (udp, [header(tcp, CLIENT), binding.clone()].concat(), ProxyRefusal::Unsupported),
        (udp, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), ProxyRefusal::Unsupported),
        (udp, header(udp, CLIENT)[..20].to_vec(), ProxyRefusal::Malformed),
        (tcp, b"PROXY TCP4 192.0.2.1 192.0.2.2 0 2\r\n".to_vec(), ProxyRefusal::Malformed),
    ] {
        let before = refusals(&shards.snapshot(), why);
        let mut client = Client::of(&shards, transport).behind(if transport == udp { &[] } else { &bytes });
        if transport == udp {
            client.send(&bytes);
        } else {
            assert_eq!(client.tcp_stream().read(&mut [0]).unwrap_or(0), 0);
        }
        wait_for(&shards, why.label(), |snapshot| refusals(snapshot, why) == before + 1);
    }
    let half = TcpStream::connect(address(&shards, tcp)).unwrap();
    (&half).write_all(b"PROXY TCP4").unwrap();
    drop(half);
    wait_for(&shards, "the end", |snapshot| refusals(snapshot, ProxyRefusal::Closed) == 1);
    assert_eq!(shards.snapshot().total.turn.requests.iter().sum::<u64>(), 0);
}

/// In any pieces, and with the first message right behind it.
#[test]
fn headers_cut_anywhere_are_understood() {
    let shards = Shards::start(behind_proxies(1)).unwrap();
    for header in [header(Transport::Tcp, CLIENT), b"PROXY TCP4 192.0.2.77 203.0.113.5 40000 3478\r\n".to_vec()] {
        let mut client = Client::of(&shards, Transport::Tcp);
        let request = client.binding();
        let stream = [&header[..], &request].concat();
        stream.chunks(1).for_each(|byte| client.send(byte));
        let answer = Answer(client.receive());
        assert_eq!(answer.address(AttributeType::XOR_MAPPED_ADDRESS), CLIENT.parse().unwrap());
        client = Client::of(&shards, Transport::Tcp);
        client.send(&stream);
        assert_eq!(client.receive()[..2], [1, 1]);
    }
}

/// A proxy that asks for itself, whether the server is there.
#[test]
fn health_checks_of_proxies_are_answered() {
    let shards = Shards::start(behind_proxies(1)).unwrap();
    let local = [&header(Transport::Tcp, CLIENT)[..12], &[0x20, 0, 0, 0]].concat();
    for &transport in TRANSPORTS {
        let mut proxy = Client::of(&shards, transport).behind(&local);
        assert_eq!(mapped(&mut proxy), proxy.local_address());
    }
    let mut proxy = Client::of(&shards, Transport::Tcp).behind(b"PROXY UNKNOWN\r\n");
    assert_eq!(mapped(&mut proxy), proxy.local_address());
}

/// A header that does not come ends the connection, which counts for the whole server until then.
#[test]
fn s6_slow_headers_time_out() {
    let mut settings = behind_proxies(1);
    settings.proxies.header_timeout = Duration::from_millis(300);
    settings.connections.total = 2;
    let shards = Shards::start(settings).unwrap();
    let server = address(&shards, Transport::Tcp);
    let mut slow: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(server).unwrap()).collect();
    slow[0].write_all(b"PROXY TCP4 192.0.2.77 ").unwrap();
    slow.iter_mut().for_each(|tcp| {
        tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(tcp.read(&mut [0]).unwrap_or(0), 0);
    });
    wait_for(&shards, "two timeouts", |snapshot| refusals(snapshot, ProxyRefusal::Timeout) == 2);
    // Both places are free again.
    let _clients = ["192.0.2.1:1", "192.0.2.2:1"].map(|address| {
        let mut client = Client::of(&shards, Transport::Tcp).behind(&header(Transport::Tcp, address));
        assert_eq!(mapped(&mut client), address.parse().unwrap());
        client
    });
    let mut third = TcpStream::connect(server).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0);
    wait_for(&shards, "one refused", |snapshot| snapshot.total.shell.connections_refused == 1);
}

/// The limit for one address is that of the client, not of the proxy.
#[test]
fn connections_count_for_the_client_behind_the_proxy() {
    let mut settings = behind_proxies(1);
    settings.connections.per_address = 2;
    let shards = Shards::start(settings).unwrap();
    let connect = |client: &str| Client::of(&shards, Transport::Tcp).behind(&header(Transport::Tcp, client));
    let mut kept: Vec<Client> = Vec::new();
    for client in ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "192.0.2.3:1"] {
        let mut connected = connect(client);
        assert_eq!(mapped(&mut connected), client.parse().unwrap());
        kept.push(connected);
    }
    assert!(connect("192.0.2.1:3").try_receive().is_none());
    drop(kept);
    wait_for(&shards, "all gone", |snapshot| snapshot.total.connections == 0);
    assert_eq!(mapped(&mut connect("192.0.2.1:4")), "192.0.2.1:4".parse().unwrap());
}

/// MUX-7983-7-03: one port for both, told apart by the first byte; with a proxy in front as well.
#[test]
fn mux_7983_7_03_tls_and_plain_tcp_share_a_port() {
    for proxied in [false, true] {
        let mut settings = settings(2);
        let options = ListenOptions { tls_too: true, proxy_protocol: proxied, ..ListenOptions::default() };
        settings.listen.iter_mut().for_each(|listen| listen.options.proxy_protocol = proxied);
        settings.listen.retain(|listen| listen.transport == Transport::Tcp);
        settings.listen[0].options = options;
        let shards = Shards::start(settings).unwrap();
        let (server, peer) = (address(&shards, Transport::Tcp), peer());
        let header = if proxied { header(Transport::Tcp, CLIENT) } else { Vec::new() };
        for connect in [Client::tcp, Client::tls, Client::tcp] {
            let mut client = connect(server).behind(&header);
            let relayed = client.allocate();
            client.bind_channel(0x4000, peer.local_addr().unwrap());
            client.send_data(0x4000, b"over one port");
            assert_eq!(receive(&peer), (b"over one port".to_vec(), relayed));
        }
        // Neither of the two: ChannelData cannot be first, and is no start of TLS.
        for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x40, 0, 0, 0], &[0x15, 3, 3, 0, 2, 1, 0], &[0xFF; 50]] {
            let mut client = Client::tcp(server).behind(&header);
            client.send(first);
            assert!(client.try_receive().is_none());
        }
        wait_for(&shards, "four that were neither", |snapshot| snapshot.total.shell.connections_lost_framing == 4);
        assert_eq!(shards.snapshot().tls.completed, 1);
    }
}
