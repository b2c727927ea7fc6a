//! Bursts, which the kernel and we carry in runs.

use super::*;
use crate::net::send_in_runs;

const ROUNDS: u64 = 20;
const BURST: u64 = 50;
const LEN: usize = 100;

fn payload(round: u64, place: u64) -> Vec<u8> {
    [(round as u8), (place as u8)].into_iter().cycle().take(LEN).collect()
}

/// TURN-8656-3.1-01: what comes in bursts leaves as it came, in order, and counts one by one. Of a Data indication and
/// ChannelData each has a head of its own.
#[test]
fn turn_8656_3_1_01_bursts_pass_whole_and_in_order() {
    let shards = Shards::start(settings(1)).unwrap();
    let (bound, permitted) = (peer(), peer());
    let mut client = Client::of(&shards, Transport::Udp);
    let relayed = client.allocate();
    client.bind_channel(0x4000, bound.local_addr().unwrap());
    send_in_runs(client.udp_socket(), 4 + LEN);
    [&bound, &permitted].into_iter().for_each(|peer| send_in_runs(peer, LEN));
    for round in 0..ROUNDS {
        let burst: Vec<u8> = (0..BURST).flat_map(|place| channel_data(0x4000, &payload(round, place))).collect();
        client.send(&burst);
        for place in 0..BURST {
            assert_eq!(receive(&bound), (payload(round, place), relayed));
        }
        let burst: Vec<u8> = (0..BURST).flat_map(|place| payload(round, place)).collect();
        bound.send_to(&burst, relayed).unwrap();
        for place in 0..BURST {
            assert_eq!(client.receive_data(0x4000), payload(round, place));
        }
        permitted.send_to(&burst, relayed).unwrap();
        for place in 0..BURST {
            let indication = client::Answer(client.receive());
            assert_eq!(indication.message().first(AttributeType::DATA), Some(&payload(round, place)[..]));
        }
    }
    wait_for(&shards, "every datagram counted", |snapshot| {
        let traffic = Traffic::total(&snapshot.total.turn.traffic);
        (traffic.packets_to_peer, traffic.bytes_to_peer) == (ROUNDS * BURST, ROUNDS * BURST * LEN as u64)
            && (traffic.packets_to_client, traffic.bytes_to_client)
                == (2 * ROUNDS * BURST, 2 * ROUNDS * BURST * LEN as u64)
            && snapshot.total.shell.datagrams_received > 3 * ROUNDS * BURST
    });
    let shell = shards.snapshot().total.shell;
    assert!(shell.send_batches < ROUNDS * BURST, "{} calls", shell.send_batches);
}

/// Rounds that wait for packets to gather lose none, and end when there is nothing to gather.
#[test]
fn packets_that_gather_are_late_and_not_lost() {
    let coalesce = Duration::from_millis(2);
    let shards = Shards::start(Settings { coalesce, ..settings(2) }).unwrap();
    exchange_bursts(&shards);
    shards.shut_down();
}

/// The same where only clients on connections wait, after bursts.
#[test]
fn packets_of_streams_that_gather_are_late_and_not_lost() {
    let coalesce_streams = Duration::from_millis(2);
    let shards = Shards::start(Settings { coalesce_streams, ..settings(1) }).unwrap();
    (0..ROUNDS).for_each(|_| exchange_bursts(&shards));
    shards.shut_down();
}

/// A client over each transport and a peer send each other a burst.
fn exchange_bursts(shards: &Shards) {
    for &transport in TRANSPORTS {
        let (peer, mut client) = (peer(), Client::of(shards, transport));
        let relayed = client.allocate();
        client.bind_channel(0x4000, peer.local_addr().unwrap());
        for place in 0..BURST {
            client.send_data(0x4000, &payload(0, place));
            peer.send_to(&payload(1, place), relayed).unwrap();
        }
        for place in 0..BURST {
            assert_eq!(receive(&peer), (payload(0, place), relayed));
            assert_eq!(client.receive_data(0x4000), payload(1, place));
        }
        // The kernel may give the port of this client to a later one, which would be refused with 437.
        assert_eq!(client.refresh(0).error(), 0);
    }
}

/// From relay to relay in one shard a burst stays a burst: it is never sent to the kernel in between, and leaves whole.
#[test]
fn bursts_between_two_clients_of_a_shard_leave_together() {
    let shards = Shards::start(settings(1)).unwrap();
    let mut clients = [(); 2].map(|()| Client::of(&shards, Transport::Udp));
    let relayed = clients.each_mut().map(Client::allocate);
    clients[0].bind_channel(0x4000, relayed[1]);
    clients[1].bind_channel(0x4001, relayed[0]);
    send_in_runs(clients[0].udp_socket(), 4 + LEN);
    for round in 0..ROUNDS {
        let burst: Vec<u8> = (0..BURST).flat_map(|place| channel_data(0x4000, &payload(round, place))).collect();
        clients[0].send(&burst);
        for place in 0..BURST {
            assert_eq!(clients[1].receive_data(0x4001), payload(round, place));
        }
    }
    wait_for(&shards, "every datagram counted for both", |snapshot| {
        let traffic = Traffic::total(&snapshot.total.turn.traffic);
        (traffic.packets_to_peer, traffic.packets_to_client) == (ROUNDS * BURST, ROUNDS * BURST)
    });
    let shell = shards.snapshot().total.shell;
    assert!(shell.datagrams_received < ROUNDS * BURST + BURST, "the kernel had nothing to do in between");
    assert!(shell.send_batches < ROUNDS * BURST / 2, "{} calls", shell.send_batches);
}
