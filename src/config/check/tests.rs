//! What is refused and with which words, what is noted, and that the shipped example tells the truth.

mod auth;
mod backend;
mod discovery;
mod listen;

use std::net::IpAddr;

use super::*;
use crate::config::EXAMPLE;
use crate::config::document::Document;
use crate::config::written::{self, Written};
use crate::turn::Transport;

/// One public address, behind no NAT.
fn machine() -> Machine {
    let addresses = ["127.0.0.1", "::1", "8.8.4.4", "10.0.0.5"];
    Machine {
        cores: 4,
        interfaces: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        default_routes: vec!["8.8.4.4".parse().unwrap()],
        can_bind: |ip| {
            ip.is_loopback() || ip.is_unspecified() || ip.to_string() == "8.8.4.4" || ip.to_string() == "10.0.0.5"
        },
        is_another: false,
    }
}

pub(super) fn check(text: &str) -> Result<Config, Errors> {
    check_text(text, Some(Path::new("test.toml")), &machine())
}

pub(super) fn accept(text: &str) -> Config {
    check(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

/// Line, key, part of what is wrong, part of the remedy.
type Complaint = (usize, &'static str, &'static str, &'static str);

const REFUSED: &[(&str, Complaint)] = &[
    // The text as such.
    ("threads = ", (1, "", "not TOML", "key = value")),
    ("threads = 1\nthreads = 2", (2, "", "duplicate", "once")),
    ("[log]\nlevel = \"info\"\n[log]", (3, "", "duplicate", "merge")),
    // Keys and kinds.
    ("[auth]\nsecret = \"x\"", (2, "auth.secret", "no such key", "did you mean secrets?")),
    ("colour = 1", (1, "colour", "no such key", "the keys here are threads, software")),
    ("[listn]\nudp = []", (1, "listn", "no such key", "did you mean listen?")),
    ("threads = \"4\"", (1, "threads", "expected a whole number", "like threads = 0")),
    ("[log]\nlevel = 3", (2, "log.level", "expected a string", "like level = \"info\"")),
    ("log = 3", (1, "log", "invalid type", "write [log] with its keys below")),
    ("[listen]\nudp = \"0.0.0.0:3478\"", (2, "listen.udp", "expected a list", "like udp = [")),
    ("[auth]\nusers = [\"alice\"]", (2, "auth.users[0]", "wrong kind", "[[auth.users]]")),
    ("[[auth.users]]\nname = \"a\"\npassword = 5", (3, "auth.users[0].password", "a string", "in \"quotes\"")),
    ("[listen]\nudp = [3478]", (2, "listen.udp[0]", "invalid type", "in quotes")),
    // Numbers, durations, sizes, words.
    ("threads = -1", (1, "threads", "-1 is out of bounds", "from 0 to 1024")),
    ("[limits]\nallocations = 0", (2, "limits.allocations", "out of bounds", "from 1 to 1000000")),
    ("[limits]\nchannels_per_allocation = 4097", (2, "limits.channels_per_allocation", "out", "from 1 to 4096")),
    (
        "[limits]\nconnection_send_buffer = \"1KiB\"",
        (2, "limits.connection_send_buffer", "out", "\"128KiB\" to \"64MiB\""),
    ),
    ("[limits]\npeer_connections = 0", (2, "limits.peer_connections", "out of bounds", "from 1 to 1000000")),
    (
        "[limits]\npeer_connections_per_allocation = 70000",
        (2, "limits.peer_connections_per_allocation", "out", "from 1 to 65536"),
    ),
    ("[limits]\nconnection_idle = \"60\"", (2, "limits.connection_idle", "not a duration", "\"60s\"")),
    ("[sockets]\nlisten_buffer = \"4MB\"", (2, "sockets.listen_buffer", "not a size", "KiB, MiB")),
    ("[sockets]\ncoalesce = \"1s\"", (2, "sockets.coalesce", "not a short duration", "us, ms")),
    ("[sockets]\ncoalesce = \"3ms\"", (2, "sockets.coalesce", "out of bounds", "\"0us\" to \"2ms\"")),
    ("[sockets]\ncoalesce_streams = \"3ms\"", (2, "sockets.coalesce_streams", "out of bounds", "\"0us\" to \"2ms\"")),
    ("[allocations]\nlifetime_default = \"9m\"", (2, "allocations.lifetime_default", "out of bounds", "\"10m\" to")),
    ("[allocations]\nlifetime_default = \"2h\"", (1, "allocations.lifetime_max", "shorter", "\"2h\" or more")),
    ("[auth]\nnonce_lifetime = \"2h\"", (2, "auth.nonce_lifetime", "out of bounds", "\"1m\" to \"1h\"")),
    ("[log]\nformat = \"xml\"", (2, "log.format", "\"xml\" is not known", "\"text\", \"logfmt\", \"json\"")),
    ("[shutdown]\ndrain = \"soon\"", (2, "shutdown.drain", "not a duration", "whole number")),
    // Relaying in the kernel.
    ("[offload]\nmode = \"on\"", (2, "offload.mode", "\"on\" is not known", "\"auto\", \"tc\", \"xdp\", \"off\"")),
    ("[offload]\nflows = 100", (2, "offload.flows", "out of bounds", "from 1024 to 4194304")),
    ("[offload]\ninterfaces = [\"eth0/1\"]", (2, "offload.interfaces[0]", "cannot be the name", "`ip link`")),
    ("[offload]\npin = \"hairpin\"", (2, "offload.pin", "not a whole path", "/sys/fs/bpf")),
    ("[offload]\npin = \"/proc\"", (2, "offload.pin", "in no BPF file system", "mount -t bpf bpf /proc")),
    // Where to listen.
    ("[listen]\nudp = [\"0.0.0.0\"]", (2, "listen.udp[0]", "not an address with a port", "\"0.0.0.0:3478\"")),
    ("[listen]\nudp = [\"turn.example.org:3478\"]", (2, "listen.udp[0]", "not an address", "names are not looked up")),
    ("[listen]\nudp = []\ntcp = []", (2, "listen.udp", "nothing to listen on", "remove the key")),
    ("[listen]\ntcp = [\"[::1]:5\", \"[::1]:5\"]", (2, "listen.tcp[1]", "listed twice", "remove one")),
    ("[listen]\nudp = [\"0.0.0.0:5\", \"127.0.0.1:5\"]", (2, "listen.udp[1]", "overlap", "remove one")),
    (
        "[listen]\nudp = [\"9.9.9.9:3478\"]",
        (2, "listen.udp[0]", "not an address of this machine", "127.0.0.1, 8.8.4.4"),
    ),
    ("[listen]\ntls = [\"0.0.0.0\"]", (2, "listen.tls[0]", "not an address with a port", "\"0.0.0.0:5349\"")),
    ("[listen]\ntls = [\"0.0.0.0:5349\"]", (2, "listen.tls", "there is none", "certificate = \"fullchain.pem\"")),
    (
        "[listen]\ntls = [\"0.0.0.0:443\"]\n[tls]\ncertificate = \"x\"",
        (2, "listen.tls", "no private key", "key = \"privkey.pem\""),
    ),
    ("[tls]\nkey = \"x\"", (1, "tls.certificate", "no certificate", "certificate = \"fullchain.pem\"")),
    (
        "[tls]\nkey = \"x\"\ncertificate = \"/does/not/exist\"",
        (3, "tls.certificate", "/does/not/exist cannot be read", "fullchain.pem"),
    ),
    ("[tls]\nkey = \"x\"\ncertificate = \"/dev/zero\"", (3, "tls.certificate", "not a file", "fullchain.pem")),
    ("[tls]\nhandshake_timeout = \"2m\"", (2, "tls.handshake_timeout", "out of bounds", "\"1s\" to \"1m\"")),
    ("[listen]\nudp = [\"8.8.4.4:50000\"]", (2, "listen.udp[0]", "among the relay ports", "like 3478")),
    ("[listen]\nudp = [\"0.0.0.0:50000\"]", (2, "listen.udp[0]", "among the relay ports", "relay.ports")),
    ("[admin]\nlisten = \"127.0.0.1:3478\"", (2, "admin.listen", "0.0.0.0:3478 over TCP already", "another port")),
    ("[admin]\ntoken = \"short\"", (2, "admin.token", "can be guessed", "openssl rand")),
    ("[admin]\ntoken = 5", (2, "admin.token", "wrong kind", "like token")),
    ("[admin]\ntoken = \"0123456789abcdef\"\ntoken_file = \"x\"", (2, "admin.token", "another one", "keep one")),
    ("[admin]\nmetrics_token_file = \"missing\"", (2, "admin.metrics_token_file", "cannot be read", "name a file")),
    ("[admin]\ncredentials_listen = \"127.0.0.1:9642\"", (2, "admin.credentials_listen", "without a token", "set")),
    ("[admin]\ncredentials_host = \"turn:x\"", (2, "admin.credentials_host", "neither a name", "without scheme")),
    ("[admin]\ncredentials_origins = [\"x\"]", (2, "admin.credentials_origins[0]", "not the origin", "https://")),
    ("[admin]\ncredentials_lifetime = \"1s\"", (2, "admin.credentials_lifetime", "out of bounds", "\"1m\"")),
    (
        "[[auth.users]]\nname = \"a\"\npassword = \"b\"\n[admin]\ncredentials_token = \"0123456789abcdef\"",
        (5, "admin.credentials_token", "no shared secret", "auth.secrets"),
    ),
    ("[admin]\nlisten = \"9641\"", (2, "admin.listen", "not an address", "0.0.0.0:9641")),
    // Older clients.
    ("[clients]\ndeny = [\"10.1.2.3/8\"]", (2, "clients.deny[0]", "bits set beyond its length", "\"10.0.0.0/8\"")),
    (
        "[compatibility]\nclassic_stun = [\"udp\", \"tls\"]",
        (2, "compatibility.classic_stun[1]", "\"tls\" is not known", "\"udp\", \"tcp\""),
    ),
    (
        "[listen]\ntcp = []\n[compatibility]\nclassic_stun = [\"tcp\"]",
        (4, "compatibility.classic_stun[0]", "nothing listens for tcp", "listen.tcp"),
    ),
    ("[relay]\ndefault_family = \"ipv6\"", (2, "relay.default_family", "not known", "\"ipv4\", \"client\"")),
    // Other servers.
    ("[redirect]\nwhen = \"never\"", (2, "redirect.when", "not known", "\"draining\", \"full\"")),
    ("[[redirect.alternates]]\nport = 1", (1, "redirect.alternates[0].addresses", "one address", "2001:db8::5")),
    (
        "[[redirect.alternates]]\naddresses = [\"9.9.9.9\", \"9.9.9.10\"]",
        (2, "redirect.alternates[0].addresses", "one of each family", "an entry of its own"),
    ),
    (
        "[[redirect.alternates]]\naddresses = [\"turn.example.org\"]",
        (2, "redirect.alternates[0].addresses[0]", "not an IP address", "names are not looked up"),
    ),
    (
        "[[redirect.alternates]]\naddresses = [\"9.9.9.9\"]\nport = 0",
        (3, "redirect.alternates[0].port", "0 is out of bounds", "from 1 to 65535"),
    ),
    (
        "[[redirect.alternates]]\naddresses = [\"9.9.9.9\"]\ndomain = \"bücher.example\"",
        (3, "redirect.alternates[0].domain", "not a host name", "xn--"),
    ),
    ("[redirect]\nanycast = [\"9.9.9.9\"]", (2, "redirect.anycast[0]", "not an address of this", "127.0.0.1, 8.8.4.4")),
    ("[redirect]\nanycast = [\"::1\"]", (2, "redirect.anycast[0]", "no unicast address of IPv6", "redirect.unicast")),
    (
        "[redirect]\nanycast = [\"10.0.0.5\"]\nunicast = [\"10.0.0.5\"]",
        (3, "redirect.unicast[0]", "in redirect.anycast, too", "one of the two"),
    ),
    (
        "[listen]\nudp = [\"10.0.0.5:3478\"]\ntcp = []\n[redirect]\nanycast = [\"10.0.0.5\"]",
        (5, "redirect.anycast", "nowhere but at anycast", "as well"),
    ),
    ("[auth]\nnonce_secret = \"short\"", (2, "auth.nonce_secret", "can be guessed", "openssl rand -hex 32")),
    (
        "[auth]\nnonce_secret_file = \"/does/not/exist\"",
        (2, "auth.nonce_secret_file", "/does/not/exist cannot be read", "one secret in it"),
    ),
    (
        "[auth]\nnonce_secret_file = \"a\"\nnonce_secret = \"b\"",
        (3, "auth.nonce_secret", "another one in auth.nonce_secret_file", "keep one"),
    ),
    // NAT behaviour discovery.
    (
        "[nat_discovery]\nenabled = true\naddresses = [\"8.8.4.4\"]",
        (3, "nat_discovery.addresses", "of IPv4 there must be two, and there is 1", "two addresses of a family"),
    ),
    (
        "[nat_discovery]\nenabled = true\naddresses = [\"8.8.4.4\", \"9.9.9.9\"]",
        (3, "nat_discovery.addresses[1]", "not an address of this machine", "advertise = \"9.9.9.9\""),
    ),
    (
        "[nat_discovery]\nenabled = true\nports = [3478, 3478]",
        (3, "nat_discovery.ports", "not two ports", "[3478, 3479]"),
    ),
    ("[nat_discovery]\nenabled = true\nports = [3478, 0]", (3, "nat_discovery.ports", "not two ports", "[3478, 3479]")),
    (
        "[nat_discovery]\nenabled = true\ntls_ports = [5349, 5350]",
        (3, "nat_discovery.tls_ports", "there is none", "fullchain.pem"),
    ),
    (
        "[nat_discovery]\nenabled = true\nports = [3478, 50000]\naddresses = [\"8.8.4.4\", \"127.0.0.1\"]",
        (3, "nat_discovery.ports", "among the relay ports", "relay.ports"),
    ),
    // Relays.
    ("[relay]\nports = \"70000-80000\"", (2, "relay.ports", "not a range", "65535")),
    ("[relay]\nports = \"2000-1500\"", (2, "relay.ports", "above the last", "\"1500-2000\"")),
    ("[relay]\nports = \"80-2000\"", (2, "relay.ports", "well-known", "1024")),
    ("threads = 8\n[relay]\nports = \"5000-5009\"", (3, "relay.ports", "8 threads", "threads = 0")),
    ("[relay]\naddresses = [\"8.8.4.4:1\"]", (2, "relay.addresses[0]", "not an IP address", "\"8.8.4.4\"")),
    (
        "[relay]\naddresses = [\"9.9.9.9\"]",
        (2, "relay.addresses[0]", "not an address of this machine", "bind = \"8.8.4.4\", advertise = \"9.9.9.9\""),
    ),
    ("[relay]\naddresses = [\"0.0.0.0\"]", (2, "relay.addresses[0]", "all addresses", "addresses = []")),
    (
        "[relay]\naddresses = [\"::ffff:8.8.4.4\"]",
        (2, "relay.addresses[0]", "IPv4 address written as IPv6", "\"8.8.4.4\""),
    ),
    ("[relay]\naddresses = [\"8.8.4.4\", \"8.8.4.4\"]", (2, "relay.addresses[1]", "used by an entry before", "once")),
    (
        "[relay]\naddresses = [{ bind = \"8.8.4.4\" }]",
        (2, "relay.addresses[0].advertise", "not an IP address", "203.0.113.5"),
    ),
    (
        "[relay]\naddresses = [{ bind = \"8.8.4.4\", advertise = \"::1\" }]",
        (2, "relay.addresses[0].advertise", "same family", "IPv4 with IPv4"),
    ),
    (
        "[relay]\naddresses = [{ bind = \"8.8.4.4\", advertize = \"9.9.9.9\" }]",
        (2, "relay.addresses[0].advertize", "no such key", "did you mean advertise?"),
    ),
    // Who may allocate.
    ("[auth]\nrealm = \"a\\\"b\"", (2, "auth.realm", "quote", "without quotes")),
    ("[auth]\nrealm = \"\"", (2, "auth.realm", "empty", "example.org")),
    ("[auth]\nsecrets = [\"short\"]", (2, "auth.secrets[0]", "5 bytes can be guessed", "openssl rand -hex 32")),
    ("[auth]\nsecrets = [\"0123456789abcdef\", \"0123456789abcdef\"]", (2, "auth.secrets[1]", "twice", "remove")),
    (
        "[auth]\nsecret_files = [\"/does/not/exist\"]",
        (2, "auth.secret_files[0]", "/does/not/exist cannot be read", "one secret in it"),
    ),
    ("[auth]\nsecret_files = [\"/dev/zero\"]", (2, "auth.secret_files[0]", "not a file", "one secret in it")),
    ("[[auth.users]]\npassword = \"x\"", (1, "auth.users[0].name", "empty", "name = \"alice\"")),
    ("[[auth.users]]\nname = \"a\"", (1, "auth.users[0].password", "neither password nor keys", "password = ")),
    (
        "[[auth.users]]\nname = \"a\"\npassword = \"x\"\nkey_md5 = \"00\"",
        (3, "auth.users[0].password", "both", "keep one"),
    ),
    (
        "[[auth.users]]\nname = \"a\"\nkey_md5 = \"0g\"",
        (3, "auth.users[0].key_md5", "not a key", "32 hexadecimal digits"),
    ),
    (
        "[[auth.users]]\nname = \"a\"\nkey_sha256 = \"00\"",
        (3, "auth.users[0].key_sha256", "not a key", "64 hexadecimal digits"),
    ),
    (
        "[[auth.users]]\nname = \"a\"\npassword = \"x\"\n[[auth.users]]\nname = \"a\"\npassword = \"y\"",
        (5, "auth.users[1].name", "taken", "another name"),
    ),
    (
        "[[auth.users]]\nname = \"a\\u0000\"\npassword = \"x\"",
        (2, "auth.users[0].name", "RFC 8265", "name = \"alice\""),
    ),
    (
        "[[auth.users]]\nname = \"\\\"a\\\"\"\npassword = \"x\"",
        (2, "auth.users[0].name", "quotes around", "without them"),
    ),
    ("[auth]\ncredential_separator = \"9\"", (2, "auth.credential_separator", "cannot stand", "like \":\"")),
    ("[auth]\ncredential_separator = \"::\"", (2, "auth.credential_separator", "cannot stand", "like \":\"")),
    ("[auth]\ncredential_hash = \"md5\"", (2, "auth.credential_hash", "\"md5\" is not known", "\"sha1\", \"sha256\"")),
    ("[auth]\nmd5 = 0", (2, "auth.md5", "expected a boolean", "like md5 = true")),
    (
        "[[auth.token_keys]]\nkid = \"k\"\nkey = \"0011\"",
        (3, "auth.token_keys[0].key", "not a key of AES-128 or AES-256", "openssl rand -hex 32"),
    ),
    (
        "[[auth.token_keys]]\nkey = \"00112233445566778899aabbccddeeff\"",
        (1, "auth.token_keys[0].kid", "it is empty", "kid = \"2026-11\""),
    ),
    (
        "[[auth.token_keys]]\nkid = \"k\"\nkey = \"00112233445566778899aabbccddeeff\"\n\
         [[auth.token_keys]]\nkid = \"k\"\nkey = \"ABEiM0RVZneImaq7zN3u/w==\"",
        (5, "auth.token_keys[1].kid", "another key has this id", "another id"),
    ),
    (
        "[[auth.binding_users]]\nname = \"a\"",
        (1, "auth.binding_users[0].password", "not usable: it is empty", "another password"),
    ),
    (
        "[[auth.binding_users]]\nname = \"a\"\npassword = \"x\"\n[[auth.binding_users]]\nname = \"a\"\npassword = \"y\"",
        (5, "auth.binding_users[1].name", "taken", "another name"),
    ),
    ("[auth]\nguests = [\"10.1.2.3/8\"]", (2, "auth.guests[0]", "bits set beyond its length", "\"10.0.0.0/8\"")),
    (
        "[[auth.users]]\nname = \"k\"\npassword = \"x\"\n\
         [[auth.token_keys]]\nkid = \"k\"\nkey = \"00112233445566778899aabbccddeeff\"",
        (5, "auth.token_keys[0].kid", "a user has this name", "another id"),
    ),
    ("[auth]\ntoken_server_name = \"x\"", (2, "auth.token_server_name", "no keys", "[[auth.token_keys]]")),
    // Peers (abuse S2).
    ("[peers]\nallow = [\"10.1.2.3/8\"]", (2, "peers.allow[0]", "bits set beyond its length", "\"10.0.0.0/8\"")),
    (
        "[peers]\ndeny = [\"8.8.8.0/24\", \"2001:db8::/129\"]",
        (2, "peers.deny[1]", "not an address prefix", "2001:db8::/32"),
    ),
    ("[peers]\ndeny = [\"8.0.0.0/8\", \"8.0.0.0/8\"]", (2, "peers.deny[1]", "listed twice", "remove")),
    (
        "[peers]\nallow = [\"0.0.0.0/0\"]\ndeny = [\"8.0.0.0/8\"]",
        (3, "peers.deny[0]", "reachable all the same", "narrower"),
    ),
    ("[peers]\nallow = [\"::ffff:10.0.0.0/104\"]", (2, "peers.allow[0]", "never allowed", "IPv4 prefix itself")),
];

/// Found by fuzzing: there `[::]` of the defaults cannot be bound, and was refused as if somebody had chosen it.
#[test]
fn defaults_serve_on_a_machine_without_ipv6() {
    let machine = Machine { can_bind: |ip| ip.is_ipv4(), ..machine() };
    let config = check_text("", None, &machine).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.shards.listen.iter().all(|entry| entry.required == entry.address.is_ipv4()));
    let errors = check_text("[listen]\nudp = [\"[::]:3478\"]", None, &machine).unwrap_err();
    assert!(errors.to_string().contains("not an address of this machine"), "{errors}");
}

#[test]
fn each_mistake_is_refused_with_line_key_and_remedy() {
    each_is_refused(REFUSED);
}

#[track_caller]
fn each_is_refused(mistakes: &[(&str, Complaint)]) {
    for (text, (line, key, wrong, fix)) in mistakes {
        let errors = check(text).expect_err(text);
        let [problem] = errors.problems() else { panic!("{text}\nmore than one complaint:\n{errors}") };
        assert_eq!(problem.key, *key, "{text}\n{errors}");
        // What is missing from the file altogether can only point at the section, if there is one.
        assert_eq!(problem.position.map(|position| position.line), Some(*line), "{text}\n{errors}");
        assert!(problem.wrong.contains(wrong), "{text}\n{errors}");
        assert!(problem.fix.contains(fix), "{text}\n{errors}");
        assert!(errors.to_string().starts_with(&format!("test.toml:{line}:")), "{errors}");
    }
}

#[test]
fn independent_mistakes_are_reported_together_in_the_order_of_the_file() {
    let text = "threads = -1\ncolour = 1\n[relay]\nports = \"1-2\"\n[peers]\nallow = [\"x\", \"10.0.0.1/8\"]\n";
    let errors = check(text).unwrap_err();
    let keys: Vec<&str> = errors.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["threads", "colour", "relay.ports", "peers.allow[0]", "peers.allow[1]"]);
}

#[test]
fn messages_do_not_repeat_secrets() {
    let texts = [
        ("[auth]\nsecrets = [\"hunter2\"]", "secrets[0]"),
        ("[auth]\nsecrets = \"hunter2\"", "secrets"),
        ("[auth]\nsecrets = [\"hunter2", ""),
        ("[auth]\nusers = [\"hunter2\"]", "users[0]"),
        ("[[auth.users]]\nname = \"a\"\npassword = 72727272", "users"),
        ("[[auth.users]]\nname = \"a\"\npassword = \"hunter2\\u0000\"", "users[0].password"),
        ("[[auth.users]]\nname = \"b\"\nkey_md5 = \"hunter2\"", "users[0].key_md5"),
        ("[auth]\nnonce_secret = \"hunter2\"", "nonce_secret"),
    ];
    for (text, key) in texts {
        let errors = check(text).unwrap_err().to_string();
        assert!(errors.contains(key) && !errors.contains("hunter2") && !errors.contains("7272"), "{errors}");
    }
}

#[test]
fn nothing_written_is_a_working_configuration() {
    let config = accept("");
    assert!(config.secret_is_made_up);
    assert_eq!(config.shards.count, 4);
    assert_eq!(config.shards.turn.credentials.secrets.len(), 1);
    assert_eq!(config.shards.turn.relays.len(), 1);
    assert_eq!(config.admin.listen.unwrap().to_string(), "127.0.0.1:9641");
    assert_eq!(config.shards.listen.len(), 4);
    let is_optional = |entry: &shard::ListenAddress| entry.address.is_ipv6();
    assert!(config.shards.listen.iter().all(|entry| entry.required != is_optional(entry)));
    assert!(accept("[listen]\nudp = [\"[::]:3478\"]").shards.listen[0].required);
    let debug = format!("{config:?}");
    let secret = format!("{:?}", config.shards.turn.credentials.secrets[0].0);
    assert!(!debug.contains(secret.trim_matches(['[', ']'])), "secrets are redacted");
}

/// TURN-8656-5-13, TURN-8656-7.2-27, TURN-8656-7.2-30: ports and lifetimes that RFC 8656 recommends.
#[test]
fn turn_8656_5_13_the_defaults_are_those_of_the_rfc() {
    let config = accept("");
    let ports = |transport| -> Vec<u16> {
        let of = config.shards.listen.iter().filter(|entry| entry.transport == transport);
        of.map(|entry| entry.address.port()).collect()
    };
    assert_eq!((ports(Transport::Udp), ports(Transport::Tcp)), (vec![3478, 3478], vec![3478, 3478]));
    // Without a certificate there is no TLS; its port stands in every hint.
    let errors = check("[listen]\ntls = [\"0.0.0.0\"]").unwrap_err();
    assert!(errors.problems()[0].fix.contains(":5349"), "{errors}");
    assert!(EXAMPLE.contains("#tls = [\"0.0.0.0:5349\", \"[::]:5349\""));
    let turn = &config.shards.turn;
    assert_eq!((turn.ports.first, turn.ports.last), (49_152, 65_535));
    assert!(check("[relay]\nports = \"1023-2000\"").is_err());
    assert_eq!((turn.lifetimes.allocation_default_secs, turn.lifetimes.allocation_max_secs), (600, 3600));
}

#[test]
fn a_machine_without_internet_relays_on_loopback_and_says_so() {
    let lonely = Machine { default_routes: Vec::new(), ..machine() };
    let config = check_text("", None, &lonely).unwrap();
    let relays: Vec<IpAddr> = config.shards.turn.relays.iter().map(|relay| relay.bind).collect();
    assert_eq!(relays, ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    assert!(config.notes.iter().any(|note| note.text.contains("only programs on this machine")));
}

#[test]
fn what_is_probably_not_meant_is_noted() {
    let noted = [
        ("[relay]\naddresses = [\"10.0.0.5\"]", "the Internet cannot reach"),
        ("[allocations]\nlifetime_max = \"2h\"", "recommends at most 1h"),
        ("[peers]\nallow = [\"127.0.0.0/8\"]", "includes loopback"),
        ("[peers]\nallow = [\"169.254.0.0/16\"]", "metadata service"),
        ("[admin]\nlisten = \"8.8.4.4:9641\"", "not a loopback address"),
        ("[auth]\nguests = [\"0.0.0.0/0\"]", "without credentials"),
        ("[nat_discovery]\naddresses = [\"8.8.4.4\", \"10.0.0.5\"]", "without enabled = true"),
        ("[[redirect.alternates]]\naddresses = [\"8.8.4.4\"]", "8.8.4.4 is this server itself"),
        ("[redirect]\nwhen = \"always\"\n[[redirect.alternates]]\naddresses = [\"9.9.9.9\"]", "auth.nonce_secret"),
        ("[tcp_relay]\nenabled = true\nallow_ports = [\"5432\"]", "port 5432, where services listen"),
        ("[tcp_relay]\nenabled = true\nallow_ports = [\"1-1030\"]", "1023 ports where services listen"),
        ("[offload]\ninterfaces = [\"no-such-one\"]", "no interface \"no-such-one\""),
    ];
    for (text, note) in noted {
        let config = accept(text);
        assert!(config.notes.iter().any(|n| n.text.contains(note)), "{text}: {:?}", config.notes);
    }
    let quiet = accept("[auth]\nsecrets = [\"0123456789abcdef\"]");
    assert_eq!(quiet.notes, []);
}

#[test]
fn own_addresses_are_refused_as_peers_and_1_to_1_nat_is_understood() {
    let config = accept("[relay]\naddresses = [{ bind = \"10.0.0.5\", advertise = \"9.9.9.9\" }]");
    let turn = &config.shards.turn;
    assert_eq!(turn.relays[0].advertise.to_string(), "9.9.9.9");
    for own in ["8.8.4.4", "9.9.9.9"] {
        assert!(turn.peers.check(own.parse().unwrap()).is_err(), "{own}");
    }
    assert!(turn.peers.check("8.8.8.8".parse().unwrap()).is_ok());
}

#[test]
fn off_and_empty_turn_the_admin_port_off() {
    assert_eq!(accept("[admin]\nlisten = \"off\"").admin.listen, None);
    assert_eq!(accept("[admin]\nlisten = \"\"").admin.listen, None);
}

#[test]
fn threads_are_no_more_than_ports_allow() {
    assert_eq!(accept("[relay]\nports = \"5000-5003\"").shards.count, 2);
    assert_eq!(accept("[relay]\nports = \"5001-5001\"").shards.count, 1);
    assert!(check("threads = 2\n[relay]\nports = \"5000-5003\"").is_ok());
    assert!(check("threads = 2\n[relay]\nports = \"5001-5004\"").is_err());
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let document = Document::parse(EXAMPLE).unwrap();
    let mut problems = Vec::new();
    assert!(document.read(&mut problems) == Written::default(), "a value differs from its default");
    assert_eq!(problems, []);
    let sections: [(&str, &[&str]); 18] = [
        ("auth.backend", written::Backend::KEYS),
        ("pass_through", written::PassThrough::KEYS),
        ("listen", written::Listen::KEYS),
        ("proxy_protocol", written::ProxyProtocol::KEYS),
        ("relay", written::Relay::KEYS),
        ("auth", written::Auth::KEYS),
        ("allocations", written::Allocations::KEYS),
        ("limits", written::Limits::KEYS),
        ("tcp_relay", written::TcpRelay::KEYS),
        ("sockets", written::Sockets::KEYS),
        ("peers", written::Peers::KEYS),
        ("clients", written::Clients::KEYS),
        ("redirect", written::Redirect::KEYS),
        ("nat_discovery", written::NatDiscovery::KEYS),
        ("compatibility", written::Compatibility::KEYS),
        ("admin", written::Admin::KEYS),
        ("log", written::Log::KEYS),
        ("recorder", written::Recorder::KEYS),
    ];
    let mut names: Vec<String> = Written::KEYS.iter().map(|key| key.to_string()).collect();
    names.push("shutdown.drain".into());
    for (section, keys) in sections {
        names.extend(keys.iter().map(|key| format!("{section}.{key}")));
    }
    // Lists of tables have no defaults: they stand there as comments.
    let tables = ["auth.users", "auth.token_keys", "auth.binding_users", "redirect.alternates", "realms"];
    names.retain(|name| !tables.contains(&name.as_str()));
    for name in names {
        assert!(document.has(&name), "config.example.toml lacks {name}");
    }
    for key in written::ListenTable::KEYS {
        assert!(EXAMPLE.contains(&format!("{key} = ")), "{key}");
    }
    for key in written::Realm::KEYS {
        assert!(EXAMPLE.contains(&format!("\n#   {key} ")) || EXAMPLE.contains(&format!("\n#{key} = ")), "{key}");
    }
    let entries =
        [written::User::KEYS, written::TokenKey::KEYS, written::BindingUser::KEYS, written::Alternate::KEYS].concat();
    for key in entries.into_iter().map(str::to_owned).chain(tables.map(|table| format!("[{table}]"))) {
        assert!(EXAMPLE.contains(&format!("\n#{key}")) || EXAMPLE.contains(&format!("\n#[{key}]")), "{key}");
    }
}

#[test]
fn the_examples_in_comments_of_the_example_are_understood() {
    let mut text = String::new();
    let mut instead_of = None;
    for line in EXAMPLE.lines() {
        let example =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        let key = line.split(" = ").next();
        if let Some(example) = example {
            instead_of = example.split(" = ").next();
            text.extend([example, "\n"]);
        } else if key != instead_of {
            text.extend([line, "\n"]);
        }
    }
    let mut problems = Vec::new();
    let written = Document::parse(&text).unwrap_or_else(|problem| panic!("{problem:?}\n{text}")).read(&mut problems);
    assert_eq!(problems, []);
    let auth = &written.auth;
    assert_eq!((auth.users.len(), auth.token_keys.len(), auth.binding_users.len()), (2, 1, 1));
    assert_eq!(written.relay.addresses.len(), 2);
}

proptest::proptest! {
    /// Abuse S17: whatever a file has become, it is judged in finite time, and each complaint has a remedy.
    #[test]
    fn s17_damaged_files_are_refused_with_remedies(
        edits in proptest::collection::vec((0..EXAMPLE.len(), 0..40_usize, "[a-z0-9\\[\\]{}=.,:\"'#\n -]{0,12}"), 1..6)
    ) {
        let mut bytes: Vec<u8> = EXAMPLE.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n").into();
        for (at, len, text) in edits {
            let from = at % bytes.len().max(1);
            let to = (from + len).min(bytes.len());
            bytes.splice(from..to, text.bytes());
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(errors) = check(&text) {
            proptest::prop_assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                proptest::prop_assert!(!problem.wrong.is_empty() && !problem.fix.is_empty(), "{}", errors);
            }
        }
    }
}
