//! Whom a client with good credentials tries to reach through the server: S1, S3, S16, and the admin port (S20).

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::Attack;
use crate::bench::{Peer, Transcript};
use crate::case::{Step, failed};
use crate::client::{Client, Judged};
use crate::drafts::{allocate, allocate_tcp, channel_bind, connect, create_permission};
use crate::ensure;
use crate::link::Transport;
use crate::numbers::*;
use crate::world::{self, Canary, Server};

pub const ATTACKS: &[Attack] = &[
    ("s01_forbidden_peers_by_every_way_to_name_them", forbidden_peers),
    ("s01_an_allowed_peer_is_reached_all_the_same", allowed_peer),
    ("s03_tcp_relays_are_off_until_they_are_wanted", tcp_is_off),
    ("s03_tcp_relays_reach_no_service_ports", tcp_ports),
    ("s16_strangers_and_neighbours_do_not_get_through", strangers),
    ("s20_the_admin_port_is_not_reached_through_a_relay", admin_through_relay),
];

const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// As abuse S1 lists them: special addresses, other spellings of IPv4 ones, and the machine's own.
const FORBIDDEN_V4: [&str; 21] = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.254",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.7.7",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "233.252.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "45.9.9.1",
];
const FORBIDDEN_V6: [&str; 23] = [
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.1.2.3",
    "::ffff:0:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002:a01:203::1",
    // Teredo with 127.0.0.1 as the client, whose bits are inverted.
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "2001:db8::1",
    "3fff::1",
    "2606:4700:9::1",
];

const PORT: u16 = 7_000;

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("written in this file"), port)
}

/// An allocation whose relay has the family of these peers.
fn allocated(server: &Server, transport: Transport, is_ipv6: bool) -> Step<Client> {
    let mut client = server.client(transport)?;
    let family = if is_ipv6 { [2, 0, 0, 0] } else { [1, 0, 0, 0] };
    client.allocate_with(&allocate().with(REQUESTED_ADDRESS_FAMILY, family))?;
    Ok(client)
}

fn forbidden_peers() -> Step<String> {
    let server = Server::start("[tcp_relay]\nenabled = true\n")?;
    let canary = Canary::listen(PORT);
    let mut asked = 0;
    for transport in TRANSPORTS {
        for (is_ipv6, peers) in [(false, &FORBIDDEN_V4[..]), (true, &FORBIDDEN_V6[..])] {
            let mut client = allocated(&server, transport, is_ipv6)?;
            for peer in peers {
                let peer = address(peer, PORT);
                let is_own = [world::SERVER, world::SERVER_V6].contains(&peer.ip().to_string().as_str());
                // The machine's own relays may be peers of each other; everything else there is refused below.
                if !is_own {
                    refused(client.ask_signed(&create_permission(&[peer]))?, "CreatePermission", peer, transport)?;
                    asked += 1;
                }
                refused(client.ask_signed(&channel_bind(0x4000, peer))?, "ChannelBind", peer, transport)?;
                client.send(peer, format!("Send to {peer} over {transport}").as_bytes())?;
                client.send_on_channel(0x4000, format!("ChannelData to {peer} over {transport}").as_bytes())?;
                asked += 3;
            }
            client.hears_nothing()?;
            // A forbidden one among good ones spoils the request, and installs nothing.
            if !is_ipv6 {
                let good = address(world::PEER, PORT);
                let mixed = create_permission(&[good, address("10.1.2.3", PORT)]);
                refused(client.ask_signed(&mixed)?, "CreatePermission with two", good, transport)?;
                client.send(good, b"Send to the good one of two")?;
                client.hears_nothing()?;
                asked += 2;
            }
        }
        if !transport.is_stream() {
            continue;
        }
        let mut client = server.client(transport)?;
        client.granted(&allocate_tcp())?;
        for peer in FORBIDDEN_V4 {
            let peer = address(peer, PORT);
            refused(client.ask_signed(&connect(peer))?, "Connect", peer, transport)?;
            asked += 1;
        }
    }
    let seen = canary.ask();
    ensure!(seen.is_empty(), "these got out: {seen:?}");
    server.serves()?;
    Ok(format!("{asked} attempts over UDP, TCP and TLS, none got out"))
}

fn refused(response: crate::wire::Message, method: &str, peer: SocketAddr, transport: Transport) -> Step<()> {
    match response.error() {
        Some(403) => Ok(()),
        other => failed(format!("{method} for {peer} over {transport}: {other:?} instead of 403")),
    }
}

fn allowed_peer() -> Step<String> {
    let server = Server::start("")?;
    for transport in TRANSPORTS {
        let mut client = server.client(transport)?;
        let relayed = client.allocate()?;
        let peer = Peer::new(world::PEER.parse().expect("an address"), &Transcript::default())?;
        client.permit(peer.address)?;
        client.send(peer.address, b"there")?;
        ensure!(peer.expect(b"there")? == relayed, "the peer saw another address than {relayed}");
        peer.send(relayed, b"and back")?;
        client.expect_data(b"and back")?;
    }
    Ok("UDP, TCP and TLS".to_owned())
}

fn tcp_is_off() -> Step<String> {
    let server = Server::start("")?;
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut client = server.client(transport)?;
        client.ask_signed(&allocate_tcp())?.error_is(442)?;
    }
    Ok("442 to every client".to_owned())
}

/// Whatever listens there has no business with media: mail, databases, caches, consoles.
const SERVICES: [u16; 16] = [1, 22, 25, 53, 80, 110, 143, 443, 445, 1_023, 3_306, 5_432, 6_379, 8_080, 9_200, 11_211];

fn tcp_ports() -> Step<String> {
    let server = Server::start("[tcp_relay]\nenabled = true\n")?;
    let open = TcpListener::bind((world::PEER, 20_000)).expect("the port is free");
    let closed = TcpListener::bind((world::PEER, 6_379)).expect("the port is free");
    closed.set_nonblocking(true).expect("as always");
    let mut client = server.client(Transport::Tcp)?;
    client.granted(&allocate_tcp())?;
    for port in SERVICES {
        client.ask_signed(&connect(address(world::PEER, port)))?.error_is(403)?;
    }
    client.ask_signed(&connect(address(world::PEER, 20_000)))?.success()?;
    open.accept().or_else(|error| failed(format!("the peer was not connected to: {error}")))?;
    ensure!(closed.accept().is_err(), "port 6379 was connected to");
    Ok(format!("{} ports refused, 20000 reached", SERVICES.len()))
}

/// S16: no permission, no data; a permission goes by address, a channel by address and port.
fn strangers() -> Step<String> {
    let server = Server::start("")?;
    for transport in TRANSPORTS {
        let mut client = server.client(transport)?;
        let relayed = client.allocate()?;
        let peer = Peer::new(world::PEER.parse().expect("an address"), &Transcript::default())?;
        let neighbour = Peer::new(world::PEER.parse().expect("an address"), &Transcript::default())?;
        let stranger = Peer::new(world::CLIENT.parse().expect("an address"), &Transcript::default())?;
        for _ in 0..50 {
            stranger.send(relayed, b"nobody knows me")?;
            peer.send(relayed, b"nor me, yet")?;
        }
        client.hears_nothing()?;
        client.bind_channel(0x4001, peer.address)?;
        stranger.send(relayed, b"still nobody")?;
        neighbour.send(relayed, b"same address, other port")?;
        let neighbours = client.expect_data(b"same address, other port")?;
        ensure!(neighbours == neighbour.address, "the Data indication names {neighbours}");
        // One after the other: what the kernel relays by itself overtakes what it does not.
        peer.send(relayed, b"on the channel")?;
        client.expect_channel_data(0x4001, b"on the channel")?;
        client.hears_nothing()?;
    }
    Ok("150 packets without permission dropped".to_owned())
}

/// Even where an operator has bound it to an external address.
fn admin_through_relay() -> Step<String> {
    let server = Server::start("[tcp_relay]\nenabled = true\nallow_ports = [\"9641\"]\n")?;
    ensure!(server.http("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")?.contains("alive"), "the admin port is not there");
    let admin = server.admin;
    let mut others = 0;
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut client = server.client(transport)?;
        client.granted(&allocate_tcp())?;
        for peer in [admin, address("127.0.0.1", admin.port()), address("0.0.0.0", admin.port())] {
            client.ask_signed(&connect(peer))?.error_is(403)?;
            others += 1;
        }
        // Neither are the listeners for clients, through which one could log in as somebody else from inside.
        for port in [3_478, 5_349] {
            let listener = SocketAddr::new(admin.ip(), port);
            client.ask_signed(&connect(listener))?.error_is(403)?;
            others += 1;
        }
    }
    let mut client = server.client(Transport::Udp)?;
    client.allocate()?;
    let listener: IpAddr = admin.ip();
    // A permission for our own address is for relays there: the listener must not hear what is sent to it.
    let before = server.metric("hairpin_dropped_packets_total")?;
    let _ = client.ask_signed(&create_permission(&[SocketAddr::new(listener, 3_478)]))?;
    client.send(SocketAddr::new(listener, 3_478), &crate::drafts::binding().bytes())?;
    client.hears_nothing()?;
    // Counters are shown a moment later.
    let deadline = Instant::now() + world::PATIENCE;
    let dropped = loop {
        let dropped = server.metric("hairpin_dropped_packets_total")? - before;
        if dropped >= 1.0 {
            break dropped;
        }
        ensure!(Instant::now() < deadline, "the indication was not dropped");
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok(format!("{others} connections refused, {dropped} indications dropped"))
}
