//! The loop that sends and receives relayed packets: one thread with its clients and peers, batches in and out.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::client::{CHANNEL, Heard, Step, payload, send_indication};
use super::dialogue::{Party, Plan, converse, datagram, keep_alive};
use super::link::{Post, receive_datagrams, udp_socket};
use super::own::{OwnSockets, ThreadClock, Watch};
use super::traffic::{Arrival, Arrivals, Filler};
use super::{BenchError, Direction, Framing, Latency, OwnCost, Pace, RelayLoad, Target, Transport};
use crate::net::{BATCH, UdpSocket, clock};
use crate::stun::{ChannelNumber, Class, Message, channel_data};

/// Peers that share the flows among them: as many as a server meets on a few busy SFUs.
pub(super) const PEERS_MAX: usize = 16;
/// Flows of one direction that send before those of the other.
const IN_TURN: usize = 16;
/// How long after the end packets are still waited for.
const GRACE: Duration = Duration::from_millis(300);
/// A window whose packets have been quiet for this long has lost them.
const GIVE_UP_NANOS: u64 = 50_000_000;
/// The longest sleep: often enough that a slow pace is kept to a millisecond.
const NAP: Duration = Duration::from_micros(500);
/// Head of a message, and the padding behind.
const AROUND_PAYLOAD: usize = 64;
/// Each client renews its permission (5 minutes) and its allocation this often.
const KEEP_NANOS: u64 = 120_000_000_000;
/// Packets a thread may be behind its pace before they are given up.
const BEHIND_MAX_NANOS: u64 = 20_000_000;

/// A stretch of sending, as one thread sees it: its part of the pace, and moments of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) pace: Pace,
    pub(super) start: u64,
    /// Packets sent before this moment are not measured.
    pub(super) from: u64,
    /// The end.
    pub(super) until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client(usize),
    Peer(usize),
}

/// Packets from one sender to one receiver.
#[derive(Debug)]
struct Flow {
    sender: Sender,
    /// The peer's address, or the relayed one.
    to: SocketAddr,
    sent: u64,
    frames: u64,
    arrivals: Arrivals,
}

/// What one thread has counted in the measured time.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) offered: u64,
    pub(super) delivered: u64,
    pub(super) reordered: u64,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    pub(super) latency: Latency,
    pub(super) own: OwnCost,
}

pub(super) struct Worker<'w> {
    load: &'w RelayLoad,
    target: &'w Target,
    watch: &'w Watch,
    post: Post,
    poll: Poll,
    events: Events,
    peers: Vec<UdpSocket>,
    parties: Vec<Party>,
    flows: Vec<Flow>,
    next_flow: usize,
    filler: Filler,
    /// Where messages lie until they are sent.
    arena: Vec<u8>,
    clock: ThreadClock,
    tally: Tally,
    measured: std::ops::Range<u64>,
    /// Packets sent and not yet seen again.
    under_way: u64,
    last_arrival: u64,
    next_keep: usize,
    keep_due: u64,
}

impl<'w> Worker<'w> {
    /// Sets its part of the allocations up; `first` is the index of its first client among all.
    pub(super) fn new(
        target: &'w Target,
        load: &'w RelayLoad,
        watch: &'w Watch,
        first: usize,
        allocations: usize,
    ) -> Result<Self, BenchError> {
        let post = Post::new()?;
        let poll = Poll::new().map_err(|error| BenchError::Socket("wait for events", error))?;
        let peers = if load.relay_to_relay { 0 } else { PEERS_MAX.div_ceil(load.threads).min(allocations) };
        let peers = (0..peers).map(|_| udp_socket(target.peer_address)).collect::<Result<Vec<_>, _>>()?;
        for (index, peer) in peers.iter().enumerate() {
            poll.registry()
                .register(&mut SourceFd(&peer.as_raw_fd()), Token(index), Interest::READABLE)
                .map_err(|error| BenchError::Socket("wait for events", error))?;
        }
        let nobody = SocketAddr::new(target.peer_address, 9);
        let mut parties = Vec::with_capacity(allocations);
        for index in 0..allocations {
            let peer = peers.get(peer_of(index, allocations, peers.len())).map_or(nobody, UdpSocket::local_address);
            parties.push(Party::new(target, first + index, peer)?);
        }
        let mut this = Self {
            load,
            target,
            watch,
            flows: Vec::new(),
            post,
            poll,
            events: Events::with_capacity(1024),
            peers,
            parties,
            next_flow: 0,
            filler: Filler::new(),
            arena: vec![0; BATCH * (load.shape.payload_max().next_multiple_of(4) + AROUND_PAYLOAD)],
            clock: ThreadClock::default(),
            tally: Tally::default(),
            measured: 0..0,
            under_way: 0,
            last_arrival: 0,
            next_keep: 0,
            keep_due: 0,
        };
        let outcome = this.set_up();
        if outcome.is_err() {
            // What was allocated before that is given back.
            let _ = this.take_down();
        }
        outcome.map(|()| this)
    }

    fn set_up(&mut self) -> Result<(), BenchError> {
        self.all(&[Step::Challenge, Step::Allocate])?;
        if self.load.relay_to_relay {
            for index in 0..self.parties.len() {
                let other = self.parties[index ^ 1].client.relayed.expect("it has allocated");
                self.parties[index].client.peer = other;
            }
        }
        self.all(match self.load.framing {
            Framing::Channel => &[Step::BindChannel],
            Framing::Indication => &[Step::Permit],
        })?;
        for (index, party) in self.parties.iter().enumerate() {
            party.client.link.register(self.poll.registry(), self.peers.len() + index)?;
        }
        self.make_flows();
        self.keep_due = clock::monotonic().0 + KEEP_NANOS;
        Ok(())
    }

    /// All clients take these steps.
    fn all(&mut self, steps: &'static [Step]) -> Result<(), BenchError> {
        let at_once = self.load.at_once.div_ceil(self.load.threads);
        let plan = Plan { steps, at_once, is_endless: false, renews: false };
        converse(self.target, &mut self.post, &mut self.parties, plan, None, |_| Ok(true))
    }

    /// Flows of one peer stand together, so that what it sends goes out in one call.
    fn make_flows(&mut self) {
        let flow = |sender, to| Flow { sender, to, sent: 0, frames: 0, arrivals: Arrivals::default() };
        let (count, direction) = (self.parties.len(), self.load.direction);
        let mut begin = 0;
        while begin < count {
            let peer_index = |index| peer_of(index, count, self.peers.len());
            let same = |index: &usize| self.peers.is_empty() || peer_index(*index) == peer_index(begin);
            let end = (begin..count.min(begin + IN_TURN)).take_while(same).last().map_or(count, |last| last + 1);
            for index in begin..end {
                let is_first = index % 2 == 0;
                let sends = match (self.load.relay_to_relay, direction) {
                    (_, Direction::Both) | (false, Direction::ToPeer) => true,
                    (false, Direction::ToClient) => false,
                    (true, Direction::ToPeer) => is_first,
                    (true, Direction::ToClient) => !is_first,
                };
                if sends {
                    self.flows.push(flow(Sender::Client(index), self.parties[index].client.peer));
                }
            }
            if !self.load.relay_to_relay && direction != Direction::ToPeer {
                for index in begin..end {
                    let relayed = self.parties[index].client.relayed.expect("it has allocated");
                    self.flows.push(flow(Sender::Peer(peer_index(index)), relayed));
                }
            }
            begin = end;
        }
    }

    pub(super) fn sockets(&self) -> OwnSockets {
        let mut own = OwnSockets::default();
        self.peers.iter().for_each(|peer| own.add(peer.as_raw_fd()));
        self.parties.iter().for_each(|party| own.add(party.client.link.descriptor()));
        own
    }

    /// Every client renews its allocation and its channel, once.
    pub(super) fn keep_all(&mut self) -> Result<(), BenchError> {
        self.all(&[Step::Refresh, Step::BindChannel])
    }

    /// Deletes the allocations.
    pub(super) fn take_down(&mut self) -> Result<(), BenchError> {
        self.parties.retain(|party| party.client.relayed.is_some());
        let outcome = self.all(&[Step::Delete]);
        self.parties.drain(..).for_each(|party| party.client.link.close());
        outcome
    }

    /// Sends and receives.
    pub(super) fn run(&mut self, stretch: Stretch) -> Result<Tally, BenchError> {
        self.measured = stretch.from..stretch.until;
        self.tally = Tally::default();
        self.clock = ThreadClock::default();
        (self.under_way, self.last_arrival) = (0, stretch.start);
        let per_frame = self.load.shape.packets_per_frame();
        // Frames sent, or given up because there was no time for them.
        let mut frames = 0_u64;
        loop {
            let now = clock::monotonic().0;
            if now >= stretch.until {
                break;
            }
            self.clock.look(now, now >= stretch.from);
            let wanted = match stretch.pace {
                Pace::Window(window) => (self.room_in(window, now) as f64 / per_frame).ceil() as u64,
                Pace::Rate(rate) => {
                    let due = |nanos: u64| (nanos as f64 * rate / per_frame / 1e9) as u64;
                    let since = now.saturating_sub(stretch.start);
                    let given_up = due(since.saturating_sub(BEHIND_MAX_NANOS)).saturating_sub(frames);
                    frames += given_up;
                    if now >= stretch.from {
                        self.tally.own.not_offered += (given_up as f64 * per_frame) as u64;
                    }
                    due(since).saturating_sub(frames)
                }
            };
            let wanted = wanted.min(BATCH as u64);
            if wanted > 0 {
                self.send(wanted as usize)?;
                frames += wanted;
            }
            self.keep(now)?;
            self.receive(wanted == 0)?;
        }
        self.clock.stop();
        let last = clock::monotonic().0 + GRACE.as_nanos() as u64;
        while clock::monotonic().0 < last && self.tally.delivered < self.tally.offered {
            self.receive(true)?;
        }
        let mut tally = std::mem::take(&mut self.tally);
        tally.own.join(&self.clock.spent());
        Ok(tally)
    }

    /// Packets that may follow now.
    fn room_in(&mut self, window: usize, now: u64) -> u64 {
        if self.under_way >= window as u64 && now.saturating_sub(self.last_arrival) > GIVE_UP_NANOS {
            self.under_way = 0;
            self.last_arrival = now;
        }
        (window as u64).saturating_sub(self.under_way)
    }

    /// Sends so many frames, of the next flows in turn.
    fn send(&mut self, frames: usize) -> Result<(), BenchError> {
        let stride = self.arena.len() / BATCH;
        let mut batch = ArrayVec::<(usize, SocketAddr), BATCH>::new();
        let mut sender = None;
        let load = self.load;
        let channel = ChannelNumber::new(CHANNEL).expect("a channel number");
        // Where flows are few each sends its share of these in a row: they leave as one message that the kernel cuts apart.
        // On a connection they would share a TLS record, which is another load.
        let is_datagrams = matches!(self.target.transport, Transport::Udp);
        let in_a_row = if is_datagrams { (frames / self.flows.len()).max(1) } else { 1 };
        for number in 0..frames {
            let index = self.next_flow;
            if (number + 1) % in_a_row == 0 {
                self.next_flow = (index + 1) % self.flows.len();
            }
            if sender.is_some_and(|before| before != self.flows[index].sender) {
                self.flush(sender, &mut batch)?;
            }
            sender = Some(self.flows[index].sender);
            let sizes = load.shape.frame(index, self.flows[index].frames);
            self.flows[index].frames += 1;
            let mut now = clock::monotonic().0;
            for size in sizes {
                if batch.is_full() {
                    self.flush(sender, &mut batch)?;
                    now = clock::monotonic().0;
                }
                let flow = &mut self.flows[index];
                let (number, to, size) = (flow.sent, flow.to, usize::from(*size));
                flow.sent += 1;
                let buffer = &mut self.arena[batch.len() * stride..][..stride];
                let fill = |payload: &mut [u8]| self.filler.write(payload, index as u32, number, now);
                let len = match (flow.sender, load.framing) {
                    (Sender::Peer(_), _) => {
                        fill(&mut buffer[..size]);
                        size
                    }
                    (Sender::Client(_), Framing::Channel) => {
                        let head = channel_data::header(channel, size as u16);
                        buffer[..head.len()].copy_from_slice(&head);
                        fill(&mut buffer[head.len()..][..size]);
                        head.len() + size
                    }
                    (Sender::Client(_), Framing::Indication) => {
                        send_indication(buffer, self.post.transaction_id(), to, size, fill)
                    }
                };
                self.tally.offered += u64::from(self.measured.contains(&now));
                batch.push((len, to));
            }
        }
        self.flush(sender, &mut batch)
    }

    fn flush(
        &mut self,
        sender: Option<Sender>,
        batch: &mut ArrayVec<(usize, SocketAddr), BATCH>,
    ) -> Result<(), BenchError> {
        let Some(sender) = sender.filter(|_| !batch.is_empty()) else { return Ok(()) };
        let stride = self.arena.len() / BATCH;
        let messages = batch.iter().enumerate().map(|(slot, (len, to))| (*to, &self.arena[slot * stride..][..*len]));
        let taken = match sender {
            Sender::Client(index) => {
                let bytes = messages.map(|(_, bytes)| bytes);
                self.parties[index].client.link.send(&mut self.post, self.target.server, bytes)?
            }
            Sender::Peer(index) => {
                let datagrams = messages.map(|(to, bytes)| datagram(to, bytes));
                self.post.sender.send(&self.peers[index], datagrams, &mut self.post.errors).datagrams
            }
        };
        let unsent = batch.len() as u64 - taken;
        if unsent > 0 && self.measured.contains(&clock::monotonic().0) {
            self.tally.own.unsent += unsent;
            // A connection that takes no more is what the server's slowness looks like; a full socket is our own.
            let is_stream = matches!(sender, Sender::Client(index) if self.parties[index].client.link.is_stream());
            if !is_stream {
                self.tally.offered = self.tally.offered.saturating_sub(unsent);
            }
        }
        self.under_way += taken;
        self.watch.offered(taken);
        batch.clear();
        Ok(())
    }

    /// One client after the other renews what would end.
    fn keep(&mut self, now: u64) -> Result<(), BenchError> {
        if now < self.keep_due {
            return Ok(());
        }
        self.keep_due += KEEP_NANOS / self.parties.len() as u64;
        let index = self.next_keep;
        self.next_keep = (index + 1) % self.parties.len();
        self.keep_one(index)
    }

    fn keep_one(&mut self, index: usize) -> Result<(), BenchError> {
        let steps = match self.load.framing {
            Framing::Channel => &[Step::Refresh, Step::BindChannel],
            Framing::Indication => &[Step::Refresh, Step::Permit],
        };
        keep_alive(&mut self.parties[index].client, self.target, &mut self.post, steps)
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
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            result => result.map_err(|error| BenchError::Socket("wait for events", error))?,
        }
        if may_wait {
            self.clock.waited(clock::monotonic().0 - began);
        }
        for event in &*events {
            let Token(token) = event.token();
            match token.checked_sub(self.peers.len()) {
                None => self.read_peer(token),
                Some(client) => self.read_client(client, event.is_writable())?,
            }
        }
        Ok(())
    }

    fn read_peer(&mut self, index: usize) {
        let mut inbox = Inbox {
            filler: &self.filler,
            flows: &mut self.flows,
            tally: &mut self.tally,
            measured: &self.measured,
            now: clock::monotonic().0,
            arrived: 0,
        };
        receive_datagrams(&self.peers[index], &mut self.post.received, |bytes| inbox.take(Some(bytes)));
        let arrived = inbox.arrived;
        self.arrived(arrived);
    }

    fn read_client(&mut self, index: usize, is_writable: bool) -> Result<(), BenchError> {
        let client = &mut self.parties[index].client;
        if is_writable {
            client.link.flush()?;
        }
        let mut inbox = Inbox {
            filler: &self.filler,
            flows: &mut self.flows,
            tally: &mut self.tally,
            measured: &self.measured,
            now: clock::monotonic().0,
            arrived: 0,
        };
        let mut stale = None;
        client.link.receive(&mut self.post, |message| match Message::parse(message) {
            Ok(answer) if matches!(answer.class(), Class::Success | Class::Error) => stale = Some(message.to_vec()),
            _ => inbox.take(payload(message)),
        })?;
        let arrived = inbox.arrived;
        self.arrived(arrived);
        match stale {
            None => Ok(()),
            Some(answer) => self.kept(index, &answer),
        }
    }

    /// The answer to a keep-alive: with a new nonce it is sent again.
    fn kept(&mut self, index: usize, answer: &[u8]) -> Result<(), BenchError> {
        let answer = Message::parse(answer).map_err(|_| BenchError::Nonsense("Refresh"))?;
        match self.parties[index].client.heard(Step::Refresh, self.target, &answer)? {
            Heard::Again => self.keep_one(index),
            _ => Ok(()),
        }
    }

    fn arrived(&mut self, count: u64) {
        if count > 0 {
            self.under_way = self.under_way.saturating_sub(count);
            self.last_arrival = clock::monotonic().0;
            self.watch.done(count);
        }
    }
}

/// Peers have equal shares of the clients, each of neighbours.
fn peer_of(index: usize, clients: usize, peers: usize) -> usize {
    index * peers / clients.max(1)
}

/// Where payloads are looked at on arrival.
struct Inbox<'i> {
    filler: &'i Filler,
    flows: &'i mut [Flow],
    tally: &'i mut Tally,
    measured: &'i std::ops::Range<u64>,
    now: u64,
    arrived: u64,
}

impl Inbox<'_> {
    fn take(&mut self, payload: Option<&[u8]>) {
        let head = payload.and_then(|bytes| self.filler.read(bytes));
        let Some((head, flow)) = head.and_then(|head| Some((head, self.flows.get_mut(head.flow as usize)?))) else {
            self.tally.corrupted += 1;
            return;
        };
        let arrival = flow.arrivals.take(head.number);
        self.arrived += u64::from(arrival != Arrival::Duplicate);
        if !self.measured.contains(&head.sent_at) {
            return;
        }
        if arrival == Arrival::Duplicate {
            self.tally.duplicated += 1;
            return;
        }
        self.tally.delivered += 1;
        self.tally.reordered += u64::from(arrival == Arrival::Late);
        self.tally.latency.record(self.now.saturating_sub(head.sent_at));
    }
}
