//! One usage record, as it lies in the spool and as receivers get it.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::turn::{SessionId, Traffic};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::ops) enum Kind {
    /// A relayed address came to life.
    Start,
    /// It lives on.
    Interim,
    /// It has ended.
    Stop,
    /// Only in the spool: it lived when this file of the spool was begun.
    Live,
}

impl Kind {
    /// Those that receivers get.
    pub(in crate::ops) const WRITTEN: [Self; 3] = [Self::Start, Self::Interim, Self::Stop];

    /// The word used in records and metrics.
    pub(in crate::ops) const fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interim => "interim",
            Self::Stop => "stop",
            Self::Live => "live",
        }
    }
}

/// Why it ended, where no shard could say so.
pub(super) mod ends {
    /// The server crashed, or was killed.
    pub(in crate::ops::usage) const SERVER: &str = "server_ended";
    /// One thread of the server panicked.
    pub(in crate::ops::usage) const SHARD: &str = "shard_restarted";
    /// The news of its end was dropped because the queue was full.
    pub(in crate::ops::usage) const UNKNOWN: &str = "unknown";
}

/// The beginning of a line that no receiver gets: `kind` is the first field.
pub(super) const LIVE_PREFIX: &[u8] = b"{\"kind\":\"live\"";

/// A record. Counters are sums since the start of the relayed address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub kind: Kind,
    /// 128 random bits in hex: this record. Whoever gets the same id twice has got the same record twice.
    pub id: String,
    /// 128 random bits in hex: the relayed address for as long as it lives.
    pub usage: String,
    /// 0 for the start, and counted up within one `usage`.
    pub sequence: u32,
    /// When the record was made.
    pub time_unix_ms: u64,
    /// As in the log. Both addresses of a dual allocation have it in common.
    pub session: String,
    pub account: String,
    /// Of the account, where the server has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// The client's.
    pub transport: String,
    /// The client's.
    pub family: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    pub relayed: SocketAddr,
    pub started_unix_ms: u64,
    pub duration_ms: u64,
    pub bytes_to_peer: u64,
    pub bytes_to_client: u64,
    pub packets_to_peer: u64,
    pub packets_to_client: u64,
    /// Peers with permissions: of a stop, all there were; before, the most at the same time, as far as that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<u64>,
    /// Of a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Record {
    pub(super) fn session_id(&self) -> Option<SessionId> {
        self.session.parse().ok()
    }

    pub(super) fn set_traffic(&mut self, traffic: &Traffic) {
        self.bytes_to_peer = traffic.bytes_to_peer;
        self.bytes_to_client = traffic.bytes_to_client;
        self.packets_to_peer = traffic.packets_to_peer;
        self.packets_to_client = traffic.packets_to_client;
    }

    /// Makes it the next of its kind.
    pub(super) fn advance(&mut self, kind: Kind, at: u64) {
        self.kind = kind;
        self.id = random_id();
        self.sequence += 1;
        self.time_unix_ms = at;
    }

    /// As a line.
    pub(super) fn write(&self, lines: &mut Vec<u8>) {
        serde_json::to_writer(&mut *lines, self).expect("plain text and numbers");
        lines.push(b'\n');
    }
}

/// 128 bits in hex.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    hex::encode(bytes)
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
