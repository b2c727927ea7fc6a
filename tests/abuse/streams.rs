//! Bytes that are not what they should be, on every port: S7 and S19.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::Attack;
use crate::bench::{Peer, Transcript};
use crate::case::{Step, failed};
use crate::client::Judged;
use crate::drafts::{binding, padded_channel_data};
use crate::ensure;
use crate::link::{Arrival, Transport};
use crate::world::{self, Server};

pub const ATTACKS: &[Attack] = &[
    ("s07_streams_cut_and_joined_anywhere_stay_in_step", cut_and_joined),
    ("s07_lengths_that_lie_end_the_connection", lying_lengths),
    ("s19_other_protocols_on_every_port", other_protocols),
];

const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

/// Messages and data in one stream, written in pieces of any length; all must be understood, in order.
fn cut_and_joined() -> Step<String> {
    const ROUNDS: u64 = 60;
    let server = Server::start("")?;
    let mut pieces = 0;
    for transport in STREAMS {
        let mut client = server.client(transport)?;
        let relayed = client.allocate()?;
        let peer = Peer::new(world::PEER.parse().expect("an address"), &Transcript::default())?;
        client.bind_channel(0x4000, peer.address)?;
        for seed in 0..ROUNDS {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let (mut stream, mut questions, mut data) = (Vec::new(), Vec::new(), Vec::new());
            for number in 0..1 + dice.next_u32() % 12 {
                if dice.next_u32() % 2 == 0 {
                    let draft = binding();
                    stream.extend_from_slice(draft.bytes());
                    questions.push(draft);
                } else {
                    let len = (dice.next_u32() % 1_200) as usize;
                    let mut bytes = vec![number as u8; len];
                    dice.fill_bytes(&mut bytes);
                    stream.extend(padded_channel_data(0x4000, &bytes));
                    data.push(bytes);
                }
            }
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let len = match dice.next_u32() % 3 {
                    0 => 1,
                    1 => 1 + dice.next_u32() as usize % 7,
                    _ => 1 + dice.next_u32() as usize % 3_000,
                };
                let (piece, later) = rest.split_at(len.min(rest.len()));
                client.link.send(piece).or_else(|error| failed(format!("seed {seed}: {error}")))?;
                rest = later;
                pieces += 1;
            }
            for question in &questions {
                client.response_to(question, world::PATIENCE)?.success()?;
            }
            for bytes in &data {
                let from = peer.expect(bytes)?;
                ensure!(from == relayed, "seed {seed}: data from {from}");
            }
        }
    }
    Ok(format!("{} streams in {pieces} pieces", 2 * ROUNDS))
}

/// A message that claims to be longer than any, or no message at all: closed, and nobody else notices.
fn lying_lengths() -> Step<String> {
    let server = Server::start("")?;
    let cookie = [0x21, 0x12, 0xA4, 0x42];
    let lies: [(&str, Vec<u8>); 6] = [
        ("STUN of a length that four does not divide", [&[0, 1, 0, 3][..], &cookie, &[7; 12]].concat()),
        ("STUN without its cookie", [&[0, 1, 0, 0][..], &[9; 16]].concat()),
        ("a first byte of no protocol", vec![0xC0; 64]),
        ("RTP", [&[0x80, 0x60][..], &[1; 62]].concat()),
        ("TLS inside", vec![22, 3, 1, 0, 40, 1, 0, 0, 36, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: example.org\r\n\r\n".to_vec()),
    ];
    let mut closed = 0;
    for transport in STREAMS {
        let mut bystander = server.client(transport)?;
        bystander.allocate()?;
        for (name, bytes) in &lies {
            let mut client = server.client(transport)?;
            client.tell(bytes)?;
            match client.link.receive(std::time::Instant::now() + world::PATIENCE) {
                Some(Arrival::Closed) => closed += 1,
                other => {
                    return failed(format!(
                        "{name} over {transport}: {other:?} instead of the end",
                        other = other.map(|arrival| arrival.to_string())
                    ));
                }
            }
        }
        bystander.ask(&binding())?.success()?;
        // The longest length there is, for a channel that is bound: never complete, never answered, never in the way.
        let mut client = server.client(transport)?;
        client.allocate()?;
        let mut endless = vec![0x40, 0x00, 0xFF, 0xFF];
        endless.extend([0; 1_000]);
        client.tell(&endless)?;
        bystander.ask(&binding())?.success()?;
    }
    server.serves()?;
    Ok(format!("{closed} connections closed"))
}

/// Whatever scanners send, to whatever listens.
fn other_protocols() -> Step<String> {
    let server = Server::start("")?;
    let mut dice = ChaCha8Rng::seed_from_u64(19);
    let mut random = |len: usize| {
        let mut bytes = vec![0; len];
        dice.fill_bytes(&mut bytes);
        bytes
    };
    let mut tries: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00".to_vec(),
        b"EHLO example.org\r\n".to_vec(),
        b"OPTIONS sip:x SIP/2.0\r\n\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        vec![0; 1],
        vec![0xFF; 1_400],
        vec![22, 3, 1, 0xFF, 0xFF],
        vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0],
    ];
    tries.extend((0..200).map(|number| random(1 + number * 7)));
    let client = std::net::IpAddr::V4("45.9.9.2".parse().expect("an address"));
    let udp = UdpSocket::bind((client, 0)).or_else(|error| failed(format!("{error}")))?;
    let memory = server.resident();
    for bytes in &tries {
        for address in [server.addresses[&Transport::Udp], server.udp_v6()] {
            // An IPv4 socket cannot send to the other; nothing listens for it.
            let _ = udp.send_to(bytes, address);
        }
        for address in [server.addresses[&Transport::Tcp], server.addresses[&Transport::Tls], server.admin] {
            poke(address, bytes);
        }
    }
    server.serves()?;
    ensure!(server.http("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")?.contains("alive"), "the admin port is gone");
    let grown = server.resident().saturating_sub(memory);
    Ok(format!("{} kinds of bytes to 5 ports, +{} KiB", tries.len(), grown / 1024))
}

/// Sends, says that this was all, and reads whatever comes until the end.
fn poke(address: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, world::PATIENCE) else { return };
    let _ = stream.set_read_timeout(Some(world::PATIENCE));
    // Either may fail: it may have been closed already, which is as good an answer as any.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
}
