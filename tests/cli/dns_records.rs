//! `hairpin dns-records`: what the documentation shows is what is printed, and it names the ports listened at.

use super::harness::Place;

/// The text between a line that opens a block and the end of that block.
fn block<'t>(text: &'t str, opening: &str) -> &'t str {
    text.split_once(&format!("\n{opening}\n")).expect("a block").1.split_once("```").expect("its end").0
}

/// DISC-5928-3-01, DISC-8489-8-01.
#[test]
fn disc_5928_3_01_the_zone_in_the_documentation_is_what_is_printed() {
    let document = include_str!("../../docs/dns.md");
    let file = block(document, "```toml");
    let run = Place::new().file("hairpin.toml", file).run(&[
        "dns-records",
        "--config",
        "hairpin.toml",
        "--host",
        "turn.example.org",
    ]);
    assert_eq!((run.code, run.stderr), (Some(0), String::new()));
    let (_, shown) = document.split_once(" says:\n").expect("what is printed");
    assert_eq!(run.stdout, block(shown, "```"));
}

fn records(file: &str) -> Vec<String> {
    let place = Place::new();
    place.file("hairpin.toml", file);
    let arguments =
        ["dns-records", "--config", "hairpin.toml", "--host", "relay.example.net", "--domain", "example.org"];
    let run = place.run(&arguments);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stdout.lines().filter(|line| !line.is_empty() && !line.starts_with(';')).map(str::to_owned).collect()
}

/// DISC-8489-8-01: ports in DNS equal the ports of the listeners, and nothing is announced that is not there.
#[test]
fn disc_8489_8_01_ports_are_those_of_the_listeners() {
    assert_eq!(
        records("[listen]\nudp = [\"0.0.0.0:5000\", \"[::]:5000\"]\ntcp = []\n[relay]\naddresses = [\"203.0.113.5\"]"),
        [
            "relay.example.net. IN A 203.0.113.5",
            "_stun._udp.example.org. IN SRV 0 0 5000 relay.example.net.",
            "_turn._udp.example.org. IN SRV 0 0 5000 relay.example.net.",
            "example.org. IN NAPTR 10 0 \"S\" \"RELAY:turn.udp\" \"\" _turn._udp.example.org.",
        ]
    );
    // The defaults, of which nobody knows the address: 3478, and no TLS without a certificate.
    let defaults = records("");
    assert_eq!(defaults[0], "relay.example.net. IN A 192.0.2.1");
    assert!(defaults.iter().filter(|line| line.contains("SRV")).all(|line| line.contains(" 3478 ")), "{defaults:?}");
    assert_eq!(defaults.len(), 1 + 2 + 2 + 2);
}

/// NATB-5780-9-01: announced with two addresses only, and over the transports that have it.
#[test]
fn natb_5780_9_01_stun_behavior_needs_two_addresses() {
    let behavior = |section: &str| {
        let all = records(&format!("[nat_discovery]\nenabled = true\nports = [3478, 3500]\n{section}"));
        all.into_iter().filter(|line| line.contains("behavior")).collect::<Vec<_>>()
    };
    assert_eq!(behavior(""), Vec::<String>::new());
    let two = "addresses = [\"203.0.113.5\", \"203.0.113.6\"]";
    assert_eq!(behavior(two), ["_stun-behavior._udp.example.org. IN SRV 0 0 3478 relay.example.net."]);
    let all = format!("{two}\ntcp = true\ntls_ports = [5349, 5350]\n[tls]\ncertificate = \"a\"\nkey = \"b\"");
    assert_eq!(
        behavior(&all)[1..],
        [
            "_stun-behavior._tcp.example.org. IN SRV 0 0 3478 relay.example.net.",
            "_stun-behaviors._tcp.example.org. IN SRV 0 0 5349 relay.example.net.",
        ]
    );
}

#[test]
fn names_that_are_none_are_refused() {
    for name in ["localhost", "203.0.113.5", "turn.example.org.", "turn:example.org"] {
        let run = Place::new().run(&["dns-records", "--host", name]);
        assert_eq!((run.code, run.stderr.contains("turn.example.org")), (Some(2), true), "{name}");
    }
}
