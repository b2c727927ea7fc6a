//! RFC 8016 with real sockets, several shards, and every transport.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Settings, Shards};
use super::client::{Answer, Client, config, peer, receive, settings, wait_for};
use super::reservations::{TWO, client_at};
use crate::stun::{AttributeType, Method};
use crate::turn::{Config, MobilityKey, Transport};

fn mobile_settings(count: u16) -> Settings {
    let turn = Arc::new(Config { mobility: Some(MobilityKey([5; 32])), ..config() });
    Settings { turn, ..settings(count) }
}

fn ticket(value: &[u8]) -> (AttributeType, Vec<u8>) {
    (AttributeType::MOBILITY_TICKET, value.to_vec())
}

#[track_caller]
fn ticket_of(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.error(), 0);
    answer.message().first(AttributeType::MOBILITY_TICKET).expect("a ticket").to_vec()
}

/// The relayed address and the ticket.
#[track_caller]
fn allocate(client: &mut Client) -> (SocketAddr, Vec<u8>) {
    let answer = client.try_allocate_with(&[ticket(&[])]);
    (answer.relayed().expect("a success"), ticket_of(&answer))
}

fn show(client: &mut Client, value: &[u8]) -> Answer {
    client.learn_nonce();
    client.ask(Method::Refresh, &[ticket(value)])
}

/// MOB-8016-3.2.2-01, -07, -08: from and to any transport, whichever shards the kernel brings the client to.
#[test]
fn mob_8016_3_2_2_01_a_client_moves_between_shards_and_transports() {
    let shards = Shards::start(mobile_settings(2)).unwrap();
    let peer = peer();
    let mut crossed = [0; 2];
    for round in 0..54 {
        let (from, to) = (Transport::ALL[round % 3], Transport::ALL[round / 3 % 3]);
        let mut old = Client::of(&shards, from);
        let (relayed, first) = allocate(&mut old);
        old.bind_channel(0x4000, peer.local_addr().unwrap());

        let mut new = Client::of(&shards, to);
        let second = ticket_of(&show(&mut new, &first));
        assert_ne!(first, second);
        peer.send_to(b"still there", relayed).unwrap();
        assert_eq!(old.receive_data(0x4000), b"still there");
        new.send_data(0x4000, b"from elsewhere");
        assert_eq!(receive(&peer), (b"from elsewhere".to_vec(), relayed));
        for len in [0, 1, 160, 1200] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            peer.send_to(&data, relayed).unwrap();
            assert_eq!(new.receive_data(0x4000), data);
        }
        assert_eq!(old.refresh(600).error(), 437);
        new.permit("127.0.0.9".parse().unwrap());
        drop(old);
        assert_eq!(new.refresh(600).error(), 0);
        assert_eq!(shards.allocations(), 1);

        assert_eq!(new.refresh(0).error(), 0);
        wait_for(&shards, "nothing is counted any more", |_| shards.allocations() == 0);
        // The new path is nobody's now. A connection stays where it went; a datagram is served where it comes.
        let deadline = Instant::now() + Duration::from_secs(10);
        let next = loop {
            let answer = new.try_allocate();
            if let Some(relayed) = answer.relayed() {
                break relayed;
            }
            assert!(Instant::now() < deadline, "{}", answer.error());
        };
        if to == Transport::Udp && TWO.owner_of(next.port()) != TWO.owner_of(relayed.port()) {
            crossed[0] += 1;
        }
        assert_eq!(new.refresh(0).error(), 0);
    }
    crossed[1] = shards.snapshot().total.shell.connections_moved;
    // The chance of either by luck is one in 2^18.
    assert!(crossed.iter().all(|count| *count > 0), "{crossed:?} crossed from one shard to another");
    assert_eq!(shards.snapshot().total.shell.shard_restarts, 0);
}

/// A client that roams on and on, between two shards: UDP only, since connections move once.
#[test]
fn s13_a_chain_of_resumes_stays_one_allocation() {
    let shards = Shards::start(mobile_settings(3)).unwrap();
    let peer = peer();
    let mut client = Client::of(&shards, Transport::Udp);
    let (relayed, mut now) = allocate(&mut client);
    client.bind_channel(0x4000, peer.local_addr().unwrap());
    for round in 0..60u8 {
        let mut next = Client::of(&shards, Transport::Udp);
        now = ticket_of(&show(&mut next, &now));
        next.send_data(0x4000, &[round]);
        assert_eq!(receive(&peer), (vec![round], relayed));
        peer.send_to(&[round, 1], relayed).unwrap();
        assert_eq!(next.receive_data(0x4000), [round, 1]);
        client = next;
    }
    assert_eq!(shards.allocations(), 1);
    assert_eq!(client.refresh(0).error(), 0);
    assert_eq!(shards.allocations(), 0);
}

/// TURN-8656-LIFE-01 with mobility, abuse S13: the connection is gone, the allocation is not, and counts.
#[test]
fn turn_8656_life_01_a_ticket_outlives_the_connection() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut settings = mobile_settings(2);
        settings.quotas.allocations_per_account = 1;
        let shards = Shards::start(settings).unwrap();
        let peer = peer();
        let mut old = Client::of(&shards, transport);
        let (relayed, first) = allocate(&mut old);
        old.bind_channel(0x4000, peer.local_addr().unwrap());
        drop(old);
        wait_for(&shards, "the connection is closed", |snapshot| snapshot.total.connections == 0);
        assert_eq!(shards.allocations(), 1);
        assert_eq!(Client::of(&shards, Transport::Udp).try_allocate().error(), 486);
        let mut bob = Client::of(&shards, Transport::Udp).named("bob");
        assert_eq!(show(&mut bob, &first).error(), 441);
        let mut new = Client::of(&shards, transport);
        ticket_of(&show(&mut new, &first));
        peer.send_to(b"welcome back", relayed).unwrap();
        assert_eq!(new.receive_data(0x4000), b"welcome back");
        assert_eq!(new.refresh(0).error(), 0);
        assert_eq!(shards.allocations(), 0);
    }
}

/// The right to be silent goes along with the allocation.
#[test]
fn a_connection_that_was_left_may_not_be_silent_and_the_new_one_may() {
    let mut settings = mobile_settings(2);
    settings.connections.idle_secs = 1;
    let shards = Shards::start(settings).unwrap();
    let peer = peer();
    let mut old = Client::of(&shards, Transport::Tcp);
    let (relayed, first) = allocate(&mut old);
    old.bind_channel(0x4000, peer.local_addr().unwrap());
    let mut new = Client::of(&shards, Transport::Tcp);
    ticket_of(&show(&mut new, &first));
    assert!(old.try_receive().is_none(), "closed by the server");
    // Which is what the new one has waited for.
    peer.send_to(b"now", relayed).unwrap();
    assert_eq!(new.receive_data(0x4000), b"now");
    assert_eq!(new.refresh(600).error(), 0);
}

/// The shard that passes on a client's datagrams dies: the next one is told to go on, and the client notices nothing.
#[test]
fn a_shard_that_passes_on_may_panic() {
    let shards = Shards::start(mobile_settings(2)).unwrap();
    let peer = peer();
    let [mut home, mut away] = [0, 1].map(|place| client_at(&shards, place));
    let (relayed, first) = allocate(&mut home);
    home.bind_channel(0x4000, peer.local_addr().unwrap());
    ticket_of(&show(&mut away, &first));
    shards.crash_for_test(1);
    wait_for(&shards, "a restart", |snapshot| snapshot.shards[1].shell.shard_restarts == 1);
    peer.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 16];
    while peer.recv_from(&mut buffer).is_err() {
        // Lost while nobody knows the path.
        away.send_data(0x4000, b"anybody?");
        assert!(Instant::now() < deadline, "its datagrams are not passed on any more");
    }
    peer.send_to(b"yes", relayed).unwrap();
    assert_eq!(away.receive_data(0x4000), b"yes");
    assert_eq!(away.refresh(0).error(), 0);
    assert_eq!(shards.allocations(), 0);
}
