//! rtpengine: the media proxy, and what it has counted.
//!
//! Kamailio tells it about calls over its control protocol, ng: a cookie, a space and a dictionary in a datagram. We
//! ask it in JSON, which it answers in kind.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use patchbay::Device;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use super::{SipTools, address_of, logged_command};
use crate::call::next_number;
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::Service;

/// Where it is told what to do.
pub(super) const CONTROL_PORT: u16 = 2223;

/// How long it may take until it answers, and to answer.
const START_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// An answer about one call is some kilobytes.
const ANSWER_BYTES_MAX: usize = 65_535;

/// A running media proxy.
pub(super) struct Rtpengine {
    device: Device,
    control: SocketAddr,
    _process: Process,
}

/// What it has received from one party of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct MediaReceived {
    /// RTP packets.
    pub packets: u64,
    /// Their payload bytes, as they are in UDP.
    pub bytes: u64,
    /// RTCP packets.
    pub control_packets: u64,
    /// Bytes of these.
    pub control_bytes: u64,
}

/// One party of a call, as the media proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Party {
    /// Where its media comes from.
    pub address: Option<Ipv4Addr>,
    /// How it sends it: `RTP/AVP`, `UDP/TLS/RTP/SAVPF`.
    pub protocol: String,
    /// What has come, all media together.
    pub received: MediaReceived,
}

impl Rtpengine {
    /// Starts it on the lab's media node and waits until it answers.
    pub async fn start(tools: &SipTools, lab: &Lab, output: &Path) -> Result<Rtpengine> {
        let address = address_of(lab, Service::Media)?;
        let log = output.join("media.log");
        let mut command = logged_command(&tools.rtpengine, &log)?;
        // In user space (no table): the kernel module forwards faster, but belongs to the machine.
        command.args(["--config-file=none", "--foreground", "--log-stderr", "--log-level=6", "--table=-1"]);
        command.args(["--num-threads=2", "--port-min=30000", "--port-max=30999"]);
        command.arg(format!("--interface={address}")).arg(format!("--listen-ng={address}:{CONTROL_PORT}"));
        let device = lab.device(&lab.topology().find_server(Service::Media).context("no media node")?.name)?.clone();
        let mut process = Process::spawn(&device, command)?;
        let control = SocketAddr::from((address, CONTROL_PORT));

        let deadline = Instant::now() + START_PATIENCE;
        while ask(&device, control, json!({ "command": "ping" })).await.is_err() {
            if let Some(status) = process.exit_status() {
                bail!("the media proxy ended at once ({status}); see {}", log.display());
            }
            if Instant::now() > deadline {
                bail!("the media proxy does not answer after {} s; see {}", START_PATIENCE.as_secs(), log.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Rtpengine { device, control, _process: process })
    }

    /// Both parties of a call: the one with the tag `from`, then the other. It may have ended a few seconds ago.
    ///
    /// # Errors
    /// It does not answer or does not know the call.
    pub async fn parties(&self, call_id: &str, from: &str) -> Result<[Party; 2]> {
        let answer = ask(&self.device, self.control, json!({ "command": "query", "call-id": call_id })).await?;
        parties(answer, from)
    }
}

async fn ask(device: &Device, control: SocketAddr, question: Value) -> Result<Value> {
    // A cookie that has been seen is taken for a retransmission.
    let cookie = format!("netlab-{} ", next_number());
    let datagram = format!("{cookie}{question}");
    let exchange = move |_| async move {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(control).await?;
        socket.send(datagram.as_bytes()).await?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        let length = timeout(ANSWER_PATIENCE, socket.recv(&mut answer)).await.context("no answer")??;
        answer.truncate(length);
        anyhow::Ok(answer)
    };
    let answer = device.spawn(exchange)?.await?.context("the media proxy does not answer")?;
    let answer = answer.strip_prefix(cookie.as_bytes()).context("the media proxy's answer has another cookie")?;
    let answer: Value = serde_json::from_slice(answer).context("the media proxy's answer is not JSON")?;
    if answer["result"] == "error" {
        bail!("the media proxy: {}", answer["error-reason"]);
    }
    Ok(answer)
}

#[derive(Deserialize)]
struct Answer {
    tags: BTreeMap<String, Tag>,
}

#[derive(Deserialize)]
struct Tag {
    #[serde(default)]
    medias: Vec<Media>,
}

#[derive(Deserialize)]
struct Media {
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    streams: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    endpoint: Endpoint,
    #[serde(default)]
    flags: Vec<String>,
    stats: Stats,
}

#[derive(Deserialize)]
struct Endpoint {
    address: Option<Ipv4Addr>,
}

#[derive(Deserialize)]
struct Stats {
    packets: u64,
    bytes: u64,
}

fn parties(answer: Value, from: &str) -> Result<[Party; 2]> {
    let answer: Answer = serde_json::from_value(answer).context("the media proxy's answer is odd")?;
    let caller = answer.tags.get(from).context("the media proxy does not know the caller")?;
    let mut others = answer.tags.iter().filter(|(tag, _)| *tag != from);
    match (others.next(), others.next()) {
        (Some((_, called)), None) => Ok([party(caller), party(called)]),
        _ => bail!("the media proxy knows {} parties of the call, not two", answer.tags.len()),
    }
}

fn party(tag: &Tag) -> Party {
    let mut party = Party::default();
    for media in &tag.medias {
        party.protocol.clone_from(&media.protocol);
        for stream in &media.streams {
            party.address = party.address.or(stream.endpoint.address);
            let received = &mut party.received;
            let (packets, bytes) = if stream.flags.iter().any(|flag| flag == "RTP") {
                (&mut received.packets, &mut received.bytes)
            } else {
                (&mut received.control_packets, &mut received.control_bytes)
            };
            *packets += stream.stats.packets;
            *bytes += stream.stats.bytes;
        }
    }
    party
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Value {
        let stream = |flags: Value, packets: u64| {
            json!({ "local port": 30_000, "endpoint": { "family": "IPv4", "address": "198.18.1.3", "port": 1 },
                    "flags": flags, "stats": { "packets": packets, "bytes": 100 * packets, "errors": 0 } })
        };
        let media = |protocol: &str, packets: u64| {
            json!({ "index": 1, "type": "audio", "protocol": protocol, "streams": [
                stream(json!(["RTP", "filled", "confirmed"]), packets), stream(json!(["RTCP", "filled"]), 2),
            ] })
        };
        json!({ "result": "ok", "tags": {
            "b": { "tag": "b", "created": 1, "medias": [media("RTP/SAVPF", 10), media("RTP/SAVPF", 20)] },
            "a": { "tag": "a", "created": 1, "medias": [media("RTP/AVP", 5)] },
        } })
    }

    #[test]
    fn streams_are_summed_and_the_caller_comes_first() {
        let [caller, called] = parties(answer(), "b").unwrap();
        let received = MediaReceived { packets: 30, bytes: 3_000, control_packets: 4, control_bytes: 400 };
        assert_eq!((caller.protocol.as_str(), caller.received), ("RTP/SAVPF", received));
        assert_eq!(caller.address, Some(Ipv4Addr::new(198, 18, 1, 3)));
        assert_eq!((called.protocol.as_str(), called.received.packets), ("RTP/AVP", 5));
    }

    #[test]
    fn a_stranger_and_a_call_without_an_answer_are_errors() {
        assert!(parties(answer(), "c").is_err());
        let mut alone = answer();
        alone["tags"].as_object_mut().unwrap().remove("a");
        assert!(parties(alone, "b").unwrap_err().to_string().contains("1 parties"));
    }
}
