//! A topology as its author wrote it: the TOML, nothing checked beyond types and spelling of keys.

use std::time::Duration;

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub description: String,
    #[serde(default, rename = "router")]
    pub routers: Vec<RouterEntry>,
    #[serde(default, rename = "server")]
    pub servers: Vec<ServerEntry>,
    #[serde(default, rename = "browser")]
    pub browsers: Vec<BrowserEntry>,
    #[serde(default, rename = "phone")]
    pub phones: Vec<PhoneEntry>,
}

/// `[[router]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouterEntry {
    pub name: String,
    pub nat: super::Nat,
    #[serde(default)]
    pub udp: super::Udp,
    #[serde(default)]
    pub tcp: super::Tcp,
    #[serde(default)]
    pub ipv6: super::Ipv6,
    /// Bytes of the largest IP packet, on both sides of the router. Absent: 1,500.
    pub mtu: Option<u16>,
    #[serde(default, deserialize_with = "super::link::percentage")]
    pub loss: u16,
    #[serde(default, deserialize_with = "super::link::rate")]
    pub rate: Option<u32>,
    #[serde(default, deserialize_with = "super::link::milliseconds")]
    pub delay: Duration,
    #[serde(default, deserialize_with = "super::link::milliseconds")]
    pub jitter: Duration,
    /// Absent: the router is on the Internet exchange itself.
    pub behind: Option<String>,
}

/// `[[server]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerEntry {
    pub name: String,
    pub runs: super::Service,
    pub behind: String,
}

/// `[[browser]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BrowserEntry {
    pub name: String,
    pub behind: String,
    /// Absent: the first TURN server of the file.
    pub turn: Option<String>,
    /// Absent: no proxy.
    pub proxy: Option<String>,
}

/// `[[phone]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PhoneEntry {
    pub name: String,
    pub behind: String,
    /// Present: a telephone behind the gateway. Absent: a SIP client.
    pub number: Option<String>,
}
