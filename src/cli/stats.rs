//! `hairpin stats`: figures of a running server, for people.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::admin_client::Whereabouts;
use super::sessions::{duration, size, table};
use super::{Outcome, print};

/// Print figures of a running server.
///
/// What lives now, and sums since it was started; /metrics has all of them for programs.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    server: Whereabouts,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let stats = arguments.server.ask(Method::GET, "/v1/stats")?;
    if arguments.server.json {
        return print(stats);
    }
    let count = |key: &str| stats[key].as_u64().unwrap_or_default();
    let by_reason = |key: &str| {
        let counts = stats[key].as_object().into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
        let counts: Vec<String> = counts.map(|(reason, count)| format!("{reason} {count}")).collect();
        if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
    };
    let traffic = |direction: &str| {
        let of = |what: &str| stats["traffic"][format!("{what}_to_{direction}")].as_u64().unwrap_or_default();
        format!("{} packets, {}", of("packets"), size(of("bytes")))
    };
    let text = |key: &str| stats[key].as_str().unwrap_or_default();
    let shards = stats["shards"].as_array().map_or(&[][..], Vec::as_slice);
    let restarts: u64 = shards.iter().filter_map(|shard| shard["restarts"].as_u64()).sum();
    let busy = shards.iter().filter_map(|shard| shard["busy_seconds"].as_f64());
    let uptime = count("uptime_seconds").max(1) as f64;
    let busy: Vec<String> = busy.map(|secs| format!("{:.0} %", 100.0 * secs / uptime)).collect();
    let offload = &stats["offload"];
    let rows: Vec<[String; 2]> = [
        ("state", text("state").to_owned()),
        ("version", text("version").to_owned()),
        ("up for", duration(count("uptime_seconds"))),
        ("sessions", count("sessions").to_string()),
        ("relayed addresses", by_reason("relayed_addresses")),
        ("connections", count("connections").to_string()),
        ("connections to peers", count("peer_connections").to_string()),
        ("allocations made", count("allocations_created").to_string()),
        ("ended", by_reason("allocations_ended")),
        ("authenticated requests", count("authenticated").to_string()),
        ("refused", by_reason("authentication_failures")),
        ("dropped", by_reason("drops")),
        ("to peers", traffic("peer")),
        ("to clients", traffic("client")),
        ("in the kernel", in_the_kernel(offload)),
        ("its share", share(offload, &stats["traffic"])),
        ("threads busy", busy.join(", ")),
        ("threads restarted", restarts.to_string()),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into();
    print(table(&["", ""], &rows).trim_start())
}

/// What the kernel relays, or why it does not.
fn in_the_kernel(offload: &Value) -> String {
    if offload["enabled"].as_bool() != Some(true) {
        let why = offload["why_not"].as_str().unwrap_or("this server is older than that");
        return format!("nothing: {why}");
    }
    let interfaces = offload["interfaces"].as_array().into_iter().flatten();
    let text = |interface: &Value, key: &str| interface[key].as_str().unwrap_or_default().to_owned();
    let interfaces: Vec<String> =
        interfaces.map(|interface| format!("{} ({})", text(interface, "name"), text(interface, "way"))).collect();
    let (flows, most) = (&offload["flows"], &offload["flows_max"]);
    format!("{flows} flows of at most {most}, at {}", interfaces.join(", "))
}

/// Of all packets.
fn share(offload: &Value, all: &Value) -> String {
    let packets = |traffic: &Value| {
        ["packets_to_peer", "packets_to_client"].iter().filter_map(|key| traffic[*key].as_u64()).sum::<u64>()
    };
    let share = 100.0 * packets(&offload["traffic"]) as f64 / packets(all).max(1) as f64;
    format!("{share:.0} % of the packets")
}
