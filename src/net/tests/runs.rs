//! Datagrams that leave in runs arrive as they would alone.

use std::process::Command;

use super::*;

fn run<'b>(to: SocketAddr, payloads: impl IntoIterator<Item = &'b [u8]>) -> Vec<Datagram<'b>> {
    payloads.into_iter().map(|bytes| datagram(to, bytes)).collect()
}

/// Each filled with its place.
fn payloads(lens: &[usize]) -> Vec<Vec<u8>> {
    lens.iter().enumerate().map(|(place, &len)| vec![place as u8; len]).collect()
}

fn assert_arrive(socket: &UdpSocket, expected: &[Datagram<'_>]) {
    let mut batch = ReceiveBatch::new().unwrap();
    receive(&mut batch, socket, expected.len());
    for (slot, expected) in expected.iter().enumerate() {
        assert_eq!(batch.message(slot), expected.bytes, "datagram {slot}");
        assert_eq!(batch.received(slot).ip, IpFields { dont_fragment: false, ..expected.ip }, "datagram {slot}");
    }
    batch.clear();
    assert_eq!(batch.receive(socket).expect_err("no more").kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn boundaries_survive_whatever_the_lengths() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(a) = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true) else {
            eprintln!("SKIP {address}: this machine has no such address");
            continue;
        };
        let b = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true).unwrap();
        let all = [
            vec![160; BATCH],
            vec![1200, 1200, 1200, 3],
            vec![0, 0, 0],
            vec![100, 0, 100, 100, 0],
            vec![5, 4, 3, 2, 1],
            vec![1, 2, 3, 3, 3],
            vec![1],
            vec![30_000; 5],
            vec![1, 65_000, 65_000],
        ];
        for lens in all {
            let payloads = payloads(&lens);
            let datagrams = run(b.local_address(), payloads.iter().map(Vec::as_slice));
            let mut errors = SocketErrors::default();
            let sent = SendBatch::new().send(&a, datagrams.iter().copied(), &mut errors);
            assert_eq!(
                (sent.datagrams, sent.calls, errors),
                (lens.len() as u64, 1, SocketErrors::default()),
                "{lens:?}"
            );
            assert_arrive(&b, &datagrams);
        }
    }
}

/// TURN-8656-14-01: what differs in its IP fields does not travel together.
#[test]
fn turn_8656_14_01_each_of_a_run_keeps_its_traffic_class() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(a) = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true) else {
            eprintln!("SKIP {address}: this machine has no such address");
            continue;
        };
        let b = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true).unwrap();
        let payload = [9; 100];
        let datagrams: Vec<Datagram<'_>> = [0, 0, 0xB8, 0xB8, 0xB9, 0xB8, 0, 0, 0]
            .into_iter()
            .map(|traffic_class| Datagram {
                ip: IpFields { traffic_class, ..IpFields::default() },
                ..datagram(b.local_address(), &payload)
            })
            .collect();
        let mut errors = SocketErrors::default();
        let sent = SendBatch::new().send(&a, datagrams.iter().copied(), &mut errors);
        assert_eq!((sent.datagrams, sent.calls, errors), (9, 1, SocketErrors::default()));
        assert_arrive(&b, &datagrams);
    }
}

/// TURN-8656-14-01: a run has the TTL of a datagram alone.
#[test]
fn turn_8656_14_01_each_of_a_run_has_the_usual_ttl() {
    let a = relay_at(any_v4());
    let b = std::net::UdpSocket::bind(any_v4()).unwrap();
    tell_headers(&b);
    let ip = IpFields { traffic_class: 0xB8, ..IpFields::default() };
    let to = b.local_addr().unwrap();
    send_one(&a, Datagram { ip, ..datagram(to, b"alone") });
    let (_, alone) = receive_with_header(&b);
    let mut errors = SocketErrors::default();
    let datagrams = [b"one", b"two", b"six"].map(|bytes| Datagram { ip, ..datagram(to, bytes) });
    SendBatch::new().send(&a, datagrams, &mut errors);
    for bytes in [b"one", b"two", b"six"] {
        assert_eq!(receive_with_header(&b), (bytes.to_vec(), alone));
    }
}

#[test]
fn neighbours_of_a_run_go_where_they_should() {
    let (a, b, c) = (relay_at(any_v4()), relay_at(any_v4()), relay_at(any_v4()));
    let to_b = run(b.local_address(), [&b"b1"[..], b"b2"]);
    let to_c = run(c.local_address(), [&b"c1"[..], b"c2", b"c3"]);
    let all = [to_b[0], to_c[0], to_c[1], to_b[1], to_c[2]];
    let mut errors = SocketErrors::default();
    let sent = SendBatch::new().send(&a, all, &mut errors);
    assert_eq!((sent.datagrams, sent.calls, errors), (5, 1, SocketErrors::default()));
    assert_arrive(&b, &to_b);
    assert_arrive(&c, &to_c);
}

/// TURN-8656-11.5-01, -06: the complaint about one run costs the next nothing.
#[test]
fn turn_8656_11_5_06_an_error_never_costs_another_run() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let closed = relay_at(any_v4()).local_address();
    for _ in 0..20 {
        let mut errors = SocketErrors::default();
        let to_nobody = run(closed, [&b"nobody"[..], b"no one", b"none"]);
        let to_b = run(b.local_address(), [&b"somebody"[..], b"somebody", b"some"]);
        let all: Vec<_> = to_nobody.into_iter().chain(to_b.iter().copied()).collect();
        let sent = SendBatch::new().send(&a, all, &mut errors);
        assert_eq!((sent.datagrams, errors), (6, SocketErrors::default()));
        assert_arrive(&b, &to_b);
        assert_eq!(a.next_error().unwrap(), NetworkError { to: closed, kind: 3, code: 3, mtu: 0 });
        while a.next_error().is_ok() {}
    }
}

#[test]
fn a_run_without_a_way_is_counted_for_each_datagram() {
    let a = relay_at(any_v4());
    let to_nowhere = run("203.0.113.1:9".parse().unwrap(), [&b"12"[..], b"12", b"12"]);
    let mut errors = SocketErrors::default();
    // What is bound to 127.0.0.1 reaches nothing else.
    let sent = SendBatch::new().send(&a, to_nowhere, &mut errors);
    assert_eq!((sent.datagrams, errors.0.iter().sum::<u64>()), (0, 3), "{errors:?}");
}

/// Runs the test in a network namespace with a loopback interface of its own, for 1500 bytes.
fn behind_a_narrow_link(test: fn()) {
    let there = std::thread::spawn(move || {
        // SAFETY: only this thread changes its network namespace, and it ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return false;
        }
        let set = Command::new("ip").args(["link", "set", "lo", "mtu", "1500", "up"]).status();
        let is_set = set.is_ok_and(|status| status.success());
        if is_set {
            test();
        }
        is_set
    });
    if !there.join().expect("the test holds") {
        eprintln!("SKIP: a network namespace needs CAP_SYS_ADMIN and the program ip");
    }
}

/// TURN-8656-11.3-05: what would not be refused alone is not refused in a run.
#[test]
fn turn_8656_11_3_05_runs_of_fragments() {
    behind_a_narrow_link(|| {
        let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
        let mut sender = SendBatch::new();
        let payloads = payloads(&[2000, 2000, 2000, 1999]);
        let datagrams = run(b.local_address(), payloads.iter().map(Vec::as_slice));
        let calls = [(); 3].map(|()| {
            let mut errors = SocketErrors::default();
            let sent = sender.send(&a, datagrams.iter().copied(), &mut errors);
            assert_eq!((sent.datagrams, sent.too_large, errors), (4, None, SocketErrors::default()));
            assert_arrive(&b, &datagrams);
            assert_eq!(a.next_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            sent.calls
        });
        // One in vain and four alone; then it is known.
        assert_eq!(calls, [5, 1, 1]);
        // Shorter ones still leave together.
        assert!(a.segment_max() < 2000 && a.segment_max() >= 1472);
    });
}

/// TURN-8656-14-05: with DF each datagram of a run is told to be too large.
#[test]
fn turn_8656_14_05_each_of_a_run_is_too_large() {
    behind_a_narrow_link(|| {
        let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
        let payload = [7; 2000];
        let ip = IpFields { dont_fragment: true, ..IpFields::default() };
        let datagrams = [Datagram { ip, ..datagram(b.local_address(), &payload) }; 3];
        let mut errors = SocketErrors::default();
        let sent = SendBatch::new().send(&a, datagrams, &mut errors);
        assert_eq!((sent.datagrams, sent.too_large), (0, Some(b.local_address())));
        assert_eq!(errors.of(SocketErrorKind::TooLarge), 3);
        for _ in 0..3 {
            let error = a.next_error().unwrap();
            assert_eq!((error.kind, error.code, error.mtu), (3, 4, 1500));
        }
        assert_eq!(a.next_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // TURN-8656-14-03: those that fit leave with DF, in a run.
        let fitting = datagrams.map(|datagram| Datagram { bytes: &payload[..1472], ..datagram });
        let mut errors = SocketErrors::default();
        let sent = SendBatch::new().send(&a, fitting, &mut errors);
        assert_eq!((sent.datagrams, sent.calls, errors), (3, 1, SocketErrors::default()));
        assert_arrive(&b, &fitting);
    });
}

#[test]
fn a_refusal_is_forgotten_after_a_while_unless_it_is_for_good() {
    let a = relay_at(any_v4());
    assert_eq!(a.segment_max(), usize::from(u16::MAX));
    a.run_refused(1400, false);
    a.run_refused(1300, false);
    assert_eq!(a.segment_max(), 1299);
    while a.segment_max() == 1299 {}
    assert_eq!(a.segment_max(), usize::from(u16::MAX));
    a.run_refused(1400, true);
    assert!((0..100_000).all(|_| a.segment_max() == 0));
}

/// Reads as a shard does, until `count` datagrams have come; calls `seen` for each.
fn read_runs(batch: &mut ReceiveBatch, socket: &UdpSocket, count: usize, mut seen: impl FnMut(Received, &[u8])) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut read = 0;
    while read < count || batch.has_left() {
        assert!(Instant::now() < deadline, "{read} of {count} datagrams came");
        batch.clear();
        match batch.receive_runs(socket) {
            Ok(filled) => {
                (0..filled).for_each(|slot| seen(batch.received(slot), batch.message(slot)));
                read += filled;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable(socket),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(read, count);
}

/// Sends runs until the socket takes them as such.
fn merging(a: &UdpSocket, b: &UdpSocket, batch: &mut ReceiveBatch) {
    for _ in 0..4 {
        let payloads = payloads(&[100; BATCH]);
        SendBatch::new().send(
            a,
            run(b.local_address(), payloads.iter().map(Vec::as_slice)),
            &mut SocketErrors::default(),
        );
        read_runs(batch, b, BATCH, |_, _| {});
    }
    assert!(b.merging().get().is_on());
}

/// Whatever comes in runs is what was sent: boundaries, order, sender, DSCP and ECN, with room in front of each.
#[test]
fn turn_8656_14_01_runs_are_received_as_they_were_sent() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(a) = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true) else {
            eprintln!("SKIP {address}: this machine has no such address");
            continue;
        };
        let b = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true).unwrap();
        let c = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true).unwrap();
        let mut batch = ReceiveBatch::new().unwrap();
        merging(&a, &b, &mut batch);
        let lens =
            [vec![160; 40], vec![1200, 1200, 3], vec![0, 0], vec![100, 0, 100, 100], vec![30_000; 4], vec![65_000]];
        let payloads = payloads(&lens.concat());
        let mut expected = Vec::new();
        for (place, payload) in payloads.iter().enumerate() {
            let ip = IpFields { traffic_class: [0, 0xB8, 0xB9][place / 7 % 3], ..IpFields::default() };
            expected.push(Datagram { ip, ..datagram(b.local_address(), payload) });
        }
        let mut expected_from = vec![a.local_address(); expected.len()];
        SendBatch::new().send(&a, expected.iter().copied(), &mut SocketErrors::default());
        SendBatch::new().send(&c, expected.iter().copied(), &mut SocketErrors::default());
        expected_from.extend(vec![c.local_address(); expected.len()]);
        expected.extend(expected.clone());
        let mut place = 0;
        read_runs(&mut batch, &b, expected.len(), |received, message| {
            assert_eq!(message, expected[place].bytes, "datagram {place}");
            assert_eq!((received.ip, received.from), (expected[place].ip, expected_from[place]));
            assert_eq!(received.to, b.local_address());
            place += 1;
        });
        // It has come in fewer messages than datagrams, or nothing was shown here.
        assert!(batch.packet(0).range().start >= Packet::HEADROOM);
    }
}

/// The kernel is asked for runs while they come, and no longer.
#[test]
fn a_socket_without_runs_reads_plainly_again() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let mut batch = ReceiveBatch::new().unwrap();
    merging(&a, &b, &mut batch);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut len = 0;
    while b.merging().get().is_on() {
        assert!(Instant::now() < deadline, "it stays on");
        len = len % 1000 + 1;
        send_one(&a, datagram(b.local_address(), &[len as u8; 1000][..len]));
        read_runs(&mut batch, &b, 1, |_, message| assert_eq!(message.len(), len));
    }
    // A run that comes now is cut apart by the kernel.
    let payloads = payloads(&[300; 10]);
    SendBatch::new().send(&a, run(b.local_address(), payloads.iter().map(Vec::as_slice)), &mut SocketErrors::default());
    let mut place = 0;
    read_runs(&mut batch, &b, 10, |_, message| {
        assert_eq!(message, payloads[place]);
        place += 1;
    });
}

/// Runs are taken apart as room allows, and a socket that has gone takes the rest along.
#[test]
fn what_is_left_of_runs_comes_first_or_is_forgotten() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let mut batch = ReceiveBatch::new().unwrap();
    merging(&a, &b, &mut batch);
    for forgets in [false, true] {
        let payloads = payloads(&[200; BATCH]);
        let send = || {
            SendBatch::new().send(
                &a,
                run(b.local_address(), payloads.iter().map(Vec::as_slice)),
                &mut SocketErrors::default(),
            )
        };
        send();
        batch.clear();
        for _ in 0..BATCH - 10 {
            batch.insert(any_v4(), any_v4(), b"from a stream", IpFields::default());
        }
        wait_readable(&b);
        assert_eq!(batch.receive_runs(&b).unwrap(), 10);
        assert!(batch.has_left());
        assert_eq!(batch.message(BATCH - 1), payloads[9]);
        batch.clear();
        if forgets {
            batch.forget_left();
            assert_eq!(batch.receive_runs(&b).expect_err("all was read").kind(), io::ErrorKind::WouldBlock);
        } else {
            assert_eq!(batch.receive_runs(&b).unwrap(), BATCH - 10);
            assert_eq!((batch.message(0), batch.message(BATCH - 11)), (&payloads[10][..], &payloads[BATCH - 1][..]));
        }
        assert!(!batch.has_left());
    }
}
