//! What is asked of the offload, what became of it, and what it counts. The same with and without the program.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::turn::Direction;

/// Which way packets are caught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The best that each interface has and that is known to work there.
    #[default]
    Auto,
    /// At tc ingress: any Ethernet device, after the kernel has made a packet of its own of what came in.
    Tc,
    /// In the driver, before it does (XDP in native mode): where the driver has it.
    Xdp,
    /// Not at all.
    Off,
}

impl Mode {
    /// The word used in the configuration, in metrics and in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Off => "off",
        }
    }
}

/// What to load and where to attach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which way packets are caught.
    pub mode: Mode,
    /// Interfaces to attach to, by name. None: those that carry one of `addresses`, never lo.
    pub interfaces: Vec<String>,
    /// Addresses that are listened on or relayed at. An unspecified one stands for every address of its family.
    pub addresses: Vec<IpAddr>,
    /// Flows that can be mirrored at a time, by all shards together; at least one a shard. Each takes 384 bytes and two
    /// places in a hash map, about 0.7 KB of kernel memory in all, which is allocated at once.
    pub flows: u32,
    /// A directory of a BPF file system where maps and links are kept when the process dies, for the next one. `None`: all
    /// goes when the process does.
    pub pin: Option<PathBuf>,
}

impl Settings {
    /// Flows unless the operator says otherwise.
    pub const FLOWS: u32 = 65_536;
    /// The most that can be asked for.
    pub const FLOWS_MAX: u32 = 4_194_304;
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: Mode::Auto, interfaces: Vec::new(), addresses: Vec::new(), flows: Self::FLOWS, pin: None }
    }
}

/// Why nothing is relayed in the kernel: what is missing and what to do about it, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub(super) String);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// How packets of an interface are caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// A link at tc ingress (Linux 6.6), which goes with whoever holds it.
    Tcx,
    /// A filter of a clsact qdisc, for older kernels.
    Clsact,
    /// XDP in native mode.
    Xdp,
    /// They are not: the sockets get all of them.
    UserSpace,
}

impl Way {
    /// Every way, in order of declaration.
    pub const ALL: &'static [Self] = &[Self::Tcx, Self::Clsact, Self::Xdp, Self::UserSpace];

    /// The word used in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Xdp => "xdp",
            Self::UserSpace => "user_space",
        }
    }
}

/// What was chosen for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How its packets are caught.
    pub way: Way,
    /// Why that way and no better one.
    pub why: String,
}

/// What was chosen, for logs, metrics and the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Every interface that was considered.
    pub interfaces: Vec<Interface>,
    /// What else an operator should know, a sentence each: a family that stays in user space, and why.
    pub notes: Vec<String>,
    /// Flows that can be mirrored at a time.
    pub flows: u32,
    /// Whether maps and links of an earlier process were taken over.
    pub adopted: bool,
}

/// Why a UDP packet that came to one of the interfaces was left to the sockets. The program has the same list
/// (`program/counters.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PassedUp {
    /// It belongs to no mirrored flow: requests, everything that is not ours.
    Unknown,
    /// Its flow has ended or expired.
    Expired,
    /// A fragment, IP options or extension headers, or a broken IP header.
    NotPlain,
    /// Lengths in its headers that do not agree, as with padding behind the data.
    Length,
    /// It has no UDP checksum that could be carried on.
    NoChecksum,
    /// Its UDP checksum was left to the network card, as senders on the same host do.
    PartialChecksum,
    /// Several packets that the kernel has merged into one.
    Merged,
    /// It is longer than the way out carries unfragmented.
    TooLong,
    /// No route, or one that leads to this machine or through a tunnel that only the kernel can enter.
    NoRoute,
    /// The link-layer address of the next hop is not known yet.
    NoNeighbor,
    /// For another relay of this server, whose flow is not mirrored.
    OtherRelay,
    /// The kernel refused a change to the packet.
    Refused,
}

impl PassedUp {
    /// Every reason, in order of declaration.
    pub const ALL: &'static [Self] = &[
        Self::Unknown,
        Self::Expired,
        Self::NotPlain,
        Self::Length,
        Self::NoChecksum,
        Self::PartialChecksum,
        Self::Merged,
        Self::TooLong,
        Self::NoRoute,
        Self::NoNeighbor,
        Self::OtherRelay,
        Self::Refused,
    ];

    /// The word used in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NotPlain => "not_plain",
            Self::Length => "length",
            Self::NoChecksum => "no_checksum",
            Self::PartialChecksum => "partial_checksum",
            Self::Merged => "merged",
            Self::TooLong => "too_long",
            Self::NoRoute => "no_route",
            Self::NoNeighbor => "no_neighbor",
            Self::OtherRelay => "other_relay",
            Self::Refused => "refused",
        }
    }
}

/// What the program has counted since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub(super) relayed: [u64; 2],
    pub(super) passed_up: [u64; PassedUp::ALL.len()],
}

impl Counters {
    /// Packets relayed in this direction. One from relay to relay counts in both.
    pub const fn relayed(&self, direction: Direction) -> u64 {
        self.relayed[direction as usize]
    }

    /// UDP packets left to the sockets for this reason.
    pub const fn passed_up(&self, reason: PassedUp) -> u64 {
        self.passed_up[reason as usize]
    }
}
