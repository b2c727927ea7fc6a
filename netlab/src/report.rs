//! What a page says about its call: the JSON that `web/call.js` posts, typed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How a call ended for one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutcome {
    /// Audio, video and data arrived verified, then somebody hung up.
    Connected,
    /// ICE or DTLS failed.
    Failed,
    /// Not everything had arrived when the page's patience ended.
    Deadline,
    /// The page itself went wrong.
    Error,
}

/// One end of a candidate pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Candidate {
    /// `host`, `srflx`, `prflx` or `relay`.
    pub r#type: Option<String>,
    /// `udp` or `tcp`, of the candidate itself (a relayed address is always `udp`).
    pub protocol: Option<String>,
    /// How a relay candidate's owner talks to its TURN server: `udp`, `tcp` or `tls`. Only known for local candidates.
    pub relay_protocol: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// Its port.
    pub port: Option<u16>,
}

impl Candidate {
    /// Whether it is a relayed address.
    pub fn is_relay(&self) -> bool {
        self.r#type.as_deref() == Some("relay")
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.r#type.as_deref().unwrap_or("unknown"))?;
        match &self.relay_protocol {
            Some(protocol) => write!(f, "({protocol})"),
            None => Ok(()),
        }
    }
}

/// A candidate pair and what it has carried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pair {
    /// This page's end.
    pub local: Candidate,
    /// The other page's end.
    pub remote: Candidate,
    /// Packets sent other than ICE checks: DTLS, RTP, RTCP. Firefox does not count packets.
    pub packets_sent: Option<u64>,
    /// Such packets received.
    pub packets_received: Option<u64>,
    /// Their payload bytes sent, as they would be in UDP: no TURN framing.
    pub bytes_sent: u64,
    /// Their payload bytes received.
    pub bytes_received: u64,
    /// ICE checks sent, consent checks included.
    pub requests_sent: u64,
    /// ICE checks received.
    pub requests_received: u64,
    /// Answers to ICE checks sent.
    pub responses_sent: u64,
    /// Answers to ICE checks received.
    pub responses_received: u64,
}

/// Counters of one kind of media. Absent where the browser has not got so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MediaCounters {
    /// RTP payload bytes sent.
    pub sent_bytes: u64,
    /// RTP packets sent.
    pub sent_packets: u64,
    /// Video frames sent.
    pub sent_frames: u64,
    /// RTP payload bytes received.
    pub received_bytes: u64,
    /// RTP packets received.
    pub received_packets: u64,
    /// Video frames decoded.
    pub received_frames: u64,
    /// What the last packets were sent with, for example `audio/opus`.
    pub sent_codec: Option<String>,
    /// What the last packets were received with.
    pub received_codec: Option<String>,
    /// RTP packets lost, which can be negative when duplicates arrive.
    pub lost_packets: i64,
}

/// Audio and video.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Media {
    /// Audio.
    pub audio: MediaCounters,
    /// Video.
    pub video: MediaCounters,
}

impl Media {
    /// RTP packets sent, audio and video.
    pub fn sent_packets(&self) -> u64 {
        self.audio.sent_packets + self.video.sent_packets
    }

    /// RTP packets received, audio and video.
    pub fn received_packets(&self) -> u64 {
        self.audio.received_packets + self.video.received_packets
    }
}

/// The data channel's pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataCounters {
    /// Messages sent.
    pub sent_messages: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages received.
    pub received_messages: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Messages received in order and equal to what the other page had to send, byte by byte.
    pub verified_messages: u64,
}

/// One line of a page's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Since the offer.
    pub milliseconds: i64,
    /// What happened.
    pub what: String,
}

/// A page's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageReport {
    /// How it ended.
    pub outcome: CallOutcome,
    /// For [`CallOutcome::Error`]: what went wrong.
    #[serde(default)]
    pub problem: Option<String>,
    /// The browser.
    #[serde(default)]
    pub agent: String,
    /// The pair in use at the end.
    #[serde(default)]
    pub selected: Option<Pair>,
    /// Every pair there was.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// Audio and video.
    #[serde(default)]
    pub media: Media,
    /// The data channel.
    #[serde(default)]
    pub data: DataCounters,
    /// Milliseconds since the offer: `gathered`, `connected`, `dataOpen`, `audioFlowing`, `videoFlowing`,
    /// `dataVerified`, `talking`.
    #[serde(default)]
    pub milestones: BTreeMap<String, i64>,
    /// Everything that happened.
    #[serde(default)]
    pub timeline: Vec<TimelineEntry>,
    /// When the page was told that something will break, in milliseconds since the offer.
    #[serde(default)]
    pub fault_at: Option<i64>,
    /// From then on: when there was no sound, or always the same picture.
    #[serde(default)]
    pub outages: Vec<Outage>,
    /// When the page has restarted ICE, in milliseconds since the offer.
    #[serde(default)]
    pub restarts: Vec<i64>,
    /// From the fault on: when the pair in use became another one, in milliseconds since the offer.
    #[serde(default)]
    pub pair_changes: Vec<i64>,
}

/// Sound or picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Picture.
    Video,
}

/// A time without sound (400 ms or more) or without a new picture (a second or more), as seen in statistics taken every
/// 50 ms or so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Of what.
    pub kind: MediaKind,
    /// When the last packet or frame before it was counted, in milliseconds since the offer.
    pub since: i64,
    /// How long it took until the next one.
    pub milliseconds: i64,
}

impl PageReport {
    /// The selected pair as `host/srflx`, local end first.
    pub fn selected_types(&self) -> String {
        match &self.selected {
            Some(pair) => format!("{}/{}", pair.local, pair.remote),
            None => "none".to_owned(),
        }
    }
}
