//! A mirror that relays by itself, as the kernel would, from nothing but what it was told: in plain maps, for all shards.
//!
//! It refuses and forgets when it is told to. It knows ChannelData, and Send indications of a peer and data alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use hairpin::turn::{FiveTuple, Flow, FlowId, Now, Offload, Passed, Traffic};

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// What becomes of a packet that the mirror knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relayed {
    ToPeer { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    ToClient { path: FiveTuple, message: Vec<u8> },
}

/// A flow, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub shard: u16,
    pub flow: Flow,
    pub until: Now,
    is_forgotten: bool,
    passed: [Passed; 2],
}

#[derive(Debug, Default)]
pub struct State {
    pub entries: BTreeMap<u32, Entry>,
    /// Flows that were refused the last time they were asked for.
    pub refused: Vec<Flow>,
    pub is_refusing: bool,
    next_id: u32,
    /// How often the machine has called: mirror, extend, passed, unmirror.
    pub calls: [u32; 4],
}

/// The mirror; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct NaiveMirror(Arc<Mutex<State>>);

#[derive(Debug)]
struct OfShard {
    shard: u16,
    mirror: NaiveMirror,
}

impl NaiveMirror {
    pub fn of_shard(&self, shard: u16) -> Box<dyn Offload> {
        Box::new(OfShard { shard, mirror: self.clone() })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// A datagram from a client; `None` if the machine is to have it.
    pub fn client_sends(&self, now: Now, path: FiveTuple, datagram: &[u8]) -> Option<Relayed> {
        let (channel, peer, data) = match datagram.first()? {
            0x40..=0x4F => {
                let length = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
                (Some(u16::from_be_bytes([datagram[0], datagram[1]])), None, datagram.get(4..4 + length)?)
            }
            0 => {
                let (peer, data) = read_send_indication(datagram)?;
                (None, Some(peer), data)
            }
            _ => return None,
        };
        let mut state = self.state();
        let is_its = |flow: &Flow| {
            flow.path == path
                && flow.channel.map(|number| number.get()) == channel
                && peer.is_none_or(|peer| flow.peer == peer)
        };
        let id = state.find(now, is_its)?;
        let Flow { relay, relayed, peer, peer_relay, .. } = state.entries[&id].flow;
        let Some(peer_relay) = peer_relay else {
            state.count(id, 0, data);
            return Some(Relayed::ToPeer { from: relay, to: peer, data: data.to_vec() });
        };
        let is_other = |flow: &Flow| (flow.relay, flow.relayed, flow.peer) == (peer_relay, peer, relayed);
        let other = state.find(now, is_other)?;
        state.count(id, 0, data);
        Some(state.deliver(other, data))
    }

    /// A datagram from a peer to what a relay is bound to.
    pub fn peer_sends(&self, now: Now, relay: SocketAddr, peer: SocketAddr, data: &[u8]) -> Option<Relayed> {
        let mut state = self.state();
        let id = state.find(now, |flow| (flow.relay, flow.peer) == (relay, peer))?;
        Some(state.deliver(id, data))
    }
}

impl State {
    fn find(&self, now: Now, is_it: impl Fn(&Flow) -> bool) -> Option<u32> {
        let works = |entry: &Entry| now < entry.until && !entry.is_forgotten;
        self.entries.iter().find(|(_, entry)| works(entry) && is_it(&entry.flow)).map(|(id, _)| *id)
    }

    fn count(&mut self, id: u32, way: usize, data: &[u8]) {
        let one = Passed {
            packets: 1,
            bytes: data.len() as u64,
            seen: 1,
            foreign: u32::from(matches!(data.first(), Some(4..=19))),
        };
        let passed = &mut self.entries.get_mut(&id).expect("found a moment ago").passed[way];
        *passed = add(*passed, one);
    }

    fn deliver(&mut self, id: u32, data: &[u8]) -> Relayed {
        self.count(id, 1, data);
        let Flow { path, peer, channel, .. } = self.entries[&id].flow;
        let message = match channel {
            Some(number) => [&number.get().to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat(),
            None => data_indication(peer, data),
        };
        Relayed::ToClient { path, message }
    }

    /// Loses one of its flows, or all of them, as if they never had been told.
    pub fn forget(&mut self, place: Option<usize>) {
        let all = self.entries.values_mut().enumerate();
        all.filter(|(at, _)| place.is_none_or(|place| place == *at)).for_each(|(_, entry)| entry.is_forgotten = true);
    }

    /// What has passed in a shard's flows and was not asked for.
    pub fn uncollected(&self, shard: u16) -> Traffic {
        let of_shard = self.entries.values().filter(|entry| entry.shard == shard);
        of_shard.fold(Traffic::default(), |sum, entry| Traffic {
            packets_to_peer: sum.packets_to_peer + entry.passed[0].packets,
            bytes_to_peer: sum.bytes_to_peer + entry.passed[0].bytes,
            packets_to_client: sum.packets_to_client + entry.passed[1].packets,
            bytes_to_client: sum.bytes_to_client + entry.passed[1].bytes,
        })
    }

    /// What a shard has told, and until when.
    pub fn flows(&self, shard: u16) -> Vec<(Flow, Now)> {
        let of_shard = self.entries.values().filter(|entry| entry.shard == shard);
        of_shard.map(|entry| (entry.flow, entry.until)).collect()
    }
}

impl Offload for OfShard {
    fn mirror(&mut self, flow: &Flow, until: Now) -> Option<FlowId> {
        let mut state = self.mirror.state();
        state.calls[0] += 1;
        state.refused.retain(|refused| refused != flow);
        let same_way = |entry: &Entry| {
            let one = &entry.flow;
            one.path == flow.path && one.channel.is_some() && one.channel == flow.channel
                || (one.relay, one.peer) == (flow.relay, flow.peer)
        };
        assert!(!state.entries.values().any(same_way), "two flows have the same packets: {flow:?}");
        if state.is_refusing {
            state.refused.push(*flow);
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let entry = Entry { shard: self.shard, flow: *flow, until, is_forgotten: false, passed: Default::default() };
        state.entries.insert(id, entry);
        Some(FlowId(id))
    }

    fn extend(&mut self, flow: FlowId, until: Now) {
        let mut state = self.mirror.state();
        state.calls[1] += 1;
        state.entries.get_mut(&flow.0).expect("a flow that is mirrored").until = until;
    }

    fn passed(&mut self, flow: FlowId) -> [Passed; 2] {
        let mut state = self.mirror.state();
        state.calls[2] += 1;
        std::mem::take(&mut state.entries.get_mut(&flow.0).expect("a flow that is mirrored").passed)
    }

    fn unmirror(&mut self, flow: FlowId) -> [Passed; 2] {
        let mut state = self.mirror.state();
        state.calls[3] += 1;
        state.entries.remove(&flow.0).expect("a flow that is mirrored").passed
    }
}

fn add(one: Passed, other: Passed) -> Passed {
    Passed {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
        seen: one.seen + other.seen,
        foreign: one.foreign + other.foreign,
    }
}

/// A Send indication that is XOR-PEER-ADDRESS and DATA and nothing else, in this order.
fn read_send_indication(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let field = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let is_plain = field(0)? == 0x0016 && field(2)? + 20 == bytes.len() && bytes.get(4..8)? == MAGIC_COOKIE;
    if !is_plain || field(20)? != 0x0012 {
        return None;
    }
    let ip: IpAddr = match (field(22)?, field(24)?) {
        (8, 1) => <[u8; 4]>::try_from(xor(bytes.get(28..32)?, bytes)).ok()?.into(),
        (20, 2) => <[u8; 16]>::try_from(xor(bytes.get(28..44)?, bytes)).ok()?.into(),
        _ => return None,
    };
    let peer = SocketAddr::new(ip, field(26)? as u16 ^ 0x2112);
    let at = 24 + field(22)?;
    let length = field(at + 2)?;
    let data = bytes.get(at + 4..at + 4 + length)?;
    (field(at)? == 0x0013 && at + 4 + length.next_multiple_of(4) == bytes.len()).then_some((peer, data))
}

fn data_indication(peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0x00, 0x17, 0, 0][..], &MAGIC_COOKIE, &[7; 12]].concat();
    let (family, ip) = match peer.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    bytes.extend([0x00, 0x12, 0, 4 + ip.len() as u8, 0, family]);
    bytes.extend((peer.port() ^ 0x2112).to_be_bytes());
    let ip = xor(&ip, &bytes);
    bytes.extend(ip);
    bytes.extend([0x00, 0x13]);
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let body = bytes.len() as u16 - 20;
    bytes[2..4].copy_from_slice(&body.to_be_bytes());
    bytes
}

/// With the magic cookie and transaction id of a message.
fn xor(ip: &[u8], message: &[u8]) -> Vec<u8> {
    ip.iter().zip(&message[4..20]).map(|(byte, mask)| byte ^ mask).collect()
}
