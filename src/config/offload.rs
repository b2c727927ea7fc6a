//! What the kernel is to relay by itself.

use std::path::PathBuf;

/// As configured; what comes of it is found out when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offload {
    /// How, if at all.
    pub mode: OffloadMode,
    /// Names of the interfaces where packets come in. Empty: those of the addresses that are listened on and relayed from.
    pub interfaces: Vec<String>,
    /// Mirrored at the same time, over all shards.
    pub flows: u32,
    /// Where links and maps are kept for the next process: a directory of a BPF file system.
    pub pin: Option<PathBuf>,
}

/// How the kernel is to relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadMode {
    /// As suits each interface, if it is possible at all; if not, that is nothing to worry about.
    Auto,
    /// At the interface's tc hook. The operator counts on it.
    Tc,
    /// In the interface's driver. The operator counts on it.
    Xdp,
    /// Not.
    Off,
}

impl OffloadMode {
    /// As in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Off => "off",
        }
    }
}
