//! What a client does with other people's sessions, credentials and ports: S9 to S12, S14, S18.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::Attack;
use crate::case::Step;
use crate::client::{Client, Credentials, Judged};
use crate::drafts::{allocate, channel_bind, create_permission, refresh_for};
use crate::ensure;
use crate::link::Transport;
use crate::numbers::*;
use crate::rest_credentials;
use crate::wire::{Draft, Message};
use crate::world::{self, ALICE, BOB, Server};

pub const ATTACKS: &[Attack] = &[
    ("s09_nobody_uses_anothers_allocation", ownership),
    ("s10_nonces_cannot_be_forged_or_taken_elsewhere", nonces),
    ("s11_relay_ports_cannot_be_guessed_or_met_again", ports),
    ("s12_reservations_and_limits_give_everything_back", exhaustion),
    ("s14_time_limited_credentials_end_when_they_say", credentials),
    ("s18_no_secret_in_the_log_and_no_stray_bytes", leakage),
];

const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

fn ownership() -> Step<String> {
    let server = Server::start("")?;
    let peer = SocketAddr::new(world::PEER.parse().expect("an address"), 7_000);
    let methods =
        [refresh_for(0), refresh_for(600), create_permission(&[peer]), channel_bind(0x4000, peer), allocate()];
    let mut tried = 0;
    for transport in TRANSPORTS {
        let mut client = server.client(transport)?;
        let relayed = client.allocate()?;
        let alice = std::mem::replace(&mut client.user, Credentials::new(BOB.0, BOB.1));
        for method in &methods {
            client.ask_signed(method)?.error_is_one_of(&[441, 437])?;
            tried += 1;
        }
        // With a wrong password, and the owner's name.
        client.user = Credentials::new(ALICE.0, BOB.1);
        for method in &methods {
            client.ask_signed(method)?.error_is(401)?;
            tried += 1;
        }
        client.user = alice;
        let again = client.ask_signed(&refresh_for(600))?.success()?;
        ensure!(again.number(LIFETIME) == Some(600), "the allocation at {relayed} has suffered");
    }
    Ok(format!("{tried} attempts refused, all allocations alive"))
}

fn nonces() -> Step<String> {
    let server = Server::start("")?;
    let mut flipped = 0;
    let mut client = server.client(Transport::Udp)?;
    let honest = client.challenge()?;
    for bit in 0..honest.nonce.len() * 8 {
        let mut forged = honest.clone();
        forged.nonce[bit / 8] ^= 1 << (bit % 8);
        client.set_challenge(forged);
        let signed = client.signed(&allocate())?;
        let response = client.ask(&signed)?;
        // A nonce that is no text any more is a bad request; whatever else, it is not accepted.
        ensure!(!response.is_success(), "a nonce with bit {bit} flipped was accepted");
        response.error_is_one_of(&[438, 400, 401])?;
        flipped += 1;
    }
    // As somebody who has overheard it, at another address.
    let elsewhere: std::net::IpAddr = "45.9.10.77".parse().expect("an address");
    let mut thief = server.client_of(Transport::Udp, ALICE, Some(elsewhere))?;
    thief.set_challenge(honest.clone());
    let signed = thief.signed(&allocate())?;
    thief.ask(&signed)?.error_is(438)?;
    // The whole request once more, as recorded, from there: it cannot be answered with success either.
    client.set_challenge(honest);
    let recorded = client.signed(&allocate())?;
    client.ask(&recorded)?.success()?;
    thief.ask(&recorded)?.error_is(438)?;
    Ok(format!("{flipped} bits flipped, 2 replays refused"))
}

fn ports() -> Step<String> {
    const COUNT: usize = 400;
    let quotas = "[limits]\nallocations_per_user = 1000\n";
    let server = Server::start_with(quotas, "", "port_quarantine = \"1h\"\n")?;
    let mut drawn: Vec<u16> = Vec::with_capacity(COUNT);
    // Each is freed at once: a port that rests does not come again, so that all are different.
    for _ in 0..COUNT {
        let mut client = server.client(Transport::Udp)?;
        drawn.push(client.allocate()?.port());
        client.ask_signed(&refresh_for(0))?.success()?;
    }
    let distinct: BTreeSet<u16> = drawn.iter().copied().collect();
    ensure!(distinct.len() == COUNT, "{} ports came again while they rest", COUNT - distinct.len());
    let neighbours = drawn.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 16).count();
    // Of 16,384 ports: 0.8 are expected, and 12 happen once in ten thousand million runs.
    ensure!(neighbours < 12, "{neighbours} of {COUNT} ports lie next to the one before");
    let mut buckets = [0_f64; 16];
    for port in &drawn {
        buckets[usize::from(port - 49_152) / 1_024] += 1.0;
    }
    let expected = COUNT as f64 / 16.0;
    let chi_square: f64 = buckets.iter().map(|count| (count - expected).powi(2) / expected).sum();
    // Fifteen degrees of freedom: above 60 once in four million runs.
    ensure!(chi_square < 60.0, "the ports are not drawn evenly: chi-square {chi_square:.1}");
    let even = drawn.iter().filter(|port| *port % 2 == 0).count();
    ensure!((120..280).contains(&even), "{even} of {COUNT} ports are even");
    Ok(format!("{COUNT} ports, none twice, {neighbours} next to the one before, chi-square {chi_square:.1} (15)"))
}

fn exhaustion() -> Step<String> {
    const PORTS: usize = 64;
    let limits = "[limits]\nallocations_per_user = 64\n";
    let server = Server::start_with(limits, "", "ports = \"50000-50063\"\nport_quarantine = \"0s\"\n")?;
    // Reserves nothing, takes and gives back: what leaks one port each time is dry after 64 rounds.
    let rounds = 500;
    for _ in 0..rounds {
        let mut client = server.client(Transport::Udp)?;
        client.allocate_with(&allocate().with(EVEN_PORT, [0]))?;
        client.ask_signed(&refresh_for(0))?.success()?;
    }
    // A reservation that nobody redeems comes back with its allocation's end or its own.
    for _ in 0..20 {
        let mut client = server.client(Transport::Udp)?;
        client.allocate_with(&allocate().with(EVEN_PORT, [0x80]))?;
        client.ask_signed(&refresh_for(0))?.success()?;
    }
    let hold = |user: (&str, &str)| -> Step<Result<Client, u16>> {
        let mut client = server.client_of(Transport::Udp, user, None)?;
        let response: Message = client.ask_signed(&allocate())?;
        Ok(match response.error() {
            None => Ok(client),
            Some(code) => Err(code),
        })
    };
    // 20 ports rest reserved for another half minute; all others must be there, for two users with 64 each.
    let (mut held, mut refusals) = (Vec::new(), BTreeSet::new());
    for user in [ALICE, BOB] {
        for _ in 0..PORTS {
            match hold(user)? {
                Ok(client) => held.push(client),
                Err(code) => drop(refusals.insert(code)),
            }
        }
    }
    ensure!(held.len() >= PORTS - 20 && held.len() <= PORTS, "{} of {PORTS} ports could be had", held.len());
    ensure!(refusals.iter().all(|code| [486, 508].contains(code)), "refused with {refusals:?}");
    ensure!(refusals.contains(&508), "nobody was told that there are no ports: {refusals:?}");
    // Whoever gives back makes room at once, in his own shard, to which the port belongs.
    let mut last = held.pop().expect("many");
    last.ask_signed(&refresh_for(0))?.success()?;
    last.granted(&allocate())?;
    Ok(format!("{rounds} times EVEN-PORT, then {} of {PORTS} ports held, the rest {refusals:?}", held.len() + 1))
}

fn credentials() -> Step<String> {
    let server = Server::start("")?;
    let now = rest_credentials::now();
    let mut refused = 0;
    let bad = [
        format!("{}:mallory", now - 1),
        "0:mallory".to_owned(),
        "-1:mallory".to_owned(),
        "soon:mallory".to_owned(),
        ":mallory".to_owned(),
        "99999999999999999999999999:mallory".to_owned(),
        format!("{}:mallory", u64::MAX),
        format!("{}:mallory", now + 400 * 24 * 3_600),
        format!(" {}:mallory", now + 600),
        format!("+{}:mallory", now + 600),
        format!("{:x}:mallory", now + 600),
        "mallory".to_owned(),
    ];
    for transport in TRANSPORTS {
        for name in &bad {
            let mut client = server.client(transport)?;
            client.user = rest_credentials::time_limited(world::SECRET, name);
            client.ask_signed(&allocate())?.error_is(401)?;
            refused += 1;
        }
        let mut client = server.client(transport)?;
        client.user = rest_credentials::time_limited("another secret altogether", &rest_credentials::in_an_hour("eve"));
        client.ask_signed(&allocate())?.error_is(401)?;
        refused += 1;
        let mut client = server.client(transport)?;
        client.user = rest_credentials::time_limited(world::SECRET, &rest_credentials::in_an_hour("carol"));
        client.ask_signed(&allocate())?.success()?;
    }
    Ok(format!("{refused} credentials refused, 3 good ones accepted"))
}

/// User names that break what is careless with text.
const HOSTILE_NAMES: [&str; 7] = [
    "%n%s%x",
    "'; DROP TABLE users; --",
    "\"}\n{\"event\":\"forged\"",
    "\u{1b}[31mred",
    "a\0b",
    "$(reboot)",
    "../../etc",
];

fn leakage() -> Step<String> {
    let server = Server::start("")?;
    let mut answers: Vec<Vec<u8>> = Vec::new();
    for transport in TRANSPORTS {
        for name in HOSTILE_NAMES {
            let mut client = server.client(transport)?;
            client.user = Credentials::new(name, "a guess at a password");
            let response = client.ask_signed(&allocate())?;
            ensure!(!response.is_success(), "{name:?} was let in");
        }
        let mut client = server.client(transport)?;
        client.allocate()?;
        // Padding of what we send is not zero, that of the answers has to be.
        let odd = Draft::new(message::CREATE_PERMISSION).padded(SOFTWARE, b"odd", 0xFF);
        let _ = client.ask_signed(&odd)?;
        answers.push(raw_challenge(&server, transport)?);
    }
    for answer in &answers {
        ensure!(padding_is_zero(answer), "padding with something in it: {}", hex::encode(answer));
        ensure!(!contains(answer, b"hairpin"), "a stranger is told the software");
    }
    server.serves()?;
    let log = server.log();
    for secret in [ALICE.1, BOB.1, world::SECRET, "a guess at a password"] {
        ensure!(!log.contains(secret), "a secret is in the log: {secret}");
    }
    for line in log.lines() {
        let parsed = serde_json::from_str::<serde_json::Value>(line);
        let is_forged = parsed.as_ref().is_ok_and(|line| line["event"] == "forged");
        ensure!(parsed.is_ok() && !is_forged, "the log was written into: {line}");
    }
    ensure!(!log.contains('\u{1b}'), "an escape sequence is in the log");
    Ok(format!("{} hostile names, {} lines of log", HOSTILE_NAMES.len() * 3, log.lines().count()))
}

/// The bytes of a 401.
fn raw_challenge(server: &Server, transport: Transport) -> Step<Vec<u8>> {
    let mut client = server.client(transport)?;
    client.tell(allocate().bytes())?;
    let deadline = std::time::Instant::now() + world::PATIENCE;
    client.link.receive_raw(deadline).map_or_else(|| crate::case::failed("no answer"), Ok)
}

fn padding_is_zero(bytes: &[u8]) -> bool {
    let mut rest = &bytes[20.min(bytes.len())..];
    while let [_, _, high, low, value @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let padded = len.next_multiple_of(4);
        if value.len() < padded || value[len..padded].iter().any(|byte| *byte != 0) {
            return false;
        }
        rest = &value[padded..];
    }
    rest.is_empty()
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}
