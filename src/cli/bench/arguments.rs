//! What may be written behind `hairpin bench`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::super::uri::Uri;

/// Put load on a TURN server, any server, and measure what arrives, how late, and what it costs the server.
///
/// Only for servers of your own: it sends as much as it is told to. Without a mode it is `relay`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    pub(super) mode: Mode,
}

/// Puts the mode that is meant without one behind `bench`: clap cannot tell a URI from a mode.
pub(in crate::cli) fn with_mode(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_uri = |word: &OsString| word.to_str().is_some_and(|word| word.contains(':'));
    if words.get(1).is_some_and(|word| word == "bench") && words.get(2).is_some_and(is_uri) {
        words.insert(2, "relay".into());
    }
    words
}

#[derive(Debug, Subcommand)]
pub(super) enum Mode {
    /// Relay application data through allocations
    Relay(Relay),
    /// Connect, shake hands, allocate, permit, bind a channel and relay a first packet, with credentials, over and over
    Setup(Requests),
    /// Allocate, permit, bind a channel and delete, with credentials, over and over
    Allocate(Requests),
    /// Ask for Binding, over and over
    Binding(Requests),
    /// Hold allocations with a channel each, idle: memory, and the cost of keeping them
    Idle(Idle),
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// User name
    #[arg(long)]
    pub(super) user: Option<String>,
    /// Password
    #[arg(long, env = "HAIRPIN_PASSWORD", hide_env_values = true)]
    pub(super) password: Option<String>,
    /// With turns: believe certificates of this PEM file as well as this system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca: Option<PathBuf>,
    /// With turns: believe any certificate
    #[arg(long)]
    pub(super) insecure: bool,
    /// Local addresses of the clients, separated by commas, taken in turn: each has some 28,000 ports [default: the one
    /// from which packets to the server leave]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(super) client_address: Vec<IpAddr>,
    /// Local address of the peers [default: the first of the clients]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) peer_address: Option<IpAddr>,
    /// Process of the server, if it runs on this machine: its time and memory are reported
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,
    /// Core the server is pinned to: its whole time is reported, with what the kernel spends there on packets
    #[arg(long, value_name = "CORE", requires = "server_pid")]
    pub(super) server_cpu: Option<usize>,
    /// Threads that make the load
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) threads: u16,
    /// Seconds measured; with --search, of each trial
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Seconds before that are not
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(super) warm_up: f64,
    /// Print one JSON document instead of lines
    #[arg(long)]
    pub(super) json: bool,
    /// No progress on the standard error output
    #[arg(long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct SetUp {
    /// Allocations, each with a client of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(super) allocations: u32,
    /// Allocations set up at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) at_once: u32,
}

#[derive(Debug, Args)]
pub(super) struct Relay {
    /// The server, like turn:192.0.2.1:3478, turn:HOST?transport=tcp or turns:HOST
    pub(super) uri: Uri,
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) set_up: SetUp,
    /// Bytes of application data in each packet
    #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u16).range(20..=65_000))]
    pub(super) payload: u16,
    /// Packets of one flow back to back
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) burst: u16,
    /// Packets as calls make them, at the pace of as many calls as there are allocations unless another is given
    #[arg(long, value_enum, conflicts_with_all = ["payload", "burst"])]
    pub(super) mix: Option<MixName>,
    /// Which way packets go
    #[arg(long, value_enum, default_value_t = Way::Both)]
    pub(super) direction: Way,
    /// Send and Data indications instead of ChannelData
    #[arg(long)]
    pub(super) indications: bool,
    /// Pairs of clients talk to each other through their relayed addresses, instead of to peers
    #[arg(long)]
    pub(super) relay_to_relay: bool,
    /// Packets a second, however they fare
    #[arg(long, value_name = "PACKETS", value_parser = rate, conflicts_with_all = ["window", "search"])]
    pub(super) rate: Option<f64>,
    /// Packets under way at any time: as fast as the server can [default: 192]
    #[arg(long, value_name = "PACKETS", conflicts_with = "search", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) window: Option<u32>,
    /// Find the highest pace that passes: trials of --seconds, in the manner of RFC 2544
    #[arg(long)]
    pub(super) search: bool,
    /// The share of packets that a passing trial may lose, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, requires = "search")]
    pub(super) loss_max: f64,
    /// How close passing and failing pace are at the end, as a share of the pace
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = resolution, requires = "search")]
    pub(super) resolution: f64,
    /// Trials at the pace found that must pass
    #[arg(long, value_name = "TRIALS", default_value_t = 2, requires = "search", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) confirm: u32,
    /// Never more packets a second than this
    #[arg(long, value_name = "PACKETS", default_value_t = 1e7, value_parser = rate, requires = "search")]
    pub(super) rate_max: f64,
}

#[derive(Debug, Args)]
pub(super) struct Idle {
    /// The server, like turn:192.0.2.1:3478, turn:HOST?transport=tcp or turns:HOST
    pub(super) uri: Uri,
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) set_up: SetUp,
}

#[derive(Debug, Args)]
pub(super) struct Requests {
    /// The server, like turn:192.0.2.1:3478, turn:HOST?transport=tcp or turns:HOST
    pub(super) uri: Uri,
    #[command(flatten)]
    pub(super) common: Common,
    /// Clients, each with one request under way
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) clients: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Way {
    /// Client to peer
    ToPeer,
    /// Peer to client
    ToClient,
    /// Both at the same time
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum MixName {
    /// 50 packets a second of 140 to 180 bytes
    Opus,
    /// 720p: 30 frames a second of 5 packets with 1,100 to 1,200 bytes, every third second one of 50
    Video,
    /// A shared screen: 5 frames a second of 2 small packets, every fourth second one of 80 with 1,180 bytes
    Screen,
}

fn seconds(text: &str) -> Result<f64, String> {
    bounded(text, 0.0..=86_400.0).ok_or_else(|| "write seconds, from 0 to 86400".into())
}

fn rate(text: &str) -> Result<f64, String> {
    bounded(text, 0.1..=1e9).ok_or_else(|| "write packets a second, from 0.1 to 1000000000".into())
}

fn share(text: &str) -> Result<f64, String> {
    bounded(text, 0.0..=1.0).ok_or_else(|| "write a share, from 0 to 1 (one per cent is 0.01)".into())
}

fn resolution(text: &str) -> Result<f64, String> {
    bounded(text, 0.001..=0.5).ok_or_else(|| "write a share, from 0.001 to 0.5".into())
}

fn bounded(text: &str, bounds: std::ops::RangeInclusive<f64>) -> Option<f64> {
    text.parse().ok().filter(|number| bounds.contains(number))
}
