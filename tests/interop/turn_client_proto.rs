//! `turn-client-proto` (of the librice family), a sans-IO client, here on real sockets: the only one of them that signs
//! with MESSAGE-INTEGRITY-SHA256. Over TLS its stream goes through rustls.
//!
//! Its version 0.7 writes no padding behind ChannelData on a stream, so messages here have sizes that need none.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::prelude::{DelayedTransmitBuild, TurnClientApi};
use turn_client_proto::stun::Instant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::stun::types::message::IntegrityAlgorithm;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use crate::processes::{PATIENCE, wait_until};
use crate::server::{PASSWORD, Server, USERNAME, has_ipv6};

const MESSAGES: usize = 30;

/// How long a read waits before the client is asked again what it wants.
const PAUSE: Duration = Duration::from_millis(5);

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

enum Wire {
    Datagrams(UdpSocket),
    Bytes(Box<dyn Stream>),
}

impl Wire {
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Wire::Datagrams(socket) => drop(socket.send(bytes).expect("sent")),
            Wire::Bytes(stream) => stream.write_all(bytes).and_then(|()| stream.flush()).expect("written"),
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 4_000];
        let received = match self {
            Wire::Datagrams(socket) => socket.recv(&mut bytes),
            Wire::Bytes(stream) => stream.read(&mut bytes),
        };
        match received {
            Ok(0) => panic!("the server has closed the connection"),
            Ok(len) => {
                bytes.truncate(len);
                Some(bytes)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

/// A client and what has become of its wishes.
struct Talker {
    client: TurnClient,
    wire: Wire,
    started: std::time::Instant,
    local: SocketAddr,
    server: SocketAddr,
    relayed: Vec<SocketAddr>,
    permissions: usize,
    channels: usize,
    is_closed: bool,
    received: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Talker {
    fn new(server: &Server, transport: &str, families: &[AddressFamily]) -> Self {
        let mut config = TurnConfig::new(TurnCredentials::new(USERNAME, PASSWORD));
        config.set_supported_integrity(IntegrityAlgorithm::Sha256);
        config.set_address_family(families[0]);
        families[1..].iter().for_each(|family| config.add_address_family(*family));
        let mut address = server.address;
        let (wire, local, client);
        if transport == "udp" {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            socket.connect(address).expect("loopback");
            socket.set_read_timeout(Some(PAUSE)).expect("not zero");
            local = socket.local_addr().expect("bound");
            client = TurnClient::Udp(TurnClientUdp::allocate(local, address, config));
            wire = Wire::Datagrams(socket);
        } else {
            if transport == "tls" {
                address.set_port(server.tls_port);
            }
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
            let handle = stream.try_clone().expect("another handle");
            local = stream.local_addr().expect("connected");
            client = TurnClient::Tcp(TurnClientTcp::allocate(local, address, config));
            wire = Wire::Bytes(if transport == "tls" { Box::new(encrypted(stream, server)) } else { Box::new(stream) });
            handle.set_read_timeout(Some(PAUSE)).expect("not zero");
        }
        Self {
            client,
            wire,
            started: std::time::Instant::now(),
            local,
            server: address,
            relayed: Vec::new(),
            permissions: 0,
            channels: 0,
            is_closed: false,
            received: VecDeque::new(),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.started.elapsed().as_nanos() as i64)
    }

    /// Does what the client wants until it has what the test wants.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(std::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            self.is_closed = matches!(self.client.poll(self.now()), TurnPollRet::Closed);
            while let Some(transmit) = self.client.poll_transmit(self.now()) {
                self.wire.send(&transmit.data);
            }
            while let Some(event) = self.client.poll_event() {
                match event {
                    TurnEvent::AllocationCreated(_, relayed) => self.relayed.push(relayed),
                    TurnEvent::PermissionCreated(..) => self.permissions += 1,
                    TurnEvent::ChannelCreated(..) => self.channels += 1,
                    other => panic!("{what}: {other:?}"),
                }
            }
            if let Some(bytes) = self.wire.receive() {
                let transmit = Transmit::new(bytes, self.client.transport(), self.server, self.local);
                if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, self.now()) {
                    self.received.push_back((data.peer, data.data().to_vec()));
                }
            }
            while let Some(data) = self.client.poll_recv(self.now()) {
                self.received.push_back((data.peer, data.data().to_vec()));
            }
        }
    }

    /// To the peer and back.
    fn exchange(&mut self, peer: &UdpSocket) {
        let address = peer.local_addr().expect("bound");
        let mut bytes = [0; 2_000];
        for number in 0..MESSAGES {
            let message = vec![number as u8; 4 * (1 + 9 * number)];
            let transmit = self.client.send_to(TransportType::Udp, address, &message, self.now()).expect("permitted");
            self.wire.send(&transmit.expect("something to send").data.build());
            let (len, from) = peer.recv_from(&mut bytes).expect("received by the peer");
            assert!(bytes[..len] == message && self.relayed.contains(&from), "{len} bytes from {from}");
            peer.send_to(&message, from).expect("sent back");
            self.until("the answer", |talker| !talker.received.is_empty());
            assert_eq!(self.received.pop_front(), Some((address, message)));
        }
    }
}

/// TLS on the stream, with the handshake done: later, reads may end for want of bytes.
fn encrypted(mut stream: TcpStream, server: &Server) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(server.certificate()).expect("the server reads it, too");
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider's own")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).expect("a handshake");
    }
    StreamOwned::new(connection, stream)
}

fn talks_both_ways_over(transport: &str) {
    let server = Server::start();
    let (mut families, mut hosts) = (vec![AddressFamily::IPV4], vec!["127.0.0.1:0"]);
    if has_ipv6() {
        families.push(AddressFamily::IPV6);
        hosts.push("[::1]:0");
    }
    let mut talker = Talker::new(&server, transport, &families);
    talker.until("relayed addresses", |talker| talker.relayed.len() == families.len());
    for (done, host) in hosts.into_iter().enumerate() {
        let peer = UdpSocket::bind(host).expect("a free port");
        peer.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let address = peer.local_addr().expect("bound");
        talker.client.create_permission(TransportType::Udp, address.ip(), talker.now()).expect("a new one");
        talker.until("a permission", |talker| talker.permissions == done + 1);
        talker.exchange(&peer);
        if done > 0 {
            // It numbers the channels of each relayed address from 0x4000 on; in one allocation a number has one peer.
            continue;
        }
        talker.client.bind_channel(TransportType::Udp, address, talker.now()).expect("a new one");
        talker.until("a channel", |talker| talker.channels == 1);
        talker.exchange(&peer);
    }
    talker.client.delete(talker.now()).expect("it is there");
    talker.until("the end", |talker| talker.is_closed);
    wait_until("the server to hear of the deletion", || server.log().contains("deleted_by_client"));
}

#[test]
fn turn_client_proto_udp() {
    talks_both_ways_over("udp");
}

#[test]
fn turn_client_proto_tcp() {
    talks_both_ways_over("tcp");
}

#[test]
fn turn_client_proto_tls() {
    talks_both_ways_over("tls");
}
