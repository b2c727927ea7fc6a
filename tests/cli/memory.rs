//! What allocations cost that have a channel each and do nothing.
//!
//! `HAIRPIN_IDLE_ALLOCATIONS=10000 cargo test --release --test cli -- --nocapture idle` prints the figures of
//! docs/performance.md. The test process needs as many descriptors as the server: `ulimit -n`.

use super::harness::{Place, Server};
use super::turn_client::TurnClient;

/// Bytes. Twice what is measured: tables double, and a few hundred may be the ones for which they do.
const BYTES_PER_ALLOCATION_MAX: usize = 3 * 1024;
/// The same where there are thousands, and nothing else counts.
const BYTES_PER_ALLOCATION_OF_MANY_MAX: usize = 2 * 1024;

const CONFIG: &str = "[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = []\n[relay]\naddresses = [\"127.0.0.1\"]\n\
                      ports = \"20000-65535\"\n[limits]\nallocations_per_user = 20000\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                      [log]\nformat = \"json\"\nlevel = \"info\"\n\
                      [[auth.users]]\nname = \"alice\"\npassword = \"s3cret\"\n";

fn resident_bytes(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the server's /proc/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse::<usize>().expect("kilobytes") * 1024
}

#[test]
fn idle_allocations_are_cheap() {
    let count: usize = std::env::var("HAIRPIN_IDLE_ALLOCATIONS").map_or(500, |count| count.parse().expect("a number"));
    let place = Place::new();
    place.file("many.toml", CONFIG);
    let mut server = Server::start(&place, &["--config", "many.toml"]);
    let (udp, _) = server.wait_until_listening();
    // What the first allocations bring once (tables, stacks, code) is not what each costs.
    let mut clients = Vec::new();
    let mut allocate = |more: usize| {
        for _ in 0..more {
            let mut client = TurnClient::new(udp);
            client.allocate("alice", "s3cret").expect("an allocation");
            // Nobody sends there: it is an address that may be bound.
            client.bind_channel("8.8.8.8:9".parse().expect("an address")).expect("a channel");
            clients.push(client);
        }
    };
    let start = resident_bytes(server.id());
    allocate(50);
    let warm = resident_bytes(server.id());
    allocate(count);
    let full = resident_bytes(server.id());
    let each = full.saturating_sub(warm) / count;
    println!(
        "resident: {} kB at start, {} kB with 50 allocations, {} kB with {} more: {each} bytes each",
        start / 1024,
        warm / 1024,
        full / 1024,
        count
    );
    let most = if count < 5_000 { BYTES_PER_ALLOCATION_MAX } else { BYTES_PER_ALLOCATION_OF_MANY_MAX };
    assert!(each <= most, "{each} bytes per idle allocation");
    clients.iter_mut().for_each(TurnClient::release);
    assert_eq!(server.terminate_and_wait(), Some(0));
}
