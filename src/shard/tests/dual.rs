//! An IPv4 and an IPv6 relayed address for one client, with real sockets.

use std::sync::Arc;

use super::super::Shards;
use super::client::{Client, TRANSPORTS, config, peer_at, receive, settings};
use crate::net::UdpSocket;
use crate::stun::{AttributeType, Method, read_xor_address};
use crate::turn::RelayAddress;

/// TURN-8656-7.2-18, -19, 8.2-04: both work, both count as one, and that until the second has ended.
#[test]
fn turn_8656_7_2_18_a_dual_allocation_counts_once() {
    let Ok(v6) = peer_at("[::1]:0") else {
        eprintln!("SKIP: this machine has no ::1");
        return;
    };
    let v4 = peer_at("127.0.0.1:0").unwrap();
    let mut settings = settings(2);
    settings.quotas.allocations_per_account = 1;
    let mut config = config();
    let ip = "::1".parse().unwrap();
    config.relays.push(RelayAddress { bind: ip, advertise: ip });
    config.peers.allow.push("::1/128".parse().unwrap());
    settings.turn = Arc::new(config);
    let shards = Shards::start(settings).unwrap();
    for (round, transport) in TRANSPORTS.iter().copied().cycle().take(4).enumerate() {
        let mut client = Client::of(&shards, transport);
        let answer = client.try_allocate_with(&[(AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0])]);
        assert_eq!(answer.error(), 0);
        let message = answer.message();
        let relayed: Vec<_> = message
            .attributes()
            .filter(|attribute| attribute.kind == AttributeType::XOR_RELAYED_ADDRESS)
            .map(|attribute| read_xor_address(attribute.value, message.transaction_id()).unwrap())
            .collect();
        assert_eq!(relayed.iter().map(|address| address.is_ipv4()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(shards.allocations(), 1);
        assert_eq!(Client::of(&shards, transport).try_allocate().error(), 486);

        let peers = [&v4, &v6];
        for (place, peer) in peers.into_iter().enumerate() {
            let number = 0x4000 + place as u16;
            client.bind_channel(number, peer.local_addr().unwrap());
            client.send_data(number, b"out");
            assert_eq!(receive(peer), (b"out".to_vec(), relayed[place]));
            peer.send_to(b"in", relayed[place]).unwrap();
            assert_eq!(client.receive_data(number), b"in");
        }
        // One half goes, whichever; the other stays, and the account stays in use.
        let (gone, kept) = (round / 2, 1 - round / 2);
        let family = (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![gone as u8 + 1, 0, 0, 0]);
        assert_eq!(client.ask(Method::Refresh, &[family, (AttributeType::LIFETIME, vec![0; 4])]).error(), 0);
        UdpSocket::relay(relayed[gone], 4096, false).expect("the port is free");
        assert_eq!(shards.allocations(), 1);
        assert_eq!(Client::of(&shards, transport).try_allocate().error(), 486);
        client.send_data(0x4000 + kept as u16, b"still");
        assert_eq!(receive(peers[kept]), (b"still".to_vec(), relayed[kept]));
        assert_eq!(client.refresh(0).error(), 0);
        assert_eq!(shards.allocations(), 0);
    }
}
