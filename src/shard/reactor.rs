//! The loop of a shard: wait, see who is ready, serve each a batch, send, look at the clock, wait again.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use mio::Events;
use mio::event::Event;
use tracing::warn;

use super::budgets::Budgets;
use super::connections::Connections;
use super::counters::add_machine;
use super::dtls::Associations;
use super::holdings::Holdings;
use super::listeners::Kind;
use super::mailbox::Command;
use super::packets::Outgoing;
use super::peers::Peers;
use super::questions::Walk;
use super::relays::Relays;
use super::routes::Routes;
use super::supervisor::{Home, random_hashes};
use super::token::Source;
use crate::net::{BATCH, ReadBuffers, SendBatch, clock};
use crate::turn::{Clock, Now, ReplyBuffer, Revocation, Server};

/// Sockets looked at in one round.
const EVENTS_MAX: usize = 256;

/// Bytes read from one connection at a time.
const STREAM_READ_BYTES: usize = 64 * 1024;

/// Packets for clients on connections in one round that show a busy thread: one that keeps up with few has fewer.
const STREAMED_MIN: usize = 8;

/// How old the published counters of a shard that never sleeps may become.
const PUBLISH_NANOS: u64 = 100_000_000;

/// What one life of a shard consists of: a server, the sockets of its relays and clients, and work in progress.
///
/// Its methods are spread over this room by what they do: this file has the loop, `packets.rs` what happens to
/// datagrams, `streams.rs` what happens to connections, `effects.rs` what the machine asks for.
pub(super) struct Shard<'h> {
    pub(super) home: &'h mut Home,
    pub(super) server: Server,
    pub(super) relays: Relays,
    pub(super) connections: Connections,
    /// Clients over DTLS.
    pub(super) associations: Associations,
    /// Ways back to clients behind proxies.
    pub(super) routes: Routes,
    pub(super) peers: Peers,
    pub(super) clock: Clock,
    /// Sockets that may have more to read, served in turn.
    pub(super) ready: VecDeque<Source>,
    is_mailbox_queued: bool,
    /// Questions being answered, a few steps a round.
    pub(super) walks: VecDeque<Walk>,
    /// Datagrams to send at the end of the batch; their bytes lie in the batch.
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) sender: SendBatch,
    /// Connections with something to write.
    pub(super) dirty: Vec<usize>,
    /// Other shards that were left a packet in this batch.
    pub(super) to_wake: Vec<u16>,
    pub(super) reply: ReplyBuffer,
    /// Where connections are read into before their messages are cut out.
    pub(super) stream_bytes: ReadBuffers,
    /// When silent connections are looked for next.
    pub(super) next_sweep: Now,
    /// When to ask what was relayed elsewhere; at once where the last answer was not all.
    next_collection: Now,
    collects_on: bool,
    /// When to accept again after running out of descriptors.
    pub(super) accept_again: Option<Now>,
    /// When a failure to bind was last logged.
    pub(super) bind_warned: Option<Now>,
    published: Now,
    /// When this round and the one before began.
    rounds: [Now; 2],
    /// Packets relayed to clients on connections in this round.
    pub(super) streamed: usize,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

/// Also while a panic unwinds: what was counted is kept for the sums.
impl Drop for Shard<'_> {
    fn drop(&mut self) {
        add_machine(&mut self.home.earlier, self.server.counters());
    }
}

impl<'h> Shard<'h> {
    pub(super) fn new(home: &'h mut Home, seed: [u8; 32]) -> Self {
        let mut server = Server::new(home.config.clone(), home.place, seed);
        server.share_bandwidth(Box::new(Budgets(home.directory.clone())));
        server.share_holdings(Box::new(Holdings(home.directory.clone())));
        if home.is_draining {
            server.drain();
        }
        home.batch.clear();
        home.batch.forget_left();
        // Seeds keep clients from choosing addresses and ports that collide.
        let hasher = random_hashes();
        let speaks_dtls = home.listeners.speak_dtls();
        let cookie_key = home.handshakes.as_ref().filter(|_| speaks_dtls).map(|shared| shared.cookie_key());
        let routes = Routes::new(hasher.clone());
        if let Some(mirrors) = &home.mirrors {
            server.offload(mirrors.make(home.place.index, routes.proxied()));
        }
        let clock = clock::read();
        Self {
            home,
            server,
            relays: Relays::default(),
            connections: Connections::new(hasher.clone()),
            associations: Associations::new(hasher.clone(), cookie_key),
            routes,
            peers: Peers::default(),
            clock,
            ready: VecDeque::with_capacity(EVENTS_MAX),
            is_mailbox_queued: false,
            walks: VecDeque::new(),
            outgoing: Vec::with_capacity(BATCH),
            sender: SendBatch::new(),
            dirty: Vec::new(),
            to_wake: Vec::new(),
            reply: ReplyBuffer::new(),
            stream_bytes: ReadBuffers::new(STREAM_READ_BYTES),
            next_sweep: clock.now,
            next_collection: clock.now,
            collects_on: false,
            accept_again: None,
            bind_warned: None,
            published: Now(0),
            rounds: [Now(0); 2],
            streamed: 0,
        }
    }

    /// Runs until told to shut down.
    pub(super) fn run(&mut self) {
        // Edges that came before are known to nobody any more: look at everything once.
        (0..self.home.listeners.len()).for_each(|index| {
            self.home.listeners.get_mut(index).is_queued = false;
            self.queue_listener(index);
        });
        self.queue_mailbox();
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut flow = self.obey_commands();
        let mut now = clock::monotonic();
        while flow == Flow::GoOn {
            self.wait(&mut events, now);
            let woken = clock::monotonic();
            self.rounds = [self.rounds[1], woken];
            let mut has_mail = false;
            for event in &events {
                has_mail |= self.notice(event);
            }
            if has_mail {
                flow = self.obey_commands();
            }
            self.serve_ready();
            self.on_time();
            self.walk_on();
            self.flush();
            now = clock::monotonic();
            self.home.counters.busy_nanos += now.0 - woken.0;
        }
        self.flush();
        self.finish_connections();
        self.finish_associations();
        self.publish();
    }

    /// Waits for events, but not longer than until the next thing to do by the clock.
    fn wait(&mut self, events: &mut Events, now: Now) {
        let timeout = self.time_left(now);
        let bounds = &self.home.bounds;
        let coalesce = coalesce_after(std::mem::take(&mut self.streamed), [bounds.coalesce, bounds.coalesce_streams]);
        let is_idle = timeout != Some(Duration::ZERO);
        if is_idle || now.0 - self.published.0 > PUBLISH_NANOS {
            self.published = now;
            self.publish();
        }
        if is_idle
            && let Some(until) = gather_until(coalesce, self.rounds)
            && now < until
        {
            clock::sleep_until(until);
        }
        if let Err(error) = self.home.poll.poll(events, timeout) {
            // After an interruption `events` is empty, and the loop simply comes round again.
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "epoll failed: {error}");
        }
    }

    fn time_left(&self, now: Now) -> Option<Duration> {
        if !self.ready.is_empty() || !self.walks.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = self.has_clients().then_some(self.next_sweep);
        [
            self.server.next_timeout(),
            sweep,
            self.accept_again,
            self.peers.next_pause_over(),
            self.home.recorder.next_look(),
            self.collects().then_some(self.next_collection),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|due| Duration::from_nanos(due.0.saturating_sub(now.0)))
    }

    /// Whether there is somebody who may be silent for too long.
    fn has_clients(&self) -> bool {
        self.connections.len() > 0 || !self.associations.is_empty()
    }

    /// Whether anything may have been relayed elsewhere.
    fn collects(&self) -> bool {
        self.collects_on || self.server.flows_mirrored() > 0
    }

    fn publish(&mut self) {
        let (machine, counters, earlier) = (self.server.counters(), &self.home.counters, &self.home.earlier);
        let (allocations, connections) = (self.server.allocations(), self.connections.len() + self.associations.open());
        let peer_connections = self.server.peer_connections();
        let requests_waiting = self.server.requests_waiting();
        let relayed_addresses = self.server.relayed_addresses();
        let flows_mirrored = self.server.flows_mirrored();
        self.home.slot().publish_all(machine, earlier, counters, |copy| {
            copy.allocations = allocations;
            copy.connections = connections;
            copy.peer_connections = peer_connections;
            copy.requests_waiting = requests_waiting;
            copy.relayed_addresses = relayed_addresses;
            copy.flows_mirrored = flows_mirrored;
        });
    }

    /// Puts whoever an event is about where it will be served. Returns whether it is about the mailbox.
    fn notice(&mut self, event: &Event) -> bool {
        match Source::of(event.token()) {
            Source::Mailbox => {
                self.queue_mailbox();
                return true;
            }
            Source::Listener(index) => self.queue_listener(index),
            source @ Source::Relay { index, generation } => {
                if let Some(relay) = self.relays.by_token(index, generation) {
                    relay.has_errors |= event.is_error();
                    if !std::mem::replace(&mut relay.is_queued, true) {
                        self.ready.push_back(source);
                    }
                }
            }
            Source::Connection { index, generation } => self.notice_connection(event, index, generation),
            Source::TcpRelay { index, generation } => self.notice_tcp_relay(index, generation),
            Source::Peer { index, generation } => self.notice_peer(event, index, generation, false),
            Source::PeerClient { index, generation } => self.notice_peer(event, index, generation, true),
        }
        false
    }

    fn queue_listener(&mut self, index: usize) {
        if !std::mem::replace(&mut self.home.listeners.get_mut(index).is_queued, true) {
            self.ready.push_back(Source::Listener(index));
        }
    }

    fn queue_mailbox(&mut self) {
        if !std::mem::replace(&mut self.is_mailbox_queued, true) {
            self.ready.push_back(Source::Mailbox);
        }
    }

    /// Gives each ready socket one turn. Who has more than one batch goes to the end of the queue, so that a flood at
    /// one socket costs the others one batch of waiting.
    ///
    /// Connections are written to before they are read: what leaves acknowledges what has come, and reading that needs no
    /// segment of its own any more.
    fn serve_ready(&mut self) {
        self.serve_those(|source| !matches!(source, Source::Connection { .. }));
        self.write_connections();
        self.serve_those(|source| matches!(source, Source::Connection { .. }));
    }

    fn serve_those(&mut self, is_meant: impl Fn(Source) -> bool) {
        for _ in 0..self.ready.len() {
            let source = self.ready.pop_front().expect("as many as were counted");
            if !is_meant(source) {
                self.ready.push_back(source);
                continue;
            }
            let has_more = match source {
                Source::Mailbox => self.read_mailbox(),
                Source::Listener(index) => match self.home.listeners.get(index).kind {
                    Kind::Udp(_) => self.read_listener(index),
                    Kind::Tcp(_) => self.accept(index),
                },
                Source::Relay { index, generation } => self.read_relay(index, generation),
                Source::Connection { index, generation } => self.read_connection(index, generation),
                Source::TcpRelay { index, generation } => self.accept_peers(index, generation),
                Source::Peer { index, generation } | Source::PeerClient { index, generation } => {
                    self.serve_peer(index, generation)
                }
            };
            if has_more {
                self.ready.push_back(source);
                continue;
            }
            match source {
                Source::Mailbox => self.is_mailbox_queued = false,
                Source::Listener(index) => self.home.listeners.get_mut(index).is_queued = false,
                Source::Relay { index, generation } => {
                    if let Some(relay) = self.relays.by_token(index, generation) {
                        relay.is_queued = false;
                    }
                }
                Source::Connection { index, generation } => {
                    if let Some(connection) = self.connections.by_token(index, generation) {
                        connection.is_queued = false;
                    }
                }
                // They have seen to it themselves.
                Source::TcpRelay { .. } | Source::Peer { .. } | Source::PeerClient { .. } => {}
            }
        }
    }

    /// Does what is due by the clock.
    fn on_time(&mut self) {
        let now = clock::monotonic();
        if self.server.next_timeout().is_some_and(|due| due <= now) {
            self.clock = clock::read();
            self.server.handle_timeout(self.clock);
            self.drain_effects();
        }
        if self.collects() && self.next_collection <= now {
            self.clock = clock::read();
            self.collects_on = self.server.collect_offloaded(self.clock);
            self.next_collection = if self.collects_on { now } else { now.plus_secs(1) };
            self.drain_effects();
        }
        self.end_pauses(now);
        if self.has_clients() && self.next_sweep <= now {
            self.clock = clock::read();
            self.sweep_connections();
        }
        if self.home.recorder.next_look().is_some_and(|due| due <= now) {
            let server = &mut self.server;
            self.home.recorder.look(now, |relay| server.traffic(relay));
        }
        if self.accept_again.is_some_and(|due| due <= now) {
            self.accept_again = None;
            for index in 0..self.home.listeners.len() {
                if matches!(self.home.listeners.get(index).kind, Kind::Tcp(_)) {
                    self.queue_listener(index);
                }
            }
            self.queue_tcp_relays();
        }
    }

    /// Takes the operator's commands.
    fn obey_commands(&mut self) -> Flow {
        self.home.mailbox().open();
        while let Some(command) = self.home.mailbox().next_command() {
            self.clock = clock::read();
            match command {
                Command::Configure { config, bounds } => {
                    // Kept first: should the machine panic over it, the next one still gets it.
                    let revocation = Revocation::between(&self.home.config, &config);
                    self.home.set_bounds(config.clone(), bounds);
                    self.home.recorder.configure(bounds.recorder);
                    self.server.configure(config);
                    self.revoke(revocation);
                }
                Command::Letter { from, letter } => self.server.told(self.clock, from, letter),
                Command::KeyFound { ticket, answer } => self.server.key_found(self.clock, ticket, answer),
                Command::Restarted(shard) => self.server.shard_restarted(self.clock, shard),
                Command::Drain => {
                    self.home.is_draining = true;
                    self.server.drain();
                }
                Command::Undrain => {
                    self.home.is_draining = false;
                    self.server.undrain();
                }
                Command::Offload(mirrors) => {
                    match &mirrors {
                        Some(mirrors) => {
                            self.server.offload(mirrors.make(self.home.place.index, self.routes.proxied()));
                        }
                        None => self.server.stop_offload(),
                    }
                    self.home.set_mirrors(mirrors);
                    // Those that were bound before are mirrored by the first collection.
                    (self.collects_on, self.next_collection) = (true, self.clock.now);
                }
                Command::Ask(question) => self.hear_question(question),
                Command::ShutDown => {
                    self.server.shut_down(self.clock);
                    self.drain_effects();
                    return Flow::Stop;
                }
                Command::Adopt(accepted) => self.adopt(*accepted),
                Command::Dtls(news) => self.hear(news),
                Command::MoveIn(moving) => self.move_in(*moving),
                Command::Crash => {
                    warn!(event = "crash_requested", shard = self.home.place.index);
                    panic!("crash for a test");
                }
            }
            self.drain_effects();
        }
        Flow::GoOn
    }
}

/// How long packets gather after a round. Each write to a connection is a train of segments, which costs little more if it
/// is longer: where a thread has many of them, packets wait for each other.
fn coalesce_after(streamed: usize, [always, with_streams]: [Duration; 2]) -> Duration {
    if streamed < STREAMED_MIN { always } else { always.max(with_streams) }
}

/// When the next round may begin, if it has to wait: rounds that are rare anyway wait for nothing.
fn gather_until(coalesce: Duration, [before, last]: [Now; 2]) -> Option<Now> {
    let nanos = coalesce.as_nanos() as u64;
    (last.0 - before.0 < 2 * nanos).then(|| Now(last.0 + nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_streams_gather_where_they_are_many() {
        let (zero, some, long) = (Duration::ZERO, Duration::from_micros(250), Duration::from_micros(500));
        for (coalesce, streamed, expected) in [
            (zero, 0, zero),
            (zero, STREAMED_MIN - 1, zero),
            (zero, STREAMED_MIN, some),
            (long, STREAMED_MIN - 1, long),
            (long, STREAMED_MIN, long),
        ] {
            assert_eq!(coalesce_after(streamed, [coalesce, some]), expected, "{coalesce:?}, {streamed}");
        }
    }

    #[test]
    fn rounds_wait_where_they_are_frequent() {
        let half = Duration::from_micros(500);
        assert_eq!(gather_until(half, [Now(1_000_000), Now(1_001_000)]), Some(Now(1_501_000)));
        assert_eq!(gather_until(half, [Now(1_000_000), Now(1_999_999)]), Some(Now(2_499_999)));
        assert_eq!(gather_until(half, [Now(1_000_000), Now(2_000_000)]), None);
        assert_eq!(gather_until(Duration::ZERO, [Now(1_000_000), Now(1_000_000)]), None);
    }
}
