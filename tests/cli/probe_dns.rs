//! How `hairpin probe` finds servers: DNS of the test's own, servers on loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use serde_json::Value;

use super::dns::{Dns, Record};
use super::harness::{Place, Server};
use super::serve::QUIET;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

struct Probe {
    place: Place,
    _server: Server,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl Probe {
    fn new() -> Self {
        let place = Place::new();
        let user = "\n[[auth.users]]\nname = \"alice\"\npassword = \"s3cret\"\n";
        place.file("users.toml", &format!("{QUIET}{user}"));
        let server = Server::start(&place, &["--config", "users.toml"]);
        let (udp, _) = server.wait_until_listening();
        let tcp = server.listening("tcp");
        Self { place, _server: server, udp, tcp }
    }

    fn run(&self, dns: &Dns, uri: &str, more: &[&str]) -> (Option<i32>, Value) {
        let server = dns.address.to_string();
        let fixed = ["probe", uri, "--user", "alice", "--password", "s3cret", "--json", "--dns-server", &server];
        let run = self.place.run(&[&fixed, more].concat());
        (run.code, serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr)))
    }
}

/// Transport and address of what was tried, and whether it worked.
fn tried(report: &Value) -> Vec<(String, bool)> {
    let way = |way: &Value| {
        let text = |key: &str| way[key].as_str().unwrap().to_owned();
        (format!("{} {}", text("transport"), text("address")), way["ok"].as_bool().unwrap())
    };
    report["candidates"].as_array().unwrap().iter().map(way).collect()
}

fn how(report: &Value) -> &str {
    assert_eq!(report["steps"][0]["name"], "resolve");
    report["steps"][0]["detail"].as_str().unwrap()
}

/// SRV records for `turn:` with a transport, by priority and weight; the next is tried when one does not answer.
#[test]
fn disc_5928_3_01_srv_records_are_tried_in_order() {
    let probe = Probe::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dns = Dns::serve(vec![
        ("_turn._tcp.example.test", Record::Srv(20, 0, probe.tcp.port(), "late.example.test")),
        ("_turn._tcp.example.test", Record::Srv(10, 1, nobody, "light.example.test")),
        ("_turn._tcp.example.test", Record::Srv(10, 9, nobody, "heavy.example.test")),
        ("late.example.test", Record::A(LOCAL)),
        ("light.example.test", Record::A(Ipv4Addr::new(127, 0, 0, 3))),
        ("heavy.example.test", Record::A(Ipv4Addr::new(127, 0, 0, 2))),
    ]);
    let (code, report) = probe.run(&dns, "turn:example.test?transport=tcp", &[]);
    let expected = [
        (format!("tcp 127.0.0.2:{nobody}"), false),
        (format!("tcp 127.0.0.3:{nobody}"), false),
        (format!("tcp {}", probe.tcp), true),
    ];
    assert_eq!((code, tried(&report)), (Some(0), expected.to_vec()), "{report:#}");
    let said = format!("SRV _turn._tcp.example.test is late.example.test:{} (priority 20, weight 0)", probe.tcp.port());
    assert!(how(&report).contains(&said), "{}", how(&report));
    let last = report["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["name"], last["candidate"].as_str()), (&"channel".into(), Some(&*format!("tcp {}", probe.tcp))));
}

/// NAPTR records where neither port nor transport is given, to SRV (flag "s") and to addresses (flag "a"), through
/// another NAPTR (no flag); transports that are not spoken are passed over.
#[test]
fn disc_5928_3_01_naptr_records_lead_to_servers() {
    let probe = Probe::new();
    let dns = Dns::serve(vec![
        ("example.test", Record::Naptr(100, 10, "", "RELAY:turn.tcp", "stream.example.test")),
        ("example.test", Record::Naptr(50, 5, "s", "RELAY:turn.dtls", "_turns._udp.example.test")),
        ("example.test", Record::Naptr(10, 10, "s", "SIP+D2U", "_sip._udp.example.test")),
        ("stream.example.test", Record::Naptr(1, 1, "S", "RELAY:turn.tcp", "_turn._tcp.example.test")),
        ("_turn._tcp.example.test", Record::Srv(0, 0, probe.tcp.port(), "host.example.test")),
        ("host.example.test", Record::A(LOCAL)),
        ("direct.test", Record::Naptr(1, 1, "a", "RELAY:turn.udp:turn.tls", "host.example.test")),
    ]);
    let (code, report) = probe.run(&dns, "turn:example.test", &[]);
    assert_eq!((code, tried(&report)), (Some(0), vec![(format!("tcp {}", probe.tcp), true)]), "{report:#}");
    assert!(how(&report).contains("turn.dtls is nothing that this command speaks"), "{}", how(&report));
    assert!(!how(&report).contains("sip"), "{}", how(&report));

    // A URI with a port, or with a transport, asks for no NAPTR.
    let (code, report) = probe.run(&dns, &format!("turn:host.example.test:{}", probe.udp.port()), &[]);
    assert_eq!((code, tried(&report)), (Some(0), vec![(format!("udp {}", probe.udp), true)]));
    assert!(!how(&report).contains("NAPTR") && !how(&report).contains("SRV"), "{}", how(&report));
}

/// DISC-8489-8-01 for clients: `_stun._udp`, `_stuns._tcp`; without any, addresses and the default port, and it is said.
#[test]
fn disc_8489_8_01_stun_uris_and_the_default_port() {
    let probe = Probe::new();
    let dns = Dns::serve(vec![
        ("_stun._udp.example.test", Record::Srv(0, 0, probe.udp.port(), "host.example.test")),
        ("_stuns._tcp.example.test", Record::Srv(0, 0, 5349, "")),
        ("host.example.test", Record::A(LOCAL)),
        ("host.example.test", Record::Aaaa(Ipv6Addr::LOCALHOST)),
    ]);
    let (code, report) = probe.run(&dns, "stun:example.test", &[]);
    let all = tried(&report);
    // Whichever family comes first: nobody is at the IPv6 address.
    assert_eq!((code, all.last()), (Some(0), Some(&(format!("udp {}", probe.udp), true))), "{report:#}");

    let (code, report) = probe.run(&dns, "stuns:example.test", &[]);
    assert_eq!((code, report["ok"].as_bool(), tried(&report).len()), (Some(1), Some(false), 0));
    assert!(how(&report).contains("SRV _stuns._tcp.example.test says that this is not offered"), "{}", how(&report));

    let (code, report) = probe.run(&dns, "turns:host.example.test", &[]);
    assert_eq!(code, Some(1));
    for part in [
        "no NAPTR record of host.example.test for RELAY",
        "no SRV record _turns._tcp.host.example.test",
        "so for tls A/AAAA on the default port 5349",
        "tls 127.0.0.1:5349",
    ] {
        assert!(how(&report).contains(part), "{part}: {}", how(&report));
    }
    let (code, report) = probe.run(&dns, "turn:nobody.test:99", &[]);
    assert_eq!((code, tried(&report).len()), (Some(1), 0), "{report:#}");
}

/// `--all`: every transport, whatever the URI says, each with its result.
#[test]
fn every_transport_is_tried_when_asked_to() {
    let probe = Probe::new();
    let dns = Dns::serve(vec![
        ("_turn._udp.example.test", Record::Srv(0, 0, probe.udp.port(), "host.example.test")),
        ("_turn._tcp.example.test", Record::Srv(0, 0, probe.tcp.port(), "host.example.test")),
        ("_turns._tcp.example.test", Record::Srv(0, 0, probe.tcp.port(), "host.example.test")),
        ("host.example.test", Record::A(LOCAL)),
    ]);
    let (code, report) = probe.run(&dns, "turn:example.test?transport=udp", &["--all"]);
    let expected = [
        (format!("udp {}", probe.udp), true),
        (format!("tcp {}", probe.tcp), true),
        (format!("tls {}", probe.tcp), false),
    ];
    assert_eq!((code, tried(&report)), (Some(1), expected.to_vec()), "{report:#}");
    assert_eq!(report["candidates"][2]["failed"], "tls");

    let server = dns.address.to_string();
    let arguments = ["turn:example.test", "--user", "alice", "--password", "s3cret", "--all", "--dns-server", &server];
    let run = probe.place.run(&[&["probe"], &arguments[..]].concat());
    assert!(run.stdout.contains(&format!("works tcp  {}", probe.tcp)), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("fails tls  {}: tls", probe.tcp)), "{}", run.stdout);
    assert!(run.stderr.contains("tls failed"), "{}", run.stderr);
}
