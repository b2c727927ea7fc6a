//! The load that `hairpin bench` puts on a TURN server, any server, and what it measures.
//!
//! Lives here: a client reduced to what a load needs, the generator, histograms of latency, what the server's process
//! and its core have spent meanwhile, and what this program has spent itself. May import `stun` (its own words on the
//! wire), `turn` (buffers) and `net` (batches of datagrams, framing: the instrument must not be the bottleneck). What is
//! printed is in `cli`.
//!
//! Reading order: this file, `client.rs` (what is asked), `link.rs` (over what), `dialogue.rs` (by many at once),
//! `requests.rs` (loads of requests); `mix.rs` and `traffic.rs` (what packets carry, and what they tell on arrival),
//! `worker.rs` (the loop of one thread), `relay.rs` (a session of trials on several), `search.rs` (which trials);
//! `cost.rs` and `own.rs` (what it took the server, and us).

#![forbid(unsafe_code)]

mod client;
mod cost;
mod dialogue;
mod error;
mod link;
mod mix;
mod own;
mod relay;
mod requests;
mod search;
mod traffic;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use cost::{Cost, CostError, Meter};
pub use error::BenchError;
pub use mix::{Mix, Shape};
pub use own::OwnCost;
pub use relay::{Session, relay};
pub use requests::{Requests, requests};
pub use search::{Search, search};
pub use traffic::Latency;

/// The server under test and who asks.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub server: SocketAddr,
    /// Over what.
    pub transport: Transport,
    /// USERNAME.
    pub username: String,
    /// The password that belongs to it.
    pub password: String,
    /// Local addresses of the clients, which they take in turn; at least one. Each has some 28,000 ports.
    pub client_addresses: Vec<IpAddr>,
    /// The local address of the peers.
    pub peer_address: IpAddr,
}

/// What is between clients and server.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection each.
    Tcp,
    /// A connection each, with TLS.
    Tls {
        /// Whom to believe.
        config: Arc<rustls::ClientConfig>,
        /// Whom the certificate has to name.
        name: rustls::pki_types::ServerName<'static>,
    },
}

impl Transport {
    /// `udp`, `tcp` or `tls`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls { .. } => "tls",
        }
    }
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client → peer.
    ToPeer,
    /// Peer → client.
    ToClient,
    /// Both at the same time.
    Both,
}

/// How data travels between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// ChannelData.
    Channel,
    /// Send and Data indications.
    Indication,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many packets under way at any time, all flows and directions together: as fast as the server can.
    Window(usize),
    /// So many packets a second, all flows and directions together, however they fare.
    Rate(f64),
}

/// A load of relayed packets.
#[derive(Clone, Debug)]
pub struct RelayLoad {
    /// Allocations, each with a link of its own.
    pub allocations: usize,
    /// What flows look like; packets of 20 to 65,000 bytes.
    pub shape: Shape,
    /// Which way.
    pub direction: Direction,
    /// In which clothes.
    pub framing: Framing,
    /// Clients talk to each other in pairs, through their relayed addresses, instead of to peers.
    pub relay_to_relay: bool,
    /// Threads, each with its part of the allocations.
    pub threads: usize,
    /// Set-ups at the same time.
    pub at_once: usize,
}

impl RelayLoad {
    /// Directions of all allocations: what sends packets in turn.
    pub fn flows(&self) -> usize {
        match (self.relay_to_relay, self.direction) {
            (true, Direction::Both) | (false, Direction::ToPeer | Direction::ToClient) => self.allocations,
            (true, _) => self.allocations / 2,
            (false, Direction::Both) => 2 * self.allocations,
        }
    }
}

/// A stretch of a load.
#[derive(Clone, Copy, Debug)]
pub struct TrialRule {
    /// How much is sent.
    pub pace: Pace,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub duration: Duration,
}

/// What became of a load, in the measured time.
#[derive(Clone, Debug)]
pub struct RelayResult {
    /// The measured time.
    pub elapsed: Duration,
    /// Packets sent.
    pub offered: u64,
    /// Of these, packets that arrived, also after the end.
    pub delivered: u64,
    /// Packets that arrived after one sent later.
    pub reordered: u64,
    /// Packets that arrived once more.
    pub duplicated: u64,
    /// Packets that arrived with other bytes.
    pub corrupted: u64,
    /// From sending to reading, of those delivered.
    pub latency: Latency,
    /// What it took this program.
    pub own: OwnCost,
    /// What it took the server, if its process is known.
    pub cost: Option<Cost>,
}

impl RelayResult {
    /// Packets that never arrived.
    pub fn lost(&self) -> u64 {
        self.offered.saturating_sub(self.delivered)
    }

    /// Their share of those offered.
    pub fn loss(&self) -> f64 {
        self.lost() as f64 / self.offered.max(1) as f64
    }

    /// Packets delivered in a second.
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64()
    }
}

/// A load of requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLoad {
    /// Clients, each with one question under way.
    pub clients: usize,
    /// Threads, each with its part of the clients.
    pub threads: usize,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub duration: Duration,
}

/// What became of a load of requests.
#[derive(Clone, Debug)]
pub struct RequestResult {
    /// The measured time.
    pub elapsed: Duration,
    /// Complete units.
    pub units: u64,
    /// Questions that had no answer after half a second, and were asked again.
    pub lost: u64,
    /// From each question to its answer; of a set-up, all of it.
    pub latency: Latency,
    /// What it took this program.
    pub own: OwnCost,
    /// What it took the server, if its process is known.
    pub cost: Option<Cost>,
}

impl RequestResult {
    /// Units in a second.
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }
}

/// How a measurement goes, told every second.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Packets sent; zero for loads of requests.
    pub offered_per_second: f64,
    /// Packets delivered, units complete.
    pub done_per_second: f64,
}
