//! A call that the kernel relays while strangers flood its ports, and the end of it under traffic.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::Attack;
use crate::case::{Step, failed};
use crate::client::Client;
use crate::drafts::channel_data;
use crate::ensure;
use crate::floods::flood_len;
use crate::link::Transport;
use crate::offload::{CHANNEL, call, counts, start};
use crate::world::{ALICE, BOB, PATIENCE, Server};

pub const ATTACKS: &[Attack] = &[
    ("o07_a_call_in_the_kernel_outlives_a_flood_of_strangers", flooded),
    ("o08_a_call_in_the_kernel_ends_with_its_user", revoked),
];

/// Half of the flood goes to the relayed address, half to the server on the call's channel. The sockets take a round at a
/// time, so that nothing is lost where no counter is, and each packet must be found among the counters.
fn flooded() -> Step<String> {
    const ROUND: u64 = 200;
    let server = start()?;
    let mut call = call(&server)?;
    call.exchange(0)?;
    server.wait_for("hairpin_relayed_packets_total", |count| count == 2.0)?;
    let strangers: Vec<UdpSocket> =
        (1..=ROUND).map(|last| UdpSocket::bind((format!("45.9.10.{last}"), 0)).expect("an address of ours")).collect();
    let before = settled(&server)?;
    let rounds = (flood_len() / 100 / ROUND).max(1);
    let (mut strange, mut good) = (0, 0);
    for round in 0..rounds {
        for (number, stranger) in strangers.iter().enumerate() {
            let sent = if number % 2 == 0 {
                stranger.send_to(b"from a stranger", call.relayed)
            } else {
                stranger.send_to(&channel_data(CHANNEL, b"from a stranger"), server.addresses[&Transport::Udp])
            };
            sent.expect("it is near");
            strange += 1;
            if number % 20 == 0 {
                // Fails if anything else arrives, on either side.
                call.exchange((round * ROUND) as usize + number)?;
                good += 2;
            }
        }
        wait_for_sum(&server, before + strange + good)?;
    }
    let relayed = server.metric("hairpin_relayed_packets_total")?;
    ensure!(relayed == (2 + good) as f64, "{relayed} packets were relayed, and {} sent", 2 + good);
    let in_kernel = server.metric("hairpin_offload_packets_total")?;
    ensure!(in_kernel as u64 * 10 > good * 9, "only {in_kernel} of {good} good packets went through the kernel");
    call.client.hears_nothing()?;
    server.serves()?;
    Ok(format!("{strange} packets of strangers dropped, {relayed} relayed, {in_kernel} of them in the kernel"))
}

/// The name is taken out of the file in mid-call.
fn revoked() -> Step<String> {
    const TIMES: u64 = 50;
    let server = start()?;
    let mut call = call(&server)?;
    for number in 0..20 {
        call.exchange(number)?;
    }
    let in_kernel = server.wait_for("hairpin_offload_packets_total", |count| count > 20.0)?;
    let mut bobs: Client = server.client_of(Transport::Udp, BOB, None)?;
    bobs.allocate()?;
    server.reload(&format!("{{ name = \"{}\", password = \"{}\" }}, ", ALICE.0, ALICE.1), "", "reloaded")?;
    server.wait_for("hairpin_offload_flows", |count| count == 0.0)?;
    server.wait_for("hairpin_allocations", |count| count == 1.0)?;
    let (before, relayed) = (settled(&server)?, server.metric("hairpin_relayed_packets_total")?);
    for _ in 0..TIMES {
        call.client.send_on_channel(CHANNEL, b"after the end")?;
        // The port is closed: refused, and nobody's to count.
        let _ = call.peer.send_to(b"after the end", call.relayed);
    }
    wait_for_sum(&server, before + TIMES)?;
    let now = server.metric("hairpin_relayed_packets_total")?;
    ensure!(now == relayed, "{} packets were relayed after the end", now - relayed);
    call.peer.set_read_timeout(Some(Duration::from_millis(300))).expect("as always");
    let mut buffer = [0; 2048];
    if let Ok((len, _)) = call.peer.recv_from(&mut buffer) {
        return failed(format!("after the end the peer got {len} bytes"));
    }
    Ok(format!("{in_kernel} packets in the kernel before, none relayed after; {TIMES} dropped"))
}

/// All packets that were relayed or dropped.
fn settled(server: &Server) -> Step<u64> {
    Ok(counts(server)?.values().sum())
}

fn wait_for_sum(server: &Server, wanted: u64) -> Step<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sum = settled(server)?;
        if sum == wanted {
            return Ok(());
        }
        if sum > wanted || Instant::now() > deadline {
            return failed(format!("of {wanted} packets the counters explain {sum}: {:?}", counts(server)?));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
