//! `hairpin bench` against a server of its own: what it reports, and what it says when it cannot.

use serde_json::Value;

use super::harness::{Place, Server};
use super::serve::QUIET;

const LOAD: [&str; 6] = ["--seconds", "0.3", "--warm-up", "0.1", "--user", "alice"];

/// A server that lets peers on loopback be reached, and its URI.
fn server(place: &Place) -> (Server, String) {
    server_with(place, "", "")
}

/// The same with more in front of its file and behind.
fn server_with(place: &Place, front: &str, behind: &str) -> (Server, String) {
    let users = "[peers]\nallow = [\"127.0.0.1\"]\n[[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n";
    // Peers get ports below: one in this range would be taken for a relay of the server itself, on the same address.
    let quiet = QUIET.replace("[relay]\n", "[relay]\nports = \"61000-65000\"\n");
    place.file("bench.toml", &format!("{front}{quiet}{behind}{users}"));
    let server = Server::start(place, &["--config", "bench.toml"]);
    let (udp, _) = server.wait_until_listening();
    (server, format!("turn:{udp}"))
}

fn bench(place: &Place, server: &Server, uri: &str, mode: &str, more: &[&str]) -> Value {
    let pid = server.id().to_string();
    let own = ["bench", mode, uri, "--password", "wonder", "--json", "--server-pid", &pid];
    let run = place.run(&[&own, &LOAD[..], more].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn relayed_packets_are_counted_timed_and_compared() {
    let place = Place::new();
    let (server, uri) = server(&place);
    for direction in ["to-peer", "to-client", "both"] {
        for framing in [&[][..], &["--indications"]] {
            let more =
                ["--allocations", "5", "--payload", "161", "--window", "20", "--burst", "2", "--direction", direction];
            let report = bench(&place, &server, &uri, "relay", &[&more, framing].concat());
            assert!(report["done"].as_u64().unwrap() > 100, "{report}");
            assert_eq!((&report["lost"], &report["corrupted"]), (&0.into(), &0.into()), "{report}");
            assert_eq!(report["offered"], report["done"], "{report}");
            let latency = |key: &str| report["latency_micros"][key].as_f64().unwrap();
            assert!(
                0.0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("max"),
                "{report}"
            );
            assert!(report["server"]["resident_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
        }
    }
}

/// A pace is kept where the server is not what limits.
#[test]
fn a_pace_is_held() {
    let place = Place::new();
    let (server, uri) = server(&place);
    let report = bench(&place, &server, &uri, "relay", &["--allocations", "3", "--rate", "1000"]);
    let offered = report["offered"].as_u64().unwrap();
    assert!((50..=320).contains(&offered), "{report}");
}

/// Of one user's data through two shards passes what he may send, to 5 %, however much more is offered.
#[test]
fn bandwidth_of_a_user_is_held_over_shards() {
    let place = Place::new();
    let limits = "[limits]\nbandwidth_per_user = \"4Mbit/s\"\n";
    let (server, uri) = server_with(&place, "threads = 2\n", limits);
    let more = ["--allocations", "8", "--rate", "2000", "--payload", "1000", "--direction", "to-peer"];
    let pid = server.id().to_string();
    let own = ["bench", "relay", &uri, "--password", "wonder", "--json", "--server-pid", &pid, "--user", "alice"];
    let run = place.run(&[&own[..], &["--seconds", "3", "--warm-up", "1"], &more].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let secs = report["seconds"].as_f64().unwrap();
    let (offered, done) = (report["offered"].as_f64().unwrap() * 1e3, report["done"].as_f64().unwrap() * 1e3);
    // A machine that is busy with other things may offer less, or lose some on its own.
    assert!(done <= 500_000.0 * secs * 1.05, "{report}");
    assert!(done >= 500_000.0 * secs * 0.95 || offered < 700_000.0 * secs, "{report}");
}

#[test]
fn requests_are_counted_and_leave_nothing_behind() {
    let place = Place::new();
    let (mut server, uri) = server(&place);
    for mode in ["binding", "allocate"] {
        let report = bench(&place, &server, &uri, mode, &["--clients", "4"]);
        assert!(report["done"].as_u64().unwrap() > 10, "{mode}: {report}");
        assert_eq!(report["lost"], 0, "{mode}: {report}");
    }
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn what_is_in_the_way_is_named() {
    let place = Place::new();
    let (_server, uri) = server(&place);
    let refused = |arguments: &[&str], words: &str| {
        let run = place.run(&[&["bench"], arguments, &LOAD[..]].concat());
        assert_eq!(run.code, Some(1), "{}", run.stdout);
        assert!(run.stderr.contains(words), "{words} is missing in {}", run.stderr);
    };
    refused(&["relay", &uri, "--password", "wrong"], "wrong user name or password");
    refused(&["relay", &uri], "add --user NAME --password PASSWORD");
    refused(&["relay", &format!("{uri}?transport=tcp"), "--password", "wonder"], "over UDP");
    // TEST-NET-1, which only has to be asked for; nothing is sent there.
    refused(
        &["allocate", &uri, "--password", "wonder", "--peer-address", "192.0.2.1"],
        "must allow the peers' address",
    );
    refused(&["relay", &uri, "--password", "wonder", "--server-pid", "4194305"], "process id");
}
