//! Inputs to start from, a folder for each target: what clients really send, and scripts that get somewhere. Made here,
//! so that there are no binary files in the repository; what a run adds stays in `fuzz/corpus`, outside of it.

use std::io;
use std::path::Path;

use crate::fixture::{Fixture, alices_path};
use crate::requests::{KINDS, METHODS};
use crate::script::Step;
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
