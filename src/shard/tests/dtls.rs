//! What is special about DTLS: cookies, handshakes, records, ends.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openssl::ssl::{ErrorCode, SslVersion};

use super::client::{CERTIFICATE, Client, address, channel_data, identity, peer, peer_at, receive, settings, wait_for};
use super::dtls_client::DtlsClient;
use super::*;
use crate::net::make_certificate;

fn answers(client: &mut Client) {
    let request = client.binding();
    client.send(&request);
    assert_eq!(client.receive()[4..20], request[4..20]);
}

fn failures(snapshot: &Snapshot, why: HandshakeFailure) -> u64 {
    snapshot.tls.failures[why as usize]
}

fn drops(snapshot: &Snapshot, why: DtlsDrop) -> u64 {
    snapshot.total.shell.dtls_drops[why as usize]
}

fn server(shards: &Shards) -> SocketAddr {
    address(shards, Transport::Dtls)
}

/// A client on this socket, so that it comes from the same port as another one.
fn client_on(socket: &UdpSocket) -> DtlsClient {
    DtlsClient::on(socket.try_clone().unwrap(), &CERTIFICATE.0, |_| {})
}

/// The first datagram of a client.
fn client_hello() -> Vec<u8> {
    let nobody = peer();
    let mut client = DtlsClient::new(nobody.local_addr().unwrap(), &CERTIFICATE.0, |_| {});
    assert_eq!(client.stream.do_handshake().unwrap_err().code(), ErrorCode::WANT_READ);
    receive(&nobody).0
}

/// The cookie exchange and nothing after it: a handshake has begun.
fn begin(socket: &UdpSocket) {
    let nobody = peer();
    let own = peer();
    own.connect(nobody.local_addr().unwrap()).unwrap();
    let mut client = client_on(&own);
    let mut hello = || {
        assert_eq!(client.stream.do_handshake().unwrap_err().code(), ErrorCode::WANT_READ);
        receive(&nobody).0
    };
    socket.send(&hello()).unwrap();
    let mut answer = [0; 100];
    let len = socket.recv(&mut answer).unwrap();
    nobody.send_to(&answer[..len], own.local_addr().unwrap()).unwrap();
    socket.send(&hello()).unwrap();
}

/// DTLS-7350-3-02, with forward secrecy and authenticated encryption.
#[test]
fn dtls_7350_3_02_version_1_2_is_spoken_and_1_0_is_not() {
    let shards = Shards::start(settings(2)).unwrap();
    let mut client = Client::of(&shards, Transport::Dtls);
    answers(&mut client);
    let ssl = client.dtls_client().stream.ssl();
    assert_eq!(ssl.version_str(), "DTLSv1.2");
    let cipher = ssl.current_cipher().unwrap().name();
    assert!(cipher.starts_with("ECDHE") && cipher.contains("GCM"), "{cipher}");
    wait_for(&shards, "a handshake", |snapshot| snapshot.tls.completed == 1 && snapshot.tls.in_progress == 0);

    let mut old = DtlsClient::new(server(&shards), &CERTIFICATE.0, |builder| {
        builder.set_security_level(0);
        builder.set_min_proto_version(Some(SslVersion::DTLS1)).unwrap();
        builder.set_max_proto_version(Some(SslVersion::DTLS1)).unwrap();
    });
    old.connect().expect_err("too old");
    wait_for(&shards, "a refusal", |snapshot| failures(snapshot, HandshakeFailure::Version) == 1);
}

/// DTLS-7350-3-03, abuse S6: a flood without cookies leaves nothing behind, and is answered with fewer bytes than it has.
#[test]
fn dtls_7350_3_03_client_hellos_without_cookie_cost_nothing() {
    let shards = Shards::start(settings(2)).unwrap();
    let hello = client_hello();
    let sources: Vec<UdpSocket> = (0..50).map(|_| peer()).collect();
    for _ in 0..20 {
        for source in &sources {
            source.send_to(&hello, server(&shards)).unwrap();
            let (answer, _) = receive(source);
            assert_eq!((answer[0], answer[13]), (22, 3), "a HelloVerifyRequest");
            assert!(answer.len() <= hello.len());
        }
    }
    let snapshot = shards.snapshot();
    wait_for(&shards, "a thousand answers", |snapshot| snapshot.total.shell.dtls_cookies == 1000);
    assert_eq!((snapshot.total.connections, snapshot.tls.in_progress), (0, 0));
    // Somebody else's cookie is none.
    answers(&mut Client::of(&shards, Transport::Dtls));
}

/// DTLS-7350-3-05, MUX-7983-7-01: one port for both, even from one socket: the client has two 5-tuples.
#[test]
fn dtls_7350_3_05_dtls_and_plain_udp_share_a_port() {
    let mut settings = settings(2);
    settings.listen.retain(|listen| listen.transport == Transport::Udp);
    settings.listen[0].options.dtls_too = true;
    let shards = Shards::start(settings).unwrap();
    let (peer, shared) = (peer(), address(&shards, Transport::Udp));
    let mut plain = Client::udp(shared);
    let plain_relayed = plain.allocate();
    plain.bind_channel(0x4000, peer.local_addr().unwrap());
    let mut secure = Client::dtls_with(client_on(plain.udp_socket()));
    let secure_relayed = secure.allocate();
    secure.bind_channel(0x4000, peer.local_addr().unwrap());
    assert_ne!(plain_relayed, secure_relayed);
    assert_eq!(shards.allocations(), 2);
    for (client, relayed) in [(&mut plain, plain_relayed), (&mut secure, secure_relayed)] {
        client.send_data(0x4000, b"there");
        assert_eq!(receive(&peer), (b"there".to_vec(), relayed));
        peer.send_to(b"back", relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), b"back");
    }
    assert_eq!(shards.snapshot().total.shell.dtls_drops, [0; DtlsDrop::ALL.len()]);
}

/// MUX-7983-7-02: a listener for DTLS alone serves nothing else, and answers neither strangers' records nor noise.
#[test]
fn mux_7983_7_02_what_is_no_dtls_is_dropped() {
    let shards = Shards::start(settings(1)).unwrap();
    let stranger = Client::udp(server(&shards)).binding();
    let socket = peer();
    for (datagram, why) in [
        (&stranger[..], DtlsDrop::NotDtls),
        (&[0x40, 0, 0, 0], DtlsDrop::NotDtls),
        (&[], DtlsDrop::NotDtls),
        (&[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 7], DtlsDrop::NoAssociation),
        (&[22, 3, 1, 0, 200, 1, 0, 0, 0, 0, 0, 0, 0, 0], DtlsDrop::Malformed),
        (&[22], DtlsDrop::Malformed),
    ] {
        let before = drops(&shards.snapshot(), why);
        socket.send_to(datagram, server(&shards)).unwrap();
        wait_for(&shards, why.label(), |snapshot| drops(snapshot, why) == before + 1);
    }
    assert_eq!(shards.snapshot().total.shell.datagrams_sent, 0);
}

/// DTLS-7350-3-07: a client that has lost everything begins anew on the same port; until it is through, the old
/// association lives.
#[test]
fn dtls_7350_3_07_a_client_may_restart_on_its_port() {
    let mut settings = settings(1);
    settings.tls.as_mut().unwrap().handshake_timeout = Duration::from_secs(2);
    let shards = Shards::start(settings).unwrap();
    let (socket, peer) = (peer(), peer());
    socket.connect(server(&shards)).unwrap();
    let mut old = Client::dtls_with(client_on(&socket));
    let relayed = old.allocate();
    old.bind_channel(0x4000, peer.local_addr().unwrap());
    // Anybody can say hello in its name, and somebody on the way can even answer for it; it does no harm.
    socket.send(&client_hello()).unwrap();
    socket.recv(&mut [0; 100]).expect("a cookie for the other");
    begin(&socket);
    wait_for(&shards, "another handshake", |snapshot| snapshot.tls.in_progress == 1);
    old.send_data(0x4000, b"still here");
    assert_eq!(receive(&peer), (b"still here".to_vec(), relayed));
    peer.send_to(b"so am I", relayed).unwrap();
    assert_eq!(old.receive_data(0x4000), b"so am I");
    drop(old);
    wait_for(&shards, "the end of that", |snapshot| snapshot.tls.in_progress == 0);
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 2000]).is_ok() {}
    socket.set_nonblocking(false).unwrap();

    let mut new = Client::dtls_with(client_on(&socket));
    answers(&mut new);
    wait_for(&shards, "the end of the old allocation", |snapshot| snapshot.total.allocations == 0);
    assert_ne!(new.allocate(), relayed);
    wait_for(&shards, "one association", |snapshot| snapshot.total.connections == 1);
}

/// A client that has given up in the middle begins anew, and need not wait for the end of what it had begun.
#[test]
fn a_new_client_hello_takes_the_place_of_one_before() {
    let shards = Shards::start(settings(1)).unwrap();
    let socket = peer();
    socket.connect(server(&shards)).unwrap();
    begin(&socket);
    socket.recv(&mut [0; 2000]).expect("the answer to that");
    // If the old flight is sent again just now, the client takes it for the new one, and has to try again.
    let is_connected = (0..5).any(|_| client_on(&socket).connect().is_ok());
    assert!(is_connected);
    wait_for(&shards, "one of the two", |snapshot| {
        (snapshot.tls.completed, snapshot.tls.in_progress, snapshot.total.connections) == (1, 0, 1)
    });
}

/// DTLS-7350-3-08: what fits no record is lost, and nothing else.
#[test]
fn dtls_7350_3_08_oversized_datagrams_are_dropped() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Dtls));
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    for len in [16_385, 16_384, 16_381, 60_000] {
        peer.send_to(&vec![1; len], relayed).unwrap();
    }
    peer.send_to(&[2; 16_380], relayed).unwrap();
    assert_eq!(client.receive_data(0x4000), [2; 16_380]);
    wait_for(&shards, "four drops", |snapshot| drops(snapshot, DtlsDrop::Oversized) == 4);
    client.send_data(0x4000, &[3; 16_380]);
    assert_eq!(receive(&peer).0, [3; 16_380]);
}

/// STUN-8489-11-01: clients of RFC 3489 did not know DTLS, so what looks like one is told that it is wrong.
#[test]
fn stun_8489_11_01_requests_without_cookie_are_refused_over_dtls() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Dtls);
    let without_cookie = |kind: u8| [&[0, kind, 0, 0][..], &[7; 16]].concat();
    // The indication is ignored.
    client.send(&without_cookie(0x11));
    client.send(&without_cookie(0x01));
    let answer = client.receive();
    assert_eq!((&answer[..2], &answer[4..20]), (&[0x01, 0x11][..], &[7; 16][..]));
    assert_eq!(answer[20..28], [0, 9, 0, answer[23], 0, 0, 5, 0]);
    answers(&mut client);
}

/// RFC 6347 §4.1.1: a datagram may have several records; each is a message of its own.
#[test]
fn records_that_share_a_datagram_are_served_in_order() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Dtls));
    client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    for count in [2, 100] {
        let stream = &mut client.dtls_client().stream;
        stream.get_mut().held = Some(Vec::new());
        for number in 0..count {
            stream.ssl_write(&channel_data(0x4000, &[number; 12])).unwrap();
        }
        let datagram = stream.get_mut().held.take().unwrap();
        stream.get_ref().socket.send(&datagram).unwrap();
        for number in 0..count {
            assert_eq!(receive(&peer).0, [number; 12]);
        }
    }
}

/// TURN-8656-LIFE-01: close_notify ends the allocation, and is answered with one.
#[test]
fn turn_8656_life_01_close_notify_over_dtls_ends_the_allocation() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Dtls);
    client.allocate();
    client.dtls_client().stream.shutdown().unwrap();
    wait_for(&shards, "the end", |snapshot| (snapshot.total.allocations, snapshot.total.connections) == (0, 0));
    assert!(client.try_receive().is_none());
    // It may come again at once.
    let socket = client.dtls_client().stream.get_ref().socket.try_clone().unwrap();
    answers(&mut Client::dtls_with(client_on(&socket)));
}

/// Who is closed for silence, or by the end of the server, is told so.
#[test]
fn close_notify_is_sent_over_dtls() {
    let mut settings = settings(1);
    settings.connections.idle_secs = 1;
    let shards = Shards::start(settings).unwrap();
    let mut idle = Client::of(&shards, Transport::Dtls);
    answers(&mut idle);
    assert!(idle.try_receive().is_none());
    wait_for(&shards, "one idle", |snapshot| snapshot.total.shell.connections_idle == 1);
    let mut busy = Client::of(&shards, Transport::Dtls);
    busy.allocate();
    shards.shut_down();
    assert!(busy.try_receive().is_none());
}

/// ALPN-7443-2-01, -03, -04, as over TLS.
#[test]
fn alpn_7443_2_over_dtls() {
    let shards = Shards::start(settings(1)).unwrap();
    let offering = |labels: &[u8]| {
        DtlsClient::new(server(&shards), &CERTIFICATE.0, |builder| builder.set_alpn_protos(labels).unwrap())
    };
    for (labels, chosen) in
        [(&b"\x09stun.turn"[..], "stun.turn"), (b"\x02h2\x12stun.nat-discovery", "stun.nat-discovery")]
    {
        let mut client = Client::dtls_with(offering(labels));
        answers(&mut client);
        assert_eq!(client.dtls_client().stream.ssl().selected_alpn_protocol(), Some(chosen.as_bytes()));
        if chosen == "stun.nat-discovery" {
            client.send_signed(Method::Allocate, &[(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]);
            assert!(client.try_receive().is_none());
        }
    }
    wait_for(&shards, "the end", |snapshot| snapshot.total.shell.connections_not_binding == 1);
    offering(b"\x02h2").connect().expect_err("no protocol in common");
    wait_for(&shards, "a refusal", |snapshot| failures(snapshot, HandshakeFailure::ApplicationProtocol) == 1);
}

/// Abuse S6: handshakes that do not end are ended; until then they are bounded, for all and for each address.
#[test]
fn s6_dtls_handshakes_are_bounded_in_time_and_number() {
    let mut settings = settings(1);
    settings.connections.per_address = 3;
    let tls = settings.tls.as_mut().unwrap();
    (tls.handshake_timeout, tls.dtls_handshakes) = (Duration::from_millis(1500), 2);
    let shards = Shards::start(settings).unwrap();
    let sockets: Vec<UdpSocket> = (0..4).map(|_| peer()).collect();
    sockets.iter().for_each(|socket| socket.connect(server(&shards)).unwrap());
    begin(&sockets[0]);
    begin(&sockets[1]);
    wait_for(&shards, "two handshakes", |snapshot| snapshot.tls.in_progress == 2);
    begin(&sockets[2]);
    wait_for(&shards, "one too many", |snapshot| snapshot.total.shell.connections_refused == 1);
    wait_for(&shards, "two timeouts", |snapshot| {
        failures(snapshot, HandshakeFailure::Timeout) == 2 && snapshot.tls.in_progress == 0
    });
    let mut clients: Vec<Client> = (0..3).map(|_| Client::of(&shards, Transport::Dtls)).collect();
    clients.iter_mut().for_each(answers);
    begin(&sockets[3]);
    wait_for(&shards, "a fourth", |snapshot| snapshot.total.shell.connections_refused == 2);
}

/// A new certificate is for new clients; those that are connected stay.
#[test]
fn a_new_identity_reaches_dtls() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut old = Client::of(&shards, Transport::Dtls);
    answers(&mut old);
    let renewed = make_certificate(&["turn.example.org"], |_| {});
    shards.set_identity(Arc::new(identity(&renewed)));
    answers(&mut Client::dtls_with(DtlsClient::new(server(&shards), &renewed.0, |_| {})));
    DtlsClient::new(server(&shards), &CERTIFICATE.0, |_| {}).connect().expect_err("another certificate");
    wait_for(&shards, "the refusal", |snapshot| failures(snapshot, HandshakeFailure::RefusedByClient) == 1);
    answers(&mut old);
}

/// The ClientHello with the cookie is lost, and so is the first answer to it: both are sent again.
#[test]
fn lost_flights_are_sent_again() {
    let shards = Shards::start(settings(1)).unwrap();
    let (outside, inside) = (peer(), peer());
    inside.connect(server(&shards)).unwrap();
    let (near, is_over) = (outside.local_addr().unwrap(), AtomicBool::new(false));
    [&outside, &inside].iter().for_each(|socket| socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap());
    std::thread::scope(|scope| {
        let client = peer_at("127.0.0.1:0").unwrap();
        let client_address = client.local_addr().unwrap();
        client.connect(near).unwrap();
        for (from, to, back) in [(&outside, &inside, None), (&inside, &outside, Some(client_address))] {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut bytes = [0; 2000];
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let Ok(len) = from.recv(&mut bytes) else { continue };
                    count += 1;
                    if count != 2 {
                        let _ = match back {
                            None => to.send(&bytes[..len]),
                            Some(client) => to.send_to(&bytes[..len], client),
                        };
                    }
                }
            });
        }
        let mut client = DtlsClient::on(client, &CERTIFICATE.0, |_| {});
        let result = client.connect();
        is_over.store(true, Ordering::Relaxed);
        result.expect("a handshake in spite of it");
    });
    wait_for(&shards, "a handshake", |snapshot| snapshot.tls.completed == 1);
}
