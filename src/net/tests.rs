//! Datagrams over the loopback interface, through the kernel and back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::*;
use crate::turn::{IpFields, Packet};

mod runs;

const BUFFER_BYTES: usize = 4 << 20;

fn any_v4() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn relay_at(address: SocketAddr) -> UdpSocket {
    UdpSocket::relay(address, BUFFER_BYTES, true).unwrap()
}

fn datagram(to: SocketAddr, bytes: &[u8]) -> Datagram<'_> {
    Datagram { to, source: None, bytes, ip: IpFields::default() }
}

/// Reads until `count` more slots are filled; loopback may deliver in several pieces.
fn receive(batch: &mut ReceiveBatch, socket: &UdpSocket, count: usize) {
    let wanted = batch.used() + count;
    let deadline = Instant::now() + Duration::from_secs(5);
    while batch.used() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} datagrams came", batch.used());
        match batch.receive(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable(socket),
            Err(error) => panic!("{error}"),
        }
    }
}

fn wait_readable(socket: &UdpSocket) {
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry, written back in place.
    unsafe { libc::poll(&raw mut entry, 1, 100) };
}

fn send_one(socket: &UdpSocket, datagram: Datagram<'_>) {
    let mut errors = SocketErrors::default();
    let sent = SendBatch::new().send(socket, [datagram], &mut errors);
    assert_eq!((sent.datagrams, errors), (1, SocketErrors::default()));
}

#[test]
fn a_batch_larger_than_one_call_arrives_whole_and_in_order() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let payloads: Vec<Vec<u8>> = (0..BATCH + 10).map(|i| vec![i as u8; i + 1]).collect();
    let mut errors = SocketErrors::default();
    let sent =
        SendBatch::new().send(&a, payloads.iter().map(|payload| datagram(b.local_address(), payload)), &mut errors);
    assert_eq!(errors, SocketErrors::default());
    assert_eq!((sent.datagrams, sent.calls), (payloads.len() as u64, 2));

    let mut batch = ReceiveBatch::new().unwrap();
    let mut payloads = payloads.iter();
    for count in [BATCH, 10] {
        receive(&mut batch, &b, count);
        for slot in 0..count {
            let received = batch.received(slot);
            assert_eq!((received.from, received.to), (a.local_address(), b.local_address()));
            let packet = batch.packet(slot);
            assert_eq!(packet.message(), payloads.next().unwrap());
            assert!(packet.range().start >= Packet::HEADROOM);
        }
        batch.clear();
    }
    let error = batch.receive(&b).expect_err("all was read");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

/// TURN-8656-11.3-05: the longest datagram of each family passes whole.
#[test]
fn turn_8656_11_3_05_the_longest_datagrams_pass_whole() {
    for (address, len) in [("127.0.0.1:0", 65_507), ("[::1]:0", 65_527)] {
        let Ok(a) = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true) else {
            eprintln!("SKIP {address}: this machine has no such address");
            continue;
        };
        let b = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true).unwrap();
        let payload: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
        send_one(&a, datagram(b.local_address(), &payload));
        let mut batch = ReceiveBatch::new().unwrap();
        receive(&mut batch, &b, 1);
        assert_eq!(batch.packet(0).message(), payload);
    }
}

/// TURN-8656-14-01, 14-02: the whole byte, ECN included, travels in both directions, and only where it is set.
/// TURN-8656-14-03: DF in exactly those datagrams that ask for it, in order. A raw socket shows the headers.
#[test]
fn turn_8656_14_03_df_is_set_where_it_is_asked_for() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let Ok(raw) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::UDP)) else {
        eprintln!("SKIP: raw sockets need CAP_NET_RAW");
        return;
    };
    raw.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let wishes = [false, true, true, false, true, false, false];
    // Each longer than the one before, so that none leaves in a run, of which a raw socket on this machine sees one header.
    let datagrams = std::array::from_fn::<_, 7, _>(|place| Datagram {
        ip: IpFields { dont_fragment: wishes[place], ..IpFields::default() },
        ..datagram(b.local_address(), &[b'x'; 7][..=place])
    });
    let mut errors = SocketErrors::default();
    let sent = SendBatch::new().send(&a, datagrams, &mut errors);
    assert_eq!((sent.datagrams, sent.calls, errors), (7, 5, SocketErrors::default()));
    let mut seen = Vec::new();
    while seen.len() < wishes.len() {
        let mut packet = [0; 64];
        let len = io::Read::read(&mut &raw, &mut packet).expect("a packet in time");
        // Without options: the ports behind 20 bytes, flags in the seventh. Others use the loopback interface too.
        if len >= 29 && packet[22..24] == b.local_address().port().to_be_bytes() {
            seen.push(packet[6] & 0x40 != 0);
        }
    }
    assert_eq!(seen, wishes);
}

/// TURN-8656-15-01: over IPv6 nobody on the way fragments anyhow; here it is this machine that may not.
#[test]
fn turn_8656_15_01_ipv6_is_not_fragmented_where_it_is_asked_for() {
    let Ok(a) = UdpSocket::relay("[::1]:0".parse().unwrap(), BUFFER_BYTES, true) else {
        eprintln!("SKIP: this machine has no ::1");
        return;
    };
    let b = UdpSocket::relay("[::1]:0".parse().unwrap(), BUFFER_BYTES, true).unwrap();
    // Fits a datagram, but with its headers not the loopback interface.
    let large = vec![7; 65_500];
    let mut errors = SocketErrors::default();
    let datagrams = [true, false].map(|dont_fragment| Datagram {
        ip: IpFields { dont_fragment, ..IpFields::default() },
        ..datagram(b.local_address(), &large)
    });
    let sent = SendBatch::new().send(&a, datagrams, &mut errors);
    assert_eq!((sent.datagrams, errors.of(SocketErrorKind::TooLarge)), (1, 1));
    // TURN-8656-14-05: and it says what would have passed.
    let mtu = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap().trim().parse().unwrap();
    assert_eq!(a.next_error().unwrap(), NetworkError { to: b.local_address(), kind: 2, code: 0, mtu });
    assert_eq!(a.next_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// TURN-8656-14-05, where the loopback interface is narrow enough: `unshare -n`, `ip link set lo mtu 1500 up`.
#[test]
fn turn_8656_14_05_too_large_for_the_link() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let mut errors = SocketErrors::default();
    let ip = IpFields { dont_fragment: true, ..IpFields::default() };
    let sent = SendBatch::new().send(&a, [Datagram { ip, ..datagram(b.local_address(), &[7; 2000]) }], &mut errors);
    if sent.datagrams == 1 {
        eprintln!("SKIP: the loopback interface takes all that IPv4 can send");
        return;
    }
    assert_eq!((sent.too_large, errors.of(SocketErrorKind::TooLarge)), (Some(b.local_address()), 1));
    let error = a.next_error().unwrap();
    assert_eq!((error.to.ip(), error.kind, error.code, error.mtu), (b.local_address().ip(), 3, 4, 1500));
    // The same without DF is fragmented, and passes.
    send_one(&a, datagram(b.local_address(), &[7; 2000]));
}

/// TURN-8656-11.5-01, -06: the network's complaint can be read, and costs the next datagram nothing.
#[test]
fn turn_8656_11_5_06_an_error_never_costs_another_datagram() {
    let (a, b) = (relay_at(any_v4()), relay_at(any_v4()));
    let closed = relay_at(any_v4()).local_address();
    let mut batch = ReceiveBatch::new().unwrap();
    for _ in 0..20 {
        // The kernel answers at once on this interface: an error waits when the second datagram is sent.
        send_one(&a, datagram(closed, b"nobody"));
        send_one(&a, datagram(b.local_address(), b"somebody"));
        receive(&mut batch, &b, 1);
        assert_eq!(a.next_error().unwrap(), NetworkError { to: closed, kind: 3, code: 3, mtu: 0 });
        assert_eq!(a.next_error().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn turn_8656_14_the_traffic_class_is_told_and_set() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(a) = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true) else {
            eprintln!("SKIP {address}: this machine has no such address");
            continue;
        };
        let b = UdpSocket::relay(address.parse().unwrap(), BUFFER_BYTES, true).unwrap();
        let classes = [0, 0b1011_1010, 0b0000_0001, 0xFF, 0];
        let datagrams = classes.map(|traffic_class| Datagram {
            ip: IpFields { traffic_class, ..IpFields::default() },
            ..datagram(b.local_address(), b"x")
        });
        let mut errors = SocketErrors::default();
        SendBatch::new().send(&a, datagrams, &mut errors);
        assert_eq!(errors, SocketErrors::default());
        let mut batch = ReceiveBatch::new().unwrap();
        receive(&mut batch, &b, classes.len());
        for (slot, class) in classes.into_iter().enumerate() {
            assert_eq!(batch.received(slot).ip.traffic_class, class, "{address}");
            assert_eq!(batch.packet(slot).ip().traffic_class, class);
        }
    }
}

/// STUN-8489-6.3.1.2-01: a wildcard socket knows where each datagram was sent to, and answers from there.
#[test]
fn stun_8489_6_3_1_2_01_answers_leave_from_the_address_asked() {
    let server = UdpSocket::listener("0.0.0.0:0".parse().unwrap(), BUFFER_BYTES).unwrap();
    assert!(server.is_wildcard());
    let client = relay_at(any_v4());
    let mut batch = ReceiveBatch::new().unwrap();
    // All of 127.0.0.0/8 is local; a plain answer to each of these would leave from 127.0.0.1.
    for ip in ["127.0.0.2", "127.1.2.3", "127.0.0.1"] {
        let asked = SocketAddr::new(ip.parse().unwrap(), server.local_address().port());
        send_one(&client, datagram(asked, b"question"));
        batch.clear();
        receive(&mut batch, &server, 1);
        let received = batch.received(0);
        assert_eq!((received.from, received.to), (client.local_address(), asked));

        let answer = Datagram {
            source: Some(received.to),
            ip: IpFields { traffic_class: 0xB8, ..IpFields::default() },
            ..datagram(received.from, b"answer")
        };
        send_one(&server, answer);
        batch.clear();
        receive(&mut batch, &client, 1);
        assert_eq!(batch.received(0).from, asked);
        assert_eq!(batch.received(0).ip.traffic_class, 0xB8);
    }
}

#[test]
fn an_ipv6_wildcard_tells_and_sets_addresses_too() {
    let Ok(server) = UdpSocket::listener("[::]:0".parse().unwrap(), BUFFER_BYTES) else {
        eprintln!("SKIP: this machine has no IPv6");
        return;
    };
    let Ok(client) = UdpSocket::relay("[::1]:0".parse().unwrap(), BUFFER_BYTES, true) else {
        eprintln!("SKIP: this machine has no ::1");
        return;
    };
    let asked: SocketAddr = format!("[::1]:{}", server.local_address().port()).parse().unwrap();
    send_one(&client, datagram(asked, b"question"));
    let mut batch = ReceiveBatch::new().unwrap();
    receive(&mut batch, &server, 1);
    assert_eq!(batch.received(0).to, asked);
    send_one(&server, Datagram { source: Some(asked), ..datagram(client.local_address(), b"answer") });
    batch.clear();
    receive(&mut batch, &client, 1);
    assert_eq!(batch.received(0).from, asked);
}

/// One bad datagram costs itself, not its neighbours, and not the socket.
#[test]
fn errors_are_counted_and_the_rest_is_sent() {
    let a = relay_at(any_v4());
    let b = relay_at(any_v4());
    let too_large = vec![0; 65_508];
    let datagrams = [
        datagram(b.local_address(), b"first"),
        datagram(b.local_address(), &too_large),
        datagram("127.0.0.1:1".parse().unwrap(), b"nobody listens here"),
        datagram(b.local_address(), b"second"),
    ];
    let mut errors = SocketErrors::default();
    let sent = SendBatch::new().send(&a, datagrams, &mut errors);
    assert_eq!(sent.datagrams, 3);
    assert_eq!(errors.of(SocketErrorKind::TooLarge), 1);
    let mut batch = ReceiveBatch::new().unwrap();
    receive(&mut batch, &b, 2);
    assert_eq!(batch.packet(0).message(), b"first");
    assert_eq!(batch.packet(1).message(), b"second");
    send_one(&a, datagram(b.local_address(), b"third"));
    receive(&mut batch, &b, 1);
    assert_eq!(batch.packet(2).message(), b"third");
}

#[test]
fn listeners_share_a_port_and_nobody_else_does() {
    let first = UdpSocket::listener(any_v4(), BUFFER_BYTES).unwrap();
    let second = UdpSocket::join(&first, BUFFER_BYTES).expect("the same group");
    assert_eq!(second.local_address(), first.local_address());
    let in_use = |result: io::Result<UdpSocket>| result.expect_err("taken").kind() == io::ErrorKind::AddrInUse;
    assert!(in_use(UdpSocket::relay(first.local_address(), BUFFER_BYTES, true)));
    assert!(in_use(UdpSocket::listener(first.local_address(), BUFFER_BYTES)), "another server");
    let relay = relay_at(any_v4());
    assert!(in_use(UdpSocket::listener(relay.local_address(), BUFFER_BYTES)));
    assert!(in_use(UdpSocket::join(&relay, BUFFER_BYTES)));
}

/// Clients are spread over the sockets of a group, and each stays with one.
#[test]
fn the_kernel_spreads_clients_over_the_group() {
    let first = UdpSocket::listener(any_v4(), BUFFER_BYTES).unwrap();
    let group = [UdpSocket::join(&first, BUFFER_BYTES).unwrap(), first];
    let clients: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::relay(any_v4(), 4096, true).unwrap()).collect();
    for _ in 0..2 {
        clients.iter().for_each(|client| send_one(client, datagram(group[0].local_address(), b"x")));
    }
    let mut seen = 0;
    for socket in &group {
        let mut batch = ReceiveBatch::new().unwrap();
        let mut from = Vec::new();
        while let Ok(count) = batch.receive(socket) {
            from.extend((0..count).map(|slot| batch.received(slot).from));
            batch.clear();
        }
        assert!(!from.is_empty(), "a socket of the group was left out");
        seen += from.len();
        from.sort();
        assert!(from.chunks(2).all(|pair| pair.len() == 2 && pair[0] == pair[1]), "a client changed sockets");
    }
    assert_eq!(seen, 2 * clients.len());
}

#[test]
fn tcp_listeners_share_a_port_and_nobody_else_does() {
    let first = tcp::listen(any_v4()).unwrap();
    let address = first.local_addr().unwrap();
    let second = tcp::join(&first).expect("the same group");
    assert_eq!(tcp::listen(address).expect_err("another server").kind(), io::ErrorKind::AddrInUse);
    let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let mut accepted = [0, 0];
    for (listener, count) in [&first, &second].into_iter().zip(&mut accepted) {
        while listener.accept().is_ok() {
            *count += 1;
        }
    }
    assert_eq!(accepted.iter().sum::<usize>(), clients.len());
    assert!(accepted.iter().all(|&count| count > 0), "a listener was left out: {accepted:?}");
}

/// What the kernel drops for want of room is known as soon as something arrives after it.
#[test]
fn drops_in_the_receive_queue_are_told() {
    let a = relay_at(any_v4());
    let b = UdpSocket::relay(any_v4(), 4096, true).unwrap();
    let payload = [0; 1000];
    let mut errors = SocketErrors::default();
    SendBatch::new().send(&a, (0..BATCH).map(|_| datagram(b.local_address(), &payload)), &mut errors);
    let mut batch = ReceiveBatch::new().unwrap();
    receive(&mut batch, &b, 1);
    let arrived = batch.used();
    assert!(arrived < BATCH, "the queue is too small for all of them");
    send_one(&a, datagram(b.local_address(), b"after"));
    receive(&mut batch, &b, 1);
    assert_eq!(batch.queue_drops(), Some((BATCH - arrived) as u32));
}

#[test]
fn messages_from_elsewhere_share_the_slots() {
    let mut batch = ReceiveBatch::new().unwrap();
    let slot = batch.insert(any_v4(), any_v4(), b"from a stream", IpFields::default());
    assert_eq!(slot, 0);
    let longest = vec![9; crate::stun::stream::FRAME_LEN_MAX];
    assert_eq!(batch.insert(any_v4(), any_v4(), &longest, IpFields::default()), 1);
    assert_eq!(batch.packet(0).message(), b"from a stream");
    assert_eq!(batch.packet(1).message(), longest);
    let range = batch.packet(0).range();
    batch.slot_mut(0)[range.clone()][..4].copy_from_slice(b"back");
    assert_eq!(&batch.slot(0)[range][..6], b"back a");
    assert_eq!(batch.room(), BATCH - 2);
    batch.clear();
    assert_eq!(batch.room(), BATCH);
}

/// Eight megabytes are promised and hardly any are used: the memory is there when it is touched.
#[test]
fn untouched_slots_cost_no_memory() {
    fn resident_pages(batch: &ReceiveBatch) -> usize {
        let slots: usize = (0..BATCH).map(|slot| batch.slot(slot).len()).sum();
        let mut pages = vec![0_u8; slots.div_ceil(4096) + 1];
        let start = batch.slot(0).as_ptr().cast_mut().cast();
        // SAFETY: the slots are one mapping that starts at a page; the vector has a byte for each page of it.
        let result = unsafe { libc::mincore(start, slots, pages.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        pages.iter().filter(|&&page| page & 1 == 1).count()
    }
    let mut batch = ReceiveBatch::new().unwrap();
    assert_eq!(resident_pages(&batch), 0);
    for _ in 0..BATCH {
        batch.insert(any_v4(), any_v4(), &[1; 1200], IpFields::default());
    }
    assert!(resident_pages(&batch) <= 2 * BATCH);
}
