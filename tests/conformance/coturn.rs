//! Debian's coturn on loopback, with everything on that it has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Mutex;

use crate::bench::Target;
use crate::case::Need;
use crate::client::Credentials;
use crate::link::Transport;
use crate::local::{self, REALM, Running, SECOND_SECRET, SECOND_USER, SECRET, USER};

struct Profile {
    name: &'static str,
    arguments: &'static [&'static str],
    meets: &'static [Need],
    one_at_a_time: bool,
}

/// Arguments of all profiles; ports, user and directory are added.
const COMMON: &[&str] = &[
    "-n",
    "--listening-ip=127.0.0.1",
    "--no-multicast-peers",
    "--lt-cred-mech",
    "--no-cli",
    "--cert=chain.pem",
    "--pkey=key.pem",
    "--log-file=stdout",
    "--simple-log",
    "--pidfile=pid",
    "--userdb=users.db",
    "--no-tlsv1",
    "--no-tlsv1_1",
    "--stale-nonce=600",
];

const PROFILES: &[Profile] = &[
    Profile {
        name: "usual",
        arguments: &[
            "--listening-ip=::1",
            "--allow-loopback-peers",
            "--relay-ip=127.0.78.1",
            "--relay-ip=::1",
            "--mobility",
        ],
        meets: &[
            Need::Ipv6,
            Need::DualRelay,
            Need::SecondUser,
            Need::Software,
            Need::DefaultLifetimes,
            Need::NoTokens,
            Need::SameMachine,
            Need::TcpRelay,
            Need::Mobility,
            Need::Classic,
            Need::WideChannels,
            Need::DtlsOnUdpPort,
            Need::TlsOnTcpPort,
        ],
        one_at_a_time: false,
    },
    Profile {
        name: "restricted peers",
        arguments: &["--listening-ip=::1", "--relay-ip=127.0.78.2", "--relay-ip=::1", "--denied-peer-ip=8.8.8.8"],
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
        arguments: &["--allow-loopback-peers", "--relay-ip=127.0.78.3"],
        meets: &[Need::Ipv4RelayOnly, Need::SecondUser],
        one_at_a_time: false,
    },
    Profile {
        name: "limits",
        arguments: &["--allow-loopback-peers", "--relay-ip=127.0.78.4", "--user-quota=2"],
        meets: &[Need::QuotaOfTwo, Need::SecondUser],
        one_at_a_time: true,
    },
    Profile {
        name: "few ports",
        arguments: &["--allow-loopback-peers", "--relay-ip=127.0.78.5", "--min-port=51000", "--max-port=51003"],
        meets: &[Need::FewPorts, Need::SecondUser],
        one_at_a_time: true,
    },
    Profile {
        name: "shared secrets",
        arguments: &[
            "--allow-loopback-peers",
            "--relay-ip=127.0.78.6",
            "--use-auth-secret",
            "--static-auth-secret=north-north-north-north",
            "--static-auth-secret=south-south-south-south",
        ],
        meets: &[Need::SharedSecret, Need::SecondSecret],
        one_at_a_time: false,
    },
    Profile {
        name: "shared secrets, limits",
        arguments: &[
            "--allow-loopback-peers",
            "--relay-ip=127.0.78.10",
            "--use-auth-secret",
            "--static-auth-secret=north-north-north-north",
            "--user-quota=2",
        ],
        meets: &[Need::SharedSecret, Need::QuotaOfTwo],
        one_at_a_time: true,
    },
    Profile {
        name: "hardened",
        arguments: &[
            "--allow-loopback-peers",
            "--relay-ip=127.0.78.11",
            "--no-rfc5780",
            "--no-stun-backward-compatibility",
            "--response-origin-only-with-rfc5780",
        ],
        meets: &[Need::NoSecondAddress, Need::NoClassic],
        one_at_a_time: false,
    },
    Profile {
        name: "behind 1:1 NAT",
        arguments: &["--allow-loopback-peers", "--relay-ip=127.0.78.12", "--external-ip=127.0.88.12/127.0.78.12"],
        meets: &[Need::AdvertisedAddress],
        one_at_a_time: false,
    },
    Profile {
        name: "redirecting",
        arguments: &[
            "--relay-ip=127.0.78.13",
            "--alternate-server=198.51.100.1:3478",
            "--tls-alternate-server=198.51.100.1:5349",
        ],
        meets: &[Need::RedirectUnsigned],
        one_at_a_time: false,
    },
    Profile {
        name: "no software",
        arguments: &["--allow-loopback-peers", "--relay-ip=127.0.78.7", "--no-software-attribute"],
        meets: &[Need::NoSoftware],
        one_at_a_time: false,
    },
    Profile {
        name: "two addresses",
        arguments: &["--allow-loopback-peers", "--listening-ip=127.0.0.2", "--relay-ip=127.0.78.8"],
        meets: &[Need::TwoAddresses],
        one_at_a_time: false,
    },
    Profile {
        name: "TCP relays only",
        arguments: &["--allow-loopback-peers", "--relay-ip=127.0.78.9", "--no-udp-relay"],
        meets: &[Need::TcpRelayOnly],
        one_at_a_time: false,
    },
];

/// Starts a server for every profile.
///
/// # Errors
/// If there is no coturn, or what it wrote.
pub fn start() -> Result<Vec<Running>, String> {
    let program = local::find_program("turnserver").ok_or("turnserver is not installed (Debian: package coturn)")?;
    let run = |profile: &Profile| {
        let directory = local::make_directory(&profile.name.replace(' ', "-"));
        let (port, tls_port) = (local::free_ports(), local::free_ports());
        let mut command = Command::new(&program);
        command.args(COMMON).args(profile.arguments);
        command.arg(format!("--listening-port={port}")).arg(format!("--tls-listening-port={tls_port}"));
        command.arg(format!("--realm={REALM}"));
        if !profile.meets.contains(&Need::SharedSecret) {
            for (name, password) in [USER, SECOND_USER] {
                command.arg(format!("--user={name}:{password}"));
            }
        }
        local::start(command, directory, |_| Some(target(profile, port, tls_port)))
            .map_err(|why| format!("coturn, profile {:?}: {why}", profile.name))
    };
    // Another process may take a port between our finding it free and the server's binding it.
    let run = |profile| (0..3).map(|_| run(profile)).find(Result::is_ok).unwrap_or_else(|| run(profile));
    PROFILES.iter().map(run).collect()
}

fn target(profile: &Profile, port: u16, tls_port: u16) -> Target {
    let listeners = |ip: IpAddr| {
        let ports =
            [(Transport::Udp, port), (Transport::Tcp, port), (Transport::Tls, tls_port), (Transport::Dtls, tls_port)];
        let spoken = ports.into_iter().filter(|(transport, _)| *transport != Transport::Dtls || cfg!(feature = "dtls"));
        BTreeMap::from_iter(spoken.map(|(transport, port)| (transport, SocketAddr::new(ip, port))))
    };
    let has_secrets = profile.meets.contains(&Need::SharedSecret);
    let is_restricted = profile.meets.contains(&Need::PeersRestricted);
    Target {
        profile: profile.name.to_owned(),
        host: "localhost".to_owned(),
        ipv4: listeners(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ipv6: if profile.meets.contains(&Need::Ipv6) {
            listeners(IpAddr::V6(Ipv6Addr::LOCALHOST))
        } else {
            BTreeMap::new()
        },
        user: if has_secrets {
            crate::rest_credentials::time_limited(SECRET, &crate::rest_credentials::in_an_hour("alice"))
        } else {
            Credentials::new(USER.0, USER.1)
        },
        second_user: (!has_secrets).then(|| Credentials::new(SECOND_USER.0, SECOND_USER.1)),
        short_term_user: None,
        secrets: if has_secrets { vec![SECRET.to_owned(), SECOND_SECRET.to_owned()] } else { Vec::new() },
        token_keys: Vec::new(),
        peer: (!is_restricted).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        denied_peer: is_restricted.then_some(IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8))),
        has: profile.meets.iter().copied().collect(),
        process: None,
        turn: profile.one_at_a_time.then(|| Mutex::new(())),
    }
}
