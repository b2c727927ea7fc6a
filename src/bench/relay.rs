//! The loop that sends and receives relayed packets: one thread, clients and peers alike, batches in and out.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::client::{Client, Post, payload, send_indication, socket};
use super::cost::Reading;
use super::traffic::{Filler, Flow, PAYLOAD_LEN_MAX, PAYLOAD_LEN_MIN};
use super::{BenchError, Direction, Framing, Latency, Meter, Pace, RelayLoad, RelayResult, Target};
use crate::net::{BATCH, Datagram, UdpSocket, clock};
use crate::stun::{ChannelNumber, channel_data};
use crate::turn::IpFields;

/// Peers that share the flows among them: as many as a server meets on a few busy SFUs.
const PEERS_MAX: usize = 16;
/// The channel number every client uses for its one peer.
const CHANNEL: u16 = 0x4000;
/// How long after the end packets are still waited for.
const GRACE: Duration = Duration::from_millis(300);
/// A window whose packets have been quiet for this long has lost them.
const GIVE_UP_NANOS: u64 = 50_000_000;
/// The longest sleep: often enough that a slow pace is kept to a millisecond.
const NAP: Duration = Duration::from_micros(500);
const MESSAGE_LEN_MAX: usize = PAYLOAD_LEN_MAX + 64;

/// An allocation with its two ends.
struct Pair {
    client: Client,
    relayed: SocketAddr,
    /// Index of its peer.
    peer: usize,
    to_peer: Flow,
    to_client: Flow,
}

struct Generator<'l> {
    load: &'l RelayLoad,
    target: &'l Target,
    post: Post,
    poll: Poll,
    events: Events,
    peers: Vec<UdpSocket>,
    pairs: Vec<Pair>,
    filler: Filler,
    /// Where messages lie until they are sent.
    arena: Vec<u8>,
    next_to_peer: usize,
    next_to_client: usize,
    turn_to_client: bool,
    tally: Tally,
    /// Packets sent and not yet seen again, in all.
    under_way: u64,
    last_arrival: u64,
    /// Packets sent before this moment are not measured.
    measured_from: u64,
    /// Packets sent from this moment on are not measured.
    measured_until: u64,
}

#[derive(Default)]
struct Tally {
    offered: u64,
    delivered: u64,
    reordered: u64,
    corrupted: u64,
    latency: Latency,
    /// Spent waiting because there was nothing to do.
    idle_nanos: u64,
}

/// Sets the load up, lets it run, and takes it down again.
///
/// # Errors
/// When a set-up request fails, or the server's process cannot be watched.
///
/// # Panics
/// If the payload is out of bounds or there is no allocation.
pub fn run(target: &Target, load: &RelayLoad, meter: Option<Meter>) -> Result<RelayResult, BenchError> {
    assert!((PAYLOAD_LEN_MIN..=PAYLOAD_LEN_MAX).contains(&load.payload), "a payload of {} bytes", load.payload);
    assert!(load.allocations > 0 && load.burst > 0);
    let mut generator = Generator::new(target, load)?;
    let outcome = generator.measure(meter);
    let mut failure = None;
    for pair in &mut generator.pairs {
        failure = pair.client.delete(&mut generator.post).err().or(failure);
    }
    match (outcome, failure) {
        (Ok(_), Some(failure)) => Err(failure),
        (outcome, _) => outcome,
    }
}

impl<'l> Generator<'l> {
    fn new(target: &'l Target, load: &'l RelayLoad) -> Result<Self, BenchError> {
        let mut post = Post::new()?;
        let poll = Poll::new().map_err(|error| BenchError::Socket("wait for events", error))?;
        let peers =
            (0..load.allocations.min(PEERS_MAX)).map(|_| socket(target.peer_address)).collect::<Result<Vec<_>, _>>()?;
        let register = |socket: &UdpSocket, token: usize| {
            poll.registry()
                .register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE)
                .map_err(|error| BenchError::Socket("wait for events", error))
        };
        for (index, peer) in peers.iter().enumerate() {
            register(peer, index)?;
        }
        let mut pairs = Vec::with_capacity(load.allocations);
        for index in 0..load.allocations {
            let mut client = Client::challenged(target, &mut post)?;
            let relayed = client.allocate(&mut post)?;
            let peer = index % peers.len();
            let address = peers[peer].local_address();
            match load.framing {
                Framing::Channel => client.bind_channel(&mut post, CHANNEL, address)?,
                Framing::Indication => client.permit(&mut post, address)?,
            }
            register(&client.socket, peers.len() + index)?;
            pairs.push(Pair { client, relayed, peer, to_peer: Flow::default(), to_client: Flow::default() });
        }
        // The flows of one peer stand together, so that what it sends goes out in one call.
        pairs.sort_by_key(|pair| pair.peer);
        let generator = Self {
            load,
            target,
            post,
            poll,
            events: Events::with_capacity(1024),
            peers,
            pairs,
            filler: Filler::new(),
            arena: vec![0; BATCH * MESSAGE_LEN_MAX],
            next_to_peer: 0,
            next_to_client: 0,
            turn_to_client: false,
            tally: Tally::default(),
            under_way: 0,
            last_arrival: 0,
            measured_from: 0,
            measured_until: 0,
        };
        generator.register_clients()?;
        Ok(generator)
    }

    /// Tokens follow the order of the pairs.
    fn register_clients(&self) -> Result<(), BenchError> {
        for (index, pair) in self.pairs.iter().enumerate() {
            self.poll
                .registry()
                .reregister(
                    &mut SourceFd(&pair.client.socket.as_raw_fd()),
                    Token(self.peers.len() + index),
                    Interest::READABLE,
                )
                .map_err(|error| BenchError::Socket("wait for events", error))?;
        }
        Ok(())
    }

    fn measure(&mut self, meter: Option<Meter>) -> Result<RelayResult, BenchError> {
        let start = clock::monotonic().0;
        self.last_arrival = start;
        self.measured_from = start + self.load.warm_up.as_nanos() as u64;
        self.measured_until = self.measured_from + self.load.duration.as_nanos() as u64;
        let mut before: Option<Reading> = None;
        let mut sent = 0_u64;
        let mut is_metered = meter.is_none();
        let mut idle_before = 0;
        loop {
            let now = clock::monotonic().0;
            if now >= self.measured_until {
                break;
            }
            if now >= self.measured_from && !is_metered {
                is_metered = true;
                idle_before = self.tally.idle_nanos;
                before = meter.map(|meter| meter.read()).transpose().map_err(BenchError::Cost)?;
            }
            let wanted = match self.load.pace {
                Pace::Window(window) => self.room_in(window, now),
                Pace::Rate(rate) => (((now - start) as f64 * rate / 1e9) as u64).saturating_sub(sent),
            };
            let wanted = wanted.min(4 * BATCH as u64);
            if wanted > 0 {
                sent += self.send(wanted as usize);
            }
            self.receive(wanted == 0)?;
        }
        let elapsed = Duration::from_nanos(clock::monotonic().0 - self.measured_from);
        let cost = match (meter, before) {
            (Some(meter), Some(before)) => Some(meter.since(before).map_err(BenchError::Cost)?),
            _ => None,
        };
        let idle = (self.tally.idle_nanos - idle_before) as f64 / elapsed.as_nanos() as f64;
        let last = clock::monotonic().0 + GRACE.as_nanos() as u64;
        while clock::monotonic().0 < last && self.tally.delivered < self.tally.offered {
            self.receive(true)?;
        }
        let tally = std::mem::take(&mut self.tally);
        Ok(RelayResult {
            elapsed,
            offered: tally.offered,
            delivered: tally.delivered,
            reordered: tally.reordered,
            corrupted: tally.corrupted,
            latency: tally.latency,
            generator_busy: (1.0 - idle).max(0.0),
            cost,
        })
    }

    /// Packets that may follow now.
    fn room_in(&mut self, window: usize, now: u64) -> u64 {
        if self.under_way >= window as u64 && now.saturating_sub(self.last_arrival) > GIVE_UP_NANOS {
            self.under_way = 0;
            self.last_arrival = now;
        }
        (window as u64).saturating_sub(self.under_way)
    }

    /// Sends about so many packets; how many they were.
    fn send(&mut self, wanted: usize) -> u64 {
        let mut sent = 0;
        while sent < wanted {
            let room = (wanted - sent).min(BATCH);
            sent += match self.load.direction {
                Direction::ToPeer => self.send_to_peer(room),
                Direction::ToClient => self.send_to_client(room),
                Direction::Both => {
                    self.turn_to_client = !self.turn_to_client;
                    if self.turn_to_client {
                        self.send_to_client(room.min(16))
                    } else {
                        self.send_to_peer_many(room.min(16))
                    }
                }
            };
        }
        self.under_way += sent as u64;
        sent as u64
    }

    fn send_to_peer_many(&mut self, room: usize) -> usize {
        let mut sent = 0;
        while sent < room {
            sent += self.send_to_peer(room - sent);
        }
        sent
    }

    /// One burst of the next client.
    fn send_to_peer(&mut self, room: usize) -> usize {
        let index = self.next_to_peer;
        self.next_to_peer = (index + 1) % self.pairs.len();
        let count = self.load.burst.min(room);
        let now = clock::monotonic().0;
        let pair = &mut self.pairs[index];
        let peer = self.peers[pair.peer].local_address();
        let stride = self.load.payload.next_multiple_of(4) + 64;
        let mut lengths = arrayvec::ArrayVec::<usize, BATCH>::new();
        for slot in 0..count {
            let number = pair.to_peer.sent;
            pair.to_peer.sent += 1;
            let buffer = &mut self.arena[slot * stride..][..stride];
            let fill = |payload: &mut [u8]| self.filler.write(payload, index as u32, number, now);
            lengths.push(match self.load.framing {
                Framing::Channel => {
                    let channel = ChannelNumber::new(CHANNEL).expect("a channel number");
                    let head = channel_data::header(channel, self.load.payload as u16);
                    buffer[..head.len()].copy_from_slice(&head);
                    fill(&mut buffer[head.len()..][..self.load.payload]);
                    head.len() + self.load.payload
                }
                Framing::Indication => {
                    send_indication(buffer, self.post.transaction_id(), peer, self.load.payload, fill)
                }
            });
        }
        let arena = &self.arena;
        let server = self.target.server;
        let datagrams = lengths.iter().enumerate().map(|(slot, len)| Datagram {
            to: server,
            source: None,
            bytes: &arena[slot * stride..][..*len],
            ip: IpFields::default(),
        });
        self.post.sender.send(&pair.client.socket, datagrams, &mut self.post.errors);
        self.count_offered(now, count);
        count
    }

    /// The next flows of one peer.
    fn send_to_client(&mut self, room: usize) -> usize {
        let first = self.next_to_client;
        let peer = self.pairs[first].peer;
        let now = clock::monotonic().0;
        let mut to = arrayvec::ArrayVec::<SocketAddr, BATCH>::new();
        let mut index = first;
        while to.len() < room && index < self.pairs.len() && self.pairs[index].peer == peer {
            let pair = &mut self.pairs[index];
            for _ in 0..self.load.burst.min(room - to.len()) {
                let number = pair.to_client.sent;
                pair.to_client.sent += 1;
                let buffer = &mut self.arena[to.len() * self.load.payload..][..self.load.payload];
                self.filler.write(buffer, index as u32, number, now);
                to.push(pair.relayed);
            }
            index += 1;
        }
        self.next_to_client = index % self.pairs.len();
        let (arena, len) = (&self.arena, self.load.payload);
        let datagrams = to.iter().enumerate().map(|(slot, to)| Datagram {
            to: *to,
            source: None,
            bytes: &arena[slot * len..][..len],
            ip: IpFields::default(),
        });
        self.post.sender.send(&self.peers[peer], datagrams, &mut self.post.errors);
        self.count_offered(now, to.len());
        to.len()
    }

    fn count_offered(&mut self, now: u64, count: usize) {
        if now >= self.measured_from && now < self.measured_until {
            self.tally.offered += count as u64;
        }
    }

    /// Reads what has arrived; waits a little if there is nothing else to do.
    fn receive(&mut self, may_wait: bool) -> Result<(), BenchError> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let outcome = self.poll_into(&mut events, may_wait);
        self.events = events;
        outcome
    }

    fn poll_into(&mut self, events: &mut Events, may_wait: bool) -> Result<(), BenchError> {
        let began = clock::monotonic().0;
        match self.poll.poll(events, Some(if may_wait { NAP } else { Duration::ZERO })) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(BenchError::Socket("wait for events", error)),
        }
        if may_wait {
            self.tally.idle_nanos += clock::monotonic().0 - began;
        }
        for event in &*events {
            let Token(token) = event.token();
            self.read(token);
        }
        Ok(())
    }

    fn read(&mut self, token: usize) {
        let is_client = token >= self.peers.len();
        loop {
            self.post.received.clear();
            let socket = match is_client {
                true => &self.pairs[token - self.peers.len()].client.socket,
                false => &self.peers[token],
            };
            let Ok(count) = self.post.received.receive(socket) else {
                return;
            };
            let now = clock::monotonic().0;
            for slot in 0..count {
                let packet = self.post.received.packet(slot);
                let bytes = if is_client { payload(packet.message()) } else { Some(packet.message()) };
                let head = bytes.and_then(|bytes| self.filler.read(bytes, self.load.payload));
                let Some(head) = head.filter(|head| (head.flow as usize) < self.pairs.len()) else {
                    self.tally.corrupted += 1;
                    continue;
                };
                self.under_way = self.under_way.saturating_sub(1);
                self.last_arrival = now;
                let pair = &mut self.pairs[head.flow as usize];
                let flow = if is_client { &mut pair.to_client } else { &mut pair.to_peer };
                let is_late = flow.is_late(head.number);
                if head.sent_at >= self.measured_from && head.sent_at < self.measured_until {
                    self.tally.delivered += 1;
                    self.tally.reordered += u64::from(is_late);
                    self.tally.latency.record(now - head.sent_at);
                }
            }
            if count < BATCH {
                return;
            }
        }
    }
}
