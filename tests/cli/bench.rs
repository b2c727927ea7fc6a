//! `hairpin bench` against a server of its own: what it reports, and what it says when it cannot.

use serde_json::Value;

use super::harness::{Place, Server};
use super::serve::QUIET;

const LOAD: [&str; 7] = ["--seconds", "0.3", "--warm-up", "0.1", "--user", "alice", "--quiet"];

/// A server that lets peers on loopback be reached, and its URI.
fn server(place: &Place) -> (Server, String) {
    server_with(place, "", "")
}

/// The same with more in front of its file and behind.
fn server_with(place: &Place, front: &str, behind: &str) -> (Server, String) {
    let users = "[peers]\nallow = [\"127.0.0.1\"]\n[[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n";
    // Peers get ports below: one in this range would be taken for a relay of the server itself, on the same address.
    let quiet = QUIET.replace("[relay]\n", "[relay]\nports = \"61000-65535\"\nport_quarantine = \"0s\"\n");
    // UDP and TCP are asked for at one port, as a URI has it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = if behind.contains("[tls]") { "tls = [\"127.0.0.1:0\"]\n" } else { "" };
    let quiet = quiet.replace("127.0.0.1:0\"]\n[relay]", &format!("127.0.0.1:{port}\"]\n{listen}[relay]"));
    let quiet = quiet.replacen("udp = [\"127.0.0.1:0", &format!("udp = [\"127.0.0.1:{port}"), 1);
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
            adds_up(&report);
            let latency = |key: &str| report["latency_micros"][key].as_f64().unwrap();
            assert!(
                0.0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("max"),
                "{report}"
            );
            assert!(report["server"]["resident_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
        }
    }
}

/// What was sent has arrived or is lost.
fn adds_up(report: &Value) {
    let count = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(count("offered"), count("done") + count("lost"), "{report}");
    assert_eq!((count("corrupted"), count("duplicated")), (0, 0), "{report}");
}

#[test]
fn every_transport_and_mix_is_carried() {
    let place = Place::new();
    let (server, uri) = server(&place);
    let tcp = format!("{uri}?transport=tcp");
    let loads: [(&str, &[&str]); 7] = [
        (&tcp, &["--allocations", "4", "--payload", "1201", "--window", "20"]),
        (&tcp, &["--allocations", "4", "--indications", "--window", "20"]),
        (&uri, &["--allocations", "8", "--relay-to-relay", "--threads", "2", "--window", "20"]),
        (&tcp, &["--allocations", "2", "--relay-to-relay", "--direction", "to-peer", "--window", "8"]),
        (&uri, &["--allocations", "4", "--mix", "opus"]),
        (&uri, &["--allocations", "1", "--mix", "video", "--indications"]),
        (&uri, &["--allocations", "2", "--mix", "screen", "--direction", "to-client"]),
    ];
    for (uri, more) in loads {
        let report = bench(&place, &server, uri, "relay", more);
        adds_up(&report);
        assert!(report["done"].as_u64().unwrap() > 0, "{more:?}: {report}");
        assert_eq!(report["transport"], if uri == tcp { "tcp" } else { "udp" });
        assert!(report["server"]["resident_bytes_per_allocation"].is_number(), "{report}");
    }
}

/// Where nothing is lost the search ends at the bound that it was given, and says which trials led there.
#[test]
fn a_search_reports_its_trials() {
    let place = Place::new();
    let (server, uri) = server(&place);
    let more = ["--allocations", "3", "--search", "--rate-max", "200", "--loss-max", "1"];
    let report = bench(&place, &server, &uri, "relay", &more);
    let search = &report["search"];
    assert_eq!((&search["found"], &search["rate_per_second"]), (&true.into(), &200.0.into()), "{report}");
    let trials = search["trials"].as_array().unwrap();
    assert!(trials.len() >= 2 && trials.last().unwrap()["passed"] == true, "{report}");
    adds_up(&report);
}

/// A server that limits at a known rate, its own bandwidth limit: 2 Mbit/s of 500 bytes are 500 packets a second.
#[test]
fn a_search_finds_where_the_server_begins_to_drop() {
    let place = Place::new();
    let (_server, uri) = server_with(&place, "", "[limits]\nbandwidth_per_allocation = \"2Mbit/s\"\n");
    let load = ["bench", "relay", &uri, "--user", "alice", "--password", "wonder", "--json", "--quiet"];
    let shape = ["--allocations", "1", "--payload", "500", "--direction", "to-peer", "--warm-up", "0.1"];
    // A second, so that the 40 ms' worth which the limit lets through at once weighs little.
    let rule = ["--search", "--seconds", "1", "--loss-max", "0.01", "--resolution", "0.03", "--confirm", "1"];
    let run = place.run(&[&load[..], &shape, &rule].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let search = &report["search"];
    let found = search["rate_per_second"].as_f64().unwrap();
    assert!(search["found"] == true && (450.0..=550.0).contains(&found), "{report}");
    let trials = search["trials"].as_array().unwrap();
    assert!(trials.iter().any(|trial| trial["passed"] == false), "it has been at the limit: {report}");
}

#[test]
fn idle_allocations_are_weighed_and_kept() {
    let place = Place::new();
    let (server, uri) = server(&place);
    let report = bench(&place, &server, &uri, "idle", &["--allocations", "100", "--at-once", "10"]);
    assert_eq!((&report["done"], &report["allocations"]), (&100.into(), &100.into()), "{report}");
    assert!(report["idle"]["refresh_micros"].as_f64().unwrap() >= 0.0, "{report}");
    let server = &report["server"];
    assert!(server["resident_bytes"].as_u64() >= server["resident_bytes_before"].as_u64(), "{report}");
}

/// Certificates are looked at unless one says otherwise.
#[test]
fn tls_is_spoken_and_the_certificate_checked() {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let place = Place::new();
    place.file("chain.pem", &params.self_signed(&key).unwrap().pem()).secret_file("key.pem", &key.serialize_pem());
    let tls = "[tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n";
    let (server, _) = server_with(&place, "", tls);
    let uri = format!("turns:localhost:{}", server.listening("tls").port());
    let addresses = ["--client-address", "127.0.0.1"];
    let load = |mode: &str, more: &[&str]| bench(&place, &server, &uri, mode, &[&addresses, more].concat());
    let report = load("relay", &["--allocations", "3", "--window", "9", "--ca", "chain.pem"]);
    adds_up(&report);
    assert_eq!(report["transport"], "tls");
    let report = load("setup", &["--clients", "3", "--insecure"]);
    assert!(report["done"].as_u64().unwrap() > 0, "{report}");
    let run = place.run(&[&["bench", "setup", &uri, "--password", "wonder"], &LOAD[..]].concat());
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stderr.contains("--insecure"), "{}", run.stderr);
}

/// Another server than ours.
#[test]
fn coturn_is_measured_as_well() {
    struct Coturn(std::process::Child);
    impl Drop for Coturn {
        fn drop(&mut self) {
            // It fails for one that has ended, which the test has noticed.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let place = Place::new();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let words = "-n --listening-ip 127.0.0.1 --relay-ip 127.0.0.1 --min-port 61000 --max-port 65535 --lt-cred-mech \
                 --user alice:wonder --realm example.org --allow-loopback-peers --no-tls --no-dtls --no-cli \
                 --log-file stdout --pidfile turnserver.pid --userdb turnserver.db --listening-port";
    let mut command = std::process::Command::new("turnserver");
    command.args(words.split_whitespace()).arg(&port).current_dir(place.path());
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let Ok(child) = command.stderr(std::process::Stdio::null()).spawn() else {
        println!("SKIP: turnserver is not installed (Debian: package coturn)");
        return;
    };
    let coturn = Coturn(child);
    let pid = coturn.0.id().to_string();
    let uri = format!("turn:127.0.0.1:{port}");
    for more in [&["relay", "--allocations", "3", "--window", "9"][..], &["setup", "--clients", "2"]] {
        let own = ["bench", more[0], &uri, "--password", "wonder", "--json", "--server-pid", &pid];
        let run = place.run(&[&own, &LOAD[..], &more[1..]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(report["done"].as_u64().unwrap() > 0, "{report}");
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
    for mode in ["binding", "allocate", "setup"] {
        for uri in [&uri, &format!("{uri}?transport=tcp")] {
            let report = bench(&place, &server, uri, mode, &["--clients", "4", "--threads", "2"]);
            assert!(report["done"].as_u64().unwrap() > 10, "{mode}: {report}");
            assert_eq!(report["mode"], mode, "{report}");
            assert!(report["generator"]["busy"].is_number(), "{report}");
        }
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
    refused(&["relay", "turns:127.0.0.1?transport=udp", "--password", "wonder"], "DTLS");
    refused(&["turn:[::1]", "--password", "wonder", "--client-address", "127.0.0.1"], "same family");
    let pairs = ["--password", "wonder", "--allocations", "3", "--relay-to-relay"];
    refused(&[&["relay", &uri], &pairs[..]].concat(), "in pairs");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    refused(
        &["setup", &format!("turn:127.0.0.1:{port}?transport=tcp"), "--password", "wonder"],
        "connect to the server",
    );
    // Each user may have 128 allocations.
    refused(&["idle", &uri, "--password", "wonder", "--allocations", "200"], "limits.allocations_per_user");
    // TEST-NET-1, which only has to be asked for; nothing is sent there.
    refused(&["allocate", &uri, "--password", "wonder", "--peer-address", "192.0.2.1"], "peers.allow");
    refused(&["relay", &uri, "--password", "wonder", "--server-pid", "4194305"], "process id");
}
