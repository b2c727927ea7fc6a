//! What the operator of the simulated server has decided, in plain words that the model understands without `turn::Config`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use hairpin::turn::{
    Config, Credentials, Lifetimes, Limits, MobilityKey, NonceKeys, PeerPolicy, PortRange, RelayAddress, SharedSecret,
    StaticUser,
};

use crate::dice::Dice;

pub const REALM: &str = "sim.example";
pub const SECRET: &[u8] = b"north";
pub const TTL_SECS_MAX: u64 = 86_400;
/// Users and passwords. Everybody knows them; clients decide themselves whether to get them right.
pub const USERS: [(&str, &str); 3] = [("alice", "s3cret"), ("bob", "hunter2"), ("carol", "pass:word")];

/// Peers that may be reached, unless a reload denies them.
pub const PEERS: [&str; 6] =
    ["9.9.9.1:7000", "9.9.9.1:7001", "9.9.9.2:7000", "10.0.0.9:7000", "[2606:4700::1]:7000", "[2606:4700::2]:7000"];
/// Peers that may never be reached: private, the server itself, multicast, disguised.
pub const FORBIDDEN: [&str; 5] =
    ["10.0.0.7:7000", "203.0.113.1:3478", "224.0.0.1:7000", "[fd00::7]:7000", "[::ffff:9.9.9.1]:7000"];
/// Private, and allowed by name all the same.
pub const ALLOWED_BY_NAME: &str = "10.0.0.9";
/// What the server listens on.
pub const SERVERS: [&str; 3] = ["203.0.113.1:3478", "203.0.113.1:443", "[2001:db8:f::1]:3478"];

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address in the tables above")
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Rules {
    pub users: BTreeMap<String, String>,
    /// (bind, advertise).
    pub relays: Vec<(IpAddr, IpAddr)>,
    pub first_port: u16,
    pub last_port: u16,
    pub quarantine_secs: u32,
    pub denied: BTreeSet<IpAddr>,
    pub lifetime_default_secs: u32,
    pub lifetime_max_secs: u32,
    pub nonce_lifetime_secs: u32,
    /// Which nonce key is in use; the one before still checks.
    pub nonce_generation: u8,
    pub allocations_max: usize,
    pub permissions_max: usize,
    pub channels_max: usize,
    pub quota_per_account: usize,
    pub mirrored_max: usize,
    pub mobility: bool,
}

impl Rules {
    /// Small tables and few ports, so that every limit is met.
    pub fn draw(dice: &mut Dice) -> Self {
        let mut relays = vec![(ip("10.1.0.1"), ip("99.88.77.66"))];
        if dice.chance(70) {
            relays.push((ip("2a01:4f8::1"), ip("2a01:4f8::1")));
        }
        if dice.chance(20) {
            relays.push((ip("10.1.0.2"), ip("99.88.77.67")));
        }
        Self {
            users: USERS.iter().map(|(name, password)| (name.to_string(), password.to_string())).collect(),
            relays,
            first_port: 50_000,
            last_port: 50_000 + dice.pick(&[7, 23, 63]),
            quarantine_secs: dice.pick(&[0, 30, 600]),
            denied: BTreeSet::new(),
            lifetime_default_secs: dice.pick(&[600, 600, 120]),
            lifetime_max_secs: dice.pick(&[3600, 900]),
            nonce_lifetime_secs: dice.pick(&[600, 3600, 60]),
            nonce_generation: 1,
            allocations_max: dice.pick(&[1000, 1000, 4]),
            permissions_max: dice.pick(&[100, 3]),
            channels_max: dice.pick(&[100, 2]),
            quota_per_account: dice.pick(&[100, 2]),
            mirrored_max: dice.pick(&[16, 16, 2, 0]),
            mobility: dice.chance(75),
        }
    }

    /// Roomy limits and nothing unusual.
    pub fn calm() -> Self {
        Self {
            relays: vec![(ip("10.1.0.1"), ip("99.88.77.66")), (ip("2a01:4f8::1"), ip("2a01:4f8::1"))],
            last_port: 50_063,
            quarantine_secs: 30,
            lifetime_default_secs: 600,
            lifetime_max_secs: 3600,
            nonce_lifetime_secs: 3600,
            allocations_max: 1000,
            permissions_max: 100,
            channels_max: 100,
            quota_per_account: 100,
            mirrored_max: 16,
            mobility: false,
            ..Self::draw(&mut Dice::new(0))
        }
    }

    /// A reload: one or two things change.
    pub fn amend(&mut self, dice: &mut Dice) {
        for _ in 0..=dice.below(2) {
            match dice.below(10) {
                0 | 1 => {
                    let peer = address(dice.pick(&PEERS)).ip();
                    if !self.denied.remove(&peer) {
                        self.denied.insert(peer);
                    }
                }
                2 => self.nonce_generation += 1,
                3 => self.last_port = self.first_port + dice.pick(&[7, 23, 63]),
                4 => self.first_port = dice.pick(&[50_000, 50_004]),
                5 => {
                    // The machine moved behind its 1:1 NAT: the same relayed addresses, another interface.
                    self.relays[0].0 = ip(dice.pick(&["10.1.0.1", "10.1.0.5"]));
                }
                6 => {
                    if self.relays.len() > 1 && dice.chance(50) {
                        self.relays.pop();
                    } else if !self.relays.iter().any(|(_, advertise)| advertise.is_ipv6()) {
                        self.relays.push((ip("2a01:4f8::1"), ip("2a01:4f8::1")));
                    }
                }
                8 if dice.chance(50) => self.mobility = !self.mobility,
                7 => self.lifetime_default_secs = dice.pick(&[600, 120]),
                _ => {
                    if self.users.remove("carol").is_none() {
                        self.users.insert("carol".into(), "pass:word".into());
                    }
                }
            }
        }
    }

    pub fn is_relay_ip(&self, ip: IpAddr) -> bool {
        self.relays.iter().any(|(_, advertise)| *advertise == ip)
    }

    pub fn is_relay_port(&self, port: u16) -> bool {
        (self.first_port..=self.last_port).contains(&port)
    }

    /// Whether a permission or channel towards this peer may be made. Port 0: for the address as a whole.
    pub fn allows(&self, peer: SocketAddr) -> bool {
        if self.is_relay_ip(peer.ip()) {
            return peer.port() == 0 || self.is_relay_port(peer.port());
        }
        if peer.ip() == ip(ALLOWED_BY_NAME) {
            return true; // `allow` wins over `deny`
        }
        !self.denied.contains(&peer.ip()) && !FORBIDDEN.iter().any(|text| address(text).ip() == peer.ip())
    }

    /// The same for the server.
    pub fn to_config(&self) -> Config {
        let key = |generation: u8| [generation; 32];
        let nonces = NonceKeys {
            current: key(self.nonce_generation),
            previous: Some(key(self.nonce_generation - 1)),
            lifetime_secs: self.nonce_lifetime_secs,
        };
        Config {
            realm: REALM.into(),
            software: Some("Hairpin in a simulation".into()),
            credentials: Credentials {
                users: self
                    .users
                    .iter()
                    .map(|(name, password)| (name.clone(), StaticUser::from_password(name, REALM, password)))
                    .collect(),
                secrets: vec![SharedSecret(b"old".to_vec()), SharedSecret(SECRET.to_vec())],
                ttl_secs_max: TTL_SECS_MAX,
                ..Credentials::default()
            },
            relays: self
                .relays
                .iter()
                .map(|(bind, advertise)| RelayAddress { bind: *bind, advertise: *advertise })
                .collect(),
            ports: PortRange { first: self.first_port, last: self.last_port, quarantine_secs: self.quarantine_secs },
            mobility: self.mobility.then_some(MobilityKey([4; 32])),
            peers: PeerPolicy {
                allow: vec![ip(ALLOWED_BY_NAME).into()],
                deny: self.denied.iter().map(|ip| (*ip).into()).collect(),
                own: SERVERS.iter().map(|text| address(text).ip()).collect(),
                ..PeerPolicy::default()
            },
            lifetimes: Lifetimes {
                allocation_default_secs: self.lifetime_default_secs,
                allocation_max_secs: self.lifetime_max_secs,
            },
            limits: Limits {
                allocations: self.allocations_max,
                permissions_per_allocation: self.permissions_max,
                channels_per_allocation: self.channels_max,
                mirrored_flows_per_allocation: self.mirrored_max,
                effects: 1000,
                ..Limits::default()
            },
            ..Config::new(nonces)
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address in the tables above")
}
