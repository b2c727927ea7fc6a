//! The client of `turn-client-proto` with a TCP allocation (RFC 6062), a third reading of that RFC: it connects to a peer,
//! binds a connection of its own to that, and hears what the peer says before and after.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant as Clock};

use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::TurnClientApi;
use turn_client_proto::stun::Instant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::stun::types::message::IntegrityAlgorithm;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::TurnCredentials;

use crate::processes::PATIENCE;
use crate::server::{PASSWORD, Server, USERNAME};

/// The client, and its connections by their local addresses.
struct Talk {
    client: TurnClientTcp,
    server: SocketAddr,
    streams: Vec<TcpStream>,
    started: Clock,
    events: Vec<TurnEvent>,
    heard: Vec<u8>,
}

fn dial(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_millis(5))).expect("not zero");
    stream
}

impl Talk {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.started.elapsed().as_nanos() as i64)
    }

    fn write(&mut self, from: SocketAddr, bytes: &[u8]) {
        let mut to = self.streams.iter().find(|stream| stream.local_addr().expect("connected") == from);
        to.as_mut().expect("a connection of this client").write_all(bytes).expect("the server reads");
    }

    /// Goes on until it is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        while !is_so(self) {
            assert!(self.started.elapsed() < PATIENCE, "{what}: not in time; {:?}", self.events);
            let now = self.now();
            if let TurnPollRet::AllocateTcpSocket { id, socket, peer_addr } = self.client.poll(now) {
                let stream = dial(self.server);
                let local = stream.local_addr().expect("connected");
                self.streams.push(stream);
                self.client.allocated_tcp_socket(id, socket, peer_addr, Some(local), now).expect("it has asked for it");
            }
            while let Some(transmit) = self.client.poll_transmit(now) {
                self.write(transmit.from, transmit.data.as_ref());
            }
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            for stream in &mut self.streams {
                let local = stream.local_addr().expect("connected");
                let mut bytes = [0; 4096];
                let len = match stream.read(&mut bytes) {
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                    read => read.expect("the server stays"),
                };
                let received = Transmit::new(&bytes[..len], TransportType::Tcp, self.server, local);
                match self.client.recv(received, now) {
                    TurnRecvRet::PeerData(data) => self.heard.extend_from_slice(data.data()),
                    TurnRecvRet::Handled => {}
                    other => panic!("not for us: {other:?}"),
                }
            }
            while let Some(data) = self.client.poll_recv(now) {
                self.heard.extend_from_slice(data.data());
            }
        }
    }
}

#[test]
fn turn_client_proto_connects_to_a_peer_over_tcp() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = listener.local_addr().expect("bound");
    let control = dial(server.address);
    let local = control.local_addr().expect("connected");
    let mut config = TurnConfig::new(TurnCredentials::new(USERNAME, PASSWORD));
    config.set_supported_integrity(IntegrityAlgorithm::Sha256);
    config.set_allocation_transport(TransportType::Tcp);
    let client = TurnClientTcp::allocate(local, server.address, config);
    let streams = vec![control];
    let (events, heard) = (Vec::new(), Vec::new());
    let mut talk = Talk { client, server: server.address, streams, started: Clock::now(), events, heard };

    talk.until("an allocation", |talk| talk.client.relayed_addresses().next().is_some());
    let now = talk.now();
    talk.client.create_permission(TransportType::Tcp, peer.ip(), now).expect("a permission");
    talk.until("a permission", |talk| talk.client.have_permission(TransportType::Tcp, peer.ip()));
    talk.client.tcp_connect(peer, now).expect("a connection");
    let mut at_peer = None;
    listener.set_nonblocking(true).expect("a socket");
    talk.until("the peer to be connected", |_| {
        at_peer = listener.accept().ok();
        at_peer.is_some()
    });
    let (mut at_peer, from) = at_peer.expect("connected");
    let (_, relayed) = talk.client.relayed_addresses().next().expect("allocated");
    assert_eq!(from, relayed);
    at_peer.set_nonblocking(false).expect("a socket");
    at_peer.set_read_timeout(Some(PATIENCE)).expect("not zero");
    at_peer.write_all(b"early").expect("the relay listens");

    let is_bound = |event: &TurnEvent| matches!(event, TurnEvent::TcpConnected(address) if *address == peer);
    talk.until("the connection to be bound", |talk| talk.events.iter().any(is_bound));
    let now = talk.now();
    let said = talk.client.send_to(TransportType::Tcp, peer, b"hello", now).expect("sent").expect("at once").build();
    talk.write(said.from, &said.data);
    let mut bytes = [0; 5];
    at_peer.read_exact(&mut bytes).expect("what the client said");
    assert_eq!(&bytes, b"hello");
    at_peer.write_all(b" and late").expect("the relay listens");
    talk.until("what the peer said", |talk| talk.heard == b"early and late");
}
