//! Whole shards over the loopback interface.

mod behavior;
mod classic;
mod client;
#[cfg(feature = "dtls")]
mod dtls;
#[cfg(feature = "dtls")]
mod dtls_client;
mod dual;
mod headers;
mod keys;
mod mobility;
mod offload;
mod proxies;
mod questions;
mod realms;
mod reservations;
mod runs;
mod streams;
mod tcp_relays;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use client::{Client, TRANSPORTS, address, channel_data, config, peer, place, receive, settings, wait_for};

use super::*;
use crate::net::{BATCH, Datagram, ReceiveBatch, SendBatch, UdpSocket};
use crate::stun::{AttributeType, Class, ErrorCode, Method};
use crate::turn::{EndReason, IpFields, Traffic, Transport};

/// Two clients whose relays, and so whose selves, are in different shards of two.
fn clients_in_both_shards(shards: &Shards) -> [(Client, SocketAddr); 2] {
    let mut found = [None, None];
    // The chance that the kernel puts 64 clients on one side is one in 2^63.
    for _ in 0..64 {
        let mut client = Client::of(shards, Transport::Udp);
        let relayed = client.allocate();
        let owner = turn::ShardIndex { index: 0, count: 2 }.owner_of(relayed.port());
        found[usize::from(owner)].get_or_insert((client, relayed));
        if found.iter().all(Option::is_some) {
            return found.map(Option::unwrap);
        }
    }
    panic!("all clients met the same shard");
}

/// STUN-8489-12-02, STUN-8489-6.3.1.1-06.
#[test]
fn stun_8489_12_02_all_transports_answer_on_a_port_of_their_own_choice() {
    let shards = Shards::start(settings(2)).unwrap();
    assert_eq!((shards.listening().len(), shards.skipped()), (TRANSPORTS.len(), &[][..]));
    for &transport in TRANSPORTS {
        assert_ne!(address(&shards, transport).port(), 0);
        for _ in 0..20 {
            let mut client = Client::of(&shards, transport);
            let request = client.binding();
            client.send(&request);
            let answer = client::Answer(client.receive());
            assert_eq!(answer.address(AttributeType::XOR_MAPPED_ADDRESS), client.local_address());
            assert_eq!(answer.0[4..20], request[4..20]);
        }
    }
    // A DTLS client that goes away is not noticed before it has been silent for long.
    let associations = 20 * TRANSPORTS.iter().filter(|transport| **transport == Transport::Dtls).count();
    wait_for(&shards, "20 requests counted for each", |snapshot| {
        let total = &snapshot.total;
        total.turn.requests[place(&Method::ALL, Method::Binding)] == 20 * TRANSPORTS.len() as u64
            && (associations > 0 || (total.shell.datagrams_received, total.shell.datagrams_sent) == (20, 20))
            && total.shell.connections_accepted == 40 + associations as u64
            && total.connections == associations
            && total.shell.busy_nanos > 0
    });
    for shard in &shards.snapshot().shards {
        assert!(
            shard.turn.requests[place(&Method::ALL, Method::Binding)] > 0,
            "the kernel spreads clients over the shards"
        );
    }
    shards.shut_down();
}

/// TURN-8656-3.1-01: over each transport that this build has.
#[test]
fn turn_8656_3_1_01_data_passes_both_ways_and_the_end_closes_the_relay() {
    let shards = Shards::start(settings(1)).unwrap();
    let peer = peer();
    for &transport in TRANSPORTS {
        let mut client = Client::of(&shards, transport);
        let relayed = client.allocate();
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        for len in [0, 1, 3, 160, 1200, 9000] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            client.send_data(0x4000, &data);
            assert_eq!(receive(&peer), (data.clone(), relayed));
            peer.send_to(&data, relayed).unwrap();
            assert_eq!(client.receive_data(0x4000), data);
        }
        assert_eq!(shards.allocations(), 1);
        assert_eq!(client.refresh(0).error(), 0);
        assert_eq!(shards.allocations(), 0);
        UdpSocket::relay(relayed, 4096, true).expect("the port is free again");
    }
}

/// TURN-8656-11.3-05: the longest datagram there is fits a stream with its four bytes in front, both ways.
#[test]
fn turn_8656_11_3_05_the_longest_datagrams_are_relayed_whole() {
    let shards = Shards::start(settings(1)).unwrap();
    let (peer, mut client) = (peer(), Client::of(&shards, Transport::Tcp));
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    let longest: Vec<u8> = (0..65_507).map(|i| (i * 7) as u8).collect();
    client.send_data(0x4000, &longest);
    assert_eq!(receive(&peer).0, longest);
    peer.send_to(&longest, relayed).unwrap();
    assert_eq!(client.receive_data(0x4000), longest);

    // In a datagram there are four bytes less; one that does not fit any more is lost and counted, and nothing else.
    let mut client = Client::of(&shards, Transport::Udp);
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    let fitting = &longest[..65_500];
    client.send_data(0x4000, fitting);
    assert_eq!(receive(&peer).0, fitting);
    peer.send_to(&longest, relayed).unwrap();
    peer.send_to(fitting, relayed).unwrap();
    assert_eq!(client.receive_data(0x4000), fitting);
    wait_for(&shards, "one datagram too large", |snapshot| {
        snapshot.total.shell.socket_errors.of(SocketErrorKind::TooLarge) == 1
            || snapshot.total.turn.drops[turn::Reason::TooLarge as usize] == 1
    });
}

/// TURN-8656-14-01, 14-02: from the client's datagram to the peer's and back, through both sockets.
#[test]
fn turn_8656_14_the_traffic_class_is_carried_along() {
    let shards = Shards::start(settings(1)).unwrap();
    let server = address(&shards, Transport::Udp);
    let mut client = Client::udp(server);
    let peer = UdpSocket::relay("127.0.0.1:0".parse().unwrap(), 1 << 20, true).unwrap();
    let relayed = client.allocate();
    client.bind_channel(0x4001, peer.local_address());

    let (mut sender, mut batch) = (SendBatch::new(), ReceiveBatch::new().unwrap());
    let ip = IpFields { traffic_class: 0b1011_1001, dont_fragment: false };
    let mut errors = SocketErrors::default();
    sender.send(&peer, [Datagram { to: relayed, source: None, bytes: b"to the client", ip }], &mut errors);
    assert_eq!(client.receive_data(0x4001), b"to the client");

    // A datagram of the client with a traffic class of its own: the same socket, set up for it.
    let socket = client.udp_socket();
    socket2::SockRef::from(socket).set_tos_v4(u32::from(ip.traffic_class)).unwrap();
    client.send_data(0x4001, b"to the peer");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while batch.receive(&peer).is_err() {
        assert!(std::time::Instant::now() < deadline, "nothing came");
        std::thread::yield_now();
    }
    assert_eq!(batch.packet(0).message(), b"to the peer");
    assert_eq!(batch.received(0).ip, ip);
}

/// TURN-8656-11.5-01, -05, -06: a closed port is told and ends nothing: as soon as it opens, data flows.
#[test]
fn turn_8656_11_5_06_port_unreachable_is_told_and_ends_nothing() {
    let shards = Shards::start(settings(1)).unwrap();
    for &transport in TRANSPORTS {
        let mut client = Client::of(&shards, transport);
        let relayed = client.allocate();
        let closed = peer().local_addr().unwrap();
        client.bind_channel(0x4000, closed);
        for _ in 0..3 {
            client.send_data(0x4000, b"anybody?");
            let told = client::Answer(client.receive());
            assert_eq!((told.message().method(), told.message().class()), (Method::Data, Class::Indication));
            assert_eq!(told.address(AttributeType::XOR_PEER_ADDRESS), closed);
            assert_eq!(told.message().first(AttributeType::ICMP), Some(&[0, 0, 3, 3, 0, 0, 0, 0][..]));
        }
        let opened = client::peer_at(&closed.to_string()).expect("still free");
        client.send_data(0x4000, b"now");
        assert_eq!(receive(&opened), (b"now".to_vec(), relayed));
        opened.send_to(b"yes", relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), b"yes");
    }
}

/// TURN-8656-14-05, 11.2-05: too large for our own link and not to be fragmented.
#[test]
fn turn_8656_14_05_too_large_to_send_is_told_with_the_mtu() {
    if client::peer_at("[::1]:0").is_err() {
        eprintln!("SKIP: this machine has no ::1");
        return;
    }
    let peer = client::peer_at("[::1]:0").unwrap();
    let ip: std::net::IpAddr = "::1".parse().unwrap();
    let mut settings = settings(1);
    settings.listen.iter_mut().for_each(|listen| listen.address = SocketAddr::new(ip, 0));
    let mut config = config();
    config.relays = vec![turn::RelayAddress { bind: ip, advertise: ip }];
    config.peers.allow.push("::1/128".parse().unwrap());
    settings.turn = Arc::new(config);
    let shards = Shards::start(settings).unwrap();
    let mut client = Client::of(&shards, Transport::Tcp);
    let relayed = client.allocate();
    client.permit(ip);
    let address = peer.local_addr().unwrap();
    let large = (AttributeType::DATA, vec![7; 65_400 + 96]);
    let to = (AttributeType::XOR_PEER_ADDRESS, address.to_string().into_bytes());
    client.send_indication(&[to.clone(), (AttributeType::DONT_FRAGMENT, vec![]), large.clone()]);
    let told = client::Answer(client.receive());
    assert_eq!(told.address(AttributeType::XOR_PEER_ADDRESS), address);
    // Of the loopback interface: 65,536 unless somebody has changed it.
    let mtu: u32 = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap().trim().parse().unwrap();
    let mtu = mtu.to_be_bytes();
    assert_eq!(told.message().first(AttributeType::ICMP).unwrap(), [&[0, 0, 2, 0], &mtu[..]].concat());
    client.send_indication(&[to, large]);
    assert_eq!(receive(&peer).1, relayed);
}

/// STUN-8489-6.3.1.2-01, for answers (pending ones too) and for relayed data.
#[test]
fn stun_8489_6_3_1_2_01_a_wildcard_listener_answers_from_the_address_asked() {
    let mut settings = settings(2);
    settings.listen[0].address = "0.0.0.0:0".parse().unwrap();
    let shards = Shards::start(settings).unwrap();
    let peer = peer();
    for ip in ["127.0.0.1", "127.0.0.9", "127.77.0.1"] {
        let asked = SocketAddr::new(ip.parse().unwrap(), address(&shards, Transport::Udp).port());
        let mut client = Client::udp(asked);
        let relayed = client.allocate();
        client.permit("127.0.0.1".parse().unwrap());
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        peer.send_to(b"hello", relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), b"hello");
    }
}

#[test]
fn ipv6_is_served_and_relayed_from_a_wildcard_too() {
    let Ok(peer) = client::peer_at("[::1]:0") else {
        eprintln!("SKIP: this machine has no ::1");
        return;
    };
    let mut settings = settings(2);
    settings.listen.iter_mut().for_each(|listen| listen.address = "[::]:0".parse().unwrap());
    let mut config = config();
    let ip = "::1".parse().unwrap();
    config.relays.push(turn::RelayAddress { bind: ip, advertise: ip });
    config.peers.allow.push("::1/128".parse().unwrap());
    settings.turn = Arc::new(config);
    let shards = Shards::start(settings).unwrap();
    for &transport in TRANSPORTS {
        let asked = SocketAddr::new(ip, address(&shards, transport).port());
        let mut client = match transport {
            Transport::Udp => Client::udp(asked),
            Transport::Tcp => Client::tcp(asked),
            Transport::Tls => Client::tls(asked),
            Transport::Dtls => Client::dtls(asked),
        };
        let relayed = client.allocate();
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        client.send_data(0x4000, b"over IPv6");
        assert_eq!(receive(&peer), (b"over IPv6".to_vec(), relayed));
        peer.send_to(b"and back", relayed).unwrap();
        assert_eq!(client.receive_data(0x4000), b"and back");
    }
}

/// Two clients of this server meet at its relayed addresses, each in a shard of its own.
#[test]
fn relays_of_two_shards_reach_each_other_through_the_mailbox() {
    let shards = Shards::start(settings(2)).unwrap();
    let [(mut left, left_relayed), (mut right, right_relayed)] = clients_in_both_shards(&shards);
    left.bind_channel(0x4000, right_relayed);
    right.bind_channel(0x4001, left_relayed);
    for number in 0..200_u32 {
        let data = vec![number as u8; 1 + number as usize * 5];
        left.send_data(0x4000, &data);
        assert_eq!(right.receive_data(0x4001), data);
        right.send_data(0x4001, &data);
        assert_eq!(left.receive_data(0x4000), data);
    }
    let longest = vec![9; 60_000];
    left.send_data(0x4000, &longest);
    assert_eq!(right.receive_data(0x4001), longest);
    wait_for(&shards, "401 packets counted once in each direction", |snapshot| {
        let traffic = Traffic::total(&snapshot.total.turn.traffic);
        (traffic.packets_to_peer, traffic.packets_to_client) == (401, 401)
    });
    assert_eq!(shards.snapshot().total.shell.mailbox_overflows, 0);
}

#[test]
fn a_burst_of_many_clients_and_relays_is_carried_in_batches() {
    let shards = Shards::start(settings(1)).unwrap();
    let peer = peer();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::of(&shards, Transport::Udp)).collect();
    for client in &mut clients {
        client.allocate();
        client.bind_channel(0x4000, peer.local_addr().unwrap());
    }
    // More than a batch, and no more than the peer's queue holds.
    let rounds = 3 * BATCH / 2 / clients.len();
    for round in 0..rounds {
        clients.iter_mut().for_each(|client| client.send_data(0x4000, &[round as u8; 100]));
    }
    let mut last = std::collections::HashMap::new();
    for _ in 0..rounds * clients.len() {
        let (data, from) = receive(&peer);
        assert_eq!(data.len(), 100);
        let next = last.entry(from).or_insert(0_u8);
        assert_eq!(data[0], *next, "order within one relay");
        *next += 1;
    }
    assert_eq!(last.len(), clients.len());
}

#[test]
fn s12_quotas_count_over_all_shards() {
    let mut settings = settings(2);
    settings.quotas = Quotas { allocations: 5, allocations_per_account: 3, ..settings.quotas };
    let shards = Shards::start(settings).unwrap();
    let mut clients: Vec<Client> = Vec::new();
    let mut outcomes = Vec::new();
    for name in ["alice", "alice", "alice", "alice", "bob", "bob", "bob"] {
        let mut client = Client::of(&shards, Transport::Udp).named(name);
        outcomes.push(client.try_allocate().error());
        clients.push(client);
    }
    let [quota, capacity] = [ErrorCode::AllocationQuotaReached, ErrorCode::InsufficientCapacity].map(ErrorCode::number);
    assert_eq!(outcomes, [0, 0, 0, quota, 0, 0, capacity]);
    assert_eq!(clients[0].refresh(0).error(), 0);
    assert_eq!(clients[6].try_allocate().error(), 0, "the place of the one that left");
    assert_eq!(shards.allocations(), 5);
}

#[test]
fn a_port_in_use_is_passed_over() {
    let mut settings = settings(1);
    let taken = UdpSocket::relay("127.0.0.1:19998".parse().unwrap(), 4096, true).unwrap();
    let mut config = config();
    config.ports = turn::PortRange { first: 19_998, last: 19_999, quarantine_secs: 0 };
    settings.turn = Arc::new(config);
    let shards = Shards::start(settings).unwrap();
    let mut client = Client::of(&shards, Transport::Udp);
    assert_eq!(client.allocate().port(), 19_999);
    let mut second = Client::of(&shards, Transport::Udp);
    assert_eq!(second.try_allocate().error(), ErrorCode::InsufficientCapacity.number());
    drop(taken);
    assert_eq!(shards.allocations(), 1);
}

/// A panic costs the allocations of one shard; the other does not notice, and the same sockets serve anew.
#[test]
fn a_shard_that_panics_restarts_alone() {
    let shards = Shards::start(settings(2)).unwrap();
    let [(mut lost, _), (mut kept, kept_relayed)] = clients_in_both_shards(&shards);
    let peer = peer();
    kept.bind_channel(0x4000, peer.local_addr().unwrap());
    let created = shards.allocations();
    wait_for(&shards, "shards that have published what they did", |snapshot| snapshot.total.allocations == created);
    let kept_count = shards.snapshot().shards[1].allocations;

    shards.crash_for_test(0);
    wait_for(&shards, "a restart", |snapshot| snapshot.shards[0].shell.shard_restarts == 1);

    assert_eq!(shards.allocations(), kept_count, "the directory has let go of what was lost");
    kept.send_data(0x4000, b"still here");
    assert_eq!(receive(&peer), (b"still here".to_vec(), kept_relayed));
    peer.send_to(b"so am I", kept_relayed).unwrap();
    assert_eq!(kept.receive_data(0x4000), b"so am I");

    // The same client, the same socket on our side: its allocation is gone, but it is served.
    assert_eq!(lost.refresh(600).error(), ErrorCode::AllocationMismatch.number());
    let relayed = lost.allocate();
    assert_eq!(turn::ShardIndex { index: 0, count: 2 }.owner_of(relayed.port()), 0);
    assert_eq!(shards.allocations(), kept_count + 1);
    wait_for(&shards, "counters that go on from where they were", |snapshot| {
        snapshot.total.turn.allocations_created == created as u64 + 1
    });
    assert_eq!(shards.snapshot().shards[1].shell.shard_restarts, 0);
}

#[test]
fn commands_reach_every_shard_and_outlive_a_panic() {
    let shards = Shards::start(settings(2)).unwrap();
    let mut client = Client::of(&shards, Transport::Udp);
    client.allocate();
    let mut changed = settings(2);
    Arc::make_mut(&mut changed.turn).software = Some("changed".into());
    shards.configure(&changed);
    shards.drain();
    for index in 0..2 {
        shards.crash_for_test(index);
    }
    wait_for(&shards, "two restarts", |snapshot| snapshot.total.shell.shard_restarts == 2);
    for _ in 0..20 {
        let mut client = Client::of(&shards, Transport::Udp);
        let answer = client.try_allocate();
        assert_eq!(answer.error(), ErrorCode::InsufficientCapacity.number(), "still draining");
        assert_eq!(answer.message().first(AttributeType::SOFTWARE), Some(&b"changed"[..]));
    }
}

#[test]
fn shutting_down_ends_all_allocations_and_frees_all_ports() {
    let shards = Shards::start(settings(2)).unwrap();
    let relayed: Vec<SocketAddr> = (0..10)
        .map(|_| {
            let mut client = Client::of(&shards, Transport::Udp);
            client.allocate()
        })
        .collect();
    let listening = shards.listening().to_vec();
    let slots = Arc::clone(&shards.slots);
    shards.shut_down();
    let total = Snapshot::of(&*slots).total;
    assert_eq!((total.allocations, total.turn.allocations_ended[place(EndReason::ALL, EndReason::Shutdown)]), (0, 10));
    for relayed in relayed {
        UdpSocket::relay(relayed, 4096, true).expect("free");
    }
    // The same ports at once again.
    let again = Shards::start(Settings { listen: listening.clone(), ..settings(1) }).expect("free");
    assert_eq!(again.listening(), listening);
}

/// Abuse S19: bytes of all other kinds, to both sides; nothing comes back and everything is served as before.
#[test]
fn s19_noise_is_dropped() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Udp);
    let relayed = client.allocate();
    let noise: [&[u8]; 6] =
        [b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 2, 0], &[0xFF; 1500], &channel_data(0x4ABC, b"nobody")];
    let stranger = peer();
    for bytes in noise {
        stranger.send_to(bytes, address(&shards, Transport::Udp)).unwrap();
        stranger.send_to(bytes, relayed).unwrap();
        client.send(bytes);
    }
    wait_for(&shards, "18 drops", |snapshot| snapshot.total.turn.drops.iter().sum::<u64>() == 18);
    assert_eq!(client.refresh(600).error(), 0);
    assert_eq!(
        stranger.set_nonblocking(true).and_then(|()| stranger.recv(&mut [0; 10])).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

/// Abuse S17: messages with random damage, over both transports. Nothing breaks and nothing is left behind.
#[test]
fn s17_damaged_messages_break_nothing() {
    let shards = Shards::start(settings(2)).unwrap();
    let mut udp = Client::of(&shards, Transport::Udp);
    udp.allocate();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let mut damaged = |whole: &[u8]| {
        let mut bytes = whole.to_vec();
        (0..1 + random(5)).for_each(|_| bytes[random(whole.len())] = random(256) as u8);
        bytes.truncate(1 + random(whole.len()));
        bytes.extend((0..random(40)).map(|_| random(256) as u8));
        bytes
    };
    for round in 0..10_000 {
        let whole = if round % 2 == 0 { udp.binding() } else { channel_data(0x4000, b"some data") };
        udp.send(&damaged(&whole));
        if round % 50 == 0 {
            let mut tcp = Client::of(&shards, Transport::Tcp);
            let whole = [tcp.binding(), whole].concat();
            tcp.send(&damaged(&whole));
        }
    }
    wait_for(&shards, "the end of all connections", |snapshot| {
        snapshot.total.shell.connections_accepted == 200 && snapshot.total.connections == 0
    });
    for &transport in TRANSPORTS {
        Client::of(&shards, transport).allocate();
    }
    assert_eq!(shards.snapshot().total.shell.shard_restarts, 0);
}
