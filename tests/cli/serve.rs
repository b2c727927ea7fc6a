//! A server's life from outside: what it says at start, what its credentials are good for, how it ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use super::harness::{Place, Server};
use super::turn_client::TurnClient;

/// Free ports, and logs that a program can read. Everything else is as without a file.
pub const QUIET: &str = "[listen]\nudp = [\"127.0.0.1:0\"]\ntcp = [\"127.0.0.1:0\"]\n\
                     [relay]\naddresses = [\"127.0.0.1\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";

pub fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits for a condition that has to come true.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(std::time::Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The `iceServers` entries that a server has printed.
fn printed(stdout: &str) -> Vec<Value> {
    let documents = stdout.lines().filter(|line| line.starts_with('{'));
    documents.map(|line| serde_json::from_str::<Value>(line).unwrap()["iceServers"][0].clone()).collect()
}

/// TURN-8656-5-13: at the ports that clients assume.
#[test]
fn without_any_file_it_is_useful_at_once() {
    for port in [3478, 9641] {
        if TcpListener::bind(("0.0.0.0", port)).is_err() || UdpSocket::bind(("0.0.0.0", port)).is_err() {
            println!("SKIP: port {port} of this machine is in use, which the defaults need");
            return;
        }
    }
    let place = Place::new();
    let mut server = Server::start(&place, &[]);
    server.wait_for_log("listening");
    server.wait_for_stdout("Start with:");
    let stdout = server.stdout();
    let entries = printed(&stdout);
    assert_eq!(entries[0]["urls"][1], "turn:127.0.0.1:3478?transport=udp", "{stdout}");
    for words in ["For a browser on this machine", "To try it", "Not yet fit for the public Internet", "no TLS"] {
        assert!(stdout.contains(words), "{words} is missing in\n{stdout}");
    }
    let mut client = TurnClient::new("127.0.0.1:3478".parse().unwrap());
    client.binding();
    client.allocate(entries[0]["username"].as_str().unwrap(), entries[0]["credential"].as_str().unwrap()).unwrap();
    client.release();
    assert!(get("127.0.0.1:9641".parse().unwrap(), "/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn printed_credentials_work_and_others_do_not() {
    let place = Place::new();
    place.file("quiet.toml", QUIET);
    let mut server = Server::start(&place, &["--config", "quiet.toml"]);
    let (udp, admin) = server.wait_until_listening();
    server.wait_for_stdout("Start with:");
    let entry = printed(&server.stdout()).remove(0);
    // Made in another process, from the same kept secret.
    let more = place.run(&["credentials", "--user", "alice", "--host", "127.0.0.1"]);
    let more: Value = serde_json::from_str(&more.stdout).unwrap();
    let more = &more["iceServers"][0];
    let mut other = TurnClient::new(udp);
    other.allocate(more["username"].as_str().unwrap(), more["credential"].as_str().unwrap()).unwrap();
    other.release();
    let (name, password) = (entry["username"].as_str().unwrap(), entry["credential"].as_str().unwrap());
    assert_eq!(entry["urls"][0], format!("stun:127.0.0.1:{}", udp.port()));

    assert_eq!(TurnClient::new(udp).allocate(name, "wrong").unwrap_err(), 401);
    assert_eq!(TurnClient::new(udp).allocate(&name.replace("trial", "other"), password).unwrap_err(), 401);
    let mut client = TurnClient::new(udp);
    client.binding();
    client.allocate(name, password).unwrap();

    let metrics = || get(admin, "/metrics");
    // A shard publishes its counters before it sleeps, which may be after it has answered.
    for line in [
        "hairpin_allocations 1",
        "hairpin_allocations_created_total 2",
        "hairpin_requests_total{method=\"binding\"} 1",
        "hairpin_responses_total{method=\"allocate\"} 2",
        "hairpin_authentication_failures_total{reason=\"wrong_password\"} 2",
        "hairpin_relayed_bytes_total{transport=\"udp\",family=\"ipv4\",direction=\"to_peer\"} 0",
        "hairpin_shard_restarts_total 0",
    ] {
        eventually(line, || metrics().lines().any(|found| found == line));
    }
    assert!(get(admin, "/anything").starts_with("HTTP/1.1 404"));
    client.release();
    assert_eq!(server.terminate_and_wait(), Some(0));
    let log = server.log();
    for secret in [password, name] {
        assert!(!log.contains(secret), "a credential is in the log:\n{log}");
    }
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
}

#[test]
fn static_users_and_secrets_work_at_once() {
    let place = Place::new();
    let auth = "[auth]\nrealm = \"example.org\"\nsecrets = [\"old-old-old-old-old\", \"new-new-new-new-new\"]\n\
                [[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n";
    place.file("auth.toml", &format!("{QUIET}{auth}"));
    place.file("new.toml", "[auth]\nsecrets = [\"new-new-new-new-new\"]\n");
    let mut server = Server::start(&place, &["serve", "--config", "auth.toml"]);
    let (udp, _) = server.wait_until_listening();
    TurnClient::new(udp).allocate("alice", "wonder").unwrap();
    for file in ["auth.toml", "new.toml"] {
        let run = place.run(&["credentials", "--user", "bob", "--ttl", "1m", "--host", "::1", "--config", file]);
        let entry = serde_json::from_str::<Value>(&run.stdout).unwrap()["iceServers"][0].clone();
        let (name, password) = (entry["username"].as_str().unwrap(), entry["credential"].as_str().unwrap());
        TurnClient::new(udp).allocate(name, password).unwrap();
    }
    // Whoever configured credentials gets none printed.
    assert_eq!(server.stdout(), "");
    server.terminate();
    // Two signals at once would be one.
    server.wait_for_log("draining");
    assert_eq!(server.terminate_and_wait(), Some(0));
}

#[test]
fn draining_waits_for_allocations_and_no_longer() {
    let place = Place::new();
    place.file("drain.toml", &format!("{QUIET}[[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n"));
    let mut server = Server::start(&place, &["--config", "drain.toml"]);
    let (udp, admin) = server.wait_until_listening();
    let mut client = TurnClient::new(udp);
    client.allocate("alice", "wonder").unwrap();
    assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    server.terminate();
    server.wait_for_log("draining");
    assert!(get(admin, "/readyz").starts_with("HTTP/1.1 503"));
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"));
    eventually("new allocations are refused", || TurnClient::new(udp).allocate("alice", "wonder").is_err());
    client.release();
    assert_eq!(server.wait(), Some(0));
    assert!(server.log().contains("no allocation is left"));
}

#[test]
fn a_second_signal_and_the_bound_end_a_drain() {
    for (drain, signals, why) in [("1h", 2, "SIGTERM"), ("0s", 1, "the time is over")] {
        let place = Place::new();
        let rest =
            format!("[shutdown]\ndrain = \"{drain}\"\n[[auth.users]]\nname = \"alice\"\npassword = \"wonder\"\n");
        place.file("drain.toml", &format!("{QUIET}{rest}"));
        let mut server = Server::start(&place, &["--config", "drain.toml"]);
        let (udp, _) = server.wait_until_listening();
        TurnClient::new(udp).allocate("alice", "wonder").unwrap();
        server.terminate();
        if signals == 2 {
            server.wait_for_log("draining");
            server.terminate();
        }
        assert_eq!(server.wait(), Some(0));
        assert!(server.log().contains(&format!("\"why\":\"{why}\"")), "{}", server.log());
    }
}

#[test]
fn what_cannot_be_bound_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let place = Place::new();
    for (section, key) in [("admin", "listen = "), ("listen", "udp = []\ntcp = ")] {
        let value = if section == "admin" { format!("\"{address}\"") } else { format!("[\"{address}\"]") };
        let others = "[auth]\nsecrets = [\"0123456789abcdef\"]\n";
        let admin =
            if section == "admin" { "[listen]\nudp = [\"127.0.0.1:0\"]\n" } else { "[admin]\nlisten = \"off\"\n" };
        place.file("taken.toml", &format!("{others}{admin}[{section}]\n{key}{value}\n"));
        let run = place.run(&["--config", "taken.toml"]);
        assert_eq!(run.code, Some(1), "{section}: {}", run.stderr);
        assert!(run.stderr.contains(&address.to_string()), "{section}: {}", run.stderr);
    }
}

#[test]
fn a_bad_file_is_refused_at_start_as_by_check_config() {
    let place = Place::new();
    place.file("bad.toml", "[relay]\nports = \"6000-5000\"\n");
    let (start, check) = (place.run(&["--config", "bad.toml"]), place.run(&["check-config", "bad.toml"]));
    assert_eq!((start.code, check.code), (Some(1), Some(1)));
    assert_eq!(start.stderr, check.stderr);
}
