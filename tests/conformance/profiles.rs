//! Our own server, in the configurations that the cases need.
//!
//! A feature that gets a configuration key gets a profile here, with the needs that it meets; the cases that have been
//! waiting for it run from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Mutex;

use crate::bench::Target;
use crate::cable;
use crate::case::Need;
use crate::client::Credentials;
use crate::link::Transport;
use crate::local::{self, REALM, Running, SECOND_SECRET, SECOND_USER, SECRET, TOKEN_KEYS, USER};

/// A configuration: what it changes of the common one, and what it is good for.
struct Profile {
    name: &'static str,
    /// Keys in dotted form, values as TOML, in which FREE_PORT and NEXT_PORT stand for such ports.
    changes: &'static [(&'static str, &'static str)],
    meets: &'static [Need],
    /// Its limits are met by counting, so cases must not overlap.
    one_at_a_time: bool,
}

const DENIED_PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));

/// The first that meets all needs of a case is taken.
const PROFILES: &[Profile] = &[
    Profile {
        name: "usual",
        changes: &[],
        meets: &[
            Need::Ipv6,
            Need::DualRelay,
            Need::SecondUser,
            Need::Software,
            Need::DefaultLifetimes,
            Need::AccentedUser,
            Need::Userhash,
            Need::NoSecondAddress,
            Need::NoTokens,
            Need::NoClassic,
            Need::Alpn,
            Need::SameMachine,
            Need::MobilityForbidden,
        ],
        one_at_a_time: false,
    },
    Profile {
        name: "restricted peers",
        changes: &[("peers.allow", "[]"), ("peers.deny", "[\"8.8.8.0/24\"]")],
        meets: &[
            Need::PeersRestricted,
            Need::DeniedPeer,
            Need::SecondUser,
            Need::SameMachine,
            Need::Ipv6,
            Need::DualRelay,
        ],
        one_at_a_time: false,
    },
    Profile {
        name: "IPv4 only",
        changes: &[("relay.addresses", "[\"127.0.77.3\"]")],
        meets: &[Need::Ipv4RelayOnly, Need::SecondUser],
        one_at_a_time: false,
    },
    Profile {
        name: "limits",
        changes: &[
            ("relay.addresses", "[\"127.0.77.4\"]"),
            ("limits.allocations_per_user", "2"),
            ("limits.permissions_per_allocation", "3"),
            ("limits.channels_per_allocation", "2"),
            ("limits.connection_idle", "\"5s\""),
        ],
        meets: &[Need::QuotaOfTwo, Need::FewPermissions, Need::ShortIdle, Need::SecondUser],
        one_at_a_time: true,
    },
    Profile {
        name: "few ports",
        changes: &[
            ("threads", "1"),
            ("relay.addresses", "[\"127.0.77.5\"]"),
            ("relay.ports", "\"51000-51003\""),
            ("relay.port_quarantine", "\"0s\""),
        ],
        meets: &[Need::FewPorts, Need::SecondUser],
        one_at_a_time: true,
    },
    Profile {
        name: "shared secrets",
        changes: &[
            ("relay.addresses", "[\"127.0.77.6\"]"),
            ("auth.users", "[]"),
            ("auth.secrets", "[\"north-north-north-north\", \"south-south-south-south\"]"),
        ],
        meets: &[Need::SharedSecret, Need::SecondSecret],
        one_at_a_time: false,
    },
    Profile {
        name: "shared secrets, limits",
        changes: &[
            ("relay.addresses", "[\"127.0.77.9\"]"),
            ("auth.users", "[]"),
            ("auth.secrets", "[\"north-north-north-north\"]"),
            ("limits.allocations_per_user", "2"),
        ],
        meets: &[Need::SharedSecret, Need::QuotaOfTwo],
        one_at_a_time: true,
    },
    Profile {
        name: "mobility",
        changes: &[("relay.addresses", "[\"127.0.77.20\"]"), ("allocations.mobility", "true")],
        meets: &[Need::Mobility, Need::SecondUser],
        one_at_a_time: false,
    },
    Profile {
        name: "no software",
        changes: &[("relay.addresses", "[\"127.0.77.7\"]"), ("software", "\"\"")],
        meets: &[Need::NoSoftware],
        one_at_a_time: false,
    },
    Profile {
        name: "behind 1:1 NAT",
        changes: &[("relay.addresses", "[{ bind = \"127.0.77.8\", advertise = \"127.0.88.8\" }]")],
        meets: &[Need::AdvertisedAddress],
        one_at_a_time: false,
    },
    Profile {
        name: "SHA-256 only",
        changes: &[("relay.addresses", "[\"127.0.77.10\"]"), ("auth.md5", "false")],
        meets: &[Need::Sha256Only],
        one_at_a_time: false,
    },
    Profile {
        name: "guests",
        changes: &[("relay.addresses", "[\"127.0.77.11\"]"), ("auth.guests", "[\"127.0.0.0/8\"]")],
        meets: &[Need::Guests],
        one_at_a_time: false,
    },
    Profile {
        name: "access tokens",
        changes: &[
            ("relay.addresses", "[\"127.0.77.12\"]"),
            (
                "auth.token_keys",
                "[{ kid = \"north\", key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\" }, \
                 { kid = \"south\", key = \"ffeeddccbbaa99887766554433221100\" }]",
            ),
        ],
        meets: &[Need::TokenKey],
        one_at_a_time: false,
    },
    Profile {
        name: "short-term credentials",
        changes: &[
            ("relay.addresses", "[\"127.0.77.13\"]"),
            ("auth.binding_users", "[{ name = \"bob\", password = \"pa55word\" }]"),
        ],
        meets: &[Need::ShortTerm],
        one_at_a_time: false,
    },
    Profile {
        name: "older clients",
        changes: &[
            ("relay.addresses", "[\"127.0.77.14\"]"),
            ("compatibility.classic_stun", "[\"udp\"]"),
            ("compatibility.rfc5766_channels", "true"),
            ("auth.saslprep", "true"),
            (
                "auth.users",
                "[{ name = \"\\u30de\\u30c8\\u30ea\\u30c3\\u30af\\u30b9\", \
                 password = \"The\\u00adM\\u00aatr\\u2168\" }, { name = \"alice\", password = \"s3cret\" }]",
            ),
        ],
        meets: &[Need::Saslprep, Need::Classic, Need::WideChannels],
        one_at_a_time: false,
    },
    Profile {
        name: "redirecting",
        changes: &[
            ("relay.addresses", "[\"127.0.77.15\", \"::1\"]"),
            ("redirect.when", "\"always\""),
            ("redirect.alternates", ALTERNATES),
            ("auth.nonce_secret", "\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\""),
        ],
        meets: &[Need::Redirect, Need::Ipv6],
        one_at_a_time: false,
    },
    Profile {
        name: "redirecting anybody",
        changes: &[
            ("relay.addresses", "[\"127.0.77.16\"]"),
            ("redirect.when", "\"always\""),
            ("redirect.unauthenticated", "true"),
            ("redirect.alternates", ALTERNATES),
        ],
        meets: &[Need::RedirectUnsigned],
        one_at_a_time: false,
    },
    Profile {
        name: "anycast",
        changes: &[
            ("relay.addresses", "[\"127.0.77.17\"]"),
            ("redirect.anycast", "[\"127.0.0.1\"]"),
            ("redirect.unicast", "[\"127.0.77.17\"]"),
        ],
        meets: &[Need::Anycast],
        one_at_a_time: false,
    },
    Profile {
        name: "two addresses",
        changes: &[
            ("relay.addresses", "[\"127.0.77.18\"]"),
            ("nat_discovery.enabled", "true"),
            ("nat_discovery.addresses", "[\"127.0.0.1\", \"127.0.77.19\"]"),
            ("nat_discovery.ports", "[FREE_PORT, NEXT_PORT]"),
            ("nat_discovery.tcp", "true"),
            ("nat_discovery.response_port", "true"),
            ("nat_discovery.padding", "true"),
        ],
        meets: &[Need::TwoAddresses],
        one_at_a_time: false,
    },
    Profile {
        name: "clients denied",
        changes: &[("relay.addresses", "[\"127.0.77.20\"]"), ("clients.deny", "[\"127.0.0.0/8\"]")],
        meets: &[Need::ClientDenied],
        one_at_a_time: false,
    },
    Profile {
        name: "no DONT-FRAGMENT",
        changes: &[("relay.addresses", "[\"127.0.77.21\"]"), ("relay.dont_fragment", "false")],
        meets: &[Need::NoDontFragment],
        one_at_a_time: false,
    },
    Profile {
        name: "TCP relays",
        changes: &[("relay.addresses", "[\"127.0.77.22\"]"), ("tcp_relay.enabled", "true")],
        meets: &[Need::TcpRelay, Need::SecondUser, Need::SameMachine],
        one_at_a_time: false,
    },
    Profile {
        name: "TCP relays only",
        changes: &[("relay.addresses", "[\"127.0.77.23\"]"), ("relay.udp", "false"), ("tcp_relay.enabled", "true")],
        meets: &[Need::TcpRelayOnly],
        one_at_a_time: false,
    },
    Profile {
        name: "shared ports",
        changes: &[
            ("relay.addresses", "[\"127.0.77.24\"]"),
            ("listen.tcp", "[{ address = \"127.0.0.1:0\", tls = true }]"),
            ("listen.udp", "[{ address = \"127.0.0.1:0\", dtls = true }]"),
        ],
        meets: &[Need::TlsOnTcpPort, Need::DtlsOnUdpPort],
        one_at_a_time: false,
    },
];

/// As the usual one. Nothing between changes what packets carry.
const OVER_A_CABLE: Profile = Profile { name: "over a cable", ..PROFILES[0] };

/// Of the documentation prefixes: nobody is there.
const ALTERNATES: &str = "[{ addresses = [\"198.51.100.1\", \"2001:db8::1\"], port = 3478, tls_port = 5349, \
                          domain = \"turn2.example.org\" }]";

/// Whether the server that was built along speaks DTLS.
const HAS_DTLS: bool = cfg!(feature = "dtls");

/// What is known to fail, and why: the beginning of ids, and the transport. Nothing else may.
pub const KNOWN_FAILURES: &[(&str, Transport, &str)] = &[];

const COMMON: &[(&str, &str)] = &[
    ("threads", "2"),
    ("listen.udp", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
    ("listen.tcp", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
    ("listen.tls", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
    ("listen.dtls", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
    ("tls.certificate", "\"chain.pem\""),
    ("tls.key", "\"key.pem\""),
    ("relay.addresses", "[\"127.0.77.1\", \"::1\"]"),
    ("relay.port_quarantine", "\"0s\""),
    ("peers.allow", "[\"127.0.0.0/8\", \"::1/128\"]"),
    ("limits.allocations_per_user", "4000"),
    ("limits.allocations", "4000"),
    ("limits.connections", "4000"),
    ("limits.answers_per_prefix", "0"),
    ("admin.listen", "\"off\""),
    ("log.format", "\"json\""),
];

/// Starts a server for every profile.
///
/// # Errors
/// What a server wrote that did not start.
pub fn start() -> Result<Vec<Running>, String> {
    // Another process may take a port between our finding it free and the server's binding it.
    let run = |profile| (0..3).map(|_| run(profile)).find(Result::is_ok).unwrap_or_else(|| run(profile));
    PROFILES.iter().map(|profile| run(profile).map_err(|why| format!("profile {:?}: {why}", profile.name))).collect()
}

/// Starts the usual one where the kernel relays.
///
/// # Errors
/// As [`start`].
pub fn start_over_a_cable() -> Result<Vec<Running>, String> {
    let (v4, v6) = (cable::SERVER, cable::SERVER_V6);
    let listen = format!("[\"{v4}:0\", \"[{v6}]:0\"]");
    let changes = [
        ("listen.udp", listen.clone()),
        ("listen.tcp", listen.clone()),
        ("listen.tls", listen.clone()),
        ("listen.dtls", listen),
        ("relay.addresses", format!("[\"{v4}\", \"{v6}\"]")),
        ("peers.allow", "[]".to_owned()),
        ("admin.socket", format!("{:?}", cable::ADMIN_SOCKET)),
    ];
    let running = run_as(&OVER_A_CABLE, cable::command(), &changes)?;
    Ok(vec![running])
}

fn run(profile: &Profile) -> Result<Running, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
    command.args(["serve", "--config", "hairpin.toml"]);
    run_as(profile, command, &[])
}

/// With changes that could not be written down before.
fn run_as(profile: &Profile, mut command: Command, more: &[(&'static str, String)]) -> Result<Running, String> {
    let directory = local::make_directory(&profile.name.replace([' ', ':'], "-"));
    let user = |(name, password)| format!("{{ name = \"{name}\", password = \"{password}\" }}");
    let users = [USER, SECOND_USER, ("caf\u{e9}", "s3cret")].map(user).join(", ");
    let mut settings: BTreeMap<&str, String> = COMMON.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    settings.insert("auth.realm", format!("\"{REALM}\""));
    settings.insert("auth.users", format!("[{users}]"));
    settings.extend(profile.changes.iter().map(|(key, value)| (*key, (*value).to_owned())));
    settings.extend(more.iter().cloned());
    if !HAS_DTLS {
        settings.remove("listen.dtls");
    }
    let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let port = local::free_ports();
    let mut text = lines.concat();
    if !local::has_ipv6() {
        text = text.replace(", \"[::1]:0\"", "").replace(", \"::1\"", "");
    }
    if !HAS_DTLS {
        text = text.replace(", dtls = true", "");
    }
    let text = text.replace("FREE_PORT", &port.to_string()).replace("NEXT_PORT", &(port + 1).to_string());
    std::fs::write(directory.join("hairpin.toml"), text).expect("the directory was just made");
    command.env_remove("HAIRPIN_CONFIG");
    local::start(command, directory, |log| target(profile, log))
}

/// Reads the addresses out of the line that says them.
fn target(profile: &Profile, log: &str) -> Option<Target> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let line = lines.find(|line| line["message"] == "listening")?;
    let (mut ipv4, mut ipv6) = (BTreeMap::new(), BTreeMap::new());
    for transport in Transport::ALL {
        for word in line[transport.to_string()].as_str()?.split_whitespace() {
            let address: SocketAddr = word.parse().ok()?;
            if address.is_ipv4() { &mut ipv4 } else { &mut ipv6 }.insert(transport, address);
        }
    }
    let mut meets: BTreeSet<Need> = profile.meets.iter().copied().collect();
    if !HAS_DTLS {
        meets.remove(&Need::DtlsOnUdpPort);
    }
    if !local::has_ipv6() {
        meets.retain(|need| ![Need::Ipv6, Need::DualRelay].contains(need));
    }
    let has_secrets = meets.contains(&Need::SharedSecret);
    let user = if has_secrets { time_limited() } else { Credentials::new(USER.0, USER.1) };
    let is_near = ipv4.values().all(|address: &SocketAddr| address.ip().is_loopback());
    let here = if is_near { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { cable::SUITE.parse().expect("an address") };
    let is_restricted = meets.contains(&Need::PeersRestricted);
    Some(Target {
        profile: profile.name.to_owned(),
        host: "localhost".to_owned(),
        ipv4,
        ipv6,
        user,
        second_user: (!has_secrets).then(|| Credentials::new(SECOND_USER.0, SECOND_USER.1)),
        secrets: if has_secrets { vec![SECRET.to_owned(), SECOND_SECRET.to_owned()] } else { Vec::new() },
        token_keys: if meets.contains(&Need::TokenKey) { token_keys() } else { Vec::new() },
        short_term_user: meets.contains(&Need::ShortTerm).then(|| Credentials::new(SECOND_USER.0, SECOND_USER.1)),
        peer: (!is_restricted).then_some(here),
        denied_peer: is_restricted.then_some(DENIED_PEER),
        has: meets,
        process: None,
        turn: profile.one_at_a_time.then(|| Mutex::new(())),
    })
}

fn time_limited() -> Credentials {
    crate::rest_credentials::time_limited(SECRET, &crate::rest_credentials::in_an_hour("alice"))
}

fn token_keys() -> Vec<(String, Vec<u8>)> {
    TOKEN_KEYS.iter().map(|(kid, key)| ((*kid).to_owned(), hex::decode(key).expect("hexadecimal digits"))).collect()
}
