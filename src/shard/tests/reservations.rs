//! Reserved ports, with real sockets and more than one shard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Settings, Shards};
use super::client::{Client, config, peer, receive, settings, wait_for};
use crate::net::UdpSocket;
use crate::stun::AttributeType;
use crate::turn::{Config, PortRange, ShardIndex, Transport};

pub(super) const TWO: ShardIndex = ShardIndex { index: 0, count: 2 };

/// Two shards with ports that no other test uses.
fn shards_with_ports(first: u16, last: u16) -> Shards {
    let turn = Arc::new(Config { ports: PortRange { first, last, quarantine_secs: 0 }, ..config() });
    Shards::start(Settings { turn, ..settings(2) }).unwrap()
}

/// A client that the kernel brings to this shard of two.
pub(super) fn client_at(shards: &Shards, place: u16) -> Client {
    // The chance that it never does is one in 2^64.
    for _ in 0..64 {
        let mut client = Client::of(shards, Transport::Udp);
        let port = client.allocate().port();
        assert_eq!(client.refresh(0).error(), 0);
        if TWO.owner_of(port) == place {
            return client;
        }
    }
    panic!("all clients met the same shard");
}

/// An even port, the address above it, and the token for that.
fn reserve(client: &mut Client) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let answer = client.try_allocate_with(&[(AttributeType::EVEN_PORT, vec![0x80])]);
    assert_eq!(answer.error(), 0);
    let relayed = answer.address(AttributeType::XOR_RELAYED_ADDRESS);
    let token = answer.message().first(AttributeType::RESERVATION_TOKEN).expect("a token").to_vec();
    (relayed, SocketAddr::new(relayed.ip(), relayed.port() + 1), token)
}

fn redeem(client: &mut Client, token: &[u8]) -> SocketAddr {
    let answer = client.try_allocate_with(&[(AttributeType::RESERVATION_TOKEN, token.to_vec())]);
    assert_eq!(answer.error(), 0);
    answer.address(AttributeType::XOR_RELAYED_ADDRESS)
}

/// TURN-8656-7.2-22, -25, -26: whatever shard the kernel brings the second client to, and over either transport.
#[test]
fn turn_8656_7_2_22_a_token_is_good_at_every_shard() {
    let shards = shards_with_ports(31_000, 31_999);
    let peer = peer();
    let mut borrowed = 0;
    for round in 0..24 {
        let transport = Transport::ALL[round % 2];
        let mut first = Client::of(&shards, Transport::Udp);
        let (relayed, above, token) = reserve(&mut first);
        UdpSocket::relay(above, 4096, false).expect_err("the port is held by a socket");
        let mut second = Client::of(&shards, transport);
        assert_eq!(redeem(&mut second, &token), above);

        second.bind_channel(0x4000, peer.local_addr().unwrap());
        second.send_data(0x4000, b"out");
        assert_eq!(receive(&peer), (b"out".to_vec(), above));
        peer.send_to(b"and in", above).unwrap();
        assert_eq!(second.receive_data(0x4000), b"and in");
        // The two relays of the pair reach each other, wherever each of them lives.
        first.bind_channel(0x4001, above);
        second.bind_channel(0x4001, relayed);
        first.send_data(0x4001, b"to the pair's other half");
        assert_eq!(second.receive_data(0x4001), b"to the pair's other half");
        second.send_data(0x4001, b"and back");
        assert_eq!(first.receive_data(0x4001), b"and back");

        assert_eq!(shards.allocations(), 2);
        for client in [&mut first, &mut second] {
            assert_eq!(client.refresh(0).error(), 0);
        }
        wait_for(&shards, "nothing is counted any more", |_| shards.allocations() == 0);
        UdpSocket::relay(above, 4096, false).expect("the port is free again");
        // Where the second client was served shows in the port it gets now.
        borrowed += u32::from(TWO.owner_of(second.allocate().port()) != TWO.owner_of(above.port()));
        assert_eq!(second.refresh(0).error(), 0);
    }
    // The chance that all 24 met the same shard by luck is one in 2^24.
    assert!(borrowed > 0, "no token was redeemed at another shard");
    assert_eq!(shards.snapshot().total.shell.shard_restarts, 0);
}

/// A reservation counts for its account like an allocation, so that nobody holds more ports than he may (abuse S12).
#[test]
fn s12_reservations_count_for_their_account() {
    let mut settings = settings(1);
    settings.quotas.allocations_per_account = 3;
    let shards = Shards::start(settings).unwrap();
    let mut first = Client::of(&shards, Transport::Udp);
    reserve(&mut first);
    let even = [(AttributeType::EVEN_PORT, vec![0x80])];
    assert_eq!(Client::of(&shards, Transport::Udp).try_allocate_with(&even).error(), 486);
    assert_eq!(shards.allocations(), 2, "the half that could be had was given back");
    assert_eq!(Client::of(&shards, Transport::Udp).try_allocate().error(), 0);
    assert_eq!(first.refresh(0).error(), 0);
    assert_eq!(shards.allocations(), 2, "the reservation outlives the allocation it was made with");
}

/// The shard that has borrowed a port dies: its owner has the port back.
#[test]
fn a_port_lent_to_a_shard_that_panics_comes_back() {
    let shards = shards_with_ports(32_000, 32_003);
    // Two pairs, one for each shard.
    let [mut first, mut second] = [0, 1].map(|place| client_at(&shards, place));
    let (_, above, token) = reserve(&mut first);
    assert_eq!(redeem(&mut second, &token), above);
    assert_eq!(first.refresh(0).error(), 0);
    shards.crash_for_test(1);
    wait_for(&shards, "a restart", |snapshot| snapshot.shards[1].shell.shard_restarts == 1);
    // Both ports of the first pair can be had at the shard they belong to.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut clients = [client_at(&shards, 0), client_at(&shards, 0)];
    while clients.iter_mut().filter_map(|client| client.try_allocate().relayed()).count() < 2 {
        assert!(Instant::now() < deadline, "the port did not come back");
        clients.iter_mut().for_each(|client| drop(client.refresh(0)));
    }
}
