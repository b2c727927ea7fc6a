//! TCP allocations with real sockets, several shards, and peers of every kind of manners.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Answer, Client, address, config, place, settings, wait_for};
use super::*;
use crate::turn::{ConnectionEnd, PeerPorts, RelayTransports, TcpRelays, Traffic};

const PATIENCE: Duration = Duration::from_secs(10);
const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

fn tcp_settings(count: u16, change: impl FnOnce(&mut TcpRelays)) -> Settings {
    let mut tcp = TcpRelays {
        // The ports that the kernel gives to the peers of these tests.
        ports: PeerPorts { allow: vec![1024..=65_535], deny: vec![] },
        connect_timeout_secs: 30,
        connections_per_allocation: 200,
    };
    change(&mut tcp);
    let relay_transports = RelayTransports { udp: true, tcp: Some(tcp) };
    Settings { turn: Arc::new(turn::Config { relay_transports, ..config() }), ..settings(count) }
}

fn shards(count: u16) -> Shards {
    Shards::start(tcp_settings(count, |_| {})).unwrap()
}

impl Client {
    fn try_allocate_tcp(&mut self) -> Answer {
        self.be_challenged(Method::Allocate);
        self.ask(Method::Allocate, &[(AttributeType::REQUESTED_TRANSPORT, vec![6, 0, 0, 0])])
    }

    fn allocate_tcp(&mut self) -> SocketAddr {
        self.try_allocate_tcp().relayed().expect("a TCP relay")
    }

    fn connect(&mut self, peer: SocketAddr) -> Answer {
        self.ask(Method::Connect, &[(AttributeType::XOR_PEER_ADDRESS, peer.to_string().into_bytes())])
    }
}

fn connection_id(message: &Answer) -> Vec<u8> {
    message.message().first(AttributeType::CONNECTION_ID).expect("CONNECTION-ID").to_vec()
}

/// A connection that carries the data of this id.
fn data_connection(shards: &Shards, transport: Transport, id: &[u8]) -> Client {
    let mut data = Client::of(shards, transport);
    data.be_challenged(Method::ConnectionBind);
    let answer = data.ask(Method::ConnectionBind, &[(AttributeType::CONNECTION_ID, id.to_vec())]);
    assert_eq!(answer.error(), 0);
    data
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let (stream, from) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    (stream, from)
}

fn dial(relayed: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(relayed).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether the other side has closed, or reset.
fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]), Ok(1..))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place * 7 + place / 251) as u8).collect()
}

/// A control connection, its data connection, and the peer at the other end of that.
fn joined(shards: &Shards, transport: Transport) -> (Client, Client, TcpStream) {
    let (listener, peer) = listener();
    let mut control = Client::of(shards, transport);
    control.allocate_tcp();
    let answer = control.connect(peer);
    assert_eq!(answer.error(), 0);
    let (stream, _) = accept(&listener);
    let data = data_connection(shards, transport, &connection_id(&answer));
    (control, data, stream)
}

/// TCP-6062-5.2-05, 5.2-07, 5.4-04, from whatever shard the data connection comes to.
#[test]
fn tcp_6062_5_2_05_connect_leaves_from_the_relayed_address_and_carries_data() {
    let shards = shards(3);
    for round in 0..12 {
        let transport = STREAMS[round % 2];
        let (listener, peer) = listener();
        let mut control = Client::of(&shards, transport);
        let relayed = control.allocate_tcp();
        let answer = control.connect(peer);
        assert_eq!(answer.error(), 0);
        let (mut stream, from) = accept(&listener);
        assert_eq!(from, relayed);
        // Data connections need not be of the same transport.
        let mut data = data_connection(&shards, STREAMS[round / 2 % 2], &connection_id(&answer));
        for len in [1, 100, 5000] {
            let bytes = pattern(len);
            data.send(&bytes);
            assert_eq!(read(&mut stream, len), bytes);
            stream.write_all(&bytes).unwrap();
            assert_eq!(data.receive_raw(len), bytes);
        }
        // What looks like STUN is data all the same (TCP-6062-4.2-01).
        let refresh = data.signed(Method::Refresh, &[(AttributeType::LIFETIME, vec![0; 4])]);
        data.send(&refresh);
        assert_eq!(read(&mut stream, refresh.len()), refresh);
        assert_eq!(control.refresh(600).error(), 0);
    }
    wait_for(&shards, "connections that were made in one shard and bound from another", |snapshot| {
        snapshot.total.shell.connections_moved > 0
    });
}

/// TCP-6062-5.1-05, 5.3-01, 5.3-02
#[test]
fn tcp_6062_5_3_02_permitted_peers_are_announced_and_others_closed() {
    let shards = shards(2);
    let mut control = Client::of(&shards, Transport::Tcp);
    let relayed = control.allocate_tcp();
    let mut stranger = dial(relayed);
    assert!(is_closed(&mut stranger));
    control.permit("127.0.0.1".parse().unwrap());
    let mut peer = dial(relayed);
    let attempt = Answer(control.receive());
    assert_eq!((attempt.message().method(), attempt.message().class()), (Method::ConnectionAttempt, Class::Indication));
    assert_eq!(attempt.address(AttributeType::XOR_PEER_ADDRESS), peer.local_addr().unwrap());
    let mut data = data_connection(&shards, Transport::Tcp, &connection_id(&attempt));
    peer.write_all(b"hello").unwrap();
    assert_eq!(data.receive_raw(5), b"hello");
    data.send(b"welcome");
    assert_eq!(read(&mut peer, 7), b"welcome");
}

/// TCP-6062-5.2-06: a closed port is told at once; that it takes 30 s otherwise, `tests/rfc` shows.
#[test]
fn tcp_6062_5_2_06_a_closed_port_is_447() {
    let shards = shards(1);
    let mut control = Client::of(&shards, Transport::Tcp);
    control.allocate_tcp();
    let (closed, peer) = listener();
    drop(closed);
    for _ in 0..3 {
        assert_eq!(control.connect(peer).error(), 447);
    }
    wait_for(&shards, "three failures", |snapshot| {
        let ended = snapshot.total.turn.peer_connections_ended;
        ended[place(ConnectionEnd::ALL, ConnectionEnd::ConnectFailed)] == 3 && snapshot.total.peer_connections == 0
    });
}

/// A peer that does not answer: its backlog is full. Others are served meanwhile, and the end of the allocation ends it.
#[test]
fn tcp_6062_5_2_09_a_peer_that_does_not_answer_keeps_nobody_waiting() {
    let shards = shards(1);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let deaf = socket.local_addr().unwrap().as_socket().unwrap();
    // The kernel takes one connection more than the backlog.
    let _fill = TcpStream::connect(deaf).unwrap();
    let mut control = Client::of(&shards, Transport::Tcp);
    control.allocate_tcp();
    let connect = [(AttributeType::XOR_PEER_ADDRESS, deaf.to_string().into_bytes())];
    control.send_signed(Method::Connect, &connect);
    assert_eq!(control.refresh(700).error(), 0);
    assert_eq!(control.connect(deaf).error(), 446);
    let (listener, peer) = listener();
    assert_eq!(control.connect(peer).error(), 0);
    accept(&listener);
    assert_eq!(control.refresh(0).message().method(), Method::Refresh);
    wait_for(&shards, "the end of both", |snapshot| snapshot.total.peer_connections == 0);
}

/// TCP-6062-5.3-03: what a peer says early waits in its socket and arrives whole; nothing of it waits in the server.
#[test]
fn tcp_6062_5_3_03_a_megabyte_before_the_bind_arrives_intact() {
    for transport in STREAMS {
        let shards = shards(2);
        let (listener, peer) = listener();
        let mut control = Client::of(&shards, transport);
        control.allocate_tcp();
        let answer = control.connect(peer);
        let (mut stream, _) = accept(&listener);
        let bytes = pattern(1 << 20);
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream
        });
        // The first of it is there: the client could not be later than early.
        let mut data = data_connection(&shards, transport, &connection_id(&answer));
        assert_eq!(data.receive_raw(1 << 20), bytes);
        assert_eq!(data.receive_raw(1), b"");
        writing.join().unwrap();
    }
}

/// TCP-6062-5.4-05: bytes behind ConnectionBind in one segment are the peer's, STUN or not.
#[test]
fn tcp_6062_5_4_05_what_follows_connection_bind_in_one_write_is_payload() {
    let shards = shards(3);
    for round in 0..9 {
        let transport = STREAMS[round % 2];
        let (listener, peer) = listener();
        let mut control = Client::of(&shards, Transport::Tcp);
        control.allocate_tcp();
        let answer = control.connect(peer);
        let (mut stream, _) = accept(&listener);
        let mut data = Client::of(&shards, transport);
        data.be_challenged(Method::ConnectionBind);
        let bind = data.signed(Method::ConnectionBind, &[(AttributeType::CONNECTION_ID, connection_id(&answer))]);
        let payload = [data.binding(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), pattern(3000)].concat();
        data.send(&[bind, payload.clone()].concat());
        assert_eq!(Answer(data.receive()).error(), 0);
        assert_eq!(read(&mut stream, payload.len()), payload);
    }
}

/// Behind a ConnectionBind that is refused come messages, as before.
#[test]
fn tcp_6062_5_4_02_a_refused_connection_bind_changes_nothing() {
    let shards = shards(2);
    let mut client = Client::of(&shards, Transport::Tcp);
    client.be_challenged(Method::ConnectionBind);
    for number in 0..4 {
        // Moved to its shard at the first occasion; a second move there is not.
        let id = vec![0, 0, 0, number / 2 * 2];
        assert_eq!(client.ask(Method::ConnectionBind, &[(AttributeType::CONNECTION_ID, id)]).error(), 400);
    }
    let request = client.binding();
    client.send(&request);
    assert_eq!(client.receive()[4..20], request[4..20]);
    client.allocate_tcp();
}

/// TCP-6062-5.4-03, abuse S9.
#[test]
fn tcp_6062_5_4_03_another_user_does_not_get_the_connection() {
    let shards = shards(1);
    let (listener, peer) = listener();
    let mut control = Client::of(&shards, Transport::Tcp);
    control.allocate_tcp();
    let id = connection_id(&control.connect(peer));
    let (mut stream, _) = accept(&listener);
    let mut thief = Client::of(&shards, Transport::Tcp).named("bob");
    thief.be_challenged(Method::ConnectionBind);
    assert_eq!(thief.ask(Method::ConnectionBind, &[(AttributeType::CONNECTION_ID, id.clone())]).error(), 441);
    let mut data = data_connection(&shards, Transport::Tcp, &id);
    data.send(b"mine");
    assert_eq!(read(&mut stream, 4), b"mine");
}

/// TCP-6062-5.5-01: whatever ends the allocation.
#[test]
fn tcp_6062_5_5_01_with_the_allocation_end_both_sides() {
    for transport in STREAMS {
        let shards = shards(2);
        let (mut control, mut data, mut stream) = joined(&shards, transport);
        assert_eq!(control.refresh(0).error(), 0);
        assert!(is_closed(&mut stream));
        assert_eq!(data.receive_raw(1), b"");

        let (control, mut data, mut stream) = joined(&shards, transport);
        drop(control);
        assert!(is_closed(&mut stream));
        assert_eq!(data.receive_raw(1), b"");
        wait_for(&shards, "nothing is left", |snapshot| {
            (snapshot.total.allocations, snapshot.total.peer_connections) == (0, 0)
        });
    }
}

/// TCP-6062-5.5-02: the end of one direction is carried over behind all its data, and the other goes on.
#[test]
fn tcp_6062_5_5_02_half_closed_connections_carry_the_other_half() {
    for transport in STREAMS {
        let shards = shards(2);
        let bytes = pattern(3 << 20);
        // The client ends first.
        let (_control, mut data, mut stream) = joined(&shards, transport);
        data.send(b"request");
        data.finish();
        assert_eq!(read(&mut stream, 7), b"request");
        assert!(is_closed(&mut stream), "the end is heard");
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || stream.write_all(&sent).unwrap());
        assert_eq!(data.receive_raw(bytes.len()), bytes);
        writing.join().unwrap();
        assert_eq!(data.receive_raw(1), b"");

        // The peer ends first.
        let (_control, mut data, mut stream) = joined(&shards, transport);
        stream.write_all(b"request").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(data.receive_raw(7), b"request");
        assert_eq!(data.receive_raw(1), b"", "the end is heard");
        let reading = std::thread::spawn({
            let len = bytes.len();
            move || (read(&mut stream, len), is_closed(&mut stream))
        });
        data.send(&bytes);
        data.finish();
        assert_eq!(reading.join().unwrap(), (bytes, true));
        wait_for(&shards, "both are over", |snapshot| {
            snapshot.total.turn.peer_connections_ended[place(ConnectionEnd::ALL, ConnectionEnd::Closed)] == 2
        });
    }
}

/// Back-pressure both ways: who does not read holds the other back, and nothing is lost or kept in the server.
#[test]
fn a_slow_reader_holds_the_other_side_back_and_loses_nothing() {
    for transport in STREAMS {
        let shards = shards(1);
        let (_control, mut data, stream) = joined(&shards, transport);
        // So much that no socket buffer on the way could hold it.
        let bytes = pattern(48 << 20);
        let mut writer = stream.try_clone().unwrap();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        // Nobody reads: it must come to a stand, with most of it not sent.
        let mut passed = u64::MAX;
        let now = |shards: &Shards| Traffic::total(&shards.snapshot().total.turn.traffic).bytes_to_client;
        wait_for(&shards, "the flow stands still", |snapshot| {
            std::thread::sleep(Duration::from_millis(100));
            std::mem::replace(&mut passed, Traffic::total(&snapshot.total.turn.traffic).bytes_to_client) == passed
                && passed > 0
        });
        assert!(now(&shards) < 40 << 20, "{} bytes went into nothing", now(&shards));
        assert_eq!(data.receive_raw(bytes.len()), bytes);
        writing.join().unwrap();
        assert_eq!(now(&shards), bytes.len() as u64);
    }
}

/// A peer that resets takes what was said before along to its end, and costs no more.
#[test]
fn a_peer_that_resets_ends_the_data_connection() {
    let shards = shards(1);
    let (_control, mut data, stream) = joined(&shards, Transport::Tcp);
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(data.receive_raw(1), b"");
    wait_for(&shards, "the end", |snapshot| snapshot.total.peer_connections == 0);

    let (_control, data, mut stream) = joined(&shards, Transport::Tls);
    socket2::SockRef::from(data.tcp_stream()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(data);
    assert!(is_closed(&mut stream));
    wait_for(&shards, "the end", |snapshot| snapshot.total.peer_connections == 0);
}

/// Two clients of this server, by their relayed addresses (ICETCP-6544-01): one active, one passive, frames of RFC 4571
/// between them.
#[test]
fn icetcp_6544_01_two_tcp_allocations_meet_active_and_passive() {
    let shards = shards(3);
    for transport in STREAMS {
        let mut passive = Client::of(&shards, transport);
        let passive_relayed = passive.allocate_tcp();
        passive.permit(passive_relayed.ip());
        let mut active = Client::of(&shards, transport);
        let active_relayed = active.allocate_tcp();
        let answer = active.connect(passive_relayed);
        assert_eq!(answer.error(), 0);
        let attempt = Answer(passive.receive());
        assert_eq!(attempt.address(AttributeType::XOR_PEER_ADDRESS), active_relayed);
        let mut left = data_connection(&shards, transport, &connection_id(&answer));
        let mut right = data_connection(&shards, transport, &connection_id(&attempt));
        for len in [0, 1, 1200, 65_535] {
            let frame = [&(len as u16).to_be_bytes()[..], &pattern(len)].concat();
            left.send(&frame);
            assert_eq!(right.receive_raw(frame.len()), frame);
            right.send(&frame);
            assert_eq!(left.receive_raw(frame.len()), frame);
        }
        left.finish();
        assert_eq!(right.receive_raw(1), b"");
    }
}

/// Abuse S1: of our own relay address nothing but relays can be reached, whatever else listens in their range of ports.
#[test]
fn s1_connect_reaches_no_other_program_at_the_relay_address() {
    let mut settings = tcp_settings(2, |_| {});
    let mut config = (*settings.turn).clone();
    // Not allowed by name: it is our own relay address, and nothing more.
    config.peers.allow.clear();
    settings.turn = Arc::new(config);
    let shards = Shards::start(settings).unwrap();
    let (program, in_range) = (20_000..30_000_u16)
        .find_map(|port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            Some((TcpListener::bind(address).ok()?, address))
        })
        .expect("a free port in the range");
    program.set_nonblocking(true).unwrap();
    let mut control = Client::of(&shards, Transport::Tcp);
    let own = control.allocate_tcp();
    assert_eq!(control.connect(in_range).error(), 447);
    assert_eq!(control.connect(address(&shards, Transport::Tcp)).error(), 403, "our own listener");
    assert_eq!(control.connect(own).error(), 403);
    assert_eq!(program.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // A relay of another client is.
    let mut other = Client::of(&shards, Transport::Tcp);
    let relayed = other.allocate_tcp();
    assert_eq!(control.connect(relayed).error(), 0);
}

/// Abuse S12: bounds for one allocation and for the whole server, both ways.
#[test]
fn s12_connections_of_peers_are_bounded() {
    let mut settings = tcp_settings(2, |tcp| tcp.connections_per_allocation = 3);
    settings.peer_connections = 5;
    let shards = Shards::start(settings).unwrap();
    let (_listener, peer) = listener();
    let others: Vec<_> = (0..3).map(|_| listener()).collect();
    let mut first = Client::of(&shards, Transport::Tcp);
    let relayed = first.allocate_tcp();
    first.permit("127.0.0.1".parse().unwrap());
    assert_eq!(first.connect(peer).error(), 0);
    assert_eq!(first.connect(others[0].1).error(), 0);
    let mut visitor = dial(relayed);
    first.receive();
    assert_eq!(first.connect(others[1].1).error(), 508, "as many as one may have");
    assert!(is_closed(&mut dial(relayed)));
    let mut second = Client::of(&shards, Transport::Tcp);
    second.allocate_tcp();
    assert_eq!(second.connect(peer).error(), 0);
    assert_eq!(second.connect(others[0].1).error(), 0);
    assert_eq!(second.connect(others[1].1).error(), 508, "as many as there may be");
    // What ends makes room.
    assert_eq!(first.refresh(0).error(), 0);
    assert!(is_closed(&mut visitor));
    assert_eq!(second.connect(others[1].1).error(), 0);
    wait_for(&shards, "three are left", |snapshot| snapshot.total.peer_connections == 3);
}

/// A flood of peers that come and say nothing costs the allocation its own connections, and nobody else anything.
#[test]
fn a_flood_of_silent_peers_is_bounded_and_ends_with_the_allocation() {
    let shards = Shards::start(tcp_settings(1, |tcp| tcp.connections_per_allocation = 8)).unwrap();
    let mut control = Client::of(&shards, Transport::Tcp);
    let relayed = control.allocate_tcp();
    control.permit("127.0.0.1".parse().unwrap());
    let mut silent: Vec<TcpStream> = (0..50).map(|_| dial(relayed)).collect();
    let attempts: Vec<Answer> = (0..8).map(|_| Answer(control.receive())).collect();
    let reason = turn::Reason::TooManyConnections as usize;
    wait_for(&shards, "the others are turned away", |snapshot| snapshot.total.turn.drops[reason] == 42);
    assert_eq!(shards.snapshot().total.peer_connections, 8);
    let mut other = Client::of(&shards, Transport::Tcp);
    other.allocate_tcp();
    let id = connection_id(&attempts[0]);
    let mut data = data_connection(&shards, Transport::Tcp, &id);
    let first = attempts[0].address(AttributeType::XOR_PEER_ADDRESS);
    let peer = silent.iter_mut().find(|stream| stream.local_addr().unwrap() == first).unwrap();
    peer.write_all(b"not so silent").unwrap();
    assert_eq!(data.receive_raw(13), b"not so silent");
    assert_eq!(control.refresh(0).error(), 0);
    assert!(silent.iter_mut().all(is_closed));
}

/// The counts of a shard that panics are given back, and its clients' data connections end.
#[test]
fn a_panic_ends_connections_of_peers_and_gives_their_counts_back() {
    let mut settings = tcp_settings(1, |_| {});
    settings.peer_connections = 1;
    let shards = Shards::start(settings).unwrap();
    let (_control, mut data, mut stream) = joined(&shards, Transport::Tcp);
    shards.crash_for_test(0);
    assert!(is_closed(&mut stream));
    assert_eq!(data.receive_raw(1), b"");
    wait_for(&shards, "a restart", |snapshot| snapshot.total.shell.shard_restarts == 1);
    joined(&shards, Transport::Tcp);
}

/// Data is counted for the allocation, without headers, in both directions.
#[test]
fn what_data_connections_carry_is_counted() {
    let shards = shards(2);
    let (mut control, mut data, mut stream) = joined(&shards, Transport::Tls);
    data.send(&pattern(1000));
    read(&mut stream, 1000);
    stream.write_all(&pattern(70_000)).unwrap();
    data.receive_raw(70_000);
    let deadline = Instant::now() + PATIENCE;
    let counted = || {
        let traffic = Traffic::total(&shards.snapshot().total.turn.traffic);
        (traffic.bytes_to_peer, traffic.bytes_to_client, traffic.packets_to_client)
    };
    while counted() != (1000, 70_000, 0) {
        assert!(Instant::now() < deadline, "{:?}", counted());
        std::thread::yield_now();
    }
    assert_eq!(control.refresh(0).error(), 0);
}
