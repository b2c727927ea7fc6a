//! Inputs to start from, a folder for each target: what clients really send, and scripts that get somewhere. Made here,
//! so that there are no binary files in the repository; what a run adds stays in `fuzz/corpus`, outside of it.

use std::io;
use std::path::Path;

use crate::fixture::{Fixture, alices_path};
use crate::requests::{CONNECTION_BIND, CONNECTION_ID, KINDS, METHODS};
use crate::step::Step;
use crate::{corpus, wire};

/// Every seed: of which target, and its bytes.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let messages = messages();
    seeds.extend(messages.iter().map(|message| ("stun_message", message.clone())));
    seeds.extend(streams(&messages).into_iter().map(|stream| ("stream_framing", stream)));
    seeds.extend(strangers(&messages).into_iter().map(|input| ("unauthenticated", input)));
    seeds.extend(scripts().into_iter().map(|script| ("authenticated", script)));
    seeds.extend(configurations().into_iter().map(|text| ("configuration", text.into_bytes())));
    seeds.extend(proxy_headers().into_iter().map(|header| ("proxy_header", header)));
    seeds.extend(URIS.iter().map(|uri| ("uri", uri.as_bytes().to_vec())));
    seeds
}

/// Writes them to `folder/TARGET/seed-NUMBER`.
///
/// # Errors
/// The folder cannot be made or written to.
pub fn write(folder: &Path) -> io::Result<()> {
    for (number, (target, bytes)) in all().into_iter().enumerate() {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("seed-{number}")), bytes)?;
    }
    Ok(())
}

fn messages() -> Vec<Vec<u8>> {
    let mut messages = corpus::unauthenticated();
    messages.extend(corpus::authenticated(&mut Fixture::with_alice(), alices_path(), "alice"));
    messages
}

/// Three messages behind each other, cut in two places.
fn streams(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let padded = |message: &Vec<u8>| {
        let mut message = message.clone();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    };
    let stream = |messages: &[Vec<u8>]| {
        let bytes: Vec<u8> = messages.iter().flat_map(padded).collect();
        [&[2, 21, 0, 90, 0][..], &bytes].concat()
    };
    messages.chunks(9).map(|chunk| stream(&chunk[..chunk.len().min(3)])).collect()
}

/// Each message from somebody else, as it is and with a good nonce.
fn strangers(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let input = |(number, pair): (usize, &[Vec<u8>])| {
        let message = |(which, bytes): (usize, &Vec<u8>)| {
            let head = (number * 4 + which * 0x81) as u8;
            [&[head][..], &(bytes.len() as u16).to_le_bytes(), bytes].concat()
        };
        pair.iter().enumerate().flat_map(message).collect()
    };
    messages.chunks(2).enumerate().map(input).collect()
}

fn step(step: Step, rest: &[u8]) -> Vec<u8> {
    [&[step as u8][..], rest].concat()
}

/// Who, what, how, and attributes by type and choice of value.
fn request(client: u8, method: u16, how: u8, attributes: &[(u16, u8)]) -> Vec<u8> {
    let method = METHODS.iter().position(|known| *known == method).expect("a method of the list") as u8;
    let kind = |kind: u16| KINDS.iter().position(|known| *known == kind).expect("a type of the list") as u8;
    let attributes: Vec<[u8; 2]> = attributes.iter().map(|(what, form)| [kind(*what), *form]).collect();
    step(Step::Request, &[&[client, method, how, attributes.len() as u8][..], &attributes.concat()].concat())
}

fn scripts() -> Vec<Vec<u8>> {
    const ADDITIONAL: u16 = 0x8000;
    const EVEN_PORT: u16 = 0x0018;
    const TOKEN: u16 = 0x0022;
    const UDP: (u16, u8) = (wire::REQUESTED_TRANSPORT, 0);
    let allocate = |client, how| request(client, wire::ALLOCATE, how, &[UDP]);
    let permit = |client, peers: &[u8]| {
        request(client, wire::CREATE_PERMISSION, 0, &peers.iter().map(|p| (0x0012, *p)).collect::<Vec<_>>())
    };
    let channel = |client, peer| request(client, wire::CHANNEL_BIND, 0, &[(wire::CHANNEL_NUMBER, 0), (0x0012, peer)]);
    let data = |client| step(Step::ChannelData, &[client, 0, 33]);
    let send = |client, peer| step(Step::Send, &[client, peer, 25, 0]);
    let peer = |relay, peer| step(Step::FromPeer, &[relay, peer, 200, 0, 0xB8]);
    let pass = |choice| step(Step::Pass, &[choice]);
    let letters = [step(Step::Letter, &[]), step(Step::Letter, &[]), step(Step::Bound, &[0, 0])].concat();

    let mut scripts: Vec<Vec<Vec<u8>>> = Vec::new();
    // A client with a channel and a permission, data both ways, ICMP, and the end.
    for client in 0..6 {
        scripts.push(vec![
            allocate(client, 0),
            channel(client, 0),
            permit(client, &[1, 3, 4]),
            data(client),
            send(client, 3),
            send(client, 7),
            peer(0, 0),
            peer(0, 3),
            peer(0, 9),
            step(Step::Icmp, &[0, 0, 3, 1, 0, 5]),
            request(client, wire::REFRESH, 0, &[(wire::LIFETIME, 3)]),
            step(Step::Retransmit, &[client]),
            pass(7),
            data(client),
            request(client, wire::REFRESH, 0, &[(wire::LIFETIME, 1)]),
            step(Step::Retransmit, &[client]),
        ]);
    }
    // Every way to sign, a lie behind the MAC, a wrong password.
    let behind = [allocate(0, 0x80), vec![1, 1]].concat();
    scripts.push(vec![allocate(0, 1), allocate(1, 2), allocate(2, 3), allocate(3, 7), allocate(4, 8), behind]);
    // Two clients of one shard, and of two, talk to each other: the number of the peer counts from the newest relay.
    for (one, other) in [(0, 2), (0, 1)] {
        scripts.push(vec![
            allocate(one, 0),
            allocate(other, 0),
            permit(one, &[2]),
            permit(other, &[5]),
            channel(other, 5),
            send(one, 2),
            send(other, 5),
            data(other),
        ]);
    }
    // Both families, one of which goes first.
    scripts.push(vec![
        request(0, wire::ALLOCATE, 0, &[UDP, (ADDITIONAL, 1)]),
        permit(0, &[0, 2, 4]),
        peer(1, 2),
        request(0, wire::REFRESH, 0, &[(wire::LIFETIME, 1), (wire::REQUESTED_ADDRESS_FAMILY, 1)]),
        pass(8),
    ]);
    // A pair, and its token at the other shard; the ports come back, or a shard dies while it has one.
    for end in [step(Step::PathClosed, &[1]), step(Step::Restart, &[0]), step(Step::Restart, &[1]), pass(8)] {
        scripts.push(vec![
            request(0, wire::ALLOCATE, 0, &[UDP, (EVEN_PORT, 1)]),
            request(1, wire::ALLOCATE, 0x40, &[UDP, (TOKEN, 0)]),
            letters.clone(),
            end,
            letters.clone(),
            pass(4),
            request(2, wire::ALLOCATE, 0, &[UDP, (TOKEN, 0)]),
        ]);
    }
    // A ticket: shown from elsewhere at either shard, shown again, and data from there; the connection closes first.
    const TICKET: u16 = wire::MOBILITY_TICKET;
    for client in [0, 1, 2, 7] {
        for to in 0..8 {
            scripts.push(vec![
                request(client, wire::ALLOCATE, 0, &[UDP, (TICKET, 0)]),
                permit(client, &[0, 1, 3]),
                channel(client, 0),
                if to == 3 { step(Step::PathClosed, &[client]) } else { vec![] },
                step(Step::Move, &[client, to]),
                request(client, wire::REFRESH, 0, &[(TICKET, 1)]),
                step(Step::Retransmit, &[client]),
                letters.clone(),
                peer(0, 0),
                data(client),
                peer(0, 0),
                if to == 4 { step(Step::Restart, &[1]) } else { vec![] },
                letters.clone(),
                request(client, wire::REFRESH, 0, &[(wire::LIFETIME, 1)]),
            ]);
        }
    }
    // Access tokens, a guest, a hash for a name.
    scripts.push(vec![allocate(7, 0), permit(7, &[0]), request(7, wire::REFRESH, 0, &[(wire::LIFETIME, 4)]), pass(9)]);
    scripts.push(vec![allocate(8, 0), permit(8, &[0]), channel(8, 1), data(8), peer(0, 0), allocate(0, 0x20)]);
    // TCP relays: connections made and accepted, bound and not, of two clients with one another.
    const TCP: (u16, u8) = (wire::REQUESTED_TRANSPORT, 1);
    const CONNECT: u16 = 0x00A;
    let connect = |client, peer| request(client, CONNECT, 0, &[(0x0012, peer)]);
    let bind = |client| request(client, CONNECTION_BIND, 0x10, &[(CONNECTION_ID, 0)]);
    for result in [0, 6, 7] {
        for client in [1, 2, 5, 6] {
            scripts.push(vec![
                request(client, wire::ALLOCATE, 0, &[TCP]),
                connect(client, 3),
                connect(client, 0),
                step(Step::Connected, &[0, result]),
                bind(client),
                permit(client, &[0, 1]),
                step(Step::Accept, &[0, 1]),
                bind(client),
                step(Step::Accept, &[0, 1]),
                step(Step::PeerCloses, &[0]),
                pass(5),
                step(Step::PathClosed, &[client]),
            ]);
        }
    }
    // Late and bad answers of the shell; another configuration; no new work.
    scripts.push(vec![
        allocate(0, 0x40),
        allocate(2, 0x40),
        step(Step::Bound, &[1, 5]),
        step(Step::Bound, &[0, 6]),
        step(Step::PathClosed, &[2]),
        step(Step::Bound, &[0, 0]),
        allocate(4, 0),
        permit(4, &[0]),
        step(Step::Configure, &[0x1F]),
        send(4, 0),
        peer(0, 0),
        allocate(0, 0),
        step(Step::Configure, &[0xFF]),
        allocate(0, 0x10),
    ]);
    scripts.iter().map(|steps| steps.concat()).collect()
}

/// The shipped example whole, its sections, and its commented examples switched on.
fn configurations() -> Vec<String> {
    let example = hairpin::config::EXAMPLE;
    let is_key = |line: &&str| !line.starts_with("# ") && !line.trim().is_empty() && *line != "#";
    let plain = |line: &str| line.strip_prefix('#').unwrap_or(line).to_owned();
    let lines: Vec<String> = example.lines().filter(is_key).map(plain).collect();
    let mut texts = vec![example.to_owned(), String::new()];
    for section in lines.join("\n").split("\n[") {
        let section = if section.starts_with("threads") { section.to_owned() } else { format!("[{section}") };
        // Examples stand in front of the default of the same key: one of both will do.
        let mut seen = Vec::new();
        let mut first = String::new();
        for line in section.lines() {
            let key = line.split('=').next().unwrap_or_default().trim();
            if !seen.contains(&key) {
                seen.push(key);
                first += &format!("{line}\n");
            }
        }
        texts.push(section);
        texts.push(first);
    }
    texts
}

/// Headers of the PROXY protocol of both versions, good ones and some that are nearly so, with a message behind.
fn proxy_headers() -> Vec<Vec<u8>> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const V4: &[u8] = &[192, 0, 2, 1, 203, 0, 113, 5, 0x9C, 0x40, 0x0D, 0x96];
    const TLVS: &[u8] = &[1, 0, 2, b'h', b'2', 4, 0, 3, 0, 0, 0];
    let binary = |command: u8, family: u8, body: &[&[u8]]| {
        let body = body.concat();
        [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), &body, b"\0\x01\0\0\x21\x12\xa4\x42"]
            .concat()
    };
    let v6: &[u8] = &[0x2001_0db8_u128.rotate_right(32).to_be_bytes(), 1_u128.to_be_bytes()].concat();
    let ports: &[u8] = &[0x9C, 0x40, 0x0D, 0x96];
    let mapped = 0xFFFF_C000_0201_u128.to_be_bytes();
    let mut headers = vec![
        // Checksums that are right: Castagnoli's of the whole header with zeros in their places.
        binary(0x21, 0x12, &[V4, &[3, 0, 4, 0, 0, 0, 0]]),
        binary(0x21, 0x11, &[V4, TLVS, &[3, 0, 4, 0, 0, 0, 0]]),
    ];
    for header in &mut headers {
        let end = header.len() - 8;
        let checksum = crc32c(&header[..end]);
        header[end - 4..end].copy_from_slice(&checksum.to_be_bytes());
    }
    for family in [0x11, 0x12] {
        headers.extend([binary(0x21, family, &[V4]), binary(0x20, family, &[V4]), binary(0x21, family, &[V4, TLVS])]);
    }
    for family in [0x21, 0x22] {
        headers.push(binary(0x21, family, &[v6, ports]));
        headers.push(binary(0x21, family, &[&mapped, &mapped, ports, TLVS]));
    }
    headers.extend([binary(0x20, 0, &[]), binary(0x21, 0, &[b"anything"]), binary(0x21, 0x31, &[&[0; 216]])]);
    headers.extend([binary(0x22, 0x11, &[V4]), binary(0x11, 0x11, &[V4]), binary(0x21, 0x11, &[&V4[..9]])]);
    let lines: [&[u8]; 7] = [
        b"PROXY TCP4 192.0.2.1 203.0.113.5 40000 443\r\n\0\x01\0\0",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:203.0.113.5 1 2\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        b"PROXY TCP4 192.0.2.1 203.0.113.5 040000 443\r\n",
        b"PROXY UDP4 192.0.2.1 203.0.113.5 1 2\r\n",
    ];
    headers.extend(lines.map(<[u8]>::to_vec));
    headers
}

/// Castagnoli's, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let round = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| round(crc)))
}

const URIS: [&str; 18] = [
    "stun:example.org",
    "stuns:example.org:443",
    "turn:example.org",
    "TURN:example.org:80?transport=udp",
    "turn:192.0.2.1?transport=tcp",
    "turn:[2001:db8::1]:443?transport=tcp",
    "turns:example.org?TRANSPORT=TCP",
    "turns:example.org?transport=udp",
    "turn:b%C3%BCcher.example:3478",
    "turn:example.org:",
    "stun:[::ffff:192.0.2.1]",
    "turn:[fe80::1%25eth0]",
    "turn://example.org",
    "turn:user@example.org",
    "turn:example.org:99999",
    "stun:example.org?transport=udp",
    "turn:example.org?transport=sctp",
    "turn:[v1.a]",
];
