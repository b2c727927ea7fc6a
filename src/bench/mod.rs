//! The load that `hairpin bench` puts on a TURN server, any server, and what it measures.
//!
//! Lives here: a client reduced to what a load needs, the generator, histograms of latency, and what the server's process
//! and its core have spent meanwhile. May import `stun` (its own words on the wire), `turn` (buffers) and `net` (batches
//! of datagrams: the instrument must not be the bottleneck). What is printed is in `cli`.
//!
//! Reading order: this file, `client.rs` (set-up), `traffic.rs` (what packets carry, and what they tell on arrival),
//! `relay.rs` (the loop), `cost.rs` (what it took the server).

#![forbid(unsafe_code)]

mod client;
mod cost;
mod relay;
mod requests;
mod traffic;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use cost::{Cost, CostError, Meter};
pub use relay::run as relay;
pub use requests::{allocate, binding};
pub use traffic::Latency;

/// The server under test and who asks.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens, over UDP.
    pub server: SocketAddr,
    /// USERNAME.
    pub username: String,
    /// The password that belongs to it.
    pub password: String,
    /// The local address of the clients; also of the peers, unless `peer_address` says otherwise.
    pub client_address: IpAddr,
    /// The local address of the peers.
    pub peer_address: IpAddr,
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
#[derive(Clone, Copy, Debug)]
pub struct RelayLoad {
    /// Allocations, each with a socket and a peer flow of its own.
    pub allocations: usize,
    /// Application data of each packet, in bytes; 20 to 65,000.
    pub payload: usize,
    /// Which way.
    pub direction: Direction,
    /// In which clothes.
    pub framing: Framing,
    /// How much.
    pub pace: Pace,
    /// Packets of one flow in a row.
    pub burst: usize,
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
    /// Packets that arrived with other bytes.
    pub corrupted: u64,
    /// From sending to reading, of those delivered.
    pub latency: Latency,
    /// The part of the time that the generator itself was busy, from 0 to 1. Near 1 it is what limits.
    pub generator_busy: f64,
    /// What it took the server, if its process is known.
    pub cost: Option<Cost>,
}

impl RelayResult {
    /// Packets that never arrived.
    pub fn lost(&self) -> u64 {
        self.offered.saturating_sub(self.delivered)
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
    /// Questions that were not answered in a second.
    pub lost: u64,
    /// From each question to its answer.
    pub latency: Latency,
    /// What it took the server, if its process is known.
    pub cost: Option<Cost>,
}

impl RequestResult {
    /// Units in a second.
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }
}

/// Why there is no measurement.
#[derive(Debug)]
pub enum BenchError {
    /// A system call of this side failed.
    Socket(&'static str, std::io::Error),
    /// The server did not answer this request in time.
    Silence(&'static str),
    /// The server refused: method and error code.
    Refused(&'static str, u16),
    /// The server answered with something that makes no sense.
    Nonsense(&'static str),
    /// The cost could not be read.
    Cost(CostError),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(what, error) => write!(f, "cannot {what}: {error}"),
            Self::Silence(what) => write!(f, "no answer to {what}: is the server running, and is UDP let through?"),
            Self::Refused(what, 401) => write!(f, "{what} was refused with 401: wrong user name or password"),
            Self::Refused(what, 403) => {
                write!(f, "{what} was refused with 403: the server's policy must allow the peers' address")
            }
            Self::Refused(what, 486) => write!(f, "{what} was refused with 486: raise the server's quota per user"),
            Self::Refused(what, code) => write!(f, "{what} was refused with {code}"),
            Self::Nonsense(what) => write!(f, "the answer to {what} is not what the standard says"),
            Self::Cost(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BenchError {}
