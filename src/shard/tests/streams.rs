//! Clients on TCP and TLS: framing, slow readers, limits, ends.

use std::net::TcpStream;

use super::client::{Client, address, channel_data, peer, place, receive, settings, wait_for};
use super::*;

const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

/// TURN-8656-12.6-07, STUN-8489-6.2.2-01, abuse S7: a stream cut anywhere gives the same answers.
#[test]
fn s7_a_stream_cut_anywhere_is_answered_the_same() {
    for transport in STREAMS {
        let shards = Shards::start(settings(1)).unwrap();
        let mut client = Client::of(&shards, transport);
        let (first, second) = (client.binding(), client.binding());
        let stream = [first.clone(), channel_data(0x4000, b"odd"), channel_data(0x5000, b""), second.clone()].concat();
        for cut in 0..=stream.len() {
            client.send(&stream[..cut]);
            client.send(&stream[cut..]);
            for request in [&first, &second] {
                assert_eq!(client.receive()[4..20], request[4..20], "cut at {cut}");
            }
        }
        // Byte by byte, on a connection of its own.
        let mut client = Client::of(&shards, transport);
        stream.chunks(1).for_each(|byte| client.send(byte));
        client.receive();
        client.receive();
    }
}

/// STUN-8489-6.2.2-06: twenty questions at once, twenty answers.
#[test]
fn stun_8489_6_2_2_06_pipelined_requests_are_all_answered() {
    for transport in STREAMS {
        let shards = Shards::start(settings(1)).unwrap();
        let mut client = Client::of(&shards, transport);
        // More than a batch, in one write.
        let requests: Vec<Vec<u8>> = (0..3 * BATCH).map(|_| client.binding()).collect();
        client.send(&requests.concat());
        for request in requests {
            assert_eq!(client.receive()[4..20], request[4..20]);
        }
    }
}

/// A client that pipelines and never reads is not read from any more; when it reads, everything is there.
#[test]
fn questions_wait_while_answers_are_not_taken() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Tcp);
    let mut writer = client.tcp_stream().try_clone().unwrap();
    let requests: Vec<Vec<u8>> = (0..100_000).map(|_| client.binding()).collect();
    let all = requests.concat();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &all).unwrap());
    // Somebody else is served meanwhile.
    let mut other = Client::of(&shards, Transport::Tcp);
    let request = other.binding();
    other.send(&request);
    other.receive();
    for request in requests {
        assert_eq!(client.receive()[4..20], request[4..20]);
    }
    writing.join().unwrap();
}

/// STUN-8489-6.2.2-07, abuse S19: lost framing ends the connection, after what came before was answered.
#[test]
fn stun_8489_6_2_2_07_lost_framing_closes_the_connection() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut client = Client::of(&shards, Transport::Tcp);
    let mut bytes = client.binding();
    bytes.extend_from_slice(&[0x16, 3, 1, 2, 0, 1]);
    client.send(&bytes);
    assert!(client.try_receive().is_some());
    assert!(client.try_receive().is_none());
    wait_for(&shards, "a connection that lost its framing", |snapshot| {
        snapshot.total.shell.connections_lost_framing == 1 && snapshot.total.connections == 0
    });
}

/// MUX-7983-7-03, abuse S19: what does not begin with STUN is closed at once, even where it could pass for the header
/// of a ChannelData message.
#[test]
fn mux_7983_7_03_a_connection_begins_with_stun() {
    let shards = Shards::start(settings(1)).unwrap();
    let strangers = [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x40, 0, 0, 1, 7, 0, 0, 0], &[0x16, 3, 1], b"S"];
    for bytes in strangers {
        let mut client = Client::of(&shards, Transport::Tcp);
        client.send(bytes);
        assert!(client.try_receive().is_none(), "closed without an answer");
    }
    wait_for(&shards, "connections that never were STUN", |snapshot| {
        snapshot.total.shell.connections_lost_framing == strangers.len() as u64 && snapshot.total.connections == 0
    });
}

/// TURN-8656-LIFE-01.
#[test]
fn turn_8656_life_01_the_end_of_the_connection_is_the_end_of_the_allocation() {
    for transport in STREAMS {
        let shards = Shards::start(settings(2)).unwrap();
        for _ in 0..10 {
            let mut client = Client::of(&shards, transport);
            let relayed = client.allocate();
            assert_eq!(shards.allocations(), 1);
            drop(client);
            wait_for(&shards, "the end", |snapshot| snapshot.total.allocations == 0 && snapshot.total.connections == 0);
            assert_eq!(shards.allocations(), 0);
            UdpSocket::relay(relayed, 4096, true).expect("the relay port is free");
        }
        wait_for(&shards, "ten ends for the right reason", |snapshot| {
            snapshot.total.turn.allocations_ended[place(EndReason::ALL, EndReason::PathClosed)] == 10
        });
    }
}

/// TURN-8656-LIFE-04: who does not read loses data, not answers, and costs nobody else anything.
#[test]
fn turn_8656_life_04_a_slow_reader_loses_data_but_no_answers() {
    for transport in STREAMS {
        let shards = Shards::start(settings(1)).unwrap();
        let (peer, mut slow) = (peer(), Client::of(&shards, transport));
        let relayed = slow.allocate();
        slow.bind_channel(0x4000, peer.local_addr().unwrap());
        let mut sent = 0;
        while shards.snapshot().total.shell.send_buffer_drops < 1000 {
            peer.send_to(&[7; 1200], relayed).unwrap();
            sent += 1;
            assert!(sent < 1_000_000, "the queue has no end");
        }
        slow.send_signed(Method::Refresh, &[(AttributeType::LIFETIME, 600_u32.to_be_bytes().into())]);
        wait_for(&shards, "the refresh of the slow one", |snapshot| {
            snapshot.total.turn.successes[place(&Method::ALL, Method::Refresh)] == 1
        });
        let mut other = Client::of(&shards, transport);
        let request = other.binding();
        other.send(&request);
        other.receive();

        let mut data = 0;
        let answer = loop {
            let message = slow.receive();
            if message[0] != 0x40 {
                break client::Answer(message);
            }
            assert_eq!(message, channel_data(0x4000, &[7; 1200]), "whole messages only");
            data += 1;
        };
        assert_eq!(answer.error(), 0);
        assert!(data < sent);
        // And it is as good as new.
        peer.send_to(b"again", relayed).unwrap();
        while slow.receive_data(0x4000) != b"again" {}
        slow.send_data(0x4000, b"and back");
        assert_eq!(receive(&peer).0, b"and back");
    }
}

/// A batch may hold more than may wait for a client. One that reads at once loses nothing by that.
#[test]
fn turn_8656_life_04_a_fast_reader_loses_nothing_to_a_small_buffer() {
    for transport in STREAMS {
        let mut settings = settings(1);
        settings.connections.send_buffer_bytes = 4000;
        let shards = Shards::start(settings).unwrap();
        let (peer, mut client) = (peer(), Client::of(&shards, transport));
        let relayed = client.allocate();
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        for round in 0..50_u8 {
            // Together less than the kernel takes for this client without being read, and far more than may wait.
            (0..40).for_each(|_| assert_eq!(peer.send_to(&[round; 1200], relayed).unwrap(), 1200));
            (0..40).for_each(|_| assert_eq!(client.receive_data(0x4000), [round; 1200]));
            peer.send_to(&[round; 60_000], relayed).unwrap();
            assert_eq!(client.receive_data(0x4000), [round; 60_000]);
        }
        assert_eq!(shards.snapshot().total.shell.send_buffer_drops, 0);
    }
}

/// STUN-8489-6.2.2-05.
#[test]
fn stun_8489_6_2_2_05_too_many_connections_are_refused() {
    for transport in STREAMS {
        let mut settings = settings(2);
        settings.connections.per_address = 3;
        let shards = Shards::start(settings).unwrap();
        let mut kept: Vec<Client> = (0..3)
            .map(|_| {
                let mut client = Client::of(&shards, transport);
                let request = client.binding();
                client.send(&request);
                client.receive();
                client
            })
            .collect();
        let mut refused = Client::of(&shards, transport);
        assert!(refused.try_receive().is_none());
        wait_for(&shards, "one refused", |snapshot| {
            let shell = &snapshot.total.shell;
            (shell.connections_accepted, shell.connections_refused, snapshot.total.connections) == (3, 1, 3)
        });
        kept.pop();
        wait_for(&shards, "one gone", |snapshot| snapshot.total.connections == 2);
        let mut admitted = Client::of(&shards, transport);
        let request = admitted.binding();
        admitted.send(&request);
        admitted.receive();
    }
}

/// Abuse S12: a network's bound is not that of its addresses, and who is refused counts nowhere.
#[test]
fn s12_too_many_connections_of_one_network_are_refused() {
    for transport in STREAMS {
        let mut settings = settings(2);
        settings.connections.per_prefix = 1;
        let shards = Shards::start(settings).unwrap();
        let mut kept = Client::of(&shards, transport);
        let request = kept.binding();
        kept.send(&request);
        kept.receive();
        let mut refused = Client::of(&shards, transport);
        assert!(refused.try_receive().is_none());
        wait_for(&shards, "one refused", |snapshot| {
            let shell = &snapshot.total.shell;
            let refused = (shell.connections_refused, shell.connections_refused_per_prefix);
            (refused, shell.connections_refused_per_address, snapshot.total.connections) == ((1, 1), 0, 1)
        });
        drop(kept);
        wait_for(&shards, "one gone", |snapshot| snapshot.total.connections == 0);
        let mut admitted = Client::of(&shards, transport);
        let request = admitted.binding();
        admitted.send(&request);
        admitted.receive();
    }
}

/// STUN-8489-6.2.2-05: silence is a reason to close, unless there is an allocation.
#[test]
fn stun_8489_6_2_2_05_silent_connections_are_closed_and_allocations_are_not() {
    let mut settings = settings(1);
    settings.connections.idle_secs = 1;
    let shards = Shards::start(settings).unwrap();
    let mut busy = Client::of(&shards, Transport::Tcp);
    busy.allocate();
    let mut half = TcpStream::connect(address(&shards, Transport::Tcp)).unwrap();
    std::io::Write::write_all(&mut half, &[0, 1, 0]).unwrap();
    let _silent = TcpStream::connect(address(&shards, Transport::Tcp)).unwrap();
    wait_for(&shards, "three connections", |snapshot| snapshot.total.connections == 3);
    wait_for(&shards, "two silent ones closed", |snapshot| {
        (snapshot.total.shell.connections_idle, snapshot.total.connections) == (2, 1)
    });
    assert_eq!(busy.refresh(600).error(), 0);
    // With its allocation its right to be silent ends.
    assert_eq!(busy.refresh(0).error(), 0);
    assert!(busy.try_receive().is_none());
}

/// A panic closes the connections of its shard; they count for nobody any more.
#[test]
fn a_panic_closes_connections_and_gives_their_counts_back() {
    let mut settings = settings(1);
    settings.connections.total = 2;
    let shards = Shards::start(settings).unwrap();
    let mut clients = [Client::of(&shards, Transport::Tcp), Client::of(&shards, Transport::Tcp)];
    wait_for(&shards, "two connections", |snapshot| snapshot.total.connections == 2);
    shards.crash_for_test(0);
    assert!(clients.iter_mut().all(|client| client.try_receive().is_none()));
    wait_for(&shards, "a restart", |snapshot| snapshot.total.shell.shard_restarts == 1);
    for _ in 0..2 {
        let mut client = Client::of(&shards, Transport::Tcp);
        let request = client.binding();
        client.send(&request);
        client.receive();
    }
}

/// STUN-8489-6.2.2-02: an answer is no reason to close. Whoever has no allocation may be silent for as long as the idle
/// timer allows, a client with one for as long as that lives.
#[test]
fn stun_8489_6_2_2_02_connections_stay_open_after_an_answer() {
    for transport in STREAMS {
        let mut settings = settings(1);
        settings.connections.idle_secs = 1;
        let shards = Shards::start(settings).unwrap();
        let mut client = Client::of(&shards, transport);
        client.allocate();
        let mut neighbour = Client::of(&shards, transport);
        for _ in 0..3 {
            let request = neighbour.binding();
            neighbour.send(&request);
            assert_eq!(neighbour.receive()[4..20], request[4..20]);
        }
        assert!(neighbour.try_receive().is_none());
        wait_for(&shards, "the neighbour's end", |snapshot| snapshot.total.shell.connections_idle == 1);
        assert_eq!(client.refresh(600).error(), 0);
    }
}
