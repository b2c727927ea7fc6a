//! What is special about TLS: handshakes, records, certificates, ends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, version};

use super::client::{
    CERTIFICATE, Client, address, channel_data, identity, peer, receive, settings, tls_client, tls_client_of,
    tls_client_that_has, wait_for,
};
use super::*;
use crate::net::{HandshakeFailure, make_certificate};

fn answers(client: &mut Client) {
    let request = client.binding();
    client.send(&request);
    assert_eq!(client.receive()[4..20], request[4..20]);
}

fn failures(snapshot: &Snapshot, why: HandshakeFailure) -> u64 {
    snapshot.tls.failures[why as usize]
}

/// Brings a handshake as far as it goes, by hand; the error if it fails.
fn shake_hands(session: &mut ClientConnection, tcp: &mut TcpStream) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    while session.is_handshaking() {
        session.complete_io(tcp)?;
    }
    Ok(())
}

/// STUN-8489-6.2.3-01, -02: both versions, with forward secrecy.
#[test]
fn stun_8489_6_2_3_tls_1_2_and_1_3_are_spoken() {
    let shards = Shards::start(settings(2)).unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let mut client =
            Client::tls_with(address(&shards, Transport::Tls), tls_client_of(&CERTIFICATE, &[version], |_| {}));
        answers(&mut client);
        assert_eq!(client.tls_stream().conn.protocol_version(), Some(version.version));
    }
    wait_for(&shards, "two handshakes", |snapshot| snapshot.tls.completed == 2 && snapshot.tls.in_progress == 0);
}

/// AES-128 comes first, unless a client has nothing else or likes ChaCha20 best.
#[test]
fn the_cheapest_suite_for_both_sides_is_chosen() {
    let shards = Shards::start(settings(1)).unwrap();
    let has = |suite: &rustls::SupportedCipherSuite, word: &str| format!("{:?}", suite.suite()).contains(word);
    for version in [&version::TLS12, &version::TLS13] {
        for (first, only, chosen) in [
            ("AES_256", "", "AES_128"),
            ("AES_128", "", "AES_128"),
            ("CHACHA20", "", "CHACHA20"),
            ("AES_256", "AES_256", "AES_256"),
        ] {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.cipher_suites.retain(|suite| has(suite, only));
            provider.cipher_suites.sort_by_key(|suite| !has(suite, first));
            let session = tls_client_that_has(provider, "turn.example.org", &CERTIFICATE, &[version], |_| {});
            let mut client = Client::tls_with(address(&shards, Transport::Tls), session);
            answers(&mut client);
            let suite = client.tls_stream().conn.negotiated_cipher_suite().unwrap();
            assert!(has(&suite, chosen), "{version:?}, {first} first: {suite:?}");
        }
    }
}

/// STUN-8489-6.2.3-02: a ClientHello that offers TLS 1.1 and nothing else is refused.
#[test]
fn stun_8489_6_2_3_02_tls_1_1_is_refused() {
    let shards = Shards::start(settings(1)).unwrap();
    let signature_algorithms = [0, 8, 0, 13, 0, 4, 0, 2, 4, 3];
    // What a client of those days sends; and the same with an extension that it does not know.
    for (extensions, alert) in [(&[][..], HANDSHAKE_FAILURE), (&signature_algorithms[..], PROTOCOL_VERSION)] {
        // Version 3.2, random, no session, two suites, no compression.
        let mut hello = vec![3, 2];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[0, 0, 4, 0xC0, 0x13, 0xC0, 0x14, 1, 0]);
        hello.extend_from_slice(extensions);
        let handshake = [&[1, 0, 0, hello.len() as u8][..], &hello].concat();
        let record = [&[22, 3, 1, 0, handshake.len() as u8][..], &handshake].concat();
        let mut tcp = TcpStream::connect(address(&shards, Transport::Tls)).unwrap();
        tcp.write_all(&record).unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).unwrap();
        assert_eq!((answer[0], &answer[5..]), (21, &[2, alert][..]), "a fatal alert");
    }
    wait_for(&shards, "two refusals", |snapshot| failures(snapshot, HandshakeFailure::Version) == 2);
}

/// Descriptions of alerts.
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

/// ALPN-7443-2-01, -03.
#[test]
fn alpn_7443_2_labels_are_recognised_or_refused() {
    let shards = Shards::start(settings(1)).unwrap();
    let server = address(&shards, Transport::Tls);
    for (offered, chosen) in [
        (&[][..], None),
        (&["stun.turn"][..], Some("stun.turn")),
        (&["stun.nat-discovery"][..], Some("stun.nat-discovery")),
        (&["h2", "stun.turn"][..], Some("stun.turn")),
    ] {
        let session = tls_client(&CERTIFICATE, |config| {
            config.alpn_protocols = offered.iter().map(|label| label.as_bytes().to_vec()).collect();
        });
        let mut client = Client::tls_with(server, session);
        answers(&mut client);
        assert_eq!(client.tls_stream().conn.alpn_protocol(), chosen.map(str::as_bytes));
    }
    for foreign in ["h2", "http/1.1", "stun.turn ", "STUN.TURN"] {
        let mut session = tls_client(&CERTIFICATE, |config| config.alpn_protocols = vec![foreign.into()]);
        let error = shake_hands(&mut session, &mut TcpStream::connect(server).unwrap()).expect_err("refused");
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
    wait_for(&shards, "four refusals", |snapshot| failures(snapshot, HandshakeFailure::ApplicationProtocol) == 4);
}

/// ALPN-7443-2-04: who asks for NAT discovery gets no allocation; the connection is closed.
#[test]
fn alpn_7443_2_04_nat_discovery_is_binding_only() {
    let shards = Shards::start(settings(1)).unwrap();
    let session = tls_client(&CERTIFICATE, |config| config.alpn_protocols = vec![b"stun.nat-discovery".into()]);
    let mut client = Client::tls_with(address(&shards, Transport::Tls), session);
    answers(&mut client);
    answers(&mut client);
    client.send_signed(Method::Allocate, &[(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]);
    assert!(client.try_receive().is_none());
    wait_for(&shards, "the end", |snapshot| snapshot.total.shell.connections_not_binding == 1);
}

/// Abuse S7: records cut anywhere by TCP, byte by byte from the first of the handshake, and messages of two records.
#[test]
fn s7_records_cut_anywhere_are_answered_the_same() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut tcp = TcpStream::connect(address(&shards, Transport::Tls)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut session = tls_client(&CERTIFICATE, |_| {});
    let requests: Vec<Vec<u8>> = {
        let mut writer = Client::of(&shards, Transport::Tcp);
        (0..4).map(|_| writer.binding()).collect()
    };
    let stream = requests.concat();
    let trickle = |session: &mut ClientConnection, tcp: &mut TcpStream| {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).unwrap();
        }
        bytes.chunks(1).for_each(|byte| tcp.write_all(byte).unwrap());
    };
    trickle(&mut session, &mut tcp);
    while session.is_handshaking() {
        session.read_tls(&mut tcp).unwrap();
        session.process_new_packets().unwrap();
        if !session.is_handshaking() {
            // The first messages come together with the end of the handshake.
            session.writer().write_all(&stream[..30]).unwrap();
        }
        trickle(&mut session, &mut tcp);
    }
    for part in stream[30..].chunks(7) {
        session.writer().write_all(part).unwrap();
        trickle(&mut session, &mut tcp);
    }
    let mut answers = vec![0; 4 * 32];
    rustls::Stream::new(&mut session, &mut tcp).read_exact(&mut answers).unwrap();
    for (answer, request) in answers.chunks(32).zip(&requests) {
        assert_eq!(answer[4..20], request[4..20]);
    }
}

/// First messages in the very segment that ends the handshake: nothing is lost on the way to the shard.
#[test]
fn messages_right_behind_the_handshake_are_answered() {
    let shards = Shards::start(settings(2)).unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        for _ in 0..20 {
            let mut session = tls_client_of(&CERTIFICATE, &[version], |_| {});
            let mut binder = Client::of(&shards, Transport::Tcp);
            let (first, second) = (binder.binding(), binder.binding());
            // Before the handshake has begun: rustls sends it as soon as it may.
            session.writer().write_all(&[&first[..], &second[..]].concat()).unwrap();
            let mut client = Client::tls_with(address(&shards, Transport::Tls), session);
            assert_eq!(client.receive()[4..20], first[4..20]);
            assert_eq!(client.receive()[4..20], second[4..20]);
        }
    }
}

/// Messages of any size both ways, and many at once in few records.
#[test]
fn data_of_all_sizes_passes_through_records() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Tls));
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    for len in [0, 1, 1200, 16_380, 16_384, 16_385, 40_000, 65_507] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        client.send_data(0x4000, &data);
        assert_eq!(receive(&peer).0, data);
        peer.send_to(&data, relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), data);
    }
    let burst: Vec<u8> = (0..100_u8).flat_map(|number| channel_data(0x4000, &[number; 160])).collect();
    client.send(&burst);
    for number in 0..100 {
        assert_eq!(receive(&peer).0, [number; 160]);
    }
}

/// Abuse S19: whatever is not TLS ends the connection at once, and is answered with nothing.
#[test]
fn s19_plain_bytes_on_the_tls_port_close_at_once() {
    let shards = Shards::start(settings(1)).unwrap();
    let binding = Client::of(&shards, Transport::Tcp).binding();
    for bytes in [&binding[..], b"GET / HTTP/1.1\r\n\r\n", &[0], &[0xFF; 3000], &[0x80, 0x2E, 1, 0, 2]] {
        let mut tcp = TcpStream::connect(address(&shards, Transport::Tls)).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        tcp.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        match tcp.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert!(answer.is_empty());
    }
    wait_for(&shards, "five refusals", |snapshot| failures(snapshot, HandshakeFailure::NotTls) == 5);
    answers(&mut Client::of(&shards, Transport::Tls));
}

/// A TLS record whose insides are damaged ends the connection, its allocation with it.
#[test]
fn records_that_do_not_decrypt_close_the_connection() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Tls);
    client.allocate();
    let record = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    client.tls_stream().sock.write_all(&record).unwrap();
    let mut byte = [0];
    client.tls_stream().read(&mut byte).expect_err("an alert");
    wait_for(&shards, "the end", |snapshot| {
        let total = &snapshot.total;
        (total.shell.connections_broken_tls, total.allocations, total.connections) == (1, 0, 0)
    });
}

/// Abuse S6: a handshake that does not end is ended, and counts as a connection of its address until then.
#[test]
fn s6_slow_handshakes_time_out_and_count_as_connections() {
    let mut settings = settings(1);
    settings.connections.per_address = 2;
    settings.tls.as_mut().unwrap().handshake_timeout = Duration::from_millis(700);
    let shards = Shards::start(settings).unwrap();
    let server = address(&shards, Transport::Tls);
    let begun = Instant::now();
    let mut silent = TcpStream::connect(server).unwrap();
    let mut slow = TcpStream::connect(server).unwrap();
    slow.write_all(&[22, 3, 1]).unwrap();
    wait_for(&shards, "two handshakes", |snapshot| snapshot.tls.in_progress == 2);
    let mut refused = TcpStream::connect(server).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    wait_for(&shards, "one refused", |snapshot| snapshot.total.shell.connections_refused == 1);
    // Trickling does not help.
    for socket in [&mut silent, &mut slow] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(begun.elapsed() >= Duration::from_millis(700));
    wait_for(&shards, "two timeouts", |snapshot| {
        failures(snapshot, HandshakeFailure::Timeout) == 2 && snapshot.tls.in_progress == 0
    });
    answers(&mut Client::of(&shards, Transport::Tls));
}

/// Abuse S6: with dozens of handshakes begun and left alone, others are served.
#[test]
fn s6_open_handshakes_are_in_nobodys_way() {
    let shards = Shards::start(settings(1)).unwrap();
    let server = address(&shards, Transport::Tls);
    let mut waiting: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(server).unwrap()).collect();
    waiting.iter_mut().step_by(2).for_each(|tcp| tcp.write_all(&[22, 3, 1, 0, 200, 1]).unwrap());
    answers(&mut Client::of(&shards, Transport::Tls));
    answers(&mut Client::of(&shards, Transport::Udp));
    drop(waiting);
    wait_for(&shards, "all gone", |snapshot| failures(snapshot, HandshakeFailure::Closed) == 200);
}

/// STUN-8489-6.2.3-03: a client that goes by the DNS name in the certificate, a wildcard included, accepts it.
#[test]
fn stun_8489_6_2_3_03_clients_that_verify_the_name_accept_the_certificate() {
    let shards = Shards::start(settings(1)).unwrap();
    let server = address(&shards, Transport::Tls);
    for (names, is_good) in [
        (&["turn.example.org"][..], true),
        (&["www.example.org", "turn.example.org"], true),
        (&["*.example.org"], true),
        (&["www.example.org"], false),
        (&["*.turn.example.org"], false),
    ] {
        let pem = make_certificate(names, |_| {});
        shards.set_identity(Arc::new(identity(&pem)));
        if is_good {
            answers(&mut Client::tls_with(server, tls_client(&pem, |_| {})));
        } else {
            shake_hands(&mut tls_client(&pem, |_| {}), &mut TcpStream::connect(server).unwrap())
                .expect_err("not a certificate for turn.example.org");
        }
    }
}

/// A client that does not know the certificate says so, and is counted as what it is.
#[test]
fn a_client_that_refuses_the_certificate_is_counted() {
    let shards = Shards::start(settings(1)).unwrap();
    let other = make_certificate(&["turn.example.org"], |_| {});
    let mut tcp = TcpStream::connect(address(&shards, Transport::Tls)).unwrap();
    shake_hands(&mut tls_client(&other, |_| {}), &mut tcp).expect_err("an unknown certificate");
    wait_for(&shards, "the refusal", |snapshot| failures(snapshot, HandshakeFailure::RefusedByClient) == 1);
}

/// TURN-8656-LIFE-01: close_notify is the end, even while TCP stays open, and is answered with one.
#[test]
fn turn_8656_life_01_close_notify_ends_the_allocation_and_is_answered() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Tls);
    client.allocate();
    let stream = client.tls_stream();
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock).unwrap();
    wait_for(&shards, "the end", |snapshot| snapshot.total.allocations == 0 && snapshot.total.connections == 0);
    // Zero, and not an unexpected end, is what close_notify comes out as.
    assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0);
}

/// Who is closed for silence, or by the end of the server, is told so.
#[test]
fn close_notify_is_sent_by_the_server() {
    let mut settings = settings(1);
    settings.connections.idle_secs = 1;
    let shards = Shards::start(settings).unwrap();
    let mut idle = Client::of(&shards, Transport::Tls);
    answers(&mut idle);
    assert_eq!(idle.tls_stream().read(&mut [0; 100]).unwrap(), 0);
    let mut busy = Client::of(&shards, Transport::Tls);
    busy.allocate();
    shards.shut_down();
    assert_eq!(busy.tls_stream().read(&mut [0; 100]).unwrap(), 0);
}

/// A new certificate is for new clients; those that are connected stay.
#[test]
fn a_new_identity_is_shown_to_new_clients_only() {
    let shards = Shards::start(settings(1)).unwrap();
    let server = address(&shards, Transport::Tls);
    let mut old = Client::of(&shards, Transport::Tls);
    answers(&mut old);
    let renewed = make_certificate(&["turn.example.org"], |_| {});
    shards.set_identity(Arc::new(identity(&renewed)));
    answers(&mut Client::tls_with(server, tls_client(&renewed, |_| {})));
    shake_hands(&mut tls_client(&CERTIFICATE, |_| {}), &mut TcpStream::connect(server).unwrap())
        .expect_err("the old certificate is not shown any more");
    answers(&mut old);
}
