//! What a server tells clients about addresses, and what older clients are allowed.

use super::*;

/// STUN-8489-10-07: the same secret makes the same nonce keys, and no secret makes others at each start.
#[test]
fn stun_8489_10_07_nonce_keys_come_from_a_shared_secret() {
    let keys = |secret: &str| accept(&format!("[auth]\nnonce_secret = \"{secret}\"")).shards.turn.nonces.current;
    assert_eq!(keys("0123456789abcdef"), keys("0123456789abcdef"));
    assert_ne!(keys("0123456789abcdef"), keys("0123456789abcdeg"));
    assert_ne!(keys(""), keys(""));
}

/// STUN-8489-10-06: the list may be the same on all servers; each leaves itself out.
#[test]
fn stun_8489_10_06_a_server_is_not_its_own_alternate() {
    let left = |text: &str, alternate: &str| {
        let config = accept(&format!("{text}\n[[redirect.alternates]]\n{alternate}"));
        !config.shards.turn.redirect.alternates.is_empty()
    };
    assert!(left("", "addresses = [\"9.9.9.9\"]"));
    for own in ["8.8.4.4", "10.0.0.5", "127.0.0.1", "::1"] {
        assert!(!left("", &format!("addresses = [\"{own}\"]")), "{own}");
        assert!(left("", &format!("addresses = [\"{own}\"]\nport = 3479")), "another program at {own}");
    }
    let behind_nat = "[relay]\naddresses = [{ bind = \"10.0.0.5\", advertise = \"9.9.9.9\" }]";
    assert!(!left(behind_nat, "addresses = [\"9.9.9.9\", \"2001:db8::5\"]"));
    let elsewhere = "[listen]\nudp = [\"10.0.0.5:3478\"]\ntcp = []";
    assert!(left(elsewhere, "addresses = [\"8.8.4.4\"]") && !left(elsewhere, "addresses = [\"10.0.0.5\"]"));
    // Unicast addresses are those of relays, unless they are said.
    let redirect = accept("[redirect]\nanycast = [\"10.0.0.5\"]").shards.turn.redirect.clone();
    assert_eq!((redirect.anycast.len(), redirect.unicast), (1, vec!["8.8.4.4".parse::<IpAddr>().unwrap()]));
}

/// NATB-5780-6-01, NATB-5780-10-01: two addresses, two ports, the same at both; each of the four is listened at once.
#[test]
fn natb_5780_6_01_addresses_and_ports_become_listeners() {
    assert!(accept("").shards.turn.behavior_discovery.is_none());
    let section = "[nat_discovery]\nenabled = true\naddresses = [\"8.8.4.4\", \"10.0.0.5\"]";
    let added = |text: &str| {
        let config = accept(text);
        let own = config.shards.listen.iter().filter(|entry| !entry.address.ip().is_unspecified());
        own.map(ToString::to_string).collect::<Vec<_>>()
    };
    // The default listeners are at the first port of all addresses.
    assert_eq!(added(section), ["udp 8.8.4.4:3479", "udp 10.0.0.5:3479"]);
    let with_tcp = format!("{section}\ntcp = true");
    assert_eq!(added(&with_tcp)[2..], ["tcp 8.8.4.4:3479", "tcp 10.0.0.5:3479"]);
    let alone = format!("[listen]\nudp = [\"10.0.0.5:3478\"]\n{section}");
    assert_eq!(added(&alone)[1..], ["udp 8.8.4.4:3478", "udp 8.8.4.4:3479", "udp 10.0.0.5:3479"]);
    let discovery = accept(section).shards.turn.behavior_discovery.clone().unwrap();
    assert_eq!((discovery.addresses.len(), discovery.udp, discovery.tcp), (1, Some([3478, 3479]), None));
    assert!(discovery.change_request && !discovery.response_port && !discovery.padding);
    // Without addresses, what can be had without.
    let lone = accept("[nat_discovery]\nenabled = true");
    assert!(lone.shards.turn.behavior_discovery.as_ref().unwrap().addresses.is_empty());
    assert_eq!(lone.shards.listen.len(), 4);
    // Behind a 1:1 NAT.
    let mapped = "{ bind = \"8.8.4.4\", advertise = \"9.9.9.1\" }, { bind = \"10.0.0.5\", advertise = \"9.9.9.2\" }";
    let mapped = accept(&format!("[nat_discovery]\nenabled = true\naddresses = [{mapped}]")).shards.turn;
    let pair = mapped.behavior_discovery.as_ref().unwrap().addresses[0];
    assert_eq!(pair.map(|address| address.advertise.to_string()), ["9.9.9.1", "9.9.9.2"]);
}

/// CLASSIC-3489-02, CLASSIC-5766-01, A08, TURN-8656-7.2-07: all as the RFCs want it, unless somebody says otherwise.
#[test]
fn classic_3489_02_older_clients_are_served_by_configuration_only() {
    let turn = accept("").shards.turn;
    assert_eq!((turn.compatibility, turn.dont_fragment), (turn::Compatibility::default(), true));
    assert_eq!(turn.denied_clients, []);
    let text = "[relay]\ndefault_family = \"client\"\ndont_fragment = false\n[clients]\ndeny = [\"10.0.0.0/8\"]\n\
                [compatibility]\nclassic_stun = [\"tcp\", \"udp\"]\nrfc5766_channels = true";
    let turn = accept(text).shards.turn;
    let all = turn::Compatibility { classic_udp: true, classic_tcp: true, rfc_5766_channels: true, own_family: true };
    assert_eq!((turn.compatibility, turn.dont_fragment, turn.denied_clients.len()), (all, false, 1));
    let udp = accept("[compatibility]\nclassic_stun = [\"udp\"]").shards.turn;
    assert_eq!((udp.compatibility.classic_udp, udp.compatibility.classic_tcp), (true, false));
}
