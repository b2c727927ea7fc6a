//! NAT behaviour discovery at real sockets: answers that leave from another one than the question came to.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use super::client::{config, peer_at, receive, settings};
use crate::shard::{ListenAddress, Settings, Shards};
use crate::stun::{AttributeType, Class, Message, MessageWriter, Method, Seal, TransactionId, read_address};
use crate::turn::{BehaviorDiscovery, Config, ServerAddress, Transport};

const IPS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2))];

/// Shards with the four sockets: one wildcard socket for the first port, and two for the second.
fn start(count: u16) -> (Shards, [u16; 2]) {
    let address = |ip| ServerAddress { bind: ip, advertise: ip };
    // Somebody else may take a port between our finding it free and the shards' binding it.
    let started = (0..10).find_map(|_| {
        let sockets = [0, 1].map(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
        let ports = sockets.map(|socket| socket.local_addr().unwrap().port());
        let discovery = BehaviorDiscovery {
            addresses: vec![IPS.map(address)],
            udp: Some(ports),
            tcp: Some(ports),
            tls: None,
            change_request: true,
            response_port: true,
            padding: true,
        };
        let listen = [
            (Transport::Udp, SocketAddr::from(([0, 0, 0, 0], ports[0]))),
            (Transport::Udp, SocketAddr::new(IPS[0], ports[1])),
            (Transport::Udp, SocketAddr::new(IPS[1], ports[1])),
            (Transport::Tcp, SocketAddr::new(IPS[0], ports[0])),
            (Transport::Tcp, SocketAddr::new(IPS[1], ports[1])),
        ];
        let listen = listen
            .map(|(transport, address)| ListenAddress {
                transport,
                address,
                required: true,
                options: Default::default(),
            })
            .to_vec();
        let turn = Arc::new(Config { behavior_discovery: Some(discovery), ..config() });
        Some((Shards::start(Settings { turn, listen, ..settings(count) }).ok()?, ports))
    });
    started.expect("two free ports")
}

fn request(id: u8, attributes: &[(AttributeType, &[u8])]) -> Vec<u8> {
    let mut buffer = vec![0; 65_000];
    let mut writer = MessageWriter::new(&mut buffer, Method::Binding, Class::Request, TransactionId([id; 12]));
    attributes.iter().for_each(|(kind, value)| writer.attribute(*kind, value));
    let len = writer.finish(Seal::None, false);
    buffer.truncate(len);
    buffer
}

fn address_in(answer: &[u8], kind: AttributeType) -> SocketAddr {
    read_address(Message::parse(answer).unwrap().first(kind).expect("the attribute")).unwrap()
}

/// NATB-5780-6.1-02, NATB-5780-6.1-03: sixteen cases, each answer from the socket it says it is from.
#[test]
fn natb_5780_6_1_02_sixteen_answers_from_four_sockets() {
    for count in [1, 3] {
        let (shards, ports) = start(count);
        let mut id = 0;
        for (ip, port) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for flags in [0, 2, 4, 6_u8] {
                // A client of its own, so that with three shards all of them are met.
                let client = peer_at("127.0.0.1:0").unwrap();
                id += 1;
                let change: &[u8] = &[0, 0, 0, flags];
                let bytes = request(id, &[(AttributeType::CHANGE_REQUEST, change)]);
                client.send_to(&bytes, SocketAddr::new(IPS[ip], ports[port])).unwrap();
                let (answer, from) = receive(&client);
                let expected =
                    SocketAddr::new(IPS[ip ^ usize::from(flags >> 2)], ports[port ^ usize::from(flags >> 1 & 1)]);
                assert_eq!(from, expected, "{flags} at {ip} {port}");
                assert_eq!(address_in(&answer, AttributeType::RESPONSE_ORIGIN), expected);
                let other = SocketAddr::new(IPS[1 - ip], ports[1 - port]);
                assert_eq!(address_in(&answer, AttributeType::OTHER_ADDRESS), other);
                assert_eq!(address_in(&answer, AttributeType::MAPPED_ADDRESS), client.local_addr().unwrap());
                assert_eq!(answer[8..20], [id; 12]);
            }
        }
        shards.shut_down();
    }
}

/// NATB-5780-7.5-01: a second socket gets the answer.
#[test]
fn natb_5780_7_5_01_a_second_socket_gets_the_answer() {
    let (_shards, ports) = start(2);
    let [asks, hears] = [0, 1].map(|_| peer_at("127.0.0.1:0").unwrap());
    let port = hears.local_addr().unwrap().port().to_be_bytes();
    asks.send_to(&request(1, &[(AttributeType::RESPONSE_PORT, &port)]), (IPS[1], ports[0])).unwrap();
    let (answer, from) = receive(&hears);
    assert_eq!(from, SocketAddr::new(IPS[1], ports[0]));
    assert_eq!(address_in(&answer, AttributeType::MAPPED_ADDRESS), asks.local_addr().unwrap());
}

/// NATB-5780-6.1-06, NATB-5780-7.6-01: the longest question there can be gets an answer of fragments, and no more.
#[test]
fn natb_5780_7_6_01_padding_is_bounded() {
    let (_shards, ports) = start(1);
    let client = peer_at("127.0.0.1:0").unwrap();
    for asked in [60_000, 1500, 8] {
        let bytes = request(2, &[(AttributeType::PADDING, &vec![1; asked])]);
        client.send_to(&bytes, (IPS[0], ports[1])).unwrap();
        let (answer, from) = receive(&client);
        assert_eq!(from, SocketAddr::new(IPS[0], ports[1]));
        assert!(answer.len() <= bytes.len().max(72) && answer.len() <= 20 + 48 + 4 + 1500, "{}", answer.len());
        assert!(asked == 8 || answer.len() > 1500, "{}", answer.len());
    }
}

/// NATB-5780-7.2-02: over a connection there is the address of another to try.
#[test]
fn natb_5780_7_2_02_mapping_over_tcp() {
    use std::io::{Read, Write};
    let (_shards, ports) = start(2);
    let mut address = SocketAddr::new(IPS[0], ports[0]);
    for _ in 0..2 {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        tcp.write_all(&request(3, &[])).unwrap();
        let mut answer = [0; 20 + 48];
        tcp.read_exact(&mut answer).unwrap();
        assert_eq!(address_in(&answer, AttributeType::MAPPED_ADDRESS), tcp.local_addr().unwrap());
        assert_eq!(address_in(&answer, AttributeType::RESPONSE_ORIGIN), address);
        address = address_in(&answer, AttributeType::OTHER_ADDRESS);
    }
    assert_eq!(address, SocketAddr::new(IPS[0], ports[0]), "and back again");
}
