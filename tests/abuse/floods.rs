//! Many packets from everywhere: S4 (amplification), S5 (state), and the limits on connections of S6.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Attack;
use crate::bench::{Peer, Transcript};
use crate::case::{Step, failed};
use crate::drafts::*;
use crate::ensure;
use crate::link::Transport;
use crate::numbers::*;
use crate::wire::Draft;
use crate::world::{self, ALICE, CROWD, Server};

pub const ATTACKS: &[Attack] = &[
    ("s04_answers_are_hardly_longer_than_questions", amplification),
    ("s04_a_network_gets_few_answers_and_its_clients_a_chance", reflection),
    ("s05_spoofed_requests_cost_no_memory", state),
    ("s06_slow_tls_clients_are_cut_off_and_bounded", slow_tls),
];

/// Requests that nobody had to log in for, by what they are.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let header = |kind: u16| Draft::new(kind).bytes().to_vec();
    let garbage_integrity = |draft: Draft| {
        let named = draft.with(USERNAME, "alice").with(REALM, world::REALM).with(NONCE, "made up");
        named.integrity(b"not the key").bytes().to_vec()
    };
    vec![
        ("Binding", header(message::BINDING)),
        ("Binding, FINGERPRINT", binding().fingerprint().bytes().to_vec()),
        ("Binding, unknown attribute", binding().with(0x7FFF, b"").bytes().to_vec()),
        (
            "Binding, 40 unknown attributes",
            (0..40).fold(binding(), |draft, n| draft.with(0x7F00 + n, b"")).bytes().to_vec(),
        ),
        ("Binding, CHANGE-REQUEST", binding().with(CHANGE_REQUEST, [0, 0, 0, 6]).bytes().to_vec()),
        ("Allocate, header only", header(message::ALLOCATE)),
        ("Allocate", allocate().bytes().to_vec()),
        ("Allocate, made-up integrity", garbage_integrity(allocate())),
        ("Refresh", refresh().bytes().to_vec()),
        ("CreatePermission", header(message::CREATE_PERMISSION)),
        ("ChannelBind", header(message::CHANNEL_BIND)),
        ("Connect", header(message::CONNECT)),
        ("ConnectionBind", header(message::CONNECTION_BIND)),
        ("unknown method", header(0x0FED)),
        ("Send indication", send(SocketAddr::from(([45, 9, 9, 3], 7_000)), b"x").bytes().to_vec()),
        ("ChannelData", channel_data(0x4000, b"x")),
        ("a response", header(message::BINDING_SUCCESS)),
        ("Binding without cookie", [&[0, 1, 0, 0][..], &[7; 16]].concat()),
        ("one byte", vec![0]),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
    ]
}

fn amplification() -> Step<String> {
    let server = Server::start("[limits]\nanswers_per_prefix = 0\n")?;
    println!(
        "      {:<34} {:>8} {:>10} {:>7} {:>10} {:>7}",
        "UDP payload, bytes", "request", "IPv4", "ratio", "IPv6", "ratio"
    );
    let mut worst: (f64, &str) = (0.0, "");
    for (name, request) in shapes() {
        let v4 = answer(&request, world::CLIENT, server.addresses[&Transport::Udp])?;
        let v6 = answer(&request, world::CLIENT_V6, server.udp_v6())?;
        let ratio = |len: usize| len as f64 / request.len() as f64;
        println!("      {name:<34} {:>8} {v4:>10} {:>7.2} {v6:>10} {:>7.2}", request.len(), ratio(v4), ratio(v6));
        if name == "Binding" {
            // XOR-MAPPED-ADDRESS and nothing else: 32 and 44 bytes for 20.
            ensure!(ratio(v4) <= 1.6 && ratio(v6) <= 2.2, "Binding: {v4} and {v6} bytes for {}", request.len());
        }
        // A challenge has REALM, NONCE and PASSWORD-ALGORITHMS, for which there is no shorter form.
        ensure!(v4.max(v6) <= 160, "{name} is answered with {v4} and {v6} bytes");
        if ratio(v6) > worst.0 {
            worst = (ratio(v6), name);
        }
    }
    Ok(format!("Binding 1.60 and 2.20 at most; the worst is {} with {:.2}", worst.1, worst.0))
}

/// The bytes that come back, before the answer to a Binding request that follows.
fn answer(request: &[u8], from: &str, server: SocketAddr) -> Step<usize> {
    let socket = UdpSocket::bind((from, 0)).or_else(broken)?;
    socket.set_read_timeout(Some(world::PATIENCE)).or_else(broken)?;
    let fence = binding();
    for bytes in [request, fence.bytes()] {
        socket.send_to(bytes, server).or_else(broken)?;
    }
    let (mut total, mut buffer) = (0, [0; 2_048]);
    loop {
        let len = socket.recv(&mut buffer).or_else(|error| failed(format!("no answer to Binding: {error}")))?;
        if buffer[4..20.min(len).max(4)] == fence.bytes()[4..20] {
            return Ok(total);
        }
        total += len;
    }
}

/// What the tests themselves need did not work.
fn broken<T>(error: std::io::Error) -> Step<T> {
    failed(format!("a socket of the test: {error}"))
}

/// Packets of a flood.
pub fn flood_len() -> u64 {
    std::env::var("FLOOD").ok().and_then(|words| words.parse().ok()).unwrap_or(200_000)
}

/// Sends from all addresses of a network, as fast as this thread can, until told to stop or `count` are sent.
fn flood(network: &str, server: SocketAddr, count: u64, requests: &[Vec<u8>], sent: &AtomicU64, stop: &AtomicBool) {
    let prefix = network.rsplit_once('.').expect("a /24").0;
    let sockets: Vec<UdpSocket> =
        (1..=254).filter_map(|host| UdpSocket::bind((format!("{prefix}.{host}"), 0)).ok()).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).expect("as always");
    }
    for number in 0..count {
        let socket = &sockets[number as usize % sockets.len()];
        // What finds no room in a queue is lost, as it would be on the way.
        if socket.send_to(&requests[number as usize % requests.len()], server).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        // In bursts, so that this thread does not have a core for itself.
        if number % 64 == 63 {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Bytes that the cable has brought here.
fn received_bytes() -> u64 {
    let counters = world::lines("/proc/net/dev");
    let line = counters.iter().find_map(|line| line.trim().strip_prefix("cable:"));
    line.and_then(|words| words.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn reflection() -> Step<String> {
    const PER_SECOND: u64 = 500;
    let server = Server::start(&format!("[limits]\nanswers_per_prefix = {PER_SECOND}\n"))?;
    let address = server.addresses[&Transport::Udp];
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let requests = vec![allocate().bytes().to_vec(), binding().bytes().to_vec()];
    let before = received_bytes();
    let start = Instant::now();
    let victim: IpAddr = "45.9.10.200".parse().expect("an address");
    let neighbour: IpAddr = "45.9.11.1".parse().expect("an address");
    let logged_in = std::thread::scope(|scope| {
        scope.spawn(|| flood(CROWD, address, flood_len(), &requests, &sent, &stop));
        // Somebody who lives in the flooded network, and somebody who does not, while it lasts.
        let attempt = |from: IpAddr| -> Step<u32> {
            let mut attempts = 0;
            let deadline = Instant::now() + world::PATIENCE;
            loop {
                attempts += 1;
                let mut client = server.client_of(Transport::Udp, ALICE, Some(from))?;
                if client.allocate().is_ok() {
                    return Ok(attempts);
                }
                ensure!(Instant::now() < deadline, "{from} could not log in during the flood");
            }
        };
        let outcome = attempt(neighbour).and_then(|one| attempt(victim).map(|other| (one, other)));
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        outcome
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let reflected = received_bytes() - before;
    // Answers in the first moment, those of each second, those of the two clients; frames with their headers.
    let allowed = (2.0 * PER_SECOND as f64 + (seconds + 1.0) * PER_SECOND as f64) * 1.5 * 200.0 + 100_000.0;
    let sent = sent.load(Ordering::Relaxed);
    ensure!(sent > 10_000, "the flood had only {sent} packets");
    ensure!((reflected as f64) < allowed, "{reflected} bytes were reflected, {allowed:.0} may be");
    Ok(format!(
        "{sent} spoofed requests in {seconds:.1} s: {reflected} bytes back; clients logged in after {} and {} attempts",
        logged_in.0, logged_in.1
    ))
}

/// Round trips through the relay: how many came back, their median and 99th percentile in microseconds.
fn echo(client: &mut crate::client::Client, peer: &Peer, relayed: SocketAddr, count: u32) -> Step<(u32, u128, u128)> {
    let mut took = Vec::new();
    peer.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("as always");
    let mut buffer = [0; 2_048];
    for number in 0..count {
        let data = format!("echo {number}");
        let start = Instant::now();
        client.send_on_channel(0x4000, data.as_bytes())?;
        let Ok((len, _)) = peer.socket.recv_from(&mut buffer) else { continue };
        peer.send(relayed, &buffer[..len])?;
        if client.link.receive_raw(Instant::now() + Duration::from_millis(500)).is_some() {
            took.push(start.elapsed().as_micros());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort_unstable();
    let at =
        |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1))).copied().unwrap_or(0);
    Ok((took.len() as u32, at(50), at(99)))
}

fn state() -> Step<String> {
    const ECHOES: u32 = 200;
    let server = Server::start("")?;
    let address = server.addresses[&Transport::Udp];
    let mut client = server.client(Transport::Udp)?;
    let relayed = client.allocate()?;
    let peer = Peer::new(world::PEER.parse().expect("an address"), &Transcript::default())?;
    client.bind_channel(0x4000, peer.address)?;
    let requests: Vec<Vec<u8>> = shapes().into_iter().map(|(_, bytes)| bytes).collect();
    let (sent, stop) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
    let networks = [CROWD, world::OTHER_CROWD];
    // The first packets give tables of fixed size and whole batches their pages; from then on nothing may grow.
    std::thread::scope(|scope| {
        for network in networks {
            let (requests, sent, stop) = (&requests, &sent, &stop);
            scope.spawn(move || flood(network, address, 20_000, requests, sent, stop));
        }
    });
    let quiet = echo(&mut client, &peer, relayed, ECHOES)?;
    let (memory, descriptors) = (server.resident(), server.descriptors());
    sent.store(0, Ordering::Relaxed);
    let start = Instant::now();
    let during = std::thread::scope(|scope| {
        for network in networks {
            let (requests, sent, stop) = (&requests, &sent, &stop);
            scope.spawn(move || flood(network, address, flood_len() / 2, requests, sent, stop));
        }
        let outcome = echo(&mut client, &peer, relayed, ECHOES);
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        outcome
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let grown = server.resident().saturating_sub(memory);
    let sent = sent.load(Ordering::Relaxed);
    ensure!(grown <= 1 << 20, "{sent} packets made the server {grown} bytes larger");
    ensure!(server.descriptors() <= descriptors, "from {descriptors} to {} descriptors", server.descriptors());
    ensure!(quiet.0 == ECHOES, "{} of {ECHOES} echoes without a flood", quiet.0);
    ensure!(during.0 * 10 >= ECHOES * 9, "{} of {ECHOES} echoes during the flood", during.0);
    server.serves()?;
    Ok(format!(
        "{sent} packets in {seconds:.1} s: +{} KiB, +0 descriptors; echoes before {}/{ECHOES} (p50 {} µs, p99 {}), during \
         {}/{ECHOES} (p50 {} µs, p99 {})",
        grown / 1024,
        quiet.0,
        quiet.1,
        quiet.2,
        during.0,
        during.1,
        during.2
    ))
}

/// Connections that say nothing, or a byte now and then: closed after tls.handshake_timeout, here a second.
fn slow_tls() -> Step<String> {
    const PER_ADDRESS: usize = 32;
    let server = Server::start(&format!("[limits]\nconnections_per_address = {PER_ADDRESS}\n"))?;
    let address = server.addresses[&Transport::Tls];
    let mut held = Vec::new();
    for number in 0..PER_ADDRESS * 2 {
        let mut stream = TcpStream::connect(address).or_else(broken)?;
        if number % 2 == 0 {
            // The beginning of a ClientHello that never ends.
            let _ = std::io::Write::write_all(&mut stream, &[22, 3, 1, 2, 0, 1, 0, 1, 0xFC]);
        }
        held.push(stream);
    }
    // Others get in at once, since the bound is by address.
    let elsewhere: IpAddr = "45.9.10.9".parse().expect("an address");
    server.client_of(Transport::Tls, ALICE, Some(elsewhere))?.allocate()?;
    let mut closed = 0;
    for mut stream in held {
        stream.set_read_timeout(Some(world::PATIENCE)).or_else(broken)?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => closed += 1,
        }
    }
    ensure!(closed == PER_ADDRESS * 2, "{} of {} are still open", PER_ADDRESS * 2 - closed, PER_ADDRESS * 2);
    let refused = server.metric("hairpin_connection_limits_reached_total")?;
    ensure!(refused >= PER_ADDRESS as f64, "{refused} were refused, {PER_ADDRESS} are too many");
    server.client(Transport::Tls)?.allocate()?;
    Ok(format!("{closed} half-open connections gone, {refused} of them refused at once"))
}
